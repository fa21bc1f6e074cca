"""Pipelines that the tests run with the real `luigi` command: plain tasks and the stripe SDK, unchanged."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from pathlib import Path

import luigi
import stripe

from luigi_spendguard import BudgetExceeded, VendorTask
from luigi_spendguard.http import gathering, ledger_client, outbox
from luigi_spendguard.worker import process

stripe.enable_telemetry = False
OUT = Path(os.environ.get("OUT_DIR", "."))
if "UNHURRIED" in os.environ:  # Nothing is said by itself, however slow the machine is.
    gathering.SOON_S = gathering.LEFT_S = 600
if "IMPATIENT" in os.environ:  # What cannot be delivered at the end is given up after 2 s, not after 30.
    outbox.flush_all.__defaults__ = (2.0,)
    process.FLUSH_S = 2.0
    ledger_client.GIVE_UP_S = 0.5


def charge(
    customer: str, amount: int = 100, card: str = "pm_card_visa", **more: object
) -> stripe.PaymentIntent:
    return stripe.PaymentIntent.create(
        amount=amount, currency="usd", customer=customer, payment_method=card, confirm=True, **more
    )


def note(name: str, text: str) -> None:
    """Append a line to a file of the test's; none where a test only imports these classes."""
    if "OUT_DIR" not in os.environ:
        return
    with (OUT / name).open("a") as file:
        file.write(text + "\n")


class Output(luigi.Task):
    def output(self) -> luigi.LocalTarget:
        return luigi.LocalTarget(str(OUT / self.task_id))

    def write(self, text: str = "done") -> None:
        with self.output().open("w") as file:
            file.write(text)


class Charge(VendorTask, Output):
    """Charges a customer $1. How it goes wrong is said by files in OUT_DIR."""

    vendors = ("stripe",)
    customer = luigi.Parameter()
    amount = luigi.IntParameter(default=100)

    def run(self) -> None:
        intent = charge(self.customer, self.amount)
        if (OUT / "die").exists():
            raise RuntimeError("died after it had charged")
        if (OUT / f"kill-{self.customer}").exists():
            (OUT / f"kill-{self.customer}").unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        while (OUT / "wait").exists():
            time.sleep(0.01)
        self.write(intent.id)


class Stubborn(VendorTask, Output):
    """Makes its call again itself: the SDK then makes up another idempotency key."""

    def run(self) -> None:
        stripe.max_network_retries = 0
        for left in (2, 1, 0):
            try:
                charge("cus_1")
                break
            except stripe.APIConnectionError:
                if not left:
                    raise
                time.sleep(3)  # The gateway is started again meanwhile.
        self.output().open("w").close()


class Report(Output):
    """A plain task."""

    def run(self) -> None:
        self.write()


class Billing(luigi.WrapperTask):
    """Charges `n` customers, and reports besides. Not retried unless the test wants it."""

    n = luigi.IntParameter()
    first = luigi.IntParameter(default=0)
    run_id = luigi.Parameter(default="", significant=False)
    budget_usd = luigi.Parameter(default="", significant=False)

    def requires(self) -> list[luigi.Task]:
        charges = [Charge(customer=f"cus_{i}") for i in range(self.first, self.first + self.n)]
        return [*charges, Report()]


class Busy(Output):
    """A plain task that goes on until the test lets it end, and is begun first."""

    name = luigi.Parameter()
    priority = 1

    def run(self) -> None:
        (OUT / f"busy-{self.name}").touch()
        while not (OUT / f"go-{self.name}").exists():
            time.sleep(0.01)
        self.write()


class Overlapping(luigi.WrapperTask):
    """A root beside others that need the same charge."""

    name = luigi.Parameter()

    def requires(self) -> list[luigi.Task]:
        return [Busy(self.name), Charge(customer="cus_shared")]


class Looked(luigi.ExternalTask):
    """Is there; the second one lets its worker look for long."""

    name = luigi.Parameter()

    def complete(self) -> bool:
        while self.name == "two" and not (OUT / "go-two").exists():
            (OUT / "looking").touch()
            time.sleep(0.01)
        return True


