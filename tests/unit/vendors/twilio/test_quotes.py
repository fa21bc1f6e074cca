"""What could be written so that Twilio's prices would not be seen, and what they come to by default."""

from __future__ import annotations

import pytest

from luigi_spendguard.vendors import Request, VendorSettings
from luigi_spendguard.vendors.twilio import VENDOR
from tests.unit.vendors.twilio.test_vendor import (
    API,
    FORM,
    OTHER,
    SID,
    call,
    post,
    quote,
    reason,
    settings,
    sms,
)

PLAIN = VendorSettings("twilio", own={"account_sid": SID})
NUMBER = "https://lookups.twilio.com/v2/PhoneNumbers/%2B14155550100"
MG = {"MessagingServiceSid": "MG" + "1" * 32}


def total(request: Request) -> int | None:
    return VENDOR.quote(request, PLAIN, "token", {}).total_micros


class TestDefaults:
    @pytest.mark.parametrize(
        ("request_", "micros"),
        [
            (sms(), 8_300 + 8_750),
            (sms("+18685550100"), 500_000),
            (sms("+19395550100"), 500_000),
            (sms("+18675550100"), 8_300 + 8_750),
            (sms("+4915123456789"), 500_000),
            (sms(MediaUrl="https://a.example/1"), 22_000 + 13_500),
            (sms(SendAt="2026-12-01T00:00:00Z"), 8_300 + 8_750 + 15_000),
            (sms(ShortenUrls="true"), 8_300 + 8_750 + 15_000),
            (sms(ShortenUrls="false"), 8_300 + 8_750),
            (call(TimeLimit="60"), 14_000),
            (call("+19075550100", TimeLimit="60"), 90_000),
            (call(TimeLimit="86400"), 1440 * 14_000),
        ],
    )
    def test_what_luigi_cfg_does_not_say(self, request_: Request, micros: int) -> None:
        assert total(request_) == micros

    @pytest.mark.parametrize("to", ["+18685550100", "+18675550100", "+447700900123", "sip:a@b.example"])
    def test_a_call_elsewhere_has_no_price(self, to: str) -> None:
        assert reason(call(to), own={"call_prices": {}}) == "unpriced"

    def test_a_channel_has_none(self) -> None:
        assert reason(sms("whatsapp:+14155550100"), own={"channel_prices": {}}) == "unpriced"


class TestTexts:
    def test_a_service_may_send_it_by_bytes(self) -> None:
        for text in ("é" * 160, "€" * 80):  # One of 160 septets; 320 and 240 bytes.
            assert quote(sms(body=text)).total_micros == 11
            assert quote(sms(body=text, **MG)).total_micros == 2 * 11

    def test_smart_encoding_counts_the_most(self) -> None:
        assert quote(sms(body="…" * 70)).total_micros == 11
        assert quote(sms(body="…" * 70, SmartEncoded="false")).total_micros == 11
        assert quote(sms(body="…" * 70, SmartEncoded="true")).total_micros == 4 * 11

    def test_the_longest_text_is_taken(self) -> None:
        assert quote(sms(body="a" * 1600)).total_micros == 11 * 11
        assert quote(sms(body="\U0001f600" * 800)).total_micros == 25 * 11

    def test_media_take_a_templates_segments_too(self) -> None:
        template = {"ContentSid": "HX" + "1" * 32, "MediaUrl": "https://a.example/1"}
        assert quote(sms(**template)).total_micros == 25 * 11

    def test_the_fees_are_said_apart(self) -> None:
        assert quote(sms()).fees_micros == 1
        assert quote(sms(MediaUrl="https://a.example/1")).fees_micros == 5
        assert quote(call()).fees_micros == 0


