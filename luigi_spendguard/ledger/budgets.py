"""Budgets: the rows that money is taken from, and the journal of every change to them.

Everything here runs inside one transaction of the caller.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from luigi_spendguard.errors import Conflict
from luigi_spendguard.ledger.database import NOW, TODAY, Row, Tx
from luigi_spendguard.ledger.names import of_run
from luigi_spendguard.money import MAX_MICROS, Micros, format_usd

#: remaining = cap - spent - reserved - overrun, never below 0; what shadow mode has lent is no cap.
REMAINING = "max(0, cap_micros - shadow_micros - spent_micros - reserved_micros - overrun_micros)"
#: Budgets with what remains of them; a condition may follow.
WITH_REMAINING = f"SELECT *, {REMAINING} AS remaining_micros FROM budget"


class JournalEntry(NamedTuple):
    """A change of totals, or an event that changes none; amounts are changes in micro-dollars.

    Attributes:
        budget_id: the budget that it concerns alone; None: all budgets of the call.
        request_id: whose change it is, where it is made once for each.

    """

    kind: str
    run_id: str = ""
    call_id: str | None = None
    budget_id: int | None = None
    cap: int = 0
    spent: int = 0
    reserved: int = 0
    overrun: int = 0
    request_id: str | None = None
    note: str = ""


def event(kind: str, call: Row, note: str = "") -> JournalEntry:
    """Return the entry of something that moves no money: each call, and each change of one, has an entry.

    What is sealed of a call (`ledger.audit`) is sealed anew with each entry about it.
    """
    return JournalEntry(kind, run_id=call["run_id"], call_id=call["id"], note=note)


def journal(tx: Tx, entry: JournalEntry) -> None:
    """Append one entry."""
    tx.later(_APPEND, *entry, tx.actor)
    if entry.kind in _TOLD:
        tx.tells = True


#: What other luigids are told at once: it ends what they may begin, or lets begin what waits there. What each
#: call reserves and spends they look for: if all were told, all would wait for each other.
_TOLD = frozenset(
    {"revoke", "top_up", "approve", "set_cap", "operator", "overrun", "void", "correct", "close"}
)


_APPEND = (
    "INSERT INTO journal (at, kind, run_id, call_id, budget_id, cap_micros, spent_micros,"
    " reserved_micros, overrun_micros, request_id, note, actor)"
    f" VALUES ({NOW},?,?,?,?,?,?,?,?,?,?,?)"
)


def was_made(tx: Tx, entry: JournalEntry) -> bool:
    """Return whether a change was made before under its request id. Raises Conflict where another was."""
    done = tx.one("SELECT * FROM journal WHERE request_id = ?", entry.request_id)
    if done is None:
        return False
    if (done["kind"], done["run_id"], done["call_id"], done["note"]) != (
        entry.kind,
        entry.run_id,
        entry.call_id,
        entry.note,
    ):
        raise Conflict(f"request id {entry.request_id} was used for another change: make a new one")
    return True


def is_known(tx: Tx, request_id: str) -> bool:
    """Return whether a change was made before under that request id."""
    return tx.value("SELECT 1 FROM journal WHERE request_id = ?", request_id) is not None


def last_entry(tx: Tx) -> int:
    """Return the number of the journal's last entry: what is said later comes after it."""
    return int(tx.value("SELECT max(id) FROM journal") or 0)


def runs_since(tx: Tx, entry: int) -> list[str]:
    """Return the runs that the journal is about behind an entry of that number."""
    rows = tx.all("SELECT DISTINCT run_id FROM journal WHERE id > ? AND run_id <> '' ORDER BY run_id", entry)
    return [row["run_id"] for row in rows]


def run_budget(tx: Tx, run_id: str) -> Row:
    """Return the budget row of a run, with `remaining_micros`."""
    row = tx.one(f"{WITH_REMAINING} WHERE scope = 'run' AND subject = ? AND part = ''", run_id)
    assert row is not None, "a run is opened together with its budget"
    return row


def open_budget(tx: Tx, scope: str, subject: str, part: str, cap: Micros) -> int:
    """Make a budget and journal its cap; return its id."""
    if scope == "day":
        tx.check_alone("the day's budget is made")
    else:
        tx.check(of_run(subject))
    budget_id = tx.insert(
        "budget",
        scope=scope,
        subject=subject,
        part=part,
        cap_micros=cap,
        spent_micros=0,
        reserved_micros=0,
        overrun_micros=0,
        shadow_micros=0,
        raised_micros=0,
    )
    run_id = subject if scope == "run" else ""
    journal(tx, JournalEntry("open", run_id=run_id, budget_id=budget_id, cap=cap))
    return budget_id


