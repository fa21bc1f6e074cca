"""What the guard and the ledger tell each other of a call: the request, the answer to it, and the end.

Of answers, those that grant nothing: a wait, an earlier answer, a denial. A call waits for an equal one until
that has ended, for its turn at an object `TURN_SECONDS` at the most.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime, timezone

from luigi_spendguard import backoff
from luigi_spendguard.errors import OutcomeUnknown, SpendDenied, denial
from luigi_spendguard.guard.effects import Call, Pause
from luigi_spendguard.guard.lookups import LookedUp, resolve_text
from luigi_spendguard.protocol import (
    GRANT_SECONDS,
    MAX_BODY,
    REPLAYED,
    TARGET_DIGITS,
    EndRequest,
    ReserveReply,
    ReserveRequest,
    commands,
)
from luigi_spendguard.redaction import redact, shows
from luigi_spendguard.vendors import Outcome, Quote, Reply, Request, Vendor
from luigi_spendguard.vendors.bodies import digest

logger = logging.getLogger(__name__)

#: How long a call waits for its turn at an object before it is denied: less than SDKs wait for a reply.
TURN_SECONDS = 30.0
#: The longest pause before it asks again: its turn may come, and others wait for it then.
TURN_PAUSE_S = 0.25
#: A call that waits so long, in seconds, for an equal one says so in the log, once.
SILENT_S = 3.0


def reserve_request(
    vendor: Vendor, request: Request, quote: Quote, call: Call, looked_up: LookedUp, timeout_s: float
) -> ReserveRequest:
    """Return how a call asks for its reservation."""
    executed = looked_up.executed
    acts_on = {*quote.acts_on, *([quote.object_id] if quote.object_id else [])}
    body = kept_text(request.body) if quote.keep_body and not quote.read else None
    headers = some_of(request, vendor.kept)
    keep = body is not None and not shows("\n".join([body, *headers.values()]))
    return ReserveRequest(
        call_id=call.call_id,
        ask=call.ask,
        sender=call.sender,
        vendor=vendor.name,
        account=quote.account,
        operation=quote.operation,
        method=request.method,
        path=quote.path,
        target=quote.target,
        targets_before=quote.targets_before,
        key=quote.key,
        key_is_callers=quote.key_is_callers,
        unsure=call.unsure,
        fingerprint=quote.fingerprint,
        fingerprint_before=quote.fingerprint_before,
        read=quote.read,
        total_micros=quote.total_micros,
        currency=quote.currency,
        object_id=quote.object_id,
        body=(body or "") if keep else "",
        headers=headers if keep else {},
        timeout_ms=int(timeout_s * 1000),
        customer=quote.customers,
        accounts=quote.accounts,
        owner_unknown=quote.owner_unknown,
        look_up=call.look_up,
        look_up_for=call.look_up_for,
        covers=quote.covers,
        acts_on=tuple(sorted(acts_on)),
        priced_by=tuple(sorted({*quote.priced_by} - acts_on)),
        since=looked_up.since,
        unanswered=tuple(call.unanswered.split()),
        number=call.number,
        repeatable=quote.repeatable,
        taggable=quote.taggable,
        tag=quote.tag,
        searched=executed is not None,
        executed=tuple(executed or ()),
        targets=tuple(digest(vendor.name, quote.account, one)[:TARGET_DIGITS] for one in quote.targets),
    )


class Waiting:
    """The waiting of one call, by a monotonic clock in seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock, self._turn_since = clock, 0.0
        self._pauses = backoff.growing(0.05, 1.0)
        self._equal_since, self._is_logged = 0.0, False

    def pause(self, answer: ReserveReply) -> Pause:
        """Return how long to wait after a `wait`. Raises SpendDenied as `check_turn` does."""
        if answer.object_id:
            self.check_turn(answer)
        else:
            self._log(answer)
        longest = TURN_PAUSE_S if answer.object_id else 1.0
        return Pause(min(next(self._pauses), longest))

    def _log(self, answer: ReserveReply) -> None:
        now = self._clock()
        self._equal_since = self._equal_since or now
        if now - self._equal_since >= SILENT_S and not self._is_logged:
            self._is_logged = True
            logger.warning(
                "Waiting for call %s, which is this very call and has not ended. If the process that made it "
                "is gone, that is known the vendor's timeout_s and %g seconds after it was sent; then this "
                "one finds out what came of it. Nothing is sent meanwhile",
                answer.message,
                GRANT_SECONDS,
            )

    def check_turn(self, answer: ReserveReply) -> None:
        """Raise SpendDenied (`in_doubt`) when a call has waited for its turn too long."""
        now = self._clock()
        self._turn_since = self._turn_since or now
        if now - self._turn_since >= TURN_SECONDS:
            who = f" (call {answer.message})" if answer.message else "s, one after the other,"
            raise denial(
                "in_doubt",
                f"another call{who} acts on {answer.object_id}, one call at a time does, and after "
                f"{TURN_SECONDS:.0f} seconds it is not this one's turn: nothing was sent; try again later",
                {"object_id": answer.object_id},
            )


