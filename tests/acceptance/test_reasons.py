"""What holds a run is said all at once, and the commands that are said clear it; caps hold all the while."""

from __future__ import annotations

import itertools
import random
import shlex
import threading
from typing import Any

import pytest

from tests.acceptance.test_shapes import SHAPES
from tests.support.site import Site
from tests.support.terminal import in_terminal


def submit(site: Site, n: int, run_id: str = "r", budget: str = "100", first: int = 0, **more: str) -> str:
    """Submit a list of `n` tasks of a dollar each; return what its worker said."""
    args = ("--n", str(n), "--first", str(first), "--run-id", run_id, "--budget-usd", budget)
    return site.luigi("List", *args, "--workers", "2", module=SHAPES, **more)[1]


def reasons(site: Site, run_id: str = "r") -> dict[str, dict[str, Any]]:
    return {why["code"]: why for why in site.run(run_id)["reasons"]}


def do(site: Site, command: str) -> str:
    """Do a command as it was said; return what it answered."""
    program, *args = shlex.split(command)
    assert program == "spendguard"
    code, out, err = site.cli(*args)
    assert code == 0, err
    return out


class TestForecasts:
    @pytest.fixture
    def site(self, unstarted: Site) -> Site:
        unstarted.restart(spendguard={"forecast": "hold"})
        return unstarted

    @pytest.mark.parametrize(("which", "moved"), [(0, 600), (1, 500)])
    def test_each_command_that_is_said_of_a_held_run_clears_it(
        self, site: Site, which: int, moved: int
    ) -> None:
        out = submit(site, 6, budget="5")
        held = reasons(site)["forecast"]
        assert held["commands"] == ["spendguard top-up r 1.00", "spendguard approve r --up-to 6.00"]
        assert [held[f"{name}_usd"] for name in ("needed", "available", "missing")] == [
            "6.00",
            "5.00",
            "1.00",
        ]
        assert all(f"`{each}`" in out for each in held["commands"]), out
        assert all(each in site.cli("run", "r")[1] for each in held["commands"])
        code, _, err = site.cli("approve", "r")
        assert (code, all(each in err for each in held["commands"])) == (2, True), err
        do(site, held["commands"][which])
        submit(site, 6, budget="5")
        assert site.stripe.moved() == moved, "an approval raises no cap"

    def test_a_ceiling_lets_a_forecast_grow_up_to_it(self, site: Site) -> None:
        submit(site, 6, budget="5")
        code, _, err = site.cli("approve", "r", "--up-to", "5")
        assert (code, "is $6.00, more than $5.00" in err) == (1, True)
        assert "approved up to $8.00; it is $6.00" in do(site, "spendguard approve r --up-to 8")
        submit(site, 7, budget="5")
        assert site.stripe.moved() == 500
        site.call("POST", "/runs/r/top_up", {"usd": "1"})
        out = submit(site, 12, budget="5")
        assert site.stripe.moved() == 500, out
        assert "it has grown since $8.00 was approved: Declared by $6.00 in 6 tasks (Declared_" in out
        [grown] = site.run("r")["grown"]
        shown = (grown["family"], grown["usd"], grown["tasks"], len(grown["task_ids"]))
        assert shown == ("Declared", "6.00", 6, 6)
        assert not {task["task_id"] for task in site.calls("r")} & {*grown["task_ids"]}
        code, _, err = site.cli("approve", "r", "--forecast", "8")
        assert (code, "is $12.00 now, not $8.00" in err) == (1, True)

    def test_what_was_approved_is_known_after_a_restart(self, site: Site) -> None:
        submit(site, 6, budget="5")
        do(site, "spendguard approve r --up-to 6")
        site.restart()
        assert "Declared by $2.00 in 2 tasks" in submit(site, 8, budget="5")
        assert site.stripe.moved() == 0

    def test_in_a_terminal_it_is_shown_and_asked_for(self, site: Site) -> None:
        submit(site, 6, budget="5")
        code, out = in_terminal(site.folder, site.environment(), 100, "approve", "r", typed="y\n")
        assert (code, "r may cost $6.00; its cap is $5.00. Approve?" in out) == (0, True), out
        assert site.run("r")["approved_usd"] == "6.00"

    @pytest.mark.parametrize(
        ("typed", "said"),
        [("n\n", "not approved: nothing was changed"), ("\x04", "not answered: nothing was")],
    )
    def test_a_no_and_no_answer_are_refusals(self, site: Site, typed: str, said: str) -> None:
        submit(site, 6, budget="5")
        code, out = in_terminal(site.folder, site.environment(), 100, "approve", "r", typed=typed)
        assert (code, said in out) == (1, True), out
        code, out = in_terminal(site.folder, site.environment(), 100, "top-up", "r", typed="\x04")
        assert (code, "not answered: nothing was changed" in out) == (1, True), out
        run = site.run("r")
        assert (run["approved_usd"], run["cap_usd"]) == (None, "5.00")

    def test_what_nothing_holds_is_not_approved(self, site: Site) -> None:
        submit(site, 3, budget="5")
        code, out, err = site.cli("approve", "r")
        assert (code, "Nothing of it waits for its forecast" in err) == (1, True), out
        status, said = site.call("POST", "/runs/r/approve", {"usd": "3"})
        assert (status, "its forecast is not too much" in said["message"]) == (409, True)
        assert site.call("POST", "/runs/r/approve", {"usd": "30", "up_to": True})[0] == 200, "beforehand"
        submit(site, 9, budget="5")
        assert site.stripe.moved() == 500
        assert site.run("r")["approved_usd"] == "30.00"

    def test_all_reasons_are_said_at_once(self, site: Site) -> None:
        site.restart(spendguard_family_caps={"Declared": 2}, spendguard_stripe={"run_cap_usd": 50})
        before = site.call("GET", "/runs", token=None)[1]
        assert before == []
        submit(site, 2, budget="5")
        out = submit(site, 8, budget="5")
        found = reasons(site)
        assert set(found) == {"forecast", "family"}, found
        assert (found["family"]["scope"], found["family"]["part"]) == ("family", "Declared")
        assert found["family"]["commands"] == ["spendguard top-up r 6.00 --family Declared"]
        assert "; besides, Declared's cap of $2.00 reached, $2.00 spent" in out
        for why in found.values():
            do(site, why["commands"][0])
        assert site.run("r")["reasons"] == []
        submit(site, 8, budget="5")
        assert site.stripe.moved() == 800


