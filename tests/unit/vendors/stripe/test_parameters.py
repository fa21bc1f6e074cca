"""Every parameter that the newest SDK can send is marked; what is not marked is refused, at any price."""

from __future__ import annotations

import json
import re
from collections import Counter

import pytest
import stripe

from luigi_spendguard.config import VendorSettings
from luigi_spendguard.errors import SpendDenied
from luigi_spendguard.money import Micros
from luigi_spendguard.vendors import Quote, Request
from luigi_spendguard.vendors.stripe import Stripe
from luigi_spendguard.vendors.stripe import operations as listed
from luigi_spendguard.vendors.stripe.request import PINNED, host_of
from tests.support import stripe_sdk
from tests.support.processes import REPOSITORY
from tests.support.tables import each
from tests.unit import DATA

_LINES = (DATA / "stripe_operations.txt").read_text("utf-8").splitlines()
OPERATIONS = {re.sub(r"\{\w+\}", "{id}", line) for line in _LINES if not line.startswith("#")}
SPECIFICATION = REPOSITORY / "tests" / "integration" / "data" / "stripe-v1-trimmed.openapi.json"
RULES = {one.address: one.rule for one in listed.OPERATIONS}
FORM, JSON = "application/x-www-form-urlencoded", "application/json"


def quote(line: str, body: str = "", version: str = PINNED, **settings: object) -> Quote:
    method, path = line.replace("{id}", "id_1").split(" ")
    headers = {"content-type": JSON if path.startswith("/v2/") else FORM, "stripe-version": version}
    if method == "DELETE":
        path, body = f"{path}?{body}" if body else path, ""
    request = Request(method, host_of(method, path) + path, headers, body.encode())
    return Stripe().quote(request, VendorSettings("stripe", **settings), "sk_test_x", {})


def refused(line: str, body: str, version: str = PINNED, **settings: object) -> str:
    """Return why a call is `unpriced`."""
    with pytest.raises(SpendDenied) as denied:
        quote(line, body, version, **settings)
    assert (denied.value.reason, denied.value.denial_status) == ("unpriced", 403)
    return denied.value.message


def test_every_operation_has_its_list() -> None:
    assert set(listed.LISTED.marks) == OPERATIONS


def test_the_newest_sdk_sends_nothing_that_is_not_marked() -> None:
    """`python -m tests.support.stripe_sdk` prints what is missing; the mark is made by hand."""
    missing, beyond = stripe_sdk.differences()
    assert missing == []
    assert len(beyond) < 100  # What older SDKs and the specification have.


#: What Stripe's specification still has of versions before ours, or for publishable keys alone.
GONE = {
    "alipay_account",
    "client_secret",
    "coupon",
    "default_alipay_account",
    "default_bank_account",
    "default_card",
    "promotion_code",
    "refund",
}


def test_every_operation_and_parameter_of_the_specification_is_marked() -> None:
    for path, methods in json.loads(SPECIFICATION.read_text("utf-8"))["paths"].items():
        for method in {"post", "delete"} & set(methods):
            address = f"{method.upper()} {re.sub('{[^}]*}', '{id}', path)}"
            content = methods[method].get("requestBody", {}).get("content", {})
            said = {name for kind in content.values() for name in kind["schema"].get("properties", {})}
            known = {one.partition("[")[0] for one in stripe_sdk.listed(address)}
            assert said - known <= GONE, address


def test_every_refusal_has_its_reason_and_no_parameter_two_marks() -> None:
    for address, lines in listed.LISTED.marks.items():
        names = Counter(name for line in lines for name in stripe_sdk.names_in(line.tree))
        assert [name for name, times in names.items() if times > 1] == [], address
        for line in lines:
            assert bool(line.why) is (line.mark in "=-" and RULES.get(address) != "unpriced"), address
            assert bool(line.values) is (line.mark == "="), address
            assert line.mark == "-" or RULES.get(address) != "unpriced", address


@each(sorted(OPERATIONS))
def test_what_is_not_listed_is_refused_at_any_price(address: str) -> None:
    path, fixed = address.split(" ")[1], {}
    body = '{"teleport": "1"}' if path.startswith("/v2/") else "teleport=1"
    if address not in RULES:
        line = address.replace("{id}", "id_1")
        assert "leave it out" in refused(address, body, allowed_endpoints=(line,))
        return
    if RULES[address] == "unpriced":
        fixed = {next(one.name for one in listed.OPERATIONS if one.address == address): Micros(5)}
    if address.startswith("DELETE /v2/"):
        body = "teleport=1"
    assert "'teleport': this version" in refused(address, body, prices=fixed)


