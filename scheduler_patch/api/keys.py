"""Vault keys over HTTP and as RPCs: asked for, listed, revoked."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Mapping
from typing import Any

from luigi_spendguard.errors import Conflict, NotFound, denial
from luigi_spendguard.ledger import calls, keys, snapshot
from luigi_spendguard.ledger.database import Tx
from luigi_spendguard.money import parse_usd
from luigi_spendguard.protocol.messages import BadMessage, NoFields
from luigi_spendguard.protocol.operators import ListKeysRequest, OneKey
from luigi_spendguard.protocol.rpcs import IssueKeyRequest
from luigi_spendguard.settings.policy import (
    DEFAULT_TTL_MS,
    MAX_TTL_MS,
    Caps,
    expiry_ms,
    is_endpoint,
    no_endpoint,
    ttl_ms,
)
from luigi_spendguard.vendors.registry import VENDORS
from scheduler_patch.api.handler import ApiCall, Created
from scheduler_patch.dispatch import holds
from scheduler_patch.dispatch.state import DispatchState
from scheduler_patch.service import LedgerService
from scheduler_patch.service.ledger import ACTOR, Booked
from scheduler_patch.service.operators import in_force

_CUSTOMER = re.compile(r"[A-Za-z0-9_.@+-]+")
_ACCOUNT = re.compile(r"acct_[A-Za-z0-9]+")


async def issue(service: LedgerService, call: ApiCall, request: IssueKeyRequest) -> Created:
    """Issue a key. Raises BadMessage, BadAmount, Conflict, KeyRevoked, LedgerUnavailable."""
    # In a thread: a vendor's tables are long.
    terms = await asyncio.to_thread(terms_of, request)
    if terms.vendor not in service.relayed_vendors and service.settings.gateway_url is None:
        raise Conflict(
            f"this luigid is no gateway for {terms.vendor}, and a key for it would open nothing: set secret "
            f"or secret_file in [spendguard_{terms.vendor}] of luigid's luigi.cfg, or gateway_url in "
            "[spendguard] where a gateway apart has it"
        )
    # Whoever may be a worker may ask for one.
    ACTOR.set(call.caller.actor or f"a client at {call.caller.address}")
    settings = service.settings
    shown, key = await service.commit(_issue, terms, settings.caps, settings.tags)
    return Created({"vault_key": key, **shown})


async def listed(service: LedgerService, call: ApiCall, request: NoFields) -> Any:
    """Return the keys that were asked for, and those of tasks that run now, newest first."""
    call.query_only("run", "limit", "before")
    limit = call.number("limit", 1000, 1, 1000)
    rows = await service.read(keys.keys, call.run(), limit + 1, call.query("before"))
    return call.page(rows or [], limit, "id")


async def listed_rpc(service: LedgerService, call: ApiCall, request: ListKeysRequest) -> Any:
    """Return what `listed` does, as an RPC: an object."""
    return {"keys": await service.read(keys.keys, request.run_id) or []}


async def revoke(service: LedgerService, call: ApiCall, request: OneKey) -> Any:
    """Revoke a key; returns when no grant made under it can still be used (P5).

    Raises NotFound; SpendDenied (`unknown_key`, `scope`) for another than the key's holder or the operator.
    """
    shown = await service.commit(_revoke, request.id, call.key)
    service.known_keys.forget_all()
    return {**shown, "calls_under_way": await in_force(service, keys.pending_calls, shown["id"])}


def terms_of(request: IssueKeyRequest) -> keys.Terms:
    """Read what a key is asked for with. Raises BadMessage, BadAmount."""
    if request.vendor not in VENDORS:
        raise BadMessage(f"'vendor' must be one of {', '.join(VENDORS)}")
    expires_in, expires_at = request.expires_in, request.expires_at
    if expires_in is not None and expires_at is not None:
        raise BadMessage("say either 'expires_in' or 'expires_at'")
    moment = None if expires_at is None else _read("expires_at", expiry_ms, expires_at)
    if moment is not None and not 0 < moment - time.time() * 1000 <= MAX_TTL_MS:
        raise BadMessage("'expires_at' must lie ahead, by 366 days at the most")
    _check_names("allowed_endpoints", request.allowed_endpoints, is_endpoint, no_endpoint)
    for named in request.allowed_endpoints:
        if why := VENDORS[request.vendor].lacks(named):
            raise BadMessage(f"'allowed_endpoints': {why}")
    _check_names("allowed_customers", request.allowed_customers, _CUSTOMER.fullmatch, _no_customer)
    _check_names("allowed_accounts", request.allowed_accounts, _ACCOUNT.fullmatch, _no_account)
    return keys.Terms(
        request.vendor,
        _label(request.agent_run_label),
        None if request.run_usd_cap is None else parse_usd(request.run_usd_cap),
        None if request.daily_usd_cap is None else parse_usd(request.daily_usd_cap),
        request.allowed_endpoints,
        request.allowed_customers,
        request.allowed_accounts,
        DEFAULT_TTL_MS if expires_in is None else _read("expires_in", ttl_ms, expires_in),
        moment,
    )


def _read(name: str, read: Callable[[str], int], text: str) -> int:
    try:
        return read(text)
    except ValueError as error:
        raise BadMessage(f"{name!r} {error}") from None


def _label(label: str | None) -> str:
    if label is None:
        return ""
    if len(label) > 255 or not label.isprintable() or label.removeprefix("luigi/").strip() in ("", ".", ".."):
        raise BadMessage("'agent_run_label' must be luigi/<run_id>, of at most 255 printable characters")
    return label.strip()


def _check_names(
    name: str, values: tuple[str, ...], fits: Callable[[str], object], why: Callable[[str], str]
) -> None:
    for value in values:
        if not isinstance(value, str) or len(value) > 255 or not fits(value):
            raise BadMessage(f"{name!r}: {why(str(value))}")


def _no_customer(name: str) -> str:
    return f"{name[:60]!r} is no cus_… or acct_… id"


def _no_account(name: str) -> str:
    return f"{name[:60]!r} is no acct_… id"


def _issue(
    tx: Tx, terms: keys.Terms, caps: Caps, tags: Mapping[str, Mapping[str, str]]
) -> Booked[tuple[dict[str, Any], str]]:
    row, key = keys.issue(tx, terms, caps, tags)
    return Booked((keys.show_key(tx, row) | {"note": row["note"]}, key), snapshot.of_run(tx, row["run_id"]))


def _revoke(tx: Tx, named: str, holder: str) -> Booked[dict[str, Any]]:
    """Revoke; `holder` is the key that asks, "" for the operator."""
    if holder:
        scope = calls.find_scope(tx, holder, Caps())
        if scope is None:
            raise denial("unknown_key", "this needs the admin token, or the vault key that is to be revoked")
        if named not in (holder, scope.claim["id"]):
            raise denial("scope", "a vault key may revoke itself only")
    if not named:
        raise NotFound("there is no such vault key")
    row = keys.revoke_key(tx, named)

    def tell(state: DispatchState) -> None:
        if row["task_id"]:
            holds.hold(state, row["task_id"], "key", 0)

    return Booked(keys.show_key(tx, row), None, tell)
