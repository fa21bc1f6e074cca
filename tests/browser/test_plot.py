"""The plot of a run's spending: short runs, long ones and idle nights are read at a glance."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest

from tests.browser.conftest import nightly
from tests.support.browser import Tab
from tests.support.site import Site

HOUR = 3_600_000
#: When each run was at work: (from, to) in milliseconds since it was opened.
WORK = {
    "seconds": [(0, 3_000)],
    "minutes": [(0, 180_000)],
    "days": [(0, 9 * HOUR), (23 * HOUR, 33 * HOUR), (47 * HOUR, 57 * HOUR)],
    "instant": [(0, 0)],
}
WIDTHS = (1280, 800, 400)
#: The first and the last place of the plot's box where its line is drawn, from 0 to 1.
INKED = """() => {
  const over = document.querySelector('.u-over').getBoundingClientRect();
  const canvas = document.querySelector('.spendguard-plot canvas'), box = canvas.getBoundingClientRect();
  const scale = canvas.width / box.width, found = [];
  const left = Math.round((over.left - box.left) * scale), wide = Math.round(over.width * scale);
  const high = Math.round(over.height * scale), top = Math.round((over.top - box.top) * scale);
  const {data} = canvas.getContext('2d').getImageData(left, top, wide, high);
  for (let x = 0; x < wide; x += 1) {
    for (let y = 0; y < high; y += 1) {
      const at = 4 * (y * wide + x);
      const off = [0x1f, 0x5f, 0x99].reduce((sum, part, place) => sum + Math.abs(data[at + place] - part), 0);
      if (data[at + 3] > 200 && off < 12) {
        found.push(x / wide);
        break;
      }
    }
  }
  return [found[0], found.at(-1)];
}"""
BOXES = """(name) => [...document.querySelectorAll(name)].map((one) => {
  const {left, right, top, bottom} = one.getBoundingClientRect();
  return {left, right, top, bottom, text: one.textContent, clipped: one.scrollWidth > one.clientWidth + 1};
})"""

#: Links and buttons of ours at whose middle something else is.
COVERED = """() => [...document.querySelectorAll('.spendguard-views a, .spendguard-access button')]
  .filter((one) => {
    const {left, right, top, bottom} = one.getBoundingClientRect();
    return document.elementFromPoint((left + right) / 2, (top + bottom) / 2) !== one;
  }).map((one) => one.textContent)"""


@pytest.fixture(scope="module")
def stretched(tmp_path_factory: pytest.TempPathFactory, browser: Any) -> Iterator[Site]:
    """Runs that were really made, at times that a test cannot wait for."""
    with Site(tmp_path_factory.mktemp("stretched")) as site:
        for first, run_id in enumerate(WORK):
            nightly(site, run_id, 12, first * 100, "6")
            site.call("POST", f"/runs/{run_id}/top_up", {"usd": "3"})
            site.call("POST", f"/runs/{run_id}/top_up", {"usd": "0.50"})
            site.call("POST", f"/runs/{run_id}/top_up", {"usd": "1.50"})
            nightly(site, run_id, 12, first * 100, "6")
        assert site.luigid is not None
        site.luigid.end()
        for run_id, work in WORK.items():
            _stretch(site, run_id, _spread(work))
        site.start()
        yield site


def _spread(work: list[tuple[int, int]]) -> Callable[[float], int]:
    """Return what puts a part (0 to 1) of a run into the hours in which it was at work."""
    whole = sum(to - start for start, to in work)

    def at(part: float) -> int:
        left = part * whole
        for start, to in work:
            if left <= to - start:
                return int(start + left)
            left -= to - start
        return work[-1][1]

    return at


def _stretch(site: Site, run_id: str, at: Callable[[float], int]) -> None:
    """Spread what a run's journal says evenly; the order stays."""
    with closing(sqlite3.connect(site.ledger)) as books, books:
        [(trigger,)] = books.execute("SELECT sql FROM sqlite_master WHERE name = 'journal_no_update'")
        books.execute("DROP TRIGGER journal_no_update")
        opened = books.execute("SELECT opened_at FROM run WHERE run_id = ?", (run_id,)).fetchone()[0]
        ids = [
            one for (one,) in books.execute("SELECT id FROM journal WHERE run_id = ? ORDER BY id", (run_id,))
        ]
        for number, entry in enumerate(ids):
            moment = opened + at(number / (len(ids) - 1))
            books.execute("UPDATE journal SET at = ? WHERE id = ?", (moment, entry))
        books.execute(trigger)


@pytest.fixture(params=WIDTHS)
def tab(request: pytest.FixtureRequest, browser: Any, stretched: Site) -> Iterator[Tab]:
    found = Tab(browser, stretched.url, width=request.param)
    yield found
    found.close()