@pytest.mark.parametrize(
    ("name", "mark"),
    [
        ("amount", "+"),
        ("amount[]", ""),
        ("amount[0]", ""),
        ("amount[a]", ""),
        ("metadata", ""),
        ("metadata[any]", "."),
        ("metadata[0]", "."),
        ("metadata[a][b]", ""),
        ("shipping[address][line1]", "."),
        ("shipping[address]", ""),
        ("payment_method_types[0]", "."),
        ("payment_method_types[]", "."),
        ("payment_method_types[x]", ""),
        ("payment_method_options[card][installments]", ""),
        ("payment_method_options[card][installments][plan]", "."),
        ("payment_method_options[card][installments][plan][count]", "."),
        ("mandate_data", "."),
        ("tax_percent", ""),
        ("", ""),
    ],
)
def test_a_name_is_matched_part_by_part(name: str, mark: str) -> None:
    line = listed.LISTED.line_of("POST /v1/payment_intents", listed.parts_of(name))
    assert (line.mark if line else "") == mark


class TestFixedPrices:
    """The operator's own price stands for whatever is known of an operation."""

    def test_what_is_refused_passes_at_one(self) -> None:
        body = "bill_for[unused_time_from][type]=now&invoicing_behavior=invoice"
        line = "POST /v1/subscriptions/{id}/pause"
        assert "invoice of now" in refused(line, body)
        price = {"subscriptions.pause": Micros(5_000_000)}
        assert quote(line, body, prices=price).total_micros == 5_000_000

    def test_the_message_offers_one_only_where_there_can_be_one(self) -> None:
        assert "`customers.create: 5`" in refused("POST /v1/customers", "balance=-5")
        body = "payment_intent=pi_1&refund_application_fee=true"
        assert "fixed price" not in refused("POST /v1/refunds", body)

    def test_json_is_read_as_well(self) -> None:
        line = "POST /v2/money_management/outbound_payments"
        price = {"v2.money_management.outbound_payments.create": Micros(5)}
        assert quote(line, '{"to": {"recipient": "acct_1"}}', prices=price).fixed
        assert "'to[sender]'" in refused(line, '{"to": {"sender": "acct_1"}}', prices=price)


class TestVersions:
    """A parameter may bill another amount in another version of the API."""

    FREE = "POST /v1/products"

    @pytest.mark.parametrize(
        "version", [PINNED, "2026-03-25.dahlia", "2026-09-30.endive", stripe.api_version]
    )
    def test_those_of_the_supported_sdks_are_taken(self, version: str) -> None:
        assert quote(self.FREE, "name=x", version).free

    @pytest.mark.parametrize(
        "version",
        [
            "",
            "2018-02-28",
            "2020-08-27",
            "2025-02-24.acacia",
            "2026-10-28.preview",
            "2027-04-28.fennel",
            f"{PINNED}; billing_beta=v1",
            f"{PINNED},{PINNED}",
            f" {PINNED}",
        ],
    )
    def test_another_one_is_refused_and_told_which(self, version: str) -> None:
        assert PINNED in refused(self.FREE, "name=x", version)

    def test_a_request_that_names_none_gets_ours(self) -> None:
        plain = Request("POST", "https://api.stripe.com/v1/products", {}, b"")
        assert Stripe().wire(plain, VendorSettings("stripe"), "sk", "").headers["stripe-version"] == PINNED
        read = Request("GET", "https://api.stripe.com/v1/products", {"stripe-version": "2018-02-28"}, b"")
        wire = Stripe().wire(read, VendorSettings("stripe"), "sk", "")
        assert wire.headers["stripe-version"] == "2018-02-28"

    def test_what_the_guard_looks_up_is_in_ours(self) -> None:
        asked = Request("POST", "https://api.stripe.com/v1/refunds", {"stripe-version": "2026-03-25.dahlia"})
        found = Stripe().look_up(Quote("", "", ""), asked, "/v1/charges/ch_1")
        assert found.headers["stripe-version"] == PINNED


def test_a_bracket_within_a_part_of_a_name_belongs_to_it() -> None:
    """Stripe reads such a name in another way than one without it: it is no parameter that is listed."""
    assert listed.parts_of("am]ount[cur]rency]") == ("am]ount", "cur]rency")
