"""Tasks that complete in other ways than by an output of their own, or at several schedulers at once."""

from __future__ import annotations

import os
import signal
import time

import luigi
import stripe

from luigi_spendguard import VendorTask
from luigi_spendguard.http.ledger_client import HttpLedgerClient
from luigi_spendguard.protocol.rpcs import FinishRequest
from tests.support.pipelines import OUT, Billing, Output, charge, note

#: Ends this worker's main process with SIGKILL when it is about to say that a task has completed.
_killed = os.environ.get("KILL_BEFORE_TELLING")
_finish = HttpLedgerClient.finish


def _killed_before(self: HttpLedgerClient, request: FinishRequest, key: str = "") -> None:
    if request.outcome == "completed":
        os.kill(os.getpid(), signal.SIGKILL)
    _finish(self, request, key)


if _killed:
    HttpLedgerClient.finish = _killed_before


class Fragile(VendorTask, Output):
    """Charges; its `on_success` fails while OUT_DIR has `break`, and `on_failure` takes the output away."""

    customer = luigi.Parameter()

    def run(self) -> None:
        self.write(charge(self.customer).id)

    def on_success(self) -> None:
        if (OUT / "break").exists():
            raise RuntimeError("on_success failed")

    def on_failure(self, exception: BaseException) -> object:
        if self.complete():
            self.output().remove()
        return super().on_failure(exception)


class Fragiles(luigi.WrapperTask):
    customers = luigi.Parameter()

    def requires(self) -> list[luigi.Task]:
        return [Fragile(customer) for customer in self.customers.split(",")]


class Bare(VendorTask, luigi.Task):
    """Has no output: Luigi runs it whenever it is due."""

    def run(self) -> None:
        charge("cus_bare")


class Daily(Output):
    """A root without a date whose only dependency has no output (`check_unfulfilled_deps = false`)."""

    def requires(self) -> luigi.Task:
        return Bare()

    def complete(self) -> bool:
        return self.output().exists()

    def run(self) -> None:
        self.write()


class Shared(VendorTask, Output):
    """Charges once its worker's gate (`GATE`) is open."""

    customer = luigi.IntParameter()

    def run(self) -> None:
        gate = OUT / f"go-{os.environ['GATE']}"
        note("ready", os.environ["GATE"])
        while not gate.exists():
            time.sleep(0.02)
        self.write(charge(f"cus_{self.customer}").id)


class Overlap(luigi.WrapperTask):
    first = luigi.IntParameter()
    n = luigi.IntParameter(default=4)

    def requires(self) -> list[luigi.Task]:
        return [Shared(number) for number in range(self.first, self.first + self.n)]


class Above(Output):
    """Needs what may be a root of its own."""

    n = luigi.IntParameter()

    def requires(self) -> luigi.Task:
        return Overlap(first=0, n=self.n)

    def run(self) -> None:
        self.write()


class Month(Output):
    """A plain root: of several, one batch is made once their vendor tasks are done."""

    name = luigi.Parameter(batch_method=",".join)
    priority = -1

    def requires(self) -> list[luigi.Task]:
        return [Fragile(name) for name in self.name.split(",")]

    def complete(self) -> bool:
        return all((OUT / f"month-{name}").exists() for name in self.name.split(","))

    def run(self) -> None:
        note("months", self.name)
        for name in self.name.split(","):
            (OUT / f"month-{name}").touch()


class Stamped(VendorTask, Output):
    """Says in each call when it was made, and dies after it while OUT_DIR has `die`."""

    def run(self) -> None:
        self.write(charge("stamped", metadata={"at": str(time.time())}).id)
        if (OUT / "die").exists():
            self.output().remove()
            raise RuntimeError("died after it had charged")


class Kept(VendorTask, Output):
    """Charges under a key of its own, confirms OUT_DIR's `intent`, and dies while that has `die`."""

    def run(self) -> None:
        charge("cus_own", idempotency_key="order-1")
        stripe.PaymentIntent.confirm((OUT / "intent").read_text(), payment_method="pm_card_visa")
        if (OUT / "die").exists():
            raise RuntimeError("died after it had charged")
        self.write()


class Mixed(luigi.WrapperTask):
    """Charges in every way that a vendor's kept answer is read in."""

    run_id = luigi.Parameter(default="", significant=False)

    def requires(self) -> list[luigi.Task]:
        return [Billing(n=2), Kept()]


class Gated(Output):
    """A plain task that ends once its worker's gate (`GATE`) is open."""

    def run(self) -> None:
        gate = OUT / f"go-{os.environ['GATE']}"
        note("ready", os.environ["GATE"])
        while not gate.exists():
            time.sleep(0.02)
        self.write()


class Behind(VendorTask, Output):
    """Charges what no other task does, after a plain task that takes long."""

    def requires(self) -> luigi.Task:
        return Gated()

    def run(self) -> None:
        self.write(charge("cus_behind").id)
