"""What luigid, or what stands before it, has answered to an RPC: a reply, or why there is none."""

from __future__ import annotations

import json
from typing import Any, TypeVar

from luigi_spendguard.errors import (
    DENIAL_STATUS,
    Conflict,
    LedgerError,
    LedgerFailed,
    LedgerUnavailable,
    NotFound,
    PluginError,
    SpendguardError,
    denial,
)
from luigi_spendguard.http.unreached import NotThere
from luigi_spendguard.protocol.messages import UPGRADE, BadMessage, Message, other_version
from luigi_spendguard.protocol.rpcs import Rpc

Q = TypeVar("Q", bound=Message)
R = TypeVar("R", bound=Message)

#: What a proxy answers while luigid is not there, or does not answer; luigid itself says more.
_OF_PROXIES = (502, 503, 504)
#: What luigid calls its refusals (`error`); what has another name, or none, a proxy has said in its place.
_OWN = {
    *DENIAL_STATUS,
    *(kind.code for kind in (LedgerError, LedgerUnavailable, NotFound, Conflict)),
    *("bad_request", "busy", "forbidden", "internal", "method_not_allowed", "too_large"),
    *("too_many_attempts", "unauthorized", "unsupported_media_type"),
}


def read_answer(rpc: Rpc[Q, R], who: str, status: int, data: bytes) -> R:
    """Return a reply; `who` answered. Raises NotThere, LedgerUnavailable, PluginError, SpendDenied."""
    try:
        answer = json.loads(data)
    except ValueError:
        answer = None
    body: dict[str, Any] = answer if isinstance(answer, dict) else {}
    if status in _OF_PROXIES and body.get("error") not in _OWN:
        raise NotThere(f"HTTP {status} of what stands before it")
    if status not in (200, 201) or not isinstance(body.get("response"), dict):
        raise _refusal(rpc.name, who, status, body)
    try:
        return rpc.reply.from_json(body["response"])
    except BadMessage as error:
        raise LedgerUnavailable(
            f"{who} answers {rpc.name} as no version that is known ({error}): {UPGRADE}"
        ) from None


def _refusal(method: str, who: str, status: int, body: dict[str, Any]) -> SpendguardError:
    """Return what an answer means that is no reply.

    What luigid has not said itself decides nothing: it may have done what it was asked, or may yet be asked.
    """
    if status == 404 and "error" not in body:
        return PluginError(
            f"{who} keeps no budgets: run luigid-spendguard there instead of luigid. Vendor tasks are "
            f"refused until then. (Where it is luigid-spendguard, {method} is new: {UPGRADE})"
        )
    message, code = str(body.get("message", "")), str(body.get("error", ""))
    if status == 429 and code == "cap":
        return denial(code, message, body.get("facts"))
    if status in (401, 403) and code in ("revoked", "expired", "unknown_key"):
        return denial(code, message)
    is_own = code in _OWN
    if status in (401, 407) and not is_own:
        return LedgerUnavailable(
            f"what stands before {who} lets nobody in (HTTP {status}): mend user and password in [core] "
            "default_scheduler_url"
        )
    if not is_own:
        long = ", and bodies of 4 MB" if status == 413 else ""
        return LedgerFailed(
            f"what stands before {who} has answered HTTP {status} to {method} itself: let it pass on what is "
            f"said to /api/spend_*, and the answers{long}"
        )
    facts: dict[str, Any] = {"http_status": status}
    if status in (401, 403):
        return denial("scope", f"the scheduler refused the worker: {message or status}", facts)
    if status in (400, 404, 409, 413):
        versions = f". {remedy[0].upper()}{remedy[1:]}" if (remedy := other_version(message)) else ""
        return denial("scope", f"the scheduler refused {method}: {message or status}{versions}", facts)
    kind = LedgerUnavailable if code == LedgerUnavailable.code else LedgerFailed
    return kind(message or f"the scheduler answered HTTP {status} to {method}")
