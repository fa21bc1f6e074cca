"""What the HTTP routes answer: whole runs, what is blocked, the day; and what they say of mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.acceptance.test_shapes import SHAPES
from tests.support.asking import Case, send
from tests.support.site import Site


def test_every_answer_that_is_a_run_is_a_whole_run(site: Site) -> None:
    case = Case(site)
    whole = set(send(site, "GET", f"/runs/{case.run_id}").json)
    assert {"denied_calls", "in_doubt_usd", "blocked_tasks", "approvals", "budgets"} <= whole
    topped = case.top_up({"usd": "5"}).json
    assert set(topped) == whole | {"top_up", "repeated"}
    [listed] = send(site, "GET", "/runs").json
    of_one = {"blocked", "awaiting_approval", "approvals", "budgets", "shared_tasks"}
    of_one |= {"root_completed", "later_run_id", "inflow_usd", "outflow_usd"}
    assert set(listed) == whole - of_one - {"reasons", "to_come", "expected_usd", "grown", "in_doubt"}
    gone = send(site, "DELETE", f"/runs/{case.run_id}", token=site.token()).json
    assert set(gone) == whole | {"calls_under_way"}


def test_blocked_tasks_are_counted_and_told(site: Site) -> None:
    site.luigi("List", "--n", "5", "--budget-usd", "2", "--run-id", "r", module=SHAPES)
    assert site.call("GET", "/runs", token=None)[1][0]["blocked_tasks"] == {"cap": 3}
    assert site.call("GET", "/runs", token=None)[1][0]["behind_tasks"] == 1, "the root itself"
    [why] = site.run("r")["blocked"]
    assert (why["tasks"], why["code"], why["text"]) == (3, "cap", "cap of $2.00 reached, $2.00 spent")
    code, out, _ = site.cli("run", "r")
    assert code == 0
    assert "held by    cap of $2.00 reached, $2.00 spent (3 due): $3.00 needed" in out
    assert out.count("cap of $2.00 reached") == out.count("spendguard top-up r 3.00") == 1, "said once"
    assert "\ntasks      3 due:\n" in out
    assert "\n           1 other task waits behind them\n" in out
    assert [line.split()[0] for line in site.cli("runs")[1].splitlines()] == ["run", "r"]
    assert "3 due, 1 behind them" in site.cli("runs")[1]
    site.call("POST", "/runs/r/top_up", {"usd": "5"})
    assert site.run("r")["blocked_tasks"] == {}


def test_what_waits_for_an_approval_and_what_was_approved_is_shown(tmp_path: Path) -> None:
    said = {"approve_above_usd": 1, "daily_cap_usd": 500}
    with Site(tmp_path / "site", spendguard=said) as site:
        site.luigi("List", "--n", "1", "--cost", "11", "--run-id", "r", module=SHAPES)
        [task] = site.run("r")["awaiting_approval"]
        assert task["cost_usd"] == "11.00"
        shown = site.cli("run", "r")[1]
        assert (
            "held by    a single task may cost $1.00 without an approval, this one may cost $11.00" in shown
        )
        assert f"spendguard approve r --task {task['task_id']} --cost 11.00\n" in shown
        code, _, err = site.cli("approve", "r", "--task", "nope", "--cost", "11")
        assert code == 1
        assert "run r has no task nope" in err
        assert site.cli("approve", "r", "--task", task["task_id"], "--cost", "11")[0] == 0
        assert site.run("r")["approvals"] == [
            {"task_id": task["task_id"], "usd": "11.00", "duplicate_of": None}
        ]
        assert f"approved   {task['task_id']}: $11.00" in site.cli("run", "r")[1]
        day = send(site, "GET", "/day").json
        assert (day["cap_usd"], day["spent_usd"], day["remaining_usd"]) == ("500.00", "0.00", "500.00")
        assert (day["beyond_spent_usd"], day["beyond_reserved_usd"]) == ("0.00", "0.00")
        assert "remaining of $500.00 (daily_cap_usd)." in site.cli("runs")[1]


def test_the_day_has_no_amounts_without_a_daily_cap(shared_site: Site) -> None:
    Case(shared_site)
    assert send(shared_site, "GET", "/day").json["spent_usd"] is None


@pytest.mark.parametrize(
    ("path", "says"),
    [
        (
            "/calls?verdict=bogus",
            "'verdict' must be one of allowed, allowed:cap, allowed:duplicate, replayed, denied, ",
        ),
        ("/calls?verdict=denied:bogus", "'verdict' must be one of"),
        (
            "/calls?tsk=x",
            "this route takes before, customer, limit, prefix, run, since, state, task, total, until",
        ),
        ("/calls?vendor=paypal", "'vendor' must be one of resend, stripe, twilio"),
        ("/calls?since=yesterday", "'since' must be a moment with its zone"),
        (
            "/runs?after=3",
            "unknown query parameter 'after': this route takes before, limit, offset, prefix, ",
        ),
        ("/runs?limit=0", "'limit' must be a number from 1 to 1000"),
        ("/runs?offset=-1", "'offset' must be a number from 0 to 1000000000"),
        ("/runs?sort=name", "'sort' must be one of opened_at, run_id, root_family"),
        ("/runs?status=late", "'status' must be one of active, denied, blocked, held, in_doubt, frozen, "),
    ],
)
def test_a_mistake_in_a_query_is_400_and_says_what_there_is(shared_site: Site, path: str, says: str) -> None:
    Case(shared_site)
    reply = send(shared_site, "GET", path)
    assert reply.is_error(400, "bad_request")
    assert says in reply.json["message"]


def test_an_address_of_nobodys_is_json_that_names_the_vendors(shared_site: Site) -> None:
    reply = send(shared_site, "POST", "/paypal/v1/payments", {})
    assert reply.is_error(404, "not_found")
    assert "below /resend, /stripe, /twilio" in reply.json["message"]


@pytest.mark.parametrize("path", ["/runs/", "/calls/", "/runs/x/nope", "/runs/x/calls/"])
def test_an_address_below_ours_that_is_no_route_is_a_404_of_ours(shared_site: Site, path: str) -> None:
    for method in ("GET", "POST"):
        assert send(shared_site, method, path).is_error(404, "not_found")


@pytest.mark.parametrize("path", ["/nope", "/api/nope", "/settings/"])
def test_any_other_address_is_luigis_to_answer(shared_site: Site, path: str) -> None:
    reply = send(shared_site, "GET", path)
    assert (reply.status, "<html>" in reply.text) == (404, True)


@pytest.mark.parametrize(
    ("usd", "status"), [("0", 409), ("1000000000", 409), ("1000000001", 400), ("9" * 20, 400)]
)
def test_an_amount_out_of_range_is_told_its_limits(shared_site: Site, usd: str, status: int) -> None:
    reply = Case(shared_site).top_up({"usd": usd})
    assert reply.status == status
    assert "$1,000,000,000.00" in json.loads(reply.text)["message"]
