"""Every operation of the Twilio and Resend SDKs is of the kind that was decided for it, or a stricter one.

tests/unit/data/*-operations.txt: those of twilio-python 9.13.0 and resend-python 2.52.0, each with what was
decided by reading the vendors' documentation on 2026-11-25.
"""

from __future__ import annotations

import pytest

from luigi_spendguard.vendors import resend, twilio_quotes, twilio_routes
from luigi_spendguard.vendors.twilio import VENDOR as TWILIO
from tests.support.vendor_table import operations

#: How the lists call what the adapter prices by a rule of its own.
NAMED = {
    "message": {"message"}, "call": {"call"}, "lookup": {"lookup"}, "emails": {"emails"}, "batch": {"batch"},
    "verify": {"verification", "verification_check"}, "cancel": {"cancel"},
    "free": {"free", "message_update", "move"}, "read": {"read"},
    "credential": {"credential"}, "unpriced": {"call_update", "broadcast"},
}  # fmt: skip
#: What is never let through without the operator's word.
STRICT = {"unpriced", "credential"}

TWILIO_OPERATIONS = operations("twilio")
RESEND_OPERATIONS = operations("resend")


def test_the_lists_are_whole() -> None:
    assert (len(TWILIO_OPERATIONS), len(RESEND_OPERATIONS)) == (1588, 147)


def test_twilios_operations_are_what_was_decided() -> None:
    for kind, method, host, path in TWILIO_OPERATIONS:
        found = twilio_routes.kind_of(method, host, path)
        assert found in NAMED[kind] | STRICT, (kind, found, method, host, path)


def test_resends_operations_are_what_was_decided() -> None:
    for kind, method, _, path in RESEND_OPERATIONS:
        found = resend.kind_of(method, path)
        assert found in NAMED[kind] | STRICT, (kind, found, method, path)


def test_what_is_restricted_cannot_be_written_around() -> None:
    for kind, method, host, path in TWILIO_OPERATIONS:
        if kind in ("free", "read"):
            continue
        variants = {
            path.upper(),
            path.lower(),
            f"{path}.json",
            f"{path.removesuffix('.json')}.xml",
            f"{path}/",
        }
        for variant in variants:
            found = twilio_routes.kind_of(method, host, variant)
            assert found not in ("free", "read") or method == "GET" == kind, (kind, found, variant)
    for kind, method, _, path in RESEND_OPERATIONS:
        if kind == "credential":
            assert {resend.kind_of(method, path.upper())} <= STRICT


def test_no_credential_is_read_for_nothing() -> None:
    for kind, method, host, path in TWILIO_OPERATIONS:
        if kind == "credential":
            assert twilio_routes.kind_of(method, host, path) == "credential", (method, host, path)
            assert twilio_routes.kind_of(method, host, path.lower()) in STRICT


@pytest.mark.parametrize(
    ("method", "host", "path", "name"),
    [
        ("POST", "api.twilio.com", "/2010-04-01/Accounts/AC1/Messages.json", "messages.create"),
        ("POST", "api.dublin.ie1.twilio.com", "/2010-04-01/Accounts/AC1/Messages", "messages.create"),
        ("POST", "api.twilio.com", f"/2010-04-01/Accounts/AC1/Messages/SM{'1' * 32}.json", "messages.update"),
        ("POST", "api.twilio.com", "/2010-04-01/Accounts/AC1/IncomingPhoneNumbers.json",
         "incoming_phone_numbers.create"),
        ("POST", "verify.twilio.com", "/v2/Services/VA1/Verifications",
         "verify.services.verifications.create"),
        ("GET", "lookups.twilio.com", "/v2/PhoneNumbers/+14155550100", "lookups.phone_numbers.fetch"),
    ],
)  # fmt: skip
def test_operations_have_the_sdks_names(method: str, host: str, path: str, name: str) -> None:
    assert twilio_routes.operation_of(method, host, path) == name


def test_every_row_of_the_tables_is_an_operation() -> None:
    known = {twilio_routes.operation_of(m, host, path) for _, m, host, path in TWILIO_OPERATIONS}
    assert {row.operation for row in twilio_quotes.TABLE} <= known
    assert {row.operation for row in resend.TABLE} <= {
        resend.operation_of(m, path) for _, m, _, path in RESEND_OPERATIONS
    }


def test_a_paid_lookup_is_no_read() -> None:
    from luigi_spendguard.vendors import Request

    base = "https://lookups.twilio.com/v2/PhoneNumbers/+14155550100"
    assert TWILIO.only_reads(Request("GET", base, {}))
    assert TWILIO.only_reads(Request("GET", f"{base}?Fields=validation", {}))
    assert not TWILIO.only_reads(Request("GET", f"{base}?fields=sim_swap", {}))
