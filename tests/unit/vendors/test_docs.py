"""What docs/vendors.md says of Twilio and Resend is what the adapters do: rows, prices, allowlist lines."""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import urlencode

import pytest

from luigi_spendguard.errors import SpendDenied
from luigi_spendguard.ledger.replays import RESEND_MS
from luigi_spendguard.money import plain_usd
from luigi_spendguard.vendors import Quote, Request, VendorSettings, resend, twilio
from luigi_spendguard.vendors.base import Vendor
from luigi_spendguard.vendors.resend import operations as resend_operations
from luigi_spendguard.vendors.twilio import operations as twilio_operations
from luigi_spendguard.vendors.twilio import prices
from tests.support.processes import REPOSITORY
from tests.support.vendor_table import operations

PAPER = (REPOSITORY / "docs" / "vendors.md").read_text("utf-8")
SID, MESSAGE, CALL = (f"{kind}{'1' * 32}" for kind in ("AC", "SM", "CA"))
API = f"https://api.twilio.com/2010-04-01/Accounts/{SID}"
VERIFY = "https://verify.twilio.com/v2/Services/VA1"
NUMBER = "https://lookups.twilio.com/v2/PhoneNumbers/%2B14155550100"
MAILS = "https://api.resend.com"
SMS = {"To": "+14155550100", "From": "+14155550199", "Body": "Hello"}
RUNG = {"To": "+14155550100", "From": "+14155550199", "Twiml": "<Response/>"}
MAIL = {"from": "a@example.com", "to": ["b@example.com", "c@example.com"], "subject": "s"}
OWN: dict[str, dict[str, Any]] = {"twilio": {"account_sid": SID}, "resend": {}}


def section(name: str) -> str:
    return PAPER.partition(f"\n## {name}\n")[2].partition("\n## ")[0]


def prose(name: str) -> str:
    """Return a section's text as one line, without what is generated."""
    return " ".join(re.sub(r"<!-- \w+ [\s\S]*?<!-- end -->", "", section(name)).split())


def form(url: str, said: dict[str, str]) -> Request:
    headers = {"content-type": "application/x-www-form-urlencoded"}
    return Request("POST", url, headers, urlencode(said).encode())


def mail(path: str, said: Any, method: str = "POST") -> Request:
    return Request(method, MAILS + path, {"content-type": "application/json"}, json.dumps(said).encode())


def quoted(vendor: Vendor, request: Request, **settings: Any) -> Quote:
    own = {**OWN[vendor.name], **settings.pop("own", {})}
    return vendor.quote(request, VendorSettings(vendor.name, own=own, **settings), "secret", {})