def beyond_day(tx: Tx, run_id: str) -> Row | None:
    """Return the budget of what a run may spend today beyond the day's cap, None where it may not.

    A call is counted in the day's budget or, where that has no room for it, in this one: never in both.
    """
    return tx.one(f"{WITH_REMAINING} WHERE scope = 'beyond_day' AND subject = ? AND part = {TODAY}", run_id)


def raise_cap(tx: Tx, budget_id: int, amount: Micros, entry: JournalEntry) -> None:
    """Raise a budget for good above what luigi.cfg says. Raises Conflict for what no cap can be."""
    row = tx.one("SELECT * FROM budget WHERE id = ?", budget_id)
    assert row is not None
    check_raise(row, amount)
    tx.run("UPDATE budget SET raised_micros = raised_micros + ? WHERE id = ?", amount, budget_id)
    set_cap(tx, row, row["cap_micros"] - row["shadow_micros"] + amount, entry)


def check_raise(row: Row, amount: Micros) -> None:
    """Raise Conflict for an amount by which a budget cannot be raised."""
    if amount <= 0 or row["cap_micros"] + amount > MAX_MICROS:
        raise Conflict(
            f"a top-up of {format_usd(amount)} is out of range: it is more than $0.00, and a cap is at most "
            f"{format_usd(MAX_MICROS)} (this one is {format_usd(row['cap_micros'])})"
        )


@dataclass(frozen=True)
class KeptBudget:
    """A budget that is made when need be.

    Attributes:
        cap: in micro-dollars.
        follows: it has luigi.cfg's cap of now, and counts what was spent before it was made; else it keeps
            the cap that it was made with.

    """

    scope: str
    subject: str
    part: str
    cap: Micros
    follows: bool = True


def key_budgets(run_id: str, terms: Row, today: str) -> list[KeptBudget]:
    """Return a vault key's own budgets of that UTC day; only a top-up changes their caps."""
    budgets = []
    if terms["run_cap_micros"] is not None:
        budgets.append(KeptBudget("key", run_id, terms["budget"], terms["run_cap_micros"], follows=False))
    if terms["daily_cap_micros"] is not None:
        part = f"{terms['budget']} {today}"
        budgets.append(KeptBudget("key_day", run_id, part, terms["daily_cap_micros"], follows=False))
    return budgets


_SET_CAP = JournalEntry("set_cap")


def set_cap(tx: Tx, row: Row, cap: int, entry: JournalEntry = _SET_CAP) -> None:
    """Bring a budget's own cap to `cap`; what shadow mode has lent beyond it shrinks or grows with it.

    Where that changes nothing, only an `entry` of somebody's request is journalled.
    """
    lent = max(0, row["cap_micros"] - cap) if row["shadow_micros"] else 0
    if (cap + lent, lent) == (row["cap_micros"], row["shadow_micros"]) and entry.request_id is None:
        return
    tx.run("UPDATE budget SET cap_micros = ?, shadow_micros = ? WHERE id = ?", cap + lent, lent, row["id"])
    journal(tx, entry._replace(budget_id=row["id"], cap=cap + lent - row["cap_micros"]))


def budgets_of(tx: Tx, call_id: str) -> list[int]:
    """Return the ids of the budgets that a call's reservation is made in."""
    linked = tx.all("SELECT budget_id FROM call_budget WHERE call_id = ?", call_id)
    return [int(link["budget_id"]) for link in linked]


def cost_so_far(call: Row) -> int:
    """Return what a call has cost so far, in micro-dollars."""
    return int(call["settled_micros"] + call["corrected_micros"] + call["overrun_micros"])


_HAS_ROOM = "spent_micros + reserved_micros + overrun_micros + ?1 <= cap_micros - shadow_micros"


@cache
def _taking(count: int) -> str:
    """Return the statement that takes ?1 from so many budgets (?2 and on), or from none."""
    among = ",".join(f"?{number}" for number in range(2, count + 2))
    others = f" AND (SELECT count(*) FROM budget WHERE id IN ({among}) AND {_HAS_ROOM}) = {count}"
    return (
        f"UPDATE budget SET reserved_micros = reserved_micros + ?1 WHERE id IN ({among}) AND {_HAS_ROOM}"
        + (others if count > 1 else "")
    )


@cache
def _fitting(count: int) -> str:
    """Return the query of how many of so many budgets (?2 and on) have room for ?1."""
    among = ",".join(f"?{number}" for number in range(2, count + 2))
    return f"SELECT count(*) FROM budget WHERE id IN ({among}) AND {_HAS_ROOM}"


@cache
def _taking_surely(count: int) -> str:
    """Return the statement that takes ?1 from so many budgets (?2 and on), or divides by 0."""
    among = ",".join(f"?{number}" for number in range(2, count + 2))
    return (
        "UPDATE budget SET reserved_micros = reserved_micros + ?1 /"
        f" CASE WHEN {_HAS_ROOM} THEN 1 ELSE 0 END WHERE id IN ({among})"
    )


