"""Pipelines that get into trouble; how is said by files in OUT_DIR. Run with the real `luigi` command."""

from __future__ import annotations

import os
import signal
import time

import luigi
import stripe

from luigi_spendguard import VendorTask
from tests.support.pipelines import OUT, Output, charge, note
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


class SlowInput(luigi.ExternalTask):
    """Notes who asks; says the second one, a worker's child, that it is there when the test lets it."""

    def complete(self) -> bool:
        note("asked", str(os.getpid()))
        if len(set((OUT / "asked").read_text().split())) == 2:
            while not (OUT / "go").exists():
                time.sleep(0.02)
        return True


class AfterSlowInput(VendorTask, Output):
    """Its child looks for the input before it claims the task."""

    run_id = luigi.Parameter(default="", significant=False)

    def requires(self) -> luigi.Task:
        return SlowInput()

    def run(self) -> None:
        self.write(charge("after_slow_input").id)


class Deaf(VendorTask, Output):
    """Ignores the signal at its first attempt, and fails by itself at the second."""

    def run(self) -> None:
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)
        first = not (OUT / "deaf").exists()
        stripe.Balance.retrieve()
        note("deaf", str(os.getpid()))
        if first:
            time.sleep(100)  # Its worker is to kill it meanwhile.
        raise RuntimeError("a failure of its own")


class DeafRoot(luigi.WrapperTask):
    run_id = luigi.Parameter(default="", significant=False)

    def requires(self) -> luigi.Task:
        return Deaf()


class OtherDeafRoot(DeafRoot):
    pass
