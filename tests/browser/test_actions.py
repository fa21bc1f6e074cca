"""What an operator does on a run's page, in a real browser on a real pipeline; the vendor counts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.browser.conftest import MODULE, nightly
from tests.support.asking import Case, send
from tests.support.browser import Tab, until
from tests.support.processes import wait_until
from tests.support.site import Site

PAYING = "tests.support.paying_pipeline"


@pytest.fixture
def site(unstarted: Site) -> Site:
    """A site that issues vault keys: for a gateway apart, which nobody asks."""
    unstarted.restart(spendguard={"gateway_url": "http://127.0.0.1:9"})
    return unstarted


@pytest.fixture
def tab(browser: Any, site: Site) -> Iterator[Tab]:
    found = Tab(browser, site.url)
    yield found
    found.close()


def status(page: Any) -> str:
    return str(page.locator("#budgets h2 .label").inner_text())


def test_revoke_asks_for_the_token_and_for_a_confirmation_and_is_seen(tab: Tab, site: Site) -> None:
    nightly(site, "night", 2, 0, "50")
    page = tab.go("#tab=budgets&run=night")
    page.get_by_role("button", name="Revoke…").click()
    page.get_by_label("Token", exact=True).fill("wrong" * 5)
    page.get_by_role("button", name="Use it").click()
    page.get_by_role("alert").get_by_text("this is not the admin token").wait_for()
    tab.shot("token-refused")
    tab.say_token(site.token())
    dialog = page.get_by_role("dialog", name="Revoke night")
    dialog.get_by_text("for good").wait_for()
    tab.shot("revoke-dialog")
    assert tab.faults(".spendguard-dialog") == []
    dialog.get_by_role("button", name="Cancel").click()
    assert (status(page), site.run("night")["state"]) == ("active", "active")
    page.get_by_role("button", name="Revoke…").click()
    page.get_by_role("button", name="Revoke the run").click()
    page.locator("h2 .spendguard-is-revoked").wait_for()
    assert page.get_by_role("status").inner_text() == "night is revoked: no further call of it is sent."
    assert page.get_by_role("button", name="Top up…").count() == 0
    tab.shot("revoked")
    sent = site.stripe.moved()
    nightly(site, "night", 5, 0, "50")
    assert (site.run("night")["state"], site.stripe.moved()) == ("revoked", sent)


def test_a_run_that_has_ended_is_revoked_like_any_other(tab: Tab, site: Site) -> None:
    nightly(site, "", 1, 0, "5", by_task_id=True)
    (run,) = site.call("GET", "/runs")[1]
    assert run["state"] == "ended"
    page = tab.go(f"#tab=budgets&run={run['run_id']}")
    page.get_by_role("button", name="Top up…").wait_for()
    page.get_by_role("button", name="Revoke…").click()
    tab.say_token(site.token())
    page.get_by_role("button", name="Revoke the run").click()
    page.locator("h2 .spendguard-is-revoked").wait_for()
    assert site.run(run["run_id"])["state"] == "revoked"


def test_a_top_up_lets_a_waiting_worker_go_on(tab: Tab, site: Site) -> None:
    site.configure(spendguard={"on_blocked": "wait"})
    worker = site.worker(
        "Nightly", "--n", "5", "--run-id", "night", "--budget-usd", "3", "--workers", "2", module=MODULE
    )
    try:
        wait_until(lambda: site.ledger.exists() and site.stripe.moved() == 300, what="three charges")
        page = tab.go("#tab=budgets&run=night")
        page.locator("h2 .spendguard-is-blocked").wait_for()
        page.get_by_text("cap of $3.00 reached").first.wait_for()
        page.get_by_text("Show tasks").click()
        assert page.get_by_role("link", name=re.compile("^Pay_")).count() >= 2
        tab.shot("blocked")
        site.call("POST", "/runs/night/top_up", {"usd": "0.10"})  # Not enough; the text says other amounts.
        page.get_by_text("cap of $3.10 reached").first.wait_for()
        assert page.get_by_role("link", name=re.compile("^Pay_")).first.is_visible(), (
            "what is open stays open"
        )
        page.get_by_role("button", name="Top up…").click()
        tab.say_token(site.token())
        dialog = page.get_by_role("dialog", name="Top up night")
        dialog.get_by_text("Blocked tasks need $2.00 of it: $0.10 is available, $1.90 missing.").wait_for()
        assert page.get_by_label("Raise it by (USD)").input_value() == "1.90"
        page.get_by_label("Raise it by (USD)").fill("1")
        dialog.get_by_text("It frees 1 of 2 blocked tasks; the rest needs $0.90 more.").wait_for()
        tab.shot("top-up-dialog")
        assert tab.faults(".spendguard-dialog") == []
        page.get_by_label("Raise it by (USD)").fill("2")
        dialog.get_by_text("It frees 2 of 2 blocked tasks.").wait_for()
        assert site.run("night")["cap_usd"] == "3.10", "nothing is changed before it is confirmed"
        page.get_by_role("button", name="Top up", exact=True).click()
        page.get_by_text("The cap of night is raised.").wait_for()
        out, _ = worker.communicate(timeout=60)
    finally:
        worker.kill()
        worker.wait()
    assert (worker.returncode, site.stripe.moved()) == (0, 500), out
    page.get_by_label("$5.00 spent of $5.10").first.wait_for()


def test_a_budget_inside_the_run_is_topped_up_for_it(tab: Tab, site: Site) -> None:
    site.restart(spendguard_family_caps={"Pay": 2}, spendguard={"daily_cap_usd": 50})
    nightly(site, "night", 4, 0, "50")
    page = tab.go("#tab=budgets&run=night")
    page.get_by_role("heading", name="What holds it").wait_for()
    page.get_by_text("$2.00 needed, $0.00 available, $2.00 missing").wait_for()
    tab.shot("reasons")
    page.get_by_role("button", name="Top up family Pay…").click()
    tab.say_token(site.token())
    dialog = page.get_by_role("dialog", name="Top up night: family Pay")
    dialog.get_by_text("The run's own cap stays as it is").wait_for()
    dialog.get_by_text("It frees 2 of 2 blocked tasks.").wait_for()
    page.get_by_role("button", name="Top up", exact=True).click()
    page.get_by_text("A budget of night is raised.").wait_for()
    nightly(site, "night", 4, 0, "50")
    assert (site.stripe.moved(), site.run("night")["cap_usd"]) == (400, "50.00")


def test_what_luigid_refuses_is_said_and_the_dialog_stays(tab: Tab, site: Site) -> None:
    nightly(site, "night", 1, 0, "5")
    page = tab.go("#tab=budgets&run=night")
    page.get_by_role("button", name="Top up…").click()
    tab.say_token(site.token())
    page.get_by_label("Raise it by (USD)").fill("0")
    page.get_by_role("button", name="Top up", exact=True).click()
    page.get_by_role("alert").get_by_text("out of range").wait_for()
    tab.shot("refused")
    page.get_by_label("Raise it by (USD)").fill("1")
    page.get_by_role("button", name="Top up", exact=True).click()
    page.get_by_text("The cap of night is raised.").wait_for()
    assert site.run("night")["cap_usd"] == "6.00"


def test_a_held_run_is_approved_with_what_is_shown(tab: Tab, site: Site) -> None:
    site.restart(spendguard={"forecast": "hold"})
    nightly(site, "night", 6, 0, "2")
    assert site.stripe.posts() == []
    page = tab.go("#tab=budgets&run=night")
    page.locator("h2 .spendguard-is-held").wait_for()
    tab.shot("held")
    page.get_by_role("button", name="Approve forecast…").click()
    tab.say_token(site.token())
    assert page.get_by_label("Let the forecast pass up to (USD)").input_value() == "6.00"
    tab.shot("approve-dialog")
    page.get_by_role("button", name="Approve", exact=True).click()
    page.get_by_text("The forecast of night is approved.").wait_for()
    nightly(site, "night", 6, 0, "2")
    assert site.stripe.moved() == 200, "an approval raises no cap"


def test_a_suspect_duplicate_is_approved_beside_the_call_that_is_shown(tab: Tab, site: Site) -> None:
    charge = ("Charge", "--customer", "a", "--amount")
    (site.folder / "out" / "die").touch()
    site.luigi(*charge, "2700")
    (site.folder / "out" / "die").unlink()
    site.luigi(*charge, "2600")
    runs = site.call("GET", "/runs", token=None)[1]
    [run_id] = [run["run_id"] for run in runs if run["status"] == "held"]
    [task] = site.run(run_id)["awaiting_approval"]
    page = tab.go(f"#tab=budgets&run={run_id}")
    page.get_by_text(f"which call {task['duplicate_of']} of").wait_for()
    tab.shot("duplicate")
    page.locator("td", has_text="denied:duplicate").wait_for()
    assert "`" not in page.locator("#budgets").inner_text(), "no command stands between backticks"
    page.get_by_role("button", name="Approve…", exact=True).click()
    tab.say_token(site.token())
    page.get_by_text("approve it only if it is another payment").wait_for()
    page.get_by_role("button", name="Approve $26.00").click()
    page.get_by_text("The task is approved.").wait_for()
    site.luigi(*charge, "2600")
    assert charged(site) == [2700, 2600]


def test_an_approval_whose_answer_was_lost_is_not_given_twice(tab: Tab, site: Site) -> None:
    """The task has gone on meanwhile, and waits with its next charge beside the same call."""
    (site.folder / "out" / "die").touch()
    site.luigi("PayTwice", module=PAYING)
    (site.folder / "out" / "die").unlink()
    again = ("PayTwice", "--amount", "2600")
    site.luigi(*again, module=PAYING)
    runs = site.call("GET", "/runs", token=None)[1]
    [run_id] = [run["run_id"] for run in runs if run["status"] == "held"]
    page = tab.go(f"#tab=budgets&run={run_id}")
    page.get_by_role("button", name="Approve…", exact=True).click()
    tab.say_token(site.token())
    lost: list[Any] = []

    def lose(route: Any) -> None:
        lost.append(route.fetch())
        route.abort()

    page.route("**/approve", lose)
    page.get_by_role("button", name="Approve $26.00").click()
    while not lost:
        page.wait_for_timeout(20)
    site.luigi(*again, module=PAYING)
    assert charged(site) == [2700, 2700, 2600]
    page.unroute("**/approve")
    page.get_by_role("button", name="Approve $26.00").click()
    page.get_by_text("The task is approved.").wait_for()
    site.luigi(*again, module=PAYING)
    assert charged(site) == [2700, 2700, 2600]


def charged(site: Site) -> list[int]:
    return [entry["amount"] for entry in site.stripe.books()["moved"]]


def test_a_call_in_doubt_is_resolved_and_a_key_revoked(tab: Tab, site: Site) -> None:
    site.stripe.fault("drop_after", times=9)
    nightly(site, "night", 1, 0, "5")
    site.stripe.control(faults=[])
    (call,) = [one for one in site.calls("night") if one["state"] == "in_doubt"]
    key = site.call("POST", "/vault/keys", {"vendor": "stripe", "agent_run_label": "luigi/night"})[1]
    page = tab.go("#tab=budgets&run=night")
    page.get_by_role("button", name="Show them…").click()
    tab.say_token(site.token())
    page.get_by_text(key["id"]).wait_for()
    tab.shot("in-doubt")
    page.get_by_role("button", name="Resolve…").first.click()
    page.get_by_label("It cost the amount below").check()
    page.get_by_label("Amount (USD)").fill("1")
    assert tab.faults(".spendguard-dialog") == []
    tab.shot("resolve-dialog")
    page.get_by_role("button", name="Resolve", exact=True).click()
    page.get_by_text("The call is resolved.").wait_for()
    page.get_by_label("$1.00 spent of $5.00").first.wait_for()
    (found,) = [one for one in site.calls("night") if one["id"] == call["id"]]
    assert (found["state"], found["spent_usd"]) == ("settled", "1.00")
    page.get_by_role("button", name="Revoke key…").click()
    page.get_by_role("button", name="Revoke the key").click()
    page.get_by_text("The key is revoked.").wait_for()
    assert site.call("GET", "/vault/keys?run=night")[1][0]["state"] == "revoked"


def test_the_token_is_in_the_pages_memory_alone(tab: Tab, site: Site) -> None:
    nightly(site, "night", 1, 0, "5")
    page = tab.go("#tab=budgets&run=night")
    page.get_by_role("button", name="Enter your token…").click()
    tab.say_token(site.token())
    page.get_by_text("You have the admin token, which names nobody").wait_for()
    kept = page.evaluate(
        "JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie, location.href])"
    )
    assert site.token() not in kept + page.content()
    page.reload()
    page.get_by_text("Read only.").wait_for()
    page.get_by_role("button", name="Revoke…").click()
    page.get_by_role("dialog", name="Your token").wait_for()
    page.keyboard.press("Escape")
    page.get_by_role("dialog").wait_for(state="detached")
    assert page.evaluate("document.activeElement.textContent") == "Revoke…", "the focus comes back"
    assert site.run("night")["state"] == "active"


def test_what_comes_from_pipelines_and_vendors_is_text(tab: Tab, site: Site) -> None:
    """A canary in a task's parameter, a run's id and label, and what a vendor says."""
    canary = "<img src=x onerror=\"window.canary='run'\"><script>window.canary='run'</script>"
    nightly(site, canary, 1, 0, "5", word=canary)
    made = site.call("POST", "/vault/keys", {"vendor": "stripe", "agent_run_label": f"{canary}label"})
    assert made[0] == 201
    site.stripe.fault("change", change={"id": canary})
    nightly(site, canary, 2, 0, "5", word=canary)
    case = Case(site, canary)
    said = {"call_id": case.reserved(), "note": f"{canary}note"}
    assert send(site, "POST", "/api/spend_doubt", said, case.key).status == 200
    objects = {call["object_id"] for call in site.calls(canary)}
    assert canary in objects, "what the vendor says of itself is shown"
    page = tab.go()
    page.get_by_role("link", name=canary, exact=True).click()
    page.get_by_role("heading", name=canary).wait_for()
    page.locator(".spendguard-calls").get_by_text(f"{canary}note").wait_for()
    page.locator(".spendguard-calls").get_by_text(canary, exact=True).first.wait_for()
    page.get_by_role("button", name="By task family").click()
    page.get_by_role("button", name="Revoke…").click()
    tab.say_token(site.token())
    page.get_by_role("dialog").get_by_text(canary).first.wait_for()
    tab.shot("escaped")
    page.keyboard.press("Escape")
    page.get_by_role("link", name="All runs").click()
    page.get_by_text(f"{canary}label").first.wait_for()
    page.locator("#topNavbar").get_by_role("link", name="Task List").click()
    page.locator(".spendguard-cost").first.wait_for()
    assert page.evaluate("window.canary") is None
    assert page.locator("#budgets img[src=x]").count() == 0


def test_calls_are_filtered_paged_and_linked_to_the_vendors_pages(tab: Tab, site: Site) -> None:
    nightly(site, "night", 60, 0, "58", workers=1)
    page = tab.go("#tab=budgets&run=night")
    calls = page.locator(".spendguard-calls tbody tr")
    calls.nth(49).wait_for()
    assert calls.count() == 50
    page.get_by_role("link", name="Older").click()
    page.get_by_role("link", name="Newest").wait_for()
    until(page, "document.querySelectorAll('.spendguard-calls tbody tr').length < 50")
    page.get_by_label("Verdict").select_option("allowed")
    until(page, "!document.querySelector('.spendguard-calls').textContent.includes('denied')")
    link = calls.first.get_by_role("link", name=re.compile("^pi_"))
    assert re.fullmatch(r"https://dashboard\.stripe\.com/test/payments/pi_\w+", link.get_attribute("href"))
    assert link.get_attribute("rel") == "noopener noreferrer"
    page.get_by_label("Verdict").select_option("replayed")
    page.get_by_text("No call matches.").wait_for()
    plot = page.locator(".spendguard-plot")
    assert plot.get_attribute("aria-label") == "Spent over time: stripe $58.00. Cap $58.00."
    tab.shot("run")


def test_a_family_that_is_script_steals_no_token(tab: Tab, site: Site) -> None:
    """Luigi's own table shows families as HTML, and anybody who reaches the port may send one."""
    nightly(site, "night", 1, 0, "5")
    hook = (
        "window.stolen='x';const f=window.fetch;"
        "window.fetch=(a,b)=>{window.stolen=b.headers['X-Spendguard-Token'];return f(a,b)}"
    )
    family = f'<img src=x onerror="{hook}"><svg onload="{hook}">'
    site.rpc(
        "add_task",
        task_id="Evil_1",
        worker="w",
        family=family,
        params={"a": "b"},
        status="PENDING",
        runnable=False,
    )
    page = tab.go("#tab=budgets&run=night")
    page.get_by_role("button", name="Enter your token…").click()
    tab.say_token(site.token())
    page.get_by_text("You have the admin token, which names nobody").wait_for()
    page.locator("#topNavbar").get_by_role("link", name="Task List").click()
    page.locator("#taskTable img[src=x]").first.wait_for(state="attached")
    assert page.evaluate("window.stolen") is None
    for link, pane in (
        ("Dependency Graph", "dependencyGraph"),
        ("Workers", "workerList"),
        ("Budgets", "budgets"),
    ):
        page.locator("#topNavbar").get_by_role("link", name=link, exact=True).click()
        page.locator(f"#{pane}.active").wait_for(state="attached")


