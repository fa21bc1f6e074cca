"""Reports of a real luigid-spendguard, over HTTP and by `spendguard report`; tags of roots on their way."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from typing import Any

import pytest
import stripe

from tests.support.asking import send
from tests.support.attempts import Pretender
from tests.support.site import Site

PIPELINE = """
import luigi, stripe
from luigi_spendguard import VendorTask

class Pay(VendorTask, luigi.Task):
    def run(self):
        stripe.PaymentIntent.create(amount=300, currency="usd", customer="cus_1")
        with self.output().open("w") as out:
            out.write("paid")

    def output(self):
        return luigi.LocalTarget("paid.txt")

class Billing(luigi.WrapperTask):
    run_id = "monday"

    @property
    def spend_tags(self):
        return {TAGS}

    def requires(self):
        return Pay()
"""


def pay(site: Site, run_id: str, cents: int, customer: str = "cus_1") -> None:
    with Pretender(site, run_id, f"Charge_{run_id}").attempt():
        stripe.PaymentIntent.create(amount=cents, currency="usd", customer=customer)


def built(site: Site, tags: str) -> str:
    """Run the pipeline with a root of these tags; return what its worker says."""
    (site.folder / "tagged.py").write_text(PIPELINE.replace("{TAGS}", tags))
    return site.worker("Billing", module="tagged").communicate(timeout=120)[0]


def said(site: Site, *command: str) -> str:
    code, out, err = site.cli("report", *command)
    assert (code, err) == (0, ""), err
    return out


def found(site: Site, path: str) -> Any:
    answer = send(site, "GET", path)
    assert answer.status == 200, answer.json
    return answer.json


def test_before_the_first_run_a_report_has_no_rows(site: Site) -> None:
    assert found(site, "/reports/cost")["rows"] == []
    assert found(site, "/reports/days?since=2026-01-01T00:00:00Z")["series"] == []
    assert said(site, "cost") == "Nothing was booked then.\n"
    assert not site.ledger.exists(), "looking makes no ledger"


def test_a_report_says_the_same_in_every_form(site: Site) -> None:
    site.restart(spendguard_tags={"Root": "team: billing, cost_centre: 4711"})
    pay(site, "one", 300)
    pay(site, "two", 500, "cus_2")
    table = said(site, "cost", "--by", "customer")
    assert [line.split()[:3] for line in table.splitlines()[1:3]] == [
        *(["cus_2", "$5.00", "1"], ["cus_1", "$3.00", "1"])
    ]
    assert table.endswith("Total: $8.00 spent in 2 calls.\n")
    told = json.loads(said(site, "cost", "--by", "tag:team", "--format", "json"))
    assert told == found(site, "/reports/cost?by=tag:team&limit=10000")
    assert [(row["name"], row["spent_usd"]) for row in told["rows"]] == [("billing", "8.00")]
    rows = list(csv.DictReader(io.StringIO(said(site, "cost", "--format", "csv", "--compare"))))
    assert [(row["name"], row["spent_usd"], row["before_usd"]) for row in rows] == [
        *(("two", "5.00", "3.00"), ("one", "3.00", ""))
    ]
    assert site.run("one")["tags"] == {"cost_centre": "4711", "team": "billing"}
    assert "tags       cost_centre: 4711, team: billing" in site.cli("run", "one")[1]
    assert site.calls("one")[0]["tags"] == site.run("one")["tags"]
    assert "$5.00" in said(site, "cost", "--by", "run", "--run", "two")
    assert said(site, "denied") == "Nothing was denied.\n"
    assert said(site, "forecast").splitlines()[1].split()[:2] == ["two", "$5.00"]


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["cost", "--since", "2099-01-01"], "the period begins in the future, on 2099-01-01"),
        (["cost", "--since", "2026-02-01", "--until", "2026-01-01"], "the period ends before it begins"),
        (["cost", "--by", "week"], "'by' must be one of run, root, task"),
        (["cost", "--by", "tag:nobodys"], "no run has a tag nobodys"),
        (["denied", "--run", "nobodys"], "nobodys"),
        (["cost", "--by", "vendor", "--compare"], "compare with what?"),
    ],
)
def test_what_no_report_can_be_of_is_one_sentence(site: Site, command: list[str], words: str) -> None:
    pay(site, "one", 100)
    code, out, err = site.cli("report", *command)
    assert (code, out, words in err, err.count("\n")) == (1, "", True, 1), err


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/reports/cost?by=week", 400),
        ("/reports/cost?of=run", 400),
        ("/reports/denied?by=run", 400),
        ("/reports/days?split=customer", 400),
        ("/reports/profit", 404),
        ("/reports/", 404),
    ],
)
def test_what_is_not_known_is_refused(shared_site: Site, path: str, status: int) -> None:
    answer = send(shared_site, "GET", path)
    assert (answer.status, "error" in answer.json) == (status, True)


@pytest.mark.parametrize(
    ("tags", "kept"),
    [
        ("{'team': 'own', 'ticket': 12}", {"team": "own", "ticket": "12", "cost_centre": "4711"}),
        ("None", {"team": "billing", "cost_centre": "4711"}),
        (
            "{'key': 'sk_live_abcdefghijklmnop'}",
            {"team": "billing", "cost_centre": "4711", "key": "[redacted]"},
        ),
    ],
)
def test_a_roots_own_tags_go_before_those_of_its_family(
    site: Site, tags: str, kept: Mapping[str, str]
) -> None:
    site.restart(spendguard_tags={"Billing": "team: billing, cost_centre: 4711"})
    out = built(site, tags)
    assert site.run("monday")["tags"] == kept, out
    assert site.stripe.posts()


def test_tags_that_are_none_open_no_run(site: Site) -> None:
    out = built(site, "{'Team': 'x'}")
    assert "Billing.spend_tags has a tag named 'Team': a name is 1 to 40 characters of a-z, 0-9 and _" in out
    assert not site.stripe.posts()
