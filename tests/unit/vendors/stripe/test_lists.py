"""In which list is looked for what a call in doubt has made, and what is taken for that."""

from __future__ import annotations

import json
from typing import Any

import pytest

from luigi_spendguard.vendors.model import Reply
from luigi_spendguard.vendors.stripe.lists import _LISTS, MARGIN_S, Search
from luigi_spendguard.vendors.stripe.operations import OPERATIONS
from luigi_spendguard.vendors.stripe.tags import TAG, tag_of, takes_tag

AT_S = 1_700_000_000
SPAN = (AT_S * 1000, AT_S * 1000 + 60_000)
TIME = f"created%5Bgte%5D={AT_S - MARGIN_S}&created%5Blte%5D={AT_S + 60 + MARGIN_S}&"


def made(name: str, created: int = AT_S, tag: str = tag_of("key"), **more: Any) -> dict[str, Any]:
    return {"id": name, "created": created, "metadata": {TAG: tag}, **more}


def read(path: str, *objects: dict[str, Any], **more: Any) -> tuple[dict[str, Reply], str, int]:
    body = {"data": list(objects), "has_more": False, **more}
    return Search(path, {}, SPAN).read(Reply(200, {}, json.dumps(body).encode()), tag_of("key"))


def test_all_that_has_a_tag_and_a_price_of_its_own_has_a_list() -> None:
    tagged = {
        one.address for one in OPERATIONS if one.rule not in ("free", "unpriced") and takes_tag(one, {})
    }
    assert tagged == {*_LISTS}


@pytest.mark.parametrize(
    ("path", "params", "query"),
    [
        ("/v1/charges", {"customer": "cus_1"}, f"/v1/charges?customer=cus_1&{TIME}limit=100"),
        ("/v1/transfers/tr_1/reversals", {}, "/v1/transfers/tr_1/reversals?limit=100"),
        ("/v1/charges/ch_1/refunds", {}, f"/v1/refunds?charge=ch_1&{TIME}limit=100"),
        (
            "/v1/charges/ch_1/refund",
            {"payment_intent": "pi_1"},
            f"/v1/refunds?charge=ch_1&expand%5B0%5D=data.charge&{TIME}limit=100",
        ),
        (
            "/v1/customers/cus_1/subscriptions",
            {},
            f"/v1/subscriptions?customer=cus_1&status=all&{TIME}limit=100",
        ),
        (
            "/v1/subscription_items",
            {"subscription": "sub_1"},
            "/v1/subscription_items?subscription=sub_1&limit=100",
        ),
        ("/v1/subscription_items", {}, None),
        ("/v1/payment_intents/pi_1/capture", {}, None),
        ("/v1/no_such_thing", {}, None),
    ],
)
def test_a_list_is_asked_for_as_stripe_has_it(path: str, params: dict[str, str], query: str | None) -> None:
    assert Search(path, params, SPAN).page("") == query


def test_the_next_page_begins_behind_an_object() -> None:
    page = Search("/v1/transfers/tr_1/reversals", {}, SPAN).page("trr_1")
    assert page == "/v1/transfers/tr_1/reversals?limit=100&starting_after=trr_1"


def test_what_was_made_at_another_time_is_a_copy() -> None:
    """Where the list takes no time, all that was ever made there is in it."""
    own, late = made("si_1"), made("si_2", AT_S + MARGIN_S + 61)
    early, others = made("si_3", AT_S - MARGIN_S - 1), made("si_4", tag=tag_of("another"))
    found, after, seen = read("/v1/subscription_items", late, own, others, early)
    assert ([*found], after, seen) == (["si_1"], "", 4)


def test_a_refund_that_is_answered_with_its_charge_is_found_by_its_own_id() -> None:
    found, _, _ = read("/v1/charges/ch_1/refund", made("re_1", charge={"id": "ch_1", "object": "charge"}))
    assert json.loads(found["re_1"].body)["id"] == "ch_1"
    with pytest.raises(ValueError, match="not shown"):
        read("/v1/charges/ch_1/refund", made("re_1", charge="ch_1"))


@pytest.mark.parametrize(
    "wrong",
    [{"data": {}}, {"has_more": None}, {"has_more": True, "data": []}, {"has_more": True, "data": [{}]}],
)
def test_what_is_cut_off_is_no_page(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"no list|not named"):
        read("/v1/charges", made("ch_1"), **wrong)
