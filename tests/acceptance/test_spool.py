"""What had ended while luigid was away is on disk, and booked once: by the vendor's books (P3, P4)."""

from __future__ import annotations

import os
import signal
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from luigi_spendguard.http.spool import Kept, Spool, backlog
from luigi_spendguard.protocol import rpcs
from luigi_spendguard.protocol.rpcs import FinishRequest
from tests.acceptance.test_crashes import children_of
from tests.support.processes import read_until, wait_until
from tests.support.site import Site

UNHEARD = "tests.support.unheard_pipeline"


def in_mid_call(site: Site, act: Callable[[], object]) -> Callable[[], None]:
    """Do something when the vendor has a call, then let it answer; what is returned waits for that."""

    def wait() -> None:
        wait_until(lambda: bool(site.stripe.posts()), what="the call")
        act()
        site.stripe.control(options={"held": False})

    site.stripe.control(options={"held": True})
    acting = threading.Thread(target=wait)
    acting.start()
    return acting.join


def kill_luigid(site: Site) -> None:
    assert site.luigid is not None
    site.luigid.kill()


def runs(pid: int) -> bool:
    """Return whether a process has not ended, waited for or not (Linux)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def spool(site: Site) -> Path:
    return site.state_home / "luigi-spendguard" / "spool"


def waits(site: Site) -> int:
    return sum(count for count, _ in backlog(spool(site)).waiting.values())


def the_run(site: Site) -> dict[str, Any]:
    [run] = site.call("GET", "/runs", token=None)[1]
    return run


def assert_booked(site: Site, cents: int) -> None:
    """The ledger has what the vendor has moved, and nothing waits, is pending or in doubt."""
    found = site.call("GET", "/calls?limit=1000")[1]
    assert site.stripe.moved() == cents
    assert {call["state"] for call in found if call["verdict"] == "allowed"} == {"settled"}
    assert sum(float(run["spent_usd"]) for run in site.call("GET", "/runs", token=None)[1]) * 100 == cents
    assert (waits(site), backlog(spool(site)).refused) == (0, 0)


def test_an_end_that_luigid_was_away_for_longer_than_its_process_waits_is_booked(site: Site) -> None:
    """As after 40 s with the waits of every day: the task is done, its run has ended, nothing is pending."""
    (site.folder / "out" / "wait").touch()
    killed = in_mid_call(site, lambda: kill_luigid(site))
    worker = site.worker("Charge", "--customer", "cus_1", "--workers", "2")
    try:
        killed()
        read_until(worker, "is not delivered yet")
        (site.folder / "out" / "wait").unlink()
        wait_until(lambda: not any(map(runs, children_of(worker.pid))), 25, "the child's end")
        site.start()
        out, _ = worker.communicate(timeout=60)
    finally:
        worker.kill()
    assert (worker.returncode, the_run(site)["state"]) == (0, "ended"), out
    assert_booked(site, 100)


def test_an_end_that_waits_when_its_worker_is_killed_is_booked_by_the_next_one(site: Site) -> None:
    (site.folder / "out" / "wait").touch()
    killed = in_mid_call(site, lambda: kill_luigid(site))
    worker = site.worker("Charge", "--customer", "cus_1", "--workers", "1")
    killed()
    wait_until(lambda: waits(site) == 1, what="the end on disk")
    os.killpg(worker.pid, signal.SIGKILL)
    worker.communicate()
    code, said, _ = site.cli("check")
    assert f"look    spool: 1 message for {site.url} waits since " in said, said
    site.start()
    (site.folder / "out" / "wait").unlink()
    code, out = site.luigi("Charge", "--customer", "cus_2", "--workers", "1")
    assert code == 0, out
    assert "Said for a process that is gone: spend_ended of " in out
    assert_booked(site, 200)
    assert f"ok      spool: nothing waits in {spool(site)}" in site.cli("check")[1]


def test_an_end_that_is_left_to_a_worker_which_waits_for_luigid_is_on_disk_soon(site: Site) -> None:
    """Luigi's own messages are tried three times, half a minute apart; meanwhile it takes no result."""
    site.configure(core={"rpc_retry_wait": 30, "rpc_retry_attempts": 3})
    with site.stripe.holding():
        worker = site.worker("Billing", "--n", "2", "--run-id", "nightly", "--workers", "2")
        wait_until(lambda: len(site.stripe.posts()) == 2, what="both calls")
        kill_luigid(site)
    try:
        wait_until(lambda: waits(site) >= 2, 25, "their ends on disk")
    finally:
        worker.kill()
        worker.communicate()
    site.start()
    assert site.cli("deliver")[0] == 0
    assert_booked(site, 200)


def test_yesterdays_run_is_ended_before_todays_is_opened(site: Site) -> None:
    """Nobody had heard that it has ended: else today's customer would be answered what was paid yesterday."""
    code, out = site.luigi("Recurring", module=UNHEARD, UNHEARD="spend_close_run", IMPATIENT="1")
    assert (code, waits(site), the_run(site)["state"]) == (0, 1, "active"), out
    for output in (site.folder / "out").iterdir():
        output.unlink()
    code, out = site.luigi("Recurring")
    assert code == 0, out
    assert {run["state"] for run in site.call("GET", "/runs", token=None)[1]} == {"ended"}
    assert_booked(site, 200)


