"""What became of a call is seen wherever one looks: in Luigi's summary, on its run, in the log, in lists."""

from __future__ import annotations

import re
import shlex
import uuid

import luigi.rpc
import pytest

from luigi_spendguard.errors import DENIAL_STATUS
from luigi_spendguard.protocol.rpcs import BlockedRequest
from tests.acceptance.test_money_log import lines, said
from tests.support.asking import ASK, Case, send
from tests.support.site import Site

PAYING = "tests.support.paying_pipeline"
#: Those that the gate says of a blocked task, and those that are of no run: whoever asked has no key of one.
BLOCKING, OF_NO_RUN = {"cap", "revoked"}, {"unknown_key", "ledger_unavailable"}


@pytest.mark.parametrize("reason", sorted(set(DENIAL_STATUS) - BLOCKING - OF_NO_RUN))
def test_every_denial_is_seen(shared_site: Site, reason: str) -> None:
    case, call_id, why = Case(shared_site), str(uuid.uuid4()), f"for a reason of its own ({reason})"
    ask = ASK | {"call_id": call_id, "denied": reason, "message": why}
    send(shared_site, "POST", "/api/spend_reserve", ask, case.key)
    shows = f"spendguard calls --run {case.run_id} --verdict denied:{reason}"
    [call] = shared_site.calls(case.run_id)
    assert (call["verdict"], call["message"]) == (f"denied:{reason}", why)
    assert f"denied:{reason}" in shared_site.cli(*shlex.split(shows)[1:])[1]
    shown = shared_site.run(case.run_id)
    [denied] = [one for one in shown["reasons"] if one["code"] == "denied"]
    assert (why in denied["text"], denied["commands"]) == (True, [shows])
    out = shared_site.cli("run", case.run_id)[1]
    assert (why in out, re.search("^status +denied$", out, re.M) is not None) == (True, True)
    [standing] = case.pretender.client.blocked(BlockedRequest(case.pretender.worker)).runs
    assert [(call_id in line, why in line, shows in line) for line in standing.denied] == [(True,) * 3]
    [logged] = lines(shared_site, f"Run {case.run_id}: call {call_id}")
    assert (f"was denied: {reason}: {why}" in logged, " WARNING: " in logged) == (True, True)
    again = ask | {"call_id": str(uuid.uuid4())}
    send(shared_site, "POST", "/api/spend_reserve", again, case.key)
    send(shared_site, "POST", "/api/spend_reserve", ASK | {"call_id": str(uuid.uuid4())}, case.key)
    assert not [one for one in shared_site.run(case.run_id)["reasons"] if one["code"] == "denied"]
    assert shared_site.cli("top-up", case.run_id, "1")[0] == 0
    lines(shared_site, f"Run {case.run_id} is topped up")
    assert len(lines(shared_site, f"Run {case.run_id}: call .* was denied")) == 1


def test_a_corrected_amount_that_is_refused_is_in_the_summary(site: Site) -> None:
    (site.folder / "out" / "die").touch()
    site.luigi("Pay", "--customer", "a", "--amount", "2700", module=PAYING)
    (site.folder / "out" / "die").unlink()
    out = site.luigi("Pay", "--customer", "a", "--amount", "2600", module=PAYING)[1]
    summary = out.partition("===== Luigi Execution Summary =====")[2]
    assert "was denied: idempotency_mismatch: this payment (payment_key) was made by call" in summary
    assert "--verdict denied:idempotency_mismatch` shows it." in summary
    site.luigi("Pay", "--customer", "a", "--amount", "2700", module=PAYING)
    assert "denied" not in site.luigi("Pay", "--customer", "a", "--amount", "2700", module=PAYING)[1]


def test_an_amount_that_was_put_back_leaves_no_denial_on_the_run(site: Site) -> None:
    args = ("--run-id", "r", "--retcode-task-failed", "30")
    (site.folder / "out" / "die").touch()
    site.luigi("Payroll", "--amounts", "a=2700", *args, module=PAYING)
    (site.folder / "out" / "die").unlink()
    out = site.luigi("Payroll", "--amounts", "a=2600", *args, module=PAYING)[1]
    assert "Put the amount back" in out.partition("===== Luigi Execution Summary =====")[2]
    assert [one["code"] for one in site.run("r")["reasons"]] == ["denied"]
    code, out = site.luigi("Payroll", "--amounts", "a=2700", *args, module=PAYING)
    assert (code, site.stripe.moved()) == (0, 2700), out
    assert "denied" not in out.partition("===== Luigi Execution Summary =====")[2]
    assert (site.run("r")["reasons"], "denied:" in site.cli("run", "r")[1]) == ([], False)


