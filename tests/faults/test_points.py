"""The steps are those of the code and of docs/crashes.md, and each of them can be made to fail."""

from __future__ import annotations

import importlib
import re
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.faults import hooks, plans
from tests.faults.points import GATEWAY, LUIGID, POINTS, Point, steps
from tests.support.processes import REPOSITORY

CRASHES = (REPOSITORY / "docs" / "crashes.md").read_text("utf-8")
WHERE = sorted({where for one in POINTS for where in (one.where, one.within, one.having) if where})


@pytest.mark.parametrize("where", WHERE)
def test_the_function_of_a_step_is_there(where: str) -> None:
    module, _, name = where.partition(":")
    hooks.owner_of(importlib.import_module(module), name)


def test_one_that_was_renamed_is_noticed() -> None:
    module = importlib.import_module("luigi_spendguard.ledger.settlement")
    with pytest.raises(AttributeError):
        hooks.wrap(module, "finish_the_call")
    with pytest.raises(AttributeError):
        hooks.wrap(module, "logger")


def test_a_step_has_one_name() -> None:
    names = Counter((who, point.step) for point in POINTS for who in point.who)
    assert [name for name, times in names.items() if times > 1] == []
    assert len({hooks.slug(point.step) for point in POINTS}) == len({point.step for point in POINTS})


def test_every_step_is_in_the_docs_below_a_line_of_a_table() -> None:
    lines = re.findall(r"^\| (.+?) \|", CRASHES, re.MULTILINE)
    said = re.findall(
        r"^\* (\w[\w, ]*?): \*(.+)\*: (.+)$", CRASHES.partition("## Every step")[2], re.MULTILINE
    )
    listed: list[tuple[str, str]] = []
    for whose, line, named in said:
        assert line in lines, line
        listed += [(who, step) for who in whose.split(", ") for step in re.findall("`(.+?)`", named)]
    assert len(said) > 10
    assert sorted(listed) == sorted((who, point.step) for point in POINTS for who in point.who)


def test_four_rounds_kill_each_process_at_each_of_its_steps() -> None:
    faults = [one for plan in plans.in_all() for one in plan.faults]
    killed = {(one.who, one.point.step) for one in faults if one.action == "kill"}
    assert killed == {(who, point.step) for point in POINTS if not point.rare for who in point.who}
    for plan in plans.in_all():
        assert {one.action for one in plan.faults} >= {"kill", plans.FULL}
        for one in plan.faults:
            assert one.point in steps(one.who, gateway=plan.gateway), one


def test_a_seed_is_a_plan() -> None:
    assert plans.by_seed(7) == plans.by_seed(7)
    assert len({plans.by_seed(seed) for seed in range(20)}) == 20
    assert {(plan.engine, plan.gateway) for plan in map(plans.by_seed, range(4))} == set(plans.COMBINATIONS)
    kinds = {(plan.engine, plan.kind) for plan in map(plans.by_seed, range(20))}
    assert kinds == {(engine, kind) for engine in plans.ENGINES for kind in plans.KINDS}


class TestPassing:
    """When a step is passed, by functions that stand for the code's."""

    @pytest.fixture
    def did(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        did: list[str] = []
        monkeypatch.setenv(hooks.FOLDER, str(tmp_path))
        monkeypatch.setenv(hooks.OF, LUIGID)
        monkeypatch.setattr(hooks, "_act", lambda folder, action: did.append(action))
        points = (
            Point("asked", (LUIGID,), "m:outer", before=True),
            Point("answered", (LUIGID,), "m:outer", of=lambda *args: args[-1] == 2),
            Point("within", (LUIGID,), "m:inner", within="m:outer"),
            Point("having", (LUIGID,), "m:outer", having="m:inner"),
            Point("theirs", (GATEWAY,), "m:outer"),
        )
        monkeypatch.setattr(hooks, "POINTS", points)
        return did

    @staticmethod
    def module() -> Any:
        module: Any = ModuleType("m")
        module.inner = lambda: None
        module.outer = lambda value, calls: (module.inner() if calls else None, value)[1]
        for name in ("inner", "outer"):
            hooks.wrap(module, name)
        return module

    def test_the_nth_time_it_happens_once(self, did: list[str], tmp_path: Path) -> None:
        module = self.module()
        (tmp_path / "luigid.asked.3.kill").touch()
        (tmp_path / "gateway.theirs.1.cut").touch()
        for times, expected in enumerate(([], [], ["kill"], ["kill"]), 1):
            module.outer(1, False)
            assert did == expected, times
        assert (tmp_path / "gateway.theirs.1.cut").exists()
        assert len(list(tmp_path.glob("done.luigid.asked.*"))) == 1

    @pytest.mark.parametrize(
        ("step", "passes"), [("answered", (2, False)), ("within", (1, True)), ("having", (1, True))]
    )
    def test_it_is_that_step_alone(
        self, did: list[str], tmp_path: Path, step: str, passes: tuple[int, bool]
    ) -> None:
        module = self.module()
        (tmp_path / f"luigid.{step}.1.still").touch()
        module.inner()
        module.outer(1, False)
        assert did == []
        module.outer(*passes)
        assert did == ["still"]