class TestCalls:
    @pytest.mark.parametrize("to", ["1:+4915123456789", "*:+4915123456789", "44:x", ":+14155550100"])
    def test_a_price_by_number_is_none_for_a_scheme(self, to: str) -> None:
        assert reason(call(to), own={"call_prices": {"1": 1, "44": 1, "*": 1}}) == "unpriced"

    def test_sip_and_clients_have_prices_of_their_own(self) -> None:
        table = {"sip": 4, "client": 3}
        assert quote(call("sip:a@b.example", TimeLimit="60"), own={"call_prices": table}).total_micros == 4
        assert quote(call("Client:joe", TimeLimit="60"), own={"call_prices": table}).total_micros == 3

    def test_an_empty_limit_is_none(self) -> None:
        request = call(TimeLimit="")
        assert quote(request, own={"call_time_limit_s": 60}).total_micros == 14
        sent = VENDOR.wire(request, settings(own={"call_time_limit_s": 60}), "token", "")
        assert sent.body.endswith(b"TimeLimit=60")
        assert sent.body.count(b"TimeLimit") == 1

    def test_the_limit_is_set_however_the_path_is_written(self) -> None:
        request = call()
        for path in ("calls.json", "CALLS.JSON", "Calls", "Calls.xml"):
            other = Request("POST", f"{API}/{path}", request.headers, request.body)
            assert quote(other).total_micros == 10 * 14
            assert VENDOR.wire(other, settings(), "token", "").body.endswith(b"TimeLimit=600")

    @pytest.mark.parametrize(
        "twiml",
        [
            "<Response><Record/></Response>",
            "<Response><Gather/></Response>",
            "<Response><Pay/></Response>",
            "<Response><Redirect>https://a.example</Redirect></Response>",
            "<Response><Play>https://a.example</Play><Refer/></Response>",
            '<Response><Say voice="Google.x">x</Say></Response>',
            '<x:Response xmlns:x="y"><x:Dial>+1</x:Dial></x:Response>',
            "no xml",
            "",
        ],
    )
    def test_what_may_cost_more_needs_a_bound(self, twiml: str) -> None:
        assert reason(call(Twiml=twiml)) == "unpriced"
        assert quote(call(Twiml=twiml, TimeLimit="60"), own={"call_legs": 1}).total_micros == 14

    def test_a_url_beside_quiet_twiml_is_what_may_be_run(self) -> None:
        assert reason(call(Url="https://a.example")) == "unpriced"
        assert reason(call(ApplicationSid="AP1")) == "unpriced"

    def test_quiet_twiml_rings_one(self) -> None:
        twiml = "<Response><Say voice='alice'>a<break/></Say><Pause/><Play>u</Play><Hangup/></Response>"
        assert quote(call(Twiml=twiml, TimeLimit="60")).total_micros == 14


class TestQueries:
    def test_head_is_billed_as_get(self) -> None:
        for method in ("GET", "HEAD"):
            paid = quote(Request(method, f"{NUMBER}?Fields=line_type_intelligence", {}))
            assert (paid.read, paid.total_micros) == (False, 8)

    @pytest.mark.parametrize(
        "query",
        ["fields=caller_name", "%46ields=caller_name", "Fields=validation,caller_name"],
    )
    def test_fields_are_seen_however_they_are_written(self, query: str) -> None:
        paid = quote(Request("GET", f"{NUMBER}?{query}", {}))
        assert (paid.read, paid.total_micros) == (False, 10_000)

    @pytest.mark.parametrize(
        "query",
        [
            "x=1;Fields=caller_name",
            "Fields[]=caller_name",
            "+Fields=caller_name",
            "Fields=validation&fields=caller_name",
            "Fields=caller_name&Fields=validation",
            "Fields",
            "&Fields=caller_name",
        ],
    )
    def test_what_may_be_fields_is_unpriced(self, query: str) -> None:
        assert reason(Request("GET", f"{NUMBER}?{query}", {})) == "unpriced"

    @pytest.mark.parametrize(
        "url",
        [
            f"{API}/Calls/CA{'1' * 32}.json?Url=https://a.example",
            f"{API}/Calls/CA{'1' * 32}.json?Twiml=x",
            f"{API}/Messages/SM{'1' * 32}.json?Body=x",
        ],
    )
    def test_an_update_has_none(self, url: str) -> None:
        assert reason(post(url, {"Status": "completed"})) == "unpriced"

    def test_nothing_that_is_sent_has_one(self) -> None:
        for request in (sms(), call()):
            other = Request("POST", f"{request.url}?Body=x", request.headers, request.body)
            assert reason(other) == "unpriced"


class TestPaths:
    @pytest.mark.parametrize(
        "url",
        [
            "https://lookups.twilio.com/v2/PhoneNumbers;a/%2B14155550100?Fields=caller_name",
            "https://api.twilio.com/2010-04-01;a/Accounts.json",
            f"{API};a/Keys.json",
            f"{API}/Keys.json;a",
            "https://api.twilio.com",
            "https://api.twilio.com/",
            f"{API}\\Keys.json",
            f"{API}/Keys json",
        ],
    )
    def test_what_may_be_read_in_two_ways_goes_nowhere(self, url: str) -> None:
        for method in ("GET", "HEAD", "POST"):
            assert reason(Request(method, url, {"content-type": FORM})) == "endpoint"

    @pytest.mark.parametrize("path", ["Accounts", "Accounts.txt", "Accounts.json", "accounts.Json.XML"])
    def test_the_list_of_accounts_shows_tokens_in_any_format(self, path: str) -> None:
        assert reason(Request("GET", f"https://api.twilio.com/2010-04-01/{path}", {})) == "endpoint"

    @pytest.mark.parametrize("ending", ["", ".json", ".txt", "/Messages.json", "/Calls/CA1.json"])
    def test_another_account_is_refused_wherever_it_stands(self, ending: str) -> None:
        url = f"https://api.twilio.com/2010-04-01/Accounts/{OTHER}{ending}"
        for method in ("GET", "POST"):
            assert reason(Request(method, url, {"content-type": FORM})) == "scope"