class TestTopUps:
    def test_what_is_freed_is_said_before_and_after(self, site: Site) -> None:
        submit(site, 6, budget="2")
        why = reasons(site)["cap"]
        assert (why["tasks"], why["commands"]) == (4, ["spendguard top-up r 4.00"])
        code, out, _ = site.cli("top-up", "r", "1", "--dry-run")
        assert (code, out.splitlines()) == (
            0,
            [
                "Blocked tasks of r: 4 due, 1 behind them. Needed $4.00, available $0.00, missing $4.00.",
                "$1.00 frees 1 of 4 blocked tasks; the rest needs $3.00 more: `spendguard top-up r 3.00`. "
                "Until it is spent, lists count none as blocked: each task that it is enough for may get it.",
            ],
        )
        assert site.run("r")["cap_usd"] == "2.00"
        out = do(site, "spendguard top-up r 1")
        assert "Freed 1 of 4 blocked tasks; the rest needs $3.00 more: `spendguard top-up r 3.00`." in out
        submit(site, 6)
        assert site.stripe.moved() == 300
        assert "Freed 3 of 3 blocked tasks." in do(site, "spendguard top-up r 3.00")
        submit(site, 6)
        assert site.stripe.moved() == 600

    def test_tasks_that_say_no_cost_count_for_what_others_have_cost(self, site: Site) -> None:
        _, out = site.luigi("Billing", "--n", "5", "--budget-usd", "2", "--run-id", "r")
        assert "`spendguard top-up r 3.00` frees them, if they cost what others have" in out
        assert site.run("r")["expected_usd"] == "5.00"
        assert "forecast   $0.00 + 5 unknown; by now $5.00" in site.cli("run", "r")[1]

    def test_in_a_terminal_the_amount_is_asked_for(self, site: Site) -> None:
        submit(site, 4, budget="2")
        code, out = in_terminal(site.folder, site.environment(), 100, "top-up", "r", typed="\n")
        assert (code, "Raise it by (USD) [2.00]" in out) == (0, True), out
        assert "Freed 2 of 2 blocked tasks." in out
        assert site.run("r")["cap_usd"] == "4.00"
        code, _, err = site.cli("top-up", "r")
        assert (code, "say by how much" in err) == (2, True)

    def test_a_frozen_run_says_what_thaws_it(self, site: Site) -> None:
        site.stripe.fault("drop_after", times=9)
        submit(site, 1, budget="3", STRIPE_MAX_RETRIES="0")
        site.stripe.control(faults=[])
        [call] = site.calls("r")
        doubt = reasons(site)["in_doubt"]
        assert doubt["commands"][0] == "spendguard calls --run r --state in_doubt"
        assert f"spendguard resolve {call['id']} --spent 1.00 --object ID" in doubt["commands"]
        said = site.call("POST", f"/calls/{call['id']}/resolve", {"spent_usd": "4", "overrun": True})[1]
        assert said["run_state"] == "frozen"
        moved = site.stripe.moved()
        submit(site, 3, budget="3")
        why = reasons(site)["frozen"]
        # The cap of $3.00 is exceeded by $1.00 already, and two or three tasks are due.
        need = len(site.run("r")["blocked"][0]["task_ids"])
        assert why["missing_usd"] == f"{need + 1}.00"
        assert why["commands"] == [f"spendguard top-up r {need + 1}.00"]
        assert "thaws it" in why["advice"]
        assert site.cli("run", "r")[1].count(why["commands"][0]) >= 1
        out = do(site, why["commands"][0])
        assert f"Freed {need} of {need}" in out
        assert "the run is thawed" in out
        submit(site, 3, budget="3")
        assert site.stripe.moved() == moved + 100 * need

    def test_nothing_blocked_is_nothing_said(self, site: Site) -> None:
        submit(site, 1)
        code, out, _ = site.cli("top-up", "r", "1")
        assert (code, out) == (0, "r has a cap of $101.00; $100.00 remains.\n")


