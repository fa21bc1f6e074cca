"""Allowlists and prices that name what a vendor does not have: never one that it has, in whatever form."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

import pytest

from luigi_spendguard.money import Micros
from luigi_spendguard.settings import VendorSettings
from luigi_spendguard.vendors.misspelt import overlaps
from luigi_spendguard.vendors.registry import VENDORS
from tests.support.processes import REPOSITORY

DATA = REPOSITORY / "tests" / "unit" / "data"
LISTS = {
    "stripe": "stripe_operations.txt",
    "twilio": "twilio-operations.txt",
    "resend": "resend-operations.txt",
}


def writes(vendor: str) -> Iterator[str]:
    """Yield every operation of a vendor's own description that writes, as a method and a path."""
    for line in (DATA / LISTS[vendor]).read_text("utf-8").splitlines():
        found = re.search(r"\b(POST|PUT|PATCH|DELETE) (\S+)(?: (/\S*))?", line)
        if found and not line.startswith("#"):
            method, first, rest = found.groups()
            path = f"/{first}{rest}" if rest else first
            yield f"{method} {path}"


@pytest.mark.parametrize("vendor", LISTS)
def test_no_operation_of_the_vendors_own_description_is_taken_for_a_misspelt_one(vendor: str) -> None:
    lines = list(writes(vendor))
    assert len(lines) > 70
    ids = [re.sub(r"\{\w+\}", "Id0", line) for line in lines]
    stars = [re.sub(r"\{\w+\}", "*", line) for line in lines]
    assert [line for line in ids + stars if VENDORS[vendor].lacks(line)] == []


@pytest.mark.parametrize(
    ("vendor", "named"),
    [
        ("stripe", "payment_intents.create"),
        ("stripe", "POST /v1/payment_intents/*"),
        ("stripe", "POST /v1/*"),
        ("stripe", "POST /v1/refunds/re_1/cancel"),
        ("stripe", "GET /v1/whatever/there/is"),
        ("stripe", "POST /v1/ephemeral_keys"),
        ("twilio", "messages.create"),
        ("twilio", "messages.list"),
        ("twilio", "POST /*"),
        ("twilio", "POST /api.dublin.ie1.twilio.com/2010-04-01/Accounts/*/Messages.json"),
        ("resend", "emails.send"),
        ("resend", "emails.get"),
        ("resend", "POST /emails/*/cancel"),
    ],
)
def test_what_may_be_meant_is_left_alone(vendor: str, named: str) -> None:
    assert VENDORS[vendor].lacks(named) == ""


@pytest.mark.parametrize(
    ("vendor", "named", "near"),
    [
        ("stripe", "payment_intent.create", "payment_intents.create"),
        ("stripe", "POST /v1/payment_intent", "POST /v1/payment_intents"),
        ("stripe", "POST /v1/payment_intent/*", "POST /v1/payment_intents"),
        ("stripe", "DELETE /v1/payment_intents/*", "DELETE /v1/"),
        ("twilio", "message.create", "messages.create"),
        (
            "twilio",
            "POST /api.twilio.com/2010-04-01/Accounts/AC1/Message.json",
            "POST /api.twilio.com/2010-04-01/Accounts/{id}/Messages.json",
        ),
        ("resend", "email.send", "emails.send"),
        ("resend", "POST /email", "POST /emails"),
    ],
)
def test_what_is_misspelt_is_named_with_the_nearest(vendor: str, named: str, near: str) -> None:
    why = VENDORS[vendor].lacks(named)
    assert why.startswith(f"'{named}' is no ")
    assert f": did you mean {near}" in why


def test_what_resembles_nothing_is_named_alone() -> None:
    assert VENDORS["resend"].lacks("q.q") == "'q.q' is no operation of resend's that is known"


def test_a_section_says_all_that_is_wrong_with_it_once() -> None:
    settings = VendorSettings(
        "stripe",
        allowed_endpoints=("payment_intents.create", "chargs.create"),
        prices={"subscription.create": Micros(5), "payment_links.create": Micros(5)},
    )
    first, second = VENDORS["stripe"].problems(settings)
    assert first.startswith("[spendguard_stripe] prices gives a fixed price to subscription.create")
    assert second.startswith("[spendguard_stripe] allowed_endpoints: 'chargs.create' is no operation")
    assert (
        list(VENDORS["twilio"].problems(VendorSettings("twilio", prices={"recordings.fetch": Micros(1)})))
        == []
    )


@pytest.mark.parametrize(
    ("pattern", "line", "meets"),
    [
        ("POST /a/*", "POST /a/{id}", True),
        ("POST /a/*", "POST /a/{id}/b", True),
        ("POST /a/x_1/b", "POST /a/{id}/b", True),
        ("POST /a//b", "POST /a/{id}/b", False),
        ("POST /a/x/y/b", "POST /a/{id}/b", False),
        ("POST /a/x*", "POST /a/{id}/b", True),
        ("POST /*/b", "POST /a/{id}/b", True),
        ("POST /*/c", "POST /a/{id}/b", False),
        ("POST /a/?/b", "POST /a/{id}/b", True),
        ("POST /[ab]/x/b", "POST /a/{id}/b", True),
        ("POST /a", "POST /a/{id}", False),
        ("POST /a/x", "POST /a", False),
    ],
)
def test_a_pattern_meets_a_line_where_a_request_matches_both(pattern: str, line: str, meets: bool) -> None:
    assert overlaps(pattern, line) is meets


def test_no_pattern_keeps_luigid_busy() -> None:
    begun = time.process_time()
    for pattern in ("POST /" + "*" * 240, "POST /" + "*a" * 120, "POST /" + "*a" * 8):
        VENDORS["twilio"].lacks(pattern)
    assert time.process_time() - begun < 10


def test_a_fixed_price_of_what_is_misspelt_names_the_nearest() -> None:
    settings = VendorSettings("stripe", prices={"payment_linkz.create": Micros(1)})
    said = next(VENDORS["stripe"].problems(settings))
    assert "to payment_linkz.create, which is no operation: did you mean payment_links.create" in said


@pytest.mark.parametrize(
    ("vendor", "named", "meant"),
    [
        ("stripe", "payment_intent.create", "payment_intents.create"),
        ("twilio", "message.create", "messages.create"),
        ("resend", "email.send", "emails.send"),
    ],
)
def test_the_nearest_is_named_also_where_it_takes_no_fixed_price(vendor: str, named: str, meant: str) -> None:
    said = next(VENDORS[vendor].problems(VendorSettings(vendor, prices={named: Micros(1)})))
    assert f": did you mean {meant} (which takes no fixed price)" in said
    assert "takes no" not in VENDORS[vendor].lacks(named)  # An allowlist may name it.
