"""Debian's Chromium, driven by Playwright: pages of a site, and what went wrong on them.

Where it is missing the tests are skipped, but fail in continuous integration.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.support.npm import MODULES, node
from tests.support.processes import REPOSITORY
from tests.support.programs import lacking

#: Where a screenshot of each state is kept.
SHOTS = REPOSITORY / "build" / "screenshots"
#: What the browser is to do without. Its last two load a page of its own for each window, which takes a third
#: of what a test's page does; the others are Playwright's list, which only one can be.
WITHOUT = (
    *("AimEnabled", "AvoidCorsURLLoaderRestartOnRedirect", "AvoidUnnecessaryBeforeUnloadCheckSync"),
    *("DestroyProfileOnBrowserClose", "HttpsFirstBalancedModeAutoEnable", "HttpsUpgrades", "LensOverlay"),
    *("MediaRouter", "NetworkTimeServiceQuerying", "OptimizationHints", "PaintHolding", "PreconnectToSearch"),
    *("ThirdPartyStoragePartitioning", "WebUIOmniboxPopup", "WebUIOmniboxAimPopup"),
)
#: Chromium asks for nothing in the background: this is a closed network.
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-component-update",
    "--disable-background-networking",
    "--disable-sync",
    f"--disable-features={','.join(WITHOUT)}",
    # Luigi's own styles ask a host of the web for a font. A route in a page would see each of its requests.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]


def installed() -> str | None:
    """Return the browser's path, None where it is not installed."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def chromium() -> str:
    """Return the browser's path; else skip, or fail in CI."""
    if (found := installed()) is not None:
        return found
    lacking("Chromium is not installed: Debian's package `chromium` will do")


@contextmanager
def browsing(*flags: str) -> Iterator[Any]:
    """Run a browser, with more flags."""
    path = chromium()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=[*FLAGS, *flags])
        try:
            yield browser
        finally:
            browser.close()


def until(page: Any, condition: str) -> None:
    """Wait until a JavaScript expression holds; Playwright's own way needs scripts that the page forbids."""
    limit = time.monotonic() + 60
    while not page.evaluate(condition):
        assert time.monotonic() < limit, condition
        page.wait_for_timeout(20)


class Tab:
    """A page of a site's visualiser; `errors` are those of our scripts, `asked` the hosts that it asked."""

    def __init__(self, browser: Any, url: str, *, width: int = 1440) -> None:
        self.url = url
        self.context = browser.new_context(
            viewport={"width": width, "height": 900}, locale="en-US", timezone_id="UTC"
        )
        self.page = self.context.new_page()
        self.page.set_default_timeout(60_000)
        self.errors: list[str] = []
        self.asked: list[str] = []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", self._said)
        self.page.on("request", lambda request: self.asked.append(request.url))

    def _said(self, said: Any) -> None:
        if "spendguard" in said.text:
            self.errors.append(said.text)

    def go(self, fragment: str = "#tab=budgets") -> Any:
        """Open the visualiser anew at that tab."""
        self.page.goto("about:blank")
        self.page.goto(f"{self.url}/static/visualiser/index.html{fragment}")
        return self.page

    def shot(self, name: str) -> None:
        """Keep a screenshot."""
        SHOTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=SHOTS / f"{name}.png", full_page=True)

    def faults(self, within: str) -> list[str]:
        """Return the serious accessibility faults that axe-core finds in an element."""
        node("axe-core")
        self.page.evaluate((MODULES / "axe-core" / "axe.min.js").read_text("utf-8"))
        found = self.page.evaluate(f"axe.run({json.dumps(within)})")
        assert found["passes"], "axe has looked at nothing"
        return [
            f"{one['id']}: {one['help']}: {[part['html'][:150] for part in one['nodes'][:3]]}"
            for one in found["violations"]
            if one["impact"] in ("serious", "critical")
        ]

    def say_token(self, token: str) -> None:
        """Fill in the dialog that asks for a token."""
        self.page.get_by_label("Token", exact=True).fill(token)
        self.page.get_by_role("button", name="Use it").click()
        self.page.get_by_role("heading", name="Your token").wait_for(state="detached")

    def close(self) -> None:
        """Close it; none of our scripts may have failed."""
        self.context.close()
        assert self.errors == [], self.errors
