"""The page of what was spent: a picture of each day and a table of its figures, and reports."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import date, datetime, timedelta, timezone
from typing import Any

import pytest

from tests.browser.conftest import nightly
from tests.support.browser import Tab, until
from tests.support.site import Site

DAY_MS = 86_400_000
#: How much of the picture has a colour; in a canvas that has been drawn.
INKED = """(colour) => {
  const canvas = document.querySelector('.spendguard-days canvas');
  const {data} = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
  let found = 0;
  for (let at = 0; at < data.length; at += 4) {
    const off = colour.reduce((sum, part, place) => sum + Math.abs(data[at + place] - part), 0);
    found += data[at + 3] > 200 && off < 12 ? 1 : 0;
  }
  return found;
}"""
FIRST, SECOND, CAP = [0x1F, 0x5F, 0x99], [0xA3, 0x47, 0x00], [0xC0, 0x39, 0x2B]


@pytest.fixture(scope="module")
def spent(tmp_path_factory: pytest.TempPathFactory, browser: Any) -> Iterator[Site]:
    """Runs of today and, as a test cannot wait for them, of two days ago."""
    with Site(
        tmp_path_factory.mktemp("spent"),
        spendguard={"daily_cap_usd": 50},
        spendguard_tags={"Nightly": "team: billing"},
    ) as site:
        nightly(site, "early", 3, 0, "9")
        assert site.luigid is not None
        site.luigid.end()
        with closing(sqlite3.connect(site.ledger)) as db:
            [(trigger,)] = db.execute("SELECT sql FROM sqlite_master WHERE name = 'journal_no_update'")
            db.execute("DROP TRIGGER journal_no_update")
            for table, column in (("journal", "at"), ("call", "created_at"), ("run", "opened_at")):
                db.execute(f"UPDATE {table} SET {column} = {column} - {2 * DAY_MS}")
            db.execute("UPDATE budget SET part = date(part, '-2 days') WHERE scope = 'day'")
            db.execute(trigger)
            db.commit()
        site.start()
        nightly(site, "late", 5, 50, "4")
        yield site


@pytest.fixture
def tab(browser: Any, spent: Site) -> Iterator[Tab]:
    found = Tab(browser, spent.url)
    yield found
    found.close()


def cells(page: Any, caption: str) -> list[list[str]]:
    rows = page.get_by_role("region", name=caption).locator("tbody tr")
    return [rows.nth(place).locator("th, td").all_inner_texts() for place in range(rows.count())]


def test_each_day_is_a_bar_and_a_row(tab: Tab) -> None:
    page = tab.go("#tab=budgets&view=spending")
    page.get_by_role("region", name="Spent per day").wait_for()
    today, before = (datetime.now(timezone.utc).date() - timedelta(days=days) for days in (0, 2))
    shown = cells(page, "Spent per day")
    assert [row[:3] for row in shown] == [[str(today), "$4.00", "$4.00"], [str(before), "$3.00", "$3.00"]]
    assert shown[0][3] == "$50.00", "the cap that is in force"
    label = page.locator(".spendguard-days").get_attribute("aria-label")
    assert re.match(r"Spent per day: stripe \$7\.00", label)
    page.locator(".spendguard-days canvas").wait_for()
    assert page.evaluate(INKED, FIRST) > 1000
    assert page.evaluate(INKED, CAP) > 10
    assert [row["stripe"] for row in saved_days(page)] == ["3.00", "4.00"]
    assert tab.faults("#budgets") == []
    tab.shot("spending")


def saved_days(page: Any) -> list[dict[str, str]]:
    with page.expect_download() as download:
        page.locator("#budgets .spendguard-csv:visible").first.get_by_role("button", name="CSV").click()
    lines = download.value.path().read_text("utf-8").splitlines()
    names = lines[0].split(",")
    return [dict(zip(names, line.split(","), strict=True)) for line in lines[1:]]


def test_the_picture_is_split_and_its_days_are_chosen(tab: Tab) -> None:
    page = tab.go("#tab=budgets&view=spending&split=task")
    page.get_by_role("columnheader", name="Pay", exact=True).wait_for()
    page.get_by_label("Stacked by").select_option("root")
    page.get_by_role("columnheader", name="Nightly", exact=True).wait_for()
    page.get_by_label("to", exact=True).fill("2020-01-01")
    page.get_by_text("Nothing was spent or denied on these days.").wait_for()
    assert "to=2020-01-01" in page.url


def test_a_report_is_a_table_with_the_figures_of_the_command(tab: Tab, spent: Site) -> None:
    page = tab.go("#tab=budgets&view=spending&report=root")
    page.get_by_role("region", name="cost by root family").wait_for()
    assert [row[:2] for row in cells(page, "cost by root family")] == [["Nightly", "$7.00"]]
    page.get_by_label("Report").select_option("run")
    page.get_by_role("region", name="cost by run").wait_for()
    page.get_by_label("Compared with before").check()
    page.get_by_role("columnheader", name="Before").wait_for()
    shown = {row[0]: row[1:5] for row in cells(page, "cost by run")}
    assert shown == {
        "late": ["$4.00", "$3.00", "$1.00", "+33.3 %"],
        "early": ["$3.00", "", "$3.00", ""],
    }
    told = json.loads(spent.cli("report", "cost", "--compare", "--format", "json")[1])
    assert {row["name"]: row["change_usd"] for row in told["rows"]} == {"late": "1.00", "early": "3.00"}
    page.get_by_label("Report").select_option("tag")
    page.get_by_text("Say which tag").wait_for()
    page.get_by_label("Tag's name").fill("nobodys")
    page.get_by_label("Tag's name").press("Enter")
    page.get_by_text("no run has a tag nobodys").wait_for()
    page.get_by_label("Tag's name").fill("team")
    page.get_by_label("Tag's name").press("Enter")
    page.get_by_role("rowheader", name="billing").wait_for()
    page.get_by_label("Report").select_option("forecast")
    page.get_by_role("region", name="forecast and actual").wait_for()
    assert {row[0] for row in cells(page, "forecast and actual")} == {"early", "late"}
    page.get_by_label("Report").select_option("denied")
    page.get_by_text("There is nothing of that in these days.").wait_for()
    assert tab.faults("#budgets") == []


def test_a_year_of_twenty_families_is_one_picture(tab: Tab) -> None:
    """The table has the last month of it until all is asked for; the picture all of its days at once."""
    first = date(2025, 10, 1)
    days = [str(first + timedelta(days=number)) for number in range(400)]
    series: list[dict[str, Any]] = [
        {"name": f"Family{number:02}", "spent_usd": [f"{(day * (number + 1)) % 7}.50" for day in range(400)]}
        for number in range(20)
    ]
    series[3]["spent_usd"][9] = "-40.00"
    answer = {
        **{"report": "days", "split": "task", "days": days, "series": series},
        **{
            "total_usd": ["60.00"] * 400,
            "cap_usd": [None, *["80.00"] * 399],
            "denied_calls": [day % 50 == 0 for day in range(400)],
        },
    }
    page = tab.go("#tab=budgets&view=calls")
    page.route("**/reports/days*", lambda route: route.fulfill(json=answer))
    page.evaluate("location.hash = '#tab=budgets&view=spending&split=task'")
    page.get_by_role("button", name="Show all 400 days").wait_for()
    assert len(cells(page, "Spent per day")) == 31
    assert page.evaluate(INKED, FIRST) > 100
    assert page.evaluate(INKED, SECOND) > 100
    tab.shot("spending-year")
    page.get_by_role("button", name="Show all 400 days").click()
    until(page, "document.querySelectorAll('[aria-label=\"Spent per day\"] tbody tr').length === 400")
    assert page.locator(".spendguard-days .u-series").count() == 23


def test_what_was_saved_is_the_report(tab: Tab) -> None:
    page = tab.go("#tab=budgets&view=spending&report=vendor")
    page.get_by_role("region", name="cost by vendor").wait_for()
    with page.expect_download() as download:
        page.locator("#budgets .spendguard-csv:visible").nth(1).get_by_role("button", name="CSV").click()
    heading, line, *_ = download.value.path().read_text("utf-8").splitlines()
    assert heading == "name,calls,spent_usd,overrun_usd,corrections_usd,inflow_usd,outflow_usd"
    assert line.startswith("stripe,7,7.00,")
