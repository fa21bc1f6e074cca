"""Totals and what operators did, asked of a real luigid-spendguard."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
import stripe

from luigi_spendguard.errors import SpendDenied
from luigi_spendguard.http import ledger_client
from tests.support.asking import ASK, Case, send
from tests.support.attempts import Pretender
from tests.support.site import Site


def pay(case: Case, micros: int) -> str:
    ask = ASK | {"call_id": str(uuid.uuid4()), "target": uuid.uuid4().hex, "total_micros": micros}
    assert send(case.site, "POST", "/api/spend_reserve", ask, case.key).status == 200
    end = {"call_id": ask["call_id"], "total_micros": micros, "status": 200}
    assert send(case.site, "POST", "/api/spend_settle", end, case.key).status == 200
    return str(ask["call_id"])


def test_before_the_first_run_there_is_nothing(site: Site) -> None:
    assert send(site, "GET", "/actions").json == []
    found = send(site, "GET", "/totals").json
    assert (found["calls"], found["spent_usd"], found["by_vendor"]) == (0, "0.00", [])
    assert not site.ledger.exists(), "looking makes no ledger"


def test_actions_come_in_pages_and_totals_by_when_calls_were_made(site: Site) -> None:
    case = Case(site, "run")
    pay(case, 2_000_000)
    pay(case, 500_000)
    for number in range(3):
        site.call("POST", "/runs/run/top_up", {"usd": str(number + 1)})
    first = send(site, "GET", "/actions?limit=2")
    assert [one["usd"] for one in first.json] == ["3.00", "2.00"]
    before = first.headers["x-next-before"]
    rest = send(site, "GET", f"/actions?limit=2&before={before}")
    assert [one["usd"] for one in rest.json] == ["1.00"]
    assert "x-next-before" not in rest.headers
    found = send(site, "GET", "/totals?since=2020-01-01T00:00:00Z").json
    assert (found["runs"], found["calls"], found["spent_usd"]) == (1, 2, "2.50")
    assert send(site, "GET", "/totals?until=2020-01-01T00:00:00Z").json["calls"] == 0


@pytest.mark.parametrize(
    "path",
    ["/actions?kind=steal", "/actions?before=x", "/actions?of=run", "/totals?since=today", "/totals?run=run"],
)
def test_what_is_not_known_is_refused(shared_site: Site, path: str) -> None:
    answer: Any = send(shared_site, "GET", path)
    assert (answer.status, answer.json["error"]) == (400, "bad_request")


def test_a_call_that_a_killed_luigid_did_not_hear_of_is_on_record_with_its_vendor(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_client, "GIVE_UP_S", 0.5)
    sending = Pretender(site, "run")
    with sending.attempt():
        assert site.luigid is not None
        site.luigid.kill()
        with pytest.raises(SpendDenied):
            stripe.PaymentIntent.create(amount=100, currency="usd", customer="cus_1")
        site.start()
    [call] = site.calls("run")
    assert (call["verdict"], call["vendor"]) == ("denied:ledger_unavailable", "stripe")
    assert site.run("run")["vendors"] == ["stripe"]
    assert site.stripe.posts() == []
