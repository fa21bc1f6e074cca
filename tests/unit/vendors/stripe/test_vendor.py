"""Stripe's adapter: what a request may cost at the most, whom it is about, what a reply says."""

from __future__ import annotations

import json
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from luigi_spendguard.config import VendorSettings
from luigi_spendguard.errors import SpendDenied
from luigi_spendguard.vendors import Outcome, Quote, Reply, Request
from luigi_spendguard.vendors.stripe import API_BASE, Stripe

FX = {"eur": Decimal("1.12"), "jpy": Decimal("0.0072"), "kwd": Decimal("3.25")}
FORM = "application/x-www-form-urlencoded"
MADE_UP = "0f8fad5b-d9cb-469f-a165-70867728950e"


def quote(
    path: str, body: str = "", method: str = "POST", secret: str = "sk_test_x", **headers: str
) -> Quote:
    url = path if "://" in path else API_BASE + path
    named = {name.replace("_", "-"): value for name, value in {"content_type": FORM, **headers}.items()}
    return Stripe().quote(Request(method, url, named, body.encode()), VendorSettings("stripe"), secret, FX)


def denied(path: str, body: str = "", **more: str) -> str:
    with pytest.raises(SpendDenied) as caught:
        quote(path, body, **more)
    return caught.value.reason


class TestQuotes:
    @pytest.mark.parametrize(
        ("body", "micros"),
        [
            ("amount=100&currency=usd", 1_000_000),
            ("amount=100&currency=USD", 1_000_000),
            ("amount=0&currency=usd", 0),
            ("amount=333&currency=eur", 3_729_600),
            ("amount=500&currency=jpy", 3_600_000),
            ("amount=1000&currency=kwd", 3_250_000),
            ("amount=1&currency=jpy", 7_200),
        ],
    )
    def test_an_amount_is_quoted_in_its_currencys_own_unit(self, body: str, micros: int) -> None:
        assert quote("/v1/payment_intents", body).total_micros == micros
        assert quote("/v1/charges", body).total_micros == micros

    def test_a_currency_without_a_rate_is_denied(self) -> None:
        assert denied("/v1/payment_intents", "amount=1&currency=gbp") == "currency"

    @pytest.mark.parametrize(
        "amount", ["-1", "1.5", "1e3", "", "0x10", "%20100", "100%20", "+100", "9" * 13, "NaN", "%D9%A1"]
    )
    def test_an_amount_that_is_no_whole_number_is_denied(self, amount: str) -> None:
        assert denied("/v1/payment_intents", f"amount={amount}&currency=usd") == "unpriced"

    @pytest.mark.parametrize("body", ["", "amount=100", "currency=usd", "amount[]=1&currency=usd"])
    def test_without_amount_and_currency_nothing_is_opened(self, body: str) -> None:
        assert denied("/v1/payment_intents", body) == "unpriced"

    @pytest.mark.parametrize(
        "body",
        [
            "amount=1&amount=999&currency=usd",
            "amount=1&am%6Funt=999&currency=usd",
            "amount=1&amount[x]=999&currency=usd",
            "amount=1&currency=usd&currency=eur",
            "amount=1;amount=999&currency=usd",
            "amount=1&currency=usd&broken",
        ],
    )
    def test_a_form_that_can_be_read_in_two_ways_is_denied(self, body: str) -> None:
        assert denied("/v1/payment_intents", body) == "unpriced"

    def test_a_body_that_is_no_form_is_denied(self) -> None:
        json_body = '{"amount": 1, "currency": "usd"}'
        assert denied("/v1/payment_intents", json_body, content_type="application/json") == "unpriced"

    @pytest.mark.parametrize("path", ["/v1/issuing/cards/ic_1", "/v1/balance", "/v1/payment_intents"])
    def test_a_body_on_a_get_is_denied(self, path: str) -> None:
        """What it asks for is read by nobody here: in a query it would be refused."""
        assert quote(path, method="GET").read
        assert denied(path, "expand[]=number&expand[]=cvc", method="GET") == "unpriced"

    @pytest.mark.parametrize(
        ("coding", "passes"),
        [
            ("gzip", False),
            ("deflate", False),
            ("gzip, identity", False),
            ("x", False),
            ("identity", True),
            ("Identity", True),
        ],
    )
    def test_a_body_in_a_coding_is_denied(self, coding: str, passes: bool) -> None:
        asked = ("/v1/payment_intents", "amount=100&currency=usd")
        if passes:
            assert quote(*asked, content_encoding=coding).total_micros == 1_000_000
        else:
            assert denied(*asked, content_encoding=coding) == "unpriced"

    def test_a_query_string_on_what_spends_is_denied(self) -> None:
        assert denied("/v1/payment_intents?amount=900", "amount=1&currency=usd") == "unpriced"

    @pytest.mark.parametrize(
        "body", ["balance=-500", "coupon=half", "plan=gold", "trial_end=now", "account_balance=1"]
    )
    def test_money_in_a_customer_is_denied(self, body: str) -> None:
        assert denied("/v1/customers", body) == "unpriced"
        assert denied("/v1/customers/cus_1", body) == "unpriced"

    def test_a_capture_of_a_part_asks_for_the_object_first(self) -> None:
        found = quote("/v1/payment_intents/pi_1/capture", "amount_to_capture=100")
        assert (found.look_up, found.total_micros, found.object_id) == (True, None, "pi_1")
        assert not quote("/v1/payment_intents/pi_1/capture").look_up

    def test_an_update_of_the_amount_is_priced_and_one_of_the_currency_alone_is_not(self) -> None:
        found = quote("/v1/payment_intents/pi_1", "amount=500&currency=usd")
        assert found.total_micros == 5_000_000
        assert denied("/v1/payment_intents/pi_1", "currency=eur") == "unpriced"

    @pytest.mark.parametrize(
        ("path", "body"),
        [
            ("/v1/payment_intents/pi_1", "amount[]=5"),
            ("/v1/payment_intents/pi_1/capture", "amount_to_capture[0]=5"),
            ("/v1/invoices", "customer=cus_1&auto_advance[]=true"),
            ("/v1/invoices/in_1/pay", "paid_out_of_band[x]=true"),
            ("/v1/invoices", "customer=cus_1&auto_advance=1"),
        ],
    )
    def test_a_value_in_a_form_that_it_does_not_have_is_denied(self, path: str, body: str) -> None:
        assert denied(path, body) == "unpriced"

    @pytest.mark.parametrize("body", ["amount=5", "amount_to_capture=5", "amount_to_confirm=5"])
    def test_a_confirm_with_an_amount_has_no_price(self, body: str) -> None:
        assert denied("/v1/payment_intents/pi_1/confirm", body) == "unpriced"