class TestBudgetsOnTheWay:
    """One that each task fits into, but not all of them, is said with the others."""

    @pytest.fixture
    def site(self, unstarted: Site) -> Site:
        unstarted.restart(spendguard_family_caps={"Declared": 2}, spendguard_stripe={"run_cap_usd": 4})
        return unstarted

    def test_all_commands_that_are_said_free_all_at_once(self, site: Site) -> None:
        out = submit(site, 10, budget="6")
        assert site.stripe.moved() == 200
        found = reasons(site)
        commands = {
            "family": "spendguard top-up r 8.00 --family Declared",
            "cap": "spendguard top-up r 4.00",
            "vendor": "spendguard top-up r 6.00 --vendor stripe",
        }
        assert {code: why["commands"] for code, why in found.items()} == {c: [t] for c, t in commands.items()}
        assert {(why["tasks"], why["behind"]) for why in found.values()} == {(8, 0)}
        assert site.run("r")["blocked_tasks"] == {"family": 8}
        assert all(f"`{each}`" in out for each in commands.values()), out
        said = do(site, commands["family"])
        assert (
            f"Freed 2 of 8 blocked tasks; the rest needs `{commands['cap']}`, and `{commands['vendor']}`."
            in said
        )
        assert "Next: cap of $6.00 is too small for all that is to come, $2.00 spent, $4.00 free" in said
        do(site, commands["cap"])
        do(site, commands["vendor"])
        assert (site.run("r")["reasons"], site.run("r")["to_come"]) == ([], [])
        submit(site, 10)
        assert site.stripe.moved() == 1000

    def test_an_approval_says_which_budgets_do_not_hold_what_was_approved(self, site: Site) -> None:
        site.restart(spendguard={"forecast": "hold"})
        submit(site, 10, budget="6")
        out = do(site, "spendguard approve r --up-to 10")
        assert "Next: cap of $6.00 is too small" in out
        assert "Next: Declared's cap of $2.00 is too small" in out
        for command in ("top-up r 4.00", "top-up r 8.00 --family Declared"):
            assert f"  spendguard {command}\n" in out
            do(site, f"spendguard {command}")
        submit(site, 10)
        assert site.stripe.moved() == 400, "whom tasks pay that name no vendors is known once they have"
        do(site, reasons(site)["vendor"]["commands"][0])
        submit(site, 10)
        assert site.stripe.moved() == 1000

    def test_a_revoked_run_has_no_other_reason(self, site: Site) -> None:
        submit(site, 5, budget="1")
        assert set(reasons(site)) >= {"cap", "family"}
        assert site.cli("revoke", "r")[0] == 0
        run = site.run("r")
        assert [(why["code"], why["commands"]) for why in run["reasons"]] == [("revoked", [])]
        assert run["to_come"] == []
        shown = site.cli("run", "r")[1]
        assert "held by    the run is revoked (4 due)" in shown
        assert "spendguard" not in shown
        for more in ((), ("--dry-run",)):
            code, out, err = site.cli("top-up", "r", "1", *more)
            assert (code, out, "revoked for good and cannot be topped up" in err) == (1, "", True)
        submit(site, 5)
        assert "top-up" not in site.luigi("List", "--n", "5", "--run-id", "r", module=SHAPES)[1]

    @pytest.mark.parametrize(
        ("option", "named", "meant"), [("--family", "declared", "Declared"), ("--vendor", "strip", "stripe")]
    )
    def test_a_misspelt_budget_is_told_the_nearest(
        self, site: Site, option: str, named: str, meant: str
    ) -> None:
        submit(site, 3)
        for more in ((), ("--dry-run",)):
            code, _, err = site.cli("top-up", "r", "1", option, named, *more)
            assert (code, f"did you mean {meant}?" in err) == (1, True), err

    def test_a_repeated_change_says_that_it_is_one(self, site: Site) -> None:
        submit(site, 5, budget="10")
        again = ("top-up", "r", "1", "--family", "Declared", "--request-id", "once")
        said = [site.cli(*again)[1] for _ in range(2)]
        assert [("Nothing was changed: once was done before." in each) for each in said] == [False, True]
        assert all("Declared's budget in r is $3.00" in each for each in said)
        assert "the rest needs $2.00 more" in said[0]


