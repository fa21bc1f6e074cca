"""How forked children end: asked to, killed, or out of time; and what their worker then says of them."""

from __future__ import annotations

from tests.acceptance.test_shapes import charged
from tests.acceptance.test_stopping import ended, lines
from tests.support.processes import wait_until
from tests.support.site import Site

TROUBLED = "tests.support.troubled"


def test_a_revoke_that_reaches_a_child_before_its_claim_blocks_the_task(site: Site) -> None:
    """A local scheduler knows that the task was dispatched: its child still looks for its inputs."""
    worker = site.worker("AfterSlowInput", "--run-id", "r", "--workers", "2", "--local-scheduler",
                         module=TROUBLED)  # fmt: skip
    wait_until(lambda: len(set(lines(site, "asked"))) == 2, what="the child")
    assert site.call("DELETE", "/runs/r")[0] == 200
    out = ended(worker)
    assert "1 task blocked: the run is revoked" in out
    assert "died unexpectedly" not in out
    assert charged(site) == {}
