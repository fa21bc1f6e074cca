"""The charges as a pipeline makes them that has the secret and knows no guard."""

from __future__ import annotations

import os

import luigi
import stripe
from charges import Root, Work

stripe.api_key = os.environ["STRIPE_SECRET_KEY"]
stripe.api_base = os.environ["BENCH_STRIPE_URL"]


class Charge(Work):
    """A task of stock Luigi."""


class Charges(Root):
    """All of them."""

    def requires(self) -> list[luigi.Task]:
        """Return the charges."""
        return [Charge(number) for number in range(self.first, self.first + self.n)]