class TestIdentity:
    @pytest.mark.parametrize(
        ("body", "target"),
        [
            ("customer=cus_1&payment_method=pm_1", "cus_1"),
            ("payment_method=pm_1", "pm_1"),
            ("metadata[a]=b", None),
        ],
    )
    def test_the_target_is_who_pays(self, body: str, target: str | None) -> None:
        assert quote("/v1/payment_intents", f"amount=1&currency=usd&{body}").target == target

    def test_without_a_target_the_body_tells_calls_apart(self) -> None:
        one = quote("/v1/payment_intents", "amount=1&currency=usd&metadata[n]=1")
        two = quote("/v1/payment_intents", "amount=1&currency=usd&metadata[n]=2")
        assert one.fingerprint != two.fingerprint
        body = "amount=1&currency=usd&customer=c&metadata[n]="
        assert quote("/v1/charges", body + "1").fingerprint == quote("/v1/charges", body + "2").fingerprint

    def test_the_account_tells_test_live_and_connected_accounts_apart_but_not_secrets(self) -> None:
        body = "amount=1&currency=usd"
        accounts = [
            quote("/v1/charges", body).account,
            quote("/v1/charges", body, secret="sk_live_x").account,
            quote("/v1/charges", body, stripe_account="acct_1").account,
        ]
        assert len(set(accounts)) == 3
        assert quote("/v1/charges", body, secret="rk_test_rotated").account == accounts[0]

    def test_only_a_key_that_the_sdk_cannot_have_made_up_is_the_callers(self) -> None:
        body = "amount=1&currency=usd"
        assert quote("/v1/charges", body, idempotency_key="order-7").key_is_callers
        assert not quote("/v1/charges", body, idempotency_key=MADE_UP).key_is_callers
        assert denied("/v1/charges", body, idempotency_key="x" * 256) == "unpriced"

    def test_a_card_number_is_never_kept(self) -> None:
        body = "type=card&card[number]=4242424242424242&card[cvc]=123"
        found = quote("/v1/payment_methods", body)
        assert not found.keep_body
        assert "4242" not in repr(found)


