"""Top-ups: what one operator may raise alone, and those that wait for a second one.

What waits raises nothing. A second person's word, and no time that passes, makes a top-up of it.

Each function is one operation inside a transaction.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from luigi_spendguard.errors import Conflict, NotFound
from luigi_spendguard.ledger.budgets import JournalEntry, check_raise, is_known, journal, run_budget
from luigi_spendguard.ledger.database import NOW, Row, Tx
from luigi_spendguard.ledger.runs import Inside, check_can_be_topped_up, check_inside, top_up, top_up_inside
from luigi_spendguard.money import Micros, format_usd, plain_usd

#: For how long a top-up waits, in milliseconds; one beyond the day's cap until the (UTC) day is over.
WAITS_MS, DAY_MS = 7 * 86_400_000, 86_400_000
#: What has come of one: that time has passed by is written nowhere.
STATE = f"CASE WHEN state = 'waiting' AND expires_at <= {NOW} THEN 'expired' ELSE state END"


@dataclass(frozen=True)
class TopUp:
    """By how much a budget is to be raised, under which request id; `inside`: None for the run's own."""

    run_id: str
    inside: Inside | None
    amount: Micros
    request_id: str

    @property
    def scope(self) -> str:
        """Of the budget."""
        return "run" if self.inside is None else self.inside.scope

    @property
    def part(self) -> str:
        """The family or vendor whose budget it is; "" otherwise."""
        return "" if self.inside is None else self.inside.part

    @property
    def note(self) -> str:
        """What the journal says of it: as of a top-up."""
        budget = "" if self.inside is None else f" {self.scope} {self.part}"
        return f"{self.amount}{budget}".rstrip()


def make(tx: Tx, asked: TopUp) -> None:
    """Raise the budget, once for each request id. Raises NotFound, Conflict."""
    if asked.inside is None:
        top_up(tx, asked.run_id, asked.amount, asked.request_id)
    else:
        top_up_inside(tx, asked.run_id, asked.inside, asked.amount, asked.request_id)


def check(tx: Tx, asked: TopUp) -> None:
    """Raise NotFound or Conflict for what could not be made now either."""
    check_can_be_topped_up(tx, asked.run_id)
    if asked.inside is not None:
        check_inside(asked.run_id, asked.inside)
    check_raise(run_budget(tx, asked.run_id), asked.amount)


# What one has done.


def amount_of(note: str) -> Micros:
    """Return by how much a top-up has raised a budget, by the entry's note."""
    return Micros(int(note.partition(" ")[0]))


def raised_by(tx: Tx, run_id: str, who: str) -> Micros:
    """Return by how much somebody has raised a run's budgets, whichever, and asks to: in micro-dollars.

    `who`: as the actor of an entry begins, before ` at ADDRESS`.
    """
    rows = tx.all("SELECT note, actor FROM journal WHERE run_id = ? AND kind = 'top_up'", run_id)
    waits = tx.value(
        "SELECT sum(amount_micros) FROM top_up_request WHERE run_id = ? AND asked_by = ?"
        f" AND {STATE} = 'waiting'",
        run_id,
        who,
    )
    return Micros(_sum(rows, (who,)) + int(waits or 0))


def _sum(rows: Sequence[Row], names: Sequence[str]) -> Micros:
    """Return what those top-ups come to whose actor has one of the names; "" among them: anybody's."""
    mine = (row for row in rows if "" in names or row["actor"].partition(" at ")[0] in names)
    return Micros(sum(amount_of(row["note"]) for row in mine))


def raised_alone(tx: Tx, run_id: str, who: str, others: Sequence[str]) -> Micros:
    """Return by how much somebody, or one of `others`, has raised a run's budgets with no second person.

    Since the last top-up of it that `who` had asked for and a second person has confirmed. `others`: who may
    be the same person; "" among them: anybody.
    """
    confirmed = "SELECT confirm_id FROM top_up_request WHERE run_id = ?1 AND confirm_id IS NOT NULL"
    since = tx.value(
        f"SELECT max(id) FROM journal WHERE run_id = ?1 AND request_id IN ({confirmed} AND asked_by = ?2)",
        run_id,
        who,
    )
    rows = tx.all(
        "SELECT note, actor FROM journal WHERE run_id = ?1 AND kind = 'top_up' AND id > ?2"
        f" AND (request_id IS NULL OR request_id NOT IN ({confirmed}))",
        run_id,
        int(since or 0),
    )
    return _sum(rows, (who, *others))


# What waits.


def known(tx: Tx, asked: TopUp) -> Row | None:
    """Return what was asked for under that request id and had to wait, None where nothing was.

    Raises Conflict where that was something else.
    """
    row = tx.one("SELECT id FROM top_up_request WHERE request_id = ?", asked.request_id)
    if row is None:
        return None
    row = request_row(tx, row["id"])
    then = (row["run_id"], row["scope"], row["part"], row["amount_micros"])
    if then != (asked.run_id, asked.scope, asked.part, asked.amount):
        raise Conflict(f"request id {asked.request_id} was used for another change: make a new one")
    return row