#: For each row: a call, what it holds by default in micro-dollars, and one that is denied as the row says.
ROWS: list[tuple[str, Request, int, Request | None]] = [
    (
        "messages.create | SMS",
        form(f"{API}/Messages.json", SMS),
        8_300 + 8_750,
        form(f"{API}/Messages.json", {**SMS, "Body": "x" * 1601}),
    ),
    (
        "messages.create | MMS",
        form(f"{API}/Messages.json", {**SMS, "MediaUrl": "https://a.example/1"}),
        22_000 + 13_500,
        form(f"{API}/Messages.json", {**SMS, "To": "4155550100", "MediaUrl": "https://a.b/1"}),
    ),
    (
        "messages.create | content template",
        form(f"{API}/Messages.json", {"To": SMS["To"], "From": SMS["From"], "ContentSid": "HX" + "1" * 32}),
        25 * (8_300 + 8_750),
        form(f"{API}/Messages.json", {**SMS, "ContentSid": "HX1", "Unheard": "1"}),
    ),
    (
        "messages.create | other channels",
        form(f"{API}/Messages.json", {**SMS, "To": "whatsapp:+14155550100", "From": "whatsapp:+14155550199"}),
        205_000,
        form(f"{API}/Messages.json", {**SMS, "To": "messenger:1", "From": "messenger:2"}),
    ),
    (
        "messages.update",
        form(f"{API}/Messages/{MESSAGE}.json", {"Status": "canceled"}),
        0,
        form(f"{API}/Messages/{MESSAGE}.json", {"Body": "more"}),
    ),
    ("messages.update", form(f"{API}/Messages/{MESSAGE}.json", {"Body": ""}), 0, None),
    (
        "calls.create",
        form(f"{API}/Calls.json", RUNG),
        10 * 14_000,
        form(f"{API}/Calls.json", {**SMS, "Url": "https://a.example"}),
    ),
    (
        "calls.update",
        form(f"{API}/Calls/{CALL}.json", {"Status": "completed"}),
        0,
        form(f"{API}/Calls/{CALL}.json", {"Twiml": "<Response/>"}),
    ),
    (
        "verify.services.verifications.create",
        form(f"{VERIFY}/Verifications", {"To": SMS["To"], "Channel": "sms"}),
        50_000 + 2 * (8_300 + 8_750) + 8_000,
        form(f"{VERIFY}/Verifications", {"To": "a@example.com", "Channel": "email"}),
    ),
    (
        "verify.services.verification_check.create",
        form(f"{VERIFY}/VerificationCheck", {"To": SMS["To"], "Code": "123456"}),
        0,
        None,
    ),
    (
        "lookups.phone_numbers.fetch",
        Request("GET", f"{NUMBER}?Fields=caller_name,line_status", {}),
        10_000 + 7_000,
        Request("GET", f"{NUMBER}?Fields=sim_swap", {}),
    ),
    (
        "emails.send",
        mail("/emails", {**MAIL, "cc": "d@example.com"}),
        3 * 900,
        mail("/emails", {**MAIL, "headers": {"Bcc": "e@example.com"}}),
    ),
    ("batch.send", mail("/emails/batch", [MAIL, MAIL]), 4 * 900, mail("/emails/batch", [MAIL] * 101)),
    (
        "emails.update",
        mail("/emails/m1", {"scheduled_at": "in 1 hour"}, "PATCH"),
        0,
        mail("/emails/m1", {"to": "d@example.com"}, "PATCH"),
    ),
    ("emails.cancel", mail("/emails/m1/cancel", {}), 0, None),
    ("broadcasts.create", mail("/broadcasts", {"name": "n"}), 0, mail("/broadcasts", {"send": True})),
]


def vendor_of(request: Request) -> Vendor:
    return resend.VENDOR if request.url.startswith(MAILS) else twilio.VENDOR


def own_of(row: str) -> dict[str, Any]:
    return {"channel_prices": {"whatsapp": 205_000}} if "other channels" in row else {}


@pytest.mark.parametrize(("row", "request_", "micros", "denied"), ROWS)
def test_a_row_is_what_the_adapter_does(
    row: str, request_: Request, micros: int, denied: Request | None
) -> None:
    operation, _, kind = row.partition(" | ")
    vendor = vendor_of(request_)
    found = quoted(vendor, request_, own=own_of(row))
    assert (found.operation, found.total_micros) == (operation, micros)
    assert f"| `{operation}` | {kind}" in section(vendor.name.capitalize())
    if denied is not None:
        with pytest.raises(SpendDenied) as error:
            quoted(vendor, denied, own=own_of(row))
        assert error.value.reason == "unpriced"


@pytest.mark.parametrize("name", ["Twilio", "Resend"])
def test_every_row_has_its_sample(name: str) -> None:
    table = re.search(rf"<!-- {name.lower()} priced[\s\S]*?<!-- end -->", section(name))
    assert table is not None
    rows = re.findall(r"^\| `([\w.]+)` \| ([^|]+)", table.group(), re.MULTILINE)
    sampled = [row for row, request, _, _ in ROWS if vendor_of(request).name == name.lower()]
    for operation, told in rows:
        assert any(f"{operation} | {told}".startswith(one) for one in sampled), (operation, told)


def test_every_row_of_the_tables_is_an_operation_of_the_sdk() -> None:
    known = {
        twilio_operations.operation_of(method, host, path) for _, method, host, path in operations("twilio")
    }
    assert {row.operation for row in twilio_operations.TABLE} <= known
    known = {resend_operations.operation_of(method, path) for _, method, _, path in operations("resend")}
    assert {row.operation for row in resend_operations.TABLE} <= known


