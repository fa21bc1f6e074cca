"""Calls: under whose key one is asked for, and its row in the audit."""

from __future__ import annotations

import hmac
from dataclasses import dataclass

from luigi_spendguard.errors import SpendDenied, denial
from luigi_spendguard.ledger.budgets import JournalEntry, move_money
from luigi_spendguard.ledger.claims import key_hash
from luigi_spendguard.ledger.database import Row, Tx
from luigi_spendguard.ledger.identity import FORMULA, Identity
from luigi_spendguard.protocol import GRANT_SECONDS, ReserveRequest, facts_of
from luigi_spendguard.settings.policy import Caps

#: Milliseconds for which a grant may be used.
GRANT_MS = int(GRANT_SECONDS * 1000)


@dataclass(frozen=True)
class Scope:
    """Who asks: the claim and its run, found by the vault key; and the caps in force.

    Attributes:
        terms: what a key that was asked for over HTTP may do; None for a claimed task's.
        relayed: a gateway asks, and it will send.
        ahead: the object at which another run's call has its turn before; empty: there is none.

    """

    claim: Row
    run: Row
    caps: Caps
    terms: Row | None = None
    relayed: bool = False
    ahead: str = ""

    def owns(self, call: Row) -> bool:
        """Return whether a call is of the same task, or of the same run where no task is known.

        One that another task has made for the same payment is, too, and one that this attempt goes on with.
        """
        task_id, payment = self.claim["task_id"], self.claim["payment"]
        if not task_id:
            return bool(not call["task_id"] and call["run_id"] == self.run["run_id"])
        same = call["task_id"] == task_id or (payment and call["payment"] == payment)
        return bool(same or call["claim_id"] == self.claim["id"])


class ReservationDenied(Exception):
    """Ends a reservation in a denial, which is put on record."""

    def __init__(self, reason: str, message: str, **facts: object) -> None:
        super().__init__(message)
        self.denied = denial(reason, message, facts_of(facts))


def unknown_key() -> SpendDenied:
    """Return the denial of a key that is none of this ledger's."""
    return denial("unknown_key", "the ledger does not know this vault key")


def find_scope(tx: Tx, key: str, caps: Caps, *, relayed: bool = False) -> Scope | None:
    """Return whose key this is, or None. The index finds its hash, of which time tells nothing useful."""
    wanted = key_hash(key)
    claim = tx.one("SELECT * FROM claim WHERE key_hash = ?", wanted)
    if claim is None or not hmac.compare_digest(claim["key_hash"], wanted):
        return None
    run = tx.one("SELECT * FROM run WHERE run_id = ?", claim["run_id"])
    assert run is not None
    terms = None if claim["task_id"] else tx.one("SELECT * FROM key_terms WHERE id = ?", claim["id"])
    return Scope(claim, run, caps, terms, relayed)


def same_call(row: Row, ask: ReserveRequest) -> bool:
    """Return whether `ask` is about the call that is recorded as `row` and not just named like it."""
    same = (row["vendor"], row["account"], row["operation"]) == (ask.vendor, ask.account, ask.operation)
    return same and asks_the_same(row, ask)


def asks_the_same(row: Row, ask: ReserveRequest) -> bool:
    """Return whether `ask` asks for what `row` did, as the version says that has kept it."""
    before = ask.fingerprint_before or ask.fingerprint
    return row["fingerprint"] in (ask.fingerprint, before)


#: Statuses of a vendor that has not begun to execute the request: its key is as good as new.
_NOT_BEGUN = (401, 403, 409, 429)


def uses_up(status: int) -> bool:
    """Return whether a vendor may answer a call's key with this HTTP status for ever (0: no answer)."""
    return status >= 400 and status not in _NOT_BEGUN


@dataclass(frozen=True)
class Decision:
    """What is put on record of a call when it is asked for.

    Attributes:
        reason, message: why it is denied, in a word and for people.
        replay_of: the call whose answer it gets.
        wire_key, tries: the key that it goes out under, and how many before that were used up.

    """

    verdict: str
    reason: str = ""
    message: str = ""
    replay_of: str | None = None
    wire_key: str = ""
    tries: int = 0


def record(
    tx: Tx, scope: Scope, ask: ReserveRequest, identity: Identity, now: int, decision: Decision
) -> Row:
    """Insert the audit row of a call."""
    values = {
        "id": ask.call_id,
        "run_id": scope.run["run_id"],
        "claim_id": scope.claim["id"],
        "task_id": scope.claim["task_id"],
        "payment": scope.claim["payment"],
        "family": scope.claim["family"],
        "vendor": ask.vendor,
        "account": ask.account,
        "operation": ask.operation,
        "method": ask.method,
        "path": ask.path,
        "target": ask.target,
        "base": identity.base,
        "ordinal": identity.ordinal,
        "key_id": identity.key_id,
        "epoch": identity.epoch,
        "formula": FORMULA,
        "tries": decision.tries,
        "fingerprint": ask.fingerprint,
        "wire_key": decision.wire_key,
        "currency": ask.currency,
        "object_id": ask.object_id,
        "verdict": decision.verdict,
        "reason": decision.reason,
        "message": decision.message,
        "replay_of": decision.replay_of,
        "state": None,
        "asked_micros": ask.total_micros or 0,
        "reserved_micros": 0,
        "settled_micros": 0,
        "corrected_micros": 0,
        "overrun_micros": 0,
        "sender": ask.call_id,
        "ask": ask.ask,
        "unknown": 0,
        "relayed": int(scope.relayed),
        "declined": 0,
        "timeout_ms": ask.timeout_ms,
        "status": 0,
        "created_at": now,
    }
    tx.insert("call", **values)
    return values


def tombstone(tx: Tx, scope: Scope, call_id: str, ask: int) -> None:
    """Void a call that is not known: a late request to reserve it is refused."""
    unknown = ReserveRequest(
        call_id=call_id, vendor="", account="", operation="", method="", path="", ask=ask
    )
    decision = Decision("denied", "ledger_unavailable", "voided before it was reserved")
    row = record(tx, scope, unknown, Identity(), tx.now(), decision)
    move_money(tx, row, JournalEntry("void", note="tombstone"))
