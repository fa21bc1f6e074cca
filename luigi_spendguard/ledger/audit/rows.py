"""What is sealed of an entry of the journal, and of a call: a flat object, as canonical JSON (RFC 8785).

Amounts are decimal texts of USD, times milliseconds since the epoch by the database's clock. An object has
its own `seq`, so that its text alone is the leaf that is hashed. `budgets` of a call are those that it takes
from, by their numbers; texts of an earlier version do not say so. Not sealed of a call are columns that
change while it is asked for and sent, and say nothing of money or of who it was: `ask`, `sender`, `number`,
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
#: Entries of the journal, with the budget that each concerns alone, and what a prune has taken out.
ENTRIES = (
    "SELECT journal.*, budget.scope, budget.subject, budget.part, audit_pruned.calls, audit_pruned.entries"
    " FROM journal LEFT JOIN budget ON budget.id = journal.budget_id"
    " LEFT JOIN audit_pruned ON audit_pruned.entry = journal.id"
)
#: What the run had, in all, after an entry: its budget's totals then.
AFTER = ("run_cap_usd", "run_spent_usd", "run_reserved_usd", "run_overrun_usd")
#: What is sealed of a row, and is not in the books themselves.
_BESIDE = ("seq", *AFTER)

#: What is sealed of a call as it is, by the names that it is sealed by where those differ from its columns'.
_OF_CALL = {
    **{
        f"call.{name}": name for name in ("id", "run_id", "task_id", "payment", "family", "vendor", "account")
    },
    **{
        f"call.{name}": name
        for name in ("operation", "method", "path", "target", "wire_key", "base", "key_id")
    },
    **{f"call.{name}": name for name in ("ordinal", "epoch", "formula", "currency", "verdict", "reason")},
    **{f"call.{name}": name for name in ("message", "replay_of", "state", "status", "relayed", "declined")},
    **{f"call.{name}": name for name in ("created_at", "ended_at", "vendor_request", "tagged")},
    **{"call.claim_id": "attempt", "call.object_id": "object", "call.fingerprint": "request_hash"},
    **{"run.root_family": "root_family", "run.root_task_id": "root_task_id", "run.label": "run_label"},
    "claim.worker": "worker",
}
_AMOUNTS = {
    **{f"call.{name}_micros": f"{name}_usd" for name in ("asked", "reserved", "settled", "corrected")},
    "call.overrun_micros": "overrun_usd",
    "call.total_micros": "object_total_usd",
    "call.fees_micros": "late_fees_usd",
}
#: JSON. What was pruned of a run or an attempt is null, as is an amount that the vendor did not give.
_DOCUMENTS = {"claim.params": "params", "claim.members": "members", "run.tags": "tags"}
#: Which budgets a call takes from (JSON).
_BUDGETS = "(SELECT json_group_array(budget_id) FROM call_budget WHERE call_budget.call_id = call.id)"
#: What stays of a call as it was sealed first, whatever comes of it later.
FIXED = (
    *("id", "run_id", "root_family", "root_task_id", "run_label", "tags", "task_id", "family", "vendor"),
    *("account", "operation", "method", "path", "target", "request_hash", "created_at", "currency"),
    "asked_usd",
)
#: What is sealed of a call, of `FROM_CALLS`.
SEALED = ", ".join(
    f"{column} AS {name}"
    for column, name in (_OF_CALL | _AMOUNTS | _DOCUMENTS | {_BUDGETS: "budgets"}).items()
)
#: Calls with their attempt and run.
FROM_CALLS = "FROM call LEFT JOIN claim ON claim.id = call.claim_id LEFT JOIN run ON run.run_id = call.run_id"
_OF_ENTRY = ("id", "at", "kind", "run_id", "call_id", "budget_id", "request_id", "note", "actor")


_encoded = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode


def canonical(value: Any) -> str:
    """Return a value as RFC 8785 has it; of objects with texts, whole numbers, truths and null."""
    text = _encoded(value)
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
    """Return what is sealed of a call (a row with what is `SEALED`), but for its `seq`."""
    sealed: dict[str, Any] = {name: row[name] for name in _OF_CALL.values()}
    for name in _AMOUNTS.values():
        sealed[name] = None if row[name] is None else usd(row[name])
    for name in _DOCUMENTS.values():
        sealed[name] = None if row[name] is None else json.loads(row[name])
    sealed["budgets"] = sorted(json.loads(row["budgets"]))
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
    if now | {name: sealed[name] for name in _BESIDE if name in sealed} == sealed:
        return None  # Nearly all are, and one comparison is much faster than one a name.
    for name in (*now, *sealed):
        if name == "budgets" or name in _BESIDE:
            continue
        if sealed.get(name) != now.get(name) or (name in sealed) != (name in now):
            return f"{name} was {canonical(sealed.get(name))} and is {canonical(now.get(name))}"
    return None


def let_go(sealed: dict[str, Any], now: dict[str, Any]) -> str | None:
    """Return in words which budgets count a call no more that did when it was sealed; None: all do.

    One that is made later counts earlier calls, too, and no entry is about each of them.
    """
    gone = sorted({*sealed.get("budgets", ())}.difference(now.get("budgets", ())))
    return f"budgets was {canonical(sealed['budgets'])} and is {canonical(now['budgets'])}" if gone else None
