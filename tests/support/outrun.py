"""A pipeline whose root somebody else completes while its worker still has vendor tasks to run."""

from __future__ import annotations

import os
import time

import luigi

from tests.support.pipelines import OUT, Charge


class Busy(luigi.Task):
    """Keeps its worker from the charges until the test lets it go on."""

    priority = 5

    def complete(self) -> bool:
        return (OUT / "busy").exists()

    def run(self) -> None:
        (OUT / f"began-{os.environ['ME']}").touch()
        while not (OUT / f"go-{os.environ['ME']}").exists():
            time.sleep(0.02)
        (OUT / "busy").touch()


class Outrun(luigi.Task):
    """Five charges of $1 behind a plain task; what `complete` goes by, anybody may make."""

    def requires(self) -> list[luigi.Task]:
        return [Busy(), *(Charge(customer=f"cus_{n}") for n in range(5))]

    def complete(self) -> bool:
        return (OUT / "root").exists()

    def run(self) -> None:
        (OUT / "root").touch()
