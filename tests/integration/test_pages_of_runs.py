"""What the Budgets tab reads of a real luigid-spendguard: pages of runs, spending over time, tasks' costs."""

from __future__ import annotations

import asyncio
import re
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from luigi_spendguard.http.relay import Refused
from luigi_spendguard.ledger import Ledger
from scheduler_patch.scheduler.standing import standings
from scheduler_patch.service.ledger import MOST_BROWSING
from tests.support.asking import ASK, Case, Reply, send
from tests.support.luigids import Luigid
from tests.support.site import Site


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Site, list[Case]]]:
    """Six runs: number N has spent N dollars; the last one is revoked."""
    with Site(tmp_path_factory.mktemp("filled")) as site:
        cases = [Case(site, f"run_{number}") for number in range(6)]
        for number, case in enumerate(cases):
            for _ in range(number):
                pay(case)
        site.call("DELETE", "/runs/run_5")
        yield site, cases


def pay(case: Case, micros: int = 1_000_000, **more: Any) -> str:
    ask = ASK | {"call_id": str(uuid.uuid4()), "target": uuid.uuid4().hex, "total_micros": micros} | more
    answer = send(case.site, "POST", "/api/spend_reserve", ask, case.key)
    if answer.json["response"]["verdict"] == "allowed":
        end = {"call_id": ask["call_id"], "total_micros": micros, "status": 200}
        assert send(case.site, "POST", "/api/spend_settle", end, case.key).status == 200
    return str(ask["call_id"])


def names(reply: Reply) -> list[str]:
    return [run["run_id"] for run in reply.json]


def test_runs_come_in_pages_that_say_how_many_there_are(filled: Any) -> None:
    site, _ = filled
    first = send(site, "GET", "/runs?limit=4")
    second = send(site, "GET", "/runs?limit=4&offset=4")
    assert names(first) == ["run_5", "run_4", "run_3", "run_2"]
    assert names(second) == ["run_1", "run_0"]
    assert first.headers["x-total-count"] == second.headers["x-total-count"] == "6"
    beyond = send(site, "GET", "/runs?offset=99")
    assert (beyond.json, beyond.headers["x-total-count"]) == ([], "6")


@pytest.mark.parametrize(
    ("sort", "first"),
    [
        ("spent_usd", "run_0"),
        ("-spent_usd", "run_5"),
        ("run_id", "run_0"),
        ("-opened_at", "run_5"),
        ("remaining_usd", "run_5"),
        ("-state", "run_5"),
        ("-cap_usd", "run_5"),
        ("in_doubt_calls", "run_0"),
        ("-denied_calls", "run_5"),
        ("forecast_usd", "run_0"),
    ],
)
def test_runs_are_sorted_over_all_pages(filled: Any, sort: str, first: str) -> None:
    site, _ = filled
    assert names(send(site, "GET", f"/runs?sort={sort}&limit=1")) == [first]
    assert len(names(send(site, "GET", f"/runs?sort={sort}"))) == 6


def test_a_search_is_a_part_of_a_name_and_no_pattern(filled: Any) -> None:
    site, _ = filled
    assert names(send(site, "GET", "/runs?search=RUN_3")) == ["run_3"]
    assert names(send(site, "GET", "/runs?search=run-3")) == []
    assert names(send(site, "GET", "/runs?search=%25")) == []
    assert names(send(site, "GET", "/runs?search=n_4")) == ["run_4"]
    assert len(names(send(site, "GET", "/runs?search=root"))) == 6


def test_a_run_says_its_status_and_its_vendors(filled: Any) -> None:
    site, _ = filled
    assert names(send(site, "GET", "/runs?status=revoked")) == ["run_5"]
    assert len(names(send(site, "GET", "/runs?status=active"))) == 5
    assert names(send(site, "GET", "/runs?status=blocked")) == []
    one = send(site, "GET", "/runs/run_3").json
    assert (one["status"], one["vendors"]) == ("active", ["stripe"])
    assert send(site, "GET", "/runs/run_0").json["vendors"] == []


def test_a_blocked_run_is_found_by_its_status(site: Site) -> None:
    site.luigi("Billing", "--n", "3", "--run-id", "broke", "--budget-usd", "1", "--workers", "1")
    found = send(site, "GET", "/runs?status=blocked").json
    assert [(run["run_id"], run["status"], run["blocked_tasks"]) for run in found] == [
        ("broke", "blocked", {"cap": 2})
    ]
    assert send(site, "GET", "/runs?status=active").json == []
    (group,) = send(site, "GET", "/runs/broke").json["blocked"]
    assert (group["tasks"], len(group["task_ids"])) == (2, 2)
    assert all(task.startswith("Charge_") for task in group["task_ids"])