def test_the_allowlist_lines_let_pass_what_they_name() -> None:
    lines = {
        "Twilio": (
            form(f"{API}/Messages.json", SMS),
            "POST /api.twilio.com/2010-04-01/Accounts/*/Messages.json",
            "messages.create",
        ),
        "Resend": (mail("/emails", MAIL), "POST /emails", "emails.send"),
    }
    for name, (request, *allowed) in lines.items():
        for line in allowed:
            assert f"`{line}`" in prose(name)
            assert quoted(vendor_of(request), request, allowed_endpoints=(line,)).total_micros
        with pytest.raises(SpendDenied) as error:
            quoted(vendor_of(request), request, allowed_endpoints=("POST /elsewhere",))
        assert error.value.reason == "endpoint"
    cancel = mail("/emails/m1/cancel", {})
    assert "`POST /emails/*/cancel`" in prose("Resend")
    assert quoted(resend.VENDOR, cancel, allowed_endpoints=("POST /emails/*/cancel",)).only_less


def test_where_a_call_goes_with_base_url() -> None:
    for request, path in (
        (form(f"{API}/Messages.json", SMS), "/api.twilio.com/2010-04-01/"),
        (mail("/emails", MAIL), "/emails"),
    ):
        vendor = vendor_of(request)
        settings = VendorSettings(vendor.name, base_url="http://127.0.0.1:9", own=OWN[vendor.name])
        assert vendor.wire(request, settings, "s", "").url.startswith(f"http://127.0.0.1:9{path}")
        assert f"`<base_url>{path}" in section(vendor.name.capitalize())


def test_the_figures_in_the_text_are_the_codes() -> None:
    said, mails = prose("Twilio"), prose("Resend")
    assert f"Machine detection is counted at {plain_usd(prices.DETECTION_PRICE)} USD a call" in said
    assert f"recording at {plain_usd(prices.RECORDING_PRICE)} USD a minute" in said
    assert f"`call_time_limit_s`, {prices.CALL_TIME_LIMIT_S} seconds by default" in said
    assert f"`email_price` is {plain_usd(resend_operations.EMAIL_PRICE)} USD" in mails
    assert f"{plain_usd(1000 * resend_operations.EMAIL_PRICE)} for 1,000 mails" in mails
    assert f"more than {resend_operations.MOST_MAILS} mails" in section("Resend")
    assert f"within {RESEND_MS // 3_600_000} hours" in mails


def test_what_is_denied_unless_priced_passes_at_the_price_of_the_example() -> None:
    number = form(f"{API}/IncomingPhoneNumbers.json", {"PhoneNumber": "+14155550100"})
    for request in (number, mail("/broadcasts/b1/send", {})):
        vendor = vendor_of(request)
        example = re.search(r"fixed price, such as `([\w.]+): ([\d.]+)`", prose(vendor.name.capitalize()))
        assert example is not None
        micros = round(float(example.group(2)) * 1_000_000)
        found = quoted(vendor, request, prices={example.group(1): micros})
        assert (found.operation, found.total_micros, found.fixed) == (example.group(1), micros, True)
        with pytest.raises(SpendDenied) as error:
            quoted(vendor, request)
        assert error.value.reason == "unpriced"


def test_who_is_searched_for_and_who_is_sent_again() -> None:
    for row, request, _, _ in ROWS:
        vendor = vendor_of(request)
        found = quoted(vendor, request, own=own_of(row))
        searched = vendor.search(found, request, 0) is not None
        assert searched is (row in ("messages.create | SMS", "messages.create | other channels")), row
        if found.total_micros:
            assert found.repeatable is (found.operation in ("emails.send", "batch.send"))


@pytest.mark.parametrize("name", ["Twilio", "Resend"])
def test_its_lines_are_short(name: str) -> None:
    text = re.sub(r"<!-- \w+ [\s\S]*?<!-- end -->", "", section(name))
    assert [line for line in text.splitlines() if len(line) > 120] == []
