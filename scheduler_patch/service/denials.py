"""Why calls were denied that no operator's decision lets pass, in words: for runs, summaries and the log."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from luigi_spendguard.ledger.database import Row
from luigi_spendguard.protocol import command


@dataclass(frozen=True)
class Denied:
    """What calls of a run were denied for, and what shows them."""

    run_id: str
    reason: str
    text: str
    shows: str


def call_text(row: Row) -> str:
    """Return which call a row is about."""
    of = f" of task {row['task_id']}" if row["task_id"] else ""
    return f"call {row.get('call_id') or row['id']}{of} ({row['vendor']}, {row['operation']})"


def of_known(rows: Iterable[Row], knows: Callable[[str], bool]) -> list[Row]:
    """Return denied calls, but those of ended runs whose tasks the scheduler has forgotten: they are over."""
    return [
        row
        for row in rows
        if row["run_state"] != "ended"
        or any(knows(task_id) for task_id in (row["task_id"], *json.loads(row["members"])))
    ]


def grouped(rows: Iterable[Row]) -> list[Denied]:
    """Return what denied calls, newest first, were denied for: each reason of a run once."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        found.setdefault((row["run_id"], row["reason"]), []).append(row)
    return [_together(run_id, reason, those) for (run_id, reason), those in found.items()]


def _together(run_id: str, reason: str, rows: list[Row]) -> Denied:
    others = len(rows) - 1
    more = f" (and {others} {'other' if others == 1 else 'others'})" if others else ""
    text = f"{call_text(rows[0])} was denied{more}: {reason}: {rows[0]['message']}"
    return Denied(run_id, reason, text, shows(run_id, reason))


def shows(run_id: str, reason: str) -> str:
    """Return the command that shows a run's calls that were denied for a reason."""
    return command("calls", "--run", run_id, "--verdict", f"denied:{reason}")
