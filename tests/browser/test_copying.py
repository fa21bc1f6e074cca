"""A command is copied with one click, also where a browser hides its clipboard from pages: on plain HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.browser.conftest import nightly
from tests.support.browser import Tab, browsing
from tests.support.site import Site

#: A name that the browser alone knows; its pages are no secure context, as those of 127.0.0.1 are.
NAME = "luigid.example.com"
#: Makes a field to paste into.
FIELD = """() => {
  const field = document.createElement("textarea");
  field.id = "pasted";
  document.body.append(field);
  field.focus();
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with browsing(f"--host-resolver-rules=MAP {NAME} 127.0.0.1, MAP * ~NOTFOUND, EXCLUDE 127.0.0.1") as found:
        yield found


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    # With a worker's token luigid answers under any name.
    with Site(tmp_path_factory.mktemp("named"), spendguard={"worker_token": "worker-" + "b2" * 16}) as site:
        nightly(site, "broke", 4, 0, "2")
        yield site


@pytest.fixture
def tab(browser: Any, site: Site) -> Iterator[Tab]:
    found = Tab(browser, f"http://{NAME}:{site.port}")
    yield found
    found.close()


def advised(page: Any) -> tuple[Any, str]:
    """Return the button that copies a command, and the command as the page shows it."""
    button = page.get_by_role("button", name="Copy spendguard top-up broke").first
    return button, button.locator("xpath=../code").inner_text()


def test_a_command_is_copied_on_plain_http(tab: Tab) -> None:
    page = tab.go("#tab=budgets&run=broke")
    assert page.evaluate("[isSecureContext, navigator.clipboard === undefined]") == [False, True]
    button, said = advised(page)
    button.focus()
    page.keyboard.press("Enter")
    page.get_by_text("copied", exact=True).first.wait_for()
    tab.shot("copied-on-plain-http")
    assert page.evaluate("document.activeElement.dataset.key").startswith("copy "), "the focus stays"
    assert page.locator("textarea").count() == 0
    page.evaluate(FIELD)
    page.keyboard.press("Control+V")
    assert page.locator("#pasted").input_value() == said
    assert said.startswith("spendguard top-up broke 2.00")


def test_where_nothing_can_be_copied_it_is_said(tab: Tab) -> None:
    page = tab.go("#tab=budgets&run=broke")
    button, said = advised(page)
    page.evaluate("document.execCommand = () => false")
    button.click()
    page.get_by_text("select it and copy it by hand").first.wait_for()
    page.locator("code", has_text=said).first.wait_for()
