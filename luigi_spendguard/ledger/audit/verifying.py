"""`verify`: whether the books are as they were sealed. It says the first row that is not.

First the chain itself, with each entry of the journal beside what was sealed of it; then each call, with the
last that was sealed of it; then the budgets' totals, and what is in force beside. Some rows at a time are in
memory. Others may write meanwhile: what the journal says and no block has yet is not sealed, and so are the
calls that it is about.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from luigi_spendguard.ledger.audit import rows
from luigi_spendguard.ledger.audit.blocks import Block, block_of, last_block
from luigi_spendguard.ledger.audit.chain import Chain, check_chain, check_known
from luigi_spendguard.ledger.audit.rights import wrongs
from luigi_spendguard.ledger.audit.signing import Head, PublicKeys
from luigi_spendguard.ledger.audit.sums import discrepancies
from luigi_spendguard.ledger.audit.tampering import (
    Tampered,
    call_named,
    difference,
    entry_named,
    moment_of,
    read,
    texts_of,
    when,
)
from luigi_spendguard.ledger.database import Row, Tx
from luigi_spendguard.money import Micros, format_usd

#: Calls that are read at once.
_CALLS = 500
#: Each call as it is, with the first and the last that was sealed of it, the last entry about it and what its
#: entries come to (spent, reserved, overrun), and up to which the journal is sealed: one statement, so that
#: all is of one moment.
_LIVE = (
    f"SELECT {rows.SEALED}, call.rowid AS place, latest.seq AS sealed_seq, latest.block AS sealed_block,"
    " latest.text AS sealed_text, first.seq AS first_seq, first.block AS first_block,"
    " CASE WHEN first.seq < latest.seq THEN first.text END AS first_text,"
    " (SELECT max(id) || ' ' || sum(spent_micros) || ' ' || sum(reserved_micros) || ' ' ||"
    " sum(overrun_micros) FROM journal WHERE journal.call_id = call.id) AS said,"
    " (SELECT max(entry) FROM audit_block) AS sealed_entry"
    f" {rows.FROM_CALLS} LEFT JOIN audit_row AS latest ON latest.seq ="
    " (SELECT max(seq) FROM audit_row WHERE audit_row.kind = 'call' AND audit_row.name = call.id)"
    " LEFT JOIN audit_row AS first ON first.seq ="
    " (SELECT min(seq) FROM audit_row WHERE audit_row.kind = 'call' AND audit_row.name = call.id)"
    f" WHERE call.rowid > ? AND (latest.seq IS NULL OR latest.seq >= ?) ORDER BY call.rowid LIMIT {_CALLS}"
)
#: Calls that were sealed and are not in the books, by run; `kept` are those of which entries are left that
#: go with a call that is pruned.
_GONE = (
    "SELECT run_id, count(*) AS calls, min(seq) AS seq, min(CASE WHEN is_kept = 1 THEN seq END) AS kept FROM"
    " (SELECT name, max(seq) AS seq, max(run_id) AS run_id, max(CASE WHEN EXISTS (SELECT 1 FROM journal"
    " WHERE journal.call_id = name AND request_id IS NULL) THEN 1 ELSE 0 END) AS is_kept"
    " FROM audit_row WHERE kind = 'call' AND seq >= ?"
    " AND NOT EXISTS (SELECT 1 FROM call WHERE call.id = audit_row.name) GROUP BY name) AS gone"
    " GROUP BY run_id ORDER BY seq"
)
_PRUNED = (
    "SELECT journal.run_id, sum(calls) AS calls, sum(entries) AS entries FROM audit_pruned"
    " JOIN journal ON journal.id = audit_pruned.entry GROUP BY journal.run_id"
)


@dataclass
class Verified:
    """What was looked at, and is as it was sealed.

    Attributes:
        chain: its blocks and rows; one without blocks: nothing is sealed.
        calls: how many of them.
        unsealed: how many entries of the journal are not sealed yet, `since` when the oldest is there.

    """

    chain: Chain
    calls: int = 0
    unsealed: int = 0
    since: int | None = None


def verify(
    tx: Tx,
    keys: PublicKeys,
    *,
    head: Head | None = None,
    told: Iterable[Block] = (),
    since: int | None = None,
) -> Verified:
    """Compare the books with what was sealed of them. Raises Tampered at the first that differs.

    `keys` are the public keys that are believed, by their ids; `head` is the last block that is known outside
    of the database, read before it; `told` are blocks as they were told elsewhere. `since`: from which block
    on, by when it was sealed (milliseconds since the epoch); None: all.
    """
    with texts_of("the ledger"):
        return _verified(tx, keys, head, told, since)


def _verified(
    tx: Tx, keys: PublicKeys, head: Head | None, told: Iterable[Block], since: int | None
) -> Verified:
    last = last_block(tx)
    check_known(tx, last, keys, head, told)
    if last is None:
        return _with_unsealed(tx, Verified(Chain()))
    pruned = tx.all(_PRUNED)
    chain = check_chain(tx, keys, since)
    assert chain.first is not None, "there is a last block"
    found = Verified(chain, _check_calls(tx, chain.first.first_seq, chain.pruned_entry))
    _check_pruned(tx, chain, pruned)
    for wrong in discrepancies(tx):
        raise Tampered(f"a total was changed: {wrong}")
    for wrong in wrongs(tx):
        raise Tampered(f"what is in force was changed: {wrong}")
    return _with_unsealed(tx, found)


def _check_calls(tx: Tx, first_seq: int, pruned_entry: int) -> int:
    """Compare each call with what was sealed of it last; return how many there are."""
    count, place = 0, -(2**62)
    while some := read(tx, f"a call behind the first {count}", _LIVE, place, first_seq):
        for row in some:
            _check_call(tx, row, pruned_entry)
        count, place = count + len(some), some[-1]["place"]
    return count


def _check_call(tx: Tx, row: Row, pruned_entry: int) -> None:
    last_entry, *said = map(int, (row["said"] or "0 0 0 0").split())
    is_fresh = last_entry > row["sealed_entry"]  # It is sealed anew with that.
    is_pruned = row["sealed_text"] is None and 0 < last_entry <= pruned_entry
    if row["sealed_text"] is None and not is_fresh and not is_pruned:
        # What only reads has an entry when it has ended.
        if not last_entry and row["state"] == "pending" and not row["wire_key"]:
            return
        text = call_named(row, f"made {moment_of(row['created_at'])}")
        raise Tampered(f"{text} is in the ledger, and in no block: it was put in")
    if row["first_text"] is not None:
        # Whatever came later, it is the same call.
        _check_same(tx, row, json.loads(row["first_text"]), "first", rows.FIXED)
    if row["sealed_text"] is not None:
        names = rows.FIXED if is_fresh else None
        _check_same(tx, row, json.loads(row["sealed_text"]), "sealed", names)
    _check_amounts(row, said)


def _check_same(
    tx: Tx, row: Row, sealed: dict[str, Any], which: str, names: Collection[str] | None = None
) -> None:
    """Look whether a call is as it was sealed, `first` or last (`sealed`); `names`: in these fields."""
    if what := difference(rows.call_object, row, sealed, names=names):
        block = block_of(tx, row[f"{which}_block"])
        assert block is not None, "the chain was looked at before"
        text = call_named(sealed, f"row {row[f'{which}_seq']} of {when(block)}")
        raise Tampered(f"{text} was changed since: {what}", block, row[f"{which}_seq"])


def _check_amounts(row: Row, said: Sequence[int]) -> None:
    """Look whether a call's amounts are what its entries come to: spent, reserved and overrun."""
    amounts = [row[f"{name}_usd"] for name in ("settled", "corrected", "reserved", "overrun")]
    if not all(isinstance(amount, int) for amount in amounts):
        return  # Then it is not as it was sealed.
    settled, corrected, reserved, overrun = amounts
    is_open = row["state"] in ("pending", "in_doubt")
    if (has := [settled + corrected, reserved if is_open else 0, overrun]) != said:
        text = call_named(row, f"made {moment_of(row['created_at'])}")
        shown = [", ".join(format_usd(Micros(one)) for one in some) for some in (has, said)]
        raise Tampered(
            f"the amounts of {text} were changed: spent, reserved and overrun are {shown[0]}, and its "
            f"entries come to {shown[1]}"
        )


