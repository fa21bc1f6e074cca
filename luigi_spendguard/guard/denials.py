"""`X-Spendguard-Denial`: what a reply in a vendor's own error format says besides, for who knows us.

ASCII JSON with `reason` (one of `DENIAL_STATUS`, or `outcome_unknown`), `message` and `facts`. Where the
vendor cannot be reached or does not answer, `reason` is `vendor_unreachable`, `no_reply` or `timed_out`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from luigi_spendguard.errors import DENIAL_STATUS, OutcomeUnknown, SpendDenied, VendorUnreachable, denial
from luigi_spendguard.protocol import commands
from luigi_spendguard.redaction import hide
from luigi_spendguard.vendors import Reply, Vendor

#: The header's name, in lower case.
DENIAL = "x-spendguard-denial"
#: What it says where there is no reply of the vendor's: before the first byte, and after it.
_NOT_SENT, _NO_REPLY, _TIMED_OUT = "vendor_unreachable", "no_reply", "timed_out"
_LOST: Mapping[str, type[VendorUnreachable] | type[ConnectionError] | type[TimeoutError]] = {
    _NOT_SENT: VendorUnreachable,
    _NO_REPLY: ConnectionError,
    _TIMED_OUT: TimeoutError,
}


def refusal(vendor: Vendor, error: SpendDenied | OutcomeUnknown) -> Reply:
    """Return a denial as the vendor would answer it, with what our own error can be made of again."""
    if isinstance(error, SpendDenied) and (text := hide(error.message)) != error.message:
        error = denial(error.reason, text, error.facts)  # It names what was asked for: a key, perhaps.
    shaped = vendor.shape(error)
    if isinstance(error, OutcomeUnknown):
        header: Mapping[str, Any] = {
            "reason": "outcome_unknown",
            "message": str(error)[:1000],
            "facts": {"call_id": error.call_id},
        }
    else:
        header = {"reason": error.reason, "message": error.message[:1000], "facts": error.facts}
    return Reply(shaped.status, {**shaped.headers, DENIAL: json.dumps(header)}, shaped.body)


def unreachable(vendor: Vendor, error: Exception) -> Reply:
    """Return the reply to a call of which no byte was sent: it may be made again."""
    message = f"{vendor.name} cannot be reached; nothing was sent: {error}"
    return _lost(vendor.shape(VendorUnreachable(message)), _NOT_SENT, message)


def unanswered(vendor: Vendor, error: Exception, call_id: str, *, known: bool = True) -> Reply:
    """Return the reply to a call that was sent and not answered; `call_id`: "" for one that only reads.

    `known`: made again it would be known for the same call, by its task or its key; else it would be another.
    """
    what = f"no reply from {vendor.name} ({type(error).__name__})"
    reason = _TIMED_OUT if isinstance(error, TimeoutError) else _NO_REPLY
    if not call_id:
        what += " to a call that only reads: make it again"
        return _lost(vendor.shape(VendorUnreachable(what)), reason, what)
    what += f": call {call_id} may have been executed and is in doubt"
    if known:
        what += " until the same call, made again, says so"
    else:
        what += (
            ": it has no idempotency key, so made again it would be another call. Look it up at the vendor, "
            f"then {commands.resolve_text(call_id)}"
        )
    return _lost(vendor.shape(OutcomeUnknown(what, call_id, again=known)), reason, what)


def unanswered_by_gateway(vendor: Vendor, error: Exception) -> Reply:
    """Return the reply to a call that a gateway was handed, where there is none: it says itself which call it
    is, if it says anything.
    """
    what = f"no answer by way of the gateway: {error}"
    reason = _TIMED_OUT if isinstance(error, TimeoutError) else _NO_REPLY
    return _lost(vendor.shape(OutcomeUnknown(what, "", again=True)), reason, what)


def _lost(shaped: Reply, reason: str, message: str) -> Reply:
    """Say in a reply that there is none: a guarded worker raises its SDK's error of a lost connection."""
    header = json.dumps({"reason": reason, "message": message[:1000], "facts": {}})
    return Reply(shaped.status, {**shaped.headers, DENIAL: header}, shaped.body)


def error_of(text: str) -> SpendDenied | OutcomeUnknown | VendorUnreachable | ConnectionError | TimeoutError:
    """Return the error that a denial's header tells of. Raises ValueError for a text that is none."""
    header: Any = json.loads(text)
    facts = (header.get("facts") or {}) if isinstance(header, Mapping) else None
    if not isinstance(facts, Mapping):
        raise ValueError("no denial")
    reason, message = str(header.get("reason", "")), header.get("message")
    if message is not None and reason in _LOST:
        return _LOST[reason](str(message))
    if message is None or reason not in (*DENIAL_STATUS, "outcome_unknown"):
        raise ValueError("a denial that is not known")
    if reason == "outcome_unknown":
        return OutcomeUnknown(str(message), str(facts.get("call_id", "")))
    return denial(reason, str(message), facts)


def shown_by(error: BaseException) -> SpendDenied | None:
    """Return the denial that an HTTP client's error is about; None for any other error.

    Such errors have the reply as `response` (httpx, requests, and SDKs built on them), or its headers.
    """
    for holder in (getattr(error, "response", None), error):
        headers = getattr(holder, "headers", None)
        if headers is None:
            continue
        try:
            denied = error_of(str(headers[DENIAL]))
        except Exception:  # noqa: S112  # `headers` is anybody's: what is no denial of ours is none.
            continue
        return denied if isinstance(denied, SpendDenied) else None
    return None