def test_what_ends_a_doubt_is_said_whole_and_the_next_attempt_gets_its_answer(site: Site) -> None:
    site.stripe.fault("drop_after", times=9)
    site.luigi("Billing", "--n", "1", "--run-id", "r", STRIPE_MAX_RETRIES="0")
    site.stripe.control(faults=[])
    [opened] = site.stripe.books()["moved"]
    [doubt] = [one for one in site.run("r")["reasons"] if one["code"] == "in_doubt"]
    [call] = site.calls("r")
    spent, not_sent = doubt["commands"][1:]
    assert spent == f"spendguard resolve {call['id']} --spent 1.00 --object ID"
    assert not_sent == f"spendguard resolve {call['id']} --not-sent"
    assert "$1.00 in doubt" in site.cli("calls", "--run", "r")[1]
    code, _, problem = site.cli(*shlex.split(spent)[1:])
    assert (code != 0, "'object_id' ID stands for the id at the vendor" in problem) == (True, True)
    assert site.cli(*shlex.split(spent.replace(" ID", f" {opened['object']}"))[1:])[0] == 0
    code, out = site.luigi("Billing", "--n", "1", "--run-id", "r")
    assert (code, site.stripe.moved()) == (0, 100), out
    assert "This progress looks :)" in out


def test_an_object_that_was_not_named_is_asked_for_with_the_whole_command(site: Site) -> None:
    site.stripe.fault("drop_after", times=9)
    site.luigi("Billing", "--n", "1", "--run-id", "r", STRIPE_MAX_RETRIES="0")
    site.stripe.control(faults=[])
    [opened], [call] = site.stripe.books()["moved"], site.calls("r")
    told = site.cli("resolve", call["id"], "--spent", "1")[1]
    correct = f"spendguard resolve {call['id']} --spent 1.00 --object ID --correct"
    assert f"`{correct}`" in told
    out = site.luigi("Billing", "--n", "1", "--run-id", "r")[1]
    assert f"`{correct}`" in out.partition("===== Luigi Execution Summary =====")[2]
    assert site.cli(*shlex.split(correct.replace(" ID", f" {opened['object']}"))[1:])[0] == 0
    assert site.luigi("Billing", "--n", "1", "--run-id", "r")[0] == 0
    assert site.stripe.moved() == 100


def test_a_doubt_is_said_once_however_often_luigid_is_started(site: Site) -> None:
    site.stripe.fault("drop_after", times=9)
    for _ in range(2):
        site.luigi("Billing", "--n", "1", "--run-id", "r", STRIPE_MAX_RETRIES="0")
        site.cli("top-up", "r", "1")
        lines(site, "is topped up")
        assert len(lines(site, "in doubt")) == 1
        site.restart()


def test_a_run_that_has_completed_at_its_cap_has_no_cap_reached(site: Site) -> None:
    site.luigi("Billing", "--n", "3", "--budget-usd", "3", "--run-id", "r", "--workers", "3")
    assert site.run("r")["remaining_usd"] == "0.00"
    site.restart()
    site.cli("top-up", "r", "1")
    lines(site, "is topped up")
    assert "reached" not in said(site)


def test_a_run_that_has_ended_has_no_tasks_of_the_next_one(unstarted: Site) -> None:
    unstarted.configure(spendguard={"forecast": "hold"})
    unstarted.start()
    unstarted.luigi("Billing", "--n", "1")
    [ended] = unstarted.call("GET", "/runs")[1]
    # Its root is announced anew: that is another run, which is not open yet.
    task = {
        "task_id": "Charge_again",
        "family": "Charge",
        "status": "PENDING",
        "runnable": True,
        "params": {},
    }
    luigi.rpc.RemoteScheduler(unstarted.url).add_task(
        worker="another", spendguard={"run_id": ended["run_id"], "vendor": True}, **task
    )
    for shown in (unstarted.run(ended["run_id"]), unstarted.call("GET", "/runs")[1][0]):
        assert (shown["status"], shown["blocked_tasks"], shown["behind_tasks"]) == ("ended", {}, 0)
    assert "submit its root again" not in unstarted.cli("run", ended["run_id"])[1]


def test_the_last_run_is_asked_for_without_a_request_that_fails(site: Site) -> None:
    site.luigi("Billing", "--n", "1", "--run-id", "r")
    assert site.cli("run", "@last")[0] == 0
    assert site.cli("calls", "--run", "@last")[0] == 0
    assert " 404 " not in said(site)
