"""A billing pipeline as plain Luigi has it: one task for each row of a list, $1.00 a row."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator

import luigi
import stripe

stripe.enable_telemetry = False
stripe.api_base = os.environ.get("STRIPE_API_BASE", stripe.api_base)


class billing(luigi.Config):
    """The pipeline's own section of luigi.cfg."""

    folder = luigi.Parameter()


class ChargeCustomer(luigi.Task):
    """Charge one row's customer $1.00 and keep a receipt."""

    row_id = luigi.Parameter()
    customer = luigi.Parameter()

    def output(self) -> luigi.LocalTarget:
        return luigi.LocalTarget(os.path.join(billing().folder, "receipts", f"{self.row_id}.txt"))

    def run(self) -> None:
        stripe.api_key = os.environ["STRIPE_SECRET_KEY"]
        intent = stripe.PaymentIntent.create(
            amount=100,
            currency="usd",
            customer=self.customer,
            payment_method="pm_card_visa",
            confirm=True,
            metadata={"row_id": self.row_id},
        )
        with self.output().open("w") as receipt:
            receipt.write(f"{intent.id}\n")


class WeeklyReport(luigi.Task):
    """Something else in the pipeline: it calls no vendor, and its turn comes last."""

    customers = luigi.Parameter()
    priority = -1

    def output(self) -> luigi.LocalTarget:
        name = os.path.splitext(os.path.basename(self.customers))[0]
        return luigi.LocalTarget(os.path.join(billing().folder, "reports", f"{name}.txt"))

    def run(self) -> None:
        with open(self.customers, newline="", encoding="utf-8") as rows, self.output().open("w") as report:
            report.write(f"{sum(1 for _ in csv.DictReader(rows))} rows\n")


class BillingPipeline(luigi.WrapperTask):
    """The root task: charge everybody on the list, and write the report."""

    customers = luigi.Parameter()

    def requires(self) -> Iterator[luigi.Task]:
        yield WeeklyReport(customers=self.customers)
        with open(self.customers, newline="", encoding="utf-8") as rows:
            for row in csv.DictReader(rows):
                yield ChargeCustomer(row_id=row["row_id"], customer=row["customer"])
