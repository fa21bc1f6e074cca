"""The list of runs in a real browser: states, sorting, filtering, links, refresh, keyboard."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.browser.conftest import nightly
from tests.support.browser import Tab, until
from tests.support.forwarder import Forwarder
from tests.support.site import Site


def row(page: Any, run_id: str) -> Any:
    return page.locator(".spendguard-runs tbody tr", has=page.get_by_role("link", name=run_id, exact=True))


def names(page: Any) -> list[str]:
    return page.locator(".spendguard-runs tbody th a").all_inner_texts()


def test_every_run_is_a_row_with_its_state_and_amounts(tab: Tab, busy: Site) -> None:
    page = tab.go()
    for run_id, status in {
        "broke": "blocked",
        "held": "held for approval",
        "fine": "active",
        "stopped": "revoked",
        "doubtful": "in doubt",
        "frozen": "frozen",
    }.items():
        assert row(page, run_id).locator(".label").inner_text() == status, run_id
    assert row(page, "doubtful").locator("td").last.inner_text() == "1"
    cells = row(page, "fine").locator("td").all_inner_texts()
    assert cells[2:6] == ["$60.00", "$3.00", "", "$57.00"]
    assert cells[8] == "stripe"
    bar = row(page, "fine").get_by_role("img")
    assert bar.get_attribute("aria-label") == "$3.00 spent of $60.00"
    assert re.search("remaining of \\$5,000.00", page.locator(".spendguard-day").inner_text())
    tab.shot("runs")
    shown = {run["run_id"]: run for run in busy.call("GET", "/runs")[1]}
    assert set(names(page)) == set(shown)


def test_headings_sort_by_what_luigid_knows(tab: Tab, busy: Site) -> None:
    page = tab.go()
    spent = page.get_by_role("button", name="Spent")
    spent.click()
    page.locator("th[aria-sort=descending]", has_text="Spent").wait_for()
    found = [run["run_id"] for run in busy.call("GET", "/runs?sort=-spent_usd")[1]]
    assert names(page) == found
    assert "sort=-spent_usd" in page.url
    page.get_by_role("button", name="Spent").press("Enter")
    page.locator("th[aria-sort=ascending]", has_text="Spent").wait_for()
    assert names(page) == found[::-1]
    assert page.evaluate("document.activeElement.dataset.key") == "sort spent_usd", "the focus stays"


def test_runs_are_found_by_status_and_by_a_part_of_their_name(tab: Tab) -> None:
    page = tab.go()
    page.get_by_label("Status").select_option("revoked")
    row(page, "fine").wait_for(state="detached")
    assert names(page) == ["stopped"]
    page.get_by_label("Status").select_option("")
    row(page, "fine").wait_for()
    page.get_by_label("Find").fill("NIGHTLY_300")  # The root's task_id is the name of one.
    row(page, "fine").wait_for(state="detached")
    assert len(names(page)) == 1
    page.get_by_label("Find").fill("no such run")
    page.get_by_text("No run matches.").wait_for()
    tab.shot("runs-none-match")
    page.get_by_role("link", name="Show all runs").click()
    row(page, "fine").wait_for()


def test_a_link_to_a_run_opens_it_and_back_leads_back(tab: Tab) -> None:
    page = tab.go("#tab=budgets&run=fine")
    page.get_by_role("heading", name="fine active").wait_for()
    page.get_by_role("link", name="All runs").click()
    row(page, "fine").wait_for()
    row(page, "broke").get_by_role("link").click()
    page.get_by_role("heading", name=re.compile("^broke")).wait_for()
    page.go_back()
    row(page, "broke").wait_for()
    page.go_back()
    page.get_by_role("heading", name="fine active").wait_for()
    assert page.locator("#budgets-link").evaluate("one => one.parentElement.className") == "active"


def test_luigis_own_tabs_go_on_as_before(tab: Tab) -> None:
    page = tab.go()
    row(page, "fine").wait_for()
    for link, pane in (
        ("Workers", "workerList"),
        ("Task List", "taskList"),
        ("Budgets", "budgets"),
        ("Resources", "resourceList"),
        ("Budgets", "budgets"),
    ):
        page.locator("#topNavbar").get_by_role("link", name=link, exact=True).click()
        page.locator(f"#{pane}.active").wait_for(state="attached")
        until(page, "document.querySelectorAll('.tab-pane.active').length === 1")
        active = page.locator("#topNavbar li.active").all_inner_texts()
        assert [text.strip() for text in active] == [link]


def test_a_page_that_is_left_open_shows_changes_without_flicker(tab: Tab, busy: Site) -> None:
    page = tab.go("#tab=budgets&sort=run_id")
    link = row(page, "fine").get_by_role("link")
    link.focus()
    rows = "[...document.querySelectorAll('.spendguard-runs tbody tr')]"
    page.evaluate(f"{rows}.forEach(row => {{ row.spendguardMark = true; }})")
    page.evaluate("window.scrollTo(0, 30)")
    busy.call("POST", "/runs/fine/top_up", {"usd": "1.50"})
    cap = row(page, "fine").locator("td").nth(2)
    until(
        page,
        "[...document.querySelectorAll('.spendguard-runs td')].some(one => one.textContent === '$61.50')",
    )
    assert cap.inner_text() == "$61.50"
    marks = page.evaluate(f"{rows}.map(row => row.spendguardMark)")
    assert set(marks) == {True}, "rows are kept"
    assert page.evaluate("document.activeElement.textContent") == "fine"


def test_it_works_behind_a_prefix(browser: Any, busy: Site) -> None:
    with Forwarder(busy.url, hosts=True) as proxy:
        tab = Tab(browser, f"{proxy.url}/luigi")
        page = tab.go()
        row(page, "fine").get_by_role("link").click()
        page.locator(".spendguard-plot canvas").wait_for()
        assert all(address.startswith(f"{proxy.url}/luigi/") for address in tab.asked if proxy.url in address)
        tab.close()


def test_nothing_is_asked_of_other_hosts(tab: Tab) -> None:
    page = tab.go("#tab=budgets&run=fine")
    page.locator(".spendguard-plot canvas").wait_for()
    ours = [address for address in tab.asked if not address.startswith((tab.url, "data:", "about:"))]
    assert [address for address in ours if "fonts.googleapis.com" not in address] == [], "Luigi's own font"


def test_the_task_list_shows_what_tasks_have_cost(tab: Tab) -> None:
    page = tab.go("#tab=tasks")
    page.locator(".spendguard-cost").first.wait_for()
    page.get_by_label("Filter table:").fill("cus_201")
    found = page.locator("#taskTable tr", has_text="cus_201").locator(".spendguard-cost")
    until(page, "document.querySelectorAll('.spendguard-cost').length === 1")
    assert re.fullmatch(r"\$1.00 · run \$3.00 of \$6\d\.\d0", found.inner_text())
    tab.shot("task-list")
    found.get_by_role("link").click()
    page.get_by_role("heading", name="fine active").wait_for()


@pytest.mark.parametrize("at", ["#tab=budgets", "#tab=budgets&run=broke", "#tab=budgets&run=doubtful"])
def test_axe_finds_no_serious_fault(tab: Tab, at: str) -> None:
    page = tab.go(at)
    page.locator("#budgets .label").first.wait_for()
    until(page, "!document.querySelector('.spendguard-loading:not([hidden])')")
    assert tab.faults("#budgets") == []


def test_before_the_first_run_the_page_says_what_begins_one(browser: Any, site: Site) -> None:
    tab = Tab(browser, site.url)
    page = tab.go()
    page.get_by_text("No run was opened yet.").wait_for()
    tab.shot("empty")
    assert tab.faults("#budgets") == []
    assert not site.ledger.exists(), "looking makes no ledger"
    nightly(site, "first", 1, 0, "5")
    row(page, "first").wait_for()
    tab.close()


def test_until_luigid_has_answered_the_page_says_that_it_loads(tab: Tab) -> None:
    held: list[Any] = []

    def hold(route: Any) -> None:
        held.append(route)

    tab.page.route("**/runs?*", hold)
    page = tab.go()
    page.get_by_text("Loading…").wait_for()
    tab.shot("loading")
    assert page.locator(".spendguard-runs").is_hidden()
    while not held:
        page.wait_for_timeout(20)
    held.pop().continue_()
    row(page, "fine").wait_for()
    assert page.get_by_text("Loading…").is_hidden()


def test_a_link_to_no_run_leads_on(tab: Tab) -> None:
    page = tab.go("#tab=budgets&run=nope")
    page.get_by_text("there is no run nope").wait_for()
    tab.shot("no-such-run")
    page.get_by_role("link", name="Show all runs").click()
    row(page, "fine").wait_for()


def test_while_luigid_is_down_the_page_says_so_and_then_recovers(browser: Any, site: Site) -> None:
    nightly(site, "first", 1, 0, "5")
    tab = Tab(browser, site.url)
    page = tab.go()
    row(page, "first").wait_for()
    assert site.luigid is not None
    site.luigid.end()
    page.get_by_role("alert").get_by_text("luigid does not answer").wait_for()
    tab.shot("failed")
    assert row(page, "first").is_visible(), "what was known is kept"
    site.start()
    page.get_by_text("luigid does not answer").wait_for(state="detached")
    # Costs may have been asked for meanwhile; the page goes on without them.
    tab.errors = [error for error in tab.errors if "no costs are shown: luigid does not answer" not in error]
    tab.close()


def test_a_page_of_which_nobody_may_read_asks_for_the_token(browser: Any, site: Site) -> None:
    nightly(site, "first", 1, 0, "5")
    site.restart(spendguard={"anonymous_read": "false"})
    tab = Tab(browser, site.url)
    page = tab.go()
    page.get_by_text("Budgets cannot be read").wait_for()
    tab.shot("no-access")
    page.get_by_role("alert").get_by_role("button", name="Enter your token").click()
    tab.say_token(site.token())
    row(page, "first").wait_for()
    tab.close()


def test_hundreds_of_runs_are_paged_by_luigid(browser: Any, site: Site) -> None:
    nightly(site, "first", 1, 0, "5")
    for number in range(119):
        site.call(
            "POST",
            "/api/spend_open_run",
            {
                "name": f"run-{number:03}",
                "by_task_id": False,
                "root_family": "Root",
                "root_task_id": f"Root_{number}",
            },
            token=None,
        )
    tab = Tab(browser, site.url)
    page = tab.go("#tab=budgets&sort=run_id")
    page.get_by_text("1 to 50 of 120 runs").wait_for()
    page.get_by_role("link", name="Next").click()
    page.get_by_text("51 to 100 of 120 runs").wait_for()
    page.get_by_role("link", name="Next").click()
    page.get_by_text("101 to 120 of 120 runs").wait_for()
    assert names(page)[-1] == "run-118"
    assert page.get_by_role("link", name="Next").count() == 0
    page.get_by_role("link", name="Previous").click()
    page.get_by_text("51 to 100 of 120 runs").wait_for()
    tab.close()


def test_an_answer_that_comes_late_is_dropped(tab: Tab) -> None:
    page = tab.go()
    row(page, "fine").wait_for()
    held: list[Any] = []

    def hold(route: Any) -> None:
        held.append(route)

    page.route("**/runs?search=held*", hold)
    page.get_by_label("Find").fill("held")
    while not held:
        page.wait_for_timeout(20)
    page.get_by_label("Find").fill("broke")
    until(page, "document.querySelectorAll('.spendguard-runs tbody tr').length === 1")
    for route in held:
        route.continue_()
    page.wait_for_timeout(500)
    assert names(page) == ["broke"]
    assert page.get_by_label("Find").input_value() == "broke"


def test_a_page_beyond_the_last_says_so(tab: Tab) -> None:
    page = tab.go("#tab=budgets&page=5")
    page.get_by_text("No run matches.").wait_for()
    assert page.get_by_text("251 to").count() == 0


def test_the_error_is_shown_on_every_page_while_luigid_is_down(browser: Any, site: Site) -> None:
    nightly(site, "first", 1, 0, "5")
    tab = Tab(browser, site.url)
    page = tab.go("#tab=budgets&run=first")
    page.get_by_role("button", name="Revoke…").wait_for()
    assert site.luigid is not None
    site.luigid.end()
    for fragment in ("#tab=budgets&run=other", "#tab=budgets", "#tab=budgets&run=first"):
        page.evaluate(f"location.hash = {fragment!r}")
        page.wait_for_timeout(300)
        page.get_by_role("alert").get_by_text("luigid does not answer").wait_for()
    tab.close()


def test_a_command_is_copied_with_one_click(tab: Tab, busy: Site) -> None:
    tab.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = tab.go("#tab=budgets&run=broke")
    page.get_by_role("button", name="Copy spendguard top-up broke").first.click()
    page.get_by_text("copied", exact=True).first.wait_for()
    assert page.evaluate("navigator.clipboard.readText()").startswith("spendguard top-up broke ")
    assert "`" not in page.locator("#budgets").inner_text(), "no command stands between backticks"
