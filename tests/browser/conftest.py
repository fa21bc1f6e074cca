"""A browser for each module; a site with runs in every state."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.browser import Tab, browsing
from tests.support.site import Site

MODULE = "tests.support.tab_pipeline"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Run a browser for a module: while Playwright is at work, nothing else has an event loop here."""
    with browsing() as found:
        yield found


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory, browser: Any) -> Iterator[Site]:
    """A site with a run in every state; `held` is held for an approval, `broke` has reached its cap."""
    with Site(
        tmp_path_factory.mktemp("busy"), spendguard={"forecast": "hold", "daily_cap_usd": 5000}
    ) as site:
        fill(site)
        yield site


def fill(site: Site) -> None:
    nightly(site, "broke", 8, 0, "5")
    site.call("POST", "/runs/broke/approve", {"usd": "8"})  # More than its cap: the last three are blocked.
    nightly(site, "broke", 8, 0, "5")
    nightly(site, "held", 20, 100, "5")
    nightly(site, "fine", 3, 200, "50")
    nightly(site, "ended", 1, 300, "5", by_task_id=True)
    nightly(site, "stopped", 2, 400, "5")
    site.call("DELETE", "/runs/stopped")
    site.stripe.fault("drop_after", times=9)
    nightly(site, "doubtful", 1, 500, "5")
    nightly(site, "frozen", 1, 600, "5")
    site.stripe.control(faults=[])
    for call in site.calls("frozen"):
        if call["state"] == "in_doubt":
            site.call("POST", f"/calls/{call['id']}/resolve", {"spent_usd": "3", "overrun": True})
    site.call("POST", "/runs/fine/top_up", {"usd": "10"})


def nightly(
    site: Site,
    run_id: str,
    n: int,
    first: int,
    budget: str,
    *,
    by_task_id: bool = False,
    word: str = "",
    workers: int = 2,
) -> str:
    """Run the pipeline; return what its worker said."""
    named = () if by_task_id else ("--run-id", run_id)
    args = (
        "Nightly",
        "--n",
        str(n),
        "--first",
        str(first),
        "--budget-usd",
        budget,
        "--workers",
        str(workers),
    )
    return site.luigi(
        *args, *named, *(("--word", word) if word else ()), module=MODULE, STRIPE_MAX_RETRIES="0"
    )[1]


@pytest.fixture
def tab(browser: Any, busy: Site) -> Iterator[Tab]:
    found = Tab(browser, busy.url)
    yield found
    found.close()
