"""Caps that are set in luigi.cfg while a run spends: at the vendor's books, what it spent before counts."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import stripe

from luigi_spendguard.errors import BudgetExceeded
from tests.integration.test_reload import hang_up
from tests.support.attempts import Pretender
from tests.support.pipelines import charge
from tests.support.processes import wait_until
from tests.support.site import Site

CAPS: dict[str, dict[str, dict[str, Any]]] = {
    "vendor": {"spendguard_stripe": {"run_cap_usd": 5}},
    "family": {"spendguard_family_caps": {"Charge": 5}},
    "day": {"spendguard": {"daily_cap_usd": 5}},
}


@pytest.fixture
def spending(tmp_path: Path) -> Iterator[Site]:
    with Site(tmp_path / "site") as site:
        yield site


def hung_up(site: Site, caps: dict[str, dict[str, Any]]) -> None:
    site.configure(**caps)
    assert "luigi.cfg was reloaded: [spendguard" in hang_up(site)


def restarted(site: Site, caps: dict[str, dict[str, Any]]) -> None:
    site.restart(**caps)


def figures(site: Site, scope: str) -> tuple[str, str, str, str]:
    """Return cap, spent, reserved and remaining of the run's budget of that scope, or of the day's."""
    if scope == "day":
        shown = site.call("GET", "/day", token=None)[1]
    else:
        [shown] = [each for each in site.run("later")["budgets"] if each["scope"] == scope]
    return shown["cap_usd"], shown["spent_usd"], shown["reserved_usd"], shown["remaining_usd"]


@pytest.mark.parametrize("scope", CAPS)
@pytest.mark.parametrize("reread", [hung_up, restarted], ids=["HUP", "restart"])
def test_a_cap_that_is_set_later_counts_what_is_spent_open_and_in_doubt(
    spending: Site,
    scope: str,
    reread: Callable[[Site, dict[str, dict[str, Any]]], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What was open then is settled in the budget that was made meanwhile, and resolved there."""
    site = spending
    monkeypatch.setattr(stripe, "max_network_retries", 0)
    with Pretender(site, "later").attempt():
        charge("cus_before")
        site.stripe.fault("drop_after")
        with pytest.raises(stripe.APIConnectionError):
            charge("cus_in_doubt")
        assert site.stripe.moved() == 200
        asked = len(site.stripe.posts())
        pending = threading.Thread(target=charge, args=("cus_pending",))
        with site.stripe.holding():
            pending.start()
            wait_until(lambda: len(site.stripe.posts()) > asked, what="sending")
            reread(site, CAPS[scope])
            assert figures(site, scope) == ("5.00", "1.00", "2.00", "2.00")
        pending.join()
        wait_until(lambda: figures(site, scope) == ("5.00", "2.00", "1.00", "2.00"), what="the settle")
        [doubtful] = [call for call in site.calls("later") if call["state"] == "in_doubt"]
        assert site.cli("resolve", doubtful["id"], "--spent", "1")[0] == 0
        assert figures(site, scope) == ("5.00", "3.00", "0.00", "2.00")
        charge("cus_4")
        charge("cus_5")
        with pytest.raises(BudgetExceeded):
            charge("cus_6")
    assert site.stripe.moved() == 500
    assert figures(site, scope) == ("5.00", "5.00", "0.00", "0.00")


@pytest.mark.parametrize("scope", CAPS)
def test_what_was_spent_while_a_cap_was_away_counts_when_it_is_back(spending: Site, scope: str) -> None:
    [(section, content)] = CAPS[scope].items()
    spending.restart(**CAPS[scope])
    with Pretender(spending, "later").attempt():
        charge("cus_1")
        spending.restart(**{section: dict.fromkeys(content)})
        for number in range(2, 6):
            charge(f"cus_{number}")
        hung_up(spending, CAPS[scope])
        assert figures(spending, scope) == ("5.00", "5.00", "0.00", "0.00")
        with pytest.raises(BudgetExceeded):
            charge("cus_6")
    assert spending.stripe.moved() == 500


def test_a_gate_dispatches_nothing_to_a_budget_that_was_spent_before_it_was_set(spending: Site) -> None:
    """Its tasks are blocked before a worker has one of them."""
    pretender = Pretender(spending, "later")
    with pretender.attempt("completed"):
        for number in range(5):
            charge(f"cus_{number}")
    hung_up(spending, CAPS["family"])
    said: dict[str, Any] = {"worker": pretender.worker, "task_id": "Charge_2", "family": "Charge"}
    pretender.rpc.add_task(**said, runnable=True, spendguard={"run_id": "later", "vendor": True})
    work = pretender.rpc.get_work(worker=pretender.worker, host="test", current_tasks=[])
    assert work["task_id"] is None
    assert spending.run("later")["blocked_tasks"] == {"family": 1}
