"""The life of one call without I/O: what the guard asks for, and what it makes of the answers."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import unquote

import pytest

from luigi_spendguard import redaction
from luigi_spendguard.config import VendorSettings
from luigi_spendguard.errors import BudgetExceeded, LedgerUnavailable, OutcomeUnknown, SpendDenied
from luigi_spendguard.guard import LATE_LIMIT, Call, Guard, lookups
from luigi_spendguard.guard.effects import Finish, Late, Life, NotSent, Pause, Reserve, Send
from luigi_spendguard.protocol import ReserveReply, ReserveRequest
from luigi_spendguard.vendors import Quote, Reply, Request
from luigi_spendguard.vendors.stripe import API_BASE, Stripe

SECRET = "sk_test_canary_secret"
KEY = "vault_key_" + "k" * 43
INTENT = {
    "id": "pi_1",
    "object": "payment_intent",
    "amount": 100,
    "amount_received": 100,
    "amount_capturable": 0,
    "currency": "usd",
    "status": "succeeded",
}


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def guard(clock: Clock) -> Guard:
    return Guard(Stripe(), VendorSettings("stripe"), SECRET, {}, clock)


@pytest.fixture
def learnt() -> Iterator[None]:
    before = list(redaction._values)
    redaction.learn(SECRET)
    yield
    redaction.forget()
    redaction.learn(*before)


def charge(body: bytes = b"amount=100&currency=usd&customer=cus_1&confirm=true", **headers: str) -> Request:
    form = {"content-type": "application/x-www-form-urlencoded", **headers}
    return Request("POST", f"{API_BASE}/v1/payment_intents", form, body)


def reply(status: int = 200, body: Any = None, **headers: str) -> Reply:
    content = body if isinstance(body, bytes) else json.dumps(INTENT if body is None else body).encode()
    return Reply(status, headers, content)


def granted(reserve: Reserve, **more: Any) -> ReserveReply:
    return ReserveReply("allowed", reserve.ask.call_id, reserve.ask.ask, wire_key="wire-1", **more)


def step(life: Any, expected: type, value: Any = None) -> Any:
    """Answer the last effect and return the next one, which must be of the expected kind."""
    effect = life.throw(value) if isinstance(value, BaseException) else life.send(value)
    assert isinstance(effect, expected), effect
    return effect


def sent(guard: Guard, call: Call | None = None, request: Request | None = None, **more: Any) -> Any:
    """Bring a call as far as its send; return its life and the `Send`."""
    life = guard.guarded(request or charge(), call or Call())
    return life, step(life, Send, granted(step(life, Reserve), **more))


def outcome(life: Any, value: Any = None) -> Any:
    """Answer the last effect; return what the life ends with, a reply or an exception."""
    try:
        effect = life.throw(value) if isinstance(value, BaseException) else life.send(value)
    except StopIteration as stop:
        return stop.value
    except BaseException as error:
        return error
    raise AssertionError(effect)


def test_a_call_is_reserved_sent_and_settled_at_what_the_reply_says(guard: Guard) -> None:
    call = Call()
    life = guard.guarded(charge(), call)
    reserve = step(life, Reserve)
    assert (reserve.ask.total_micros, reserve.ask.currency, reserve.ask.target) == (1_000_000, "usd", "cus_1")
    send = step(life, Send, granted(reserve))
    assert send.request.headers["authorization"] == f"Bearer {SECRET}"
    assert send.request.headers["idempotency-key"] == "wire-1"
    end = step(life, Finish, reply()).end
    assert (end.kind, end.total_micros, end.object_id, end.status) == ("settle", 1_000_000, "pi_1", 200)
    assert outcome(life) == reply()


def test_the_grant_is_old_two_seconds_after_it_was_asked_for(guard: Guard, clock: Clock) -> None:
    life = guard.guarded(charge(), Call())
    reserve = step(life, Reserve)
    clock.now += 1.5  # The answer took its time: the grant is that much older.
    assert step(life, Send, granted(reserve)).deadline == 1002.0


def test_a_late_grant_is_asked_for_again_and_given_up_at_last(guard: Guard) -> None:
    call = Call()
    life, _ = sent(guard, call)
    for number in range(2, LATE_LIMIT + 1):
        end = step(life, Finish, Late()).end
        assert (end.kind, end.call_id, end.ask) == ("void", call.call_id, number - 1)
        reserve = step(life, Reserve)
        assert (reserve.ask.ask, reserve.ask.call_id) == (number, call.call_id)
        step(life, Send, granted(reserve))
    assert step(life, Finish, Late()).end.kind == "void"
    denied = outcome(life)
    assert isinstance(denied, SpendDenied)
    assert denied.reason == "ledger_unavailable"


def test_a_call_that_was_not_sent_is_voided(guard: Guard) -> None:
    call = Call()
    life, _ = sent(guard, call)
    assert step(life, Finish, NotSent("refused")).end.kind == "void"
    assert isinstance(outcome(life), NotSent)
    assert not call.unsure


def test_a_call_in_doubt_that_cannot_be_sent_again_is_not_said_to_be_unsent(guard: Guard) -> None:
    call = Call()
    life, _ = sent(guard, call)
    step(life, Finish, TimeoutError())
    outcome(life)
    again, _ = sent(guard, call)
    assert step(again, Finish, NotSent("refused")).end.kind == "void", "the ledger knows of the first send"
    error = outcome(again)
    assert isinstance(error, OutcomeUnknown)
    assert error.again
    assert "was sent before" in str(error)


@pytest.mark.parametrize(
    "broken", [TimeoutError(), ConnectionResetError(), KeyboardInterrupt(), SystemExit()]
)
def test_whatever_breaks_the_exchange_leaves_the_call_in_doubt(guard: Guard, broken: BaseException) -> None:
    call = Call()
    life, _ = sent(guard, call)
    assert step(life, Finish, broken).end.kind == "doubt"
    assert outcome(life) is broken
    assert call.unsure
    assert step(guard.guarded(charge(), call), Reserve).ask.unsure


@pytest.mark.parametrize(
    ("status", "kind", "definite"),
    [
        (402, "void", True),
        (400, "void", False),
        (429, "void", False),
        (409, "doubt", False),
        (500, "doubt", False),
        (503, "doubt", False),
    ],
)
def test_an_error_of_the_vendor_ends_the_call(guard: Guard, status: int, kind: str, definite: bool) -> None:
    call = Call()
    life, _ = sent(guard, call)
    end = step(life, Finish, reply(status, {"error": {}})).end
    assert (end.kind, end.definite) == (kind, definite)
    assert outcome(life).status == status
    assert call.unsure == (kind == "doubt")


@pytest.mark.parametrize(
    "body",
    [
        b"not json",
        b'{"id": "pi_1", "amou',
        b"[]",
        {**INTENT, "amount": 99, "amount_received": 99},
        {**INTENT, "currency": "eur"},
        {**INTENT, "object": "charge"},
    ],
)
def test_a_reply_that_cannot_be_believed_is_in_doubt_and_said(guard: Guard, body: Any) -> None:
    life, _ = sent(guard)
    assert step(life, Finish, reply(200, body)).end.kind == "doubt"
    error = outcome(life)
    assert isinstance(error, OutcomeUnknown)
    assert f"spendguard resolve {error.call_id}" in str(error)


@pytest.mark.parametrize(
    ("described", "headers"),
    [
        (SECRET, {}),
        ("", {"x-debug": f"Bearer {SECRET}"}),
        ("", {"request-id": SECRET}),
        *((base64.b64encode(f"{user}:{SECRET}".encode()).decode(), {}) for user in ("AC", "AC1", "AC12")),
    ],
)
def test_a_reply_with_the_secret_in_it_is_withheld_and_not_kept(
    guard: Guard, described: str, headers: dict[str, str]
) -> None:
    life, _ = sent(guard)
    end = step(
        life, Finish, Reply(200, headers, json.dumps({**INTENT, "description": described}).encode())
    ).end
    assert end.answer_headers == {}
    assert (end.kind, end.answer_body) == ("settle", "")
    error = outcome(life)
    assert isinstance(error, SpendDenied)
    assert error.reason == "endpoint"
    assert SECRET not in str(error)


class Broken(Stripe):
    """An adapter with a mistake in it."""

    def __init__(self, where: str) -> None:
        self.where = where

    def quote(self, *args: Any) -> Any:
        return 1 / 0 if self.where == "quote" else super().quote(*args)

    def outcome(self, *args: Any, **kwargs: Any) -> Any:
        return 1 / 0 if self.where == "outcome" else super().outcome(*args, **kwargs)


def test_an_adapter_that_fails_before_the_send_has_not_priced_the_call(clock: Clock) -> None:
    life = Guard(Broken("quote"), VendorSettings("stripe"), SECRET, {}, clock).guarded(charge(), Call())
    assert step(life, Reserve).ask.denied == "unpriced"
    assert isinstance(outcome(life, ReserveReply("denied", "c", reason="unpriced")), SpendDenied)


def test_an_adapter_that_fails_after_the_send_leaves_the_call_in_doubt(clock: Clock) -> None:
    life, _ = sent(Guard(Broken("outcome"), VendorSettings("stripe"), SECRET, {}, clock))
    assert step(life, Finish, reply()).end.kind == "doubt"
    assert isinstance(outcome(life), OutcomeUnknown)


class Alarm(Exception):
    """What a task's own signal handler raises."""


