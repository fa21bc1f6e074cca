"""Every shape of pipeline that Luigi allows, with vendor tasks in it; run with the real `luigi` command."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from decimal import Decimal

import luigi
import stripe

from luigi_spendguard import VendorTask
from tests.support.pipelines import OUT, Charge, Output, charge, note


class Declared(VendorTask, Output):
    """Charges a customer `amount` cents, and says that it may cost `cost`."""

    customer = luigi.Parameter()
    amount = luigi.IntParameter(default=100)
    cost = luigi.Parameter(default="1")

    @property
    def max_cost_usd(self) -> Decimal | str | None:
        return None if self.cost == "none" else self.cost

    def run(self) -> None:
        self.write(charge(self.customer, self.amount).id)


class List(luigi.WrapperTask):
    """Charges customers `first` to `first + n`, each for $1 declared as `cost`."""

    n = luigi.IntParameter()
    first = luigi.IntParameter(default=0)
    cost = luigi.Parameter(default="1")
    run_id = luigi.Parameter(default="", significant=False)
    budget_usd = luigi.Parameter(default="", significant=False)

    def requires(self) -> list[luigi.Task]:
        return [Declared(f"cus_{i}", cost=self.cost) for i in range(self.first, self.first + self.n)]


class Mixed(luigi.WrapperTask):
    """Tasks that say what they may cost, and some that do not."""

    declared = luigi.IntParameter()
    unknown = luigi.IntParameter()
    run_id = luigi.Parameter(default="", significant=False)

    def requires(self) -> list[luigi.Task]:
        declared = [Declared(f"mixed_{i}") for i in range(self.declared)]
        return [*declared, *(Charge(f"unknown_{i}") for i in range(self.unknown))]


class RootA(Output):
    """A root that shares a task with RootB."""

    run_id = luigi.Parameter(default="", significant=False)

    def requires(self) -> list[luigi.Task]:
        return [Charge("shared"), Charge("only_a")]

    def run(self) -> None:
        self.write()


class RootB(RootA):
    def requires(self) -> list[luigi.Task]:
        return [Charge("shared"), Charge("only_b")]


class YieldsMany(Output):
    """A plain root that yields vendor tasks, which yield one each."""

    n = luigi.IntParameter(default=2)

    def run(self):
        yield [YieldsOne(str(number)) for number in range(self.n)]
        self.write()


class Assisted(Output):
    """Another family of plain root that yields vendor tasks, one of them through a plain task."""

    run_id = luigi.Parameter(default="", significant=False)
    budget_usd = luigi.Parameter(default="", significant=False)

    def run(self):
        yield [YieldsPlain("x"), Charge("assisted")]
        self.write()


class YieldsPlain(Output):
    """A plain task that requires nothing and yields a vendor task."""

    name = luigi.Parameter()

    def run(self):
        yield Charge(f"below_{self.name}")
        self.write()


class YieldsOne(VendorTask, Output):
    name = luigi.Parameter()

    def run(self):
        before = charge(f"before_{self.name}")
        yield Charge(f"yielded_{self.name}")
        charge(f"after_{self.name}")
        self.write(before.id)


class Batched(VendorTask, Output):
    """A batch charges each of its members; how it goes wrong is said by files in OUT_DIR."""

    part = luigi.Parameter(batch_method=",".join)
    max_batch_size = 3
    max_cost_usd = "1"

    def complete(self) -> bool:
        return all((OUT / f"part-{part}").exists() for part in self.part.split(","))

    def run(self) -> None:
        note("batches", self.part)
        for number, part in enumerate(self.part.split(",")):
            charge(f"batch_{part}")
            if (OUT / "die").exists():
                raise RuntimeError("died after it had charged the first member")
            if (OUT / "die-after-two").exists() and number == 1:
                (OUT / f"part-{self.part.split(',')[0]}").touch()  # The first one's receipt.
                raise RuntimeError("died after it had charged the second member")
        for part in self.part.split(","):
            (OUT / f"part-{part}").touch()


class Newest(VendorTask, Output):
    """A batch of days is its newest day, with that task_id; what they all need is paid once."""

    day = luigi.IntParameter(batch_method=max)
    max_batch_size = 3
    max_cost_usd = "1"

    def complete(self) -> bool:
        done = OUT / "newest"
        return done.exists() and int(done.read_text()) >= self.day

    def run(self) -> None:
        note("newest-ran", str(self.day))
        charge("newest")
        if (OUT / "die").exists():
            raise RuntimeError("died after it had charged")
        (OUT / "newest").write_text(str(self.day))


class Days(luigi.WrapperTask):
    """A recurring root: due again when its days are."""

    n = luigi.IntParameter()
    run_id = luigi.Parameter(default="", significant=False)
    budget_usd = luigi.Parameter(default="", significant=False)

    def requires(self) -> list[luigi.Task]:
        return [Newest(day) for day in range(1, self.n + 1)]


class Batches(luigi.WrapperTask):
    parts = luigi.Parameter()
    run_id = luigi.Parameter(default="", significant=False)
    budget_usd = luigi.Parameter(default="", significant=False)

    def requires(self) -> list[luigi.Task]:
        return [Batched(part) for part in self.parts.split(",")]


class Slow(VendorTask, Output):
    """Charges, says that it runs, and then takes its time; some do not care about signals."""

    name = luigi.Parameter()
    stubborn = luigi.BoolParameter(default=False)

    def run(self) -> None:
        if self.stubborn:
            signal.signal(signal.SIGUSR2, signal.SIG_IGN)
        charge(f"slow_{self.name}")
        note("slow", self.name)
        time.sleep(120)  # It is ended meanwhile.
        self.write()


class Calling(VendorTask, Output):
    """Is in a call when its run is revoked (the fake vendor is slow)."""

    name = luigi.Parameter()

    def run(self) -> None:
        note("calling", self.name)
        try:
            stripe.PaymentIntent.create(
                amount=100,
                currency="usd",
                customer=f"calling_{self.name}",
                payment_method="pm_card_visa",
                confirm=True,
            )
            note("answered", self.name)
            time.sleep(120)  # It is ended meanwhile.
        finally:
            note("ended", type(sys.exc_info()[1]).__name__)


class Dies(VendorTask, Output):
    """Charges, says so, and dies when the test lets it."""

    name = luigi.Parameter()

    def run(self) -> None:
        charge(f"dies_{self.name}")
        note("charged", self.name)
        while not (OUT / "go").exists():
            time.sleep(0.05)
        if (OUT / "die").exists():
            note("died", self.name)
            raise RuntimeError("died after it had charged")
        self.write()


class YieldsDies(Output):
    """A plain root whose vendor task is known only when it runs."""

    def run(self):
        yield Dies("d")
        self.write()


class LateCost(VendorTask, Output):
    """Knows what it may cost only when what it requires has run."""

    cost = luigi.Parameter(default="50")

    @property
    def max_cost_usd(self) -> str:
        if not Plain("late").complete():
            raise RuntimeError("not known yet")
        return self.cost

    def requires(self) -> luigi.Task:
        return Plain("late")

    def run(self) -> None:
        note("late", "ran")
        charge("late", 100 * int(self.cost))
        self.write()


class LateVendors(VendorTask, Output):
    """Knows whom it calls only when what it requires has run."""

    @property
    def vendors(self) -> tuple[str, ...]:
        return (Plain("whom").output().open().read(),)

    def requires(self) -> luigi.Task:
        return Plain("whom")

    def run(self) -> None:
        charge("whom")
        self.write()


class Listed(luigi.ExternalTask):
    """A file that others make; its family is of a vendor's namespace."""

    task_namespace = "paying"

    def output(self) -> luigi.LocalTarget:
        return luigi.LocalTarget(str(OUT / "listed"))


