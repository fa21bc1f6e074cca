"""The chain itself: whether each block is signed and follows the one before, and has its rows and entries."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from operator import itemgetter
from typing import Any

from luigi_spendguard.ledger.audit import rows
from luigi_spendguard.ledger.audit.blocks import Block, block_of
from luigi_spendguard.ledger.audit.checkpoints import Checkpoint, vouched
from luigi_spendguard.ledger.audit.merkle import leaf_hash, root
from luigi_spendguard.ledger.audit.signing import Head, PublicKeys, is_signed
from luigi_spendguard.ledger.audit.tampering import (
    Tampered,
    difference,
    entry_named,
    moment_of,
    read,
    when,
)
from luigi_spendguard.ledger.database import Row, Tx

#: Blocks that are read at once.
_BLOCKS = 50
#: What stands beside a row's text.
_COLUMNS = ("block", "kind", "name", "run_id", "at")
_columns_of = itemgetter(*_COLUMNS)


@dataclass
class Missing:
    """Sealed entries that are not in the journal, by run: how many, and the first one's row and block."""

    count: Counter[str] = field(default_factory=Counter)
    first: dict[str, tuple[Block, dict[str, Any]]] = field(default_factory=dict)


@dataclass
class Chain:
    """What was looked at of the chain: its blocks, how many of them and of rows, and what is missing.

    `is_whole`: the first is where it began; `pruned_entry`: up to which entry what was sealed is pruned.
    """

    first: Block | None = None
    last: Block | None = None
    blocks: int = 0
    rows: int = 0
    is_whole: bool = True
    pruned_entry: int = 0
    missing: Missing = field(default_factory=Missing)


def check_known(
    tx: Tx, last: Block | None, keys: PublicKeys, head: Head | None, told: Iterable[Block]
) -> None:
    """Compare the chain with what is known of it outside of the database."""
    has = "no block at all" if last is None else f"block {last.number} as its last"
    if head is not None:
        if last is None or last.number < head.number:
            raise Tampered(
                f"block {head.number} was sealed here, and the ledger has {has}: an older ledger was "
                "restored, or blocks were taken out"
            )
        if last.ledger != head.ledger:
            raise Tampered(
                f"{when(last)} is another ledger's: this one was put in the place of the one sealed here",
                last,
            )
        known = block_of(tx, head.number)
        if known is not None and known.hash != head.hash:
            raise Tampered(f"{when(known)} is another one than was sealed here", known)
    for block in told:
        text = f"block {block.number} was told elsewhere ({moment_of(block.sealed_at)})"
        key = keys.get(block.key_id)
        if key is None or not is_signed(block.head, block.signature, key):
            raise Tampered(f"{text}, and what was told is not signed by a key that is believed", block)
        if last is None or last.number < block.number:
            gone = "an older ledger was restored, or blocks were taken out"
            raise Tampered(f"{text}, and the ledger has {has}: {gone}", block)
        known = block_of(tx, block.number)
        if known is not None and known != block:
            raise Tampered(f"{text}, and the ledger has another block of that number", known)


def check_chain(tx: Tx, keys: PublicKeys, since: int | None) -> Chain:
    """Look at each block from the first on that was sealed at `since` or later; None: at all."""
    before, number, entry = _start(tx, keys, since)
    chain = Chain(is_whole=before is None, pruned_entry=entry)
    for block in _blocks(tx, number):
        _check_block(block, before, keys)
        _check_rows(tx, block, before, chain.missing)
        chain.first, chain.last = chain.first or block, block
        chain.blocks += 1
        chain.rows += block.last_seq - block.first_seq + 1
        before = block
    if chain.first is None:
        raise Tampered(f"block {number} is gone, and none is left behind it")
    _check_beyond(tx, before)
    return chain


def _start(tx: Tx, keys: PublicKeys, since: int | None) -> tuple[Block | None, int, int]:
    """Return behind which block is looked (None: from the beginning), the first one's number, and up to which
    entry nothing is sealed any more, as that was pruned.
    """
    first = int(tx.value("SELECT min(number) FROM audit_block"))
    pruned, before, entry = vouched(tx, keys), None, 0
    # What a prune that is under way, or was interrupted, has left of the blocks up to there is of no chain.
    is_begun = pruned is not None and block_of(tx, pruned[0].block) is None
    if pruned is not None and is_begun and _vouches(pruned[0], pruned[1]["seq"]):
        before, entry = pruned[0].ends, pruned[0].entry
        first = before.number + 1
    elif first > 1 and (unsigned := vouched(tx, None)) is not None and unsigned[0].block == first - 1:
        raise Tampered(
            f"the blocks up to {first - 1} are gone, and no key that is believed has signed that they were "
            "pruned: they were taken out. Where an earlier version has pruned them, prune a later day: that "
            "is signed"
        )
    if since is None:
        return before, first, entry
    number = tx.value("SELECT min(number) FROM audit_block WHERE sealed_at >= ?", since)
    number = int(number or tx.value("SELECT max(number) FROM audit_block"))
    if number <= first:
        return before, first, entry
    if (before := block_of(tx, number - 1)) is not None:
        _check_head(before, keys)
    return before, number, entry


