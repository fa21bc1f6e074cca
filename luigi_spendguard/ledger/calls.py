"""Calls: under whose key one is asked for, and its row in the audit."""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from typing import Any

from luigi_spendguard.errors import SpendDenied, denial
from luigi_spendguard.ledger.batches import COMPLETIONS
from luigi_spendguard.ledger.budgets import JournalEntry, move_money
from luigi_spendguard.ledger.database import NOW, TODAY, Row, Tx
from luigi_spendguard.ledger.identity import FORMULA, Identity, asks_the_same, key_digest
from luigi_spendguard.ledger.overtaken import given_up, latest
from luigi_spendguard.protocol import GRANT_SECONDS, EndRequest, ReserveRequest, facts_of, key_hash
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
        now, today: the database's time, in milliseconds since the epoch and as its UTC day.

    """

    claim: Row
    run: Row
    caps: Caps
    terms: Row | None = None
    relayed: bool = False
    ahead: str = ""
    now: int = 0
    today: str = ""

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


_OF_CLAIM = (
    *("id", "run_id", "task_id", "family", "worker", "members", "mixed", "payment", "max_cost_micros"),
    *("key_hash", "state", "claimed_at"),
)
_OF_RUN = ("run_id", "state", "by_task_id", "note")
#: What is known of a claim: `completions`, how often its task has completed, and `has_paid_for`, whether any
#: attempt of it has said what it pays for, too.
_CLAIM = (*_OF_CLAIM, "completions", "has_paid_for")
#: What is known of its run, and of a vault key that was asked for over HTTP.
_RUN = (*_OF_RUN, "budget_id")
_TERMS = (
    *("id", "vendor", "allowed_endpoints", "allowed_customers", "allowed_accounts"),
    *("budget", "run_cap_micros", "daily_cap_micros", "expires_at"),
)
_SCOPE = (
    f"SELECT {NOW}, {TODAY}, {', '.join(f'claim.{name}' for name in _OF_CLAIM)},"
    f" {COMPLETIONS.format('claim')},"
    " EXISTS (SELECT 1 FROM claim AS said WHERE said.task_id = claim.task_id AND said.payment <> ''),"
    f" {', '.join(f'run.{name}' for name in _OF_RUN)}, budget.id,"
    f" {', '.join(f'key_terms.{name}' for name in _TERMS)}"
    " FROM claim JOIN run ON run.run_id = claim.run_id"
    " LEFT JOIN budget ON budget.scope = 'run' AND budget.subject = run.run_id AND budget.part = ''"
    " LEFT JOIN key_terms ON key_terms.id = claim.id AND claim.task_id = ''"
)
_BY_KEY, _BY_ID = f"{_SCOPE} WHERE claim.key_hash = ?", f"{_SCOPE} WHERE claim.id = ?"


#: A call, by its id.
CALL = "SELECT * FROM call WHERE id = ?"


def find_scope(
    tx: Tx, key: str, caps: Caps, *, relayed: bool = False, call_id: str | None = None
) -> Scope | None:
    """Return whose key this is, or None. The index finds its hash, of which time tells nothing useful.

    `call_id`: the call that is looked at next.
    """
    if call_id is not None:
        tx.ahead(CALL, call_id)
    return scope_of_hash(tx, key_hash(key), caps, relayed=relayed)


def scope_of_hash(tx: Tx, wanted: str, caps: Caps, *, relayed: bool = False) -> Scope | None:
    """Return whose key has that hash (`key_hash`), or None."""
    found = _found(tx.values(_BY_KEY, wanted), caps, relayed)
    return found if found is not None and hmac.compare_digest(found.claim["key_hash"], wanted) else None


def scope_of(tx: Tx, claim_id: str, caps: Caps) -> Scope | None:
    """Return what the key of a claim stands for, or None: there is no such claim."""
    return _found(tx.values(_BY_ID, claim_id), caps, relayed=False)


def _found(row: tuple[Any, ...] | None, caps: Caps, relayed: bool) -> Scope | None:
    if row is None:
        return None
    now, today, *rest = row
    claim = dict(zip(_CLAIM, rest, strict=False))
    run = dict(zip(_RUN, rest[len(_CLAIM) :], strict=False))
    terms = rest[-len(_TERMS) :]
    known = None if terms[0] is None else dict(zip(_TERMS, terms, strict=True))
    return Scope(claim, run, caps, known, relayed, now=now, today=today)


def same_call(row: Row, ask: ReserveRequest) -> bool:
    """Return whether `ask` is about the call that is recorded as `row` and not just named like it."""
    same = (row["vendor"], row["account"], row["operation"]) == (ask.vendor, ask.account, ask.operation)
    return same and asks_the_same(row, ask)


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
        reserved: what is reserved for it, in micro-dollars; None: it is not sent.
        total: what its object has to count for in all then, in micro-dollars.
        tagged: it goes out with its tag.

    """

    verdict: str
    reason: str = ""
    message: str = ""
    replay_of: str | None = None
    wire_key: str = ""
    tries: int = 0
    reserved: int | None = None
    total: int | None = None
    tagged: bool = False


def made_again(ask: ReserveRequest, identity: Identity, taken: Row | None = None) -> str:
    """Return what is kept of the keys that a call gives up (`overtaken`); `taken`: it goes on as that."""
    kept = taken["given_up"] if taken is not None else ""
    if identity.base is None:  # Known by its own key alone, it is no other call, made again.
        return str(kept)
    words = kept.split()
    if taken is not None and taken["key_id"] not in (None, identity.key_id):
        words += given_up([taken["key_id"]], taken["sender"], taken["number"])
    named = [key_digest(ask, one) for one in ask.unanswered if one != ask.key]
    return latest((*words, *given_up(named, ask.sender_id, ask.number)))


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
        "state": None if decision.reserved is None else "pending",
        "asked_micros": ask.total_micros or 0,
        "total_micros": decision.total,
        "reserved_micros": decision.reserved or 0,
        "settled_micros": 0,
        "corrected_micros": 0,
        "overrun_micros": 0,
        "sender": ask.sender_id,
        "ask": ask.ask,
        "number": ask.number,
        "given_up": made_again(ask, identity) if ask.unanswered else "",
        "unknown": 0,
        "relayed": int(scope.relayed),
        "declined": 0,
        "tagged": int(decision.tagged),
        "timeout_ms": ask.timeout_ms,
        "status": 0,
        "vendor_request": "",
        "created_at": now,
        "granted_at": None if decision.reserved is None else now,
    }
    tx.insert("call", **values)
    return values


def tombstone(tx: Tx, scope: Scope, void: EndRequest) -> None:
    """Void a call that is not known: a late request to reserve it is refused."""
    unknown = ReserveRequest(
        call_id=void.call_id, vendor=void.vendor, account="", operation="", method="", path="", ask=void.ask
    )
    text = "voided before it was reserved" + (f": {void.note}" if void.note else "")
    decision = Decision("denied", "ledger_unavailable", text)
    row = record(tx, scope, unknown, Identity(), tx.now(), decision)
    move_money(tx, row, JournalEntry("void", note="tombstone"))