@pytest.mark.parametrize("raised", [Alarm, KeyboardInterrupt, AttributeError])
def test_whatever_interrupts_the_reading_of_a_reply_leaves_the_call_in_doubt(
    clock: Clock, raised: type[BaseException]
) -> None:
    """It is made again then, and known."""

    class Interrupted(Stripe):
        def undo(self, *args: Any) -> Request | None:
            raise raised

    call = Call()
    life, _ = sent(Guard(Interrupted(), VendorSettings("stripe"), SECRET, {}, clock), call)
    end = step(life, Finish, reply()).end
    assert (end.kind, end.note, call.unsure) == ("doubt", f"its reply was not read: {raised.__name__}", True)
    assert isinstance(outcome(life), raised)


def test_a_reply_whose_id_is_the_secret_leaves_it_in_no_ledger(guard: Guard) -> None:
    life, _ = sent(guard)
    end = step(life, Finish, reply(body={**INTENT, "id": f"pi_{SECRET}"})).end
    assert SECRET not in str(end.to_json())
    assert (end.kind, end.total_micros) == ("settle", 1_000_000)


def test_a_replay_sends_nothing(guard: Guard) -> None:
    life = guard.guarded(charge(), Call())
    step(life, Reserve)
    answer = ReserveReply("replayed", "c", status=200, answer_body='{"id": "pi_0"}', first_at=1)
    headers = {"x-spendguard-replayed": "1"}
    assert outcome(life, answer) == Reply(200, headers, b'{"id": "pi_0"}')


