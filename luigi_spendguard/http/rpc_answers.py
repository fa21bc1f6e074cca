"""What luigid, or what stands before it, has answered to an RPC: a reply, or why there is none."""

from __future__ import annotations

import json
from typing import Any, TypeVar

from luigi_spendguard.errors import (
    LedgerFailed,
    LedgerUnavailable,
    PluginError,
    SpendguardError,
    denial,
)
from luigi_spendguard.http.unreached import NotThere
from luigi_spendguard.protocol.messages import UPGRADE, BadMessage, Message, other_version
from luigi_spendguard.protocol.rpcs import Rpc

Q = TypeVar("Q", bound=Message)
R = TypeVar("R", bound=Message)


class NoBudgets(PluginError):
    """The scheduler is a stock one: it knows of no run."""


#: What a proxy answers while luigid is not there, or does not answer; luigid itself says more.
_OF_PROXIES = (502, 503, 504)


def read_answer(rpc: Rpc[Q, R], who: str, status: int, data: bytes, is_luigids: bool = False) -> R:
    """Return a reply; `who` answered, and `is_luigids`: luigid itself, which has marked it (`ANSWERED`).

    A reply says by its form whose it is. Raises NotThere, LedgerUnavailable, NoBudgets, SpendDenied.
    """
    try:
        answer = json.loads(data)
    except ValueError:
        answer = None
    body: dict[str, Any] = answer if isinstance(answer, dict) else {}
    if status in _OF_PROXIES and not is_luigids:
        raise NotThere(f"HTTP {status} of what stands before it")
    if status not in (200, 201) or not isinstance(body.get("response"), dict):
        raise _refusal(rpc.name, who, status, body, is_luigids)
    try:
        return rpc.reply.from_json(body["response"])
    except BadMessage as error:
        raise LedgerUnavailable(
            f"{who} answers {rpc.name} as no version that is known ({error}): {UPGRADE}"
        ) from None


def _refusal(method: str, who: str, status: int, body: dict[str, Any], is_luigids: bool) -> SpendguardError:
    """Return what an answer means that is no reply.

    What luigid has not said itself decides nothing: it may have done what it was asked, or may yet be asked.
    """
    if status == 404 and not is_luigids and "error" not in body:
        return NoBudgets(
            f"{who} keeps no budgets: run luigid-spendguard there instead of luigid. Vendor tasks are "
            f"refused until then. (Where it is luigid-spendguard, {method} is new: {UPGRADE})"
        )
    message, code = str(body.get("message", "")), str(body.get("error", ""))
    if not is_luigids:
        return _of_another(method, who, status, message)
    if status == 429 and code == "cap":
        return denial(code, message, body.get("facts"))
    if status in (401, 403) and code in ("revoked", "expired", "unknown_key"):
        return denial(code, message)
    facts: dict[str, Any] = {"http_status": status}
    if status in (401, 403):
        return denial("scope", f"the scheduler refused the worker: {message or status}", facts)
    if status in (400, 404, 409, 413):
        versions = f". {remedy[0].upper()}{remedy[1:]}" if (remedy := other_version(message)) else ""
        return denial("scope", f"the scheduler refused {method}: {message or status}{versions}", facts)
    kind = LedgerUnavailable if code == LedgerUnavailable.code else LedgerFailed
    return kind(message or f"the scheduler answered HTTP {status} to {method}")


def _of_another(method: str, who: str, status: int, message: str) -> SpendguardError:
    """Return what an answer means that luigid has not given, or a version that does not mark its own."""
    older = f". Where that is an older luigid ({message[:300]}), {UPGRADE}" if message else ""
    if status in (401, 407):
        return LedgerUnavailable(
            f"what stands before {who} lets nobody in (HTTP {status}): mend user and password in [core] "
            f"default_scheduler_url{older}"
        )
    long = ", and bodies of 4 MB" if status == 413 else ""
    return LedgerFailed(
        f"what stands before {who} has answered HTTP {status} to {method} itself: let it pass on what is "
        f"said to /api/spend_*, and the answers with all headers{long}{older}"
    )
