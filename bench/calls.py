"""A guarded call beside an unguarded one: the same SDK, the same local vendor, interleaved."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import stripe

from luigi_spendguard import proxy
from tests.support.attempts import Pretender
from tests.support.site import SECRET, FakeStripe, Site

#: Calls on one side before the other has its turn.
TURN = 10


def _charge(customer: str) -> None:
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


def quantile(values: list[float], part: float) -> float:
    """Return the value below which `part` of `values` lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))]


def measure_calls(folder: Path, count: int) -> dict[str, float]:
    """Return p50 and p99 in milliseconds of `count` calls a side, and what the guard adds."""
    vendor = FakeStripe(folder / "vendor")
    guarded: list[float] = []
    unguarded: list[float] = []
    kept = stripe.api_base, stripe.api_key
    stripe.api_base = vendor.url
    proxy.bind()
    try:
        with Site(folder / "site", stripe=vendor, spendguard={"default_cap_usd": 1000}) as site:
            pretender = Pretender(site, "bench")
            with pretender.attempt() as attempt:
                _timed(_charge, "warm", 0)
                attempt.client.flush()
            for first in range(0, count, TURN):
                stripe.api_key = SECRET
                unguarded += _timed(_charge, "plain", first)
                stripe.api_key = None
                with pretender.attempt():
                    guarded += _timed(_charge, "guarded", first)
            assert vendor.moved() == 2 * count + TURN, "the vendor counted other calls than were made"
            spent = site.run("bench")["spent_usd"]
            assert spent == f"{(count + TURN) / 100:.2f}", spent
    finally:
        stripe.api_base, stripe.api_key = kept
        vendor.process.end()
    found = {}
    for part in (0.5, 0.99):
        name = f"p{part * 100:.0f}"
        found[f"unguarded_{name}_ms"] = round(quantile(unguarded, part), 2)
        found[f"guarded_{name}_ms"] = round(quantile(guarded, part), 2)
        found[f"added_{name}_ms"] = round(quantile(guarded, part) - quantile(unguarded, part), 2)
    return found
