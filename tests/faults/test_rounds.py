"""kill -9 at every step of a call's life, for 16 workers: on both engines, wherever the secret is."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.plans import Plan, in_all
from tests.faults.rounds import Round
from tests.support.postgres import need_servers
from tests.support.programs import lacking

pytestmark = pytest.mark.timeout(900)


@pytest.mark.parametrize("plan", in_all(), ids=lambda plan: f"{plan.engine}-{'apart' * plan.gateway}")
def test_each_customer_pays_once_whatever_is_killed_at_whichever_step(plan: Plan, tmp_path: Path) -> None:
    if plan.engine == "postgres":
        need_servers()
    one = Round(plan, tmp_path)
    assert one.play() == []
    assert one.unpassed == [], "these steps were not passed"
    assert bool(plan.share) == bool(one.harmed.total())
    if one.lacking:
        lacking(one.lacking)
