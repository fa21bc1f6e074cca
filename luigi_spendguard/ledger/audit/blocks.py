"""Blocks: which entries and calls come next, their rows, and the signed head that chains them together.

A block has the next entries of the journal, up to `MOST`, and behind them each call that they are about as it
is then: a call is sealed anew whenever the journal says something of it.
"""

from __future__ import annotations

import json
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from luigi_spendguard.ledger.audit import rows
from luigi_spendguard.ledger.audit.merkle import leaf_hash, root
from luigi_spendguard.ledger.audit.rows import AFTER, canonical, usd
from luigi_spendguard.ledger.budgets import last_entry
from luigi_spendguard.ledger.database import Row, Tx, insertion

#: Entries of a block at the most.
MOST = 256
#: Rows that are made before whoever waits for the interpreter has it.
_AT_A_TIME = 16
#: Runs whose figures are remembered between blocks.
_MOST_RUNS = 4096
#: The name of the chain, for who adds to it (`ledger.names`).
OF_AUDIT = "audit"
_COLUMNS = ("seq", "block", "kind", "name", "run_id", "at", "text")
_INSERT = insertion("audit_row", *_COLUMNS)
#: What the budget of each run of ?1 had after entry ?2: what it has now, without what came later. What was
#: pruned is in both.
_FIGURES = (
    "SELECT own.subject AS run_id, own.id, own.cap_micros - coalesce(sum(later.cap_micros), 0) AS cap,"
    " own.spent_micros - coalesce(sum(later.spent_micros), 0) AS spent,"
    " own.reserved_micros - coalesce(sum(later.reserved_micros), 0) AS reserved,"
    " own.overrun_micros - coalesce(sum(later.overrun_micros), 0) AS overrun"
    " FROM budget AS own LEFT JOIN journal AS later ON later.run_id = own.subject AND later.id > ?2"
    " AND later.kind <> 'prune' AND (later.budget_id = own.id OR later.budget_id IS NULL AND EXISTS"
    " (SELECT 1 FROM call_budget WHERE call_budget.call_id = later.call_id AND budget_id = own.id))"
    " WHERE own.scope = 'run' AND own.part = '' AND own.subject IN (SELECT value FROM json_each(?1))"
    " GROUP BY own.id, own.subject, own.cap_micros, own.spent_micros, own.reserved_micros,"
    " own.overrun_micros"
)
#: Which entries (of ids above ?1, up to ?2) changed the budget of their run, by the call that they are about.
_COUNTED = (
    "SELECT journal.id FROM journal JOIN budget ON scope = 'run' AND subject = journal.run_id AND part = ''"
    " JOIN call_budget ON call_budget.call_id = journal.call_id AND call_budget.budget_id = budget.id"
    " WHERE journal.id > ?1 AND journal.id <= ?2 AND journal.budget_id IS NULL AND kind <> 'prune'"
)
_AMOUNTS = ("cap", "spent", "reserved", "overrun")


@dataclass(frozen=True)
class Block:
    """A signed block, as the table has it; hashes and the signature are hexadecimal."""

    number: int
    ledger: str
    first_seq: int
    last_seq: int
    entry: int
    root: str
    previous: str
    hash: str
    key_id: str
    signature: str
    sealed_at: int

    @classmethod
    def of(cls, row: Row) -> Block:
        """Return a row of `audit_block`."""
        return cls(**row)

    @property
    def head(self) -> str:
        """What is signed, and hashed to `hash`."""
        return head_text(self)


def head_text(block: Block | Mapping[str, Any]) -> str:
    """Return what is signed of a block, in canonical JSON."""
    names = ("number", "ledger", "first_seq", "last_seq", "entry", "root", "previous", "key_id", "sealed_at")
    values = block if isinstance(block, Mapping) else vars(block)
    return canonical({name: values[name] for name in names})


def last_block(tx: Tx) -> Block | None:
    """Return the newest block, None where there is none yet."""
    row = tx.one("SELECT * FROM audit_block ORDER BY number DESC LIMIT 1")
    return None if row is None else Block.of(row)


def block_of(tx: Tx, number: int) -> Block | None:
    """Return the block of a number, None: there is none."""
    row = tx.one("SELECT * FROM audit_block WHERE number = ?", number)
    return None if row is None else Block.of(row)


def sealed_entry(tx: Tx) -> int | None:
    """Return the journal's last entry that is sealed, None where nothing is sealed of these books."""
    found = tx.value("SELECT max(entry) FROM audit_block")
    return None if found is None else int(found)


@dataclass(frozen=True)
class Draft:
    """What the next block will have: `texts` are its rows' leaves, `entries` how many of them are entries.

    `unsealed`: there is more behind it.
    """

    first_seq: int
    entry: int
    rows: Sequence[tuple[Any, ...]]
    entries: int
    unsealed: bool
    now: int

    @property
    def texts(self) -> list[str]:
        """The leaves of its rows."""
        return [row[-1] for row in self.rows]


