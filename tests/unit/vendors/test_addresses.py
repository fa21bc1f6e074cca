"""A path that two servers could read differently is refused, whatever the vendor."""

from __future__ import annotations

import pytest

from luigi_spendguard.errors import SpendDenied
from luigi_spendguard.vendors.bodies import split_address

ODD = [
    "",
    "/",
    "//v1/charges",
    "/v1//charges",
    "/v1/charges/",
    "/v1/charges//",
    "v1/charges",
    "/./v1",
    "/v1/..",
    "/v1/../v1/charges",
    "/v1/.",
    "/.well-known",
    "/v1/%2e%2e/charges",
    "/v1/%2E/x",
    "/v1%2fcharges",
    "/v1%2Fcharges",
    "/v1/%5Ccharges",
    "/v1\\charges",
    "/v1/char%67es",
    "/v1/%63harges",
    "/v1/charges;x=1",
    "/v1/charges%3Bx",
    "/v1/charges%3Fx",
    "/v1/charges%23x",
    "/v1/charges#x",
    "/v1/charges%00",
    "/v1/charges\x00",
    "/v1/charges\r\n",
    "/v1/charges ",
    "/v1/char\tges",
    "/v1/charges%0a",
    "/v1/charges%",
    "/v1/charges%2",
    "/v1/charges%25",
    "/v1/charges%zz",
    "/v1/ch\u00e4rges",
    "/v1/charges\uff0fx",
    "/v1/{id}",
    "/v1/charges?a=%",
    "/v1/charges?a=%g0",
    "/v1/charges?a b",
    "/v1/charges?a#b",
    "/v1/charges?\u00e4",
    "/v1/charges?a\n",
    "/v1/charges\n",
]


@pytest.mark.parametrize("rest", ODD)
def test_what_can_be_read_in_two_ways_is_refused(rest: str) -> None:
    with pytest.raises(SpendDenied) as denied:
        split_address(rest)
    assert denied.value.reason == "endpoint"


@pytest.mark.parametrize(
    ("rest", "path", "query"),
    [
        ("/v1/charges", "/v1/charges", ""),
        ("/v1/charges?expand[]=data.customer&limit=3", "/v1/charges", "expand[]=data.customer&limit=3"),
        (
            "/v1/customers/search?query=name%3A%22J%C3%BCrgen%22",
            "/v1/customers/search",
            "query=name%3A%22J%C3%BCrgen%22",
        ),
        ("/contacts/ann%40example.com", "/contacts/ann%40example.com", ""),
        (
            "/api.twilio.com/2010-04-01/Accounts/AC1/Messages.json",
            "/api.twilio.com/2010-04-01/Accounts/AC1/Messages.json",
            "",
        ),
        ("/v1/PhoneNumbers/%2B14155550100", "/v1/PhoneNumbers/%2B14155550100", ""),
        ("/v1/coupons/50%20off", "/v1/coupons/50%20off", ""),
        ("/v1/tags/%C3%BC", "/v1/tags/%C3%BC", ""),
    ],
)
def test_all_else_is_taken_as_it_is(rest: str, path: str, query: str) -> None:
    assert split_address(rest) == (path, query)
