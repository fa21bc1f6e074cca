"""`prepared`: a backup is put in the ledger's place, with what the replaced ledger still knows of later.

A backup knows nothing of what came after it. Calls that were paid since would be paid again by tasks that are
made again, and caps have that much room again. So no run that may have spent since goes on by itself: nothing
remains to it until an operator tops it up by what the vendor's books leave of it. What was revoked since is
revoked again, as far as the replaced ledger can be read.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from luigi_spendguard.errors import Conflict, LedgerError, LedgerUnavailable, NotFound
from luigi_spendguard.ledger import keys, runs
from luigi_spendguard.ledger.audit.blocks import Block, last_block
from luigi_spendguard.ledger.audit.signing import PublicKeys
from luigi_spendguard.ledger.audit.sums import discrepancies
from luigi_spendguard.ledger.audit.verifying import verify
from luigi_spendguard.ledger.backup import Contents, copied, proved
from luigi_spendguard.ledger.budgets import JournalEntry, journal, open_budget, run_budget, set_cap
from luigi_spendguard.ledger.database import Row, Tx, copies
from luigi_spendguard.ledger.database.engines import opened
from luigi_spendguard.ledger.migrations import migrate
from luigi_spendguard.money import Micros, format_usd
from luigi_spendguard.settings.policy import moment

#: Calls that are listed at the most; all are in the ledger that is kept.
MOST_LISTED = 1000

_RUNS = """
    SELECT run.id, run.run_id, name, seq, by_task_id, root_family, root_task_id, label, state, asked_micros,
    opened_at, ended_at, cap_micros - shadow_micros AS own_micros, spent_micros, reserved_micros,
    overrun_micros, run_id IN (SELECT id FROM key_terms) AS is_key FROM run JOIN budget
    ON budget.scope = 'run' AND budget.subject = run.run_id AND budget.part = '' ORDER BY run.id
"""
#: What is kept of a run that only the replaced ledger knows, as it is there.
_KEPT = (
    *("run_id", "name", "seq", "by_task_id", "root_family", "root_task_id", "label"),
    *("asked_micros", "opened_at", "ended_at"),
)
_KEYS = """
    SELECT claim.id, run_id, claim.state FROM claim JOIN key_terms ON key_terms.id = claim.id
    WHERE claim.state = 'revoked' ORDER BY claim.id
"""
_TOP_UPS = (
    "SELECT at, run_id, note, cap_micros FROM journal WHERE kind = 'top_up' AND id > ? ORDER BY id LIMIT ?"
)
_CALLS = """
    SELECT call.id, call.run_id, call.task_id, call.vendor, call.operation, call.object_id, call.state,
    settled_micros + corrected_micros + overrun_micros AS cost FROM call JOIN
    (SELECT call_id, min(id) AS entry FROM journal WHERE id > ? AND kind IN ('reserve','settle','correct',
     'overrun','doubt','operator') GROUP BY call_id) AS later ON later.call_id = call.id
    WHERE state IN ('settled','pending','in_doubt') ORDER BY entry LIMIT ?
