"""How a call of Twilio's could cost more than its quote, pass for free, or take the secret elsewhere."""

from __future__ import annotations

import contextlib
import json
from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luigi_spendguard.errors import SpendDenied
from luigi_spendguard.vendors import Reply, Request
from luigi_spendguard.vendors.twilio import VENDOR
from luigi_spendguard.vendors.twilio.operations import kind_of
from tests.support.vendor_table import operations
from tests.unit.vendors.twilio.test_outcomes import FX, SENT, SINCE, reply
from tests.unit.vendors.twilio.test_vendor import (
    API,
    FORM,
    OTHER,
    SECRET,
    call,
    post,
    quote,
    reason,
    settings,
    sms,
)

SERVICE = {"MessagingServiceSid": "MG" + "1" * 32}
TEMPLATE = {"ContentSid": "HX" + "1" * 32}
LOOKUP = "https://lookups.twilio.com/v2/PhoneNumbers/+14155550100"
VERIFY = f"https://verify.twilio.com/v2/Services/VA{'1' * 32}/Verifications"
QUIET = "<Response><Say>Hi</Say></Response>"


def get(url: str, method: str = "GET") -> Request:
    return Request(method, url, {})


class TestPlaces:
    @pytest.mark.parametrize(
        "host",
        [
            "support",
            "status",
            "www",
            "console",
            "help",
            "demo",
            "handler",
            "api.sip",
            "api.dublin",
            "info",
            "evil.api",
            "api.dublin.ie1.x",
            "verify-api",
        ],
    )
    def test_the_secret_goes_to_no_host_that_is_no_api(self, host: str) -> None:
        request = get(f"https://{host}.twilio.com/v1/Services")
        assert reason(request) == "endpoint"
        with pytest.raises(SpendDenied):
            VENDOR.wire(request, settings(), SECRET, "")
        assert not VENDOR.only_reads(request)

    def test_every_host_of_the_sdk_has_its_place(self) -> None:
        for host in {host for _, _, host, _ in operations("twilio")}:
            product = host.partition(".")[0]
            for one in (host, f"{product}.dublin.ie1.twilio.com", f"{product}.us1.twilio.com"):
                sent = VENDOR.wire(get(f"https://{one}/v1/x"), settings(), SECRET, "")
                assert sent.url == f"https://{one}/v1/x"

    @given(st.text(alphabet="api.twilocmev/\\@:?#%2f \n\t;0-", max_size=40))
    def test_whatever_an_address_says_the_secret_stays_at_twilio(self, text: str) -> None:
        for url in (f"https://{text}", f"https://api.twilio.com{text}", f"https://api.twilio.com/{text}"):
            try:
                sent = VENDOR.wire(get(url), settings(), SECRET, "").url
            except SpendDenied:
                continue
            assert sent.split("/")[2] == "api.twilio.com"

    @pytest.mark.parametrize(
        "url",
        [
            "https://api.twilio.com\\@evil.example/2010-04-01/x",
            "https://API.TWILIO.COM/2010-04-01/x",
            "https://api.twilio.com\n.evil.example/x",
            "//api.twilio.com/2010-04-01/x",
            "https://api.twilio.com.:443/2010-04-01/x",
            "https://user@api.twilio.com/2010-04-01/x",
            "https://api.twilio.com?/@evil.example/",
            "http://127.0.0.1:9/api.twilio.com/2010-04-01/x",
        ],
    )
    def test_an_address_in_disguise_is_refused(self, url: str) -> None:
        assert reason(get(url)) == "endpoint"

    def test_base_url_is_no_prefix_of_another_host(self) -> None:
        own = settings(base_url="http://127.0.0.1:9")
        for url in (
            "http://127.0.0.1:99/api.twilio.com/x",
            "http://127.0.0.1:9@evil.example/x",
            "http://127.0.0.1:9/evil.example/x",
        ):
            with pytest.raises(SpendDenied):
                VENDOR.wire(get(url), own, SECRET, "")

    @pytest.mark.parametrize(
        "url",
        [
            f"https://insights.twilio.com/v1/Voice/{OTHER}",
            f"{API}/ConnectApps/{OTHER}.json",
            f"https://accounts.twilio.com/v1/{OTHER}/x",
            f"{API},{OTHER}/Messages.json",
        ],
    )
    def test_another_account_anywhere_in_a_path_is_refused(self, url: str) -> None:
        assert reason(get(url)) == "scope"

    def test_headers_that_would_make_it_another_request_stay_here(self) -> None:
        names = ("x-http-method-override", "x-original-url", "x-rewrite-url", "cookie", "proxy-authorization")
        sent = VENDOR.wire(post(f"{API}/Messages.json", **dict.fromkeys(names, "x")), settings(), SECRET, "")
        assert not set(names) & set(sent.headers)


