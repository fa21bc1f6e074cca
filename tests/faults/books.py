"""What must be true when all is over, by the vendor's own books and ours."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from typing import Any

from luigi_spendguard.config import load
from luigi_spendguard.http.spool import backlog
from luigi_spendguard.ledger.audit import discrepancies
from luigi_spendguard.ledger.database.engines import opened
from tests.support.processes import wait_until
from tests.support.site import Site


def calls_of(site: Site) -> list[dict[str, Any]]:
    """Return all calls that are not denied, replayed or only read."""
    status, found = site.call("GET", "/calls?limit=10000", token=None)
    assert status == 200, found
    return [call for call in found if call["verdict"] == "allowed" and call["method"] == "POST"]


def settle_down(site: Site) -> None:
    """Wait until nothing is pending; there is nobody left who could say how it ended."""
    last: list[str] = []

    def is_settled() -> bool:
        last[:] = [call["id"] for call in calls_of(site) if call["state"] == "pending"]
        return not last

    with suppress(AssertionError):
        wait_until(is_settled, 40)
    assert not last, f"pending for ever: {last[:3]} of {len(last)}"


def paid(site: Site) -> Counter[str]:
    """Return what each customer has paid, in cents, by the vendor's books."""
    counted: Counter[str] = Counter()
    for entry in site.stripe.books()["moved"]:
        counted[entry["customer"]] += entry["amount"]
    return counted


def uncounted(site: Site) -> list[str]:
    """Return who has paid, and is not counted: nobody, at whatever time."""
    moved = paid(site)
    counted = {
        call["target"] for call in calls_of(site) if call["state"] in ("pending", "settled", "in_doubt")
    }
    return [f"{one} has paid, and is not counted" for one in moved if one not in counted]


def judge(site: Site, caps: dict[str, int], done: list[str]) -> list[str]:
    """Return what is wrong, one line each.

    `caps`: of runs, in cents, by what their customers' names begin with; `done`: whose tasks are complete.
    """
    settle_down(site)
    moved = paid(site)
    wrong = [f"{customer} has paid {cents} cents" for customer, cents in moved.items() if cents != 100]
    wrong += [f"{one} has not paid, and its task is complete" for one in done if one not in moved]
    for name, cap in caps.items():
        of_run = sum(cents for customer, cents in moved.items() if customer.startswith(f"{name}_"))
        if of_run > cap:
            wrong.append(f"{name}: {of_run} cents were moved under a cap of {cap}")
    wrong += _compared(site, moved)
    place = load(environ=site.environment()).ledger
    with opened(place, read_only=True) as books, books.reading() as tx:
        wrong += discrepancies(tx)
    left = backlog(site.state_home / "luigi-spendguard" / "spool")
    if left.waiting or left.refused:
        wrong.append(f"on disk {left.waiting} waits, {left.refused} were refused")
    return wrong


def _compared(site: Site, moved: Counter[str]) -> list[str]:
    """Compare our books with the vendor's; what is in doubt may have been paid, or not."""
    calls = calls_of(site)
    settled = Counter(call["target"] for call in calls if call["state"] == "settled")
    doubtful = Counter(call["target"] for call in calls if call["state"] == "in_doubt")
    wrong = [f"{one} is settled {times} times" for one, times in settled.items() if times > 1]
    wrong += [f"{one} is settled, and has not paid" for one in settled if one not in moved]
    wrong += uncounted(site)
    runs = site.call("GET", "/runs", token=None)[1]
    says = [
        sum(round(float(run[f"{name}_usd"])) for run in runs) for name in ("spent", "reserved", "overrun")
    ]
    if says != [settled.total(), doubtful.total(), 0]:
        wrong.append(
            f"spent, reserved, overrun are {says}: settled {settled.total()}, doubt {doubtful.total()}"
        )
    return wrong
