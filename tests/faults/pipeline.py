"""What is run while things fail: tasks that charge customers, of whom each is to pay once."""

from __future__ import annotations

import luigi
import stripe

from luigi_spendguard import VendorTask
from tests.support.pipelines import OUT, Output, charge

stripe.max_network_retries = 1


class Pay(VendorTask, Output):
    """Charges a customer $1."""

    vendors = ("stripe",)
    customer = luigi.Parameter()

    def run(self) -> None:
        paid = charge(self.customer)
        if (OUT / "fail").exists():
            raise RuntimeError(f"it has much to say: {'x' * 20_000}")
        self.write(paid.id)


class PayAll(luigi.WrapperTask):
    """Charges the customers `first` to `first + n - 1` of a list."""

    of = luigi.Parameter()
    first = luigi.IntParameter(default=0)
    n = luigi.IntParameter()
    run_id = luigi.Parameter(default="", significant=False)
    budget_usd = luigi.Parameter(default="", significant=False)

    def requires(self) -> list[luigi.Task]:
        return [Pay(f"{self.of}_{number}") for number in range(self.first, self.first + self.n)]