class TestNotFree:
    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    def test_a_paid_lookup_by_any_name(self, method: str) -> None:
        for url in (
            f"{LOOKUP}?Fields=line_type_intelligence",
            f"{LOOKUP}.json?fields=line_type_intelligence",
            f"{LOOKUP.replace('PhoneNumbers', 'phonenumbers')}?F%69elds=line_type_intelligence",
        ):
            request = get(url, method)
            assert not VENDOR.only_reads(request)
            quoted = quote(request)
            assert (quoted.read, quoted.total_micros) == (False, 8)

    @pytest.mark.parametrize(
        "query",
        [
            "CountryCode=US;Fields=sim_swap",
            "Fields[]=sim_swap",
            "Fields%20=sim_swap",
            "AddOns=x",
            "Type=x",
            "Fields%00=sim_swap",
            "Fields=line_type_intelligence,sim_swap",
            "Fields=validation%0Asim_swap",
        ],
    )
    def test_a_lookup_that_may_be_read_otherwise(self, query: str) -> None:
        request = get(f"{LOOKUP}?{query}")
        assert reason(request) == "unpriced"
        assert not VENDOR.only_reads(request) or "Fields=" in query

    def test_a_lookup_may_say_what_it_matches_against(self) -> None:
        assert quote(get(f"{LOOKUP}?CountryCode=US&FirstName=Ann")).read

    @pytest.mark.parametrize(
        ("method", "url"),
        [
            ("GET", "https://lookups.twilio.com/v1/PhoneNumbers/+14155550100?Type=carrier"),
            ("HEAD", "https://lookups.twilio.com/v1/PhoneNumbers/+14155550100"),
            ("GET", "https://lookups.twilio.com/v3/PhoneNumbers/+14155550100"),
            ("HEAD", "https://numbers.twilio.com/v1/Porting/Portability/PhoneNumber/+14155550100"),
            ("GET", f"https://webhooks.twilio.com/v1/Accounts/{API[-34:]}/Flows/FW{'1' * 32}"),
            ("GET", f"https://api.twilio.com/2008-08-01/Accounts/{API[-34:]}"),
            ("DELETE", f"https://api.twilio.com/2008-08-01/Accounts/{API[-34:]}/Usage/Triggers/UT1"),
            ("POST", f"https://api.twilio.com/2008-08-01/Accounts/{API[-34:]}/Messages"),
            ("post", f"{API}/IncomingPhoneNumbers.json"),
            ("delete", f"{API}/Queues/QU1.json"),
            ("POST", f"{API}/SMS/Messages.json"),
            ("POST", f"{API}/Messages.txt"),
            ("PURGE", f"{API}/Messages.json"),
            ("POST", f"{VERIFY}/VE{'1' * 32}"),
        ],
    )
    def test_what_is_in_no_rule(self, method: str, url: str) -> None:
        assert reason(Request(method, url, {"content-type": FORM})) == "unpriced"

    @pytest.mark.parametrize("path", ["2010-04-01/Accounts;x.json", f"{API[23:]};x.json", "v1/x;y"])
    def test_parameters_in_a_path_hide_nothing(self, path: str) -> None:
        assert reason(get(f"https://api.twilio.com/{path}")) == "endpoint"

    def test_an_update_says_all_in_its_form(self) -> None:
        ring = f"{API}/Calls/CA{'1' * 32}.json"
        for query in ("Url=https%3A%2F%2Fa.example", "Twiml=%3CDial%3E"):
            assert reason(post(f"{ring}?{query}", {"Status": "completed"})) == "unpriced"
        assert reason(post(ring, {"Status": "completed", "Twiml": "<Dial/>"})) == "unpriced"
        assert reason(post(f"{API}/Messages/SM{'1' * 32}.json?Body=x", {"Status": "canceled"})) == "unpriced"

    def test_a_fixed_price_is_no_price_of_a_lookup(self) -> None:
        fixed = {"lookups.phone_numbers.fetch": 1}
        assert reason(get(f"{LOOKUP}?Fields=line_type_intelligence"), prices=fixed) == "unpriced"
        old = get(LOOKUP.replace("v2", "v1") + "?AddOns=x")
        assert reason(old, prices=fixed) == "unpriced"
        assert quote(old, prices={"lookups.v1.phone_numbers.fetch": 9}).total_micros == 9

    def test_no_operation_that_may_cost_is_free(self) -> None:
        for decided, method, host, path in operations("twilio"):
            if decided not in ("free", "read", "message", "call", "lookup", "verify"):
                assert kind_of(method, host, path) not in ("free", "read"), (method, host, path)