"""


@dataclass(frozen=True)
class LaterRun:
    """A run of the replaced ledger that the backup does not know as it is there.

    Attributes:
        row: it, as that ledger has it.
        spent: what it has spent (overrun included) and reserved since, in micro-dollars.
        is_new: it was opened since.
        is_revoked: it was revoked since.

    """

    row: Row
    spent: int
    is_new: bool
    is_revoked: bool

    @property
    def run_id(self) -> str:
        """Its id."""
        return str(self.row["run_id"])

    @property
    def left(self) -> int:
        """What remained of it there, in micro-dollars."""
        return max(0, int(self.row["own_micros"]) - _counted(self.row))


@dataclass
class Later:
    """What the ledger that is replaced knows, and the backup does not.

    Attributes:
        is_there: there is such a ledger, and it has something in it.
        wrong: why it is not whole; "": it is.
        is_same: it has the books of the backup, at another time, as far as can be seen.
        entries: so many entries of its journal came later.
        runs: None: they cannot be read there.
        keys, top_ups, calls: what was revoked, topped up and called since, as far as it can be read.
        unread: what of it cannot be read.

    """

    is_there: bool = False
    wrong: str = ""
    is_same: bool = True
    entries: int = 0
    runs: list[LaterRun] | None = None
    keys: list[Row] = field(default_factory=list)
    top_ups: list[Row] = field(default_factory=list)
    calls: list[Row] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)

    @property
    def knows(self) -> bool:
        """Whether it says of each run what it has come to."""
        return self.is_there and self.is_same and self.runs is not None


@dataclass(frozen=True)
class HeldRun:
    """A run to which nothing remains in the restored books; `left`: what did in the backup, and what in the
    replaced ledger (None: nobody knows).
    """

    run_id: str
    left: int
    left_there: int | None


@dataclass
class Restoration:
    """A backup that was proved, and is about to be put in its place.

    Attributes:
        contents: what it has.
        later: what the ledger there knows besides.
        held: the runs to which nothing remains until they are topped up.
        sealed, is_verified: the last block of its audit, None where nothing was sealed; and whether all of it
            is as it was sealed, by the public keys that were given.

    """

    source: Path
    place: Path
    contents: Contents
    later: Later
    held: list[HeldRun]
    sealed: Block | None
    is_verified: bool
    _made: Path

    def put(self, *, with_revokes: bool, actor: str) -> Path | None:
        """Put it in its place; return under which name the old ledger is kept, None where there was none.

        Raises Conflict where the ledger is used, and LedgerUnavailable; nothing was changed then.
        """
        kept = self._kept()
        with opened(self._made) as books, books.writing() as tx:
            tx.take_time()
            tx.actor = actor
            note = f"from {self.source.name}, whose last entry is {self.contents.last_entry}, made at "
            note += str(moment(self.contents.last_at))
            journal(tx, JournalEntry("restore", note=note))
            _carry_over(tx, self.later, with_revokes=with_revokes)
            for one in self.held:
                _hold(tx, one, moment(self.contents.last_at) or "")
            if discrepancies(tx):
                raise Conflict("the restored books do not add up: nothing was changed")
        copies.single(self._made)
        _refuse_used(self.place)
        if kept is not None and not self.later.wrong:
            copies.finish(self.place)
        copies.replace(self._made, self.place, kept)
        return kept

    def _kept(self) -> Path | None:
        if not self.place.exists():
            return None
        with opened(self._made, read_only=True) as books, books.reading() as tx:
            now = (moment(tx.now()) or "").replace(":", "").replace("-", "")
        names = (f"{self.place.name}.until-{now}{end}" for end in ("", *(f"-{one}" for one in range(2, 99))))
        return next(path for name in names if not (path := self.place.with_name(name)).exists())


@contextmanager
def prepared(
    source: Path, place: Path, keys: PublicKeys, *, although_whole: bool = False
) -> Iterator[Restoration]:
    """Prove a backup, and look what the ledger in `place` knows besides; nothing is changed before `put`.

    `keys`: the public keys that its audit is verified by, where there are any. Raises Tampered where it is
    not as it was sealed, LedgerUnavailable where it is no backup, and Conflict where it does not add up, the
    ledger is used, is another program's database, or is whole and would lose something (unless
    `although_whole`).
    """
    if not source.is_file():
        raise NotFound(f"there is no backup {source}")
    if place.exists() and source.samefile(place):
        raise Conflict(f"{source} is the ledger itself: name a backup of it")
    _refuse_used(place)
    _refuse_foreign(place)
    with copies.new_file(place, place) as made:
        try:
            found = copied(source, made, f"the backup {source}")
        except LedgerUnavailable as error:
            raise LedgerUnavailable(f"{error}. Take another backup; nothing was changed") from None
        migrate(made)
        with opened(made, read_only=True) as books, books.reading() as tx:
            tx.take_time()
            sealed = last_block(tx)
            if is_verified := bool(keys) and sealed is not None:
                verify(tx, keys)
            mine = {row["run_id"]: row for row in tx.all(_RUNS)}
            later = _later(place, tx, mine, found)
        if later.is_there and not later.wrong and not although_whole:
            _refuse_to_lose(later, place)
        yield Restoration(source, place, found, later, _held(mine, later), sealed, is_verified, made)


def _refuse_used(place: Path) -> None:
    with opened(place, read_only=True) as books:
        if place.exists() and books.is_used():
            raise Conflict(
                f"{place} is in use: end luigid, its gateways and workers with --local-scheduler first, as "
                "what they write meanwhile would be lost"
            )


def _refuse_foreign(place: Path) -> None:
    """Refuse another program's database; one that cannot be read may be a damaged ledger."""
    if not place.exists() or copies.damage(place):
        return
    with opened(place, read_only=True) as books, books.reading() as tx:
        if tx.has_tables() and not tx.has_tables("journal"):
            raise Conflict(f"{place} is another program's database: name another --to")


def _refuse_to_lose(later: Later, place: Path) -> None:
    """Refuse to replace books that are whole by a state that knows less."""
    advice = "with --replace-whole it is replaced all the same, and kept beside the new one"
    if not later.is_same:
        raise Conflict(
            f"{place} has other books than the backup's, and is whole: name another --to, or {advice}"
        )
    if later.entries > 0:
        raise Conflict(
            f"the ledger {place} is whole, and knows more than the backup (entries of its journal: "
            f"{later.entries}, calls: {len(later.calls)}): go on with it, as what only it knows would be "
            f"paid for again; {advice}"
        )


def _counted(row: Row) -> int:
    return int(row["spent_micros"] + row["reserved_micros"] + row["overrun_micros"])


