"""What is sealed, row by row, for other programs: as its texts, or flat with the same columns for all."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from luigi_spendguard.ledger.audit.rows import AFTER
from luigi_spendguard.ledger.database import Tx

#: Rows that are in memory at once.
AT_ONCE = 2000

#: The columns of a flat row, for calls and entries alike: what a row has not is empty. Those that are added
#: later stand at the end; `more` is JSON of what none of them is for.
COLUMNS = (
    *("seq", "block", "row", "id", "at", "kind", "run_id", "run_label", "root_family", "root_task_id"),
    *("task_id", "family", "params", "members", "payment", "worker", "attempt", "vendor", "account"),
    *("operation", "method", "path", "target", "object", "key_id", "wire_key", "request_hash"),
    *("verdict", "reason", "message", "replay_of", "state", "status", "relayed", "declined", "currency"),
    *("asked_usd", "reserved_usd", "settled_usd", "corrected_usd", "overrun_usd", "object_total_usd"),
    *("created_at", "ended_at", "base", "ordinal", "epoch", "formula"),
    *("call_id", "actor", "request_id", "note", "budget_id", "budget_scope", "budget_subject"),
    *("budget_part", "cap_usd", "spent_usd", *AFTER, "pruned_calls", "pruned_entries"),
    *("late_fees_usd", "vendor_request", "tags", "tagged", "budgets", "more"),
)
_KNOWN = frozenset(COLUMNS)
#: Objects that are flattened: each field is a column of its own.
_FLAT = ("budget", "pruned")
#: What is JSON in a flat row.
_JSON = ("params", "members", "tags", "budgets")


@dataclass(frozen=True)
class Wanted:
    """Which rows: from `since` on and before `until`, in milliseconds since the epoch, and of that run."""

    since: int | None = None
    until: int | None = None
    run_id: str | None = None


def texts(tx: Tx, wanted: Wanted) -> Iterator[list[tuple[int, str]]]:
    """Yield rows as (block, text), oldest first, some at a time.

    They are what was there when it began, or came since: a prune may take the oldest away meanwhile.
    """
    tx.take_time()
    asked = {"at >= ?": wanted.since, "at < ?": wanted.until, "run_id = ?": wanted.run_id}
    conditions = {one: value for one, value in asked.items() if value is not None}
    where = " AND ".join(["seq > ?", *conditions])
    query = f"SELECT seq, block, text FROM audit_row WHERE {where} ORDER BY seq LIMIT {AT_ONCE}"
    last = 0
    while rows := tx.all(query, last, *conditions.values()):
        yield [(row["block"], row["text"]) for row in rows]
        last = rows[-1]["seq"]


def flat(block: int, text: str) -> Mapping[str, Any]:
    """Return a row with the fields of COLUMNS that it has."""
    found: dict[str, Any] = json.loads(text)
    found["block"] = block
    for name in _FLAT:
        for part, value in (found.pop(name, None) or {}).items():
            found[f"{name}_{part}"] = value
    for name in _JSON:
        if found.get(name) is not None:
            found[name] = json.dumps(found[name], ensure_ascii=False)
    if not found.keys() <= _KNOWN:  # Sealed by a version that knows more.
        more = {name: found.pop(name) for name in sorted(found.keys() - _KNOWN)}
        found["more"] = json.dumps(more, ensure_ascii=False)
    return found
