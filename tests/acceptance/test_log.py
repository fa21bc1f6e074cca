"""luigid's log says what has happened to money: each thing once."""

from __future__ import annotations

import pytest

from tests.support.asking import Case
from tests.support.processes import wait_until
from tests.support.site import Site

STAGED = "tests.support.staged_pipeline"


def said(site: Site) -> str:
    return (site.folder / "luigid.log").read_text("utf-8")


def wait_for(site: Site, line: str) -> None:
    wait_until(lambda: line in said(site), what=f"{line!r} in luigid's log")


@pytest.fixture
def full(site: Site) -> Site:
    """A site of which the run r has reached its cap."""
    site.luigi("Stages", "--n", "4", "--budget-usd", "1", "--run-id", "r", "--workers", "1", module=STAGED)
    return site


def test_a_run_is_followed_from_its_opening_to_its_revoke(full: Site) -> None:
    site, cap = full, "Run r: cap of $1.00 reached, $1.00 spent; `spendguard top-up r 1.00` raises it"
    wait_for(site, "Run r is opened with a cap of $1.00")
    wait_for(site, cap)
    site.luigi("Stages", "--n", "4", "--run-id", "r", "--workers", "1", module=STAGED)
    assert site.cli("top-up", "r", "2")[0] == 0
    wait_for(site, "Run r is topped up by $2.00: its cap is $3.00")
    site.luigi("Stages", "--n", "4", "--run-id", "r", "--workers", "1", module=STAGED)
    wait_for(site, "Run r: cap of $3.00 reached, $3.00 spent")
    assert site.cli("revoke", "r")[0] == 0
    wait_for(site, "Run r is revoked")
    lines = said(site)
    for once in (cap, "cap of $3.00 reached", "is topped up", "is revoked", "is opened"):
        assert lines.count(once) == 1, once
    assert site.token() not in lines


def test_what_lets_a_call_pass_the_days_cap_is_said_whole(site: Site) -> None:
    """A call goes into the day's cap or beyond it: what remains of the day is no part of that."""
    site.restart(spendguard={"daily_cap_usd": "2.50"})
    submit = ("Billing", "--n", "3", "--run-id", "r", "--workers", "1")
    site.luigi(*submit)
    wait_for(site, "$0.50 remaining is not enough; `spendguard top-up r 1.00 --day` lets run r pass it")
    assert site.cli("top-up", "r", "1.00", "--day")[0] == 0
    assert (site.luigi(*submit)[0], site.stripe.moved()) == (0, 300)


def test_calls_in_doubt_and_their_end_are_said(site: Site) -> None:
    case = Case(site)
    doubt = case.doubted()
    wait_for(
        site, f"Run {case.run_id}: 1 call is in doubt, $2.00 may have been spent: `spendguard calls --run"
    )
    assert site.cli("resolve", doubt, "--spent", "1.50")[0] == 0
    wait_for(site, f"Run {case.run_id}: call {doubt}")
    wait_for(site, "is resolved as spent $1.50, by an operator at 127.0.0.1")


def test_more_calls_in_doubt_are_said_with_all_that_are(site: Site) -> None:
    case = Case(site)
    case.doubted()
    wait_for(site, f"Run {case.run_id}: 1 call is in doubt, $2.00 may have been spent: `spendguard calls")
    case.doubted(target="cus_other")
    more = "1 more call is in doubt, $2.00 may have been spent; in all 2 calls, $4.00: `spendguard calls"
    wait_for(site, f"Run {case.run_id}: {more}")


def test_an_approval_is_said(site: Site) -> None:
    site.restart(spendguard={"forecast": "hold"})
    site.luigi("Stages", "--n", "2", "--budget-usd", "1", "--run-id", "r", module=STAGED)
    assert site.cli("approve", "r", "--forecast", "4")[0] == 0
    wait_for(site, "Run r: a forecast of $4.00 is approved, by an operator at 127.0.0.1")


def test_what_happened_before_a_start_is_no_news(full: Site) -> None:
    wait_for(full, "cap of $1.00 reached")
    full.restart()
    full.cli("top-up", "r", "1")
    wait_for(full, "Run r is topped up by $1.00")
    assert said(full).count("is opened with a cap") == 1
