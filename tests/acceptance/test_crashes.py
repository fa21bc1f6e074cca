"""kill -9 of a worker's child and of luigid: nothing is lost, nothing is charged twice (P2, P3, P10)."""

from __future__ import annotations

import os
import signal
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.processes import wait_until
from tests.support.programs import lacking
from tests.support.site import Site


@pytest.mark.both_engines
def test_a_child_killed_between_send_and_settle_is_in_doubt_then_ended_by_the_vendors_replay(
    site: Site,
) -> None:
    """The vendor has the money, the child dies before the reply: counted, shown, and charged once."""
    with site.stripe.holding():
        worker = site.worker("Charge", "--customer", "cus_k", "--workers", "2")
        wait_until(lambda: bool(site.stripe.posts()), what="sending")
        [child] = children_of(worker.pid)
        kill(child)
        out, _ = worker.communicate(timeout=60)
    [run] = site.call("GET", "/runs", token=None)[1]
    assert (run["spent_usd"], run["reserved_usd"], run["in_doubt_usd"]) == ("0.00", "1.00", "1.00"), out
    code, table, _ = site.cli("runs")
    assert code == 0
    assert "in doubt" in table
    assert "$1.00" in table
    wait_until(lambda: site.stripe.moved() == 100, what="executing the killed child's call")
    code, out = site.luigi("Charge", "--customer", "cus_k", "--workers", "2")
    assert (code, site.stripe.moved()) == (0, 100), out
    run = site.run(run["run_id"])
    assert (run["spent_usd"], run["reserved_usd"], run["in_doubt_usd"]) == ("1.00", "0.00", "0.00")
    assert len({request["key"] for request in site.stripe.posts()}) == 1
    assert any(r["key"] and n for n, r in enumerate(site.stripe.posts()))  # It was sent again.


def test_a_child_killed_after_it_was_settled_is_replayed_from_the_ledger(site: Site) -> None:
    (site.folder / "out" / "kill-cus_k").touch()
    site.luigi("Charge", "--customer", "cus_k", "--workers", "2")
    site.stripe.control(options={"idempotency": "ignore"})
    code, out = site.luigi("Charge", "--customer", "cus_k", "--workers", "2")
    assert (code, site.stripe.moved()) == (0, 100), out
    assert len(site.stripe.posts()) == 1


@pytest.mark.both_engines
def test_a_whole_worker_killed_leaves_nothing_pending_for_ever(tmp_path) -> None:
    with Site(tmp_path / "site", spendguard_stripe={"timeout_s": 1}) as site:
        with site.stripe.holding():
            worker = site.worker("Charge", "--customer", "cus_k", "--workers", "1")
            wait_until(lambda: bool(site.stripe.posts()), what="sending")
            worker.kill()
            worker.communicate()
        run_id = site.call("GET", "/runs", token=None)[1][0]["run_id"]
        assert site.run(run_id)["reserved_usd"] == "1.00"
        wait_until(lambda: site.run(run_id)["in_doubt_usd"] == "1.00", what="the sweep")


def test_so_does_one_with_a_local_scheduler_once_another_is_started(tmp_path) -> None:
    """No luigid looks after the file: the next worker does."""
    with Site(tmp_path / "site", start=False, spendguard_stripe={"timeout_s": 1}) as site:
        with site.stripe.holding():
            worker = site.worker("Charge", "--customer", "cus_k", "--workers", "1", "--local-scheduler")
            wait_until(lambda: bool(site.stripe.posts()), what="sending")
            worker.kill()
            worker.communicate()
        with site.books(writes=True) as books:
            books.run("UPDATE call SET granted_at = granted_at - 60000")
        code, out = site.luigi("Charge", "--customer", "cus_other", "--workers", "1", "--local-scheduler")
        assert code == 0, out
        with site.books() as books:
            states = {row["target"]: row["state"] for row in books.all("SELECT target, state FROM call")}
        assert states == {"cus_k": "in_doubt", "cus_other": "settled"}


@pytest.mark.both_engines
def test_luigid_killed_in_mid_run_loses_nothing_and_the_pipeline_ends_after_a_restart(site: Site) -> None:
    site.stripe.control(options={"latency": 0.05})
    worker = site.worker(
        "Billing", "--n", "60", "--budget-usd", "40", "--workers", "4", "--run-id", "nightly"
    )
    try:
        wait_until(lambda: site.stripe.moved() >= 500, what="charging")
        assert site.luigid is not None
        site.luigid.kill()
        time.sleep(1.5)  # Its workers get to calls that it does not answer.
        site.start()
        out, _ = worker.communicate(timeout=120)
    finally:
        worker.kill()
    moved = site.stripe.moved()
    assert moved <= 4000
    submit = ("Billing", "--n", "60", "--budget-usd", "40", "--workers", "4", "--run-id", "nightly")
    code, again = site.luigi(*submit)
    run = site.run("nightly")
    assert code == 0, again
    assert site.stripe.moved() == 4000, (out, again)
    assert (run["spent_usd"], run["reserved_usd"], run["cap_usd"]) == ("40.00", "0.00", "40.00")
    customers = [entry["customer"] for entry in site.stripe.books()["moved"]]
    assert len(set(customers)) == len(customers) == 40


