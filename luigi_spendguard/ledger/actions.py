"""What operators did to runs, calls and keys, as the journal has it; and what amounts were corrected later.

Entries are what they were when they were written: their notes are read here, and nowhere else.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from luigi_spendguard.ledger.database import Row, Tx
from luigi_spendguard.ledger.history import Approval
from luigi_spendguard.ledger.queries import check_run
from luigi_spendguard.money import parse_usd, plain_usd

#: What an entry is called; the journal calls a resolved call after who has done it.
_KIND = (
    "CASE WHEN journal.kind = 'revoke' AND journal.note <> '' THEN 'revoke_key'"
    " WHEN journal.kind = 'operator' THEN 'resolve'"
    " WHEN journal.kind IN ('correct','overrun') THEN 'correction' ELSE journal.kind END"
)
#: Of the journal: what an operator did. What pruning says of each budget is no entry of its own.
_DONE = (
    "(journal.kind = 'top_up'"
    " OR journal.kind IN ('ask_top_up','withdraw_top_up')"
    " OR journal.kind IN ('approve','revoke','operator','prune','forget','restore','audit_prune')"
    " AND journal.budget_id IS NULL)"
)
#: What a vendor, or a later look at it, said of an amount; an operator's word is an entry beside it.
_CORRECTED = "(journal.kind IN ('correct','overrun') AND journal.note NOT LIKE 'resolved: %')"
#: How a resolution is noted.
_SPENT = re.compile(r"spent \$([\d,.]+)")


@dataclass(frozen=True)
class ActionFilter:
    """Which actions are asked for; None: any.

    Attributes:
        kind: one of `protocol.ACTIONS`; None: what operators did, without corrections.
        since, until: milliseconds since the epoch; from then on, and before then.
        before, limit: so many, done before the one that is shown with this `seq`.

    """

    run_id: str | None = None
    kind: str | None = None
    since: int | None = None
    until: int | None = None
    before: int | None = None
    limit: int = 1000


def actions(tx: Tx, which: ActionFilter) -> list[dict[str, Any]]:
    """Return actions, newest first. Raises NotFound."""
    if which.run_id is not None:
        check_run(tx, which.run_id)
    asked = {
        "journal.run_id = ?": which.run_id,
        f"{_KIND} = ?": which.kind,
        "journal.at >= ?": which.since,
        "journal.at < ?": which.until,
        "journal.id < ?": which.before,
    }
    wanted = {condition: value for condition, value in asked.items() if value is not None}
    where = " AND ".join([_CORRECTED if which.kind == "correction" else _DONE, *wanted])
    rows = tx.all(
        f"SELECT journal.id AS seq, journal.at, {_KIND} AS kind, journal.run_id, journal.call_id,"
        " journal.note, journal.actor, journal.spent_micros + journal.overrun_micros AS change_micros,"
        " call.task_id, call.vendor, call.operation FROM journal"
        f" LEFT JOIN call ON call.id = journal.call_id WHERE {where}"
        " ORDER BY journal.id DESC LIMIT ?",
        *wanted.values(),
        which.limit,
    )
    return [_show(row) for row in rows]


def _show(row: Row) -> dict[str, Any]:
    """Return an action for people and scripts; what it is not about is null."""
    shown = {name: row[name] for name in ("seq", "at", "kind", "actor")}
    shown["run_id"] = row["run_id"] or None
    shown |= {"usd": None, "task_id": row["task_id"], "unknown_tasks": 0, "call_id": row["call_id"]}
    return shown | {"key_id": None, "note": row["note"]} | _READ[row["kind"]](row)


def _top_up(row: Row) -> dict[str, Any]:
    amount, _, inside = row["note"].partition(" ")
    return {"usd": plain_usd(int(amount)), "note": inside}


def _approval(row: Row) -> dict[str, Any]:
    said = Approval.of(row["note"])
    if said is None:
        return {}
    return {
        "usd": plain_usd(said.micros),
        "unknown_tasks": said.unknown,
        "task_id": said.task_id or None,
        "call_id": said.duplicate_of or None,
        "note": "up to" if said.up_to else "",
    }


def _resolution(row: Row) -> dict[str, Any]:
    found = _SPENT.match(row["note"])
    return {"usd": plain_usd(parse_usd(found.group(1).replace(",", ""))) if found else "0.00"}


_READ: Mapping[str, Callable[[Row], dict[str, Any]]] = {
    "top_up": _top_up,
    "ask_top_up": _top_up,
    "withdraw_top_up": _top_up,
    "approve": _approval,
    "resolve": _resolution,
    "revoke": lambda row: {},
    "revoke_key": lambda row: {"key_id": row["note"], "note": ""},
    "prune": lambda row: {},
    "forget": lambda row: {},
    "restore": lambda row: {},
    "audit_prune": lambda row: {},
    "correction": lambda row: {"usd": plain_usd(row["change_micros"])},
}
