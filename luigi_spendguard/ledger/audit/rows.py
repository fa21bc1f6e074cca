"""What is sealed of an entry of the journal, and of a call: a flat object, as canonical JSON (RFC 8785).

Amounts are decimal texts of USD, times milliseconds since the epoch by the database's clock. An object has
its own `seq`, so that its text alone is the leaf that is hashed. Not sealed of a call are columns that change
while it is asked for and sent, and say nothing of money or of who it was: `ask`, `sender`, `number`,
`given_up`, `granted_at`, `timeout_ms`, `unknown` and `tries`.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

from luigi_spendguard.ledger.database import Row
from luigi_spendguard.money import plain_usd

#: Most amounts of a history are few.
usd = lru_cache(maxsize=4096)(plain_usd)
#: Calls with their attempt and run; what was pruned of those is null. A condition follows.
CALLS = (
    "SELECT call.*, claim.params, claim.worker, claim.members, run.label, run.root_family, run.root_task_id,"
    " run.tags"
    " FROM call LEFT JOIN claim ON claim.id = call.claim_id LEFT JOIN run ON run.run_id = call.run_id"
)
#: Entries of the journal, with the budget that each concerns alone, and what a prune has taken out.
ENTRIES = (
    "SELECT journal.*, budget.scope, budget.subject, budget.part, audit_pruned.calls, audit_pruned.entries"
    " FROM journal LEFT JOIN budget ON budget.id = journal.budget_id"
    " LEFT JOIN audit_pruned ON audit_pruned.entry = journal.id"
)
#: What the run had, in all, after an entry: its budget's totals then.
AFTER = ("run_cap_usd", "run_spent_usd", "run_reserved_usd", "run_overrun_usd")

#: What is taken from a call's row as it is, under the name that it is sealed by.
_OF_CALL = {
    **{
        name: name for name in ("id", "run_id", "root_family", "root_task_id", "task_id", "payment", "family")
    },
    **{name: name for name in ("vendor", "account", "operation", "method", "path", "target", "wire_key")},
    **{name: name for name in ("base", "key_id", "ordinal", "epoch", "formula", "currency", "verdict")},
    **{name: name for name in ("reason", "message", "replay_of", "state", "status", "relayed", "declined")},
    **{name: name for name in ("created_at", "ended_at", "worker")},
    **{"run_label": "label", "attempt": "claim_id", "object": "object_id", "request_hash": "fingerprint"},
    "vendor_request": "vendor_request",
    "tagged": "tagged",
}
_AMOUNTS = ("asked", "reserved", "settled", "corrected", "overrun")
_OF_ENTRY = ("id", "at", "kind", "run_id", "call_id", "budget_id", "request_id", "note", "actor")


def canonical(value: Any) -> str:
    """Return a value as RFC 8785 has it; of objects with texts, whole numbers, truths and null."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    if text.isascii():  # Then names are in the same order in whichever units.
        return text
    return json.dumps(_ordered(value), ensure_ascii=False, separators=(",", ":"))


def _ordered(value: Any) -> Any:
    """Return a value with its names in the order of their UTF-16 units, not that of their characters."""
    if isinstance(value, dict):
        return {name: _ordered(value[name]) for name in sorted(value, key=_units)}
    return [_ordered(one) for one in value] if isinstance(value, list) else value


def _units(name: str) -> bytes:
    return name.encode("utf-16-be", "surrogatepass")


def call_object(row: Row) -> dict[str, Any]:
    """Return what is sealed of a call (a row of `CALLS`), but for its `seq`."""
    sealed: dict[str, Any] = {name: row[column] for name, column in _OF_CALL.items()}
    for name in _AMOUNTS:
        sealed[f"{name}_usd"] = usd(row[f"{name}_micros"])
    for name, column in (("object_total_usd", "total_micros"), ("late_fees_usd", "fees_micros")):
        sealed[name] = None if row[column] is None else usd(row[column])
    sealed["params"] = None if row["params"] is None else json.loads(row["params"])
    sealed["tags"] = None if row["tags"] is None else json.loads(row["tags"])
    sealed["members"] = None if row["members"] is None else json.loads(row["members"])
    sealed["row"] = "call"
    return sealed


def entry_object(row: Row) -> dict[str, Any]:
    """Return what is sealed of an entry (a row of `ENTRIES`), but for its `seq` and `AFTER`."""
    sealed: dict[str, Any] = {name: row[name] for name in _OF_ENTRY}
    for name in ("cap", "spent", "reserved", "overrun"):
        sealed[f"{name}_usd"] = usd(row[f"{name}_micros"])
    sealed["budget"] = None
    if row["scope"] is not None:
        sealed["budget"] = {"scope": row["scope"], "subject": row["subject"], "part": row["part"]}
    if row["calls"] is not None:
        sealed["pruned"] = {"calls": row["calls"], "entries": row["entries"]}
    sealed["row"] = "entry"
    return sealed


def differing(sealed: dict[str, Any], now: dict[str, Any]) -> str | None:
    """Return in words what differs first of what was sealed and what is there now; None: nothing does."""
    for name in (*now, *sealed):
        if name in ("seq", *AFTER):
            continue
        if sealed.get(name) != now.get(name) or (name in sealed) != (name in now):
            return f"{name} was {canonical(sealed.get(name))} and is {canonical(now.get(name))}"
    return None
