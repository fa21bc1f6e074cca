"""What happens to money is a line in luigid's log: once, with run, amount and who, and without a secret."""

from __future__ import annotations

import re
import uuid

import urllib3

from tests.support.asking import Case
from tests.support.processes import wait_until
from tests.support.site import SECRET, Site

STAGED = "tests.support.staged_pipeline"


def said(site: Site) -> str:
    return (site.folder / "luigid.log").read_text()


def lines(site: Site, pattern: str, number: int = 1) -> list[str]:
    """Return the log's lines that match, when there are so many."""

    def found() -> list[str]:
        return [line for line in said(site).splitlines() if re.search(pattern, line)]

    wait_until(lambda: len(found()) >= number, what=f"{number} lines of {pattern}")
    return found()


def test_a_repeated_request_is_said_once_and_who_has_made_it(site: Site) -> None:
    site.luigi("Billing", "--n", "4", "--budget-usd", "2", "--run-id", "r")
    for _ in range(2):
        assert site.cli("top-up", "r", "1.5", "--request-id", "one")[0] == 0
    for _ in range(2):
        assert site.cli("revoke", "r")[0] == 0
    assert len(lines(site, r"Run r is revoked, by an operator at 127\.0\.0\.1$")) == 1
    [raised] = lines(site, "is topped up")
    assert "Run r is topped up by $1.50: its cap is $3.50, by an operator at 127.0.0.1" in raised


def test_a_cap_is_said_to_be_reached_once_until_it_is_raised(site: Site) -> None:
    for _ in range(2):
        site.luigi("Billing", "--n", "20", "--budget-usd", "2", "--run-id", "r", "--workers", "4")
    site.cli("top-up", "r", "1")
    lines(site, "is topped up")
    assert "Run r: cap of $2.00 reached" in lines(site, "reached")[0]
    assert len(lines(site, "reached")) == 1
    site.luigi("Billing", "--n", "20", "--budget-usd", "2", "--run-id", "r", "--workers", "4")
    assert "Run r: cap of $3.00 reached" in lines(site, "reached", 2)[1]
    assert site.stripe.moved() == 300


def test_a_cap_that_is_too_small_for_a_task_is_reached_though_nothing_was_denied(site: Site) -> None:
    site.luigi("Stages", "--n", "1", "--budget-usd", "0.5", "--run-id", "r", module=STAGED)
    assert site.calls("r") == []
    [reached] = lines(site, "reached")
    assert "Run r: cap of $0.50 reached, $0.00 spent, $0.50 remaining is not enough; `spend" in reached


def test_a_reached_cap_names_what_others_have_cost_where_a_task_says_nothing(site: Site) -> None:
    site.luigi("Billing", "--n", "2", "--budget-usd", "5", "--run-id", "before")
    site.luigi("Billing", "--n", "9", "--first", "2", "--budget-usd", "2", "--run-id", "r", "--workers", "2")
    [reached] = lines(site, "Run r: cap of .* reached")
    assert "`spendguard top-up r 1.00` raises it" in reached


def test_a_forgotten_customer_is_on_record_and_in_the_log(site: Site) -> None:
    site.luigi("Billing", "--n", "2", "--budget-usd", "5", "--run-id", "r")
    assert site.cli("forget", "--customer", "cus_1")[0] == 0
    [said_of_it] = lines(site, "Forgotten: ")
    assert "what was sent and answered in 1 call of a customer, by an operator at 127.0.0.1" in said_of_it
    assert "cus_1" not in said_of_it
    [one] = site.call("GET", "/actions?kind=forget")[1]
    assert (one["run_id"], one["note"]) == (None, "what was sent and answered in 1 call of a customer")
    assert one in site.call("GET", "/actions")[1]


def test_what_has_frozen_a_run_and_thawed_it_is_said(site: Site) -> None:
    case = Case(site)
    doubt, run_id = case.doubted(), case.run_id
    assert site.cli("resolve", doubt, "--spent", "3", "--overrun")[0] == 0
    [frozen] = lines(site, "is frozen")
    assert f"Run {run_id} is frozen: call {doubt} " in frozen
    assert f"cost $1.00 more than was reserved; `spendguard top-up {run_id} 0.01` lets it go on" in frozen
    assert site.cli("top-up", run_id, "9")[0] == 0
    assert len(lines(site, f"Run {run_id} is thawed")) == 1
    assert len(lines(site, "in doubt")) == 1


def test_of_a_key_its_terms_are_said_and_its_cap_and_never_the_key(gateway_site: Site) -> None:
    site = gateway_site
    _, key, told = site.cli("issue-key", "--run", "agent", "--run-cap", "5", "--daily-cap", "2.5")
    key_id = told.split()[0]
    [issued] = lines(site, "is issued for stripe")
    assert f"Run agent: vault key {key_id} is issued for stripe, until 20" in issued
    assert "with a cap of $5.00 in all and $2.50 a UTC day, by a client at 127.0.0.1" in issued
    for amount in (200, 100, 100):
        form = {"amount": str(amount), "currency": "usd", "payment_method": "pm_card_visa", "confirm": "true"}
        send_form(site, key.strip(), form)
    [reached] = lines(site, "reached")
    assert "Run agent: a vault key's daily cap of $2.50 reached, $2.00 spent, $0.50 remaining" in reached
    assert site.cli("revoke-key", key_id)[0] == 0
    lines(site, f"Run agent: vault key {key_id} is revoked, by an operator at 127.0.0.1")
    assert key.strip() not in said(site)
    assert SECRET not in said(site)
    assert site.token() not in said(site)


def send_form(site: Site, key: str, form: dict[str, str]) -> None:
    """Charge under a vault key, at the gateway."""
    headers = {"Authorization": f"Bearer {key}", "Idempotency-Key": uuid.uuid4().hex}
    urllib3.PoolManager().request_encode_body(
        "POST", f"{site.url}/stripe/v1/payment_intents", form, headers, encode_multipart=False
    )


def test_what_happens_last_is_said_before_luigid_ends(site: Site) -> None:
    site.luigi("Billing", "--n", "1", "--run-id", "r")
    site.cli("top-up", "r", "7")
    assert site.luigid is not None
    site.luigid.end()
    assert "Run r is topped up by $7.00: its cap is $107.00" in said(site)


def test_a_worker_with_its_own_scheduler_says_it_itself(site: Site) -> None:
    out = site.luigi("Billing", "--n", "9", "--budget-usd", "2", "--run-id", "r", "--local-scheduler")[1]
    assert out.count("Run r: cap of $2.00 reached") == 1, out
    site.luigi("Billing", "--n", "1", "--run-id", "other")
    out = site.luigi("Billing", "--n", "1", "--run-id", "third", "--local-scheduler", "--workers", "2")[1]
    assert "Run r" not in out
    assert "Run other" not in out
