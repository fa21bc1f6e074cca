"""What a transaction at a server changes of the day's budget as it ends: all runs take from that one row.

Who changes a row at once has it to the end, while each statement that follows goes to the server and back.
What waits until then goes with the commit, in one message, and others wait for the commit alone.

That it may wait is seen before: the row has the cap that it ought to have, and room. It is looked at once
more as it is changed, and where that is not so any more nothing is committed: the transaction is done again,
alone. So it leaves the books as it would by changing the row at once; there is no state beside them. Parts of
the cap that are lent to each luigid would be rows that nobody waits for, but they have ends, outlive who has
them, and have to be taken back near the cap. A file has one writer at a time, and needs neither.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass
class _Change:
    """Changes of one budget, in micro-dollars; `taken`: what needs room, under `cap` (None: nothing does)."""

    cap: int | None = None
    taken: int = 0
    spent: int = 0
    reserved: int = 0
    overrun: int = 0


class LateChanges:
    """Changes of budgets that wait for the end of a transaction, by the budgets' ids."""

    def __init__(self) -> None:
        self._changes: dict[int, _Change] = {}
        #: The caps of budgets from which may be taken as it ends.
        self._caps: dict[int, int] = {}

    def may_take(self, budget_id: int, cap: int, left: int, amount: int) -> bool:
        """Return whether `amount` may be taken later from a budget with that cap and so much left."""
        known = self._changes.get(budget_id, _Change())
        may = known.cap in (None, cap) and known.taken + amount <= left
        if may:
            self._caps[budget_id] = cap
        else:
            self._caps.pop(budget_id, None)
        return may

    def takes(self, budget_id: int) -> bool:
        """Return whether what is taken from a budget is taken later."""
        return budget_id in self._caps

    def take(self, budget_ids: Iterable[int], amount: int) -> None:
        """Let `amount` be taken from each."""
        for budget_id in budget_ids:
            known = self._changes.setdefault(budget_id, _Change())
            known.cap = self._caps[budget_id]
            known.taken += amount
            known.reserved += amount

    def move(self, budget_id: int, spent: int, reserved: int, overrun: int) -> None:
        """Let totals be changed, whatever there is room for."""
        known = self._changes.setdefault(budget_id, _Change())
        known.spent += spent
        known.reserved += reserved
        known.overrun += overrun

    def __contains__(self, budget_id: int) -> bool:
        return budget_id in self._changes

    def of(self, budget_id: int) -> tuple[int, int, int]:
        """Return by how much spent, reserved and overrun of a budget will have changed."""
        known = self._changes.get(budget_id, _Change())
        return known.spent, known.reserved, known.overrun

    def copy(self) -> LateChanges:
        """Return what there is now, to go back to."""
        copied = LateChanges()
        copied._changes = {budget_id: _Change(**vars(one)) for budget_id, one in self._changes.items()}
        copied._caps = dict(self._caps)
        return copied

    def statements(self) -> list[str]:
        """Return what makes the changes, by the rows' numbers; divides by 0 where one may not be."""
        return [_statement(budget_id, one) for budget_id, one in sorted(self._changes.items())]


#: Divides by 1 where a budget has that cap still, and room for what is taken, else by 0.
_MAY = (
    " / CAST(cap_micros = {cap:d} AND shadow_micros = 0"
    " AND spent_micros + reserved_micros + overrun_micros + {taken:d} <= cap_micros AS integer)"
)


def _statement(budget_id: int, change: _Change) -> str:
    may = ""
    if change.cap is not None:
        may = _MAY.format(cap=change.cap, taken=change.taken)
    return (
        f"UPDATE budget SET reserved_micros = reserved_micros + ({change.reserved:d}){may},"
        f" spent_micros = spent_micros + ({change.spent:d}),"
        f" overrun_micros = overrun_micros + ({change.overrun:d}) WHERE id = {budget_id:d}"
    )