def test_an_equal_pending_call_is_waited_for_ever_longer_up_to_a_second(guard: Guard) -> None:
    call = Call()
    life = guard.guarded(charge(), call)
    step(life, Reserve)
    pauses = []
    for asked in range(2, 9):
        pauses.append(step(life, Pause, ReserveReply("wait", call.call_id)).seconds)
        assert step(life, Reserve).ask.ask == asked
    assert pauses == [0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0]


def test_a_call_that_was_given_up_while_it_waited_is_not_made(guard: Guard) -> None:
    call = Call()
    life = guard.guarded(charge(), call)
    step(life, Reserve)
    step(life, Pause, ReserveReply("wait", call.call_id))
    call.given_up = True
    with pytest.raises(SpendDenied, match="given up and made again"):
        next(life)


def test_waiting_long_for_an_equal_call_is_said_once(
    guard: Guard, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    call = Call()
    life = guard.guarded(charge(), call)
    step(life, Reserve)
    for _ in range(5):
        step(life, Pause, ReserveReply("wait", call.call_id, message="first-call"))
        clock.now += 2
        step(life, Reserve)
    (said,) = [one.getMessage() for one in caplog.records]
    assert said.startswith("Waiting for call first-call, which is this very call and has not ended")


def test_a_taken_over_call_is_sent_with_its_own_body_and_ended_under_its_own_id(guard: Guard) -> None:
    life = guard.guarded(charge(b"amount=100&currency=usd&customer=cus_1&metadata[at]=now"), Call())
    step(life, Reserve)
    send = step(
        life,
        Send,
        ReserveReply(
            "allowed",
            "first-call",
            3,
            wire_key="first-key",
            resend=True,
            body="amount=100&currency=usd&customer=cus_1",
        ),
    )
    assert send.request.body == b"amount=100&currency=usd&customer=cus_1"
    assert send.request.headers["idempotency-key"] == "first-key"
    end = step(life, Finish, reply()).end
    assert (end.call_id, end.ask) == ("first-call", 3)


def test_without_a_ledger_the_call_is_denied_and_its_request_voided(guard: Guard) -> None:
    call = Call()
    life = guard.guarded(charge(), call)
    step(life, Reserve)
    end = step(life, Finish, LedgerUnavailable("luigid is away")).end
    assert (end.kind, end.call_id) == ("void", call.call_id)
    error = outcome(life)
    assert isinstance(error, SpendDenied)
    assert (error.reason, "nothing was sent" in error.message) == ("ledger_unavailable", True)
    assert "earlier try" not in error.message


def test_what_an_operator_has_named_and_cannot_be_read_is_let_go(guard: Guard) -> None:
    """Made again, it would be another call beside one that has had its answer."""
    call = Call()
    life = guard.guarded(charge(), call)
    asked = step(life, Reserve).ask
    answer = ReserveReply("replayed", asked.call_id, asked.ask, object_id="pi_0", message="c", first_at=1)
    assert step(life, Reserve, answer).ask.read
    assert step(life, Finish, LedgerUnavailable("luigid is away")).end.call_id != call.call_id
    end = step(life, Finish).end
    assert (end.kind, end.call_id, end.ask) == ("void", call.call_id, asked.ask)
    assert isinstance(outcome(life), SpendDenied)


def test_where_it_was_sent_before_that_is_said_as_well(guard: Guard) -> None:
    life = guard.guarded(charge(), Call(unsure=True))
    step(life, Reserve)
    step(life, Finish, LedgerUnavailable("luigid is away"))
    error = outcome(life)
    assert isinstance(error, SpendDenied)
    assert (
        "nothing was sent now: luigid is away. An earlier try of this call may have been sent"
        in error.message
    )


def test_an_interrupted_request_is_voided(guard: Guard) -> None:
    life = guard.guarded(charge(), Call())
    step(life, Reserve)
    assert step(life, Finish, KeyboardInterrupt()).end.kind == "void"
    assert isinstance(outcome(life), KeyboardInterrupt)


@pytest.mark.parametrize(
    ("answer", "reason", "kind"),
    [
        (
            ReserveReply("denied", "c", reason="cap", message="no", facts={"cap_usd": "1"}),
            "cap",
            BudgetExceeded,
        ),
        (ReserveReply("denied", "c", reason="in_doubt", message="no"), "in_doubt", SpendDenied),
        (ReserveReply("stale", "c"), "ledger_unavailable", SpendDenied),
    ],
)
def test_a_denial_is_raised_and_nothing_is_sent(
    guard: Guard, answer: ReserveReply, reason: str, kind: type[SpendDenied]
) -> None:
    life = guard.guarded(charge(), Call())
    step(life, Reserve)
    error = outcome(life, answer)
    assert isinstance(error, kind)
    assert error.reason == reason


@pytest.mark.parametrize(
    "ledger", [ReserveReply("denied", "c", reason="unpriced"), LedgerUnavailable("away")]
)
def test_the_guards_own_denial_is_put_on_record_and_stands_without_a_ledger(
    guard: Guard, ledger: Any
) -> None:
    life = guard.guarded(
        Request(
            "POST",
            f"{API_BASE}/v1/transfers",
            {"content-type": "application/x-www-form-urlencoded"},
            b"amount=1",
        ),
        Call(),
    )
    ask = step(life, Reserve).ask
    assert (ask.denied, ask.operation) == ("unpriced", "POST /v1/transfers")
    error = outcome(life, ledger)
    assert isinstance(error, SpendDenied)
    assert error.reason == "unpriced"


def test_what_is_put_on_record_of_an_address_has_no_vault_key(guard: Guard) -> None:
    """Nor a part of one, where a long address is cut."""
    key = "vault_key_" + "k" * 43
    life = guard.guarded(Request("POST", f"{API_BASE}/v1/{'x' * 270}/{key}?a={key}", {}, b""), Call())
    ask = step(life, Reserve).ask
    assert ask.path == f"/v1/{'x' * 270}/[redacted]"
    assert "vault_key_" not in f"{ask.operation}{ask.message}"


def test_a_read_costs_nothing_and_is_not_in_doubt_when_it_breaks(guard: Guard) -> None:
    headers: Mapping[str, str] = {}
    life, _ = sent(guard, None, Request("GET", f"{API_BASE}/v1/customers/cus_1", headers))
    assert step(life, Finish, TimeoutError()).end.kind == "settle"
    assert isinstance(outcome(life), TimeoutError)


@pytest.mark.parametrize("secret", [KEY, SECRET, KEY.replace("_", "%5F")])
def test_what_is_recorded_of_a_call_shows_no_key_and_no_secret(
    guard: Guard, learnt: None, secret: str
) -> None:
    requests = [
        Request("GET", f"{API_BASE}/v1/customers/{secret}", {}),
        Request(
            "POST",
            f"{API_BASE}/v1/customers/{secret}",
            {"content-type": "application/x-www-form-urlencoded"},
            b"name=x",
        ),
        Request("POST", f"{API_BASE}/v1/payment_intents/{secret}/capture", {}),
        Request("POST", f"{API_BASE}/v1/nothing/{secret}", {}),
        Request("GET", f"{API_BASE}/v1/payment_intents?customer={secret}", {}),
        charge(f"amount=1&currency=usd&customer={secret}".encode()),
    ]
    for request in requests:
        ask = step(guard.guarded(request, Call()), Reserve).ask
        told = " ".join(
            map(
                str,
                (ask.path, ask.target, ask.operation, ask.object_id, ask.message, ask.customer, ask.accounts),
            )
        )
        assert not redaction.shows(unquote(told)), told
    assert ReserveRequest.from_json({**ask.to_json(), "path": f"/v1/x/{secret}"}).path == "/v1/x/[redacted]"


def test_a_key_that_is_cut_in_two_leaves_no_piece(guard: Guard, learnt: None) -> None:
    path = "/v1/" + "x" * 250
    ask = step(guard.guarded(Request("POST", f"{API_BASE}{path}/{SECRET * 3}", {}), Call()), Reserve).ask
    assert ask.denied
    assert SECRET[:12] not in f"{ask.path}{ask.operation}{ask.message}"


def test_an_unknown_object_is_looked_up_before_it_is_captured(guard: Guard) -> None:
    life = guard.guarded(Request("POST", f"{API_BASE}/v1/payment_intents/pi_1/capture", {}), Call())
    first = step(life, Reserve)
    assert first.ask.total_micros is None
    look_up = step(life, Reserve, ReserveReply("look_up", first.ask.call_id))
    assert (look_up.ask.read, look_up.ask.path) == (True, "/v1/payment_intents/pi_1")
    assert look_up.ask.call_id != first.ask.call_id
    send = step(life, Send, granted(look_up))
    assert send.request.method == "GET"
    held = {
        **INTENT,
        "amount": 700,
        "amount_received": 0,
        "amount_capturable": 700,
        "status": "requires_capture",
    }
    step(life, Finish, reply(200, held))
    again = step(life, Reserve)
    assert (again.ask.total_micros, again.ask.call_id) == (7_000_000, first.ask.call_id)


DECLINED = {
    "error": {"type": "card_error", "payment_intent": {**INTENT, "status": "requires_payment_method"}}
}


def test_a_declined_intent_is_cancelled_and_its_call_voided(guard: Guard) -> None:
    life, _ = sent(guard)
    reserve = step(life, Reserve, reply(402, DECLINED))
    assert (reserve.ask.operation, reserve.ask.object_id) == ("payment_intents.cancel", "pi_1")
    assert reserve.ask.call_id
    step(life, Send, granted(reserve))
    cancelled = {**INTENT, "status": "canceled", "amount_received": 0}
    assert step(life, Finish, reply(200, cancelled)).end.only_less
    end = step(life, Finish).end
    assert (end.kind, end.definite, end.object_id) == ("void", True, None)
    assert outcome(life) == reply(402, DECLINED)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), TimeoutError(), NotSent("refused")])