def fit_ahead(tx: Tx, budget_ids: Sequence[int], amount: int) -> None:
    """Let it be looked with the next query whether budgets have room for `amount`, as `take_money` does."""
    if tx.late is not None:
        tx.ahead(_fitting(len(budget_ids)), amount, *sorted(budget_ids))


def take_money(tx: Tx, budget_ids: Sequence[int], amount: Micros) -> Row | None:
    """Move `amount` from remaining to reserved in all budgets, or change nothing.

    Returns None when all had room, else the first budget that had not (its row, with `remaining_micros`).
    Raises LookupError for a budget that is not in the ledger.
    """
    late = tx.late
    budgets = sorted(one for one in budget_ids if late is None or not late.takes(one))
    if late is None:
        if tx.run(_taking(len(budgets)), amount, *budgets) == len(budgets):
            return None
    elif tx.value(_fitting(len(budgets)), amount, *budgets) == len(budgets):
        # Nobody else takes from them meanwhile; did one, nothing would be committed.
        tx.later(_taking_surely(len(budgets)), amount, *budgets)
        late.take({*budget_ids}.difference(budgets), amount)
        return None
    for budget_id in budgets:
        row = tx.one(f"{WITH_REMAINING} WHERE id = ?", budget_id)
        if row is None:  # Nothing is granted by a budget that is not there.
            raise LookupError(f"budget {budget_id} is not in the ledger")
        counted = row["spent_micros"] + row["reserved_micros"] + row["overrun_micros"]
        if counted + amount > row["cap_micros"] - row["shadow_micros"]:
            return row
    raise LookupError(f"budgets {budgets} have room for {amount}, and it was not taken")


def lend_money(tx: Tx, run_id: str, budget_ids: Sequence[int], amount: Micros) -> None:
    """Raise every budget's cap by what `amount` lacks in it: shadow mode lets through what a cap denies."""
    tx.check_alone("shadow mode lends")
    for budget_id in sorted(budget_ids):
        row = tx.one("SELECT * FROM budget WHERE id = ?", budget_id)
        assert row is not None
        counted = row["spent_micros"] + row["reserved_micros"] + row["overrun_micros"]
        short = max(0, counted + amount - row["cap_micros"])
        own = row["cap_micros"] - row["shadow_micros"]
        tx.run(
            "UPDATE budget SET cap_micros = cap_micros + ?1, shadow_micros = cap_micros + ?1 - ?2,"
            " reserved_micros = reserved_micros + ?3 WHERE id = ?4",
            short,
            own,
            amount,
            budget_id,
        )
        if short:
            journal(tx, JournalEntry("lend", run_id=run_id, budget_id=budget_id, cap=short))


def move_money(tx: Tx, call: Row, entry: JournalEntry) -> None:
    """Change the totals of all budgets of `call` by what `entry` says, and journal it once."""
    tx.check(of_run(call["run_id"]))
    if entry.spent or entry.reserved or entry.overrun:
        changes = entry.spent, entry.reserved, entry.overrun
        if tx.late is None:
            tx.run(_MOVE, *changes, call["id"])
        else:
            for row in tx.all(DAYS_OF, call["id"]):
                tx.late.move(row["id"], *changes)
            tx.later(_MOVE_NOW, *changes, call["id"])
    journal(tx, entry._replace(run_id=call["run_id"], call_id=call["id"]))


_MOVE = (
    "UPDATE budget SET spent_micros = spent_micros + ?1, reserved_micros = reserved_micros + ?2,"
    " overrun_micros = overrun_micros + ?3 WHERE id IN (SELECT budget_id FROM call_budget WHERE call_id = ?4)"
)
#: At a server: but for the day's, and those.
_MOVE_NOW = f"{_MOVE} AND scope <> 'day'"
DAYS_OF = (
    "SELECT id FROM budget WHERE scope = 'day'"
    " AND id IN (SELECT budget_id FROM call_budget WHERE call_id = ?)"
)


def put_in_doubt(tx: Tx, call: Row, note: str, status: int = 0, vendor_request: str = "") -> None:
    """Let a pending call go on counting, its outcome unknown until it is resolved.

    `vendor_request`: as the `EndRequest`'s; what was known of it stays where nothing is.
    """
    tx.check(of_run(call["run_id"]))
    tx.run(
        "UPDATE call SET state = 'in_doubt', unknown = 1, status = ?, message = ?,"
        " vendor_request = coalesce(nullif(?, ''), vendor_request) WHERE id = ?",
        status,
        note,
        vendor_request,
        call["id"],
    )
    journal(tx, event("doubt", call, note))
