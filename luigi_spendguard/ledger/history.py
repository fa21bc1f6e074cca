"""What an operator's log says of the books: caps reached and raised, approvals, revocations, doubts, keys."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from luigi_spendguard.ledger.budgets import WITH_REMAINING, last_entry
from luigi_spendguard.ledger.database import Row, Tx

#: The journal's entries that are looked at; `set_cap` says only that a cap may be reached anew.
_KINDS = (
    "('open','close','top_up','ask_top_up','withdraw_top_up','set_cap','approve','issue','revoke','doubt',"
    "'operator','forget','prune','audit_prune')"
)
#: Scopes of the caps that a log speaks of: what a single task said of itself is none.
_CAPS = "('run','day','family','vendor','key','key_day','beyond_day')"
#: How approvals are noted, in micro-dollars: of a forecast, with its tasks of unknown cost; of a task,
#: perhaps beside another's call.
_FORECAST = re.compile(r" ([0-9]+)(?: ([0-9]+))?( up to)?")
_TASK = re.compile(r"(.+) ([0-9]+)(?: duplicate of (\S+))?", re.DOTALL)


@dataclass(frozen=True)
class Position:
    """Up to where somebody has looked: the journal's last entry, the last call, and which runs are frozen."""

    entry: int = 0
    call: int = 0
    frozen: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Approval:
    """What an entry says was approved: a forecast (no task), a task's cost, or a call beside another one."""

    task_id: str
    micros: int
    unknown: int = 0
    duplicate_of: str = ""
    up_to: bool = False

    @classmethod
    def of(cls, note: str) -> Approval | None:
        """Read an entry's note, None where it is written otherwise."""
        if found := _FORECAST.fullmatch(note):
            micros, unknown, up_to = found.groups()
            return cls("", int(micros), int(unknown or 0), up_to=bool(up_to))
        if found := _TASK.fullmatch(note):
            task_id, micros, call_id = found.groups()
            return cls(task_id, int(micros), duplicate_of=call_id or "")
        return None


@dataclass(frozen=True)
class Found:
    """What is new since a position.

    Attributes:
        now: up to where this is.
        rows: entries of the journal, calls that a cap has denied (`kind` is `cap`) and calls that were
            denied otherwise (`denied`), oldest first.
        frozen, thawed: the runs that have become so.
        in_doubt: of runs of which calls have become so: how many are now, and what they may have cost.

    """

    now: Position
    rows: Sequence[Row] = ()
    frozen: frozenset[str] = field(default_factory=frozenset)
    thawed: frozenset[str] = field(default_factory=frozenset)
    in_doubt: Mapping[str, tuple[int, int]] = field(default_factory=dict)


def position(tx: Tx) -> Position:
    """Return where the books end now."""
    frozen = tx.all("SELECT run_id FROM run WHERE state = 'frozen'")
    return Position(last_entry(tx), _last_call(tx), frozenset(row["run_id"] for row in frozen))


def _ends(tx: Tx) -> tuple[int, int]:
    return last_entry(tx), _last_call(tx)


def _last_call(tx: Tx) -> int:
    return int(tx.value("SELECT max(rowid) FROM call") or 0)


def news(tx: Tx, since: Position) -> Found:
    """Return what has happened after a position, each once: nothing that may still come before the last."""
    ends = tx.settled(_ends)
    if ends is None or ends <= (since.entry, since.call):
        return Found(since)
    entry, call = ends
    entries = tx.all(
        "SELECT journal.id, journal.at, journal.kind, journal.run_id, journal.call_id, journal.note,"
        " journal.actor, journal.cap_micros AS more_micros, journal.overrun_micros, budget.scope,"
        " budget.subject,"
        " budget.part, cap, call.task_id, call.vendor, call.operation, call.reserved_micros, call.relayed,"
        " NOT EXISTS (SELECT 1 FROM journal AS earlier WHERE earlier.call_id = journal.call_id"
        " AND earlier.kind = 'doubt' AND earlier.id < journal.id) AS first_doubt,"
        " (SELECT own.spent_micros + own.reserved_micros + own.overrun_micros - own.cap_micros FROM budget AS"
        " own WHERE own.scope = 'run' AND own.subject = journal.run_id AND own.part = '') AS deficit,"
        " key_terms.vendor AS key_vendor, key_terms.run_cap_micros, key_terms.daily_cap_micros,"
        " key_terms.expires_at FROM journal LEFT JOIN"
        " (SELECT *, cap_micros - shadow_micros AS cap FROM budget) budget ON budget.id = journal.budget_id"
        " LEFT JOIN call ON call.id = journal.call_id LEFT JOIN key_terms ON key_terms.id = journal.note"
        f" WHERE journal.id > ? AND journal.id <= ? AND (journal.kind IN {_KINDS}"
        " OR (journal.overrun_micros > 0 AND journal.kind <> 'prune')) ORDER BY journal.id",
        since.entry,
        entry,
    )
    denied = tx.all(
        "SELECT call.created_at AS at, 'cap' AS kind, call.run_id, call.relayed,"
        " call.asked_micros, budget.*"
        " FROM call JOIN claim ON claim.id = call.claim_id JOIN run ON run.run_id = call.run_id"
        f" JOIN ({WITH_REMAINING}) budget ON budget.scope = held_scope AND budget.part = held_part"
        " AND budget.subject = CASE held_scope WHEN 'day' THEN '' ELSE call.run_id END"
        " WHERE call.rowid > ? AND call.rowid <= ? AND verdict = 'denied' AND reason = 'cap'"
        f" AND run.state <> 'frozen' AND held_scope IN {_CAPS} ORDER BY call.rowid",
        since.call,
        call,
    )
    others = tx.all(
        "SELECT call.created_at AS at, 'denied' AS kind, call.run_id, call.relayed, call.id AS call_id,"
        " call.task_id, call.vendor, call.operation, call.reason, call.message"
        " FROM call JOIN claim ON claim.id = call.claim_id JOIN run ON run.run_id = call.run_id"
        " WHERE call.rowid > ? AND call.rowid <= ? AND verdict = 'denied' AND reason <> 'revoked'"
        f" AND NOT (reason = 'cap' AND (run.state = 'frozen' OR held_scope IN {_CAPS}))"
        " ORDER BY call.rowid",
        since.call,
        call,
    )
    concerned = {row["run_id"] for row in entries} | since.frozen
    states = tx.all(
        "SELECT run_id, state FROM run WHERE run_id IN (SELECT value FROM json_each(?))",
        json.dumps(sorted(concerned)),
    )
    frozen = frozenset(row["run_id"] for row in states if row["state"] == "frozen")
    thawed = {row["run_id"] for row in states if row["state"] == "active"} & since.frozen
    return Found(
        Position(entry, call, frozen),
        sorted([*entries, *denied, *others], key=lambda row: int(row["at"])),
        frozen - since.frozen,
        frozenset(thawed),
        _in_doubt(tx, {row["run_id"] for row in entries if row["kind"] == "doubt"}),
    )


def _in_doubt(tx: Tx, run_ids: Collection[str]) -> dict[str, tuple[int, int]]:
    rows = tx.all(
        "SELECT run_id, count(*) AS calls, sum(reserved_micros) AS micros FROM call WHERE state = 'in_doubt'"
        " AND run_id IN (SELECT value FROM json_each(?)) GROUP BY run_id",
        json.dumps(sorted(run_ids)),
    )
    return {row["run_id"]: (row["calls"], row["micros"]) for row in rows}