class Pay(Output):
    task_namespace = "paying"
    customer = luigi.Parameter()

    def requires(self) -> luigi.Task:
        return Listed()

    def run(self) -> None:
        self.write(charge(self.customer).id)


class PayAll(luigi.WrapperTask):
    task_namespace = "paying"

    def requires(self) -> list[luigi.Task]:
        return [Pay("a"), Pay("b")]


class MixedIn(VendorTask, luigi.WrapperTask):
    """Says that it is a vendor task, and has nothing to run."""

    def requires(self) -> list[luigi.Task]:
        return [Declared("a"), Declared("b")]


class Several(luigi.WrapperTask):
    """Requires one task of a family for each name."""

    family = luigi.Parameter()
    names = luigi.Parameter()
    run_id = luigi.Parameter(default="", significant=False)
    budget_usd = luigi.Parameter(default="", significant=False)

    def requires(self) -> list[luigi.Task]:
        return [globals()[self.family](name) for name in self.names.split(",")]


class Plain(Output):
    """No vendor task: goes on whatever becomes of the others."""

    name = luigi.Parameter(default="plain")

    def run(self) -> None:
        time.sleep(1)  # The others are ended, or denied, meanwhile.
        self.write()


@luigi.Task.event_handler("spendguard.task_blocked")
def blocked(task: luigi.Task, message: str) -> None:
    note("events", f"task_blocked {task.task_family} {message}")


@luigi.Task.event_handler("spendguard.cap_reached")
def reached(task: luigi.Task, message: str) -> None:
    note("events", f"cap_reached {task.task_family} {message}")


@luigi.Task.event_handler(luigi.Event.FAILURE)
def failed(task: luigi.Task, error: BaseException) -> None:
    note("events", f"failure {task.task_family} {type(error).__name__}")


def build(*roots: luigi.Task, **env: object) -> bool:
    """Run several roots in one `luigi.build`."""
    return bool(luigi.build(list(roots), **env))


def run_build(folder: object, environment: dict[str, str], code: str) -> subprocess.CompletedProcess[str]:
    """Run a line of Python that calls `build`."""
    return subprocess.run(
        [sys.executable, "-c", f"from tests.support.shapes import *\n{code}"],
        cwd=str(folder),
        timeout=120,
        env=environment,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
