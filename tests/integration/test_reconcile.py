"""`spendguard reconcile` with a real luigid and a vendor's process: what it prints, and books."""

from __future__ import annotations

import csv
import io
import json
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest

from luigi_spendguard.errors import LedgerUnavailable
from luigi_spendguard.ledger import reconciliations
from luigi_spendguard.settings.policy import moment
from tests.integration.test_gateway import form, raw
from tests.integration.test_resolved import Desk
from tests.support.asking import ADMIN, WORKER
from tests.support.site import Site


@pytest.fixture(scope="module")
def gateway(engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    said = {"admin_token": ADMIN, "worker_token": WORKER, "max_cap_usd": 5000}
    with Site(tmp_path_factory.mktemp("gateway"), gateway=True, spendguard=said) as site:
        yield site


@pytest.fixture
def desk(gateway: Site) -> Desk:
    # Of earlier tests' calls the look-alike has forgotten all; before the first one there is no ledger.
    with suppress(LedgerUnavailable), gateway.books(writes=True) as tx:
        tx.run("UPDATE call SET created_at = created_at - 864000000")
    return Desk(gateway, cap=50)


def reconcile(site: Site, *args: str) -> tuple[int, str, str]:
    until = str(moment(int(time.time() + 1) * 1000))
    return site.cli("reconcile", "stripe", "--until", until, *args, **site.secrets)


def found(site: Site, *args: str) -> tuple[int, dict[str, Any]]:
    """Return the exit code and what was printed of the one account."""
    code, out, err = reconcile(site, "--format", "json", *args)
    assert code in (0, 1), out + err
    [account] = json.loads(out)
    return code, account


def test_all_is_the_same_and_then_each_cent_is_explained_and_what_is_certain_is_booked(desk: Desk) -> None:
    site = desk.site
    for _ in range(3):
        assert desk.charge(desk.a) == 200
    code, account = found(site)
    assert (code, account["matched_usd"], account["differences"]) == (0, "3.00", [])
    assert account["apart"] == {"fee usd": {"lines": 3, "amount": 90}}

    foreign = desk.intent()
    desk.pay_on_page(foreign)
    unpaid = opened_by(desk)
    cancelled = opened_by(desk)
    desk.api.payment_intents.cancel(cancelled)
    in_doubt = desk.lost(desk.b, f"payment_intents/{unpaid}/confirm")
    code, account = found(site)
    causes = {one["cause"]: one for one in account["differences"]}
    assert (code, set(causes)) == (1, {"outside", "cancelled", "made"})
    assert (causes["outside"]["object"], causes["outside"]["vendor_only_usd"]) == (foreign, "1.00")
    assert (causes["cancelled"]["object"], causes["cancelled"]["ledger_only_usd"]) == (cancelled, "1.00")
    assert causes["made"]["call"] == in_doubt

    before = site.run(desk.a["run_id"])["spent_usd"]
    code, account = found(site, "--apply")
    assert {one["cause"]: one["applied"] for one in account["differences"]} == {
        "outside": "",
        "cancelled": "booked",
        "made": "booked",
    }
    assert (code, before, site.run(desk.a["run_id"])["spent_usd"]) == (1, "5.00", "4.00")
    assert site.run(desk.b["run_id"])["reserved_usd"] == "0.00"
    code, account = found(site)
    assert {one["cause"] for one in account["differences"]} == {"outside", "unconfirmed"}
    [action] = [
        one for one in site.call("GET", "/actions?kind=resolve", token=ADMIN)[1] if one["call_id"] == in_doubt
    ]
    assert action["actor"]
    assert site.cli("ledger", "check")[0] == 0


def opened_by(desk: Desk) -> str:
    """Let run `a` make an intent; return its id."""
    said = form(desk.a["vault_key"], **{"Idempotency-Key": uuid.uuid4().hex})
    body = f"amount=100&currency=usd&customer=cus_{uuid.uuid4().hex}"
    status, _, answer = raw(desk.site, "POST", "/stripe/v1/payment_intents", body.encode(), **said)
    assert status == 200, answer
    return str(json.loads(answer)["id"])


def test_a_lost_create_is_known_by_its_tag_and_answered_with_what_it_made(desk: Desk) -> None:
    """The call is repeated under its own key, and gets the object that was found."""
    body = f"amount=100&currency=usd&customer=cus_{uuid.uuid4().hex}"
    lost = desk.lost(desk.b, "payment_intents", "drop_after", name="own key", body=body)
    [made] = [one for one in desk.stripe.books()["objects"] if one.startswith("pi_")]
    _, account = found(desk.site, "--apply")
    [difference] = [one for one in account["differences"] if one["call"] == lost]
    assert (difference["cause"], difference["applied"]) == ("made", "booked")
    assert made in difference["reason"]
    assert desk.site.run(desk.b["run_id"])["reserved_usd"] == "0.00"
    [call] = [one for one in desk.site.calls(desk.b["run_id"]) if one["id"] == lost]
    assert (call["state"], call["object_id"], call["spent_usd"]) == ("settled", made, "1.00")
    assert desk.post(desk.b, "payment_intents", body, "own key") == 200
    assert len([one for one in desk.stripe.books()["objects"] if one.startswith("pi_")]) == 1


def test_what_is_booked_twice_counts_once(desk: Desk) -> None:
    made = opened_by(desk)
    desk.api.payment_intents.cancel(made)
    period = ("--since", "2h")
    assert found(desk.site, *period, "--apply")[0] == 0
    spent = desk.site.run(desk.a["run_id"])["spent_usd"]
    assert (found(desk.site, *period, "--apply")[0], spent) == (0, "0.00")
    assert desk.site.run(desk.a["run_id"])["spent_usd"] == "0.00"


def test_two_that_book_at_once_book_once(desk: Desk) -> None:
    made = [opened_by(desk) for _ in range(3)]
    for one in made[:2]:
        desk.api.payment_intents.cancel(one)
    lost = desk.lost(desk.b, f"payment_intents/{made[2]}/confirm")
    # Of two periods: each of one is compared by one process at a time.
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda hours: reconcile(desk.site, "--since", hours, "--apply"), ("2h", "3h")))
    assert all(code in (0, 1) and "Traceback" not in err for code, _, err in both)
    spent = [desk.site.run(key["run_id"]) for key in (desk.a, desk.b)]
    assert [(run["spent_usd"], run["reserved_usd"]) for run in spent] == [("1.00", "0.00"), ("0.00", "0.00")]
    with desk.site.books() as tx:
        said = tx.all("SELECT call_id FROM journal WHERE kind = 'operator'")
    times = Counter(row["call_id"] for row in said)
    calls = [one["id"] for one in desk.site.calls(desk.a["run_id"]) if one["object_id"] in made[:2]]
    assert [times[one] for one in (*calls, lost)] == [1, 1, 1]
    assert desk.site.cli("ledger", "check")[0] == 0


