"""Tasks that say what they pay for: a customer's month. How they go wrong is said by files in OUT_DIR."""

from __future__ import annotations

import os
import signal

import luigi
import stripe

from luigi_spendguard import VendorTask
from tests.support.pipelines import OUT, Output, charge, note


class Pay(VendorTask, Output):
    """Charges a customer for a month; the amount is a parameter, and so a part of the task_id."""

    customer = luigi.Parameter()
    amount = luigi.IntParameter()
    month = luigi.Parameter(default="2026-11")
    copy = luigi.IntParameter(default=0)

    @property
    def payment_key(self) -> str:
        return f"{self.month}-{self.customer}"

    def run(self) -> None:
        intent = charge(self.customer, self.amount)
        if (OUT / "die").exists():
            raise RuntimeError("died after it had charged")
        if (OUT / "kill").exists():
            (OUT / "kill").unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        self.write(intent.id)


class Payroll(luigi.WrapperTask):
    """A root of one month, of customers and amounts such as `a=2700,b=100`."""

    amounts = luigi.Parameter()
    month = luigi.Parameter(default="2026-11")
    run_id = luigi.Parameter(default="", significant=False)

    def requires(self) -> list[luigi.Task]:
        pairs = (pair.split("=") for pair in self.amounts.split(","))
        return [Pay(customer, int(amount), self.month) for customer, amount in pairs]


class PayYielding(Pay):
    """Charges, then yields a task: Luigi runs it again from the top."""

    def run(self):
        intent = charge(self.customer, self.amount)
        yield Pay(f"{self.customer}-partner", 100)
        self.write(intent.id)


class PayAnew(VendorTask, luigi.Task):
    """Has no output: it is due whenever its root is."""

    month = luigi.Parameter()

    @property
    def payment_key(self) -> str:
        return self.month

    def run(self) -> None:
        charge("cus_anew")


class PayOrder(VendorTask, Output):
    """Pays an order, whose customer may be corrected as well as its amount."""

    order = luigi.Parameter()
    customer = luigi.Parameter(default="a")
    amount = luigi.IntParameter(default=100)
    own = luigi.Parameter(default="")

    @property
    def payment_key(self) -> str:
        return self.order

    def run(self) -> None:
        more = {"idempotency_key": f"{self.own}-{self.amount}"} if self.own else {}
        intent = charge(self.customer, self.amount, **more)
        if (OUT / "die").exists():
            raise RuntimeError("died after it had charged")
        self.write(intent.id)


class PayByClock(VendorTask, Output):
    """Its payment_key has the day in it: the file `clock` stands for that."""

    @property
    def payment_key(self) -> str:
        return (OUT / "clock").read_text()

    def run(self) -> None:
        intent = charge("cus_clock")
        if (OUT / "die").exists():
            raise RuntimeError("died after it had charged")
        self.write(intent.id)


class PayPart(VendorTask, Output):
    """Charges a customer, then yields the next part of it: a task of its own family and target."""

    customer = luigi.Parameter()
    parts = luigi.IntParameter()

    def run(self):
        intent = charge(self.customer, 100 + self.parts)
        if self.parts:
            yield PayPart(self.customer, self.parts - 1)
        self.write(intent.id)


class PayBatch(VendorTask, Output):
    """A batch pays for each of its members, which are written as `customer:amount`."""

    part = luigi.Parameter(batch_method=",".join)
    max_batch_size = 3

    @property
    def payment_key(self) -> str:
        return self.part.split(":")[0]

    def complete(self) -> bool:
        return all((OUT / f"paid-{part}").exists() for part in self.part.split(","))

    def run(self) -> None:
        note("batches", self.part)
        for part in self.part.split(","):
            customer, amount = part.split(":")
            charge(customer, int(amount))
        if (OUT / "die").exists():
            raise RuntimeError("died after it had charged all")
        for part in self.part.split(","):
            (OUT / f"paid-{part}").touch()


class PayBatches(luigi.WrapperTask):
    parts = luigi.Parameter()

    def requires(self) -> list[luigi.Task]:
        return [PayBatch(part) for part in self.parts.split(",")]


class PayBadly(VendorTask, Output):
    """Says what is no key."""

    how = luigi.Parameter()

    @property
    def payment_key(self) -> object:
        said = {"empty": "", "blank": "  ", "number": 7, "long": "x" * 256, "lines": "a\nb", "none": None}
        if self.how not in said:
            return self.no_such_parameter
        return said[self.how]

    def run(self) -> None:
        self.write(charge("cus_badly").id)


class PayShares(VendorTask, Output):
    """Charges a customer, transfers a part of that, and charges the fee."""

    amount = luigi.IntParameter(default=2700)
    run_id = luigi.Parameter(default="", significant=False)

    def run(self) -> None:
        charge("a", self.amount)
        stripe.Transfer.create(amount=2000, currency="usd", destination="acct_17")
        charge("a", 500)
        if (OUT / "die").exists():
            raise RuntimeError("died after it had paid")
        self.write()


class PayTwice(VendorTask, Output):
    """Charges a customer the same amount twice."""

    amount = luigi.IntParameter(default=2700)

    def run(self) -> None:
        for _ in range(2):
            charge("a", self.amount)
        if (OUT / "die").exists():
            raise RuntimeError("died after it had charged")
        self.write()