class TestBudgetsInside:
    def test_they_are_shown_before_anything_is_spent(self, unstarted: Site) -> None:
        site = unstarted
        site.restart(
            spendguard={"forecast": "hold", "daily_cap_usd": 40},
            spendguard_stripe={"run_cap_usd": 30},
            spendguard_family_caps={"Declared": 20, "Elsewhere": 1},
        )
        submit(site, 9, budget="5")
        budgets = [(b["scope"], b["part"], b["cap_usd"]) for b in site.run("r")["budgets"]]
        assert budgets[:2] == [("family", "Declared", "20.00"), ("vendor", "stripe", "30.00")]
        assert (budgets[2][0], budgets[2][2], len(budgets)) == ("day", "40.00", 3)
        shown = site.cli("run", "r")[1]
        assert "family     Declared: cap $20.00, spent $0.00, reserved $0.00, remaining $20.00" in shown

    def test_a_familys_is_topped_up_for_one_run(self, site: Site) -> None:
        site.restart(spendguard_family_caps={"Declared": 2})
        submit(site, 5, budget="4")
        submit(site, 5, run_id="other", budget="4", first=10)
        assert site.stripe.moved() == 400
        out = do(site, "spendguard top-up r 1 --family Declared")
        assert "Declared's budget in r is $3.00; $1.00 remains. The run's own cap is as it was." in out
        assert "Freed 1 of 3 blocked tasks; the rest needs $2.00 more" in out
        assert (site.run("r")["cap_usd"], site.run("other")["budgets"][0]["cap_usd"]) == ("4.00", "2.00")
        do(site, "spendguard top-up r 50 --family Declared")
        for run_id, first in (("r", 0), ("other", 10)):
            submit(site, 5, run_id=run_id, first=first)
        assert site.stripe.moved() == 600, "the run's own cap of $4.00 holds, the other's family's, too"
        site.restart(spendguard_family_caps={"Declared": 1})
        assert site.run("r")["budgets"][0]["cap_usd"] == "52.00", "on top of what luigi.cfg says now"

    def test_a_vendors_is_topped_up_for_one_run(self, site: Site) -> None:
        site.restart(spendguard_stripe={"run_cap_usd": 2})
        submit(site, 5, budget="4")
        assert site.stripe.moved() == 200
        why = reasons(site)["vendor"]
        assert why["commands"] == ["spendguard top-up r 3.00 --vendor stripe"]
        do(site, why["commands"][0])
        submit(site, 5)
        assert site.stripe.moved() == 400

    def test_a_run_may_pass_the_days_cap(self, site: Site) -> None:
        site.restart(spendguard={"daily_cap_usd": 3})
        submit(site, 2, run_id="first")
        submit(site, 6, first=40)
        assert site.stripe.moved() == 300
        why = reasons(site)["day"]
        assert (why["missing_usd"], why["commands"]) == ("5.00", ["spendguard top-up r 5.00 --day"])
        out = do(site, "spendguard top-up r 2 --day")
        assert "r may pass today's cap by $2.00 in all; $2.00 of that remains." in out
        assert "Freed 2 of 5 blocked tasks; the rest needs $3.00 more" in out
        submit(site, 4, run_id="first", first=20)
        assert site.stripe.moved() == 300, "no other run has more"
        submit(site, 6, first=40)
        assert site.stripe.moved() == 500
        day = site.call("GET", "/day")[1]
        assert (day["spent_usd"], day["beyond_spent_usd"], day["remaining_usd"]) == ("5.00", "2.00", "0.00")
        said = "$5.00 spent ($2.00 of it beyond the cap, by top-ups), $0.00 reserved, $0.00"
        assert said in site.cli("runs")[1]
        site.restart()
        do(site, "spendguard top-up r 1 --day")
        submit(site, 6, first=40)
        assert site.stripe.moved() == 600

    def test_what_is_left_of_the_days_cap_and_too_little_for_a_call_is_explained(self, site: Site) -> None:
        site.restart(spendguard={"daily_cap_usd": "2.50"})
        submit(site, 5)
        why = reasons(site)["day"]
        assert (why["needed_usd"], why["available_usd"], why["missing_usd"]) == ("3.00", "0.50", "3.00")
        whole = "(a task's call goes into the day's cap or beyond it, as a whole)"
        assert f"$3.00 needed, $0.50 available, $3.00 missing {whole}\n" in site.cli("run", "r")[1]
        asked = site.cli("top-up", "r", "--day", "--dry-run")
        assert f"Needed of the day's cap $3.00, available $0.50, missing $3.00 {whole}." in asked[1], asked

    @pytest.mark.parametrize("which", [{"family": "Nobody"}, {"vendor": "stripe"}, {"day": True}])
    def test_what_luigi_cfg_does_not_cap_is_not_topped_up(self, site: Site, which: dict[str, Any]) -> None:
        submit(site, 1)
        status, said = site.call("POST", "/runs/r/top_up", {"usd": "1", **which})
        assert (status, "no such budget that a top-up could raise" in said["message"]) == (409, True)
        assert site.call("POST", "/runs/r/top_up", {"usd": "1", "day": True, "family": "F"})[0] == 400

    def test_it_counts_once_for_each_request(self, site: Site) -> None:
        site.restart(spendguard_family_caps={"Declared": 2})
        submit(site, 1)
        body = {"usd": "1", "family": "Declared", "request_id": "once"}
        for _ in range(2):
            assert site.call("POST", "/runs/r/top_up", body)[1]["budgets"][0]["cap_usd"] == "3.00"
        assert site.call("POST", "/runs/r/top_up", {"usd": "1", "request_id": "once"})[0] == 409


