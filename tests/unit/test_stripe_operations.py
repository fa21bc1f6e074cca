"""Every operation of Stripe's own list that changes something is priced, or denied."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from luigi_spendguard.config import VendorSettings
from luigi_spendguard.errors import SpendDenied
from luigi_spendguard.vendors import Request
from luigi_spendguard.vendors.stripe import API_BASE, Stripe

_LINES = Path(__file__).with_name("data").joinpath("stripe_operations.txt").read_text("utf-8").splitlines()
OPERATIONS = [line for line in _LINES if not line.startswith("#")]

#: What this version prices; everything else in the list must be denied.
PRICED = {
    "POST /v1/charges",
    "POST /v1/charges/{charge}/capture",
    "POST /v1/customers",
    "POST /v1/customers/{customer}",
    "DELETE /v1/customers/{customer}",
    "POST /v1/payment_intents",
    "POST /v1/payment_intents/{intent}",
    "POST /v1/payment_intents/{intent}/cancel",
    "POST /v1/payment_intents/{intent}/capture",
    "POST /v1/payment_intents/{intent}/confirm",
    "POST /v1/payment_methods",
    "POST /v1/payment_methods/{payment_method}",
    "POST /v1/payment_methods/{payment_method}/attach",
    "POST /v1/payment_methods/{payment_method}/detach",
}

CREDENTIALS = [
    "POST /v1/ephemeral_keys",
    "DELETE /v1/ephemeral_keys/ek_1",
    "POST /v1/webhook_endpoints",
    "POST /v1/webhook_endpoints/we_1",
    "POST /v1/apps/secrets",
    "GET /v1/apps/secrets/find",
    "POST /v1/account_links",
    "POST /v1/account_sessions",
    "POST /v1/customer_sessions",
    "POST /v1/accounts/acct_1/login_links",
    "POST /v1/terminal/connection_tokens",
    "POST /v2/core/event_destinations",
    "POST /oauth/token",
]


def reason(line: str, **settings: object) -> str | None:
    """Return why an operation is denied, None when it is priced."""
    method, path = line.split(" ", 1)
    request = Request(method, API_BASE + re.sub(r"\{\w+\}", "id_1", path), {}, b"amount=100&currency=usd")
    if method in ("GET", "DELETE") or path.endswith(("/confirm", "/capture", "/cancel")):
        request = Request(method, request.url, {})
    try:
        Stripe().quote(request, VendorSettings("stripe", **settings), "sk_test_x", {})  # type: ignore[arg-type]
    except SpendDenied as denied:
        return denied.reason
    return None


def test_the_list_is_long_and_holds_what_is_priced() -> None:
    assert len(OPERATIONS) > 100
    assert set(OPERATIONS) >= PRICED - {"DELETE /v1/customers/{customer}"}


@pytest.mark.parametrize("line", sorted(set(OPERATIONS) - PRICED))
def test_what_has_no_price_is_denied(line: str) -> None:
    assert reason(line) in ("unpriced", "endpoint")


@pytest.mark.parametrize("line", sorted(PRICED))
def test_what_has_a_price_passes(line: str) -> None:
    assert reason(line) is None


@pytest.mark.parametrize("line", CREDENTIALS)
def test_what_hands_out_credentials_is_denied_unless_listed_exactly(line: str) -> None:
    method, path = line.split(" ", 1)
    family = f"{method} /{path.split('/')[1]}/*"
    assert reason(line) == "endpoint"
    assert reason(line, allowed_endpoints=(family, "* *")) == "endpoint"
    assert reason(line, allowed_endpoints=(line,)) is None


@pytest.mark.parametrize("path", sorted({line.split(" ")[1] for line in OPERATIONS}))
def test_reading_is_free(path: str) -> None:
    assert reason(f"GET {path}") in (None, "endpoint")


@pytest.mark.parametrize("method", ["PUT", "PATCH", "HEAD", "OPTIONS", "post", "get", "TRACE"])
def test_a_method_that_stripe_does_not_use_is_denied(method: str) -> None:
    assert reason(f"{method} /v1/payment_intents") == "unpriced"


def test_an_allowlist_narrows_what_is_priced() -> None:
    listed = ("payment_intents.create", "GET /v1/*")
    assert reason("POST /v1/payment_intents", allowed_endpoints=listed) is None
    assert reason("POST /v1/charges", allowed_endpoints=listed) == "endpoint"
    assert reason("GET /v1/charges/ch_1", allowed_endpoints=listed) is None
