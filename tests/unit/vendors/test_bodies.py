"""One parser of forms and one of JSON: what could be read in two ways is refused, whatever it is for."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote as percent_encoded

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luigi_spendguard.errors import SpendDenied
from luigi_spendguard.settings import VendorSettings
from luigi_spendguard.vendors import Request
from luigi_spendguard.vendors.base import Vendor
from luigi_spendguard.vendors.bodies import form_text, json_body, read_fields, read_groups
from luigi_spendguard.vendors.registry import VENDORS
from luigi_spendguard.vendors.stripe import Stripe
from tests.support.readings import READINGS

FORM = "application/x-www-form-urlencoded"
API = "https://api.stripe.com"
CHARGE = "amount=100&currency=usd&customer=cus_1"


def refused(text: str) -> bool:
    try:
        read_groups(text)
    except SpendDenied as denied:
        return denied.reason == "unpriced"
    return False


@pytest.mark.parametrize(
    "text",
    [
        f"{CHARGE}&[amount]=99900",
        f"{CHARGE}&amount]=99900",
        f"{CHARGE}&%5Bamount%5D=99900",
        f"{CHARGE}&+amount=99900",
        f"{CHARGE}&%20amount=99900",
        f"{CHARGE}& amount=99900",
        f"{CHARGE}&amount+=99900",
        f"{CHARGE}&amount%00=99900",
        f"{CHARGE}&amount%00x=99900",
        f"{CHARGE}&amount%0a=99900",
        f"{CHARGE}&%EF%BB%BFamount=99900",
        f"{CHARGE}&am%C3%B6unt=1",
        f"{CHARGE}&amount=99900",
        f"{CHARGE}&%61mount=99900",
        f"{CHARGE}&amount[]=99900",
        f"{CHARGE}&amount[0]=99900",
        f"{CHARGE}&amount[a]=1",
        f"{CHARGE}&amount[=99900",
        f"{CHARGE}&amount[[]]=99900",
        f"{CHARGE}&amount[a]b=1",
        f"{CHARGE}&[[amount=1",
        f"{CHARGE}&[]=1",
        f"{CHARGE}&amount-x=1",
        f"{CHARGE}&amount.x=1",
        f"{CHARGE}&_method=delete",
        f"{CHARGE}&x%5B_method=1",
        f"{CHARGE};amount=99900",
        f"{CHARGE}&&x=1",
        f"&{CHARGE}",
        f"{CHARGE}&",
        f"{CHARGE}&amount",
        "amount",
        "=1",
        f"{CHARGE}&description=a]=99900",
        f"{CHARGE}&description=a%5D=99900",
        f"{CHARGE}&description=a=b",
        f"{CHARGE}&description=a;b",
        f"{CHARGE}&description=a%zz",
        f"{CHARGE}&description=a%",
        f"{CHARGE}&description=%u0061",
        f"{CHARGE}&description=%C0%AF",
        f"{CHARGE}&description=%ff",
        f"{CHARGE}&description=%ED%A0%80",
        f"{CHARGE}&description=a%00b",
        f"{CHARGE}&description=\ta",
        f"{CHARGE}\n",
        f"{CHARGE}\r\n",
        f"?{CHARGE}",
        f"{CHARGE}&description= a",
        "items[][price]=p&items[][quantity]=2",
        "items[][price]=p",
        "a[][]=1",
        "items[1][price]=p",
        "items[0][price]=p&items[2][price]=p",
        "items[00][price]=p",
        "items[1][price]=p&items[0][price]=q",
        "items[0][price]=p&items[x][price]=q",
        "items[-1][price]=p",
        "items[%D9%A0][price]=p",
        "expand[]=a&expand[0]=b",
        "expand[0]=a&expand[]=b",
        "expand[]=a&expand[1]=b",
        "expand=a&expand[]=b",
        "metadata=&metadata[a]=1",
        "metadata[a]=1&metadata=",
        "metadata[a]=1&metadata[a]=2",
        "metadata[a]=1&metadata[a][b]=2",
        "metadata[a%5Db]=1",
        "metadata[+a]=1",
        "metadata[a+]=1",
        "metadata[a%26amount%3D9]=1",
        "metadata[]x=1",
        "x[metadatas][a-b]=1",
        "&".join(f"p{number}=1" for number in range(1001)),
        "a" + "[b]" * 40 + "=1",
    ],
)
def test_what_two_parsers_read_differently_is_refused(text: str) -> None:
    assert refused(text)


def test_what_sdks_send_is_read() -> None:
    text = (
        "amount=100&currency=usd&description=a+b%26c%3D%0Ad&expand[0]=customer&expand[1]=invoice"
        "&metadata[order-id]=1&metadata[Order+ID]=2&metadata[2024]=3&items%5B0%5D%5Bprice%5D=price_1"
        "&items[0][tax_rates][]=txr_1&items[0][tax_rates][]=txr_2&items[1][price]=price_2&coupon="
    )
    found = read_groups(text)
    assert dict(found) == {
        "amount": "100",
        "currency": "usd",
        "description": "a b&c=\nd",
        "expand[0]": "customer",
        "expand[1]": "invoice",
        "metadata[order-id]": "1",
        "metadata[Order ID]": "2",
        "metadata[2024]": "3",
        "items[0][price]": "price_1",
        "items[0][tax_rates][0]": "txr_1",
        "items[0][tax_rates][1]": "txr_2",
        "items[1][price]": "price_2",
        "coupon": "",
    }
    with pytest.raises(TypeError):
        found["amount"] = "1"
    # As curl sends it, with what needs no encoding left as it is.
    assert read_groups("email=a@b.example&url=https://x.example/?a,b&text=Hi there!")["text"] == "Hi there!"
    assert read_groups("") == {}


def test_lists_are_ordered_as_numbers() -> None:
    names = [f"phases[{number}][items][0][price]" for number in range(12)]
    assert list(read_groups("&".join(f"{name}=p" for name in names))) == names


def test_a_form_without_brackets() -> None:
    assert read_fields("To=%2B1&MediaUrl=a&MediaUrl=b", ("MediaUrl",)) == {
        "To": ["+1"],
        "MediaUrl": ["a", "b"],
    }
    assert read_fields("Configuration.Url=a") == {"Configuration.Url": ["a"]}
    for text in ("To=1&To=2", "[To]=1", "To[]=1", "To+=1", "To.=1", ".To=1", "To=1;From=2"):
        with pytest.raises(SpendDenied):
            read_fields(text, ("MediaUrl",))


@pytest.mark.parametrize(
    ("kind", "fits"),
    [
        (FORM, True),
        (f"{FORM}; charset=utf-8", True),
        (f"{FORM};charset=UTF-8", True),
        (FORM.title(), True),
        ("", False),
        (f"{FORM}; charset=utf-7", False),
        (f"{FORM}; boundary=x", False),
        (f"{FORM};", False),
        (f"{FORM}, application/json", False),
        (f"application/json, {FORM}", False),
        (f"{FORM}, {FORM}", False),
        (f"{FORM}2", False),
        ("multipart/form-data; boundary=x", False),
        ("application/json", False),
        (f"{FORM}; charset=utf-8; charset=utf-16", False),
    ],
)
def test_a_form_has_one_content_type(kind: str, fits: bool) -> None:
    for path, form in (
        ("/v1/payment_intents", b"amount=100&currency=usd"),
        ("/v1/customers", b"name=x"),
        ("/v1/setup_intents", b"confirm=true"),
    ):
        headers = {"content-type": kind} if kind else {}
        request = Request("POST", API + path, headers, form)
        assert (reason(Stripe(), request) is None) is fits


#: Parts of forms, good and bad, of which any text may be made.
_PIECES = st.sampled_from(
    [
        "amount",
        "items",
        "metadata",
        "price",
        "0",
        "1",
        "2",
        "10",
        "a-b",
        "[",
        "]",
        "[]",
        "[0]",
        "[1]",
        "[price]",
        "[a.b]",
        "=",
        "=",
        "=",
        "&",
        "&",
        "&",
        ";",
        " ",
        "+",
        "%20",
        "%5B",
        "%5d",
        "%00",
        "%26",
        "%3d",
        ".",
        "x",
        "_",
        "-",
        "%C3%A9",
        "]=",
        "%0a",
        "\t",
        "?",
        "#",
        "%",
        "%zz",
        "\u00e9",
    ]
)
_NAMES = st.sampled_from(
    [
        "amount",
        "currency",
        "items[0][price]",
        "items[0][quantity]",
        "items[1][price]",
        "items[2][price]",
        "expand[]",
        "expand[0]",
        "metadata[a b]",
        "metadata[a.b]",
        "metadata[7]",
        "items%5B0%5D%5Bprice%5D",
        "items[0][tax_rates][]",
        "a[b][c]",
        "a[b]",
        "a",
        "[amount]",
        "amount]",
        " amount",
        "amount[]",
        "amount%00",
        "items[][price]",
        "items[01][price]",
    ]
)
_FORMS = st.lists(_PIECES, max_size=14).map("".join) | st.lists(
    st.tuples(_NAMES, st.sampled_from(["", "1", "a+b", "%26", "x]", "a=b", " c"])).map("=".join), max_size=5
).map("&".join)


@given(_FORMS)
def test_what_is_read_every_server_reads_alike(text: str) -> None:
    try:
        said = dict(read_groups(text))
    except SpendDenied:
        return
    odd = any(re.search(r"[ .:/-]", name) for name in said)
    for server, read in READINGS.items():
        if not (odd and server == "trimming"):  # Of a key of `metadata` alone.
            assert flat("", read(text)) == said, server


def flat(name: str, found: Any) -> dict[str, str]:
    """Return what a server has read, named in full."""
    if isinstance(found, str):
        return {name: found}
    named = found.items() if isinstance(found, dict) else enumerate(found)
    return {
        full: value
        for key, inner in named
        for full, value in flat(f"{name}[{key}]" if name else str(key), inner).items()
    }


@given(_FORMS)
def test_what_is_read_without_brackets_every_server_reads_alike(text: str) -> None:
    try:
        said = {name: value for name, [value] in read_fields(text).items()}
    except SpendDenied:
        return
    for server, read in READINGS.items():
        if server not in ("php", "trimming") or "." not in "".join(said):
            assert flat("", read(text)) == said, server


def reason(vendor: Vendor, request: Request, **settings: Any) -> str | None:
    try:
        vendor.quote(request, VendorSettings(vendor.name, **settings), "sk_test_x", {})
    except SpendDenied as denied:
        return denied.reason
    return None


@pytest.mark.parametrize(
    ("method", "where", "body"),
    [
        ("POST", "/v1/customers?balance=-500", b"name=x"),
        ("POST", "/v1/customers?x=1", b""),
        ("POST", "/v1/ephemeral_keys?customer=cus_1", b""),
        ("DELETE", "/v1/customers/cus_1", b"a=b"),
        ("GET", "/v1/customers", b"a=b"),
        ("DELETE", "/v1/subscriptions/sub_1?[invoice_now]=true", b""),
        ("DELETE", "/v1/subscriptions/sub_1?prorate=false&+prorate=true", b""),
        ("GET", "/v1/charges?customer=cus_1&[customer]=cus_2", b""),
        ("GET", "/v1/charges?customer", b""),
        ("GET", "/v1/issuing/cards/ic_1?[expand][]=number", b""),
        ("POST", "/v1/customers", b"[balance]=-500000"),
        ("POST", "/v1/checkout/sessions", b"mode=setup&+mode=payment"),
        ("POST", "/v1/refunds", b"charge=ch_1&[charge]=ch_2"),
    ],
)
def test_every_operation_is_read_by_it(method: str, where: str, body: bytes) -> None:
    request = Request(method, API + where, {"content-type": FORM}, body)
    assert reason(Stripe(), request, allowed_endpoints=("* /v1/*", "POST /v1/ephemeral_keys")) == "unpriced"


@pytest.mark.parametrize(
    ("method", "where", "body"),
    [
        ("GET", "/v1/issuing/cards/ic_1?expand[]=number", b""),
        ("GET", "/v1/issuing/authorizations?expand[0]=data.card.cvc", b""),
        ("GET", "/v1/issuing/cards/ic_1?expand[0]=%20number", b""),
        ("POST", "/v1/issuing/cards/ic_1", b"expand[0]=number"),
        ("POST", "/v1/payment_intents", b"amount=1&currency=usd&expand[]=a.number"),
    ],
)
def test_what_opens_a_card_has_to_be_listed(method: str, where: str, body: bytes) -> None:
    headers = {"content-type": FORM} if body else {}
    assert reason(Stripe(), Request(method, API + where, headers, body)) == "endpoint"


@pytest.mark.parametrize("vendor", sorted(VENDORS))
@pytest.mark.parametrize(
    "name",
    [
        "x_http_method_override",
        "x-http-method-override",
        "stripe_account",
        "idempotency_key",
        "x-method-override",
        "stripe_version",
        "x.foo",
        "x foo",
        "x_spendguard_token",
        "x-forwarded-host",
        "x-anything",
        "cookie",
        "proxy-authorization",
    ],
)
def test_no_header_makes_a_call_another_one(vendor: str, name: str) -> None:
    headers = {name: "DELETE", "content-type": FORM, "user-agent": "x"}
    own = {"account_sid": "AC" + "a1" * 16} if vendor == "twilio" else {}
    url = {
        "stripe": f"{API}/v1/charges",
        "resend": "https://api.resend.com/emails",
        "twilio": "https://api.twilio.com/2010-04-01/Accounts/AC/Messages.json",
    }[vendor]
    request = Request("POST", url, headers, b"")
    settings = VendorSettings(vendor, "sk_test_x", own=own)
    sent = VENDORS[vendor].wire(request, settings, "sk_test_x", "key").headers
    assert name not in sent
    assert sent["user-agent"] == "x"


def test_a_get_that_may_be_something_else_does_not_only_read() -> None:
    for vendor in VENDORS.values():
        url = {
            "stripe": f"{API}/v1/balance",
            "resend": "https://api.resend.com/emails",
            "twilio": "https://api.twilio.com/2010-04-01/Accounts/AC/Queues",
        }[vendor.name]
        assert vendor.only_reads(Request("GET", url, {}))
        for query in ("_method=POST", "a=b&%5fmethod=POST", "_Method"):
            assert not vendor.only_reads(Request("GET", f"{url}?{query}", {}))
        assert vendor.only_reads(Request("GET", f"{url}?payment_method=pm_1", {}))
        assert not vendor.only_reads(Request("GET", url, {"x-http-method-override": "POST"}))


def read(text: str) -> Any:
    return json_body(
        Request("POST", API, {"content-type": "application/json"}, text.encode("utf-8", "surrogatepass"))
    )


@pytest.mark.parametrize(
    "text",
    [
        '{"to": 1, "to": 2}',
        '{"to": 1, "t\\u006f": 2}',
        '{"a": {"to": 1, "to": 2}}',
        '{"to": 1, "To": 2}',
        '{"a": NaN}',
        '{"a": Infinity}',
        '{"a": -Infinity}',
        '{"a": 1e400}',
        '{"a": 9007199254740993}',
        '{"a": ' + "9" * 5000 + "}",
        '{"a": "\\ud800"}',
        '["\\udc00"]',
        '{"\\ud800": 1}',
        '{"a\\u0000": 1}',
        "\ufeff{}",
        "",
        "{}{}",
        "{} x",
        "{'a': 1}",
        '{"a": 1,}',
        '{"a": 1} // x',
        '{"a": "\x00"}',
        '{"a": "\n"}',
        '{"a": 01}',
        '{"a": +1}',
        "[" * 100_000,
        '{"a": "\ud800"}',
    ],
)
def test_json_that_two_parsers_read_differently_is_refused(text: str) -> None:
    with pytest.raises(SpendDenied) as caught:
        read(text)
    assert caught.value.reason == "unpriced"


def test_other_json_is_read() -> None:
    said = {
        "to": ["a@x.example"],
        "n": 1.5,
        "big": 2**53 - 1,
        "text": "\u00e9\U0001f600",
        "none": None,
        "e": 1e10,
    }
    assert read(json.dumps(said)) == said


@given(st.dictionaries(st.from_regex(r"\A[a-z_]{1,8}\Z"), st.text(max_size=20), max_size=6))
def test_what_is_encoded_is_read_as_it_was_meant(said: Mapping[str, str]) -> None:
    said = {name: value.replace("\0", "").encode("utf-8", "replace").decode() for name, value in said.items()}
    said.pop("_method", None)
    text = "&".join(f"{name}={percent_encoded(value, safe='')}" for name, value in said.items())
    assert dict(read_groups(text)) == said
    body = Request("POST", API, {"content-type": FORM}, text.encode())
    assert form_text(body) == text
