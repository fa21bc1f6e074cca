"""A guarded call beside an unguarded one: the same SDK, the same local vendor, interleaved."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import stripe

from bench.figures import quantile, spread
from luigi_spendguard import proxy
from tests.support.attempts import Pretender
from tests.support.site import SECRET, FakeStripe, Site

#: Calls on one side before the other has its turn.
TURN = 10


def charge(customer: str) -> None:
    """Charge a customer a cent."""
    stripe.PaymentIntent.create(
        amount=1, currency="usd", customer=customer, payment_method="pm_card_visa", confirm=True
    )


def _timed(calls: Callable[[str], None], side: str, first: int) -> list[float]:
    found = []
    for number in range(first, first + TURN):
        begun = time.perf_counter()
        calls(f"cus_{side}_{number}")
        found.append((time.perf_counter() - begun) * 1000)
    return found


def measure_calls(folder: Path, count: int, rounds: int = 5) -> dict[str, Any]:
    """Return milliseconds of `count` calls a side in each round, and what the guard adds."""
    vendor = FakeStripe(folder / "vendor")
    guarded: list[list[float]] = [[] for _ in range(rounds)]
    unguarded: list[list[float]] = [[] for _ in range(rounds)]
    kept = stripe.api_base, stripe.api_key
    stripe.api_base = vendor.url
    proxy.bind()
    try:
        with Site(folder / "site", stripe=vendor, spendguard={"default_cap_usd": 1000}) as site:
            pretender = Pretender(site, "bench")
            with pretender.attempt() as attempt:
                _timed(charge, "warm", 0)
                attempt.client.flush()
            for first in range(0, count * rounds, TURN):
                stripe.api_key = SECRET
                unguarded[first // count] += _timed(charge, "plain", first)
                stripe.api_key = None
                with pretender.attempt() as attempt, attempt.client.gathering():  # As a worker runs a task.
                    guarded[first // count] += _timed(charge, "guarded", first)
            made = count * rounds
            assert vendor.moved() == 2 * made + TURN, "the vendor counted other calls than were made"
            spent = site.run("bench")["spent_usd"]
            assert spent == f"{(made + TURN) / 100:.2f}", spent
    finally:
        stripe.api_base, stripe.api_key = kept
        vendor.process.end()
    found: dict[str, Any] = {}
    for part in (50, 99):
        ours = [quantile(took, part / 100) for took in guarded]
        plain = [quantile(took, part / 100) for took in unguarded]
        found[f"unguarded_p{part}_ms"], found[f"guarded_p{part}_ms"] = spread(plain), spread(ours)
        added = [one - other for one, other in zip(ours, plain, strict=True)]
        found[f"added_p{part}_ms"] = spread(added)
    return found
