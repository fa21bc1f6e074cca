"""Some thousands of histories on each push, and a few broken promises, which the simulator has to find."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from luigi_spendguard.ledger import reservations
from tests.simulation.__main__ import told
from tests.simulation.histories import PARTS, failure, kind_of, planned
from tests.simulation.many import many
from tests.simulation.mutants import MUTANTS, Mutant, edited, found
from tests.support.processes import REPOSITORY

HISTORIES = 2000
#: Mutants of three layers, which are found soon.
SOON = ("a denied call has no row", "what has no key is sent again", "revoke ignored")


def test_no_history_breaks_a_promise() -> None:
    assert many(1, HISTORIES, float("inf"), jobs=2) == (HISTORIES, None, "")


def test_a_history_is_always_the_same() -> None:
    """In another process, too, whose sets are in another order."""
    trace: list[str] = []
    failure(planned(30), trace)
    assert len(trace) > 20
    command = [sys.executable, "-m", "tests.simulation", "--seed", "30"]
    again = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert again.stdout.splitlines()[1:-1] == trace


def test_a_failed_history_is_made_shorter_and_can_be_lived_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reservations, "find_earlier", lambda *_: None)
    seed = next(seed for seed in range(1, 200) if failure(planned(seed)))
    why = failure(planned(seed))
    said = told(planned(seed), why, tmp_path)
    path = tmp_path / f"history-{seed}.json"
    assert said.endswith(f"-m tests.simulation --seed {seed} --history {path}")
    shorter = json.loads(path.read_text())
    assert sum(len(shorter[part]) for part in PARTS) < sum(len(planned(seed)[part]) for part in PARTS)
    assert kind_of(failure(shorter)) == kind_of(why)


def test_the_command_ends_badly_where_a_history_has_failed() -> None:
    command = [sys.executable, "-m", "tests.simulation", "--histories", "50", "--jobs", "1"]
    assert "50 histories in" in subprocess.check_output(command, cwd=REPOSITORY, text=True)


def test_each_promise_has_mutants_and_all_of_them_can_be_made() -> None:
    assert len({one.name for one in MUTANTS}) == len(MUTANTS) > 30
    for mutant in MUTANTS:
        assert edited(mutant), mutant.name
    assert {one.promise for one in MUTANTS} >= {
        "P1",
        "P2",
        "P3",
        "P4",
        "P5",
        "P6",
        "P7",
        "P8",
        "P10",
        "reads",
    }


@pytest.mark.parametrize("mutant", [one for one in MUTANTS if one.name in SOON], ids=lambda one: one.name)
def test_a_broken_promise_is_found(mutant: Mutant) -> None:
    said = found(mutant, within=400, jobs=1)
    assert f"{mutant.promise}: " in said
