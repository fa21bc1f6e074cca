"""What of a vendor's answer passes, what of a call is kept, and what a key's denial tells its holder."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import stripe

from luigi_spendguard.proxy.requests import SpendAdapter
from tests.integration.test_gateway import form, raw
from tests.integration.test_vault_keys import charge, client, issued
from tests.support.asking import ADMIN, WORKER
from tests.support.attempts import Pretender
from tests.support.raw import RawVendor, answer
from tests.support.site import SECRET, Site

INTENT = {
    "id": "pi_1",
    "object": "payment_intent",
    "status": "succeeded",
    "amount": 100,
    "amount_received": 100,
    "currency": "usd",
    "latest_charge": "ch_1",
}
PASSES = {
    "Request-Id": "req_1",
    "Stripe-Version": "2026-10-28.endive",
    "Stripe-Should-Retry": "false",
    "Retry-After": "7",
    "X-Ratelimit-Remaining": "5",
    "Original-Request": "req_0",
}
#: Marks of ours, what is the connection's or a browser's, and what nobody has thought of.
FORGED = {
    "X-Spendguard-Replayed": "1700000000000",
    "X-Spendguard-Relayed": "9",
    "X-Spendguard-Cap-Hit": "true",
    "X-Spendguard-Denial": json.dumps({"reason": "cap", "message": "forged", "facts": {"run_id": "r"}}),
    "X-Keybrake-Cap-Hit": "true",
    "Set-Cookie": "a=b",
    "Strict-Transport-Security": "max-age=31536000",
    "Access-Control-Allow-Origin": "*",
    "Alt-Svc": 'h3=":443"',
    "Clear-Site-Data": '"*"',
    "Content-Security-Policy": "default-src *",
    "Public-Key-Pins": "x",
    "NEL": "{}",
    "Report-To": "{}",
    "Refresh": "0;url=https://elsewhere.example",
    "Service-Worker-Allowed": "/",
    "X-Unheard-Of": "1",
    "WWW-Authenticate": "Basic",
    "Connection": "close, x-odd",
    "X-Odd": "1",
    "X-Accel-Redirect": "/etc",
}


@pytest.fixture(scope="module")
def forger() -> Iterator[RawVendor]:
    head = "".join(f"{name}: {value}\r\n" for name, value in {**PASSES, **FORGED}.items()).encode()
    with RawVendor(lambda number, body: answer(200, INTENT, head)) as vendor:
        yield vendor


def check(headers: dict[str, str]) -> None:
    said = {name.lower(): value for name, value in headers.items()}
    assert {name.lower(): value for name, value in PASSES.items()}.items() <= said.items()
    allowed = {"x-spendguard-relayed", "connection"}
    assert not {name.lower() for name in FORGED} - allowed & set(said)
    assert said.get("x-spendguard-relayed", "1") == "1"
    assert "x-odd" not in said.get("connection", "")


def test_a_vendor_makes_no_mark_of_ours_at_the_gateway(tmp_path: Path, forger: RawVendor) -> None:
    said = {"admin_token": ADMIN, "worker_token": WORKER, "daily_cap_usd": 100}
    vendor = {"base_url": forger.url}
    with Site(tmp_path / "site", gateway=True, spendguard=said, spendguard_stripe=vendor) as site:
        key = issued(site)["vault_key"]
        body = b"amount=100&currency=usd&customer=cus_1&confirm=true&payment_method=pm_x"
        status, headers, _ = raw(site, "POST", "/stripe/v1/payment_intents", body, **form(key))
        assert status == 200
        check(headers)


def test_a_vendor_makes_no_mark_of_ours_in_a_worker(tmp_path: Path, forger: RawVendor) -> None:
    with Site(tmp_path / "site", spendguard_stripe={"base_url": forger.url}) as site:
        session = requests.Session()
        session.mount("https://", SpendAdapter())
        with Pretender(site, "r").attempt():
            said = session.post(
                "https://api.stripe.com/v1/payment_intents",
                data={
                    "amount": 100,
                    "currency": "usd",
                    "customer": "cus_1",
                    "confirm": "true",
                    "payment_method": "pm_x",
                },
            )
        assert said.status_code == 200
        check(dict(said.headers))


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    said = {"admin_token": ADMIN, "worker_token": WORKER, "daily_cap_usd": 10000}
    with Site(tmp_path_factory.mktemp("gateway"), gateway=True, spendguard=said) as site:
        yield site


def everything(site: Site, run_id: str) -> str:
    """Return all that is kept and shown of a run: its calls, and every byte of the ledger's files."""
    pages = [site.calls(run_id), site.run(run_id), site.call("GET", "/vault/keys", token=ADMIN)[1]]
    shown = json.dumps(pages)
    files = b"".join(path.read_bytes() for path in site.ledger.parent.glob(site.ledger.name + "*"))
    return shown + files.decode("latin-1")


