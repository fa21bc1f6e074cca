"""The gateway looks a key up before it reads what came under it, and reads forms in the thread pool."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from luigi_spendguard.config import Settings, VendorSettings
from luigi_spendguard.errors import SpendDenied, denial
from luigi_spendguard.guard.denials import refusal
from luigi_spendguard.http.relay import ClientCall
from luigi_spendguard.ledger import keys, queries, runs
from luigi_spendguard.ledger.database import Tx
from luigi_spendguard.money import Micros
from luigi_spendguard.settings.policy import Caps
from luigi_spendguard.vendors import Quote, Reply, Request
from luigi_spendguard.vendors.registry import VENDORS
from luigi_spendguard.vendors.stripe import API_BASE, Stripe
from scheduler_patch.gateway import Gateway
from scheduler_patch.scheduler import BudgetScheduler
from scheduler_patch.service import LedgerService
from tests.unit.gateway.test_shares import unread

FORM = Request(
    "POST",
    f"{API_BASE}/v1/payment_intents",
    {"content-type": "application/x-www-form-urlencoded"},
    b"amount=100&currency=usd",
)


@pytest.fixture
def quoted_in(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Deny every quote; return the threads in which one was asked for."""
    threads: list[str] = []

    def quote(*_: Any) -> Quote:
        threads.append(threading.current_thread().name)
        raise denial("unpriced", "no")

    monkeypatch.setattr(Stripe, "quote", quote)
    return threads


def relayed(
    folder: Path,
    before: Callable[[Tx, str, str], object] | None = None,
    key: str = "",
    ttl_ms: int = 60_000,
    body: bytes = FORM.body,
) -> tuple[Reply, list[dict[str, Any]]]:
    """Relay one call under a fresh key, or `key`, after `before`; return its reply and what is recorded."""
    caps = Caps(default=Micros(10**8))
    vendors = {"stripe": VendorSettings("stripe", "sk_test_canary_secret")}

    async def live() -> tuple[Reply, list[dict[str, Any]]]:
        service = LedgerService(Settings(folder / "books.db", caps, vendors=vendors), BudgetScheduler())
        row, made = await service.record(keys.issue, keys.Terms("stripe", ttl_ms=ttl_ms), caps)
        if before is not None:
            await service.record(before, row["id"], row["run_id"])
        gateway = Gateway(service)
        try:
            await gateway.admit(Stripe(), "POST", "/v1/payment_intents", key or made)
            call, shown = ClientCall(VENDORS["stripe"], replace(FORM, body=body)), key or made
            reply = await gateway.relay(call, shown, unread(gateway, shown))
        except SpendDenied as denied:
            reply = refusal(Stripe(), denied)
        calls = await service.read(queries.calls)
        service.close()
        return reply, calls or []

    return asyncio.run(live())


def test_what_an_unknown_key_sends_is_not_read(tmp_path: Path, quoted_in: list[str]) -> None:
    reply, calls = relayed(tmp_path, key="vault_key_none")
    assert (reply.status, json.loads(reply.body)["error"]["code"]) == (401, "unknown_key")
    assert (quoted_in, calls) == ([], [])


@pytest.mark.parametrize(
    ("before", "ttl_ms", "reason"),
    [
        (lambda tx, key_id, run_id: keys.revoke_key(tx, key_id), 60_000, "revoked"),
        (lambda tx, key_id, run_id: runs.revoke(tx, run_id), 60_000, "revoked"),
        (None, 0, "expired"),
    ],
)
def test_what_a_dead_key_sends_is_recorded_and_not_read(
    tmp_path: Path, quoted_in: list[str], before: Any, ttl_ms: int, reason: str
) -> None:
    reply, [call] = relayed(tmp_path, before, ttl_ms=ttl_ms)
    assert (reply.status, json.loads(reply.body)["error"]["code"]) == (401, f"vault_key_{reason}")
    assert (call["verdict"], call["path"]) == (f"denied:{reason}", "/v1/payment_intents")
    assert quoted_in == []


@pytest.mark.parametrize(
    "body", [b"a=" + b"%41" * 2000, b"card[n%75mber]=4242", b"bank_account[account_number]=1"]
)
def test_a_form_that_takes_long_is_read_in_another_thread(
    tmp_path: Path, quoted_in: list[str], body: bytes
) -> None:
    _, [call] = relayed(tmp_path, body=body)
    assert call["verdict"] == "denied:unpriced"
    assert len(quoted_in) == 1
    assert quoted_in != [threading.main_thread().name]
