"""Every operation of Stripe's own list that changes something is classified, once."""

from __future__ import annotations

import contextlib
import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luigi_spendguard.config import VendorSettings
from luigi_spendguard.errors import SpendDenied
from luigi_spendguard.money import Micros
from luigi_spendguard.vendors import Quote, Reply, Request
from luigi_spendguard.vendors.registry import flows
from luigi_spendguard.vendors.stripe import Stripe
from luigi_spendguard.vendors.stripe import operations as listed
from luigi_spendguard.vendors.stripe.operations import (
    PRICEABLE,
    RULE_OF,
    find_operation,
    hands_out_credentials,
)
from luigi_spendguard.vendors.stripe.request import host_of
from luigi_spendguard.vendors.stripe.rules import RULES
from tests.support.tables import each
from tests.unit import DATA

_LINES = (DATA / "stripe_operations.txt").read_text("utf-8").splitlines()
OPERATIONS = [line for line in _LINES if not line.startswith("#")]


def concrete(line: str) -> tuple[str, str]:
    """Return method and path with an id in every place for one."""
    method, path = line.split(" ", 1)
    return method, re.sub(r"\{\w+\}", "id_1", path)


def found(line: str, body: bytes = b"", **settings: object) -> Quote:
    method, path = concrete(line)
    request = Request(
        method, host_of(method, path) + path, {"content-type": "application/x-www-form-urlencoded"}, body
    )
    return Stripe().quote(request, VendorSettings("stripe", **settings), "sk_test_x", {})


def reason(line: str, **settings: object) -> str | None:
    """Return why an operation is denied, None when it is priced."""
    try:
        found(line, **settings)
    except SpendDenied as denied:
        return denied.reason
    return None


def rule_of(line: str) -> str:
    at = find_operation(*concrete(line))
    return at[0].rule if at else ""


def test_the_list_is_long() -> None:
    assert len(OPERATIONS) > 370


@each(OPERATIONS)
def test_every_operation_is_classified_once(line: str) -> None:
    method, path = concrete(line)
    assert bool(rule_of(line)) != hands_out_credentials(f"{method} {path}", {}), line


def test_nothing_is_classified_twice_or_unknown_to_stripe() -> None:
    said = [
        (one.method, tuple(re.sub(r"\{\w+\}", "{}", part) for part in one.parts)) for one in listed.OPERATIONS
    ]
    assert len(said) == len(set(said))
    known = {re.sub(r"\{\w+\}", "{id}", line) for line in OPERATIONS}
    unknown = {one.address for one in listed.OPERATIONS} - known
    assert not unknown


@each(sorted(RULE_OF))
def test_a_name_has_one_rule_and_can_be_written_in_an_allowlist(operation: str) -> None:
    assert len({one.rule for one in listed.OPERATIONS if one.name == operation}) == 1
    assert re.fullmatch(r"[a-z0-9_]+(\.[a-z0-9_]+)+", operation)


UNPRICED = [line for line in OPERATIONS if rule_of(line) == "unpriced"]
FREE = [line for line in OPERATIONS if rule_of(line) == "free"]
CREDENTIALS = [" ".join(concrete(line)) for line in OPERATIONS if not rule_of(line)]


@each(UNPRICED)
def test_what_has_no_bound_is_denied_unless_it_has_a_fixed_price(line: str) -> None:
    assert reason(line) == "unpriced"
    operation = find_operation(*concrete(line))[0].name
    quote = found(line, prices={operation: Micros(7)})
    assert (quote.total_micros, quote.fixed, quote.object_id) == (7, True, None)


@each(FREE)
def test_what_is_free_costs_nothing_and_changes_no_object(line: str) -> None:
    quote = found(line)
    assert (quote.total_micros, quote.free, quote.object_id, quote.look_up) == (0, True, None, False)


@each(line for line in OPERATIONS if rule_of(line) not in ("", "free", "unpriced"))
def test_what_has_a_rule_never_passes_for_nothing_by_an_empty_body(line: str) -> None:
    """It is looked up, counted on an object, or denied; what ends something is free."""
    if why := reason(line):
        assert why == "unpriced"
        return
    quote = found(line)
    nothing = quote.total_micros == 0 and not quote.look_up
    assert not nothing or quote.only_less or "nothing" in RULES[rule_of(line)].quoted


@each([*CREDENTIALS, "GET /v1/apps/secrets/find", "DELETE /v1/ephemeral_keys/ek_1", "POST /oauth/token"])
def test_what_hands_out_credentials_is_denied_unless_listed_exactly(line: str) -> None:
    family = f"{line.split()[0]} /{line.split('/')[1]}/*"
    assert reason(line) == "endpoint"
    assert reason(line, allowed_endpoints=(family, "* *")) == "endpoint"
    assert reason(line, allowed_endpoints=(line,)) is None


@pytest.mark.parametrize(
    "query",
    [
        "/v1/issuing/cards/ic_1?expand[]=number",
        "/v1/issuing/cards/ic_1?expand[0]=cvc",
        "/v2/core/event_destinations/ed_1?include[]=webhook_endpoint.signing_secret",
    ],
)
def test_a_get_that_asks_for_what_is_hidden_is_denied(query: str) -> None:
    assert reason(f"GET {query}") == "endpoint"


