"""What Twilio's operations are quoted at, and what is refused."""

from __future__ import annotations

import base64
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qs, urlencode

import pytest

from luigi_spendguard.errors import SpendDenied
from luigi_spendguard.vendors import Quote, Request, VendorSettings
from luigi_spendguard.vendors.twilio import STAND_IN, VENDOR
from tests.support.made_up import MADE_UP

SID = "AC" + "1" * 32
OTHER = "AC" + "2" * 32
SECRET = "twilio_token_canary"
PRICES = {
    "sms_prices": {"1": 10, "44": 50, "4420": 70, "*": 900},
    "sms_fees": {"1": 1},
    "mms_prices": {"1": 35, "*": 900},
    "mms_fees": {"1": 5},
    "call_prices": {"1": 14, "44": 30},
    "channel_prices": {"whatsapp": 200},
    "scheduling_price": 15,
    "verify_price": 50,
    "lookup_prices": {"line_type_intelligence": 8},
}
VERIFY = {"To": "+14155550100", "Channel": "sms"}
FORM = "application/x-www-form-urlencoded"
API = f"https://api.twilio.com/2010-04-01/Accounts/{SID}"


def settings(**more: Any) -> VendorSettings:
    own = {"account_sid": SID, **PRICES, **more.pop("own", {})}
    return VendorSettings("twilio", SECRET, own=own, **more)


def post(url: str, said: dict[str, Any] | None = None, user: str = SID, **headers: str) -> Request:
    shown = base64.b64encode(f"{user}:{SECRET}".encode()).decode()
    given = {"authorization": f"Basic {shown}", "content-type": FORM, **headers}
    return Request("POST", url, given, urlencode(said or {}, doseq=True).encode())


def quote(request: Request, **more: Any) -> Quote:
    return VENDOR.quote(request, settings(**more), SECRET, {"eur": Decimal("1.1")})


def sms(to: str = "+14155550100", body: str = "Hello", **more: Any) -> Request:
    return post(f"{API}/Messages.json", {"To": to, "From": "+14155550199", "Body": body, **more})


def call(to: str = "+14155550100", **more: Any) -> Request:
    said = {"To": to, "From": "+14155550199", "Twiml": "<Response><Say>Hi</Say></Response>", **more}
    return post(f"{API}/Calls.json", {name: value for name, value in said.items() if value is not None})


def reason(request: Request, **more: Any) -> str:
    with pytest.raises(SpendDenied) as denied:
        quote(request, **more)
    return denied.value.reason


