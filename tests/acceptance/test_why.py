"""Saying why tasks are blocked: summary, exit code, Luigi's page and RPCs, events; and going on at once."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import subprocess
import time

import pytest

from tests.acceptance.test_shapes import SHAPES
from tests.support.pipelines import Charge
from tests.support.processes import wait_until
from tests.support.site import Site

PAUSED = "No more was handed out: luigid is paused. Unpause it on its page, then submit the same root again."
FORGOTTEN = "No more was handed out: luigid does not know"


def test_the_exit_code_is_spend_blocked(site: Site) -> None:
    site.configure(retcode={"spend_blocked": 42, "not_run": 25, "task_failed": 30})
    assert site.luigi("List", "--n", "3", "--budget-usd", "2", module=SHAPES)[0] == 42
    assert site.luigi("List", "--n", "1", "--first", "9", module=SHAPES)[0] == 0
    given = ("--budget-usd", "2", "--retcode-spend-blocked", "7")
    code, out = site.luigi("List", "--n", "3", "--first", "5", *given, module=SHAPES)
    assert code == 7, out  # The root was not run because of them: that is no other reason.


def test_a_failed_task_keeps_the_higher_code(site: Site) -> None:
    site.configure(retcode={"spend_blocked": 20, "task_failed": 30})
    (site.folder / "out" / "die").touch()
    assert site.luigi("Billing", "--n", "3", "--budget-usd", "2")[0] == 30


def test_without_blocked_tasks_luigis_own_codes_are_its_own(site: Site) -> None:
    site.configure(retcode={"spend_blocked": 42, "task_failed": 30})
    (site.folder / "out" / "die").touch()
    assert site.luigi("Charge", "--customer", "c")[0] == 30


def test_what_a_dead_worker_has_is_a_success_unless_retcode_says_otherwise(site: Site) -> None:
    task = Charge(customer="of the dead")
    told = {"task_id": task.task_id, "family": "Charge", "params": task.to_str_params(), "worker": "dead"}
    site.rpc("add_task", **told)
    assert site.rpc("get_work", worker="dead")["task_id"] == task.task_id
    for name, code in (("spend_blocked", 0), ("already_running", 46), ("not_run", 44)):
        site.settings.pop("retcode", None)
        site.configure(retcode={name: code or 45})
        ended, out = site.luigi("Charge", "--customer", "of the dead")
        assert ended == code, out
        assert "looks :)" in out
        assert "were being run by another worker" in out
    assert site.stripe.moved() == 0


def test_luigis_page_and_fetch_error_show_the_reason(site: Site) -> None:
    site.luigi("List", "--n", "3", "--budget-usd", "2", "--run-id", "r", module=SHAPES)
    listed = site.rpc("task_list", status="PENDING", upstream_status="UPSTREAM_DISABLED")
    reasons = {name: task["status_message"] for name, task in listed.items() if task["name"] == "Declared"}
    assert list(reasons.values()) == ["Blocked: cap of $2.00 reached, $2.00 spent (run r)"]
    (task_id,) = reasons
    said = site.rpc("fetch_error", task_id=task_id)
    assert json.loads(said["error"]).startswith(
        "Blocked: cap of $2.00 reached, $2.00 spent (run r): `spendguard"
    )
    site.call("POST", "/runs/r/top_up", {"usd": "5"})
    assert site.rpc("task_list", status="PENDING", upstream_status="UPSTREAM_DISABLED") == {}
    assert site.rpc("fetch_error", task_id=task_id)["error"] is None


def test_a_blocked_task_does_not_run_in_luigis_history(site: Site) -> None:
    history = site.folder / "history.db"
    site.restart(
        scheduler={"record_task_history": "true"}, task_history={"db_connection": f"sqlite:///{history}"}
    )
    site.luigi("Charge", "--customer", "c", "--amount", "20000")
    with contextlib.closing(sqlite3.connect(history)) as books:
        events = [name for (name,) in books.execute("SELECT event_name FROM task_events ORDER BY id")]
    assert events == ["PENDING", "RUNNING", "PENDING"]


def test_events_can_be_handled(site: Site) -> None:
    site.luigi("Billing", "--n", "4", "--budget-usd", "2", "--workers", "2", module=SHAPES)
    site.luigi("List", "--n", "5", "--first", "4", "--budget-usd", "2", "--workers", "2", module=SHAPES)
    events = (site.folder / "out" / "events").read_text().splitlines()
    blocked = [event for event in events if event.startswith("task_blocked Declared")]
    assert len(blocked) == 3
    assert all("cap of $2.00" in event for event in blocked)
    assert len([event for event in events if event.startswith("cap_reached List")]) == 1


def test_a_waiting_worker_goes_on_at_once(site: Site) -> None:
    site.configure(spendguard={"on_blocked": "wait"}, worker={"wait_interval": 30, "wait_jitter": 0})
    worker = site.worker("List", "--n", "3", "--budget-usd", "2", "--run-id", "r", module=SHAPES)
    wait_until(lambda: site.stripe.moved() == 200, what="the cap")
    site.until_answered("spend_blocked")
    assert worker.poll() is None
    begun = time.monotonic()
    site.call("POST", "/runs/r/top_up", {"usd": "1"})
    wait_until(lambda: site.stripe.moved() == 300, what="the third")
    assert time.monotonic() - begun < 20
    out, _ = worker.communicate(timeout=60)
    assert "This progress looks :)" in out


@pytest.mark.parametrize("on_blocked", ["exit", "wait"])
def test_a_worker_of_a_paused_luigid_ends_as_luigis_own_does(site: Site, on_blocked: str) -> None:
    site.configure(spendguard={"on_blocked": on_blocked})
    site.rpc("pause")
    code, out = site.luigi("List", "--n", "2", "--run-id", "r", module=SHAPES)
    assert (code, site.stripe.moved()) == (0, 0)
    assert "not granted run permission" in out
    assert f"\n{PAUSED}\n" in out
    site.rpc("unpause")
    assert site.luigi("List", "--n", "2", "--run-id", "r", module=SHAPES)[0] == 0
    assert site.stripe.moved() == 200


def test_a_waiting_worker_whose_luigid_is_paused_says_so_when_it_is_topped_up(site: Site) -> None:
    worker = waiting(site)
    site.rpc("pause")
    site.call("POST", "/runs/r/top_up", {"usd": "1"})
    out, _ = worker.communicate(timeout=60)
    assert (out.count(PAUSED), site.stripe.moved()) == (1, 200), out
    site.rpc("unpause")
    site.luigi("List", "--n", "3", "--budget-usd", "2", "--run-id", "r", module=SHAPES)
    assert site.stripe.moved() == 300


def test_a_waiting_worker_whose_luigid_has_forgotten_it_says_so(site: Site) -> None:
    worker = waiting(site)
    assert site.luigid is not None
    site.luigid.kill()
    (site.folder / "state").unlink(missing_ok=True)
    site.start()
    out, _ = worker.communicate(timeout=120)
    assert out.count(f"{FORGOTTEN} 2 of the tasks that were left") == 1, out
    assert "Submit the same root again" in out
    worker = waiting(site)
    site.call("POST", "/runs/r/top_up", {"usd": "1"})
    out, _ = worker.communicate(timeout=60)
    assert "This progress looks :)" in out
    assert (site.stripe.moved(), FORGOTTEN in out) == (300, False)


def waiting(site: Site) -> subprocess.Popen[str]:
    """Return a worker that waits for a third dollar."""
    site.configure(spendguard={"on_blocked": "wait"})
    log = site.folder / "luigid.log"
    worker = site.worker("List", "--n", "3", "--budget-usd", "2", "--run-id", "r", module=SHAPES)
    before = log.read_text().count("spend_blocked")
    wait_until(lambda: site.stripe.moved() == 200, what="the cap")
    wait_until(lambda: log.read_text().count("spend_blocked") > before, what="its first question")
    return worker


@pytest.mark.parametrize("left_by", ["forgotten", "paused"])
def test_the_exit_code_of_vendor_tasks_that_luigid_left_is_spend_blocked(site: Site, left_by: str) -> None:
    """Nothing is wrong with money, but somebody who looks at the code alone thinks that all were paid."""
    site.configure(retcode={"spend_blocked": 45, "not_run": 25})
    worker = waiting(site)
    if left_by == "forgotten":
        assert site.luigid is not None
        site.luigid.kill()
        (site.folder / "state").unlink(missing_ok=True)
        site.start()
    else:
        site.rpc("pause")
        site.call("POST", "/runs/r/top_up", {"usd": "1"})
    out, _ = worker.communicate(timeout=120)
    assert (worker.returncode, site.stripe.moved()) == (45, 200), out
    assert (FORGOTTEN if left_by == "forgotten" else PAUSED) in out


def test_plain_tasks_that_a_paused_luigid_left_have_luigis_own_code(site: Site) -> None:
    site.configure(retcode={"spend_blocked": 45, "not_run": 25})
    site.rpc("pause")
    assert site.luigi("Plain", module=SHAPES)[0] == 25


def test_an_assistant_takes_up_what_another_worker_left_blocked(site: Site) -> None:
    site.luigi("List", "--n", "3", "--budget-usd", "2", "--run-id", "r", module=SHAPES)
    site.configure(worker={"keep_alive": "true"})
    assistant = site.worker("--assistant", "Plain", module=SHAPES)
    try:
        site.until_answered("get_work", 2)
        assert site.stripe.moved() == 200
        site.call("POST", "/runs/r/top_up", {"usd": "1"})
        wait_until(lambda: site.stripe.moved() == 300, what="the third")
    finally:
        assistant.kill()
        assistant.communicate()


class TestShadow:
    @pytest.fixture
    def site(self, unstarted: Site) -> Site:
        return unstarted

    def test_what_a_cap_would_have_denied_is_recorded_and_let_through(self, site: Site) -> None:
        site.restart(spendguard={"mode": "shadow"})
        code, out = site.luigi("Billing", "--n", "7", "--budget-usd", "3", "--run-id", "r", "--workers", "2")
        assert (code, site.stripe.moved()) == (0, 700), out
        assert "a cap of $7.00 would have sufficed; it has $3.00" in out
        run = site.run("r")
        assert (run["cap_usd"], run["spent_usd"], run["remaining_usd"]) == ("3.00", "7.00", "0.00")
        assert (run["shadow_calls"], run["sufficient_cap_usd"]) == (4, "7.00")
        let = site.call("GET", "/calls?run=r&verdict=allowed:cap", token=None)[1]
        assert len(let) == 4
        assert "let through in shadow mode" in let[0]["message"]

    def test_a_run_that_has_ended_with_its_root_says_so_too(self, site: Site) -> None:
        site.restart(spendguard={"mode": "shadow"})
        for number in (1, 2):
            _, out = site.luigi("Billing", "--n", "7", "--budget-usd", "3", "--first", "0")
            (run,) = [one for one in site.call("GET", "/runs")[1] if one["state"] == "ended"][:1]
            assert f"* run {run['run_id']}: a cap of $7.00 would have sufficed; it has $3.00" in out
            for receipt in (site.folder / "out").iterdir():
                receipt.unlink()
            assert site.stripe.moved() == 700 * number

    def test_the_cap_that_was_short_is_the_one_that_is_said(self, site: Site) -> None:
        site.restart(spendguard={"mode": "shadow"}, spendguard_family_caps={"Charge": 2})
        _, out = site.luigi("Billing", "--n", "3", "--run-id", "r")
        assert "* run r: a cap of $3.00 for Charge would have sufficed; it has $2.00" in out
        assert "it has $100.00" not in out
        _, out = site.luigi("Billing", "--n", "1", "--first", "9", "--run-id", "r2")
        assert "* run r2: its caps sufficed" in out

    def test_a_task_above_the_threshold_is_held_whether_it_declares_that_or_not(self, site: Site) -> None:
        site.restart(spendguard={"mode": "shadow", "approve_above_usd": 2})
        args = ("Charge", "--customer", "c", "--amount", "300", "--workers", "1")
        for _ in range(2):
            _, out = site.luigi(*args)
            assert "a single task may cost $2.00 without an approval, this one may cost $3.00" in out
            assert site.stripe.posts() == []
            assert site.luigid is not None
            site.luigid.kill()
            site.start()
        run_id = site.call("GET", "/runs", token=None)[1][0]["run_id"]
        calls = site.calls(run_id)
        assert [call["verdict"] for call in calls] == ["denied:cap"], "it is dispatched once to be denied"
        body = {"usd": "3", "task_id": calls[0]["task_id"]}
        assert site.call("POST", f"/runs/{run_id}/approve", body)[0] == 200
        site.luigi(*args)
        assert site.stripe.moved() == 300

    def test_nothing_else_is_let_through(self, site: Site) -> None:
        site.restart(spendguard={"mode": "shadow"})
        site.luigi("Billing", "--n", "2", "--run-id", "r")
        site.call("DELETE", "/runs/r")
        site.luigi("Billing", "--n", "2", "--first", "5", "--run-id", "r")
        assert site.stripe.moved() == 200

    def test_switched_back_the_cap_is_enforced_at_once(self, site: Site) -> None:
        for mode in ("shadow", "enforce"):
            site.restart(spendguard={"mode": mode})
            site.luigi(
                "Billing", "--n", "4" if mode == "shadow" else "9", "--budget-usd", "3", "--run-id", "r"
            )
        assert site.stripe.moved() == 400
        site.call("POST", "/runs/r/top_up", {"usd": "2"})
        site.luigi("Billing", "--n", "9", "--run-id", "r")
        assert site.stripe.moved() == 500