def test_spending_adds_up_over_time_beside_the_cap(filled: Any) -> None:
    site, _ = filled
    case = Case(site, f"over-{uuid.uuid4().hex[:6]}")
    for micros in (1_000_000, 2_500_000):
        pay(case, micros)
    pay(case, 500_000_000)  # Denied.
    doubt = case.doubted()
    case.top_up({"usd": "25"})
    found = send(site, "GET", f"/runs/{case.run_id}/spending").json
    (line,) = found["spent_usd"]
    assert (line["name"], line["until"][0], line["until"][-1]) == ("stripe", "0.00", "3.50")
    assert len(line["until"]) == len(found["times"]) == len(set(found["times"]))
    assert found["times"] == sorted(found["times"])
    (total,) = found["totals"]
    assert total == {
        "name": "stripe",
        "calls": 4,
        "spent_usd": "3.50",
        "reserved_usd": "2.00",
        "denied_calls": 1,
    }
    assert [(cap["cap_usd"], cap["top_up"]) for cap in found["caps"]] == [("100.00", False), ("125.00", True)]
    site.call("POST", f"/calls/{doubt}/resolve", {"spent_usd": "3", "overrun": True})
    (line,) = send(site, "GET", f"/runs/{case.run_id}/spending?by=family").json["spent_usd"]
    assert (line["name"], line["until"][-1]) == ("Charge", "6.50"), "overrun is spent"
    assert site.run(case.run_id)["spent_usd"] == "5.50"


def test_spending_of_no_run_or_by_nothing_known_is_refused(filled: Any) -> None:
    site, _ = filled
    assert send(site, "GET", "/runs/nope/spending").is_error(404, "not_found")
    assert send(site, "GET", "/runs/run_1/spending?by=task").is_error(400, "bad_request")


def test_a_tasks_costs_are_those_of_each_run_that_paid(filled: Any) -> None:
    site, cases = filled
    spent, none = cases[2].pretender.task_id, cases[0].pretender.task_id
    reply = send(site, "POST", "/api/task_costs", {"task_ids": [spent, none, "Nobody_1"]})
    found = reply.json["response"]
    assert [
        (task["task_id"], task["run_id"], task["spent_usd"], task["calls"]) for task in found["tasks"]
    ] == [
        (spent, "run_2", "2.00", 2),
        (none, "run_0", "0.00", 0),
    ]
    assert {run["run_id"]: run["spent_usd"] for run in found["runs"]} == {"run_2": "2.00", "run_0": "0.00"}
    for wrong in ("x", [1], [""], ["t"] * 501):
        assert send(site, "POST", "/api/task_costs", {"task_ids": wrong}).is_error(400, "bad_request")


@pytest.mark.parametrize(
    ("account", "object_id", "url"),
    [
        ("stripe:test", "pi_1", "https://dashboard.stripe.com/test/payments/pi_1"),
        ("stripe:live", "cus_2", "https://dashboard.stripe.com/customers/cus_2"),
        ("stripe:live:acct_9", "po_1", "https://dashboard.stripe.com/acct_9/payouts/po_1"),
        ("stripe:test", "tr_1", "https://dashboard.stripe.com/test/search?query=tr_1"),
        ("evil", "pi_1", "https://dashboard.stripe.com/payments/pi_1"),
        ("stripe:test", "pi_1/../x", None),
        ("stripe:test", "javascript:alert(1)", None),
    ],
)
def test_a_calls_object_has_the_address_of_the_vendors_page(
    filled: Any, account: str, object_id: str, url: str | None
) -> None:
    site, _ = filled
    case = Case(site, f"linked-{uuid.uuid4().hex[:6]}")
    call_id = str(uuid.uuid4())
    ask = ASK | {"call_id": call_id, "account": account, "target": call_id}
    assert send(site, "POST", "/api/spend_reserve", ask, case.key).json["response"]["verdict"] == "allowed"
    end = {"call_id": call_id, "total_micros": 2_000_000, "object_id": object_id}
    assert send(site, "POST", "/api/spend_settle", end, case.key).status == 200
    (call,) = send(site, "GET", f"/runs/{case.run_id}/calls").json
    assert (call["object_id"], call["object_url"]) == (object_id, url)


