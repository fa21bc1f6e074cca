"""A call that was not made, and is made again: that is decided behind its end, late as it may be booked."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import stripe

from luigi_spendguard import SpendDenied, backoff, proxy, spend_proxy
from luigi_spendguard.errors import LedgerUnavailable
from luigi_spendguard.http import ledger_client
from luigi_spendguard.http.outbox import Outbox
from luigi_spendguard.http.rpc_connections import RpcConnections
from luigi_spendguard.http.shared import CallsUnderWay
from luigi_spendguard.ledger.database import LOCK_SECONDS
from luigi_spendguard.proxy import attempts
from luigi_spendguard.proxy.gateway_client import Forwarder
from tests.support.attempts import Pretender
from tests.support.pipelines import charge
from tests.support.processes import other_process, spawned_process, wait_until
from tests.support.site import SECRET, Site


@pytest.fixture(autouse=True)
def _by_no_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that this process could not say is said later, but for a reason."""
    monkeypatch.setattr(backoff, "LATER", (600.0, 600.0))
    monkeypatch.setattr(stripe, "max_network_retries", 0)


def pay(source: str = "tok_visa") -> None:
    stripe.Charge.create(amount=100, currency="usd", customer="cus_1", source=source)


def test_a_declined_call_that_a_gateways_locked_ledger_has_not_heard_of(tmp_path: Path) -> None:
    """Its second try is the same call: a third one, of another attempt, is answered with that."""
    with Site(tmp_path, gateway=True) as site:
        pretender = Pretender(site, "nightly")
        other = sqlite3.connect(site.ledger, isolation_level=None, check_same_thread=False)
        free = threading.Timer(LOCK_SECONDS + 1, lambda: other.execute("ROLLBACK"))

        def lock() -> None:
            wait_until(lambda: bool(site.stripe.posts()), what="the call")
            other.execute("BEGIN IMMEDIATE")
            free.start()
            site.stripe.control(options={"held": False})

        with pretender.attempt():
            site.stripe.control(options={"held": True})
            locking = threading.Thread(target=lock)
            locking.start()
            with pytest.raises(stripe.CardError):
                pay("tok_chargeDeclined")
            locking.join()
            pay()
        free.join()
        with pretender.attempt():
            pay()
        other.close()
        assert site.stripe.moved() == 100


