"""What a pipeline did in `run()` before it was guarded works as ever, as the vendor counts it."""

from __future__ import annotations

import pytest

from tests.acceptance.test_shapes import charged
from tests.support.combinations import combined
from tests.support.site import SECRET, Site

HABITS = "tests.support.habits"
LOCAL = ("--local-scheduler",)
HOW = ["luigid", "local", "program"]


@combined("where method", [(), LOCAL], ["fork", "spawn"], chosen=[((), "spawn"), (LOCAL, "fork")])
def test_a_task_gives_its_own_methods_to_a_pool(site: Site, where: tuple[str, ...], method: str) -> None:
    _, said = site.luigi("OwnMethods", "--method", method, *where, module=HABITS)
    assert charged(site) == {f"{method}_{number}": 1 for number in range(3)}, said
    assert "This progress looks :)" in said


def test_so_does_a_plain_task_beside_vendor_tasks(site: Site) -> None:
    _, said = site.luigi("PlainOwnMethods", module=HABITS)
    assert (site.folder / "out" / "said").read_text() == "[0, 2, 4]", said


@combined(
    "how keep_alive",
    HOW,
    ["false", "true"],
    chosen=[("luigid", "true"), ("local", "false"), ("program", "false")],
)
def test_a_build_within_a_task_does_not_wait_for_that_tasks_money(
    site: Site, how: str, keep_alive: str
) -> None:
    """All of the run is set aside for the task, which waits for the build."""
    site.configure(worker={"keep_alive": keep_alive})
    _, said = site.luigi("Outer", "--how", how, "--max-cost-usd", "10", module=HABITS, timeout=60)
    assert charged(site) == {"outer": 1}, said
    assert "set aside for the task within which its worker runs" in said
    site.luigi("Inner", module=HABITS)
    assert charged(site) == {"outer": 1, "inner": 1}


@pytest.mark.parametrize("how", HOW)
def test_it_pays_from_what_that_task_leaves(site: Site, how: str) -> None:
    site.configure(spendguard_stripe={"secret": SECRET})  # A task's program finds none in its environment.
    _, said = site.luigi("Outer", "--how", how, "--max-cost-usd", "9", module=HABITS, timeout=60)
    assert charged(site) == {"outer": 1, "inner": 1}, said
