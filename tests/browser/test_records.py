"""Beside the runs: calls of all runs, totals, what operators did, and all of it as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest

from tests.browser.conftest import nightly
from tests.support.browser import Tab, until
from tests.support.site import Site

#: A customer whose name is script, and a formula.
CANARY = "=cmd()<img src=x onerror=window.canary=1>"


@pytest.fixture(scope="module")
def acted(tmp_path_factory: pytest.TempPathFactory, browser: Any) -> Iterator[Site]:
    """Two runs, with something of all that an operator does."""
    with Site(
        tmp_path_factory.mktemp("acted"), spendguard={"gateway_url": "http://127.0.0.1:9", "forecast": "hold"}
    ) as site:
        nightly(site, "one", 4, 0, "2")
        run = site.run("one")
        approved = {"usd": run["forecast_usd"], "unknown_tasks": run["unknown_tasks"]}
        assert site.call("POST", "/runs/one/approve", approved)[0] == 200
        nightly(site, "one", 4, 0, "2")
        nightly(site, "two", 3, 10, "9", word=CANARY)
        site.stripe.fault("drop_after", times=9)
        nightly(site, "two", 1, 20, "9")
        site.stripe.control(faults=[])
        (doubtful,) = [call for call in site.calls("two") if call["state"] == "in_doubt"]
        assert site.call("POST", f"/calls/{doubtful['id']}/resolve", {"spent_usd": "0.75"})[0] == 200
        assert site.call("POST", "/runs/one/top_up", {"usd": "2.50"})[0] == 200
        key = site.call("POST", "/vault/keys", {"vendor": "stripe", "agent_run_label": "luigi/two"})[1]
        assert site.call("DELETE", f"/vault/keys/{key['id']}")[0] == 200
        assert site.call("DELETE", "/runs/two")[0] == 200
        yield site


@pytest.fixture
def tab(browser: Any, acted: Site) -> Iterator[Tab]:
    found = Tab(browser, acted.url)
    yield found
    found.close()


def saved(page: Any) -> list[dict[str, str]]:
    """Return what the CSV button of the page saves."""
    with page.expect_download() as download:
        page.locator("#budgets .spendguard-csv:visible").get_by_role("button", name="CSV").click()
    with open(download.value.path(), encoding="utf-8", newline="") as text:
        return list(csv.DictReader(io.StringIO(text.read())))


def lines(page: Any) -> list[list[str]]:
    rows = page.locator(".spendguard-journal:visible tbody tr")
    return [rows.nth(place).locator("td, th").all_inner_texts() for place in range(rows.count())]


def test_what_operators_did_is_listed_with_when_and_how_much(tab: Tab, acted: Site) -> None:
    page = tab.go("#tab=budgets&view=actions")
    page.locator(".spendguard-journal tbody tr").first.wait_for()
    shown = lines(page)
    assert [(line[1], line[2], line[3]) for line in shown] == [
        ("two", "run revoked", ""),
        ("two", "key revoked", ""),
        ("one", "top-up", "+$2.50"),
        ("two", "call resolved", "$0.75"),
        ("one", "approval", "$4.00"),
    ]
    assert all("UTC" in line[0] for line in shown)
    assert shown[4][4] == "the forecast"
    assert "Pay_cus_20" in shown[3][4]
    assert tab.faults("#budgets") == []
    tab.shot("actions")
    assert [row["kind"] for row in saved(page)] == ["revoke", "revoke_key", "top_up", "resolve", "approve"]
    page.get_by_label("Kind").select_option("top_up")
    until(page, "document.querySelectorAll('.spendguard-journal tbody tr').length === 1")
    page.get_by_label("to", exact=True).fill("2020-01-01")
    page.get_by_text("Nothing of that was done.").wait_for()


def test_a_runs_page_has_what_was_done_to_it(tab: Tab) -> None:
    page = tab.go("#tab=budgets&run=one")
    page.locator(".spendguard-journal tbody tr").nth(1).wait_for()
    assert [line[1:3] for line in lines(page)] == [["top-up", "+$2.50"], ["approval", "$4.00"]]
    tab.shot("actions-of-a-run")


def test_totals_are_what_the_runs_have_spent(tab: Tab, acted: Site) -> None:
    page = tab.go("#tab=budgets&view=totals")
    page.get_by_text("Runs that made calls").wait_for()
    spent = sum(Decimal(run["spent_usd"]) for run in acted.call("GET", "/runs")[1])
    assert page.locator("dl.spendguard-facts div", has_text="Spent").locator("dd").inner_text() == f"${spent}"
    rows = saved(page)
    for by in ("vendor", "family"):
        assert sum(Decimal(row["spent_usd"]) for row in rows if row["by"] == by) == spent
        assert sum(int(row["calls"]) for row in rows if row["by"] == by) == len(
            acted.call("GET", "/calls")[1]
        )
    assert tab.faults("#budgets") == []
    tab.shot("totals")
    page.get_by_label("From").fill("2020-01-01")
    page.get_by_label("to", exact=True).fill("2020-12-31")
    page.locator("dl.spendguard-facts div", has_text="Spent").get_by_text("$0.00").wait_for()
    assert "from=2020-01-01" in page.url


def test_calls_of_all_runs_are_searched_by_customer_and_by_state(tab: Tab, acted: Site) -> None:
    page = tab.go("#tab=budgets&view=calls")
    calls = page.locator(".spendguard-calls tbody tr")
    calls.first.wait_for()
    assert calls.count() == len(acted.call("GET", "/calls")[1])
    assert tab.faults("#budgets") == []
    tab.shot("calls")
    rows = saved(page)
    assert len(rows) == calls.count()
    assert {row["run_id"] for row in rows} == {"one", "two"}
    assert "object_url" in rows[0]
    customer = page.get_by_label("Customer")
    customer.fill("cus_11")
    customer.press("Enter")
    until(page, "document.querySelectorAll('.spendguard-calls tbody tr').length === 1")
    assert calls.first.get_by_role("link", name="two", exact=True).count() == 1
    assert [row["target"] for row in saved(page)] == ["cus_11"], "what is saved is what is shown"
    page.get_by_label("State").select_option("in_doubt")
    page.get_by_text("No call matches.").wait_for()


def test_what_is_in_a_csv_is_no_formula_and_no_script(tab: Tab) -> None:
    page = tab.go("#tab=budgets&view=calls")
    page.locator(".spendguard-calls tbody tr").first.wait_for()
    assert any(CANARY in row["params"] for row in saved(page))
    rows = "[{a: '=1+1', b: '-5', c: ' @x', d: 'a\\n\"b'}]"
    cells = page.evaluate(f"import('../../spendguard/csv.js').then(({{csv}}) => csv({rows}))")
    assert cells == 'a,b,c,d\r\n\'=1+1,-5,\' @x,"a?""b"\r\n'
    assert page.evaluate("window.canary") is None


def test_the_pages_are_reached_by_keyboard(tab: Tab) -> None:
    page = tab.go()
    link = page.get_by_role("navigation", name="Pages of budgets").get_by_role("link", name="Totals")
    link.focus()
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Totals of all runs").wait_for()
    assert link.get_attribute("aria-current") == "page"
    page.go_back()
    page.locator(".spendguard-runs").wait_for()


def test_a_whole_list_is_saved_and_not_the_page_that_is_shown(browser: Any, site: Site) -> None:
    for number in range(120):
        opened = {
            "name": f"run-{number:03}",
            "by_task_id": False,
            "root_family": "Root",
            "root_task_id": "Root_1",
        }
        site.call("POST", "/api/spend_open_run", opened, token=None)
    tab = Tab(browser, site.url)
    page = tab.go()
    page.get_by_text("1 to 50 of 120 runs").wait_for()
    page.route(
        "**/runs?*limit=1000*", lambda route: route.continue_(url=route.request.url.replace("1000", "50"))
    )
    assert len({row["run_id"] for row in saved(page)}) == 120
    tab.close()