def _later(place: Path, tx: Tx, mine: dict[str, Row], found: Contents) -> Later:
    """Return what the ledger in `place` knows besides; what cannot be read of it is said."""
    later = Later()
    if not place.exists() or not place.stat().st_size:
        return later
    later.is_there = True
    try:
        theirs = proved(place, f"the ledger {place}")
    except LedgerError as error:
        later.wrong = str(error)
    else:
        later.entries = max(0, theirs.last_entry - found.last_entry)
    rows = _read(place, later, "runs", _RUNS)
    if rows is not None:
        later.is_same = _are_of_one(mine, rows)
    if not later.is_same:
        return later
    later.runs = None if rows is None else [one for row in rows if (one := _changed(mine, row)) is not None]
    revoked = {row["id"] for row in tx.all(_KEYS)}
    known = {row["id"] for row in tx.all("SELECT id FROM key_terms")}
    later.keys = [
        row
        for row in _read(place, later, "vault keys", _KEYS) or ()
        if row["id"] in known and row["id"] not in revoked
    ]
    since = found.last_entry, MOST_LISTED
    later.top_ups = _read(place, later, "top-ups", _TOP_UPS, *since) or []
    later.calls = _read(place, later, "calls", _CALLS, *since) or []
    return later


def _read(place: Path, later: Later, what: str, sql: str, *values: Any) -> list[Row] | None:
    """Return rows of a ledger that may be damaged; None where they cannot be read."""
    try:
        with opened(place, read_only=True) as books, books.reading() as tx:
            return tx.all(sql, *values)
    except LedgerError:
        later.unread.append(what)
        return None


def _are_of_one(mine: dict[str, Row], theirs: list[Row]) -> bool:
    """Return whether one has the runs of the other, and perhaps more: runs are never deleted."""
    common = [
        row for row in theirs if (own := mine.get(row["run_id"])) and own["opened_at"] == row["opened_at"]
    ]
    return len(common) == min(len(mine), len(theirs))


def _changed(mine: dict[str, Row], row: Row) -> LaterRun | None:
    """Return a run as the later ledger has it, None where the restored books lose nothing of it."""
    own = mine.get(row["run_id"])
    is_revoked = row["state"] == "revoked" and (own is None or own["state"] != "revoked")
    if own is None:
        is_lost = is_revoked or _counted(row) > 0
        return LaterRun(row, _counted(row), True, is_revoked) if is_lost and not row["is_key"] else None
    if not is_revoked and (_counted(row), row["own_micros"]) == (_counted(own), own["own_micros"]):
        return None
    return LaterRun(row, _counted(row) - _counted(own), False, is_revoked)


def _held(mine: dict[str, Row], later: Later) -> list[HeldRun]:
    """Return the runs to which nothing may remain: those that have spent since, or may have."""
    theirs = {one.run_id: one for one in later.runs or ()}
    held = []
    for run_id, row in mine.items():
        left = max(0, int(row["own_micros"]) - _counted(row))
        other = theirs.get(run_id)
        if row["state"] not in ("active", "frozen") or not left:
            continue
        if other is not None and other.spent:
            held.append(HeldRun(run_id, left, other.left))
        elif not later.knows:
            held.append(HeldRun(run_id, left, None))
    return held


def _carry_over(tx: Tx, later: Later, *, with_revokes: bool) -> None:
    """Revoke again what was revoked since; let runs that were opened since be known, with nothing left."""
    for one in later.runs or ():
        if one.is_new:
            row = one.row
            state = "active" if row["state"] in ("revoked", "frozen") else row["state"]
            note = f"known from the ledger that was replaced: it had spent {format_usd(one.spent)} there"
            unknown = {"estimated_micros": 0, "unknown_tasks": 0}
            tx.insert("run", **{name: row[name] for name in _KEPT}, **unknown, state=state, note=note)
            open_budget(tx, "run", one.run_id, "", Micros(0))
            first = tx.value("SELECT min(id) FROM journal WHERE run_id = ?", one.run_id)
            tx.run("UPDATE run SET begun = ? WHERE run_id = ?", first, one.run_id)
            if row["state"] == "ended":
                journal(tx, JournalEntry("close", run_id=one.run_id))
        if with_revokes and one.is_revoked:
            runs.revoke(tx, one.run_id)
    if with_revokes:
        for key in later.keys:
            keys.revoke_key(tx, key["id"])


def _hold(tx: Tx, one: HeldRun, until: str) -> None:
    """Let nothing remain to a run: what it has spent since is not known to these books."""
    budget = run_budget(tx, one.run_id)
    cap, own = _counted(budget), int(budget["cap_micros"] - budget["shadow_micros"])
    set_cap(tx, budget, min(own, cap), JournalEntry("set_cap", run_id=one.run_id))
    note = (
        f"its cap was {format_usd(own)}, {format_usd(one.left)} of it left, in the backup of {until} that it "
        "was restored from; what it has spent since is not in these books"
    )
    if one.left_there is not None:
        note += f" (the ledger that was replaced had {format_usd(one.left_there)} left)"
    note += ": top it up by what the vendor's books leave of that"
    tx.run(
        "UPDATE run SET note = CASE note WHEN '' THEN ?1 ELSE note || '; ' || ?1 END WHERE run_id = ?2",
        note,
        one.run_id,
    )