def test_a_cancel_that_is_cut_off_leaves_the_declined_intent_counted(
    guard: Guard, error: BaseException
) -> None:
    life, _ = sent(guard)
    step(life, Send, granted(step(life, Reserve, reply(402, DECLINED))))
    assert step(life, Finish, error).end.kind in ("doubt", "void")
    end = step(life, Finish).end
    assert (end.kind, end.status, end.total_micros, end.object_id) == ("settle", 402, 1_000_000, "pi_1")
    ended = outcome(life)
    assert ended is error if isinstance(error, KeyboardInterrupt) else ended == reply(402, DECLINED)


def test_a_denied_cancel_leaves_it_counted_too(guard: Guard) -> None:
    life, _ = sent(guard)
    reserve = step(life, Reserve, reply(402, DECLINED))
    end = step(
        life, Finish, ReserveReply("denied", reserve.ask.call_id, reason="revoked", message="over")
    ).end
    assert (end.kind, end.total_micros, end.object_id) == ("settle", 1_000_000, "pi_1")


def test_what_is_looked_up_for_one_call_is_bounded_in_all(guard: Guard) -> None:
    fetched: list[str] = []

    class Endless(Stripe):
        def complete(self, quote: Quote, *more: Any) -> Quote:
            return replace(quote, look_up=True, look_ups=(f"/v1/invoices/in_{len(fetched)}",))

    def get(request: Request, call: Call) -> Life:
        fetched.append(request.url)
        return Reply(200, {}, b" " * (lookups.LOOK_UP_BYTES // 4))
        yield

    request = Request("POST", f"{API_BASE}/v1/payment_intents/pi_1/capture", {})
    quote = replace(guard._quoted(request), look_up=True)
    look_ups = lookups.LookUps(Endless(), get, guard.settings, {})
    with pytest.raises(SpendDenied, match="split it"):
        list(look_ups.priced(quote, request, lookups.LookedUp()))
    assert len(fetched) == 5


def test_who_goes_on_with_an_earlier_call_says_which_call_was_its_own(guard: Guard) -> None:
    call = Call("mine-1")
    life = guard.guarded(charge(), call)
    reserve = step(life, Reserve)
    assert (reserve.ask.call_id, reserve.ask.sender, reserve.ask.sender_id) == ("mine-1", "", "mine-1")
    step(life, Send, ReserveReply("allowed", "other-1", 2, wire_key="wire-1", resend=True))
    assert step(life, Finish, ConnectionError()).end.call_id == "other-1"
    assert isinstance(outcome(life), ConnectionError)
    again = guard.guarded(charge(), call)
    asked = step(again, Reserve).ask
    assert (asked.call_id, asked.ask, asked.sender) == ("other-1", 3, "mine-1")
    step(again, Pause, ReserveReply("wait", "other-1", 7))
    assert step(again, Reserve).ask.ask == 8, "behind the number that it was told"
    void = step(again, Finish, LedgerUnavailable("away")).end
    assert (void.call_id, void.ask, void.sender) == ("other-1", 8, "mine-1")


@pytest.mark.parametrize("status", [402, 200])
def test_only_a_void_names_who_went_on_with_an_earlier_call(guard: Guard, status: int) -> None:
    """An older luigid refuses what it does not know: it meets that where nothing else will do."""
    life = guard.guarded(charge(), Call("mine-1"))
    next(life)
    step(life, Send, ReserveReply("allowed", "other-1", 2, wire_key="wire-1", resend=True))
    end = step(life, Finish, reply(status, {"error": {"type": "card_error"}} if status == 402 else None)).end
    assert (end.kind, end.sender) == (("void", "mine-1") if status == 402 else ("settle", ""))
