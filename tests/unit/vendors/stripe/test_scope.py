"""Where Stripe's calls go and whom they concern: hosts, files, customers and connected accounts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from luigi_spendguard.config import VendorSettings
from luigi_spendguard.errors import SpendDenied
from luigi_spendguard.money import Micros
from luigi_spendguard.vendors import Quote, Reply, Request
from luigi_spendguard.vendors.stripe import Stripe
from luigi_spendguard.vendors.stripe.scope import scope_of
from tests.support.books import Books
from tests.support.desk import CAP, SECRET, Desk

API, FILES = "https://api.stripe.com", "https://files.stripe.com"


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    books = Books(tmp_path / "ledger.db", cap=CAP)
    yield Desk(books)
    books.ledger.close()


def quote(url: str, body: str = "", method: str = "POST", **more: Any) -> Quote:
    form = {"content-type": "application/x-www-form-urlencoded"} if body else {}
    headers = form | {name.replace("_", "-"): value for name, value in more.pop("headers", {}).items()}
    request = Request(method, url if "://" in url else API + url, headers, body.encode())
    return Stripe().quote(request, VendorSettings("stripe", **more), "sk_test_x", {})


def wired(method: str, url: str, **settings: Any) -> str:
    request = Request(method, url, {}, b"")
    return Stripe().wire(request, VendorSettings("stripe", **settings), "sk_test_x", "").url


class TestFiles:
    def test_an_upload_is_free_and_goes_to_the_files_host(self, desk: Desk, tmp_path: Path) -> None:
        desk.answers["POST /v1/files"] = {"id": "file_1", "object": "file"}
        upload = tmp_path / "evidence.png"
        upload.write_bytes(b"\x89PNG\xff\xfe")
        with upload.open("rb") as opened:
            desk.client.v1.files.create({"purpose": "dispute_evidence", "file": opened})
        assert desk.spent() == 0
        [sent] = desk.sent
        assert sent.url == f"{FILES}/v1/files"
        assert b"\x89PNG\xff\xfe" in sent.body
        assert sent.headers["authorization"] == f"Bearer {SECRET}"
        assert (desk.asked[0].body, desk.asked[0].operation) == ("", "files.create")

    @pytest.mark.parametrize(
        ("method", "url", "host"),
        [
            ("POST", f"{API}/v1/files", FILES),
            ("GET", f"{FILES}/v1/files/file_1/contents", FILES),
            ("GET", f"{API}/v1/files/file_1", API),
            ("GET", f"{API}/v1/files", API),
            ("GET", f"{FILES}/v1/quotes/qt_1/pdf", FILES),
            ("POST", "https://connect.stripe.com/oauth/token", "https://connect.stripe.com"),
            (
                "POST",
                "https://meter-events.stripe.com/v2/billing/meter_event_stream",
                "https://meter-events.stripe.com",
            ),
        ],
    )
    def test_the_path_alone_decides_where_a_call_goes(self, method: str, url: str, host: str) -> None:
        path = url.split("stripe.com")[1]
        assert wired(method, url) == host + path
        local = "http://127.0.0.1:8420"
        assert wired(method, local + path, base_url=local) == local + path
        assert wired(method, url, base_url=local) == local + path

    @pytest.mark.parametrize(
        ("method", "url"),
        [
            ("POST", f"{FILES}/v1/charges"),
            ("GET", f"{FILES}/v1/files"),
            ("POST", f"{FILES}/oauth/token"),
            ("POST", "https://connect.stripe.com/v1/files"),
            ("GET", "http://files.stripe.com/v1/files/f/contents"),
            ("POST", "https://meter-events.stripe.com/v1/charges"),
            ("POST", "https://files.stripe.com.x/v1/files"),
        ],
    )
    def test_another_hosts_path_gets_no_secret(self, method: str, url: str) -> None:
        with pytest.raises(SpendDenied, match="nothing was sent"):
            wired(method, url)

    def test_oauth_hands_out_credentials_and_meter_events_have_no_bound(self) -> None:
        with pytest.raises(SpendDenied, match="hands out credentials"):
            quote("https://connect.stripe.com/oauth/token", "code=x")
        stream = "https://meter-events.stripe.com/v2/billing/meter_event_stream"
        with pytest.raises(SpendDenied, match=r"v2\.billing\.meter_event_stream\.create: 5"):
            quote(stream, "{}", headers={"content_type": "application/json"})


class TestCustomer:
    @pytest.mark.parametrize(
        ("method", "path", "body", "customer"),
        [
            ("POST", "/v1/payment_intents", "amount=1&currency=usd&customer=cus_1", "cus_1"),
            ("POST", "/v1/payment_methods/pm_1/attach", "customer=cus_1", "cus_1"),
            ("POST", "/v1/customers/cus_1", "name=x", "cus_1"),
            ("POST", "/v1/customers/cus_1/sources", "source=tok_visa", "cus_1"),
            ("DELETE", "/v1/customers/cus_1", "", "cus_1"),
            ("GET", "/v1/customers/cus_1", "", "cus_1"),
            ("GET", "/v1/payment_intents?customer=cus_1&limit=3", "", "cus_1"),
            ("GET", "/v1/customers/search?query=x", "", ""),
            ("GET", "/v1/charges", "", ""),
            ("POST", "/v1/products", "name=x", ""),
        ],
    )
    def test_the_one_that_path_query_or_form_names(
        self, method: str, path: str, body: str, customer: str
    ) -> None:
        assert quote(path, body, method).customers == ((customer,) if customer else ())

    @pytest.mark.parametrize(
        ("method", "path", "body"),
        [
            ("POST", "/v1/payment_intents/pi_1", "customer=cus_1"),
            ("POST", "/v1/charges/ch_1", "customer=cus_1"),
            ("GET", "/v1/payment_intents/pi_1?customer=cus_1", ""),
            ("GET", "/v1/balance?customer=cus_1", ""),
        ],
    )
    def test_the_requests_word_does_not_say_whose_an_object_is(
        self, method: str, path: str, body: str
    ) -> None:
        found = quote(path, body, method)
        assert (found.customers, found.owner_unknown) == (("cus_1",), True)

    def test_a_list_of_one_and_a_new_object_are_that_customers(self) -> None:
        assert not quote("/v1/charges?customer=cus_1", method="GET").owner_unknown
        assert not quote("/v1/payment_intents", "amount=1&currency=usd&customer=cus_1").owner_unknown
        with pytest.raises(SpendDenied, match="given twice"):
            quote("/v1/charges?customer=cus_1&customer=cus_2", method="GET")

    @pytest.mark.parametrize(
        ("own", "customers", "unknown"),
        [("cus_9", ("cus_1", "cus_9"), False), (None, ("cus_1",), True)],
    )
    def test_a_refund_concerns_the_customer_of_its_charge(
        self, desk: Desk, own: str | None, customers: tuple[str, ...], unknown: bool
    ) -> None:
        charge = {"id": "ch_1", "object": "charge", "amount": 5, "amount_refunded": 0, "currency": "usd"}
        desk.answers["GET /v1/charges/ch_1"] = charge | {"customer": own}
        desk.answers["POST /v1/refunds"] = {
            "id": "re_1",
            "object": "refund",
            "amount": 5,
            "currency": "usd",
            "status": "succeeded",
        }
        desk.client.v1.refunds.create({"charge": "ch_1", "customer": "cus_1"})
        assert desk.asked[-1].customer == customers
        assert desk.asked[-1].owner_unknown is unknown

    def test_a_payment_method_of_nobody_becomes_the_named_customers(self) -> None:
        attach = Request(
            "POST",
            f"{API}/v1/payment_methods/pm_1/attach",
            {"content-type": "application/x-www-form-urlencoded"},
            b"customer=cus_1",
        )
        for own, unknown in (("", False), ("cus_9", False)):
            at = "/v1/payment_methods/pm_1"
            found = scope_of(
                attach, f"{at}/attach", {"customer": "cus_1"}, at, {at: {"id": "pm_1", "customer": own}}
            )
            assert found["owner_unknown"] is unknown
            assert set(found["customers"]) == {"cus_1", own} - {""}

    def test_the_looked_up_objects_own(self, desk: Desk) -> None:
        known = {
            "id": "ch_1",
            "object": "charge",
            "amount": 5,
            "amount_refunded": 0,
            "currency": "usd",
            "status": "succeeded",
            "customer": {"id": "cus_9", "object": "customer"},
        }
        desk.answers["GET /v1/charges/ch_1"] = known
        desk.answers["POST /v1/refunds"] = {
            "id": "re_1",
            "object": "refund",
            "amount": 5,
            "currency": "usd",
            "status": "succeeded",
        }
        desk.client.v1.refunds.create({"charge": "ch_1"})
        assert desk.asked[-1].customer == ("cus_9",)


class TestAccounts:
    @pytest.mark.parametrize(
        ("path", "body", "headers", "accounts"),
        [
            ("/v1/charges", "", {"stripe_account": "acct_1"}, ("acct_1",)),
            (
                "/v1/charges",
                "transfer_data[destination]=acct_2&on_behalf_of=acct_3",
                {"stripe_account": "acct_1"},
                ("acct_1", "acct_2", "acct_3"),
            ),
            ("/v1/transfers", "destination=acct_2", {}, ("acct_2",)),
            ("/v1/charges", "metadata[note]=acct_2", {}, ()),
            ("/v1/charges", "destination=acct_not-one", {}, ()),
        ],
    )
    def test_headers_and_parameters_name_them(
        self, path: str, body: str, headers: dict[str, str], accounts: tuple[str, ...]
    ) -> None:
        found = quote(path, f"amount=1&currency=usd&{body}".rstrip("&"), headers=headers)
        assert found.accounts == accounts

    @pytest.mark.parametrize(
        ("method", "path", "body"),
        [
            ("POST", "/v1/payouts", "amount=7&currency=usd&statement_descriptor=acct_1"),
            ("POST", "/v1/payouts", "amount=7&currency=usd&destination=acct_1"),
            ("POST", "/v1/payment_intents", "amount=7&currency=usd&transfer_group=acct_1"),
            ("POST", "/v1/payment_intents", "amount=7&currency=usd&metadata[destination]=acct_1"),
            ("POST", "/v1/products/acct_1", "name=x"),
            ("GET", "/v1/balance?x=acct_1", ""),
            ("GET", "/v1/balance?destination=acct_1", ""),
        ],
    )
    def test_a_call_that_goes_to_none_names_none(self, method: str, path: str, body: str) -> None:
        assert quote(path, body, method).accounts == ()

    def test_what_a_call_names_besides_still_forbids(self) -> None:
        body = "amount=7&currency=usd&transfer_group=acct_2"
        assert quote("/v1/charges", body, headers={"stripe_account": "acct_1"}).accounts == (
            "acct_1",
            "acct_2",
        )
        fixed = {"v2.money_management.outbound_payments.create": Micros(5)}
        headers = {"content_type": "application/json"}
        text = '{"to": {"recipient": "acct_1"}, "from": {"financial_account": "\\u0061cct_2"}}'
        path = "/v2/money_management/outbound_payments"
        assert quote(path, text, headers=headers, prices=fixed).accounts == ("acct_1", "acct_2")
        twice = '{"to": {"recipient": "acct_1", "recipient": "fa_2"}}'
        hidden = '{"to[recipient]": "acct_1", "to": {"recipient": "acct_2"}}'
        for text in (twice, hidden, '{"description": "', "[" * 100_000):
            with pytest.raises(SpendDenied) as caught:
                quote(path, text, headers=headers, prices=fixed)
            assert caught.value.reason == "unpriced"

    def test_a_path_names_them(self) -> None:
        assert quote("/v1/accounts/acct_1/persons", method="GET").accounts == ("acct_1",)
        fixed = {"accounts.update": Micros(0)}
        assert quote("/v1/accounts/acct_1", "email=x", prices=fixed).accounts == ("acct_1",)

    def test_a_json_body_and_the_context_header_name_them(self) -> None:
        fixed = {"v2.money_management.outbound_payments.create": Micros(5)}
        headers = {"content_type": "application/json", "stripe_context": "acct_1/acct_2"}
        found = quote(
            "/v2/money_management/outbound_payments",
            '{"to": {"recipient": "acct_3"}}',
            headers=headers,
            prices=fixed,
        )
        assert found.accounts == ("acct_1", "acct_2", "acct_3")
        assert found.total_micros == 5


def test_two_free_calls_on_different_things_are_different_calls(desk: Desk) -> None:
    for card in ("card_1", "card_2"):
        desk.answers[f"DELETE /v1/customers/cus_1/sources/{card}"] = {"id": card, "deleted": True}
        desk.client.v1.customers.payment_sources.delete("cus_1", card)
    assert len(desk.sent) == 2
    desk.again()
    again = desk.client.v1.customers.payment_sources.delete("cus_1", "card_2")
    assert (again.id, len(desk.sent)) == ("card_2", 2)


class TestAccountsThatPay:
    """`customer_account` is a payer as `customer` is: keys that are bound to customers judge it as one."""

    def test_the_request_names_it(self) -> None:
        said = quote("/v1/payment_intents", "amount=5&currency=usd&customer_account=acct_7")
        assert (said.customers, said.accounts, said.target) == (("acct_7",), (), "acct_7")
        listed = quote("/v1/payment_intents?customer_account=acct_7", method="GET")
        assert (listed.customers, listed.owner_unknown) == (("acct_7",), False)

    def test_the_object_names_it(self) -> None:
        found = {"/v1/charges/ch_1": {"id": "ch_1", "customer": None, "customer_account": {"id": "acct_7"}}}
        said = scope_of(
            Request("POST", f"{API}/v1/charges/ch_1", {}), "/v1/charges/ch_1", {}, "/v1/charges/ch_1", found
        )
        assert (said["customers"], said["owner_unknown"]) == (("acct_7",), False)

    def test_it_is_no_account_that_money_goes_to(self) -> None:
        sent = "amount=5&currency=usd&customer_account=acct_7&transfer_data[destination]=acct_1"
        assert quote("/v1/payment_intents", sent).accounts == ("acct_1",)

    def test_an_invoices_lines_name_nobody_and_hide_nobody(self) -> None:
        found: Any = {
            "/v1/invoices/in_1/lines?limit=100": {"data": []},
            "/v1/invoices/in_1": {"id": "in_1", "customer": "cus_1"},
        }
        request = Request("DELETE", f"{API}/v1/invoices/in_1", {})
        said = scope_of(request, "/v1/invoices/in_1", {}, "/v1/invoices/in_1", found)
        assert (said["customers"], said["owner_unknown"]) == (("cus_1",), False)

    def test_two_payers_are_refused(self) -> None:
        with pytest.raises(SpendDenied, match="which one pays"):
            quote("/v1/payment_intents", "amount=5&currency=usd&customer_account=acct_7&customer=cus_1")


class TestTurns:
    """Which objects a call acts on, and which it was priced by: one call at a time acts on an object."""

    def acting(self, path: str, body: str = "", method: str = "POST", **found: Any) -> tuple[Any, Any]:
        form = {"content-type": "application/x-www-form-urlencoded"}
        request = Request(method, API + path, form, body.encode())
        first = Stripe().quote(request, VendorSettings("stripe"), "sk_test_x", {})
        replies = {one: Reply(200, {}, json.dumps(said).encode()) for one, said in found.items()}
        said = Stripe().complete(first, request, replies, VendorSettings("stripe"), {}) if found else first
        return said.acts_on, said.priced_by

    def test_what_the_path_and_a_reference_name(self) -> None:
        assert self.acting("/v1/invoices/in_1/lines/il_1", "description=x")[0] == ("il_1", "in_1")
        assert self.acting("/v1/refunds", "charge=ch_1&amount=5")[0] == ("ch_1",)
        assert self.acting("/v1/invoiceitems", "customer=cus_1&amount=5&currency=usd")[0] == ("cus_1",)
        assert self.acting("/v1/payment_intents", "customer=cus_1&amount=5&currency=usd") == ((), ())

    def test_what_was_looked_up_and_whose_it_is(self) -> None:
        said = {
            "id": "in_1",
            "object": "invoice",
            "status": "open",
            "amount_due": 5,
            "amount_paid": 0,
            "amount_remaining": 5,
            "currency": "usd",
            "customer": "cus_1",
            "lines": {"data": [{"invoice_item": "ii_1"}]},
        }
        found = {"/v1/invoices/in_1": said}
        assert self.acting("/v1/invoices/in_1/pay", **found) == (("in_1",), ("cus_1", "ii_1"))

    def test_who_takes_pending_items_along_has_the_payer_alone(self) -> None:
        price = {"id": "price_1", "currency": "usd", "unit_amount": 5}
        found: Any = {
            "/v1/prices/price_1?expand%5B%5D=currency_options": price,
            "/v1/invoiceitems?customer_account=acct_1&pending=true&limit=100": {
                "data": [{"id": "ii_1", "amount": 5, "currency": "usd"}],
                "has_more": False,
            },
        }
        body = "customer_account=acct_1&items[0][price]=price_1"
        assert self.acting("/v1/subscriptions", body, **found) == (("acct_1",), ("ii_1", "price_1"))