class TestMessages:
    @pytest.mark.parametrize(
        ("to", "body", "micros"),
        [
            ("+14155550100", "Hello", 11),
            ("+14155550100", "a" * 161, 22),
            ("+14155550100", "ж" * 71, 22),
            ("+447700900123", "Hello", 50),
            ("+442071234567", "Hello", 70),  # The longest beginning decides.
            ("+18685550100", "Hello", 900),  # Trinidad's numbers begin with 1, too.
            ("+17875550100", "Hello", 900),
            ("+4915123456789", "Hello", 900),
        ],
    )
    def test_segments_by_destination(self, to: str, body: str, micros: int) -> None:
        quoted = quote(sms(to, body))
        assert (quoted.operation, quoted.target, quoted.total_micros) == ("messages.create", to, micros)
        assert quoted.customers == (to,)
        assert not quoted.repeatable

    def test_a_territory_may_have_a_price(self) -> None:
        table = {**PRICES["sms_prices"], "1868": 300}
        assert quote(sms("+18685550100"), own={"sms_prices": table}).total_micros == 300

    def test_media_costs_the_dearer_of_a_message_and_a_link(self) -> None:
        media = {"MediaUrl": ["https://a.example/1", "https://a.example/2"]}
        assert quote(sms(**media)).total_micros == 40
        assert quote(sms(body="a" * 1500, **media)).total_micros == 11 * 11
        assert quote(sms(SendAsMms="true")).total_micros == 40

    def test_a_content_template_is_quoted_at_the_most_segments(self) -> None:
        assert quote(sms(ContentSid="HX" + "1" * 32)).total_micros == 25 * 11

    def test_a_messaging_service_may_encode_or_send_otherwise(self) -> None:
        service = {"MessagingServiceSid": "MG" + "1" * 32}
        assert quote(sms(body="…" * 60)).total_micros == 11
        assert quote(sms(body="…" * 60, **service)).total_micros == 33

    def test_scheduling_costs_more_and_no_price_contains_it(self) -> None:
        quoted = quote(sms(ScheduleType="fixed", SendAt="2026-12-01T00:00:00Z"))
        assert (quoted.total_micros, quoted.fees_micros) == (11 + 15, 1 + 15)

    def test_other_channels(self) -> None:
        assert quote(sms("whatsapp:+14155550100")).total_micros == 200
        assert reason(sms("messenger:123")) == "unpriced"
        assert reason(sms("whatsapp:+14155550100"), own={"channel_prices": {}}) == "unpriced"

    @pytest.mark.parametrize(
        "request_",
        [
            sms("4155550100"),
            sms(" 14155550100"),
            sms("+0155550100"),
            sms("12345"),
            sms(""),
            sms("+1415555010\u0660"),
            sms("+" + "1" * 16),
            sms(body="a" * 1601),
            sms(body="😀" * 801),
            sms(Unknown="1"),
            sms(to_="x"),
            post(f"{API}/Messages.json?To=%2B4915123456789", {"Body": "x"}),
            post(f"{API}/Messages.json", {"To": ["+14155550100", "+4915123456789"], "Body": "x"}),
            post(f"{API}/Messages.json", {"to": "+14155550100", "Body": "x"}),
            post(f"{API}/Messages.json", {"To": "+14155550100"}, **{"content-type": "application/json"}),
            post(f"{API}/Messages.json", {"To": "+14155550100"}, **{"content-encoding": "gzip"}),
            Request("POST", f"{API}/Messages.json", {"content-type": FORM}, b"To=%2B14155550100;Body=x"),
        ],
    )
    def test_what_could_be_read_in_two_ways_is_unpriced(self, request_: Request) -> None:
        assert reason(request_) == "unpriced"

    @pytest.mark.parametrize(
        "request_",
        [
            sms(),
            sms("whatsapp:+14155550100"),
            sms(SendAsMms="true"),
            sms(ShortenUrls="true"),
            call(TimeLimit="60", Record="true"),
            call(),
            post("https://verify.twilio.com/v2/Services/VA1/Verifications", VERIFY),
            Request(
                "GET",
                "https://lookups.twilio.com/v2/PhoneNumbers/%2B14155550100?Fields=line_type_intelligence",
                {"authorization": post("").headers["authorization"]},
                b"",
            ),
        ],
    )
    def test_another_price_of_luigi_cfgs_makes_no_other_request(self, request_: Request) -> None:
        dearer = {
            "sms_prices": {"1": 11},
            "mms_prices": {"1": 36},
            "call_prices": {"1": 15},
            "channel_prices": {"whatsapp": 201},
            "scheduling_price": 16,
            "verify_price": 51,
            "lookup_prices": {"line_type_intelligence": 9},
            "call_time_limit_s": 600,
        }
        before, after = quote(request_), quote(request_, own=dearer)
        assert before.total_micros != after.total_micros
        assert before.fingerprint == after.fingerprint
        assert before.fingerprint_before != after.fingerprint_before

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            (sms(), sms(SendAsMms="true")),
            (sms(), sms(ShortenUrls="true")),
            (call(TimeLimit="60"), call(TimeLimit="61")),
            (call(TimeLimit="60"), call(TimeLimit="60", Record="true")),
            (call(TimeLimit="60"), call(TimeLimit="60", MachineDetection="Enable")),
        ],
    )
    def test_what_costs_more_by_itself_is_another_request(self, one: Request, other: Request) -> None:
        assert quote(one).fingerprint != quote(other).fingerprint

    def test_another_text_is_another_request_and_a_callback_is_not(self) -> None:
        same = quote(sms()).fingerprint
        assert quote(sms(StatusCallback="https://a.example")).fingerprint == same
        assert quote(sms(body="Bye")).fingerprint != same

    @pytest.mark.parametrize(
        ("key", "callers"),
        [("order-1", True), pytest.param(MADE_UP["stripe-node"](), False, id="made up"), (None, False)],
    )
    def test_whose_key_it_is(self, key: str | None, callers: bool) -> None:
        request = sms()
        if key:
            request = Request("POST", request.url, {**request.headers, "idempotency-key": key}, request.body)
        quoted = quote(request)
        assert (quoted.key, quoted.key_is_callers) == (key, callers)
        assert "idempotency-key" not in VENDOR.wire(request, settings(), SECRET, "").headers