def test_no_order_of_top_ups_and_approvals_passes_a_cap(site: Site) -> None:
    """Operators race with each other and with workers; the vendor counts."""
    site.restart(
        spendguard={"forecast": "hold", "daily_cap_usd": 6, "approve_above_usd": 50},
        spendguard_stripe={"run_cap_usd": 3},
        spendguard_family_caps={"Declared": 2},
    )
    for run_id, first in (("a", 0), ("b", 50)):
        submit(site, 20, run_id=run_id, budget="5", first=first)
    assert site.stripe.moved() == 0
    chance, own, beyond = random.Random(18), {"a": 5, "b": 5}, {"a": 0, "b": 0}
    ways: list[dict[str, Any]] = [{"family": "Declared"}, {"vendor": "stripe"}, {"day": True}, {}]
    changes = [
        (run_id, way, usd) for run_id, way, usd in itertools.product(own, ways, (1, 2, 3)) if way or usd == 1
    ]
    chance.shuffle(changes)

    def operate(mine: list[tuple[str, dict[str, Any], int]]) -> None:
        for run_id, way, usd in mine:
            site.call("POST", f"/runs/{run_id}/approve", {"usd": "40", "up_to": True})
            status, said = site.call("POST", f"/runs/{run_id}/top_up", {"usd": str(usd), **way})
            assert status == 200, said

    workers = [
        site.worker("List", "--n", "20", "--run-id", run_id, "--first", str(first), module=SHAPES)
        for run_id, first in (("a", 0), ("b", 50))
        for _ in range(2)
    ]
    threads = [threading.Thread(target=operate, args=(changes[number::3],)) for number in range(3)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(60)
    for worker in workers:
        worker.communicate(timeout=120)
    for run_id, way, usd in changes:
        own[run_id] += usd if not way else 0
        beyond[run_id] += usd if "day" in way else 0
    for run_id, first in (("a", 0), ("b", 50)):
        submit(site, 20, run_id=run_id, first=first)
    spent = {run_id: float(site.run(run_id)["spent_usd"]) for run_id in own}
    assert all(spent[run_id] <= own[run_id] for run_id in own), spent
    assert site.stripe.moved() == round(100 * sum(spent.values()))
    assert sum(spent.values()) <= 6 + sum(beyond.values())
    assert spent == {"a": 6.0, "b": 6.0}, "and nothing holds it but the cap"
