"""kill -9 at each step of a call's life, and what the next attempt does, by the vendors' books.

docs/crashes.md has these as a table.
"""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.processes import wait_until
from tests.support.site import Site
from tests.support.vendors import FakeTwilio

MODULE = "tests.support.dying_pipeline"
PRICES = {"sms_prices": "1: 0.01", "sms_fees": "1: 0", "failed_price": 0}
HOUR = 3_600_000


@pytest.fixture
def paying(tmp_path: Path) -> Iterator[Site]:
    gone = {"worker_disconnect_delay": 2, "prune_on_get_work": "true"}
    with Site(tmp_path / "site", spendguard_stripe={"timeout_s": 1}, scheduler=gone) as site:
        yield site


@pytest.fixture
def relayed(tmp_path: Path) -> Iterator[Site]:
    with Site(tmp_path / "site", gateway=True, spendguard_stripe={"timeout_s": 1}) as site:
        yield site


@pytest.fixture
def twilio(tmp_path: Path) -> Iterator[FakeTwilio]:
    vendor = FakeTwilio(tmp_path / "twilio")
    vendor.control(options={"sms_price": {"1": "0.01"}, "price_delay": 0, "send_delay": 0})
    yield vendor
    vendor.process.end()


def texting(folder: Path, twilio: FakeTwilio, gateway: bool = False) -> Site:
    return Site(folder / "site", twilio=twilio, gateway=gateway, spendguard_twilio={"timeout_s": 3, **PRICES})


def submit(site: Site, task: str, workers: int) -> tuple[bool, str]:
    """Run the task; return whether it has completed. Ends are said with what is said next alone."""

    def run() -> str:
        return site.luigi(task, "--workers", str(workers), module=MODULE, UNHURRIED="1")[1]

    out = run()
    # Until luigid takes the killed worker for gone, and then lets its task be tried again.
    while "being run by another worker" in out or "not granted run permission" in out:
        out = run()
    return "This progress looks :)" in out, out


def states(site: Site) -> list[str]:
    """Return how the run's calls stand that are not denied, replayed or only read."""
    if not any(run["run_id"] == "r" for run in site.call("GET", "/runs", token=None)[1]):
        return []
    calls = [call for call in site.calls("r") if call["verdict"] == "allowed" and call["method"] == "POST"]
    return [call["state"] for call in calls]


def crash(site: Site, task: str, point: str, workers: int, state: list[str]) -> None:
    """Let the process that makes the call be killed; where that is a worker itself, nobody says so."""
    (site.folder / "out" / f"die-{point}").touch()
    submit(site, task, workers)
    assert not (site.folder / "out" / f"die-{point}").exists(), "it was not killed there"
    wait_until(lambda: states(site) == state, what=f"a call that is {state}")


#: Point, workers (1: the task runs in the worker's own process), the call then, what was charged, and how
#: often it has been sent when the next attempt has ended.
CHARGES = [
    ("before_reserve", 2, [], 0, 1),
    ("before_reserve", 1, [], 0, 1),
    ("before_send", 2, ["in_doubt"], 0, 1),
    ("before_send", 1, ["in_doubt"], 0, 1),
    ("before_settle", 2, ["in_doubt"], 100, 2),
    ("before_settle", 1, ["in_doubt"], 100, 2),
    ("after_settle", 2, ["settled"], 100, 1),
    ("after_settle", 1, ["in_doubt"], 100, 2),
]


@pytest.mark.parametrize(("point", "workers", "state", "charged", "sent"), CHARGES)
def test_a_charge_is_made_once_wherever_its_process_is_killed(
    paying: Site, point: str, workers: int, state: list[str], charged: int, sent: int
) -> None:
    crash(paying, "Dying", point, workers, state)
    assert paying.stripe.moved() == charged
    done, out = submit(paying, "Dying", workers)
    assert (done, paying.stripe.moved(), states(paying)) == (True, 100, ["settled"]), out
    posts = paying.stripe.posts()
    assert (len(posts), len({request["key"] for request in posts})) == (sent, 1)


@pytest.mark.parametrize(("workers", "state"), [(2, "settled"), (1, "in_doubt")])
def test_a_task_that_is_complete_when_it_is_killed_asks_for_nothing_more(
    paying: Site, workers: int, state: str
) -> None:
    """What its worker had still to say is in doubt then, and stays so until an operator resolves it."""
    crash(paying, "Dying", "before_finish", workers, [state])
    done, out = submit(paying, "Dying", workers)
    assert (done, len(paying.stripe.posts()), states(paying)) == (True, 1, [state]), out
    if state == "in_doubt":
        [call] = paying.calls("r")
        assert paying.call("POST", f"/calls/{call['id']}/resolve", {"spent_usd": "1"})[0] == 200
    run = paying.run("r")
    assert (run["spent_usd"], run["reserved_usd"], paying.stripe.moved()) == ("1.00", "0.00", 100)


@pytest.mark.both_engines
def test_a_gateway_ends_the_call_of_a_task_that_was_killed(relayed: Site) -> None:
    crash(relayed, "Dying", "answered", 2, ["settled"])
    done, out = submit(relayed, "Dying", 2)
    assert (done, relayed.stripe.moved(), len(relayed.stripe.posts())) == (True, 100, 1), out


