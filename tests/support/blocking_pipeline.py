"""Tasks that end with a denial of their own making."""

from __future__ import annotations

import os

import luigi

from luigi_spendguard import BudgetExceeded, VendorTask
from tests.support.pipelines import Output, charge, note


class Denied(VendorTask, Output):
    name = luigi.Parameter()

    def run(self) -> None:
        note("attempts", self.name)
        raise BudgetExceeded("cap", "said by nobody but this task", {"asked_usd": "0.01", "budget": "run"})


class Denying(luigi.WrapperTask):
    def requires(self) -> list[luigi.Task]:
        return [Denied("a"), Denied("b")]


class Computed(VendorTask, Output):
    """Charges an amount (`AMOUNT`, in cents) that no parameter says, computed wrongly perhaps."""

    def run(self) -> None:
        self.write(charge("cus_computed", int(os.environ["AMOUNT"])).id)


class Computing(luigi.WrapperTask):
    run_id = luigi.Parameter()
    budget_usd = luigi.Parameter(default="", significant=False)

    def requires(self) -> luigi.Task:
        return Computed()
