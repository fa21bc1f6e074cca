"""A few broken promises, which the simulator has to find; failures are made shorter and lived again."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from luigi_spendguard.ledger import reservations
from tests.simulation.__main__ import told
from tests.simulation.histories import PARTS, failure, kind_of, many, planned
from tests.simulation.mutants import MUTANTS, Mutant, edited, found
from tests.support.processes import REPOSITORY

#: Mutants of three layers, which are found soon.
SOON = ("a denied call has no row", "what has no key is sent again", "revoke ignored")


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
    _, seed, why = many(1, 400, float("inf"), jobs=1)
    assert seed is not None
    said = told(planned(seed), why, tmp_path)
    path = tmp_path / f"history-{seed}.json"
    assert said.endswith(f"-m tests.simulation --seed {seed} --history {path}")
    shorter = json.loads(path.read_text())
    assert sum(len(shorter[part]) for part in PARTS) < sum(len(planned(seed)[part]) for part in PARTS)
    assert kind_of(failure(shorter)) == kind_of(why)


def test_each_promise_has_mutants_and_all_of_them_can_be_made() -> None:
    assert len({one.name for one in MUTANTS}) == len(MUTANTS) > 30
    for mutant in MUTANTS:
        assert edited(mutant), mutant.name
    assert {one.promise for one in MUTANTS} == {*(f"P{n}" for n in (1, 2, 3, 4, 5, 6, 7, 8, 10)), "reads"}


@pytest.mark.parametrize("mutant", [one for one in MUTANTS if one.name in SOON], ids=lambda one: one.name)
def test_a_broken_promise_is_found(mutant: Mutant) -> None:
    assert f"{mutant.promise}: " in found(mutant, within=400)