#: Said beside that nothing was sent now, where an earlier try of the call was sent and not answered.
TRIED_BEFORE = (
    "An earlier try of this call may have been sent: it counts, under way or in doubt, until that is known. "
    "When its task makes it again it is the same call, and is not charged twice"
)


def still_unknown(call_id: str, error: Exception, quote: Quote | None = None) -> OutcomeUnknown:
    """Return the error of a call in doubt that could not be sent again."""
    ends = commands.resolve_text(call_id) if quote is None else resolve_text(call_id, quote)
    return OutcomeUnknown(
        f"call {call_id} was sent before, and no reply came: it is in doubt and counts. "
        f"It could not be sent again now ({error}). Made again later, it is ended by what the "
        f"vendor says; or look it up there, then {ends}",
        call_id,
        again=True,
    )


def say_replayed(what: str, first_at: int) -> None:
    """Say in the task's log that `what` was answered before, at `first_at` (milliseconds since the epoch)."""
    logger.warning(
        "Replayed: %s was made before, answered at %s; nothing was sent or spent now",
        what,
        datetime.fromtimestamp(first_at / 1000, timezone.utc).isoformat(" ", "seconds"),
    )


def replayed(quote: Quote, answer: ReserveReply) -> Reply:
    """Return the answer that the call had before, and say so in the task's log."""
    say_replayed(f"{quote.operation} {quote.target or ''}".rstrip(), answer.first_at)
    headers = {**answer.answer_headers, REPLAYED: str(answer.first_at)}
    return Reply(answer.status, headers, answer.answer_body.encode("utf-8"))


def denied_by(answer: ReserveReply) -> SpendDenied:
    """Return the denial that the ledger has answered with."""
    if answer.verdict == "stale":
        return denial("ledger_unavailable", "the ledger knows a later request of this call: denied")
    return denial(answer.reason, answer.message, {**answer.facts, "call_id": answer.call_id})


def end_request(
    vendor: Vendor, quote: Quote, grant: ReserveReply, reply: Reply, outcome: Outcome, *, leaked: bool
) -> EndRequest:
    """Return how a call has ended by its reply; of one that has `leaked` the secret nothing is kept."""
    kept = outcome.kind == "settle" and not quote.read and not leaked and len(reply.body) <= MAX_BODY
    return EndRequest(
        outcome.kind,
        grant.call_id,
        grant.ask,
        definite=outcome.definite,
        total_micros=outcome.total_micros,
        worth_micros=outcome.worth_micros,
        only_less=outcome.only_less,
        only_more=outcome.only_more,
        covers=() if leaked else outcome.covers,
        covers_stay=outcome.covers_stay,
        object_id=None if leaked else outcome.object_id,  # Whatever part of it is the secret.
        status=reply.status,
        answer_headers=some_of(reply, vendor.kept_answer) if kept else {},
        answer_body=redact(reply.body.decode("utf-8", "replace")) if kept else "",
        # What only the request says of an existing object is not the object's own.
        customer=() if quote.owner_unknown else quote.customers,
        note=outcome.note,
        price_due=outcome.price_due,
        fees_micros=quote.fees_micros,
        opened={} if leaked else {one: str(micros) for one, micros in outcome.opened.items()},
        executed_before=outcome.executed_before,
        kept=outcome.kept,
        vendor_request="" if leaked else vendor.request_id(reply),
    )


def kept_text(body: bytes) -> str | None:
    """Return a body that may be kept to be sent again; None for a file's, or one that is too long."""
    if len(body) > MAX_BODY:
        return None
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError:
        return None


def some_of(message: Request | Reply, names: tuple[str, ...]) -> dict[str, str]:
    """Return those headers of a message that are kept."""
    return {name: message.headers[name] for name in names if name in message.headers}