def test_it_is_said_where_nothing_is_left_to_pay_and_by_a_command(site: Site) -> None:
    """The root is complete, so no vendor task asks for a run before which it would be said."""
    paid = ("Billing", "--n", "1", "--run-id", "nightly", "--workers", "1")
    code, out = site.luigi(*paid, module=UNHEARD, UNHEARD="spend_settle spend_finish", IMPATIENT="1")
    assert (code, waits(site)) == (0, 2), out
    kept = {path: path.read_bytes() for path in spool(site).glob("*.jsonl")}
    code, out = site.luigi(*paid)
    assert (code, out.count("Said for a process that is gone: ")) == (0, 2), out
    assert_booked(site, 100)
    for path, content in kept.items():  # As if it had been killed before it took them out.
        path.write_bytes(content)
    assert f"2 messages for {site.url} wait since " in site.cli("check")[1]
    told = f"Told {site.url}: 2 messages.\nSpool: nothing waits in {spool(site)}.\n"
    assert site.cli("deliver") == (0, told, "")
    assert_booked(site, 100)


def test_the_command_says_what_keeps_it(site: Site) -> None:
    site.state_home.mkdir(exist_ok=True)
    living = Spool(site.url, spool(site))
    living.keep([Kept.of("it", rpcs.FINISH, FinishRequest("none", "returned"))])
    code, out, err = site.cli("deliver")
    assert code == 1  # This process lives, and has it.
    assert f"1 message for {site.url} could not be said: " in err
    kill_luigid(site)
    code, out, err = site.cli("deliver")
    assert (code, out) == (3, "")
    assert "start it, or name its address with --url" in err


def test_it_is_as_before_where_nothing_can_be_written(site: Site) -> None:
    site.state_home.touch()
    (site.folder / "out" / "wait").touch()
    killed = in_mid_call(site, lambda: kill_luigid(site))
    worker = site.worker("Charge", "--customer", "cus_1", "--workers", "1")
    try:
        killed()
        read_until(worker, "is not put on disk")
        site.start()
        (site.folder / "out" / "wait").unlink()
        out, _ = worker.communicate(timeout=60)
    finally:
        worker.kill()
    assert worker.returncode == 0, out
    assert [call["state"] for call in site.calls(the_run(site)["run_id"])] == ["settled"]
    assert site.stripe.moved() == 100
    assert "look    spool: " in site.cli("check")[1]


class Locked:
    """A ledger that somebody else has locked."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def lock(self) -> None:
        self.other = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
        self.other.execute("BEGIN IMMEDIATE")

    def free(self) -> None:
        self.other.execute("ROLLBACK")
        self.other.close()


def move_ledger(site: Site, to: Path) -> None:
    """Copy the books, and do what the command says is left to do."""
    code, said, _ = site.cli("ledger", "copy", f"sqlite:///{site.ledger}", f"sqlite:///{to}")
    left = f'1 message for {site.ledger} in {spool(site)}. Before luigid runs, write "{to}" as `to`'
    assert (code, left in said) == (0, True), said
    for path in spool(site).glob("*.jsonl"):
        path.write_text(path.read_text().replace(str(site.ledger), str(to), 1))
    site.configure(spendguard={"ledger_url": f"sqlite:///{to}"})
    site.ledger = to


@pytest.mark.parametrize("moves", [False, True], ids=["there", "where the ledger has moved to"])
def test_a_gateways_end_that_waits_when_it_is_killed_is_booked_by_the_next_one(
    tmp_path: Path, *, moves: bool
) -> None:
    with Site(tmp_path / "site", gateway=True) as site:
        locked = Locked(site.ledger)
        locking = in_mid_call(site, locked.lock)
        (site.folder / "out" / "wait").touch()
        worker = site.worker("Charge", "--customer", "cus_1", "--workers", "1")
        try:
            locking()
            wait_until(lambda: waits(site) == 1, what="the end on disk")
            kill_luigid(site)
            locked.free()
            if moves:
                move_ledger(site, site.ledger.with_name("moved.db"))
            site.start()
            wait_until(lambda: not waits(site), what="the end")
        finally:
            os.killpg(worker.pid, signal.SIGKILL)
            worker.communicate()
        [run] = site.call("GET", "/runs", token=None)[1]
        assert [call["state"] for call in site.calls(run["run_id"])] == ["settled"]
        assert_booked(site, 100)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_so_is_that_of_a_worker_with_a_local_scheduler(tmp_path: Path, workers: str) -> None:
    with Site(tmp_path / "site", start=False) as site:
        local = ("--local-scheduler", "--workers", workers)
        locked = Locked(site.ledger)
        locking = in_mid_call(site, locked.lock)
        (site.folder / "out" / "wait").touch()
        worker = site.worker("Charge", "--customer", "cus_1", *local)
        locking()
        wait_until(lambda: waits(site) == 1, what="the end on disk")
        os.killpg(worker.pid, signal.SIGKILL)
        worker.communicate()
        locked.free()
        (site.folder / "out" / "wait").unlink()
        code, out = site.luigi("Charge", "--customer", "cus_2", *local)
        assert code == 0, out
        site.start()
        assert_booked(site, 200)
