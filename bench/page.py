"""The Budgets tab in Chromium over a long ledger, and what its refreshes cost luigid's own RPCs."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import luigi.rpc

from bench.figures import quantile
from tests.support.browser import Tab, browsing, installed, until
from tests.support.history import write_history
from tests.support.site import FakeStripe, Site

#: Pending tasks that are in some run, and seconds of each turn with the page and without.
TASKS, TURN_S = 2000, 4.0
_ROWS = "document.querySelectorAll('.spendguard-runs tbody tr, .spendguard-calls tbody tr').length > 0"
#: Refresh as the page does by itself, and say how long it takes until the browser has painted again.
_REFRESH = """async () => {
  performance.clearResourceTimings();
  const begun = performance.now();
  document.dispatchEvent(new Event("visibilitychange"));
  const asked = () => performance.getEntriesByType("resource").filter(one => /[/](runs|day)/.test(one.name));
  while (asked().length < %d) await new Promise(done => setTimeout(done, 2));
  await new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)));
  return [performance.now() - begun, asked().reduce((sum, one) => sum + one.transferSize, 0)];
}"""
_LOADED = """() => [performance.getEntriesByName("first-contentful-paint")[0].startTime, performance.now(),
  performance.getEntriesByType("resource").filter(one => /spendguard|[/](runs|day)/.test(one.name))
    .reduce((sum, one) => sum + one.transferSize, 0)]"""


class _Asking:
    """A worker that pings and asks for work; how long each took, in milliseconds."""

    def __init__(self, url: str) -> None:
        self.rpc = luigi.rpc.RemoteScheduler(url)
        self.took: dict[str, list[float]] = {}

    def turn(self, name: str) -> None:
        """Ask for a while."""
        until = time.perf_counter() + TURN_S
        while time.perf_counter() < until:
            for what, ask in (("ping", self._ping), ("get_work", self._work)):
                begun = time.perf_counter()
                ask()
                self.took.setdefault(f"{what}_{name}", []).append((time.perf_counter() - begun) * 1000)
            time.sleep(0.01)

    def _ping(self) -> None:
        self.rpc.ping(worker="w")

    def _work(self) -> None:
        self.rpc.get_work(worker="idle", host="h", current_tasks=None)


@contextmanager
def _refreshing(site: Site, pause_s: float) -> Iterator[list[int]]:
    """Let what the page asks for be asked again and again, from a process's thread of its own."""
    over, asked = threading.Event(), [0]

    def ask() -> None:
        while not over.wait(pause_s):
            site.call("GET", "/runs?limit=50&offset=0&sort=-opened_at", token=None)
            site.call("GET", "/day", token=None)
            asked[0] += 1

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield asked
    finally:
        over.set()
        thread.join()


def measure_page(folder: Path, runs: int, calls: int, repeats: int) -> dict[str, Any]:
    """Return milliseconds and bytes: medians, with the least and the most; nothing without a browser."""
    if installed() is None:
        return {"page": "not measured: Chromium is not installed"}
    vendor = FakeStripe(folder / "vendor")
    ledger = folder / "ledger" / "spendguard.db"
    ledger.parent.mkdir(parents=True)
    write_history(ledger, runs, calls)
    site = Site(folder, stripe=vendor)
    found: dict[str, Any] = {"page_runs": runs, "page_calls": calls}
    try:
        with browsing() as browser:
            found["page_chromium"] = browser.version
            for name, at, requests in (
                ("list", "#tab=budgets", 2),
                ("run", f"#tab=budgets&run=run-{runs - 1:04}", 2),
            ):
                found |= _page(browser, site, name, at, requests, repeats)
        found |= _rpcs(site, runs, repeats)
    finally:
        site.end()
        vendor.process.end()
    return found


def _page(browser: Any, site: Site, name: str, at: str, requests: int, repeats: int) -> dict[str, Any]:
    first, shown, again, sizes, more = [], [], [], [], []
    for _ in range(repeats):
        tab = Tab(browser, site.url)
        page = tab.go(at)
        until(page, _ROWS)
        paint, ready, size = page.evaluate(_LOADED)
        first.append(paint)
        shown.append(ready)
        sizes.append(size)
        page.wait_for_timeout(500)
        took, bytes_ = page.evaluate(_REFRESH % requests)
        again.append(took)
        more.append(bytes_)
        tab.close()
    return {
        f"page_{name}_first_paint_ms": _spread(first),
        f"page_{name}_shown_ms": _spread(shown),
        f"page_{name}_refresh_ms": _spread(again),
        f"page_{name}_fetched_kb": round(max(sizes) / 1000, 1),
        f"page_{name}_refresh_kb": round(max(more) / 1000, 1),
    }


def _rpcs(site: Site, runs: int, repeats: int) -> dict[str, Any]:
    asking = _Asking(site.url)
    for number in range(TASKS):
        run = {"run_id": f"run-{number % min(runs, 50):04}", "vendor": True}
        asking.rpc.add_task(
            worker="w", task_id=f"P{number}", family="F", runnable=True, params={}, spendguard=run
        )
    refreshes = 0
    for _ in range(max(1, repeats // 2)):
        asking.turn("alone")
        with _refreshing(site, 1.0) as asked:  # Five times as often as a page does.
            asking.turn("beside_page")
        refreshes += asked[0]
    found: dict[str, Any] = {"page_refreshes_beside_rpcs": refreshes}
    for name, took in asking.took.items():
        found[f"page_{name}_ms_p50_p99"] = f"{quantile(took, 0.5):.2f} / {quantile(took, 0.99):.2f}"
    return found


def _spread(values: list[float]) -> str:
    return f"{quantile(values, 0.5):.0f} ({min(values):.0f} to {max(values):.0f})"
