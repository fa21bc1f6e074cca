"""What the guard answers a call with: an earlier answer, a denial, or that nobody knows."""

from __future__ import annotations

import logging
from datetime import datetime, timezone

from luigi_spendguard.errors import OutcomeUnknown, SpendDenied, denial
from luigi_spendguard.protocol import MAX_BODY, REPLAYED, ReserveReply
from luigi_spendguard.vendors import Quote, Reply, Request

logger = logging.getLogger(__name__)


def still_unknown(call_id: str, error: Exception) -> OutcomeUnknown:
    """Return the error of a call in doubt that could not be sent again."""
    return OutcomeUnknown(
        f"call {call_id} was sent before, and no reply came: it is in doubt and counts. "
        f"It could not be sent again now ({error}). Made again later, it is ended by what the "
        f"vendor says; or `spendguard resolve {call_id}`",
        call_id,
        again=True,
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
