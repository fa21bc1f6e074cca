"""What the measured pipelines do: each task charges one customer a cent and leaves a file."""

from __future__ import annotations

import os
from pathlib import Path

import luigi
import stripe

OUT = Path(os.environ.get("OUT_DIR", "."))


class Work(luigi.Task):
    """One customer's charge; stock and guarded pipelines inherit all but the mixin."""

    number = luigi.IntParameter()

    def output(self) -> luigi.LocalTarget:
        """Return the file that says that it has charged."""
        return luigi.LocalTarget(str(OUT / f"charged-{self.number}"))

    def run(self) -> None:
        """Charge, then leave the file."""
        intent = stripe.PaymentIntent.create(
            amount=1,
            currency="usd",
            customer=f"cus_{self.number}",
            payment_method="pm_card_visa",
            confirm=True,
        )
        with self.output().open("w") as file:
            file.write(intent.id)


class Root(luigi.WrapperTask):
    """The root of `n` charges."""

    n = luigi.IntParameter()
    first = luigi.IntParameter(default=0)
    run_id = luigi.Parameter(default="", significant=False)
    budget_usd = luigi.Parameter(default="", significant=False)