@contextmanager
def killed_in_mid_call(site: Site, then: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Kill luigid when the vendor has the call that the block makes; `then` let the vendor answer."""

    def kill() -> None:
        wait_until(lambda: bool(site.stripe.posts()), what="the call")
        assert site.luigid is not None
        site.luigid.kill()
        then()
        site.stripe.control(options={"held": False})

    site.stripe.control(options={"held": True})
    killing = threading.Thread(target=kill)
    killing.start()
    yield
    killing.join()


def test_a_lost_call_that_a_killed_luigid_has_not_heard_of(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretender = Pretender(site, "nightly")
    with pretender.attempt():
        site.stripe.fault("drop_after")
        with monkeypatch.context() as patched:
            soon = partial(patched.setattr, ledger_client, "GIVE_UP_S", 0.5)
            with killed_in_mid_call(site, soon), pytest.raises(stripe.APIConnectionError):
                charge("cus_1")
            with pytest.raises(SpendDenied, match=r"not delivered yet: .*cannot be reached"):
                charge("cus_1")
        site.start()
        charge("cus_1")
    assert site.stripe.moved() == 100
    assert [call["state"] for call in site.calls("nightly") if call["target"]] == ["settled"]


def test_a_lost_call_that_a_spawned_process_makes_again_before_its_end_is_heard(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process knows nothing of what the other one owes to the ledger."""
    pretender = Pretender(site, "nightly")
    tell, deaf = Outbox.tell, [True]

    def told(outbox: Outbox, what: str, say: Callable[[], object], *kept: Any) -> None:
        def unheard() -> object:
            if deaf:
                raise LedgerUnavailable("it is away")
            return say()

        tell(outbox, what, unheard, *kept)

    monkeypatch.setattr(Outbox, "tell", told)
    monkeypatch.setattr(backoff, "LATER", (0.05, 0.05))
    with pretender.attempt(), spawned_process(partial(charge, "cus_1")) as make_it_again:
        site.stripe.fault("drop_after")
        with pytest.raises(stripe.APIConnectionError):
            charge("cus_1")
        threading.Timer(0.5, deaf.clear).start()
        make_it_again()
        assert site.stripe.moved() == 100
        assert charge("cus_1").status == "succeeded", "another one"
    assert site.stripe.moved() == 200
    assert [call["state"] for call in site.calls("nightly") if call["target"]] == ["settled"] * 2


@pytest.mark.parametrize("process", [other_process, spawned_process])
def test_a_call_that_a_killed_gateway_did_not_answer_and_another_process_makes_again(
    tmp_path: Path, process: Callable[..., AbstractContextManager[Callable[[], None]]]
) -> None:
    with Site(tmp_path, gateway=True, spendguard_stripe={"timeout_s": 1}) as site:
        pretender = Pretender(site, "nightly")
        with pretender.attempt(), process(partial(charge, "cus_1")) as make_it_again:
            with killed_in_mid_call(site), pytest.raises(stripe.APIConnectionError):
                charge("cus_1")
            site.start()
            make_it_again()
        assert site.stripe.moved() == 100


@pytest.mark.parametrize("start", ["fork", "spawn"])
@pytest.mark.parametrize("gateway", [False, True], ids=["worker", "gateway"])
def test_a_call_of_a_pools_process_that_was_killed_and_the_task_makes_again(
    tmp_path: Path, gateway: bool, start: str
) -> None:
    with Site(tmp_path, gateway=gateway, spendguard_stripe={"timeout_s": 5}) as site:
        pretender = Pretender(site, "nightly")
        with pretender.attempt() as attempt, attempt.client.gathering():
            charge("cus_0")
            site.stripe.control(options={"held": True})
            process: Any = multiprocessing.get_context(start)
            child = process.Process(target=charge, args=("cus_1",))
            child.start()
            wait_until(lambda: len(site.stripe.posts()) == 2, what="the call")
            child.kill()
            child.join()
            site.stripe.control(options={"held": False})
            wait_until(lambda: site.stripe.moved() == 200, what="the charge")
            assert charge("cus_1").status == "succeeded"
            assert charge("cus_1").status == "succeeded", "another one"
        assert site.stripe.moved() == 300
        assert {call["state"] for call in site.calls("nightly") if call["verdict"] == "allowed"} == {
            "settled"
        }


def test_an_sdks_own_retry_of_a_repeated_call_is_that_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answers to the call and to its repetition are lost: the SDK says that one again, under its key."""
    sent, lost = Forwarder._sent, [True, True, False, False]

    def losing(*args: Any) -> Any:
        reply = sent(*args)
        if lost.pop(0):
            raise ConnectionResetError("reset")
        return reply

    with Site(tmp_path, gateway=True) as site:
        pretender = Pretender(site, "nightly")
        with pretender.attempt() as attempt, attempt.client.gathering():
            monkeypatch.setattr(Forwarder, "_sent", losing)
            with pytest.raises(stripe.APIConnectionError):
                charge("cus_1")
            monkeypatch.setattr(stripe, "max_network_retries", 1)
            assert charge("cus_1").status == "succeeded"
            assert site.stripe.moved() == 100
            assert charge("cus_1").status == "succeeded", "another one"
            assert site.stripe.moved() == 200
        assert lost == []


def charge_and_be_killed(gateway: bool) -> None:
    """Be killed when the ledger has heard how the call ended, and before its caller has."""

    def die(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    if gateway:
        sent = Forwarder._sent
        Forwarder._sent = lambda *args: die(sent(*args))
    else:
        CallsUnderWay.end = die
    charge("cus_1")


@pytest.mark.parametrize("start", ["fork", "spawn"])
@pytest.mark.parametrize("gateway", [False, True], ids=["worker", "gateway"])
def test_a_call_that_was_booked_when_its_process_was_killed_before_it_heard_so(
    tmp_path: Path, gateway: bool, start: str
) -> None:
    with Site(tmp_path, gateway=gateway) as site:
        pretender = Pretender(site, "nightly")
        with pretender.attempt() as attempt, attempt.client.gathering():
            process: Any = multiprocessing.get_context(start)
            child = process.Process(target=charge_and_be_killed, args=(gateway,))
            child.start()
            child.join()
            assert child.exitcode == -signal.SIGKILL
            assert [call["state"] for call in site.calls("nightly")] == ["settled"]
            assert charge("cus_1").status == "succeeded"
            assert site.stripe.moved() == 100
            assert charge("cus_1").status == "succeeded", "another one"
        assert site.stripe.moved() == 200


def ask_and_be_killed() -> None:
    """Be killed when the ledger has answered, and before anybody has heard that."""

    def die(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    ledger_client.read_answer = die
    charge("cus_1")


@pytest.mark.parametrize("start", ["fork", "spawn"])
@pytest.mark.parametrize("paid_before", [False, True], ids=["granted", "replayed"])
def test_a_call_whose_process_was_killed_before_it_heard_the_answer(
    tmp_path: Path, paid_before: bool, start: str
) -> None:
    """It holds no place among equal calls: the task makes it again, and another one is another."""
    with Site(tmp_path) as site:
        pretender = Pretender(site, "nightly")
        if paid_before:
            with pretender.attempt() as attempt, attempt.client.gathering():
                charge("cus_1")
        with pretender.attempt() as attempt, attempt.client.gathering():
            process: Any = multiprocessing.get_context(start)
            child = process.Process(target=ask_and_be_killed)
            child.start()
            child.join()
            assert child.exitcode == -signal.SIGKILL
            assert charge("cus_1").status == "succeeded"
            assert site.stripe.moved() == 100
            assert charge("cus_1").status == "succeeded", "another one"
        assert site.stripe.moved() == 200
        assert {call["state"] for call in site.calls("nightly")} <= {"settled", "voided", None}


def ask_in_vain(told: Any) -> None:
    """Be the one process that luigid does not answer, and is not reached by after that; and live on."""
    post, sent = RpcConnections.post, []

    def losing(*args: Any) -> Any:
        if not sent:
            sent.append(post(*args))
        raise ConnectionResetError("lost")

    RpcConnections.post, ledger_client.GIVE_UP_S = losing, 0.3
    with suppress(SpendDenied):
        charge("cus_1")
    told.send(len(sent))
    signal.pause()


def test_a_call_that_a_process_was_denied_which_cannot_say_so(tmp_path: Path) -> None:
    """Its task makes it itself: that was replayed to it, and holds no place among equal calls."""
    with Site(tmp_path) as site:
        pretender = Pretender(site, "nightly")
        with pretender.attempt() as attempt, attempt.client.gathering():
            charge("cus_1")
        with pretender.attempt() as attempt, attempt.client.gathering():
            told, telling = multiprocessing.Pipe()
            child = multiprocessing.get_context("fork").Process(target=ask_in_vain, args=(telling,))
            child.start()
            assert told.poll(30)
            assert told.recv() == 1
            assert charge("cus_1").status == "succeeded"
            assert site.stripe.moved() == 100
            assert charge("cus_1").status == "succeeded", "another one"
            child.kill()
            child.join()
        assert site.stripe.moved() == 200


@pytest.mark.parametrize("gateway", [False, True], ids=["worker", "gateway"])
def test_a_call_whose_process_was_killed_while_it_read_what_an_operator_had_named(
    tmp_path: Path, gateway: bool
) -> None:
    with Site(tmp_path, gateway=gateway) as site:
        pretender = Pretender(site, "nightly")
        with pretender.attempt() as attempt, attempt.client.gathering():
            site.stripe.fault("drop_after", match="POST /v1/payment_intents")
            with pytest.raises(stripe.APIConnectionError):
                charge("cus_1")
        [lost], [moved] = site.calls("nightly"), site.stripe.books()["moved"]
        assert site.cli("resolve", lost["id"], "--spent", "1", "--object", moved["object"])[0] == 0
        with pretender.attempt() as attempt, attempt.client.gathering():
            site.stripe.control(options={"held": True})
            child = multiprocessing.get_context("fork").Process(target=charge, args=("cus_1",))
            child.start()
            wait_until(lambda: site.stripe.books()["requests"][-1]["method"] == "GET", what="the look")
            child.kill()
            child.join()
            site.stripe.control(options={"held": False})
            assert charge("cus_1").id == moved["object"]
            assert site.stripe.moved() == 100
            assert charge("cus_1").status == "succeeded", "another one"
        assert site.stripe.moved() == 200


_PROGRAM = """
import luigi_spendguard
luigi_spendguard.install()
import stripe
from tests.support.pipelines import charge
stripe.max_network_retries = 0
charge("cus_1")
"""


@pytest.mark.parametrize(
    ("gateway", "by"),
    [(True, nullcontext), (True, spend_proxy), (False, spend_proxy)],
    ids=["gateway", "gateway-proxy", "worker-proxy"],
)
def test_a_call_of_a_program_that_was_killed_and_is_started_again(
    tmp_path: Path, gateway: bool, by: Callable[[], AbstractContextManager[object]]
) -> None:
    with Site(tmp_path, gateway=gateway, spendguard_stripe={"timeout_s": 5}) as site:
        pretender = Pretender(site, "nightly")
        line = [sys.executable, "-c", _PROGRAM]
        with pretender.attempt(), by():
            environ = {**site.environment(), attempts.MARK: os.environ[attempts.MARK]}
            site.stripe.control(options={"held": True})
            program = subprocess.Popen(line, env=environ)
            wait_until(lambda: bool(site.stripe.posts()), what="the call")
            program.kill()
            program.wait()
            site.stripe.control(options={"held": False})
            wait_until(lambda: site.stripe.moved() == 100, what="the charge")
            wait_until(lambda: not [c for c in site.calls("nightly") if c["state"] == "pending"])
            subprocess.run(line, env=environ, check=True)
            assert site.stripe.moved() == 100
            subprocess.run(line, env=environ, check=True)
            assert site.stripe.moved() == 200, "another one"


_KILLED = """
import os
import signal
from luigi_spendguard.http.shared import CallsUnderWay
CallsUnderWay.end = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_call_that_was_booked_when_the_program_was_killed_that_guards_it_itself(site: Site) -> None:
    """It has the secret from a luigi.cfg of its own."""
    own = site.folder / "own.cfg"
    own.write_text(site.config.read_text().replace("${STRIPE_SECRET_KEY}", SECRET))
    pretender = Pretender(site, "nightly")
    attempt = pretender.claimed()
    with attempt.client.gathering(), proxy.attempt_running(attempt):
        mark = {attempts.MARK: os.environ[attempts.MARK], "LUIGI_CONFIG_PATH": str(own)}
        environ = site.environment(STRIPE_SECRET_KEY="", **mark)
        killed = subprocess.run([sys.executable, "-c", _KILLED + _PROGRAM], env=environ, check=False)
        assert killed.returncode == -signal.SIGKILL
        assert [call["state"] for call in site.calls("nightly")] == ["settled"]
        subprocess.run([sys.executable, "-c", _PROGRAM], env=environ, check=True)
        assert site.stripe.moved() == 100
        charge("cus_1")
    assert site.stripe.moved() == 200, "another one"
