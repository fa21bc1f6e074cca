"""What a root says of its run is read for vendor tasks alone: a plain pipeline is as under stock Luigi."""

from __future__ import annotations

import logging
from pathlib import Path

import luigi
import pytest

import luigi_spendguard.worker
from luigi_spendguard.worker.runs import RootTask


class Plain(luigi.Task):
    """A plain root whose attributes mean something else."""

    folder = luigi.Parameter()

    def complete(self) -> bool:
        return (Path(self.folder) / "done").exists()

    def run(self) -> None:
        (Path(self.folder) / "done").touch()


class Raising(Plain):
    @property
    def run_id(self) -> str:
        raise RuntimeError("it is not there yet")

    @property
    def budget_usd(self) -> str:
        raise AssertionError("nobody may ask a plain root")


class Numbered(Plain):
    run_id = luigi.IntParameter(default=7)


class Priced(Plain):
    budget_usd = "a lot"


class Tagged(Plain):
    spend_tags = "team: billing"


class Tagless(Plain):
    @property
    def spend_tags(self) -> dict[str, str]:
        raise AttributeError("'Tagless' has no nobody")


@pytest.mark.parametrize("kind", [Raising, Numbered, Priced, Tagged])
def test_a_plain_root_with_attributes_of_these_names_runs_as_ever(
    kind: type[Plain], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert luigi.worker.Worker is luigi_spendguard.worker.GuardedWorker
    with caplog.at_level(logging.WARNING):
        assert luigi.build([kind(str(tmp_path))], local_scheduler=True)
    assert [record.getMessage() for record in caplog.records if "run_id" in record.getMessage()] == []


def test_what_cannot_be_read_is_said_when_a_vendor_task_asks() -> None:
    assert RootTask(Raising("x")).problem == (
        "run_id, budget_usd or spend_tags of Raising cannot be read: RuntimeError: it is not there yet"
    )
    assert RootTask(Numbered("x")).problem == "Numbered.run_id must be a text, not int"
    root = RootTask(Priced("x"))
    assert (root.name, root.by_task_id, root.budget_usd) == (root.task_id, True, "0")
    assert root.problem.startswith("Priced.budget_usd is not usable")
    assert "cannot be read: AttributeError: 'Tagless' has no nobody" in RootTask(Tagless("x")).problem
    assert RootTask(Tagged("x")).problem == "Tagged.spend_tags must map names to texts, not be a str"


def test_a_worker_that_asks_at_once_says_that_it_has_looked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """0 would say nothing: its run would begin only when that is heard."""
    monkeypatch.setattr(luigi_spendguard.worker.runs.time, "monotonic", lambda: 5.0)
    assert RootTask(Plain(folder=str(tmp_path))).looked_ms == 1