class TestNotDearer:
    @pytest.mark.parametrize("charset", ["iso-8859-1", "utf-16", "utf-7", "utf-8, utf-7", "utf-8; x=y"])
    def test_a_text_in_another_character_set_is_not_counted(self, charset: str) -> None:
        named = {"content-type": f"{FORM}; charset={charset}"}
        request = post(f"{API}/Messages.json", {"To": "+14155550100", "Body": "ç" * 70}, **named)
        assert reason(request) == "unpriced"
        plain = {"content-type": f"{FORM}; charset=UTF-8"}
        assert quote(post(f"{API}/Messages.json", {"To": "+14155550100", "Body": "x"}, **plain)).total_micros

    def test_a_semicolon_may_begin_another_parameter(self) -> None:
        body = b"Body=Hi;To=%2B4915123456789&To=%2B14155550100"
        assert reason(Request("POST", f"{API}/Messages.json", {"content-type": FORM}, body)) == "unpriced"

    def test_a_form_is_a_form(self) -> None:
        more = {"content-type": f"{FORM}-2"}
        assert reason(post(f"{API}/Messages.json", {"To": "+14155550100"}, **more)) == "unpriced"

    @pytest.mark.parametrize(
        ("more", "segments"),
        [
            (TEMPLATE, 25),
            (TEMPLATE | SERVICE, 32),
            (TEMPLATE | {"SmartEncoded": "true"}, 32),
            ({"From": "MG" + "1" * 32, "Body": "…" * 60}, 3),
            (SERVICE | {"Body": "ü" * 160}, 2),
            (SERVICE | {"Body": "あ" * 1600}, 49),
            (SERVICE | {"Body": "ü" * 306, "MediaUrl": "https://a.example"}, 4),
            (TEMPLATE | SERVICE | {"ContentVariables": "…" * 1599 + "ж"}, 73),
            ({"Body": "http://a.b " * 10, "ShortenUrls": "true"}, 8),
            ({"Body": "http://a.b " * 10}, 1),
        ],
    )
    def test_what_a_text_may_grow_to(self, more: dict[str, Any], segments: int) -> None:
        quoted = quote(sms(**more), own={"scheduling_price": 0})
        assert quoted.total_micros == max(segments * 11, 40 if "MediaUrl" in more else 0)

    def test_rcs_is_paid_by_the_segment(self) -> None:
        own = {"channel_prices": {"rcs": 10, "whatsapp": 200}}
        assert quote(sms("rcs:+14155550100", "a" * 161), own=own).total_micros == 20
        assert quote(sms("RCS:+14155550100", "", **TEMPLATE), own=own).total_micros == 320
        assert quote(sms("rcs:+14155550100", ""), own=own).total_micros == 10
        assert quote(sms("whatsapp:+14155550100", "a" * 999), own=own).total_micros == 200

    @pytest.mark.parametrize("sender", ["rcs:shop", "whatsapp:+14155550199", "messenger:1"])
    def test_a_channel_that_only_the_sender_names(self, sender: str) -> None:
        assert reason(sms(From=sender)) == "unpriced"

    @pytest.mark.parametrize(
        "to", ["1:+2348012345678", "*:x", "44:+4412345678", ":+14155550100", "tel:+1415"]
    )
    def test_a_prefix_is_no_scheme(self, to: str) -> None:
        table = {"1": 14, "44": 30, "*": 90}
        assert reason(call(to), own={"call_prices": table}) == "unpriced"

    @pytest.mark.parametrize(
        "more",
        [
            {"FallbackUrl": "https://a.example"},
            {"Url": ""},
            {"ApplicationSid": ""},
            {"Twiml": f'<?xml version="1.0" encoding="utf-7"?>{QUIET}'},
            {"Twiml": f'<?xml version="1.0" encoding="UTF-8"?><?x y?>{QUIET}'},
            {"Twiml": "<Response><Redirect>https://a.example</Redirect></Response>"},
            {"Twiml": '<x:Response xmlns:x="urn:y"><x:Dial>+1</x:Dial></x:Response>'},
            {"Twiml": "<Response><Gather input='speech'/></Response>"},
            {"Twiml": ""},
        ],
    )
    def test_what_else_may_ring(self, more: dict[str, str]) -> None:
        assert reason(call(**more)) == "unpriced"

    def test_the_sdks_own_twiml_is_read(self) -> None:
        from twilio.twiml.voice_response import VoiceResponse

        said = VoiceResponse()
        said.say("Your order is on its way")
        assert quote(call(Twiml=str(said), TimeLimit="60")).total_micros == 14

    @pytest.mark.parametrize(
        ("more", "segments"),
        [
            ({}, 2),
            ({"CustomFriendlyName": "Shop"}, 2),
            ({"CustomFriendlyName": "S" * 33}, 25),
            ({"CustomMessage": "x"}, 25),
            ({"TemplateSid": "HJ1"}, 25),
            ({"Payee": "x"}, 25),
        ],
    )
    def test_a_verification_may_have_a_long_text(self, more: dict[str, str], segments: int) -> None:
        quoted = quote(post(VERIFY, {"To": "+14155550100", "Channel": "sms", **more}))
        assert quoted.total_micros == 50 + segments * 11 + 8

    def test_a_verification_on_whatsapp_may_become_a_text(self) -> None:
        abroad = {"To": "+4915123456789", "Channel": "whatsapp"}
        assert quote(post(VERIFY, abroad)).total_micros == 50 + 2 * 900 + 8

    def test_a_call_is_never_longer_than_what_was_quoted(self) -> None:
        for limit in ({}, {"TimeLimit": ""}):
            sent = VENDOR.wire(call(**limit), settings(own={"call_time_limit_s": 60}), SECRET, "")
            assert sent.body.count(b"TimeLimit=60") == 1
            assert sent.body.count(b"TimeLimit") == 1