@pytest.mark.parametrize(
    ("point", "state", "sent"),
    [("before_reserve", [], 0), ("before_settle", ["in_doubt"], 1), ("after_settle", ["settled"], 1)],
)
def test_a_text_is_sent_once_wherever_its_process_is_killed(
    tmp_path: Path, twilio: FakeTwilio, point: str, state: list[str], sent: int
) -> None:
    """Twilio has no idempotency keys: what was sent is found there."""
    with texting(tmp_path, twilio) as site:
        crash(site, "DyingText", point, 2, state)
        assert len(twilio.sent()) == sent
        done, out = submit(site, "DyingText", 2)
        assert (done, len(twilio.sent()), states(site)) == (True, 1, ["settled"]), out


def test_a_text_that_was_not_sent_is_sent_when_an_operator_says_so(
    tmp_path: Path, twilio: FakeTwilio
) -> None:
    """That the list does not show it is no proof: nothing is sent until somebody has looked."""
    with texting(tmp_path, twilio) as site:
        crash(site, "DyingText", "before_send", 2, ["in_doubt"])
        done, out = submit(site, "DyingText", 2)
        assert (done, twilio.sent(), states(site)) == (False, [], ["in_doubt"]), out
        [call] = [call for call in site.calls("r") if call["state"] == "in_doubt"]
        assert site.call("POST", f"/calls/{call['id']}/resolve", {"not_sent": True})[0] == 200
        done, out = submit(site, "DyingText", 2)
        assert (done, len(twilio.sent()), site.run("r")["reserved_usd"]) == (True, 1, "0.00"), out


def test_a_text_under_way_at_a_gateway_that_is_killed_is_found(tmp_path: Path, twilio: FakeTwilio) -> None:
    twilio.control(options={"latency": 1})
    with texting(tmp_path, twilio, gateway=True) as site:
        worker = site.worker("DyingText", "--workers", "2", module=MODULE)
        wait_until(lambda: bool(twilio.posts()), what="the text")
        assert site.luigid is not None
        site.luigid.kill()
        site.start()
        worker.communicate(timeout=120)
        wait_until(lambda: states(site)[:1] != ["pending"], what="the sweep")
        done, out = submit(site, "DyingText", 2)
        assert (done, len(twilio.sent()), states(site)) == (True, 1, ["settled"]), out


@pytest.mark.parametrize(
    ("back_ms", "sent"), [(HOUR // 2, 2), (2 * HOUR, 1), (-22 * HOUR, 2), (-24 * HOUR, 1)]
)
def test_a_clock_that_is_set_charges_nobody_twice(paying: Site, back_ms: int, sent: int) -> None:
    """Of what may be older than Stripe's memory of keys nobody knows how old it is: an operator looks."""
    crash(paying, "Dying", "before_settle", 2, ["in_doubt"])
    assert paying.luigid is not None
    paying.luigid.end()
    with paying.books(writes=True) as books:
        for column in ("created_at", "granted_at"):
            books.run(f"UPDATE call SET {column} = {column} + ?", back_ms)
    paying.start()
    done, out = submit(paying, "Dying", 2)
    assert (len(paying.stripe.posts()), paying.stripe.moved()) == (sent, 100), out
    assert (done, states(paying)) == (sent == 2, ["settled" if sent == 2 else "in_doubt"]), out


@pytest.mark.of_files
def test_a_disk_that_is_full_at_the_settle_loses_no_end(paying: Site) -> None:
    """The vendor has answered: the task gets that, and its worker says it until luigid can write again."""
    with paying.stripe.holding():
        worker = paying.worker("Dying", "--workers", "2", module=MODULE)
        wait_until(lambda: bool(paying.stripe.posts()), what="the charge")
        assert paying.luigid is not None
        pid, wal = paying.luigid.popen.pid, paying.ledger.with_name(f"{paying.ledger.name}-wal")
        size, before = wal.stat().st_size, resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, before[1]))
    assert worker.stdout is not None
    assert any("is not delivered yet" in line for line in worker.stdout), "nothing was full"
    assert states(paying) == ["pending"]
    resource.prlimit(pid, resource.RLIMIT_FSIZE, before)
    worker.communicate(timeout=120)
    wait_until(lambda: states(paying) == ["settled"], what="the end")
    assert (paying.stripe.moved(), len(paying.stripe.posts())) == (100, 1)


def test_a_child_whose_worker_is_killed_says_itself_how_its_call_ended(paying: Site) -> None:
    with paying.stripe.holding():
        worker = paying.worker("Dying", "--workers", "2", module=MODULE, UNHURRIED="1")
        wait_until(lambda: bool(paying.stripe.posts()), what="the charge")
        worker.kill()
        worker.wait()
    worker.communicate(timeout=60)  # Until the child has ended, too.
    assert states(paying) == ["settled"]
    done, out = submit(paying, "Dying", 2)
    assert (done, paying.stripe.moved(), len(paying.stripe.posts())) == (True, 100, 1), out
