"""A pipeline for the Budgets tab: each task may cost a dollar, and says a word that is shown."""

from __future__ import annotations

import luigi

from luigi_spendguard import VendorTask
from tests.support.pipelines import Output, charge


class Pay(VendorTask, Output):
    vendors = ("stripe",)
    max_cost_usd = "1"
    customer = luigi.Parameter()
    word = luigi.Parameter(default="", significant=False)

    def run(self) -> None:
        self.write(charge(self.customer).id)


class Nightly(luigi.WrapperTask):
    n = luigi.IntParameter()
    first = luigi.IntParameter(default=0)
    word = luigi.Parameter(default="", significant=False)
    run_id = luigi.Parameter(default="", significant=False)
    budget_usd = luigi.Parameter(default="", significant=False)

    def requires(self) -> list[Pay]:
        return [Pay(customer=f"cus_{one}", word=self.word) for one in range(self.first, self.first + self.n)]