def _check_pruned(tx: Tx, chain: Chain, before: Sequence[Row]) -> None:
    """Look whether as much is gone from each run as the journal says that was pruned; `before`: by then."""
    missing, first_seq = chain.missing, 1 if chain.first is None else chain.first.first_seq
    gone = {row["run_id"]: row for row in tx.all(_GONE, first_seq)}
    for row in gone.values():
        if row["kept"] is not None:
            raise _deleted(tx, row["kept"], "and entries about it were not: it was not pruned")
    after = tx.all(_PRUNED)
    pruned = {row["run_id"]: row for row in after}
    is_exact = chain.is_whole and after == before  # Else it may have been pruned meanwhile.
    for run_id in dict.fromkeys((*gone, *missing.count, *(pruned if is_exact else ()))):
        said = pruned.get(run_id, {"calls": 0, "entries": 0})
        calls = gone[run_id]["calls"] if run_id in gone else 0
        if calls > said["calls"]:
            raise _deleted(
                tx, gone[run_id]["seq"], f"of whose run {calls} are gone and {said['calls']} were pruned"
            )
        entries = missing.count[run_id]
        if entries > said["entries"]:
            block, one = missing.first[run_id]
            raise Tampered(
                f"{entry_named(one, block)} was deleted from the journal: of its run {entries} entries "
                f"are gone and {said['entries']} were pruned",
                block,
                one["seq"],
            )
        if is_exact and (calls, entries) != (said["calls"], said["entries"]):
            raise Tampered(
                f"of run {run_id or 'none'} {said['calls']} calls and {said['entries']} entries are said to "
                f"have been pruned, and {calls} and {entries} are gone"
            )


def _deleted(tx: Tx, seq: int, why: str) -> Tampered:
    row = tx.one("SELECT block, text FROM audit_row WHERE seq = ?", seq)
    assert row is not None
    block = block_of(tx, row["block"])
    assert block is not None, "the chain was looked at before"
    text = call_named(json.loads(row["text"]), f"row {seq} of {when(block)}")
    return Tampered(f"{text} was deleted, {why}", block, seq)


def _with_unsealed(tx: Tx, found: Verified) -> Verified:
    """Add what is not sealed yet."""
    entry = 0 if found.chain.last is None else found.chain.last.entry
    row = tx.one("SELECT count(*) AS entries, min(at) AS at FROM journal WHERE id > ?", entry)
    if row is not None:
        found.unsealed, found.since = row["entries"], row["at"]
    return found
