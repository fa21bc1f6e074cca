"""Named operators on the page: who is signed in, what their role leaves of it, and the second one's word."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.browser.conftest import nightly
from tests.support.browser import Tab
from tests.support.site import Site

TOKENS = {name: f"{name}-" + "e5" * 16 for name in ("alice", "bob", "reader")}
ROLES = {"bob": "admin", "reader": "read"}
CHANGES = ("Top up…", "Revoke…")


@pytest.fixture(scope="module")
def staffed(tmp_path_factory: pytest.TempPathFactory, browser: Any) -> Iterator[Site]:
    with Site(
        tmp_path_factory.mktemp("staffed"),
        spendguard={"two_operators_above_usd": 20},
        spendguard_operators=TOKENS,
        spendguard_roles=ROLES,
    ) as site:
        nightly(site, "night", 2, 0, "50")
        yield site


@pytest.fixture
def tab(browser: Any, staffed: Site) -> Iterator[Tab]:
    found = Tab(browser, staffed.url)
    yield found
    found.close()


def sign_in(tab: Tab, page: Any, name: str, token: str) -> None:
    page.get_by_role("button", name="Enter your token…").click()
    tab.say_token(token)
    page.get_by_text(f"You are {name}, of role").wait_for()


def test_a_reader_is_told_who_they_are_and_why_they_change_nothing(tab: Tab, staffed: Site) -> None:
    page = tab.go("#tab=budgets&run=night")
    sign_in(tab, page, "reader", TOKENS["reader"])
    for name in CHANGES:
        button = page.get_by_role("button", name=name, exact=True, disabled=True)
        assert button.get_attribute("title") == "You are reader, of role read: this needs role operate."
    page.get_by_text("No key of this run was asked for").wait_for()  # Which a reader may look at.
    tab.shot("reader")
    page.get_by_role("button", name="Forget it").click()
    for name in CHANGES:  # Asked for a token then.
        page.get_by_role("button", name=name, exact=True, disabled=False).wait_for()
    page.get_by_role("button", name="Revoke…").click()
    tab.say_token(TOKENS["reader"])
    page.get_by_text("It was refused: You are reader, of role read").wait_for()
    assert staffed.run("night")["state"] == "active"


def test_a_great_top_up_waits_for_another_one_who_signs_in(tab: Tab, staffed: Site) -> None:
    page = tab.go("#tab=budgets&run=night")
    sign_in(tab, page, "alice", TOKENS["alice"])
    page.get_by_role("button", name="Top up…", exact=True).click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_text("What comes to more than $20.00 of one run waits for a second operator.").wait_for()
    dialog.get_by_label("Raise it by (USD)").fill("30")
    dialog.get_by_role("button", name="Top up").click()
    page.get_by_text("Nothing is raised yet: $30.00 of night waits for a second operator (bob).").wait_for()
    confirm = page.get_by_role("button", name="Confirm tu_")
    page.get_by_role("button", name="Confirm tu_", disabled=True).wait_for()
    assert confirm.get_attribute("title") == "You are alice: bob can confirm it."
    tab.shot("waits")
    assert tab.faults("#budgets") == []
    assert staffed.run("night")["cap_usd"] == "50.00"
    page.get_by_role("button", name="Forget it").click()
    page.goto(staffed.url + "/static/visualiser/index.html#tab=budgets&view=actions")
    confirm.click()
    tab.say_token(TOKENS["bob"])
    page.get_by_role("dialog", name="Confirm tu_").get_by_role("button", name="Confirm").click()
    page.get_by_text("night is topped up.").wait_for()
    page.get_by_text("alice at 127.0.0.1, confirmed by bob at 127.0.0.1").wait_for()
    assert staffed.run("night")["cap_usd"] == "80.00"
    assert confirm.count() == 0
    tab.shot("confirmed")


def test_what_waits_is_withdrawn_on_the_page(tab: Tab, staffed: Site) -> None:
    alice = TOKENS["alice"]
    status, answer = staffed.call("POST", "/runs/night/top_up", {"usd": "33"}, token=alice)
    assert status == 202
    page = tab.go("#tab=budgets&run=night")
    page.get_by_role("button", name=f"Withdraw {answer['waiting']['id']}").click()
    tab.say_token(alice)
    page.get_by_role("dialog").get_by_role("button", name="Withdraw").click()
    page.get_by_text("is withdrawn: it raises nothing").wait_for()
    page.get_by_text("top-up withdrawn").first.wait_for()
