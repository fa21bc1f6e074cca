"""Odd and plain requests to the gateway: Twilio's own books never count more than ours, whatever is sent."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest
import urllib3

from tests.support.processes import wait_until
from tests.support.site import TWILIO_SECRET, Site
from tests.support.vendors import FakeTwilio

#: What the fake vendor bills by its defaults.
PRICES = {
    "sms_prices": "1: 0.0083, 44: 0.0524, *: 0.1",
    "sms_fees": "1: 0",
    "mms_prices": "1: 0.022, *: 0.2",
    "mms_fees": "1: 0",
    "call_prices": "1: 0.014, *: 0.15",
    "call_legs": 1,
    "failed_price": 0,
    "lookup_prices": "line_type_intelligence: 0.008, caller_name: 0.01",
    "verify_price": 0.05,
}
NUMBERS = [
    "+14155550100",
    "+447700900123",
    "+4915123456789",
    "+18685550100",
    "4155550100",
    "",
    "whatsapp:+14155550100",
    "sip:a@b.example",
    "client:joe",
    "+1415555010\u0660",
]
TEXTS = ["Hello", "a" * 161, "]" * 153, "ж" * 135, "😀" * 67, "…" * 70, "x" * 1601, "", "\t" * 90]
PATHS = [
    "Messages.json",
    "Messages",
    "messages.json",
    "Messages.json/",
    "Messages.xml",
    "Calls",
    "Calls.json",
    "Messages.json?Body=more",
    "SMS/Messages.json",
    "IncomingPhoneNumbers.json",
    "Messages.json%2f..",
    "//Messages.json",
    "../AC" + "f" * 32 + "/Messages.json",
    "Keys.json",
    "Conferences/CF1/Participants.json",
]
HOSTS = ["api.twilio.com"] * 5 + ["api.dublin.ie1.twilio.com", "API.twilio.com", "evil.example"]
FIELDS = ["", "validation", "caller_name", "line_type_intelligence,caller_name", "sim_swap"]
MORE = [
    ("MediaUrl", "https://a.example/1"),
    ("MediaUrl", "https://a.example/2"),
    ("TimeLimit", "61"),
    ("TimeLimit", "99999"),
    ("Twiml", "<Response><Say>x</Say></Response>"),
    ("body", "x"),
    ("Url", "https://a.example"),
    ("MessagingServiceSid", "MG" + "1" * 32),
    ("SendAsMms", "true"),
    ("SmartEncoded", "true"),
    ("To", "+4915123456789"),
    ("StatusCallback", "https://a.example"),
    ("Strange", "1"),
]
FORM = "application/x-www-form-urlencoded"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    twilio = FakeTwilio(tmp_path / "twilio")
    twilio.control(options={"send_delay": 0, "price_delay": 3600})
    with Site(
        tmp_path / "site",
        twilio=twilio,
        gateway=True,
        spendguard_twilio=PRICES,
        spendguard={"default_cap_usd": 1000, "max_cap_usd": 1000},
    ) as made:
        made.twilio = twilio
        yield made
    twilio.process.end()


def request(pick: random.Random) -> tuple[str, str, list[tuple[str, str]]]:
    """Return method, path behind `/twilio` and form of a request that may cost something."""
    if pick.random() < 0.2:
        query = urlencode({pick.choice(["Fields", "fields", "FIELDS"]): pick.choice(FIELDS)})
        return (
            "GET",
            f"/lookups.twilio.com/v2/PhoneNumbers/%2B1415555{pick.randrange(1000, 9999)}?{query}",
            [],
        )
    if pick.random() < 0.15:
        said = [("To", pick.choice(NUMBERS)), ("Channel", pick.choice(["sms", "call", "email", "SMS"]))]
        return "POST", f"/verify.twilio.com/v2/Services/VA{'1' * 32}/Verifications", said
    account = pick.choice(["me", "AC" + "a1" * 16, "AC" + "0" * 32, "AC" + "f" * 32])
    path = f"/{pick.choice(HOSTS)}/2010-04-01/Accounts/{account}/{pick.choice(PATHS)}"
    form = [("To", pick.choice(NUMBERS)), ("From", "+14155550199"), ("Body", pick.choice(TEXTS))]
    return "POST", path, form + pick.sample(MORE, pick.randrange(0, 3))


@pytest.mark.parametrize("seed", range(3))
def test_nothing_costs_more_than_it_was_quoted(site: Site, seed: int) -> None:
    twilio: FakeTwilio = site.twilio
    pick = random.Random(f"twilio {seed}")
    status, made = site.call("POST", "/vault/keys", {"vendor": "twilio", "run_usd_cap": "500"}, None)
    assert status == 201
    pool = urllib3.PoolManager(retries=False, timeout=30)
    good = 0
    for _ in range(250):
        method, path, form = request(pick)
        headers = urllib3.make_headers(basic_auth=f"x:{made['vault_key']}")
        headers["Content-Type"] = pick.choice(
            ["application/x-www-form-urlencoded"] * 9 + ["application/json"]
        )
        body = urlencode(form).encode() if method == "POST" else None
        answer = pool.request(method, f"{site.url}/twilio{path}", headers=headers, body=body, redirect=False)
        good += answer.status < 300
        assert TWILIO_SECRET.encode() not in answer.data
    assert good > 20
    wait_until(lambda: site.run(made["run_id"])["reserved_usd"] == "0.00", what="every call to end")
    counted = {one["object_id"]: one for one in site.calls(made["run_id"]) if one["object_id"]}
    for sent in twilio.sent():
        ours = counted.get(sent["sid"])
        if ours is not None:
            assert sent["micros"] <= round(float(ours["spent_usd"]) * 1_000_000), (sent, ours)
    assert twilio.billed() <= round(float(site.run(made["run_id"])["spent_usd"]) * 1_000_000)
