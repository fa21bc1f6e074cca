"""Compares both sides money by money: each cent is matched, or stands in exactly one difference."""

from __future__ import annotations

import heapq
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from itertools import groupby
from typing import Any

from luigi_spendguard.ledger.corrections import cost_by_price
from luigi_spendguard.money import format_usd, plain_usd
from luigi_spendguard.protocol import command, commands
from luigi_spendguard.reconcile.differences import Cause, Difference
from luigi_spendguard.reconcile.work_file import WorkFile
from luigi_spendguard.vendors import FollowedUp
from luigi_spendguard.vendors.own_books import CAME_IN, MARGIN_MS, MOVEMENT

#: Vendors answer what is sent again under the same key for so many milliseconds, where they do.
KEPT_MS = 24 * 3_600_000

_Row = tuple[Any, ...]


@dataclass
class Sums:
    """What both sides come to, in micro-dollars; `unpriced` in minor units by currency.

    Attributes:
        vendor, ledger: what the vendor shows, and what the ledger counts, of the period.
        matched: of both, what is the same.
        fees: what the ledger counts for fees that the vendor's prices may lack, as it has quoted them.
        vendor_only, ledger_only: what stands in differences.
        vendor_uncompared, ledger_uncompared: what cannot be compared, or not yet.
        monies: how many monies were compared, and how many of them are equal.
        kinds: how many differences there are of each kind.
        uncompared: how much cannot be compared, or not yet, of each kind.
        apart: what is shown apart: fees and what moves by itself, by kind and currency: how many, how much.

    """

    vendor: int = 0
    ledger: int = 0
    matched: int = 0
    fees: int = 0
    vendor_only: int = 0
    ledger_only: int = 0
    vendor_uncompared: int = 0
    ledger_uncompared: int = 0
    monies: int = 0
    equal: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    uncompared: Counter[str] = field(default_factory=Counter)
    unpriced: Counter[str] = field(default_factory=Counter)
    apart: dict[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def differences(self) -> int:
        """How many differences there are."""
        return sum(self.kinds.values())

    def check(self) -> None:
        """Raise AssertionError unless each cent is matched or in a difference: a mistake here."""
        shown = self.matched + self.vendor_only + self.vendor_uncompared
        counted = self.matched + self.fees + self.ledger_only + self.ledger_uncompared
        if (self.vendor, self.ledger) != (shown, counted):
            raise AssertionError(f"the sums do not close: {self}")


@dataclass(frozen=True)
class _KnownCall:
    id: str
    run_id: str
    account: str
    operation: str
    object: str | None
    target: str
    state: str
    currency: str
    asked: int
    reserved: int
    cost: int
    at_ms: int
    fees: int | None
    tag: str
    entry: int
    over_ms: int


@dataclass
class _Money:
    """All that both sides know of one money."""

    subject: str
    lines: list[_Row] = field(default_factory=list)
    items: list[tuple[str, int]] = field(default_factory=list)
    calls: list[_KnownCall] = field(default_factory=list)
    tagged: str = ""
    by_what: str = ""
    stranger: tuple[str, str] | None = None

    @property
    def best(self) -> list[_Row]:
        """The vendor's lines that count: those of the lowest rank."""
        rank = min((line[_RANK] for line in self.lines), default=0)
        return [line for line in self.lines if line[_RANK] == rank]

    @property
    def opened(self) -> list[_KnownCall]:
        """The calls that are in doubt or under way."""
        return [call for call in self.calls if call.state in ("in_doubt", "pending")]

    @property
    def is_in_two_currencies(self) -> bool:
        """Whether a call that has paid names another currency than the vendor, whatever the amounts are."""
        named = {line[_CURRENCY] for line in self.best} - {""}
        paid = {call.currency for call in self.calls if call.cost} - {""}
        return bool(named and paid and named != paid)

    @property
    def unnamed(self) -> list[_Row]:
        """The vendor's lines whose price is not known: it is named later, or has no rate here."""
        return [line for line in self.best if line[_MICROS] is None and not line[_ESTIMATED]]

    def shown(self) -> tuple[int, int]:
        """Return what the vendor shows, and how much the ledger counts on top for fees that this may lack, in
        micro-dollars. Where it names no price at all, what was quoted is taken for it.
        """
        counted = sum(micros for _, micros in self.items)
        vendor = sum(line[_MICROS] or 0 for line in self.best)
        if counted and not self.opened and any(line[_ESTIMATED] and line[_MICROS] != 0 for line in self.best):
            return counted, 0
        payers = [call for call in self.calls if call.cost]
        if len(payers) != 1 or self.opened or self.unnamed or not self.best or self.best[0][_WHOLE]:
            return vendor, 0
        own = sum(line[_MICROS] for line in self.best if line[_ID] in (payers[0].object, self.subject))
        price = FollowedUp(own, final=True)
        cost = cost_by_price(counted, payers[0].asked, payers[0].fees, price)
        return vendor, max(0, cost - vendor)


(_KIND, _AT, _STATE, _ABOUT, _AMOUNT, _CURRENCY, _MICROS, _OPEN, _TAG, _FINAL, _RANK, _INSIDE) = range(1, 13)
(_ID, _WHOLE, _ESTIMATED, _NOTE, _LISTED, _TARGET, _PRICE_BY, _ASKED) = range(13, 21)
_LINES = (
    "SELECT subject, kind, at_ms, state, about, amount, currency, micros, open_micros, tag, final, rank,"
    " inside, id, whole, estimated, note, listed, target, price_by, asked_ms FROM line ORDER BY subject,"
    " rank"
)
_ITEMS = "SELECT subject, call, micros FROM item ORDER BY subject"
#: The calls of each money, by the object that they name or by what their tag says.
_CALLS = (
    "SELECT coalesce(alias.object, call.object) AS subject, {0} FROM call LEFT JOIN alias"
    " ON alias.id = call.object WHERE call.object IS NOT NULL UNION SELECT item.subject, {0} FROM item"
    " JOIN call ON call.id = item.call UNION SELECT tagged.subject, {0} FROM tagged"
    " JOIN call ON call.id = tagged.call ORDER BY subject"
).format(
    ", ".join(
        f"call.{name}"
        for name in (
            *("id", "run_id", "account", "operation", "object", "target", "state", "currency", "asked"),
            *("reserved", "cost", "at_ms", "fees", "tag", "entry", "over_ms"),
        )
    )
)
_TAGGED = "SELECT subject, call, by_what FROM tagged ORDER BY subject"
_STRANGERS = "SELECT object, account, call FROM stranger ORDER BY object"


def _rows(db: sqlite3.Connection, number: int, sql: str) -> Iterator[tuple[str, int, _Row]]:
    for row in db.cursor().execute(sql):
        yield row[0], number, row


def _monies(db: sqlite3.Connection) -> Iterator[_Money]:
    """Yield all monies in order, one at a time in memory."""
    sources = [
        _rows(db, number, sql) for number, sql in enumerate((_LINES, _ITEMS, _CALLS, _TAGGED, _STRANGERS))
    ]
    merged = heapq.merge(*sources, key=lambda one: (one[0], one[1]))
    for subject, rows in groupby(merged, key=lambda one: one[0]):
        money = _Money(str(subject))
        for _, number, row in rows:
            if number == 0:
                money.lines.append(row)
            elif number == 1:
                money.items.append((row[1], row[2]))
            elif number == 2:
                money.calls.append(_KnownCall(*row[1:]))
            elif number == 3:
                money.tagged, money.by_what = str(row[1]), str(row[2])
            else:
                money.stranger = (str(row[1]), str(row[2]))
        yield money


@dataclass(frozen=True)
class Comparison:
    """How a vendor's account is compared.

    Attributes:
        run_id: of this run alone; "": all. What no call has made belongs to no run.
        listed: how the ids begin of objects that the vendor's lists show; empty: all of them.
        lists: the names of the lists that are read.
        unlooked: what no list has and was not asked for by itself either: there is too much of it.

    """

    work: WorkFile
    run_id: str = ""
    listed: tuple[str, ...] = ()
    lists: tuple[str, ...] = ()
    unlooked: frozenset[str] = frozenset()

    def compare(self) -> Sums:
        """Compare; what differs is written to the work file."""
        sums, db = Sums(), self.work.db
        with self.work.writing():
            db.execute("DELETE FROM difference")
            for money in _monies(db):
                self._take(money, sums)
        sums.apart = {
            f"{kind} {currency}".strip(): (count, amount)
            for kind, currency, count, amount in db.execute(
                "SELECT kind, currency, count(*), coalesce(sum(amount), 0) FROM entry"
                " WHERE NOT counted AND inside AND amount <> 0 GROUP BY kind, currency ORDER BY 1, 2"
            )
        }
        sums.check()
        return sums

    def _take(self, money: _Money, sums: Sums) -> None:
        best = money.best
        if not self._concerns(money, best):
            return
        vendor, fees = money.shown()
        ledger = sum(micros for _, micros in money.items)
        late = ledger > vendor and best and self._is_late(money, best)
        if late and money.subject not in self.unlooked:
            ledger = vendor  # The rest was counted with what it was opened by.
        for line in money.unnamed:
            if line[_AMOUNT]:
                sums.unpriced[line[_CURRENCY]] += line[_AMOUNT]
        fees = min(fees, ledger)
        matched = min(vendor, ledger - fees)
        only = (vendor - matched, ledger - fees - matched)
        sums.monies += 1
        sums.vendor, sums.ledger = sums.vendor + vendor, sums.ledger + ledger
        sums.matched, sums.fees = sums.matched + matched, sums.fees + fees
        found = _judged(self, money, best, only)
        if found is None:
            sums.equal += 1
            return
        if found.differs:
            sums.kinds[found.kind.value] += 1
            sums.vendor_only, sums.ledger_only = sums.vendor_only + only[0], sums.ledger_only + only[1]
        else:
            sums.uncompared[found.kind.value] += 1
            sums.vendor_uncompared, sums.ledger_uncompared = (
                sums.vendor_uncompared + only[0],
                sums.ledger_uncompared + only[1],
            )
        values = tuple(vars(found).values())
        self.work.db.execute(
            f"INSERT INTO difference VALUES (NULL, {','.join('?' * len(values))})",
            (found.kind.value, *values[1:]),
        )

    def _concerns(self, money: _Money, best: list[_Row]) -> bool:
        """Return whether a money is of the period, and of the run that is asked for."""
        period = self.work.work.period
        if self.run_id and not any(call.run_id == self.run_id for call in money.calls):
            return False
        if money.lines:
            doubted = any(period.has(call.at_ms) for call in money.opened)
            return doubted or any(line[_INSIDE] for line in best) or self._is_touched(money)
        if not money.items or not any(micros for _, micros in money.items):
            return bool(money.opened) and any(period.has(call.at_ms) for call in money.opened)
        openers = {name for name, _ in money.items}
        return any(period.has(call.at_ms) for call in money.calls if call.id in openers)

    def _is_touched(self, money: _Money) -> bool:
        """Return whether money has moved within the period of what may have been opened long before."""
        asked = "SELECT 1 FROM touched WHERE subject = ?"
        return self.work.db.execute(asked, (money.subject,)).fetchone() is not None

    def _is_late(self, money: _Money, best: list[_Row]) -> bool:
        """Return whether the vendor's lines are about what was opened before they were read."""
        begun = self.work.work.period.since_ms - MARGIN_MS
        openers = {name for name, _ in money.items}
        return best[0][_RANK] == MOVEMENT and any(
            call.at_ms < begun for call in money.calls if call.id in openers
        )


#: The columns of a difference, in the order of `Difference`.
_COLUMNS = tuple(one.name for one in fields(Difference))


def all_differences(work: WorkFile) -> Iterator[Difference]:
    """Yield what differs, and then what cannot be compared, as it was found."""
    cursor = work.db.cursor()
    for row in cursor.execute(f"SELECT {', '.join(_COLUMNS)} FROM difference ORDER BY differs DESC, number"):
        facts = dict(zip(_COLUMNS, row, strict=True))
        flags = {name: bool(facts[name]) for name in ("certain", "differs")}
        yield Difference(**facts | flags | {"kind": Cause(facts["kind"])})


def _judged(how: Comparison, money: _Money, best: list[_Row], only: tuple[int, int]) -> Difference | None:
    """Return the difference of a money, None where both sides say the same."""
    # Money in a currency without a rate may be equal, and nobody knows; what no call has made, and has no
    # price yet, will have one.
    unknown = any(line[_MICROS] is None and (line[_AMOUNT] or not money.items) for line in best)
    if not any(only) and not money.opened and not unknown and not money.is_in_two_currencies:
        return None
    return _Judge(how, money, best, only).judged()


def _may_be_its(call: _KnownCall, line: _Row) -> bool:
    """Return whether a line that has a call's tag is of the kind that the call makes, and of its target."""
    if not call.operation.startswith(f"{line[_LISTED]}."):
        return False
    return not (call.target and line[_TARGET]) or call.target == line[_TARGET]


@dataclass(frozen=True)
class _Judge:
    """Says of one money why both sides differ."""

    how: Comparison
    money: _Money
    best: list[_Row]
    only: tuple[int, int]

    @property
    def call(self) -> _KnownCall | None:
        """The call that it is about: the open one, else the one that has opened it, else any."""
        openers = {name for name, _ in self.money.items}
        order = [
            *(call for call in self.money.opened),
            *(call for call in self.money.calls if call.id in openers),
            *self.money.calls,
        ]
        return order[0] if order else None

    @property
    def movable(self) -> int:
        """What the vendor's lines have moved, or can still move, in micro-dollars."""
        return sum((line[_MICROS] or 0) + line[_OPEN] for line in self.best)

    @property
    def currency(self) -> str:
        """The vendor's currency."""
        return str(self.best[0][_CURRENCY]) if self.best else ""

    def judged(self) -> Difference | None:
        """Return the difference; each branch is a reason, the surest one first."""
        if self.money.opened:
            return self._open_call()
        if not self.best:
            return self._ledger_only()
        if self.best[0][_RANK] == MOVEMENT and self.money.subject in self.how.unlooked:
            text = (
                f"only a part of {self.money.subject} has moved, and there are too many such to look for each"
            )
            return self._found(Cause.NOT_LISTED, text, "repeat this for a shorter period")
        foreign = not self.money.items and not self.money.tagged
        if self.money.unnamed and (not foreign or any(line[_AMOUNT] for line in self.money.unnamed)):
            return self._unnamed()
        if foreign:
            return self._vendor_only()
        return self._both()

    def _found(
        self,
        kind: Cause,
        reason: str,
        remedy: str,
        *,
        certain: bool = False,
        spent: int | None = None,
        opened: str = "",
    ) -> Difference:
        call = self.call
        amounts = [line[_AMOUNT] for line in self.best if line[_AMOUNT] is not None]
        at = self.best[0][_AT] if self.best else call.at_ms if call else 0
        return Difference(
            kind,
            self.money.subject,
            call.id if call else "",
            call.run_id if call else "",
            max((one.entry for one in self.money.calls), default=0),
            at,
            *self.only,
            sum(amounts) if amounts else None,
            self.currency,
            certain,
            spent,
            opened,
            reason,
            remedy,
        )

    def _not_compared(self, kind: Cause, reason: str, remedy: str) -> Difference:
        return replace(self._found(kind, reason, remedy), differs=False)

    def _unnamed(self) -> Difference:
        """Judge what has no price here."""
        note = self.money.unnamed[0][_NOTE]
        if self.currency not in ("", "usd"):
            rate = f"{self.money.subject} is in {self.currency}, which has no rate here"
            return self._found(
                Cause.NO_RATE,
                rate + (f" ({note})" if note else ""),
                "give it one in [spendguard_fx], and repeat this",
            )
        text = f"{self.money.subject} ({self.best[0][_STATE]}) has no price yet, and its quote stands"
        if all(line[_PRICE_BY] > time.time() * 1000 for line in self.money.unnamed):
            wait = "wait: it is asked for, and booked when it is there"
            return self._not_compared(Cause.NO_PRICE, text, wait)
        text += "; by now the vendor should have named one"
        return self._found(Cause.NO_PRICE, text, "look at it on the vendor's own pages, or ask the vendor")

    def _open_call(self) -> Difference | None:
        """Judge a money on which a call is in doubt, or under way."""
        call = self.money.opened[0]
        by_tag = self.money.tagged == call.id
        if call.state == "pending":
            text = f"call {call.id} is under way: what becomes of it is not known yet"
            return (
                self._not_compared(Cause.UNDER_WAY, text, "repeat this in some minutes")
                if any(self.only)
                else None
            )
        known = by_tag or (call.object is not None and bool(self.best))
        if known and len(self.money.opened) == 1:
            counted = sum(micros for _, micros in self.money.items)
            spent = max(0, self.movable - max(0, counted - call.reserved))
            quoted = [line for line in self.best if line[_ESTIMATED] or line[_MICROS] is None]
            if quoted or (spent and not all(line[_WHOLE] for line in self.best)):
                # What it was quoted with stands: the price is not there, or may lack fees.
                spent = spent if quoted == [] and spent > call.reserved else call.reserved
            fits = spent <= call.reserved and self._same_currency(call, spent)
            certain = fits and all(line[_FINAL] or line in quoted for line in self.best)
            if spent < call.reserved:  # What was asked for before it was over may not show what it did then.
                certain = certain and all(line[_ASKED] >= call.over_ms for line in self.best)
            how = self.money.by_what if by_tag else "its object"
            alone = call.object is None and len(self.best) == 1
            opened = self.money.subject if alone else ""
            if call.object is None and not alone:
                # Until then its task, which makes it again, gets all of them by its key; by nobody's word.
                certain = certain and call.at_ms < time.time() * 1000 - KEPT_MS
            if by_tag and how == "its tag":
                line = next(one for one in self.money.lines if one[_TAG] == call.tag)
                opened = str(line[_ID])
                certain = certain and _may_be_its(call, line)
            remedy = command(
                "resolve", call.id, "--spent", plain_usd(spent), *(("--object", opened) if opened else ())
            )
            said = f"made: it has cost {format_usd(spent)}" if spent else "known: it counts for nothing"
            reason = f"call {call.id} was in doubt, and by {how} {opened or self.money.subject} it was {said}"
            if not certain:
                reason += "; that is not certain"
            remedy += ", or --apply" if certain else ", if it is so"
            return self._found(Cause.MADE, reason, remedy, certain=certain, spent=spent, opened=opened)
        return self._found(
            Cause.IN_DOUBT,
            f"call {call.id} is in doubt, and nothing in the vendor's books is known to be its",
            commands.resolve_text(call.id, call.reserved, call.object),
        )

    def _same_currency(self, call: _KnownCall, spent: int) -> bool:
        """Return whether an amount was counted at the rate of now: dollars, or what was asked exactly."""
        if call.currency and self.currency and call.currency != self.currency:
            return False
        return self.currency in ("", "usd") or spent in (0, call.asked)

    def _ledger_only(self) -> Difference:
        """Judge what only the ledger has."""
        call, subject = self.call, self.money.subject
        if call is None:
            return self._found(Cause.NOT_THERE, f"{subject} is counted, and its call is pruned", "none")
        if call.object is None:
            text = f"{call.operation} has named no object that could be looked for"
            shown = command("calls", "--run", call.run_id)
            if call.operation.startswith(tuple(f"{name}." for name in self.how.lists)):
                return self._found(Cause.NOT_LISTED, text, f"look at it: {shown}")
            remedy = f"nothing: it counts as it was quoted ({shown} shows it)"
            return self._not_compared(Cause.NOT_LISTED, text, remedy)
        if self.how.listed and not subject.startswith(self.how.listed):
            text = (
                f"{subject} ({call.operation}) is of a kind that none of the vendor's lists that are read has"
            )
            remedy = "nothing: the vendor's own pages show it, where you want to compare it"
            return self._not_compared(Cause.NOT_LISTED, text, remedy)
        if subject in self.how.unlooked:
            text = f"no list has {subject} ({call.operation}), and there are too many such to look for each"
            return self._found(Cause.NOT_LISTED, text, "repeat this for a shorter period")
        return self._found(
            Cause.NOT_THERE,
            f"{subject} is counted for call {call.id}, and the vendor's books do not have it",
            "look for it on the vendor's own pages (another account, or mode?); correct it there, or here: "
            + command("resolve", call.id, "--not-sent", "--correct"),
        )

    def _vendor_only(self) -> Difference | None:
        """Judge what only the vendor has."""
        line, subject = self.best[0], self.money.subject
        about = f" of {line[_ABOUT]}" if line[_ABOUT] else ""
        if self.money.stranger is not None:
            account, call_id = self.money.stranger
            return self._found(
                Cause.OTHER_ACCOUNT,
                f"{subject} is in this account, and call {call_id} has it as one of {account}",
                "find out which secret was used: the accounts are mixed up",
            )
        if line[_KIND] == "refund":
            return self._found(
                Cause.REFUNDED,
                f"{subject}{about} was refunded at the vendor, not by a call",
                "nothing, where that was meant: a refund gives no headroom back",
            )
        if line[_KIND] == "dispute":
            return self._found(
                Cause.DISPUTED,
                f"{subject}{about} is disputed ({line[_STATE]})",
                "answer it at the vendor",
            )
        if line[_KIND].endswith(CAME_IN):
            text = f"{line[_KIND].removesuffix(CAME_IN)} {subject} came in: no call has ordered it"
            return self._found(Cause.CAME_IN, text, "nothing: the vendor bills what others send, too")
        copied = (
            f"; it has the tag of call {named}, which is not proven to have made it"
            if (named := self._named_by(line[_TAG]))
            else ""
        )
        return self._found(
            Cause.OUTSIDE,
            f"{line[_KIND]} {subject} was made outside of the guard{copied}",
            "find out who has the secret; roll it where nobody should",
        )

    def _is_part(self, call: _KnownCall) -> bool:
        """Return whether this money is one of several things that a call has opened, and all that it is."""
        subject = self.money.subject
        names = [name for name, _ in self.money.items]
        alone = names == [call.id] and [line[_ID] for line in self.best] == [subject]
        return alone and call.object is None and call.id not in (self.money.tagged, subject)

    def _named_by(self, tag: str) -> str:
        """Return the call that a tag names, "" for none."""
        sql = "SELECT id FROM call WHERE tag = ? AND tag <> '' ORDER BY id"
        row = self.how.work.db.execute(sql, (tag,)).fetchone()
        return "" if row is None else str(row[0])

    def _both(self) -> Difference | None:
        """Judge what both have, with another amount."""
        call, line, subject = self.call, self.best[0], self.money.subject
        assert call is not None
        shown, fees = self.money.shown()
        moved = shown + fees
        opened = sum(one[_OPEN] for one in self.best)
        counted = sum(micros for _, micros in self.money.items)
        vendor, ledger = format_usd(moved), format_usd(counted)
        payers = [one for one in self.money.calls if one.cost]
        single = [(one.id, one.cost) for one in payers] == ([(call.id, counted)] if counted else [])
        part = self._is_part(call)
        final = all(one[_FINAL] for one in self.best) and not opened
        certain = (single or part) and final and call.state == "settled" and self._same_currency(call, moved)
        if self.money.tagged and call.state == "voided":
            spent = command("resolve", call.id, "--spent", plain_usd(moved), "--object", subject, "--correct")
            text = f"{subject} has the tag of call {call.id}, which is said not to have been made"
            return self._found(Cause.MADE, text, f"where it is that call's: {spent}")
        if call.currency and self.currency and call.currency != self.currency:
            text = f"{subject} is in {self.currency} at the vendor, and call {call.id} was in {call.currency}"
            return self._found(Cause.CURRENCY, text, "look at it on the vendor's own pages")
        if opened and self.only[1] and moved + opened >= counted:
            text = f"{subject} is {line[_STATE]}: nobody has paid it yet, and it counts until it is cancelled"
            return self._found(Cause.UNCONFIRMED, text, "cancel it at the vendor, where nobody is to pay it")
        if not moved and final:
            text = f"{subject} is {line[_STATE]} at the vendor, and {ledger} is counted for it"
            remedy = "--apply gives it back" if certain else "look at it on the vendor's own pages"
            return self._found(
                Cause.CANCELLED, text, remedy, certain=certain, spent=0, opened=subject if part else ""
            )
        if line[_KIND].startswith(("message", "call", "email")):
            note = f" ({line[_NOTE]})" if line[_NOTE] else ""
            text = f"{subject} costs {vendor} by the vendor's books{note}, and {ledger} is counted"
            remedy = "--apply books it" if certain else "look at it on the vendor's own pages"
            return self._found(Cause.PRICE, text, remedy, certain=certain, spent=moved)
        text = f"{subject} is {vendor} by the vendor's books ({line[_STATE]}), and {ledger} is counted"
        if self.currency not in ("", "usd"):
            text += f"; perhaps at another rate for {self.currency} than today's"
        return self._found(
            Cause.AMOUNT,
            text,
            "--apply books it" if certain else "look at it",
            certain=certain,
            spent=moved,
        )
