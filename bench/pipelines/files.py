"""A pipeline without a vendor: each task leaves a file."""

from __future__ import annotations

import os
from pathlib import Path

import luigi

OUT = Path(os.environ.get("OUT_DIR", "."))


class Leave(luigi.Task):
    """One file."""

    number = luigi.IntParameter()

    def output(self) -> luigi.LocalTarget:
        """Return it."""
        return luigi.LocalTarget(str(OUT / f"left-{self.number}"))

    def run(self) -> None:
        """Leave it."""
        self.output().open("w").close()


class Files(luigi.WrapperTask):
    """All of them."""

    n = luigi.IntParameter()

    def requires(self) -> list[luigi.Task]:
        """Return the tasks."""
        return [Leave(number) for number in range(self.n)]