@pytest.mark.parametrize("run_id", WORK)
def test_a_run_is_seen_whole_however_long_it_took(tab: Tab, run_id: str) -> None:
    page = tab.go(f"#tab=budgets&run={run_id}")
    page.locator(".spendguard-plot canvas").wait_for()
    page.locator(".spendguard-mark").first.wait_for()
    width = page.viewport_size["width"]
    tab.shot(f"plot-{run_id}-{width}")
    [box] = page.evaluate(BOXES, ".u-over")
    first, last = page.evaluate(INKED)
    assert 0.01 < first < 0.1, "there is room before the first call, and not much"
    assert 0.9 < last < 0.999, "the last amount goes on to the edge"
    marks = page.evaluate(BOXES, ".spendguard-mark")
    assert [mark["text"] for mark in marks][:1] == ["top-up to $9.00"]
    lasting = page.evaluate(BOXES, ".spendguard-lasting")
    marks += lasting
    for mark in marks:
        assert not mark["clipped"], mark
        assert box["left"] <= mark["left"], mark
        assert mark["right"] <= box["right"] + 1, mark
        assert box["top"] <= mark["top"], mark
        assert mark["bottom"] <= box["bottom"], mark
    for number, one in enumerate(marks):
        for other in marks[number + 1 :]:
            beside = one["right"] <= other["left"] or other["right"] <= one["left"]
            assert beside or one["bottom"] <= other["top"] or other["bottom"] <= one["top"], (one, other)
    legend = page.locator(".spendguard-plot .u-legend").inner_text()
    assert "$11.00" in legend, "the last value, with nothing pointed at"
    assert "UTC" in legend
    idle = page.evaluate(BOXES, ".spendguard-idle")
    share = sum(one["right"] - one["left"] for one in idle) / (box["right"] - box["left"])
    # How much was denied by the cap decides how closely the calls stand before and after a night of 14 h.
    nights = [re.fullmatch(r"1[4-9] h", one["text"]) for one in lasting]
    assert all(nights), lasting
    assert len(nights) == (2 if run_id == "days" else 0)
    assert share < 0.12, "nights take no room"


#: What is written at the axis of plots of runs, by how long they took, at each width of a plot.
LABELS = """async (source) => {
  const { timeline } = await import(source);
  const spans = [0, 7, 95, 900, 3100, 64e3, 18e4, 47e5, 57 * 36e5, 40 * 864e5, 900 * 864e5];
  const start = Date.UTC(2026, 10, 24, 9, 2, 27, 217), found = [];
  for (const span of spans) {
    for (const width of [200, 330, 700, 1300, 2400, 5000]) {
      const line = timeline(span ? [start, start + span] : [start]);
      found.push({span, width, begins: line.place(start), labels: line.labels(84 / width)});
    }
  }
  return found;
}"""


def test_no_two_labels_of_an_axis_are_alike(browser: Any, stretched: Site) -> None:
    tab = Tab(browser, stretched.url)
    page = tab.go()
    source = page.locator("script[src*='spendguard/budgets.js']").evaluate("one => one.src")
    for axis in page.evaluate(LABELS, source.replace("budgets.js", "timeline.js")):
        texts = [one["text"].partition("\n") for one in axis["labels"]]
        day, said = "", []
        for time, _, of in texts:
            day = of or day
            said.append((day, time))
        assert len(said) == len(set(said)), axis
        assert all(one["place"] >= axis["begins"] == 0 for one in axis["labels"]), axis
    tab.close()


def test_an_empty_runs_plot_begins_with_the_run(browser: Any, stretched: Site) -> None:
    run = {"name": "empty", "by_task_id": False, "root_family": "Nightly", "root_task_id": "Nightly_1"}
    assert stretched.call("POST", "/api/spend_open_run", run, token=None)[0] == 200
    for width in WIDTHS:
        tab = Tab(browser, stretched.url, width=width)
        page = tab.go("#tab=budgets&run=empty")
        page.locator(".spendguard-plot canvas").wait_for()
        tab.shot(f"plot-empty-{width}")
        first, last = page.evaluate(INKED.replace("[0x1f, 0x5f, 0x99]", "[0x22, 0x22, 0x22]"))
        assert 0.01 < first < 0.1
        assert 0.9 < last < 0.999
        tab.close()


#: How far to the right, from 0 to 1, moments are written below the plot's box.
WRITTEN = """() => {
  const over = document.querySelector('.u-over').getBoundingClientRect();
  const canvas = document.querySelector('.spendguard-plot canvas'), box = canvas.getBoundingClientRect();
  const scale = canvas.width / box.width, left = Math.round((over.left - box.left) * scale);
  const wide = Math.round(over.width * scale), below = Math.round((over.bottom - box.top + 12) * scale);
  const {data} = canvas.getContext('2d').getImageData(left, below, wide, Math.round(14 * scale));
  let last = 0;
  for (let at = 0; at < data.length; at += 4) {
    if (data[at + 3] > 200 && data[at] < 60) {
      last = Math.max(last, at / 4 % wide);
    }
  }
  return last / wide;
}"""


def test_the_axis_is_whole_when_the_plot_is_drawn_again(browser: Any, stretched: Site) -> None:
    run = {"name": "again", "by_task_id": False, "root_family": "Nightly", "root_task_id": "Nightly_2"}
    assert stretched.call("POST", "/api/spend_open_run", run, token=None)[0] == 200
    tab = Tab(browser, stretched.url)
    page = tab.go("#tab=budgets&run=again")
    page.locator(".spendguard-plot canvas").wait_for()
    for amount, text in (("1", "top-up to $101.00"), ("2", "top-up to $103.00")):
        stretched.call("POST", "/runs/again/top_up", {"usd": amount})
        page.get_by_text(text).wait_for()
        assert page.evaluate(WRITTEN) > 0.6
    tab.shot("plot-again")
    tab.close()


def test_nothing_of_luigis_covers_the_links_of_the_tab(tab: Tab) -> None:
    page = tab.go("#tab=budgets&run=days")
    page.locator(".spendguard-plot canvas").wait_for()
    covered = page.evaluate(COVERED)
    assert covered == []


def test_steps_are_at_the_calls(stretched: Site) -> None:
    found = stretched.call("GET", "/runs/seconds/spending", token=None)[1]
    steps = [later - before for before, later in zip(found["times"], found["times"][1:], strict=False)]
    assert len(steps) >= 8, "three seconds are no single step"
    assert max(steps) < 1000
