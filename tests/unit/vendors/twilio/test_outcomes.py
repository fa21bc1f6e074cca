"""What Twilio's replies are read as: at once, later, and in a list."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from luigi_spendguard.errors import DENIAL_STATUS, OutcomeUnknown, SpendDenied, denial
from luigi_spendguard.vendors import Outcome, Quote, Reply, Request
from luigi_spendguard.vendors.twilio import DENIED_CODE, VENDOR
from tests.unit.vendors.twilio.test_vendor import API, SID, call, post, quote, settings, sms

SM = "SM" + "1" * 32
FX = {"eur": Decimal("1.1")}
SENT = {
    "sid": SM,
    "to": "+14155550100",
    "from": "+14155550199",
    "body": "Hello",
    "price": None,
    "price_unit": "USD",
    "status": "queued",
    "direction": "outbound-api",
    "date_created": "Wed, 25 Nov 2026 10:00:00 +0000",
}
SINCE = 1_795_600_800_000  # The same moment, in milliseconds.


def reply(http: int = 201, **more: Any) -> Reply:
    return Reply(http, {"content-type": "application/json"}, json.dumps({**SENT, **more}).encode())


def read(quoted: Quote, answered: Reply) -> Outcome:
    return VENDOR.outcome(quoted, answered, resent=False, fx=FX)


def test_a_message_without_a_price_is_settled_at_its_quote() -> None:
    found = read(quote(sms()), reply())
    assert (found.kind, found.total_micros, found.object_id, found.price_due) == ("settle", 11, SM, True)


@pytest.mark.parametrize(
    ("price", "unit", "total"),
    [
        ("-0.000008", "USD", 9),
        ("-0.000011", "USD", 11),
        ("-0.00750", "USD", 7_500),
        ("-0.000005", "EUR", 7),
        ("-0.01", "EUR", 11_000),
        ("-0.01", "GBP", None),
        ("much", "USD", None),
        ("NaN", "USD", None),
        ("-1E999999", "USD", None),
        ("-1E300", "EUR", None),
        ("-Infinity", "USD", None),
    ],
)
def test_a_price_is_taken_with_the_fees_that_it_may_lack(price: str, unit: str, total: int | None) -> None:
    found = read(quote(sms()), reply(price=price, price_unit=unit))
    assert (found.total_micros, found.price_due) == (total or 11, total is None)


def test_what_a_channel_charges_is_not_in_twilios_price() -> None:
    to = "whatsapp:+14155550100"
    quoted = quote(sms(to, From="whatsapp:+14155550199"), own={"channel_prices": {"whatsapp": 80_000}})
    found = read(quoted, reply(to=to, price="-0.005"))
    assert (found.total_micros, found.price_due) == (80_000, True)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "void"),
        (401, "void"),
        (404, "void"),
        (429, "void"),
        (408, "doubt"),
        (409, "doubt"),
        (424, "doubt"),
        (499, "doubt"),
        (500, "doubt"),
        (302, "doubt"),
    ],
)
def test_what_a_status_says(status: int, kind: str) -> None:
    assert read(quote(sms()), reply(status)).kind == kind


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"{}", json.dumps({**SENT, "to": "+1999"}).encode()])
def test_what_cannot_be_believed_is_in_doubt(body: bytes) -> None:
    found = read(quote(sms()), Reply(201, {}, body))
    assert found.kind == "doubt"
    assert found.error


def test_cancelling_frees_that_message_alone() -> None:
    cancel = quote(post(f"{API}/Messages/{SM}.json", {"Status": "canceled"}))
    done = read(cancel, reply(200, status="canceled"))
    assert (done.total_micros, done.only_less, done.object_id) == (0, True, SM)
    assert read(cancel, reply(200, status="sent")).total_micros is None
    assert read(cancel, reply(200, sid="SM" + "2" * 32, status="canceled")).kind == "doubt"


def test_a_call_is_settled_as_a_message_is() -> None:
    ring = quote(call("client:Joe", TimeLimit="60"), own={"call_prices": {"client": 4}})
    assert read(ring, reply(sid="CA1", to="client:Joe")).total_micros == 4
    assert read(ring, reply(sid="CA1", to="client:Jim")).error
    assert read(ring, reply(sid="CA1", to="client:joe", price="-0.000003")).total_micros == 3


@pytest.mark.parametrize("sid", [None, "", 1, []])
def test_a_reply_without_a_sid_is_in_doubt(sid: Any) -> None:
    assert read(quote(sms()), reply(sid=sid)).kind == "doubt"


def test_what_is_free_or_fixed_stays_so_whatever_is_said() -> None:
    bought = post(f"{API}/IncomingPhoneNumbers.json", {"PhoneNumber": "+14155550100"})
    fixed = quote(bought, prices={"incoming_phone_numbers.create": 5})
    assert read(fixed, reply(price="-9.00", to="+1999")).total_micros == 5
    assert read(fixed, reply(500)).kind == "doubt"
    redacted = quote(post(f"{API}/Messages/{SM}.json", {"Body": ""}))
    assert read(redacted, reply(200, status="canceled")).total_micros is None
    looked = quote(Request("GET", f"{API}/Messages/{SM}.json", {}))
    assert (looked.read, read(looked, reply(500)).kind) == (True, "settle")


def test_completing_frees_nothing_yet() -> None:
    end = quote(post(f"{API}/Calls/CA1.json", {"Status": "completed"}))
    done = read(end, reply(200, sid="CA1", status="in-progress"))
    assert (done.kind, done.total_micros, done.only_less) == ("settle", None, True)
    assert read(end, reply(404)).kind == "void"


# Later.


def test_only_the_own_accounts_prices_are_asked_for() -> None:
    asked = VENDOR.follow_up(f"twilio:{SID}", SM, settings())
    assert asked is not None
    assert asked.url == f"{API}/Messages/{SM}.json"
    ring = VENDOR.follow_up(f"twilio:{SID}", "CA" + "1" * 32, settings())
    assert ring is not None
    assert "/Calls/CA" in ring.url
    assert VENDOR.follow_up("twilio:AC" + "9" * 32, SM, settings()) is None


@pytest.mark.parametrize(
    ("said", "total", "final"),
    [
        ({"status": "delivered", "price": "-0.00830"}, 8_300, True),
        ({"status": "delivered"}, None, False),
        ({"status": "queued"}, None, False),
        ({"status": "canceled"}, 0, True),
        ({"status": "failed"}, 1_000, True),
        ({"status": "failed", "sid": "CA1"}, 0, True),
        ({"status": "busy", "sid": "CA1"}, 0, True),
        ({"status": "no-answer", "sid": "CA1"}, 0, True),
        ({"status": "delivered", "price": "-0.01", "price_unit": "EUR"}, 11_000, True),
        ({"status": "delivered", "price": "-0.01", "price_unit": "GBP"}, None, False),
        ({"status": "read", "price": "-0.005", "to": "whatsapp:+14155550100"}, None, True),
        ({"status": "read", "price": None, "to": "whatsapp:+14155550100"}, None, False),
        ({"status": "failed", "price": "-0.005", "to": "whatsapp:+14155550100"}, 1_000, True),
        ({"status": "completed", "price": "-0.004", "to": "client:Joe", "sid": "CA1"}, 4_000, True),
    ],
)
def test_what_an_object_has_cost(said: dict[str, Any], total: int | None, final: bool) -> None:
    found = VENDOR.followed(reply(200, **said), settings(), FX)
    assert (found.total_micros, found.final) == (total, final)
    assert found.note


def test_what_cannot_be_asked_is_asked_again() -> None:
    assert VENDOR.followed(Reply(500, {}, b""), settings(), FX).final is False
    assert VENDOR.followed(Reply(404, {}, b"{}"), settings(), FX).final is True


# Found in a list.


def found(request: Request, *listed: dict[str, Any]) -> list[str]:
    page = Reply(200, {}, json.dumps({"messages": [{**SENT, **one} for one in listed]}).encode())
    return list(VENDOR.matches(quote(request), request, page, SINCE))


def test_a_list_is_asked_for_by_number_alone() -> None:
    asked = VENDOR.search(quote(sms()), sms(), SINCE)
    assert asked is not None
    assert asked.url == f"{API}/Messages.json?To=%2B14155550100&From=%2B14155550199&PageSize=1000"
    bought = post(f"{API}/IncomingPhoneNumbers.json", {"PhoneNumber": "+1"})
    assert VENDOR.search(quote(bought, prices={"incoming_phone_numbers.create": 5}), bought, SINCE) is None


def test_what_an_earlier_send_may_have_made_is_found_oldest_first() -> None:
    newer = {"sid": "SM3", "date_created": "Wed, 25 Nov 2026 10:00:09 +0000"}
    assert found(sms(), newer, {"sid": "SM2"}) == ["SM2", "SM3"]
    assert found(sms(), {"body": "Sent from your Twilio trial account - Hello"}) == [SM]


@pytest.mark.parametrize(
    "other",
    [
        {"body": "Bye"},
        {"num_media": "1"},
        {"to": "+14155550101"},
        {"from": "+1999"},
        {"direction": "inbound"},
        {"date_created": "Wed, 25 Nov 2026 09:59:50 +0000"},
        {"date_created": None},
    ],
)
def test_what_it_cannot_have_made_is_not(other: dict[str, Any]) -> None:
    assert found(sms(), other) == []


def test_a_message_of_another_service_is_not_it() -> None:
    service = {"MessagingServiceSid": "MG1"}
    assert found(sms(**service), {"messaging_service_sid": "MG2"}) == []
    assert found(sms(**service), {"messaging_service_sid": "MG1", "num_media": "0"}) == [SM]


@pytest.mark.parametrize(
    "unshown",
    [
        sms(ContentSid="HX" + "1" * 32),
        sms(MediaUrl="https://example.com/a.png"),
        sms(PersistentAction="a"),
        sms(SendAt="2026-12-01T10:00:00Z", ScheduleType="fixed", MessagingServiceSid="MG1"),
        call(),
    ],
)
def test_what_a_list_does_not_show_again_is_not_searched_for(unshown: Request) -> None:
    """Another template, picture, time or TwiML to the same number would look just the same."""
    assert VENDOR.search(replace(quote(sms()), operation=quote(unshown).operation), unshown, SINCE) is None


def test_a_search_goes_to_the_host_that_was_called() -> None:
    there = API.replace("api.twilio.com", "api.dublin.ie1.twilio.com")
    request = Request("POST", f"{there}/Messages.json", sms().headers, sms().body)
    asked = VENDOR.search(quote(request), request, SINCE)
    assert asked is not None
    assert asked.url.startswith(f"{there}/Messages.json?To=")
    assert "DateSent" not in asked.url


def test_what_an_operator_has_named_is_fetched() -> None:
    asked = VENDOR.fetch(quote(sms()), SM, sms())
    assert (asked.method, asked.url) == ("GET", f"{API}/Messages/{SM}.json")
    for named in ("SM1", f"{SM}/../x", "", f"{SM}\n"):
        with pytest.raises(SpendDenied) as denied:
            VENDOR.fetch(quote(sms()), named, sms())
        assert denied.value.reason == "idempotency_mismatch"


@pytest.mark.parametrize("body", [b"", b"[]", b'{"messages": 5}', b'{"messages": [5, null, {}]}', b"\xff"])
def test_a_list_that_is_none_shows_nothing(body: bytes) -> None:
    assert VENDOR.matches(quote(sms()), sms(), Reply(200, {}, body), SINCE) == {}


@pytest.mark.parametrize("sid", [None, "", "SM1 SM2", []])
def test_an_entry_without_a_sid_is_not_taken(sid: Any) -> None:
    assert found(sms(), {"sid": sid}) == []
    entry = {name: value for name, value in SENT.items() if name != "sid"}
    page = Reply(200, {}, json.dumps({"messages": [entry]}).encode())
    assert VENDOR.matches(quote(sms()), sms(), page, SINCE) == {}


# Said to the client.


@pytest.mark.parametrize(
    ("shown", "secret"),
    [
        ({"authorization": "Basic " + base64.b64encode(b"AC1:token").decode()}, "token"),
        ({"authorization": "Basic " + base64.b64encode(b"AC1").decode()}, ""),
        ({"authorization": "Bearer vault_x"}, "vault_x"),
        ({"authorization": "Basic !"}, ""),
        ({}, ""),
    ],
)
def test_the_credential_is_the_password(shown: dict[str, str], secret: str) -> None:
    assert VENDOR.credential(Request("GET", API, shown)) == secret


@pytest.mark.parametrize("reason", sorted(DENIAL_STATUS))
def test_a_denial_has_twilios_shape(reason: str) -> None:
    shaped = VENDOR.shape(denial(reason, "no", {"cap_usd": "1"}))
    body = json.loads(shaped.body)
    status = DENIAL_STATUS[reason]
    assert (shaped.status, body["status"], body["code"]) == (status, status, DENIED_CODE + status)
    assert body["details"]["cap_usd"] == "1"
    assert body["details"]["cap_hit"] is (reason == "cap")
    assert shaped.headers["content-type"] == "application/json"
    assert shaped.headers["x-should-retry"] == "false"
    unknown = VENDOR.shape(OutcomeUnknown("?", "c1"))
    assert (unknown.status, json.loads(unknown.body)["code"]) == (502, DENIED_CODE + 502)


def test_links_to_pages_lead_to_the_gateway() -> None:
    page = {
        "meta": {
            "next_page_url": "https://messaging.twilio.com/v1/Services?Page=1",
            "page": 0,
            "previous_page_url": None,
        },
        "services": [],
    }
    made = VENDOR.relinked(Reply(200, {}, json.dumps(page).encode()), "http://gw/twilio")
    assert json.loads(made.body)["meta"] == {
        "next_page_url": "http://gw/twilio/messaging.twilio.com/v1/Services?Page=1",
        "page": 0,
        "previous_page_url": None,
    }
    plain = Reply(200, {}, b'{"sid":  "SM1"}')
    assert VENDOR.relinked(plain, "http://gw/twilio") is plain
