"""Two luigids before one ledger: one cap, one word of a revoke, and work that goes on when one dies."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import urllib3

from luigi_spendguard.protocol import EndRequest
from luigi_spendguard.proxy.attempts import Attempt
from tests.acceptance.test_revoke import asked, settle
from tests.support.attempts import Pretender
from tests.support.processes import wait_until
from tests.support.site import SECRET, FakeStripe, Site

CAP_MINOR = 100_00
TOKEN = "admin-token-of-both-luigids"


class Pair:
    """Two sites with one ledger and one vendor."""

    def __init__(self, folder: Path, *, gateway: bool) -> None:
        self.stripe = FakeStripe(folder / "vendor", "--latency", "0.02")
        own = {"admin_token": TOKEN}
        self.one = Site(folder / "one", stripe=self.stripe, gateway=gateway, spendguard=own)
        self.two = Site(folder / "two", stripe=self.stripe, gateway=gateway, start=False, spendguard=own)
        self.two.configure(spendguard={"ledger_url": self.one.settings["spendguard"]["ledger_url"]})
        self.two.start()
        for site in (self.one, self.two):
            site.token = lambda: TOKEN  # type: ignore[method-assign]

    def end(self) -> None:
        """End both, and the vendor."""
        self.one.end()
        self.two.end()
        self.stripe.process.end()

    def begun_anew(self) -> int:
        """Let no task be complete; return what the vendor has moved until now, in cents."""
        for site in (self.one, self.two):
            for path in (site.folder / "out").iterdir():
                path.unlink()
        return self.stripe.moved()

    def in_list(self, run_id: str) -> list[dict[str, Any]]:
        """Return a run as the Budgets tab of each lists it."""
        return [
            next(run for run in site.call("GET", "/runs")[1] if run["run_id"] == run_id)
            for site in (self.one, self.two)
        ]


@pytest.fixture(scope="module", params=[False, True], ids=["worker", "gateway"])
def pair(
    engine: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pair]:
    made = Pair(tmp_path_factory.mktemp("pair"), gateway=request.param)
    yield made
    made.end()


@pytest.fixture(autouse=True)
def at_work(pair: Pair) -> None:
    """Start again whom a test before has killed."""
    for site in (pair.one, pair.two):
        if site.luigid is None or site.luigid.popen.poll() is not None:
            site.start()


@pytest.mark.figures
def test_workers_of_both_spend_exactly_the_cap(pair: Pair, repeats: int) -> None:
    for turn in range(max(1, repeats // 3)):
        before, run_id = pair.stripe.moved(), f"both-{turn}"
        workers = []
        for site in (pair.one, pair.two):
            (site.folder / "out" / f"go-{run_id}").touch()
            for half in "ab":
                names = ",".join(f"{site.folder.name}{half}{n}" for n in range(4))
                workers.append(site.worker("Race", "--names", names, "--run-id", run_id, "--workers", "4"))
        for worker in workers:
            out, _ = worker.communicate(timeout=120)
            assert worker.returncode == 0, out
        assert pair.stripe.moved() - before == CAP_MINOR
        for run in pair.in_list(run_id):
            assert (run["spent_usd"], run["reserved_usd"], run["overrun_usd"]) == ("100.00", "0.00", "0.00")


@pytest.mark.figures
def test_when_a_revoke_at_one_has_answered_the_other_sends_nothing(pair: Pair, repeats: int) -> None:
    for turn in range(max(1, repeats // 3)):
        before, run_id = pair.stripe.moved(), f"stop-{turn}"
        worker = pair.one.worker("ManyThreads", "--run-id", run_id)
        wait_until(lambda before=before: pair.stripe.moved() >= before + 300, what="some calls")
        status, said = pair.two.call("DELETE", f"/runs/{run_id}")
        sent = len(pair.stripe.posts())
        assert (status, said["state"]) == (200, "revoked")
        worker.communicate(timeout=60)
        assert len(pair.stripe.posts()) == sent
        assert [run["state"] for run in pair.in_list(run_id)] == ["revoked", "revoked"]


@pytest.mark.parametrize("pair", [False], indirect=True, ids=["worker"])
def test_a_revoke_at_one_waits_for_what_the_other_has_let_send(pair: Pair) -> None:
    pretender = Pretender(pair.two, "waits")
    attempt, ask = pretender.claimed(), asked()
    assert attempt.client.reserve(attempt.key, ask).verdict == "allowed"
    said: list[dict[str, Any]] = []
    revoking = threading.Thread(target=lambda: said.append(pair.one.call("DELETE", "/runs/waits")[1]))
    revoking.start()
    wait_until(lambda: pair.two.run("waits")["state"] == "revoked", what="the revoke")
    assert attempt.client.reserve(attempt.key, asked()).reason == "revoked"
    assert not said, "it answered while a grant of the other's could still be used"
    settle(attempt, ask)
    revoking.join(20)
    assert said[0]["calls_under_way"] == 1


def test_a_top_up_at_one_frees_what_waits_at_the_other(pair: Pair) -> None:
    pair.one.configure(spendguard={"on_blocked": "wait"})
    before = pair.stripe.moved()
    worker = pair.one.worker("Billing", "--n", "3", "--budget-usd", "2", "--run-id", "r")
    wait_until(lambda: pair.stripe.moved() == before + 200, what="the cap")
    wait_until(lambda: pair.two.run("r")["remaining_usd"] == "0.00", what="the other's books")
    assert pair.two.call("POST", "/runs/r/top_up", {"usd": "1"})[0] == 200
    begun = time.monotonic()
    wait_until(lambda: pair.stripe.moved() == before + 300, what="the third")
    assert time.monotonic() - begun < 20
    out, _ = worker.communicate(timeout=60)
    assert "This progress looks :)" in out
    pair.one.configure(spendguard={"on_blocked": None})


def test_work_goes_on_at_the_other_when_a_host_dies(pair: Pair) -> None:
    """What its tasks had at the vendor is in doubt at the other, whose attempts take over and pay once."""
    before = pair.begun_anew()
    run = ("Billing", "--n", "4", "--run-id", "dies", "--workers", "2")
    with pair.stripe.holding():
        sent = len(pair.stripe.posts())
        worker = pair.one.worker(*run)
        wait_until(lambda: len(pair.stripe.posts()) >= sent + 2, what="calls under way")
        assert pair.one.luigid is not None
        pair.one.luigid.kill()
        os.killpg(worker.pid, signal.SIGKILL)
        worker.communicate(timeout=60)
        with pair.two.books(writes=True) as books:  # Else the vendor's time-out would be waited for.
            books.run("UPDATE call SET granted_at = granted_at - 100000 WHERE run_id = 'dies'")
        wait_until(
            lambda: [call["state"] for call in pair.two.calls("dies")] == ["in_doubt"] * 2, what="the doubt"
        )
    code, out = pair.two.luigi(*run)
    assert (code, pair.stripe.moved() - before) == (0, 400), out
    assert "This progress looks :)" in out
    assert [call["state"] for call in pair.two.calls("dies")] == ["settled"] * 4
    with pair.two.books() as books:
        claims = books.all(
            "SELECT outcome FROM claim WHERE run_id = 'dies' AND task_id <> '' ORDER BY claimed_at"
        )
    assert sorted(claim["outcome"] for claim in claims) == ["completed"] * 4 + ["superseded"] * 2


@pytest.mark.parametrize("pair", [False], indirect=True, ids=["worker"])
def test_what_completes_at_one_is_not_paid_again_by_a_root_that_had_begun_at_the_other(pair: Pair) -> None:
    before, out = pair.stripe.moved(), pair.one.folder / "out"
    (out / "wait").touch()
    first = pair.one.worker("Overlapping", "--name", "one", "--workers", "2")
    wait_until(lambda: pair.stripe.moved() == before + 100, what="the charge")
    second = pair.two.worker("Overlapping", "--name", "two", OUT_DIR=str(out))
    wait_until((out / "busy-two").exists, what="the second root")
    (out / "wait").unlink()
    until_completed(pair, "Charge_100_cus_shared")
    for name, worker in (("two", second), ("one", first)):
        (out / f"go-{name}").touch()
        said, _ = worker.communicate(timeout=60)
        assert "This progress looks :)" in said
    assert pair.stripe.moved() == before + 100


def until_completed(pair: Pair, task: str) -> None:
    def is_complete() -> bool:
        with pair.one.books() as tx:
            return bool(tx.value("SELECT count(*) FROM completion WHERE task_id LIKE ?", f"{task}%"))

    wait_until(is_complete, what="the charging task's end")


@pytest.mark.parametrize("pair", [False], indirect=True, ids=["worker"])
@pytest.mark.parametrize("at", [(), ("--local-scheduler",)], ids=["other", "local"])
def test_nor_by_one_whose_worker_was_looking_what_is_complete(pair: Pair, at: tuple[str, ...]) -> None:
    """Its run is opened later, when it has looked at all that its first vendor task stands beside."""
    before, out, customer = pair.begun_anew(), pair.one.folder / "out", f"cus_looked_at_{len(at)}"
    (out / "wait").touch()
    first = pair.one.worker("Looking", "--name", "one", "--customer", customer)
    wait_until(lambda: pair.stripe.moved() == before + 100, what="the charge")
    two = ("--name", "two", "--customer", customer, *at)
    second = pair.two.worker("Looking", *two, OUT_DIR=str(out))
    wait_until((out / "looking").exists, what="the second root")
    (out / "wait").unlink()
    until_completed(pair, f"Charge_100_{customer}")
    (out / "go-two").touch()
    for worker in (second, first):
        said, _ = worker.communicate(timeout=60)
        assert "This progress looks :)" in said
    assert pair.stripe.moved() == before + 100


def charge(pair: Pair, wire_key: str) -> None:
    """Send what a grant lets send."""
    form = {"amount": "100", "currency": "usd", "confirm": "true", "payment_method": "pm_card_visa"}
    own = {"Authorization": f"Bearer {SECRET}", "Idempotency-Key": wire_key}
    url = f"{pair.stripe.url}/v1/payment_intents"
    with urllib3.PoolManager(timeout=30, retries=False) as http:
        reply = http.request("POST", url, fields=form, headers=own, encode_multipart=False)
    assert reply.status == 200, reply.data


@pytest.mark.parametrize("pair", [False], indirect=True, ids=["worker"])
def test_of_two_that_ask_at_once_at_both_one_pays_while_the_day_has_room(pair: Pair) -> None:
    """Tasks of two runs, with the same idempotency keys: the day has room for five of twelve."""
    before, runs = pair.stripe.moved(), pair.one.call("GET", "/runs")[1]
    counted = sum(float(run["spent_usd"]) + float(run["reserved_usd"]) for run in runs)
    for site in (pair.one, pair.two):
        site.restart(spendguard={"daily_cap_usd": int(counted) + 5})
    attempts = [
        Pretender(site, f"{site.folder.name}s day", f"Charge_day_{site.folder.name}").claimed()
        for site in (pair.one, pair.two)
    ]
    begins = threading.Barrier(len(attempts))
    said: dict[str, list[str]] = defaultdict(list)

    def pay(attempt: Attempt) -> None:
        for number in range(12):
            ask = replace(asked(), key=f"day-{number}", key_is_callers=True)
            begins.wait(20)
            answer = attempt.client.reserve(attempt.key, ask)
            said[ask.key or ""].append(answer.verdict)
            if answer.verdict == "allowed":
                charge(pair, answer.wire_key)
            begins.wait(20)  # Until then it is under way.
            if answer.verdict == "allowed":
                end = EndRequest("settle", ask.call_id, total_micros=1_000_000, status=200, answer_body="{}")
                attempt.client.end(attempt.key, end)

    payers = [threading.Thread(target=pay, args=(attempt,)) for attempt in attempts]
    for payer in payers:
        payer.start()
    for payer in payers:
        payer.join(60)
    assert [sorted(verdicts) for verdicts in said.values()] == (
        [["allowed", "wait"]] * 5 + [["denied", "denied"]] * 7
    )
    assert pair.stripe.moved() - before == 500
    for site in (pair.one, pair.two):
        site.restart(spendguard={"daily_cap_usd": None})


def test_it_does_so_at_once(pair: Pair) -> None:
    """What was at the vendor is not paid again, and what was in doubt is settled by the next attempt."""
    for site in (pair.one, pair.two):  # Whose sender is gone is known after the vendor's time-out.
        site.restart(spendguard_stripe={"timeout_s": 2}, core={"rpc_retry_wait": 1, "rpc_retry_attempts": 1})
    moved = pair.begun_anew()
    submit = ("Billing", "--n", "4", "--run-id", "soon", "--workers", "2")
    with pair.stripe.holding():
        sent = len(pair.stripe.posts())
        # Its tasks have nobody to tell how their calls end, and give that up at last.
        worker = pair.one.worker(*submit, IMPATIENT="1")
        wait_until(lambda: len(pair.stripe.posts()) >= sent + 2, what="calls under way")
        before = {request["body"] for request in pair.stripe.posts()[sent:]}
        assert pair.one.luigid is not None
        pair.one.luigid.kill()
        killed = time.monotonic()
        other = pair.two.worker(*submit)
        wait_until(
            lambda: {request["body"] for request in pair.stripe.posts()[sent:]} > before, what="other calls"
        )
        print(f"work went on {time.monotonic() - killed:.2f} s after the kill")  # Shown by `pytest -s`.
        worker.kill()
        worker.communicate(timeout=60)
    out, _ = other.communicate(timeout=60)
    for _ in range(20):
        if "This progress looks :)" in out:
            break
        pair.two.wait_for_retries()
        time.sleep(0.5)  # Luigi lets what a killed worker had be tried again a while later.
        out = pair.two.luigi(*submit)[1]
    assert "This progress looks :)" in out, out
    assert (pair.stripe.moved() - moved, pair.two.run("soon")["spent_usd"]) == (400, "4.00")