def test_a_task_that_repeats_what_a_killed_gateway_did_not_answer_pays_once(tmp_path: Path) -> None:
    with Site(tmp_path / "site", gateway=True, spendguard_stripe={"timeout_s": 4}) as site:
        site.stripe.control(options={"latency": 1})
        worker = site.worker("Stubborn")
        try:
            wait_until(lambda: bool(site.stripe.posts()), what="sending")
            assert site.luigid is not None
            site.luigid.kill()
            site.start()
            out, _ = worker.communicate(timeout=120)
        finally:
            worker.kill()
        assert (worker.returncode, site.stripe.moved()) == (0, 100), out
        assert len({request["key"] for request in site.stripe.posts()}) == 1
        [run] = site.call("GET", "/runs", token=None)[1]
        assert (run["spent_usd"], run["reserved_usd"]) == ("1.00", "0.00")


def test_losing_luigis_pickle_loses_no_money_record(site: Site) -> None:
    submit = ("Billing", "--n", "8", "--budget-usd", "5", "--workers", "2", "--run-id", "nightly")
    site.luigi(*submit)
    assert site.luigid is not None
    site.luigid.end()
    (site.folder / "state").unlink()
    site.start()
    assert site.run("nightly")["spent_usd"] == "5.00"
    site.luigi(*submit)
    assert site.stripe.moved() == 500


def test_after_a_restart_the_gate_knows_who_has_paid(site: Site) -> None:
    """At the cap, only a task that has paid already is dispatched: its repeated call costs nothing."""
    submit = ("Billing", "--n", "2", "--budget-usd", "2", "--run-id", "nightly")
    (site.folder / "out" / "die").touch()
    site.luigi(*submit)
    assert site.run("nightly")["remaining_usd"] == "0.00"
    assert site.luigid is not None
    site.luigid.kill()
    (site.folder / "out" / "die").unlink()
    site.start()
    _, out = site.luigi(*submit)
    assert "This progress looks :)" in out
    assert site.stripe.moved() == 200


def test_what_a_child_has_left_is_said_by_a_worker_that_cannot_report_its_task(site: Site) -> None:
    site.configure(core={"rpc_retry_wait": 1, "rpc_retry_attempts": 1})
    (site.folder / "out" / "wait").touch()
    worker = site.worker("Billing", "--n", "2", "--workers", "3", "--run-id", "nightly", UNHURRIED="1")
    try:
        wait_until(lambda: site.stripe.moved() == 200, what="charging")
        assert site.luigid is not None
        site.luigid.kill()
        (site.folder / "out" / "wait").unlink()
        assert worker.stdout is not None
        assert any("is not delivered yet" in line for line in worker.stdout), "it has nothing to say"
        site.start()
        worker.communicate(timeout=60)
    finally:
        worker.kill()
    assert [call["state"] for call in site.calls("nightly")] == ["settled", "settled"]
    assert site.stripe.moved() == 200


@pytest.mark.both_engines
def test_every_amount_of_the_journal_adds_up_after_a_crash(site: Site) -> None:
    """What the budgets say is what the journal's entries add up to, also after kill -9."""
    site.configure(core={"rpc_retry_wait": 1, "rpc_retry_attempts": 2})  # Nobody waits for luigid to be back.
    worker = site.worker("Billing", "--n", "40", "--workers", "4", "--run-id", "nightly")
    try:
        wait_until(lambda: site.stripe.moved() >= 500, what="charging")
        assert site.luigid is not None
        site.luigid.kill()
    finally:
        os.killpg(worker.pid, signal.SIGKILL)  # Its tasks, too: they would wait for luigid.
    worker.communicate()
    with site.books() as books:
        figures = books.one(
            "SELECT cap_micros, spent_micros, reserved_micros FROM budget WHERE scope = 'run'"
        )
        sums = books.one(
            "SELECT sum(cap_micros) AS cap_micros, sum(spent_micros) AS spent_micros,"
            " sum(reserved_micros) AS reserved_micros FROM journal WHERE run_id = 'nightly'"
        )
    assert figures is not None
    assert sums == figures
    counted = figures["spent_micros"] + figures["reserved_micros"]
    assert site.stripe.moved() * 10_000 <= counted <= figures["cap_micros"]


def children_of(pid: int) -> list[int]:
    """Return the child processes of a process (Linux)."""
    try:
        with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
            return [int(child) for child in file.read().split()]
    except OSError:
        lacking("needs /proc")


def kill(pid: int) -> None:
    """kill -9."""
    import os

    os.kill(pid, signal.SIGKILL)


@pytest.mark.of_files
@pytest.mark.parametrize("replaced", [False, True], ids=["deleted", "replaced"])
def test_a_ledger_that_is_gone_grants_nothing_until_it_is_back(site: Site, replaced: bool) -> None:
    args = ("Billing", "--budget-usd", "12", "--run-id", "r", "--n")
    assert site.luigi(*args, "10")[0] == 0
    aside = site.ledger.with_name("aside")
    if replaced:
        with closing(sqlite3.connect(site.ledger)) as before, closing(sqlite3.connect(aside)) as copy:
            before.backup(copy)
        aside.replace(site.ledger)
    else:
        site.ledger.rename(aside)
    out = site.luigi(*args, "14")[1]
    assert site.stripe.moved() == 1000, "nothing would remember it"
    assert "was deleted, replaced or cut off" in out
    assert site.luigid is not None
    site.luigid.end()
    if not replaced:
        aside.rename(site.ledger)
    site.start()
    site.luigi(*args, "14")
    assert site.stripe.moved() == 1200
