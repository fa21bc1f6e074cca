"""A charge for each customer, then a second one, then a report: what is blocked has much behind it."""

from __future__ import annotations

import luigi

from luigi_spendguard import VendorTask
from tests.support.pipelines import Output, charge


class First(VendorTask, Output):
    vendors = ("stripe",)
    max_cost_usd = "1"
    customer = luigi.Parameter()

    def run(self) -> None:
        self.write(charge(self.customer).id)


class Second(VendorTask, Output):
    vendors = ("stripe",)
    max_cost_usd = "1"
    customer = luigi.Parameter()

    def requires(self) -> First:
        return First(customer=self.customer)

    def run(self) -> None:
        self.write(charge(f"{self.customer}_again").id)


class Told(Output):
    customer = luigi.Parameter()

    def requires(self) -> Second:
        return Second(customer=self.customer)

    def run(self) -> None:
        self.write("told")


class Stages(luigi.WrapperTask):
    n = luigi.IntParameter()
    run_id = luigi.Parameter(default="", significant=False)
    budget_usd = luigi.Parameter(default="", significant=False)

    def requires(self) -> list[Told]:
        return [Told(customer=f"cus_{one}") for one in range(self.n)]