class RunFigures:
    """What runs' budgets had after the last entry that was looked at, in micro-dollars."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, dict[str, int]] = OrderedDict()
        self._entry = -1

    def after(self, tx: Tx, entries: Sequence[Row], since: int) -> list[dict[str, str | None]]:
        """Return what is sealed of each entry's run, `AFTER` it; `since`: the entry before the first."""
        if since != self._entry:  # Another process has sealed meanwhile.
            self._known.clear()
        runs = {entry["run_id"] for entry in entries if entry["run_id"]}
        if new := sorted(runs - self._known.keys()):
            for row in tx.all(_FIGURES, json.dumps(new), since):
                self._known[row["run_id"]] = row
        last = entries[-1]["id"]
        counted = {row["id"] for row in tx.all(_COUNTED, since, last)}
        found = [self._step(entry, counted) for entry in entries]
        for run_id in runs & self._known.keys():
            self._known.move_to_end(run_id)
        while len(self._known) > _MOST_RUNS:
            self._known.popitem(last=False)
        self._entry = last
        return found

    def _step(self, entry: Row, counted: set[int]) -> dict[str, str | None]:
        known = self._known.get(entry["run_id"])
        if known is None:
            return dict.fromkeys(AFTER)
        if entry["id"] in counted or (entry["budget_id"] == known["id"] and entry["kind"] != "prune"):
            for name in _AMOUNTS:
                known[name] += entry[f"{name}_micros"]
        return {f"run_{name}_usd": usd(known[name]) for name in _AMOUNTS}


def draft(tx: Tx, figures: RunFigures, last: Block | None) -> Draft | None:
    """Return what comes behind a block, None where that is nothing yet. It only reads."""
    settled = tx.settled(last_entry)  # Nothing may come before it any more.
    since, seq = (0, 1) if last is None else (last.entry, last.last_seq + 1)
    if settled is None or settled <= since:
        return None
    where = f"WHERE journal.id > ? AND journal.id <= ? ORDER BY journal.id LIMIT {MOST}"
    entries = tx.all(f"{rows.ENTRIES} {where}", since, settled)
    if not entries:
        return None
    after = figures.after(tx, entries, since)
    number = 1 if last is None else last.number + 1
    made: list[tuple[Any, ...]] = []

    def add(kind: str, name: str, run_id: str, at: int, sealed: dict[str, Any]) -> None:
        if not len(made) % _AT_A_TIME:
            time.sleep(0)  # Else calls would wait for the interpreter until the whole block is made.
        sealed["seq"] = seq + len(made)
        made.append((sealed["seq"], number, kind, name, run_id, at, canonical(sealed)))

    for entry, run in zip(entries, after, strict=True):
        sealed = {**rows.entry_object(entry), **run}
        add("entry", str(entry["id"]), entry["run_id"], entry["at"], sealed)
    ids = json.dumps(sorted({entry["call_id"] for entry in entries if entry["call_id"] is not None}))
    # Behind the entries: what is written meanwhile is sealed with its own entry, too.
    which = "WHERE call.id IN (SELECT value FROM json_each(?)) ORDER BY call.rowid"
    for call in tx.all(f"SELECT {rows.SEALED} {rows.FROM_CALLS} {which}", ids):
        add("call", call["id"], call["run_id"], call["created_at"], rows.call_object(call))
    top = int(entries[-1]["id"])
    return Draft(seq, top, made, len(entries), top < settled, tx.now())


def sealed_block(
    drafted: Draft, last: Block | None, ledger: str, key_id: str, sign: Callable[[str], str]
) -> Block:
    """Return a draft as the block behind `last`, signed."""
    values: dict[str, Any] = {
        "number": 1 if last is None else last.number + 1,
        "ledger": ledger,
        "first_seq": drafted.first_seq,
        "last_seq": drafted.first_seq + len(drafted.rows) - 1,
        "entry": drafted.entry,
        "root": root([leaf_hash(text) for text in drafted.texts]).hex(),
        "previous": "" if last is None else last.hash,
        "key_id": key_id,
        "sealed_at": drafted.now,
    }
    text = head_text(values)
    return Block(**values, hash=sha256(text.encode()).hexdigest(), signature=sign(text))


def append(tx: Tx, drafted: Draft, block: Block) -> bool:
    """Add a block to the chain; return whether it was: not where another process was first, or has pruned."""
    tx.check(OF_AUDIT)
    last = last_block(tx)
    if (block.previous, block.number) != (("", 1) if last is None else (last.hash, last.number + 1)):
        return False
    since = 0 if last is None else last.entry
    if (
        tx.value("SELECT count(*) FROM journal WHERE id > ? AND id <= ?", since, block.entry)
        != drafted.entries
    ):
        return False
    tx.insert_all(_INSERT, drafted.rows)
    tx.insert("audit_block", **vars(block))
    return True
