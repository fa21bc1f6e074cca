"""What must be true when all is over, by the vendors' own books and ours."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from luigi_spendguard.config import load
from luigi_spendguard.http.spool import backlog
from luigi_spendguard.ledger.audit.sums import discrepancies
from luigi_spendguard.ledger.database.engines import opened
from tests.support.processes import wait_until
from tests.support.site import Site
from tests.support.vendors import FakeStripe, FakeTwilio

#: What each customer is to pay, and each text costs, in cents.
PRICE = 100


@dataclass(frozen=True)
class Seen:
    """All that is judged.

    Attributes:
        paid: what each customer has paid, in cents, by the vendors' books.
        calls: ours, that are not denied, replayed or only read.
        runs: ours, as they are listed.
        discrepancies: what does not add up in the ledger.
        waiting: ends that wait on disk.
        refused: those that were refused there.

    """

    paid: Mapping[str, int]
    calls: Sequence[Mapping[str, Any]]
    runs: Sequence[Mapping[str, Any]]
    discrepancies: Sequence[str] = ()
    waiting: int = 0
    refused: int = 0
    #: Of calls by their state, whom they reach.
    of: Mapping[str, Counter[str]] = field(init=False)

    def __post_init__(self) -> None:
        states = ("pending", "settled", "in_doubt")
        found = {
            one: Counter(call["target"] for call in self.calls if call["state"] == one) for one in states
        }
        object.__setattr__(self, "of", found)


# What is seen.


def calls_of(site: Site) -> list[dict[str, Any]]:
    """Return all calls that are not denied, replayed or only read."""
    status, found = site.call("GET", "/calls?limit=10000", token=None)
    assert status == 200, found
    return [call for call in found if call["verdict"] == "allowed" and call["method"] == "POST"]


def paid(stripe: FakeStripe, twilio: FakeTwilio | None = None) -> Counter[str]:
    """Return what each customer has paid, in cents, by the vendors' books."""
    counted: Counter[str] = Counter()
    for entry in stripe.books()["moved"]:
        counted[entry["customer"]] += entry["amount"]
    for entry in twilio.sent() if twilio is not None else ():
        counted[entry["to"]] += entry["micros"] // 10_000
    return counted


def settle_down(site: Site) -> None:
    """Wait a while until nothing is pending; there is nobody left who could say how it ended."""
    with suppress(AssertionError):
        wait_until(lambda: all(call["state"] != "pending" for call in calls_of(site)), 40)


def look(sites: Sequence[Site], moved: Mapping[str, int]) -> Seen:
    """Return what there is at sites with one ledger, once nothing is pending."""
    site = sites[0]
    settle_down(site)
    with opened(load(environ=site.environment()).ledger, read_only=True) as books, books.reading() as tx:
        wrong = discrepancies(tx)
    left = [backlog(one.state_home / "luigi-spendguard" / "spool") for one in sites]
    return Seen(
        moved,
        calls_of(site),
        site.call("GET", "/runs", token=None)[1],
        wrong,
        sum(count for one in left for count, _ in one.waiting.values()),
        sum(one.refused for one in left),
    )


# What is wrong, one line each.


def judge(seen: Seen, caps: Mapping[str, int], done: Iterable[str]) -> list[str]:
    """Return what is wrong when all is over.

    `caps`: of runs, in cents, by what their customers' names begin with; `done`: whose tasks are complete.
    """
    moved = seen.paid
    wrong = [f"{one} has paid {cents} cents" for one, cents in moved.items() if cents != PRICE]
    wrong += [f"{one} has not paid, and its task is complete" for one in done if one not in moved]
    for name, cap in caps.items():
        of_run = sum(cents for customer, cents in moved.items() if customer.startswith(name))
        if of_run > cap:
            wrong.append(f"{name}: {of_run} cents were moved under a cap of {cap}")
    wrong += _compared(seen)
    wrong += seen.discrepancies
    if seen.waiting or seen.refused:
        wrong.append(f"on disk {seen.waiting} waits, {seen.refused} were refused")
    return wrong


def _compared(seen: Seen) -> list[str]:
    """Compare our books with the vendors'; what is in doubt may have been paid, or not."""
    pending, settled, doubtful = seen.of["pending"], seen.of["settled"], seen.of["in_doubt"]
    wrong = [f"{one} is pending for ever" for one in pending]
    wrong += [f"{one} is settled {times} times" for one, times in settled.items() if times > 1]
    wrong += [f"{one} is settled, and has not paid" for one in settled if one not in seen.paid]
    wrong += uncounted(seen.paid, seen.calls)
    says = {
        name: sum(round(float(run[f"{name}_usd"])) for run in seen.runs)
        for name in ("spent", "reserved", "overrun")
    }
    adds_up = {"spent": settled.total(), "reserved": pending.total() + doubtful.total(), "overrun": 0}
    return wrong + [
        f"{name} is {says[name]}, and its calls come to {adds_up[name]}"
        for name in says
        if says[name] != adds_up[name]
    ]


def uncounted(moved: Iterable[str], calls: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return who has paid, and is not counted: nobody, at whatever time."""
    counted = {call["target"] for call in calls if call["state"] in ("pending", "settled", "in_doubt")}
    return [f"{one} has paid, and is not counted" for one in moved if one not in counted]


def sent_after(posts: Iterable[Mapping[str, Any]], customers: str, since: float) -> list[str]:
    """Return what was sent for customers whose names begin so after a moment (`time.monotonic`)."""
    return [
        f"{one['body']} was sent after the revoke"
        for one in posts
        if f"customer={customers}" in one["body"] and one["time"] > since
    ]
