"""Pipelines of every kind of task, by `luigi.build` in a program that starts its children as the test says.

python -m tests.support.started METHOD ROOT [--local] [--workers N] [--builds N]
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import os
import signal
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import luigi

from luigi_spendguard import VendorTask
from tests.support import unaware
from tests.support.pipelines import OUT, Output, charge


class Plain(Output):
    """No vendor task."""

    name = luigi.Parameter(default="x")

    def run(self) -> None:
        self.write()


class Vendor(VendorTask, Output):
    """Charges in its own thread."""

    name = luigi.Parameter(default="x")

    def run(self) -> None:
        charge(f"own_{self.name}")
        self.write()


class _InThreads(Output):
    """A base class of somebody else's: knows nothing of this package."""

    name = luigi.Parameter(default="x")

    def run(self) -> None:
        errors: list[BaseException] = []

        def work(number: int) -> None:
            try:
                charge(f"thread_{self.name}_{number}")
            except Exception as error:
                errors.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]
        self.write()


class Threads(VendorTask, _InThreads):
    """Inherits its `run()`, whose threads charge."""


class PlainThreads(_InThreads):
    """The same by a task that is no vendor task."""


class _InPool(Output):
    """Charges in a pool of processes, which import nothing of this package; the secret is in a file."""

    method = luigi.Parameter()
    n = luigi.IntParameter(default=9)
    name = luigi.Parameter(default="x")

    def run(self) -> None:
        customers = [f"pool_{self.name}_{number}" for number in range(self.n)]
        secret, base = (OUT / "secret").read_text(), os.environ["STRIPE_BASE"]
        context = multiprocessing.get_context(self.method)
        with ProcessPoolExecutor(2, mp_context=context) as pool:
            said = list(pool.map(unaware.charge, customers, [secret] * self.n, [base] * self.n))
        (OUT / "said").write_text("\n".join(said))
        if any(one != "charged" for one in said):
            raise RuntimeError("not all were charged")
        self.write()


class Pool(VendorTask, _InPool):
    """A vendor task with a pool."""

    budget_usd = "3"


class PlainPool(_InPool):
    """The same by a task that is no vendor task."""


class Napping(VendorTask, Output):
    """Sleeps in a pool of processes, after one of them has charged."""

    method = luigi.Parameter()
    deaf = luigi.BoolParameter(default=False)
    run_id = luigi.Parameter(default="nap")

    def run(self) -> None:
        context = multiprocessing.get_context(self.method)
        before = unaware.deafened if self.deaf else None
        with ProcessPoolExecutor(3, mp_context=context, initializer=before) as pool:
            naps = [pool.submit(unaware.nap, 300, str(OUT / "naps")) for _ in range(6)]
            if self.deaf:
                signal.signal(signal.SIGUSR2, signal.SIG_IGN)
            for nap in naps:
                nap.result()


class Charging(VendorTask, Output):
    """Charges in a pool of processes: its calls take their time."""

    method = luigi.Parameter()
    run_id = luigi.Parameter(default="nap")

    def run(self) -> None:
        secret, base = (OUT / "secret").read_text(), os.environ["STRIPE_BASE"]
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(self.method)) as pool:
            calls = [pool.submit(unaware.charge, f"c_{n}", secret, base) for n in range(3)]
            for call in calls:
                call.result()


class Exits(VendorTask, Output):
    """Charges, and ends its process as if nothing had happened."""

    def run(self) -> None:
        charge("exits")
        os._exit(0)


class PlainExits(Output):
    """A plain task that does so, in a pipeline with vendor tasks."""

    def requires(self) -> luigi.Task:
        return Vendor("before")

    def run(self) -> None:
        os._exit(0)


class All(luigi.WrapperTask):
    """A plain, a vendor and a threaded task, three of each at the most."""

    run_id = luigi.Parameter(default="all", significant=False)
    budget_usd = luigi.Parameter(default="", significant=False)

    def requires(self) -> list[luigi.Task]:
        return [Plain(), Vendor("a"), Vendor("b"), Threads()]


def open_files() -> int:
    """Return how many files this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


def settled() -> tuple[str, int, int]:
    """Return how many threads and files are there when those that end have ended, after 5 s at most.

    What has stayed for all of that time is the rule, and is waited for no more: once there were less.
    """
    deadline = time.monotonic() + 5
    seen = set()
    while True:
        gc.collect()
        here = threading.active_count(), open_files()
        seen.add(here)
        least = _least.setdefault("here", here)
        if all(now <= before for now, before in zip(here, least, strict=True)) or time.monotonic() > deadline:
            _least["here"] = here if len(seen) == 1 else min(here, least)
            return "FLAT", *here
        time.sleep(0.05)


_least: dict[str, tuple[int, int]] = {}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("method")
    parser.add_argument("root")
    parser.add_argument("--local", action="store_true")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--builds", type=int, default=1)
    parser.add_argument("--early", action="store_true", help="start the forkserver before the pipeline")
    known, more = parser.parse_known_args()
    multiprocessing.set_start_method(known.method)
    if known.early:
        first = multiprocessing.get_context("forkserver").Process(target=int)
        first.start()
        first.join()
    given = dict(one.split("=", 1) for one in more)
    for number in range(known.builds):
        if known.builds > 1:
            given["name"] = str(number)
        root = globals()[known.root].from_str_params(given)
        luigi.build([root], local_scheduler=known.local, workers=known.workers)
        print(*settled(), flush=True)


if __name__ == "__main__":
    main()