def test_luigis_page_has_the_tab_and_an_unlike_one_is_left_alone(
    filled: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    site, _ = filled
    shown = send(site, "GET", "/static/visualiser/index.html")
    assert shown.text.count("spendguard/budgets.js") == shown.text.count("spendguard/budgets.css") == 1
    for path, kind in (
        ("budgets.js", "javascript"),
        ("budgets.css", "css"),
        ("uplot/uPlot.iife.min.js", "java"),
    ):
        reply = send(site, "GET", f"/spendguard/{path}")
        assert (reply.status, reply.headers["cache-control"]) == (200, "no-cache")
        assert kind in reply.headers["content-type"]
    for outside in (
        "../__init__.py",
        "..%2f__init__.py",
        "%2e%2e/__init__.py",
        "../../setup.cfg",
        "",
        "uplot",
    ):
        assert send(site, "GET", f"/spendguard/{outside}").status in (403, 404), outside
    from scheduler_patch import visualiser

    other = tmp_path / "index.html"
    other.write_text("<p>no head</p>")
    monkeypatch.setattr(visualiser, "_PAGE", other)
    assert visualiser.page() == "<p>no head</p>"
    monkeypatch.setattr(visualiser, "_PAGE", tmp_path / "nothing")
    assert visualiser.routes() == []


@pytest.mark.parametrize(
    "path",
    [
        "/static/visualiser/index.html",
        "/static/visualiser/./index.html",
        "/static/visualiser/index.htm%6c",
        "/static/visualiser/test.html",
    ],
)
def test_luigis_page_runs_the_scripts_that_are_installed_and_no_others(filled: Any, path: str) -> None:
    site, _ = filled
    policy = send(site, "GET", path).headers["content-security-policy"]
    assert re.match(
        r"script-src 'self' ('sha256-[\w+/]{43}=' ?)+; object-src 'none'; base-uri 'none'", policy
    )
    assert "frame-ancestors 'self'" in policy


@pytest.mark.parametrize("name", [".", ".."])
def test_a_run_that_no_address_leads_to_is_not_opened(filled: Any, name: str) -> None:
    site, _ = filled
    body = {"name": name, "by_task_id": False, "root_family": "R", "root_task_id": "R_1"}
    assert send(site, "POST", "/api/spend_open_run", body).is_error(400, "bad_request")
    key = {"vendor": "stripe", "agent_run_label": f"luigi/{name}"}
    assert send(site, "POST", "/vault/keys", key).is_error(400, "bad_request")


def test_what_a_call_waits_for_does_not_wait_for_pages(tmp_path: Path) -> None:
    ledger, over = Ledger(tmp_path / "books.db"), threading.Event()
    slow = ledger.browse(lambda tx: over.wait(20))
    assert ledger.read(lambda tx: tx.value("SELECT 1")).result(10) == 1
    assert not slow.done()
    over.set()
    assert slow.result(10)
    ledger.close()


def test_too_many_pages_at_once_are_refused(tmp_path: Path) -> None:
    luigid = Luigid(tmp_path)
    try:
        luigid.run()
        over = threading.Event()

        async def crowd() -> Any:
            crowded = [
                asyncio.ensure_future(luigid.service.browse(lambda tx: over.wait(20)))
                for _ in range(MOST_BROWSING)
            ]
            await asyncio.sleep(0.1)
            try:
                await luigid.service.browse(lambda tx: 1)
            except Refused as refused:
                return refused.status
            finally:
                over.set()
                await asyncio.gather(*crowded)

        assert luigid.do(crowd()) == 503
        assert luigid.do(luigid.service.browse(lambda tx: 1)) == 1
    finally:
        luigid.end()


def test_luigis_rpcs_have_their_turn_while_many_runs_are_looked_through(tmp_path: Path) -> None:
    luigid = Luigid(tmp_path)
    try:
        for number in range(30):
            luigid.run(f"r{number}")
            for task in range(40):
                luigid.add(f"T{number}_{task}", f"r{number}")

        async def turns() -> int:
            looking, turns = asyncio.ensure_future(standings(luigid.service.scheduler)), 0
            while not looking.done():
                turns += 1
                await asyncio.sleep(0)
            return turns

        assert luigid.do(turns()) >= 5
    finally:
        luigid.end()


def test_odd_run_ids_have_pages_too(filled: Any) -> None:
    site, _ = filled
    case = Case(site, "a/b?c%2f ü")
    pay(case)
    path = f"/runs/{quote(case.run_id, safe='')}"
    assert send(site, "GET", f"{path}/spending").json["totals"][0]["spent_usd"] == "1.00"
