"""What may be asked of Twilio, and what somebody would hide in it, for `forms.requests`."""

from __future__ import annotations

from tests.support.forms import HEADERS, Asked, Pairs
from tests.support.site import TWILIO_ACCOUNT

API = f"/api.twilio.com/2010-04-01/Accounts/{TWILIO_ACCOUNT}"
VERIFY = f"/verify.twilio.com/v2/Services/VA{'1' * 32}"
TO, DEAR = "+14155550100", "+2348012345678"
QUIET, LOUD = "<Response><Say>Hi</Say></Response>", f"<Response><Dial>{DEAR}</Dial></Response>"

_MESSAGE: Pairs = [("To", TO), ("From", "+15005550006"), ("Body", "Hello you")]
_OF_MESSAGES: Pairs = [
    ("To", DEAR),
    ("Body", "x" * 1600),
    ("Body", "\u20ac\u2026" * 300),
    ("MediaUrl", "https://a.example/1.png"),
    ("MediaUrl", "https://a.example/2.png"),
    ("ContentSid", "HX" + "1" * 32),
    ("SendAsMms", "true"),
    ("ShortenUrls", "true"),
    ("ScheduleType", "fixed"),
    ("SendAt", "2030-01-01T00:00:00Z"),
    ("MessagingServiceSid", "MG" + "1" * 32),
    ("To", f"whatsapp:{TO}"),
    ("FallbackFrom", "whatsapp:+15005550006"),
    ("SmartEncoded", "true"),
    ("StatusCallback", "https://a.example/"),
    ("PersistentAction", "geo:1,2"),
]
_CALL: Pairs = [("To", TO), ("From", "+15005550006"), ("Twiml", QUIET), ("TimeLimit", "60")]
_OF_CALLS: Pairs = [
    ("To", DEAR),
    ("TimeLimit", "14400"),
    ("TimeLimit", ""),
    ("Twiml", LOUD),
    ("Url", "https://a.example/twiml"),
    ("FallbackUrl", "https://a.example/twiml"),
    ("ApplicationSid", "AP" + "1" * 32),
    ("Record", "true"),
    ("MachineDetection", "Enable"),
    ("StatusCallbackEvent", "initiated"),
]
_VERIFICATION: Pairs = [("To", TO), ("Channel", "sms")]
_OF_VERIFICATIONS: Pairs = [
    ("To", DEAR),
    ("Channel", "call"),
    ("Channel", "whatsapp"),
    ("CustomMessage", "x" * 1000),
    ("CustomFriendlyName", "x" * 1000),
    ("TemplateSid", "HJ" + "1" * 32),
]
_FIELDS: Pairs = [("Fields", "caller_name"), ("Fields", "caller_name,sim_swap"), ("Fields", "sim_swap")]
_CHANGES: Pairs = [("Url", "https://a.example/"), ("Twiml", LOUD), ("Body", "Hello again"), ("To", DEAR)]


def _written(name: str) -> list[str]:
    """Return a name in the letters of other servers' habits."""
    small = name[:1].lower() + name[1:]
    snake = "".join(f"_{sign.lower()}" if sign.isupper() else sign for sign in small)
    return [name] * 4 + [name.lower(), name.upper(), small, snake, name.replace("i", "\u0131")]


TWILIO = Asked(
    [
        *[("POST", f"{API}/Messages.json", _MESSAGE, _OF_MESSAGES)] * 3,
        (
            "POST",
            f"{API}/Messages.json",
            [*_MESSAGE, ("MediaUrl", "https://a.example/1.png"), ("MediaUrl", "https://a.example/2.png")],
            _OF_MESSAGES,
        ),
        ("POST", f"{API}/messages", _MESSAGE, _OF_MESSAGES),
        *[("POST", f"{API}/Calls.json", _CALL, _OF_CALLS)] * 3,
        ("POST", f"{API}/Calls.json", _CALL[:-1], _OF_CALLS),
        *[("POST", f"{VERIFY}/Verifications", _VERIFICATION, _OF_VERIFICATIONS)] * 2,
        ("POST", f"{VERIFY}/VerificationCheck", [("To", TO), ("Code", "1")], _OF_VERIFICATIONS),
        *[
            ("GET", f"/lookups.twilio.com/v2/PhoneNumbers/{TO}", honest, _FIELDS)
            for honest in ([("CountryCode", "US")], [("Fields", "line_type_intelligence")])
        ],
        ("POST", f"{API}/Messages/SM{'1' * 32}.json", [("Status", "canceled")], _CHANGES),
        ("POST", f"{API}/Calls/CA{'1' * 32}.json", [("Status", "completed")], _CHANGES),
        (
            "POST",
            f"{API}/Addresses.json",
            [
                ("CustomerName", "x"),
                ("Street", "x"),
                ("City", "x"),
                ("Region", "x"),
                ("PostalCode", "1"),
                ("IsoCountry", "US"),
            ],
            [("EmergencyEnabled", "true")],
        ),
    ],
    [
        f"To=%2B{DEAR[1:]}".encode(),
        b"Fields=caller_name",
        b"fields=sim_swap",
        b"Body=x;TimeLimit=14400",
        b"x",
        b"_method=POST",
        b"Channel=call",
        b"MediaUrl=https://a.example/1.png",
        b"Twiml=%3CDial%3E",
    ],
    [
        *HEADERS,
        ("X-Twilio-Webhook-Enabled", "true"),
        ("x_twilio_webhook_enabled", "true"),
        ("I-Twilio-Idempotency-Token", "evil"),
    ],
    _written,
)
