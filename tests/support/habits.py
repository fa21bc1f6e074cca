"""What pipelines are used to doing inside `run()`: their own methods in pools, builds within a task."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import luigi

from luigi_spendguard import VendorTask
from tests.support.pipelines import OUT, Charge, Output, charge


class OwnMethods(VendorTask, Output):
    """Charges by its own method, in a pool of processes: each is sent the task."""

    method = luigi.Parameter()

    def one(self, number: int) -> str:
        return str(charge(f"{self.method}_{number}").id)

    def run(self) -> None:
        with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(self.method)) as pool:
            self.write(" ".join(pool.map(self.one, range(3))))


class PlainOwnMethods(Output):
    """A plain task that does so, in a pipeline with vendor tasks."""

    def requires(self) -> luigi.Task:
        return Charge("before")

    def one(self, number: int) -> int:
        return 2 * number

    def run(self) -> None:
        with ProcessPoolExecutor(2) as pool:
            self.write(str(list(pool.map(self.one, range(3)))))
            (OUT / "said").write_text(self.output().open().read())
