"""Pipelines that get into trouble; how is said by files in OUT_DIR. Run with the real `luigi` command."""

from __future__ import annotations

import luigi

from tests.support.pipelines import OUT, Output
from tests.support.shapes import Declared


class Grow(Output):
    """A plain task during which the list of customers grows to `to`."""

    to = luigi.IntParameter()

    def run(self) -> None:
        (OUT / "customers").write_text(" ".join(f"cus_{i}" for i in range(self.to)))
        self.write()


class Growing(Output):
    """A plain root that charges each customer on the list, of which there are two at first."""

    to = luigi.IntParameter()
    run_id = luigi.Parameter(default="", significant=False)
    budget_usd = luigi.Parameter(default="", significant=False)

    def requires(self) -> list[luigi.Task]:
        path = OUT / "customers"
        customers = path.read_text().split() if path.exists() else ["cus_0", "cus_1"]
        return [Grow(self.to), *[Declared(customer) for customer in customers]]

    def run(self) -> None:
        self.write()
