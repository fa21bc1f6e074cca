"""How many tasks are blocked: the summary, the lists, a run's page and the API say the same."""

from __future__ import annotations

from tests.support.site import Site

STAGED = "tests.support.staged_pipeline"


def test_summary_lists_and_api_say_one_number(site: Site) -> None:
    given = ("--n", "4", "--budget-usd", "1", "--run-id", "r", "--workers", "1")
    said = site.luigi("Stages", *given, module=STAGED)[1]
    assert site.stripe.moved() == 100
    [listed] = site.call("GET", "/runs", token=None)[1]
    run = site.run("r")
    due = sum(run["blocked_tasks"].values())
    # One of the four firsts has paid; depth first, its second may be what is due with the other firsts.
    assert (due, run["behind_tasks"]) == (4, 8), run
    expected = "4 due, 8 behind them"
    assert f"Run r is blocked: {expected}." in said
    assert "* 4 tasks blocked: cap of $1.00 reached" in said
    assert (listed["blocked_tasks"], listed["behind_tasks"]) == (run["blocked_tasks"], run["behind_tasks"])
    [why] = run["blocked"]
    assert (why["tasks"], why["behind"], len(why["task_ids"])) == (4, 3, 7)
    assert expected in site.cli("runs", "--wide")[1]
    assert f"blocked    {expected}\n" in site.cli("run", "r")[1]
    pending = site.rpc("task_list", status="PENDING", upstream_status="")
    assert len(pending) == 4 + 8, "Luigi's own page counts them alike"


def test_a_held_run_says_what_is_due_and_what_is_behind(site: Site) -> None:
    site.restart(spendguard={"forecast": "hold"})
    said = site.luigi("Stages", "--n", "2", "--budget-usd", "1", "--run-id", "held", module=STAGED)[1]
    run = site.run("held")
    assert (run["status"], run["blocked_tasks"], run["behind_tasks"]) == ("held", {"forecast": 2}, 5)
    assert "Run held is blocked: 2 due, 5 behind them." in said
    assert site.call("GET", "/runs?status=held", token=None)[1][0]["run_id"] == "held"
    assert site.call("GET", "/runs?status=active", token=None)[1] == []


def test_calls_in_doubt_are_the_worst_of_a_run(site: Site) -> None:
    site.stripe.fault("drop_after", times=9)
    given = ("--n", "1", "--budget-usd", "1", "--run-id", "r")
    said = site.luigi("Stages", *given, module=STAGED, STRIPE_MAX_RETRIES="0")[1]
    assert "Run r: 1 call is in doubt, $1.00 may have been spent: `spendguard calls --run r" in said
    assert site.run("r")["status"] == "in_doubt"
    assert [run["run_id"] for run in site.call("GET", "/runs?status=in_doubt", token=None)[1]] == ["r"]
    for other in ("active", "blocked", "denied", "ended"):
        assert site.call("GET", f"/runs?status={other}", token=None)[1] == []
    [call] = [call for call in site.calls("r") if call["state"] == "in_doubt"]
    assert site.cli("resolve", call["id"], "--spent", "1")[0] == 0
    assert site.run("r")["status"] != "in_doubt"