class TestAddress:
    @pytest.mark.parametrize(
        "url",
        [
            "http://api.stripe.com/v1/charges",
            "https://api.stripe.com:444/v1/charges",
            "https://api.stripe.com.evil.example/v1/charges",
            "https://api.stripe.com@evil.example/v1/charges",
            "https://files.stripe.com/v1/charges",
            "https://connect.stripe.com/v1/charges",
            "https://files.stripe.com.evil.example/v1/files",
            "https://evil.example/v1/charges",
            "/v1//charges",
            "/v1/x/../charges",
            "/v1/charges/",
            "/v1/%63harges",
            "/v1/charges\\..",
        ],
    )
    def test_another_host_or_an_odd_path_is_denied(self, url: str) -> None:
        assert denied(url, "amount=1&currency=usd") == "endpoint"

    def test_the_secret_replaces_what_the_caller_sent_and_hop_headers_go(self) -> None:
        given = {"authorization": "Bearer vault", "host": "evil", "stripe-version": "v", "cookie": "c"}
        request = Request("POST", f"{API_BASE}/v1/charges", given, b"x")
        wire = Stripe().wire(request, VendorSettings("stripe"), "sk_test_real", "key-1")
        assert wire.headers == {
            "authorization": "Bearer sk_test_real",
            "idempotency-key": "key-1",
            "stripe-version": "v",
        }


class TestOutcomes:
    CREATE = quote("/v1/payment_intents", "amount=1000&currency=usd&customer=cus_1")

    def outcome(
        self, http: int, *, resent: bool = False, headers: Any = None, own: bool = False, **fields: Any
    ) -> Outcome:
        intent = {"id": "pi_1", "object": "payment_intent", "amount": 1000, "currency": "usd", **fields}
        reply = Reply(http, headers or {}, json.dumps(intent).encode())
        return Stripe().outcome(replace(self.CREATE, key_is_callers=own), reply, resent=resent, fx=FX)

    @pytest.mark.parametrize(
        ("fields", "counts", "worth"),
        [
            ({"status": "succeeded", "amount_received": 1000}, 10_000_000, 10_000_000),
            ({"status": "succeeded", "amount_received": 400}, 4_000_000, 4_000_000),
            ({"status": "requires_confirmation", "amount_received": 0}, 10_000_000, 10_000_000),
            ({"status": "requires_capture", "amount_received": 0}, 10_000_000, 10_000_000),
            ({"status": "requires_action", "amount_received": 0}, 10_000_000, 10_000_000),
            ({"status": "canceled", "amount_received": 0}, 0, 0),
            ({"status": "succeeded", "amount": 1500, "amount_received": 1500}, 15_000_000, 15_000_000),
        ],
    )
    def test_it_counts_what_the_reply_says(self, fields: Any, counts: int, worth: int) -> None:
        found = self.outcome(200, **fields)
        assert (found.kind, found.total_micros, found.worth_micros) == ("settle", counts, worth)

    def test_what_stripe_had_kept_says_its_amounts_and_that_it_was_executed_before(self) -> None:
        """Whether another call counts for it the ledger knows; behind a send of its own it is the call's."""
        again = {"idempotent-replayed": "true"}
        fields = {"status": "succeeded", "amount_received": 1000}
        for own in (True, False):
            for resent, before in ((False, True), (True, False)):
                found = self.outcome(200, headers=again, own=own, resent=resent, **fields)
                assert (found.total_micros, found.executed_before) == (10_000_000, before)
        assert not self.outcome(200, **fields).executed_before

    def test_what_stripe_knows_of_a_key_says_how_its_call_has_ended(self) -> None:
        again = {"idempotent-replayed": "true"}
        found = self.outcome(400, headers=again, error={"type": "invalid_request_error"})
        assert (found.kind, found.definite) == ("void", True)
        found = self.outcome(400, error={"type": "idempotency_error"})
        assert (found.kind, found.definite, bool(found.error)) == ("doubt", False, True)

    @pytest.mark.parametrize(
        "fields",
        [
            {"amount": -1},
            {"amount": "1000"},
            {"amount": True},
            {"amount": None},
            {"currency": "xxx"},
            {"status": None, "amount_received": "9"},
        ],
    )
    def test_an_amount_that_cannot_be_read_is_in_doubt(self, fields: Any) -> None:
        found = self.outcome(200, **{"status": "succeeded", "amount_received": 1000, **fields})
        if fields.get("status", "") is None:
            assert found.total_micros == 10_000_000  # Not final: it counts in full.
            return
        assert found.kind == "doubt"
        assert found.error

    @pytest.mark.parametrize(
        ("status", "kind"), [(402, "void"), (404, "void"), (409, "doubt"), (502, "doubt"), (302, "doubt")]
    )
    def test_other_statuses(self, status: int, kind: str) -> None:
        assert self.outcome(status).kind == kind