class TestCalls:
    def test_minutes_up_to_the_limit(self) -> None:
        assert quote(call(TimeLimit="61")).total_micros == 2 * 14
        assert quote(call("+447700900123", TimeLimit="60")).total_micros == 30
        assert quote(call()).total_micros == 10 * 14
        assert quote(call(), own={"call_time_limit_s": 120}).total_micros == 2 * 14

    def test_a_call_without_a_limit_gets_one_on_the_wire(self) -> None:
        sent = VENDOR.wire(call(), settings(), SECRET, "")
        assert parse_qs(sent.body.decode())["TimeLimit"] == ["600"]
        assert parse_qs(sent.body.decode())["To"] == ["+14155550100"]
        own = VENDOR.wire(call(TimeLimit="90"), settings(), SECRET, "")
        assert parse_qs(own.body.decode())["TimeLimit"] == ["90"]

    def test_what_rings_others_is_unpriced_unless_bounded(self) -> None:
        loud = [
            call(Twiml="<Response><Dial>+1</Dial></Response>"),
            call(Twiml=None, Url="https://a.example"),
            call(Twiml=None, ApplicationSid="AP1"),
            call(Twiml="<Response>"),
            call(Twiml='<!DOCTYPE x [<!ENTITY a "b">]><Response/>'),
            call(Twiml='<Response><Say voice="Polly.Joanna-Generative">x</Say></Response>'),
        ]
        assert {reason(request) for request in loud} == {"unpriced"}
        url = call(Twiml=None, Url="https://a.example", TimeLimit="60")
        assert quote(url, own={"call_legs": 1}).total_micros == 14
        assert quote(url, own={"call_legs": 3}).total_micros == 14 + 2 * 90_000  # The dearest in the table.

    def test_extras_are_added(self) -> None:
        assert quote(call(MachineDetection="Enable", TimeLimit="60")).total_micros == 14 + 7_500
        assert quote(call(Record="true", TimeLimit="120")).total_micros == 28 + 2 * 2_500

    @pytest.mark.parametrize(
        "request_",
        [
            call("+4915123456789"),
            call("sip:a@b.example"),
            call("client:joe"),
            call(TimeLimit="0"),
            call(TimeLimit="86401"),
            call(TimeLimit="1e3"),
            call(Transcribe="true"),
        ],
    )
    def test_what_has_no_price_or_limit_is_unpriced(self, request_: Request) -> None:
        assert reason(request_) == "unpriced"


def test_verifications_are_quoted_with_their_message_and_a_lookup() -> None:
    url = f"https://verify.twilio.com/v2/Services/VA{'1' * 32}/Verifications"
    assert quote(post(url, {"To": "+14155550100", "Channel": "sms"})).total_micros == 50 + 2 * 11 + 8
    assert quote(post(url, {"To": "+14155550100", "Channel": "call"})).total_micros == 50 + 14
    assert quote(post(url, {"To": "+14155550100", "Channel": "whatsapp"})).total_micros == 250
    for channel in ("email", "sna", "auto", ""):
        assert reason(post(url, {"To": "+14155550100", "Channel": channel})) == "unpriced"
    check = post(url.replace("Verifications", "VerificationCheck"), {"To": "+14155550100", "Code": "1"})
    assert quote(check).free


