"""The tag in the metadata of what a call makes: where it goes, how it is made, and how it is read."""

from __future__ import annotations

from typing import Any

import pytest

from luigi_spendguard.vendors import Request
from luigi_spendguard.vendors.bodies import read_groups
from luigi_spendguard.vendors.stripe.operations import LISTED, OPERATIONS
from luigi_spendguard.vendors.stripe.tags import MOST_KEYS, TAG, tag_in, tag_of, tagged, takes_tag
from tests.unit.vendors.stripe.test_vendor import FORM, quote

INTENT = "amount=100&currency=usd&customer=cus_1"


def test_one_key_has_one_tag_and_another_one_another() -> None:
    assert tag_of("spendguard-1") == tag_of("spendguard-1") != tag_of("spendguard-2")
    assert tag_in({"metadata": {TAG: tag_of("order-1")}}) == tag_of("order-1")


@pytest.mark.parametrize(
    "metadata",
    [None, "", [], {}, {TAG: None}, {TAG: 5}, {TAG: "A" * 32}, {TAG: "0" * 31}, {TAG: "0" * 32 + "\n"}],
)
def test_what_is_no_tag_of_ours_is_none(metadata: Any) -> None:
    assert tag_in({"metadata": metadata}) == ""
    assert tag_in({}) == ""


@pytest.mark.parametrize(
    ("more", "wanted"),
    [
        ("", True),
        ("&metadata[order]=7&metadata[a%20b]=c", True),
        ("&metadata%5Bspendguard_call%5D=mine", False),
        ("&metadata[spendguard_call]=", False),
        ("&metadata[Spendguard_Call]=mine", True),
        ("&metadata[spendguard_call2]=mine", True),
        ("".join(f"&metadata[k{n}]=v" for n in range(MOST_KEYS - 1)), True),
        ("".join(f"&metadata[k{n}]=v" for n in range(MOST_KEYS)), False),
        ("".join(f"&metadata[{n}]=v" for n in range(MOST_KEYS)), False),
        ("".join(f"&metadata[k{n}]=" for n in range(MOST_KEYS)), False),
        ("&shipping[name]=metadata&payment_method_data[metadata][a]=b", True),
    ],
)
def test_a_call_is_tagged_where_its_caller_has_left_room(more: str, wanted: bool) -> None:
    found = quote("/v1/payment_intents", INTENT + more)
    assert (found.taggable, found.tag) == (wanted, wanted)
    assert found.fingerprint == quote("/v1/payment_intents", INTENT).fingerprint


def test_an_empty_metadata_is_no_group() -> None:
    assert not quote("/v1/charges", INTENT + "&metadata=").taggable


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/payment_intents/pi_1", "amount=100"),
        ("/v1/payment_intents/pi_1/capture", ""),
        ("/v1/payment_intents/pi_1/increment_authorization", "amount=100"),
        ("/v1/payment_intents/pi_1/cancel", ""),
        ("/v1/payouts/po_1/reverse", ""),
        ("/v1/customers", "email=a@example.com"),
        ("/v1/products", "name=x"),
        ("/v1/refunds/re_1", "metadata[a]=b"),
    ],
)
def test_what_changes_an_object_or_moves_no_money_has_none(path: str, body: str) -> None:
    assert not quote(path, body).taggable


@pytest.mark.parametrize(
    ("body", "form"),
    [(INTENT, f"{INTENT}&"), (f"{INTENT}&metadata[a]=b", f"{INTENT}&metadata[a]=b&"), ("", "")],
)
def test_it_stands_behind_all_else_in_a_form_that_is_read_as_it_is_meant(body: str, form: str) -> None:
    request = Request("POST", "https://api.stripe.com/v1/charges", {}, body.encode())
    sent = tagged(request, "order-1")
    assert sent.body.decode() == f"{form}metadata[{TAG}]={tag_of('order-1')}"
    assert sent.headers == {"content-type": FORM}
    assert read_groups(sent.body.decode()) == {
        **read_groups(body),
        f"metadata[{TAG}]": tag_of("order-1"),
    }


def test_every_operation_that_makes_something_of_money_takes_it() -> None:
    """By the tables; whether a call of it counts for money its quote says."""
    money = {one.name for one in OPERATIONS if one.rule not in ("free", "unpriced") and takes_tag(one, {})}
    assert money == {
        "application_fees.refunds.create",
        "charges.create",
        "checkout.sessions.create",
        "credit_notes.create",
        "customers.balance_transactions.create",
        "customers.create",
        "invoiceitems.create",
        "invoices.create",
        "payment_intents.create",
        "payouts.create",
        "refunds.create",
        "subscription_items.create",
        "subscription_schedules.create",
        "subscriptions.create",
        "topups.create",
        "transfers.create",
        "transfers.reversals.create",
    }
    for one in OPERATIONS:
        if takes_tag(one, {}):
            assert one.method == "POST"
            assert not one.parts[-1].startswith("{")
            assert LISTED.line_of(one.address, ("metadata", TAG)) is not None
