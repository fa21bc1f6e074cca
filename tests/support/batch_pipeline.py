"""Orders that are paid in batches, each written as `order:customer`; a receipt is kept of each."""

from __future__ import annotations

from pathlib import Path

import luigi
import stripe

from luigi_spendguard import VendorTask
from tests.support.pipelines import OUT, charge


class Pay(VendorTask, luigi.Task):
    """Says nothing of what it pays for."""

    vendors = ("stripe",)
    order = luigi.Parameter(batch_method=",".join)
    max_batch_size = 2

    def receipt(self, order: str) -> Path:
        return OUT / f"receipt-{order.split(':')[0]}"

    def complete(self) -> bool:
        return all(self.receipt(order).exists() for order in self.order.split(","))

    def run(self) -> None:
        stripe.max_network_retries = 0  # What is lost stays lost in this attempt.
        for order in self.order.split(","):
            self.receipt(order).write_text(charge(order.split(":")[1]).id)


class PayNamed(Pay):
    """Says that it pays for its order."""

    @property
    def payment_key(self) -> str:
        return self.order.split(":")[0]


class Orders(luigi.WrapperTask):
    orders = luigi.Parameter()
    named = luigi.BoolParameter()
    run_id = luigi.Parameter(default="", significant=False)

    def requires(self) -> list[luigi.Task]:
        kind = PayNamed if self.named else Pay
        return [kind(order) for order in self.orders.split(",")]