def ask(tx: Tx, asked: TopUp, who: str) -> Row:
    """Let a top-up wait for a second operator. Raises NotFound, Conflict: it could not be made."""
    check(tx, asked)
    request_id = f"tu_{secrets.token_hex(6)}"
    now = tx.now()
    until = (now // DAY_MS + 1) * DAY_MS if asked.scope == "day" else now + WAITS_MS
    tx.run(
        "INSERT INTO top_up_request (id, request_id, run_id, scope, part, amount_micros, asked_by,"
        " asked_from, asked_at, expires_at, state, ended_from) VALUES (?,?,?,?,?,?,?,?,?,?,'waiting','')",
        request_id,
        asked.request_id,
        asked.run_id,
        asked.scope,
        asked.part,
        asked.amount,
        who,
        tx.actor,
        now,
        until,
    )
    entry = JournalEntry("ask_top_up", run_id=asked.run_id, request_id=asked.request_id)
    journal(tx, entry._replace(note=f"{asked.note} ({request_id})"))
    return request_row(tx, request_id)


def request_row(tx: Tx, name: str) -> Row:
    """Return what waits, or has waited, by its id. Raises NotFound."""
    row = tx.one(f"SELECT *, {STATE} AS shown_state FROM top_up_request WHERE id = ?", name)
    if row is None:
        raise NotFound("there is no such top-up: `spendguard top-ups` lists those that wait")
    return row


def _end(tx: Tx, row: Row, state: str, confirm_id: str | None) -> None:
    """End one that waits. Raises Conflict where it does not any more."""
    ended = tx.run(
        f"UPDATE top_up_request SET state = ?, ended_at = {NOW}, ended_from = ?, confirm_id = ?"
        f" WHERE id = ? AND {STATE} = 'waiting'",
        state,
        tx.actor,
        confirm_id,
        row["id"],
    )
    if not ended:
        by = f" by {row['ended_from']}" if row["ended_from"] else ""
        raise Conflict(f"top-up {row['id']} waits no more: it is {row['shown_state']}{by}")


def confirm(tx: Tx, name: str, asked: TopUp) -> tuple[Row, bool]:
    """Make a top-up that waits, as asked for and confirmed by both; `asked.request_id` is the confirm's.

    Returns it, and whether that was done before under that id. Raises NotFound, Conflict: it waits no more,
    or its run cannot be topped up any more.
    """
    row = request_row(tx, name)
    if row["state"] == "confirmed" and row["confirm_id"] == asked.request_id:
        return row, True
    if is_known(tx, asked.request_id):
        raise Conflict(f"request id {asked.request_id} was used for another change: make a new one")
    _end(tx, row, "confirmed", asked.request_id)
    alone = tx.actor
    tx.actor = f"{row['asked_from']}, confirmed by {alone}"
    try:
        make(tx, asked)
    finally:
        tx.actor = alone
    return request_row(tx, name), False


def withdraw(tx: Tx, name: str) -> tuple[Row, bool]:
    """Let a top-up wait no more; it comes with whether that was done before. Raises NotFound, Conflict."""
    row = request_row(tx, name)
    if row["state"] == "withdrawn":
        return row, True
    _end(tx, row, "withdrawn", None)
    inside = f" {row['scope']} {row['part']}".rstrip() if row["scope"] != "run" else ""
    note = f"{row['amount_micros']}{inside} ({name})"
    journal(tx, JournalEntry("withdraw_top_up", run_id=row["run_id"], note=note))
    return request_row(tx, name), False


@dataclass(frozen=True)
class RequestFilter:
    """Which are asked for, newest first; None: any. `before`: older than that one."""

    run_id: str | None = None
    state: str | None = None
    before: str | None = None
    limit: int = 1000


def requests(tx: Tx, which: RequestFilter) -> list[Row]:
    """Return what waits and has waited for a second operator. Raises NotFound."""
    wanted = {"run_id = ?": which.run_id, f"{STATE} = ?": which.state}
    if which.before is not None:
        request_row(tx, which.before)
        wanted["(asked_at, id) < (SELECT asked_at, id FROM top_up_request WHERE id = ?)"] = which.before
    wanted = {condition: value for condition, value in wanted.items() if value is not None}
    where = " AND ".join(["1 = 1", *wanted])
    return tx.all(
        f"SELECT *, {STATE} AS shown_state FROM top_up_request WHERE {where}"
        " ORDER BY asked_at DESC, id DESC LIMIT ?",
        *wanted.values(),
        which.limit,
    )


def show(row: Row) -> dict[str, object]:
    """Return one for people and scripts."""
    shown: dict[str, object] = {name: row[name] for name in ("id", "run_id", "scope", "part")}
    shown |= {"usd": plain_usd(row["amount_micros"]), "state": row["shown_state"], "asker": row["asked_by"]}
    shown |= {"asked_by": row["asked_from"], "asked_at": row["asked_at"], "expires_at": row["expires_at"]}
    return shown | {"ended_by": row["ended_from"] or None, "ended_at": row["ended_at"]}


def said(row: Row) -> str:
    """Return what is asked for, for a sentence."""
    of = {"run": "", "day": " beyond the day's cap"}.get(row["scope"], f" for {row['scope']} {row['part']}")
    return f"a top-up of {format_usd(row['amount_micros'])} of run {row['run_id']}{of}"
