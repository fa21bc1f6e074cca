"""What a pipeline did in `run()` before it was guarded works as ever, as the vendor counts it."""

from __future__ import annotations

import pytest

from tests.acceptance.test_shapes import charged
from tests.support.site import Site

HABITS = "tests.support.habits"
WHERE = pytest.mark.parametrize("where", [(), ("--local-scheduler",)], ids=["luigid", "local"])


@WHERE
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_task_gives_its_own_methods_to_a_pool(site: Site, where: tuple[str, ...], method: str) -> None:
    _, said = site.luigi("OwnMethods", "--method", method, *where, module=HABITS)
    assert charged(site) == {f"{method}_{number}": 1 for number in range(3)}, said
    assert "This progress looks :)" in said


def test_so_does_a_plain_task_beside_vendor_tasks(site: Site) -> None:
    _, said = site.luigi("PlainOwnMethods", module=HABITS)
    assert (site.folder / "out" / "said").read_text() == "[0, 2, 4]", said