def test_lookups_are_paid_by_their_fields() -> None:
    base = "https://lookups.twilio.com/v2/PhoneNumbers/%2B14155550100"

    def fetch(query: str) -> Request:
        return Request("GET", base + query, {})

    assert quote(fetch("")).read
    assert quote(fetch("?Fields=validation")).read
    paid = quote(fetch("?Fields=line_type_intelligence,validation"))
    assert (paid.read, paid.total_micros) == (False, 8)
    both = quote(fetch("?Fields=line_type_intelligence,caller_name"))
    assert both.total_micros == 8 + 10_000
    assert reason(fetch("?Fields=sim_swap")) == "unpriced"


def test_what_nothing_bounds_needs_the_operators_price() -> None:
    buy = post(f"{API}/IncomingPhoneNumbers.json", {"PhoneNumber": "+14155550100"})
    assert reason(buy) == "unpriced"
    priced = quote(buy, prices={"incoming_phone_numbers.create": 1_150_000})
    assert (priced.total_micros, priced.fixed) == (1_150_000, True)
    with pytest.raises(SpendDenied, match=r"messages\.create, which is priced by what it asks for"):
        quote(sms(), prices={"messages.create": 1})
    assert quote(Request("GET", f"{API}/Messages.json", {}), prices={"messages.create": 1}).read


def test_a_message_may_be_cancelled_or_redacted_and_a_call_be_ended() -> None:
    one = f"{API}/Messages/SM{'1' * 32}.json"
    cancel = quote(post(one, {"Status": "canceled"}))
    assert (cancel.object_id, cancel.only_less, cancel.total_micros) == ("SM" + "1" * 32, True, 0)
    assert quote(post(one, {"Body": ""})).free
    assert reason(post(one, {"Body": "other"})) == "unpriced"
    ended = quote(post(f"{API}/Calls/CA{'1' * 32}.json", {"Status": "completed"}))
    assert ended.only_less
    assert reason(post(f"{API}/Calls/CA{'1' * 32}.json", {"Url": "https://a.example"})) == "unpriced"


class TestAccounts:
    @pytest.mark.parametrize("named", [SID, STAND_IN, "me", "run_1"])
    def test_the_path_gets_the_operators(self, named: str) -> None:
        request = post(
            f"https://api.twilio.com/2010-04-01/Accounts/{named}/Messages.json",
            {"To": "+14155550100", "From": "+1", "Body": "x"},
            user=named,
        )
        assert quote(request).path == f"/api.twilio.com/2010-04-01/Accounts/{SID}/Messages.json"
        sent = VENDOR.wire(request, settings(), SECRET, "")
        assert sent.url == f"{API}/Messages.json"
        assert base64.b64decode(sent.headers["authorization"][6:]).decode() == f"{SID}:{SECRET}"

    def test_another_one_is_refused(self) -> None:
        assert reason(post(f"https://api.twilio.com/2010-04-01/Accounts/{OTHER}/Messages.json")) == "scope"
        assert reason(post(f"https://api.twilio.com/2010-04-01/accounts/{OTHER}/Messages.json")) == "scope"
        assert reason(post(f"{API}/Messages.json", user=OTHER)) == "scope"
        with pytest.raises(SpendDenied, match="account_sid"):
            VENDOR.quote(sms(), VendorSettings("twilio", SECRET), SECRET, {})

    def test_an_api_key_signs_where_one_is_set(self) -> None:
        key = "SK" + "3" * 32
        sent = VENDOR.wire(sms(), settings(own={"api_key_sid": key}), SECRET, "")
        assert base64.b64decode(sent.headers["authorization"][6:]).decode() == f"{key}:{SECRET}"