class Looking(Output):
    """A root beside others that need the same charge, which is looked at first."""

    name = luigi.Parameter()
    customer = luigi.Parameter()

    def requires(self) -> list[luigi.Task]:
        return [Charge(customer=self.customer), Looked(self.name)]

    def run(self) -> None:
        self.write()


class Recurring(Output):
    """A root without a date: due again whenever its output is taken away."""

    def requires(self) -> luigi.Task:
        return Charge(customer="cus_monthly")

    def run(self) -> None:
        self.write()


class ManyThreads(VendorTask, Output):
    """One task whose threads all charge until there is no money left."""

    threads = luigi.IntParameter(default=64)
    run_id = luigi.Parameter()

    def run(self) -> None:
        denied = threading.Barrier(self.threads)

        def work(number: int) -> None:
            denied.wait()
            for turn in range(10_000):
                try:
                    charge(f"cus_{number}_{turn}")
                except BudgetExceeded:
                    return

        workers = [threading.Thread(target=work, args=(n,)) for n in range(self.threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        self.write()


class Asynchronous(VendorTask, Output):
    """One task whose asyncio program charges `n` customers at once."""

    n = luigi.IntParameter(default=50)
    run_id = luigi.Parameter()

    def run(self) -> None:
        said = asyncio.run(self.charge_all())
        note("asynchronous", " ".join(said))
        self.write()

    async def charge_all(self) -> list[str]:
        calls = (self.charge(f"cus_{number}") for number in range(self.n))
        return sorted(await asyncio.gather(*calls))

    async def charge(self, customer: str) -> str:
        try:
            intent = await stripe.PaymentIntent.create_async(
                amount=100, currency="usd", customer=customer, payment_method="pm_card_visa", confirm=True
            )
        except BudgetExceeded:
            return "denied"
        return str(intent.status)


class InFlight(VendorTask, Output):
    """Its asyncio program is in `n` calls when its run is revoked."""

    n = luigi.IntParameter(default=5)
    run_id = luigi.Parameter()

    def run(self) -> None:
        try:
            asyncio.run(self.charge_and_wait())
        finally:
            note("ended", type(sys.exc_info()[1]).__name__)

    async def charge_and_wait(self) -> None:
        calls = (
            stripe.PaymentIntent.create_async(
                amount=100, currency="usd", customer=f"cus_{n}", confirm=True, payment_method="pm_card_visa"
            )
            for n in range(self.n)
        )
        await asyncio.gather(*calls)
        await asyncio.sleep(120)  # It is ended meanwhile.


class Spender(VendorTask, Output):
    """Charges until it is denied; several of them race."""

    name = luigi.Parameter()
    race = luigi.Parameter()

    def run(self) -> None:
        (OUT / f"ready-{self.race}-{self.name}").touch()
        while not (OUT / f"go-{self.race}").exists():
            time.sleep(0.005)
        turn = 0
        while True:
            charge(f"cus_{self.race}_{self.name}_{turn}")
            turn += 1


class Race(luigi.WrapperTask):
    run_id = luigi.Parameter(significant=False)
    budget_usd = luigi.Parameter(default="", significant=False)
    names = luigi.Parameter()

    def requires(self) -> list[luigi.Task]:
        return [Spender(name=name, race=self.run_id) for name in self.names.split(",")]


class Yielding(VendorTask, Output):
    """Charges, then yields another vendor task: Luigi runs it again from the top."""

    customer = luigi.Parameter()

    def run(self):
        intent = charge(self.customer)
        yield Charge(customer=f"{self.customer}_yielded")
        self.write(intent.id)


class PlainCaller(Output):
    """A plain task that calls a vendor."""

    read_only = luigi.BoolParameter()

    def run(self) -> None:
        if self.read_only:
            stripe.Balance.retrieve()
        else:
            charge("cus_plain")
        self.write()


class InRequires(Output):
    """Calls a vendor in `requires()`."""

    def requires(self) -> list[luigi.Task]:
        charge("cus_requires")
        return []

    def run(self) -> None:
        self.write()


class ByPattern(Output):
    """No mixin: a vendor task by `[spendguard] vendor_tasks`."""

    def run(self) -> None:
        self.write(charge("cus_pattern").id)