def test_a_change_that_is_under_way_is_told_of_whatever_is_pressed(tab: Tab, site: Site) -> None:
    nightly(site, "night", 1, 0, "5")
    page = tab.go("#tab=budgets&run=night")
    page.get_by_role("button", name="Top up…").click()
    tab.say_token(site.token())
    held: list[Any] = []

    def hold(route: Any) -> None:
        held.append(route)

    page.route("**/top_up", hold)
    page.get_by_label("Raise it by (USD)").fill("1")
    page.get_by_role("button", name="Top up", exact=True).click()
    while not held:
        page.wait_for_timeout(20)
    assert page.get_by_role("button", name="Cancel").is_disabled()
    for _ in range(3):
        page.keyboard.press("Escape")
    held.pop().continue_()
    page.get_by_text("The cap of night is raised.").wait_for()
    assert site.run("night")["cap_usd"] == "6.00"


def test_a_dialog_is_closed_with_the_page_that_it_was_about(tab: Tab, site: Site) -> None:
    nightly(site, "a", 1, 0, "5")
    nightly(site, "b", 1, 9, "5")
    page = tab.go("#tab=budgets&run=b")
    page.get_by_role("link", name="All runs").click()
    page.get_by_role("link", name="a", exact=True).click()
    page.get_by_role("button", name="Revoke…").click()
    tab.say_token(site.token())
    page.get_by_role("dialog", name="Revoke a").wait_for()
    page.go_back()
    page.get_by_role("dialog").wait_for(state="detached")
    assert {site.run(run)["state"] for run in "ab"} == {"active"}


def test_a_token_with_odd_signs_is_none(tab: Tab, site: Site) -> None:
    nightly(site, "night", 1, 0, "5")
    page = tab.go("#tab=budgets&run=night")
    page.get_by_role("button", name="Enter your token…").click()
    page.get_by_label("Token", exact=True).fill("tökén—with signs")
    page.get_by_role("button", name="Use it").click()
    page.get_by_role("alert").get_by_text("this is no token").wait_for()


def test_a_name_turns_no_amount_around(tab: Tab, site: Site) -> None:
    Case(site, "night\u202e99.99$ devreser")
    page = tab.go()
    row = page.locator(".spendguard-runs tbody th")
    row.first.wait_for()
    assert "\u202e" not in row.first.inner_text()
    row.first.get_by_role("link").click()
    page.get_by_role("button", name="Top up…").wait_for()