def _vouches(pruned: Checkpoint, seq: int) -> bool:
    """Return whether a checkpoint, sealed as row `seq`, stands behind what it is about."""
    numbers = (pruned.block, pruned.last_seq, pruned.entry)
    return all(isinstance(one, int) for one in numbers) and seq > pruned.last_seq


def _blocks(tx: Tx, number: int) -> Iterator[Block]:
    """Yield blocks from a number on; the ones before it are looked for, too, where it is the first."""
    at = number if number > 1 else min(number, int(tx.value("SELECT min(number) FROM audit_block")))
    where = f"WHERE number >= ? ORDER BY number LIMIT {_BLOCKS}"
    while some := read(tx, "a block", f"SELECT * FROM audit_block {where}", at):
        for row in some:
            yield Block.of(row)
        at = some[-1]["number"] + 1


def _check_head(block: Block, keys: PublicKeys) -> None:
    """Look whether a block's head is what was signed."""
    text = block.head
    if sha256(text.encode()).hexdigest() != block.hash:
        raise Tampered(f"{when(block)} was changed: its head has another hash than it says", block)
    key = keys.get(block.key_id)
    if key is None:
        raise Tampered(
            f"{when(block)} is signed with key {block.key_id[:16]}, which is not believed here", block
        )
    if not is_signed(text, block.signature, key):
        raise Tampered(
            f"{when(block)} was made anew, or changed: its signature is not that of its key", block
        )


def _check_block(block: Block, before: Block | None, keys: PublicKeys) -> None:
    """Look whether a block is signed and follows the one before."""
    wanted = 1 if before is None else before.number + 1
    if block.number != wanted:
        raise Tampered(f"block {wanted} is gone: {when(block)} stands in its place", block)
    _check_head(block, keys)
    previous, seq, entry = ("", 1, 0) if before is None else (before.hash, before.last_seq + 1, before.entry)
    follows = block.previous == previous and block.first_seq == seq and block.entry > entry
    if not follows or (before is not None and block.ledger != before.ledger):
        text = "begins no chain" if before is None else f"does not follow block {before.number}"
        raise Tampered(f"{when(block)} {text}: blocks were taken out, put in, or are another ledger's", block)


def _check_rows(tx: Tx, block: Block, before: Block | None, missing: Missing) -> None:
    """Look whether a block's rows are those that were sealed, and the journal's entries as they say."""
    of_block = "SELECT * FROM audit_row WHERE seq >= ? AND seq <= ? ORDER BY seq"
    found = read(tx, f"a row of {when(block)}", of_block, block.first_seq, block.last_seq)
    live = read(
        tx,
        f"an entry of the journal that {when(block)} has",
        f"{rows.ENTRIES} WHERE journal.id > ? AND journal.id <= ? ORDER BY journal.id",
        -(2**62) if before is None else before.entry,
        block.entry,
    )
    entries = {row["id"]: row for row in live}
    sealed = _sealed_of(found, block)
    if root([leaf_hash(row["text"]) for row in found]).hex() != block.root:
        raise _first_changed(tx, sealed, entries, block)
    for row, one in zip(found, sealed, strict=True):
        _check_columns(row, one, block)
    for one in sealed:
        if one["row"] != "entry":
            continue
        now = entries.pop(one["id"], None)
        if now is None:
            _miss(tx, one, block, missing)
        elif what := difference(rows.entry_object, now, one):
            raise Tampered(f"{entry_named(one, block)} was changed since: {what}", block, one["seq"])
    for entry in entries.values():
        what = f"entry {entry['id']} ({entry['kind']}, run {entry['run_id'] or 'none'})"
        raise Tampered(
            f"{what} was put into the journal after {when(block)}, which has all up to there", block
        )