class TestReplies:
    @pytest.mark.parametrize("price", ["1E+999999", "-1E+30", "-Infinity", "sNaN", "", "0x10"])
    def test_a_price_beyond_belief_is_none(self, price: str) -> None:
        found = VENDOR.outcome(quote(sms()), reply(price=price), resent=False, fx=FX)
        assert (found.kind, found.total_micros, found.price_due) == ("settle", 11, True)
        assert VENDOR.followed(reply(200, status="sent", price=price), settings(), FX).total_micros is None

    @pytest.mark.parametrize(
        "more", [{"sid": None}, {"sid": 5}, {"date_created": "Mon, 01 Jan 0001 00:00:00"}, {"direction": []}]
    )
    def test_an_odd_entry_of_a_list_breaks_nothing(self, more: dict[str, Any]) -> None:
        listed = Reply(200, {}, json.dumps({"messages": [{**SENT, **more}, 5, None, SENT]}).encode())
        found = VENDOR.matches(quote(sms()), sms(), listed, SINCE)
        assert list(found) == [SENT["sid"]]

    def test_a_list_of_another_account_is_not_searched(self) -> None:
        asked = VENDOR.search(quote(sms()), sms(), SINCE)
        assert asked is not None
        assert VENDOR.wire(asked, settings(), SECRET, "").url.startswith(f"{API}/Messages.json?")


_TO = st.sampled_from(["+14155550100", "+4915123456789", "whatsapp:+14155550100"]) | st.text(max_size=20)
_MORE = st.sampled_from(["From", "Body", "MediaUrl", "SendAt", "ContentSid", "SmartEncoded", "ShortenUrls"])


@given(_TO, st.dictionaries(_MORE, st.text(max_size=20)))
def test_no_message_is_quoted_at_less_than_a_segment(to: str, more: dict[str, str]) -> None:
    request = Request(
        "POST", f"{API}/Messages.json", {"content-type": FORM}, urlencode({"To": to, **more}).encode()
    )
    with contextlib.suppress(SpendDenied):
        assert (quote(request).total_micros or 0) >= 11
