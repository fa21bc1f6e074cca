"""Whose idempotency key it is: one that an SDK may have made up is nobody's, for every vendor."""

from __future__ import annotations

import time

import pytest

from luigi_spendguard.vendors import Request
from luigi_spendguard.vendors.registry import VENDORS
from tests.support.made_up import MADE_UP

UUID = "0f8fad5b-d9cb-469f-a165-70867728950e"

every_vendor = pytest.mark.parametrize("vendor", VENDORS)


def is_callers(vendor: str, key: str) -> bool:
    return VENDORS[vendor].key_of(Request("POST", "https://vendor.example", {"idempotency-key": key}))[1]


@every_vendor
@pytest.mark.parametrize("sdk", MADE_UP)
def test_what_an_sdk_may_have_made_up(vendor: str, sdk: str) -> None:
    assert not any(is_callers(vendor, MADE_UP[sdk]()) for _ in range(20))


@every_vendor
@pytest.mark.parametrize(
    "key",
    [
        "order-17",
        f"order-{UUID}",
        f"{UUID}-2",
        f"retry{UUID}",
        "1764339600000000000",
        "1764339600000000000_order-17",
        "17643396_order1",
        UUID.replace("-", "")[:31],
        "receipt-retry-7",
        "0f8fad5b-d9cb-469f-a165-7086772895\u0660e",  # A digit of another script.
    ],
)
def test_what_only_its_caller_can_have_chosen(vendor: str, key: str) -> None:
    assert is_callers(vendor, key)


@pytest.mark.parametrize("begin", ["a_", "a-", "_", "retry-", "0", "a"])
def test_a_long_key_is_read_in_no_time(begin: str) -> None:
    began = time.process_time()
    assert is_callers("stripe", (begin * 255)[:254] + "!")
    assert time.process_time() - began < 0.1