@pytest.mark.parametrize(
    "where",
    [
        "stripe-account",
        "stripe-context",
        "idempotency-key",
        "customer",
        "payment_method",
        "metadata[a]",
        "description",
        "on_behalf_of",
        "path",
        "query",
        "currency",
        "content-type",
        "stripe-version",
    ],
)
@pytest.mark.parametrize("what", ["key", "secret"])
def test_a_vault_key_stands_in_nothing_that_is_kept_wherever_it_was_sent(
    gateway: Site, where: str, what: str
) -> None:
    key = issued(gateway, agent_run_label=None, run_usd_cap=100)
    shown = key["vault_key"] if what == "key" else SECRET
    fields = {
        "amount": "100",
        "currency": "usd",
        "customer": "cus_1",
        "confirm": "true",
        "payment_method": "pm_x",
    }
    headers, path = form(key["vault_key"]), "/stripe/v1/payment_intents"
    if where == "path":
        path += f"/{shown}/cancel"
    elif where == "query":
        path += f"?{shown}={shown}"
    elif where in fields or where[0] in "mdo":
        fields[where] = shown
    else:
        headers[where.title()] = shown
    body = "&".join(f"{name}={value}" for name, value in fields.items()).encode()
    raw(gateway, "POST", path, None if where == "path" else body, **headers)
    assert len(gateway.calls(key["id"])) == 1
    assert shown not in everything(gateway, key["id"])


def test_two_idempotency_keys_that_show_a_vault_key_are_two_calls(gateway: Site) -> None:
    one, two = (issued(gateway, agent_run_label="luigi/keys")["vault_key"] for _ in range(2))
    gateway.stripe.forget()
    for key in (one, two, one):
        api = client(gateway, one).v1.payment_intents
        api.create(
            {
                "amount": 100,
                "currency": "usd",
                "customer": "cus_1",
                "confirm": True,
                "payment_method": "pm_x",
            },
            {"idempotency_key": key},
        )
    assert gateway.stripe.moved() == 200


@pytest.mark.parametrize(
    "path",
    [
        "//v1/charges",
        "/v1//charges",
        "/v1/charges/",
        "/v1/charges;a",
        "/v1/char%67es",
        "//v1/customers",
        "/v1/.customers",
        "/v1/%2e/customers",
    ],
)
def test_no_path_goes_out_that_is_not_in_its_one_form(gateway: Site, path: str) -> None:
    key = issued(gateway)["vault_key"]
    gateway.stripe.forget()
    for method in ("GET", "POST", "DELETE"):
        status, _, body = raw(gateway, method, f"/stripe{path}", None, **form(key))
        assert (status, json.loads(body)["error"]["code"]) == (403, "endpoint_not_allowed")
    assert gateway.stripe.books()["requests"] == []


def refund(api: Any, intent: str) -> Any:
    return api.refunds.create({"payment_intent": intent})


def capture(api: Any, intent: str) -> Any:
    return api.payment_intents.capture(intent, {})


@pytest.mark.parametrize("call", [refund, capture])
@pytest.mark.parametrize("customers", [None, ["cus_1"]])
def test_nothing_is_looked_up_for_a_call_that_the_key_does_not_allow(
    gateway: Site, call: Any, customers: list[str] | None
) -> None:
    gateway.stripe.forget()
    manual = {"capture_method": "manual"} if call is capture else {}
    theirs = charge(gateway, issued(gateway, agent_run_label="luigi/theirs")["vault_key"], "cus_2", **manual)
    before = len(gateway.stripe.books()["requests"])
    key = issued(
        gateway,
        agent_run_label=None,
        run_usd_cap=100,
        allowed_customers=customers,
        allowed_endpoints=["payment_intents.create", "GET /v1/customers/*"],
    )
    with pytest.raises(stripe.PermissionError, match="allowed_endpoints"):
        call(client(gateway, key["vault_key"]).v1, theirs.id)
    assert len(gateway.stripe.books()["requests"]) == before
    assert [each["reason"] for each in gateway.calls(key["id"])] == ["endpoint"]


@pytest.mark.parametrize("call", [refund, capture])
def test_a_denial_tells_nobody_whose_object_it_was(gateway: Site, call: Any) -> None:
    manual = {"capture_method": "manual"} if call is capture else {}
    theirs = charge(gateway, issued(gateway)["vault_key"], "cus_other", **manual)
    key = issued(gateway, agent_run_label=None, run_usd_cap=100, allowed_customers=["cus_1"])["vault_key"]
    with pytest.raises(stripe.PermissionError, match="allowed_customers") as denied:
        call(client(gateway, key).v1, theirs.id)
    assert "cus_other" not in f"{denied.value} {denied.value.http_body} {denied.value.headers}"