class TestAddresses:
    @pytest.mark.parametrize(
        "url",
        [
            f"https://api.twilio.com@evil.example/2010-04-01/Accounts/{SID}/Messages.json",
            f"https://api.twilio.com.evil.example/2010-04-01/Accounts/{SID}/Messages.json",
            f"http://api.twilio.com/2010-04-01/Accounts/{SID}/Messages.json",
            f"https://api.twilio.com:444/2010-04-01/Accounts/{SID}/Messages.json",
            f"https://eviltwilio.com/2010-04-01/Accounts/{SID}/Messages.json",
            f"{API}//Messages.json",
            f"{API}/../{OTHER}/Messages.json",
            f"{API}/Messages%2ejson",
            f"{API}/Messages.json/",
            f"{API}%2f..%2f{OTHER}/Messages.json",
            f"{API}/./Messages.json",
        ],
    )
    def test_no_other_place_is_sent_to(self, url: str) -> None:
        assert reason(post(url, {"To": "+14155550100", "Body": "x"})) in ("endpoint", "scope")
        with pytest.raises(SpendDenied):
            VENDOR.wire(post(url), settings(), SECRET, "")

    def test_all_of_twilios_hosts_have_a_place_behind_the_gateway(self) -> None:
        for host in ("api.twilio.com", "verify.twilio.com", "api.dublin.ie1.twilio.com"):
            assert VENDOR.rest(f"https://{host}/v1/x?a=b") == f"/{host}/v1/x?a=b"
            assert VENDOR.url(f"/{host}/v1/x?a=b") == f"https://{host}/v1/x?a=b"
        with pytest.raises(SpendDenied):
            VENDOR.url("/evil.example/x")

    def test_what_stands_for_twilio_gets_the_host_in_the_path(self) -> None:
        sent = VENDOR.wire(sms(), settings(base_url="http://127.0.0.1:9"), SECRET, "")
        assert sent.url == f"http://127.0.0.1:9/api.twilio.com/2010-04-01/Accounts/{SID}/Messages.json"


@pytest.mark.parametrize(
    ("method", "url"),
    [
        ("GET", f"https://api.twilio.com/2010-04-01/Accounts/{SID}.json"),
        ("GET", f"https://api.twilio.com/2010-04-01/ACCOUNTS/{SID}.XML"),
        ("GET", "https://api.twilio.com/2010-04-01/Accounts.json"),
        ("POST", f"{API}/Keys.json"),
        ("POST", f"{API}/Tokens.json"),
        ("POST", "https://accounts.twilio.com/v1/AuthTokens/Secondary"),
        ("POST", "https://iam.twilio.com/v1/Keys"),
    ],
)
def test_credentials_are_denied_unless_named_exactly(method: str, url: str) -> None:
    request = Request(method, url, {"content-type": FORM})
    with pytest.raises(SpendDenied, match="hands out credentials") as denied:
        quote(request)
    assert denied.value.reason == "endpoint"
    path = quote_path(url)
    with pytest.raises(SpendDenied):
        quote(request, allowed_endpoints=(f"{method} /*",))
    assert quote(request, allowed_endpoints=(f"{method} {path}",)).total_micros == 0


def quote_path(url: str) -> str:
    return VENDOR._path(Request("GET", url, {}), settings())


def test_an_allowlist_names_operations_or_paths() -> None:
    assert quote(sms(), allowed_endpoints=("messages.create",)).total_micros == 11
    line = "POST /api.twilio.com/2010-04-01/Accounts/*/Messages.json"
    assert quote(sms(), allowed_endpoints=(line,)).total_micros == 11
    assert reason(call(), allowed_endpoints=(line,)) == "endpoint"
    hostless = "POST /2010-04-01/Accounts/*/Messages.json"
    with pytest.raises(SpendDenied, match=r"names no host, as /api\.twilio\.com/2010"):
        quote(sms(), allowed_endpoints=("messages.create", hostless))
    assert reason(Request("GET", f"{API}/Messages.json", {}), allowed_endpoints=(line,)) == "endpoint"