def _sealed_of(found: Sequence[Row], block: Block) -> list[dict[str, Any]]:
    """Return what the rows of a block say; look whether all are there, each at its place."""
    sealed = []
    for seq, row in zip(range(block.first_seq, block.last_seq + 1), found, strict=False):
        if row["seq"] != seq:
            raise Tampered(f"row {seq} of {when(block)} was taken out", block, seq)
        try:
            one = json.loads(row["text"])
            is_row = isinstance(row["text"], str) and isinstance(one["id"], (int, str))
            is_row = is_row and one["row"] in ("entry", "call") and isinstance(one["seq"], int)
        except (ValueError, KeyError, TypeError, RecursionError):
            is_row = False
        if not is_row:
            raise Tampered(f"row {seq} of {when(block)} was changed: its text is no sealed row", block, seq)
        if one["seq"] != seq:
            raise Tampered(
                f"row {seq} of {when(block)} was changed: it has the text of row {one['seq']}, so rows were "
                "put in another order",
                block,
                seq,
            )
        sealed.append(one)
    if len(sealed) <= block.last_seq - block.first_seq:
        seq = block.first_seq + len(sealed)
        raise Tampered(f"row {seq} of {when(block)} was taken out", block, seq)
    return sealed


def _first_changed(
    tx: Tx, sealed: Sequence[dict[str, Any]], entries: Mapping[int, Row], block: Block
) -> Tampered:
    """Return which row of a block has another text than was sealed, as far as the books can tell."""
    for one in sealed:
        if one["row"] == "call":
            if (named := _changed_call(tx, one, block)) is not None:
                return named
            continue
        now = entries.get(one["id"])
        if now is not None and (what := difference(rows.entry_object, now, one, is_now=False)):
            return Tampered(
                f"the audit's text of {entry_named(one, block)} was changed: {what}", block, one["seq"]
            )
    return Tampered(
        f"the audit's text of a row of {when(block)} was changed (rows {block.first_seq} to "
        f"{block.last_seq}): they have not the root that it was sealed with",
        block,
        block.first_seq,
    )


def _changed_call(tx: Tx, one: dict[str, Any], block: Block) -> Tampered | None:
    """Return that the audit's text of a call was changed, where it is the last one and is not as the call."""
    later = "SELECT 1 FROM audit_row WHERE kind = 'call' AND name = ? AND seq > ?"
    now = tx.one(f"SELECT {rows.SEALED} {rows.FROM_CALLS} WHERE call.id = ?", one["id"])
    if now is None or tx.value(later, one["id"], one["seq"]) is not None:
        return None
    if (what := difference(rows.call_object, now, one, is_now=False)) is None:
        return None
    text = f"the audit's text of call {one['id']} (row {one['seq']} of {when(block)}) was changed: {what}"
    return Tampered(text, block, one["seq"])


def _check_columns(row: Row, one: Mapping[str, Any], block: Block) -> None:
    """Look whether what stands beside a row's text is what that says."""
    at = one.get("at") if one["row"] == "entry" else one.get("created_at")
    wanted = (block.number, one["row"], str(one["id"]), one["run_id"], at)
    if _columns_of(row) == wanted:
        return
    for name, value in zip(_COLUMNS, wanted, strict=True):
        if row[name] != value:
            raise Tampered(
                f"row {row['seq']} of {when(block)} was changed: its {name} was {value} and is {row[name]}",
                block,
                row["seq"],
            )


def _miss(tx: Tx, one: dict[str, Any], block: Block, missing: Missing) -> None:
    """Take it that a sealed entry is not in the journal: it may have been pruned with its call."""
    call_id = one.get("call_id")
    if (one["request_id"] is not None and one["budget"] is None) or (
        call_id is not None and tx.value("SELECT 1 FROM call WHERE id = ?", call_id) is not None
    ):
        raise Tampered(f"{entry_named(one, block)} was deleted from the journal", block, one["seq"])
    missing.count[one["run_id"]] += 1
    missing.first.setdefault(one["run_id"], (block, one))


def _check_beyond(tx: Tx, last: Block | None) -> None:
    """Look whether there are rows that no block has."""
    assert last is not None, "there is a block"
    beyond = tx.one("SELECT seq, block FROM audit_row WHERE seq > ? ORDER BY seq LIMIT 1", last.last_seq)
    if beyond is not None and block_of(tx, last.number + 1) is None:
        raise Tampered(f"row {beyond['seq']} of the audit was put in: no block has it", None, beyond["seq"])
    least = tx.value("SELECT min(seq) FROM audit_row")
    first = tx.value("SELECT min(first_seq) FROM audit_block")
    if least is not None and least < first:
        raise Tampered(f"row {least} of the audit was put in: no block has it", None, least)