def test_a_preview_is_read_anew_each_time() -> None:
    assert found("POST /v1/invoices/create_preview").read
    assert sum(found(line).read for line in FREE) == 1


@each(sorted({line.split(" ")[1] for line in OPERATIONS}))
def test_reading_is_free(path: str) -> None:
    assert reason(f"GET {path}") in (None, "endpoint")


@pytest.mark.parametrize("method", ["PUT", "PATCH", "HEAD", "OPTIONS", "post", "get", "TRACE"])
def test_a_method_that_stripe_does_not_use_is_denied(method: str) -> None:
    assert reason(f"{method} /v1/payment_intents") == "unpriced"


@pytest.mark.parametrize("path", ["/v1/payment_intents/pi_1/teleport", "/v1/new_money", "/v3/charges", "/v1"])
def test_what_is_in_no_table_is_denied(path: str) -> None:
    assert reason(f"POST {path}") == "unpriced"


def test_an_allowlist_narrows_what_is_priced() -> None:
    body = b"amount=100&currency=usd"
    listed = ("payment_intents.create", "GET /v1/*")
    assert found("POST /v1/payment_intents", body, allowed_endpoints=listed).total_micros == 1_000_000
    assert reason("POST /v1/charges", allowed_endpoints=listed) == "endpoint"
    assert reason("GET /v1/charges/ch_1", allowed_endpoints=listed) is None


@pytest.mark.parametrize(
    "name", ["payment_intents.create", "refunds.create", "payouts.cancel", "teleports.create"]
)
def test_a_fixed_price_of_what_names_its_own_amount_or_is_unknown_is_one_clear_error(name: str) -> None:
    assert name not in PRICEABLE
    why = "its own amount" if name in RULE_OF else "no operation"
    with pytest.raises(SpendDenied, match=f"{re.escape(name)}, which .*{why}"):
        found("POST /v1/products", prices={name: Micros(1)})


_NAMES = (
    "id",
    "object",
    "amount",
    "amount_due",
    "amount_paid",
    "amount_remaining",
    "currency",
    "status",
    "lines",
    "data",
    "parent",
    "deleted",
    "captured",
    "amount_total",
    "original_payout",
    "invoice_item_details",
)
_WORDS = ("pi_1", "payment_intent", "invoice", "usd", "draft", "paid", "refund", "checkout.session", "xxx")
_json = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 10**13) | st.sampled_from(_WORDS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(_NAMES), inner, max_size=9),
    max_leaves=25,
)


@given(
    body=st.dictionaries(st.sampled_from(_NAMES), _json),
    operation=st.sampled_from(sorted(RULE_OF)),
    object_id=st.sampled_from([None, "pi_1"]),
    minor=st.sampled_from([None, 5]),
)
def test_no_reply_breaks_the_guard_between_send_and_end(
    body: Any, operation: str, object_id: str | None, minor: int | None
) -> None:
    quote = Quote(operation, "stripe:test", "/v1/x", object_id=object_id, minor=minor, currency="usd")
    outcome = Stripe().outcome(quote, Reply(200, {}, json.dumps(body).encode()), resent=False, fx={})
    assert outcome.kind in ("settle", "doubt")
    assert (outcome.total_micros or 0) >= 0


@given(body=_json, path=st.sampled_from(sorted({" ".join(concrete(line)) for line in OPERATIONS})))
def test_no_looked_up_object_breaks_a_quote(body: Any, path: str) -> None:
    method, _, where = path.partition(" ")
    form = b"amount=5&charge=ch_1&invoice=in_1&customer=cus_1&items[0][price]=price_1&auto_advance=true"
    request = Request(
        method,
        host_of(method, where) + where,
        {"content-type": "application/x-www-form-urlencoded"},
        b"" if method == "DELETE" else form,
    )
    with contextlib.suppress(SpendDenied):
        quote = Stripe().quote(request, VendorSettings("stripe"), "sk_test_x", {})
        found = {at: Reply(200, {}, json.dumps(body).encode()) for at in quote.look_ups}
        if found:
            done = Stripe().complete(quote, request, found, VendorSettings("stripe"), {})
            assert (done.total_micros or 0) >= 0


def test_money_with_a_counterparty_is_marked() -> None:
    """What is refunded, paid out or transferred leaves; what is topped up or reversed comes back."""
    assert set(listed.FLOWS.values()) == {"inflow", "outflow"}
    outflow = {"refunds.create", "payouts.create", "transfers.create", "disputes.close"}
    assert {listed.FLOWS[one] for one in outflow} == {"outflow"}
    assert {listed.FLOWS[one] for one in ("topups.create", "transfers.reversals.create")} == {"inflow"}
    for address in ("payment_intents.create", "subscriptions.create", "charges.create"):
        assert address not in listed.FLOWS
    for one in listed.OPERATIONS:
        assert listed.FLOWS.get(one.name, "") == one.flow, one.address
    assert "stripe topups.create" in flows().inflow
    assert "stripe refunds.create" in flows().outflow
