"""What pipelines are used to doing inside `run()`: their own methods in pools, builds within a task."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor

import luigi

from luigi_spendguard import VendorTask
from tests.support.pipelines import OUT, Charge, Output, charge, note


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


class Inner(VendorTask, Output):
    """The root of a build within a task; it has the run of that."""

    max_cost_usd = "1"
    run_id = luigi.Parameter(default="nested", significant=False)

    def run(self) -> None:
        self.write(charge("inner").id)


class Outer(VendorTask, Output):
    """Builds another pipeline within its attempt, for the same run."""

    how = luigi.Parameter()
    max_cost_usd = luigi.Parameter()
    budget_usd = "10"
    run_id = luigi.Parameter(default="nested", significant=False)

    def run(self) -> None:
        charge("outer")
        if self.how == "program":
            command = [sys.executable, "-m", "luigi", "--module", "tests.support.habits", "Inner"]
            subprocess.run(command, check=True)
        else:
            note("built", str(luigi.build([Inner()], local_scheduler=self.how == "local")))
        self.write()
