"""What the gate remembers after a restart: all of it from the ledger, which is the only truth."""

from __future__ import annotations

import json

from luigi_spendguard.ledger.database import Row
from luigi_spendguard.ledger.snapshot import Start
from scheduler_patch.dispatch.model import Entry, Hold
from scheduler_patch.dispatch.state import Memory


def begin(gate: Memory, start: Start) -> None:
    """Rebuild everything from the ledger."""
    gate.hear(start)
    for members in start.batches:
        gate.batches.update(dict.fromkeys(members, tuple(members)))
    for claim in start.claims:
        _recall(gate, claim)
    for run in gate.runs.values():
        run.tasks.update(dict.fromkeys(t for t, e in gate.entries.items() if run.run_id in e.runs))


def _recall(gate: Memory, claim: Row) -> None:
    """Take over the latest claim of a task: which run it stays with, why it is held, and whether it runs."""
    members: tuple[str, ...] = tuple(json.loads(claim["members"]))
    for each in (claim["task_id"], *members):
        entry = gate.entries.get(each) or gate.kept.setdefault(each, Entry(each, ""))
        entry.pinned, entry.hold = claim["run_id"], _hold(gate, claim)
        if claim["held_scope"] == "approval":
            entry.cost = max(entry.cost or 0, claim["held_micros"])
    entry = gate.entries.get(claim["task_id"]) or gate.kept[claim["task_id"]]
    if claim["ended_at"] is None or claim["task_id"] not in members:
        entry.left, entry.members = claim["left_micros"], members
    if claim["ended_at"] is None:
        _running(gate, entry, claim)


def _hold(gate: Memory, claim: Row) -> Hold | None:
    if claim["held_scope"] in ("", "approval") or gate.rules.shadow:
        return None
    part = "" if claim["held_scope"] == "day" else claim["held_part"]
    return Hold(claim["held_scope"], part, claim["held_micros"])


def _running(gate: Memory, entry: Entry, claim: Row) -> None:
    """Take it that a task may be running: its end was not heard."""
    if gate.kept.pop(entry.task_id, None) is not None:
        gate.entries[entry.task_id] = entry
        entry.runs = [claim["run_id"]]
    entry.claimed_by = claim["worker"]
    run = gate.runs.get(claim["run_id"])
    if run is not None and claim["state"] == "open" and not entry.counted_in:
        gate.count(run, entry, entry.left or 0)
    elif run is not None and run.state == "revoked":
        gate.stop(run.run_id)