def test_it_prints_a_csv_and_a_table_without_the_secret(desk: Desk) -> None:
    desk.pay_on_page(desk.intent())
    code, out, err = reconcile(desk.site, "--format", "csv")
    [row] = csv.DictReader(io.StringIO(out))
    assert (code, row["cause"], row["vendor_only_usd"], row["currency"]) == (1, "outside", "1.00", "usd")
    code, table, err = reconcile(desk.site)
    assert code == 1
    assert "outside: $1.00 at stripe only" in table
    assert "stripe $1.00 = $0.00 in both + $1.00" in table
    assert not [one for one in desk.site.secrets.values() if one in table + err + out]


def test_what_luigid_has_found_at_night_is_shown(desk: Desk) -> None:
    site = desk.site
    code, out, err = site.cli("reconcile", "stripe", "--last")
    assert (code, "has not compared stripe yet" in out) == (0, True), err
    assert desk.charge(desk.a) == 200
    until = 20_000 * reconciliations.DAY_MS
    finding = reconciliations.NightFinding("stripe:test", 3, 1, 5_000_000, 0, {"outside": 1})
    with site.books(writes=True) as tx:
        reconciliations.keep(tx, "stripe", (until - reconciliations.DAY_MS, until), finding, "done")
    code, out, _ = site.cli("reconcile", "stripe", "--last")
    assert code == 0
    assert "1 difference of 3 payments (outside: 1), $5.00 at stripe only" in out
    code, out, _ = site.cli("reconcile", "stripe", "--last", "--format", "json")
    assert json.loads(out) == site.call("GET", "/reconciliations", token=ADMIN)[1]


def test_it_says_in_a_sentence_what_it_cannot_do(desk: Desk) -> None:
    site = desk.site
    code, _, err = site.cli("reconcile", "stripe", "--since", "2999-01-01", **site.secrets)
    assert (code, err.count("in the future")) == (2, 1)
    code, _, err = site.cli("reconcile", "stripe", "--since", "1h", "--until", "2h", **site.secrets)
    assert (code, "the period is empty" in err) == (2, True)
    code, _, err = reconcile(site, "--run", "none-such")
    assert (code, "there is no run none-such" in err) == (2, True)
    assert " is run " in reconcile(site, "--run", "@last")[2]
    code, _, err = reconcile(site, "--account", "stripe:live")
    assert (code, "none of the accounts" in err) == (2, True)
    code, _, err = site.cli("reconcile", "twilio")
    assert (code, "run this where [spendguard_twilio] secret is set" in err) == (2, True)


def test_what_a_vendor_refuses_is_said_in_its_words_and_not_gone_on_with(desk: Desk) -> None:
    desk.stripe.fault("status", status=400, match="GET /v1/refunds")
    code, _, err = reconcile(desk.site)
    assert (code, "refunds of stripe cannot be read: HTTP 400 (" in err) == (3, True)
    assert "goes on there" not in err


def test_what_luigid_has_found_is_shown_as_it_is(desk: Desk) -> None:
    for more in (("--apply",), ("--run", "march"), ("--until", "1h")):
        code, _, err = desk.site.cli("reconcile", "stripe", "--last", *more)
        assert (code, "--last compares nothing" in err) == (2, True)


def test_a_vendor_that_breaks_off_is_said_and_gone_on_with(desk: Desk) -> None:
    for _ in range(2):
        assert desk.charge(desk.a) == 200
    desk.stripe.fault("not_json", match="GET /v1/refunds")
    since, until = (str(moment(int(time.time() + one) * 1000)) for one in (-3600, 1))
    said = ("reconcile", "stripe", "--since", since, "--until", until, "--format", "json")
    code, _, err = desk.site.cli(*said, **desk.site.secrets)
    assert (code, "refunds of stripe: a page cannot be read" in err) == (3, True)
    assert f"spendguard reconcile stripe --since {since} --until {until}" in err
    code, out, _ = desk.site.cli(*said, **desk.site.secrets)
    assert (code, json.loads(out)[0]["matched_usd"]) == (0, "2.00")
    read = [one["path"] for one in desk.stripe.books()["requests"] if one["method"] == "GET"]
    assert read.count("/v1/charges") == 1
