"""A stock client of Twilio or Resend at the gateway: a vault key and another address, nothing else."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import resend
from twilio.base.exceptions import TwilioRestException
from twilio.rest import Client

from tests.support.processes import wait_until
from tests.support.site import TWILIO_ACCOUNT, TWILIO_SECRET, Site
from tests.support.vendors import FakeResend, FakeTwilio


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("gateway")
    twilio, mails = FakeTwilio(folder / "twilio"), FakeResend(folder / "resend")
    twilio.control(options={"sms_price": {"1": "0.01"}, "send_delay": 0, "price_delay": 0.5})
    with Site(
        folder / "site",
        twilio=twilio,
        resend=mails,
        gateway=True,
        spendguard_twilio={"sms_prices": "1: 0.05", "sms_fees": "1: 0"},
        spendguard_resend={"email_price": "0.01"},
    ) as site:
        site.fakes = {"twilio": twilio, "resend": mails}
        yield site
    twilio.process.end()
    mails.process.end()


def key(site: Site, vendor: str, **terms: Any) -> dict[str, Any]:
    status, made = site.call("POST", "/vault/keys", {"vendor": vendor, "run_usd_cap": "0.10", **terms}, None)
    assert status == 201, made
    return made


@pytest.fixture
def client(site: Site) -> Iterator[Client]:
    made = Client("run_1", key(site, "twilio")["vault_key"])
    made.api.base_url = f"{site.url}/twilio/api.twilio.com"
    made.messaging.base_url = f"{site.url}/twilio/messaging.twilio.com"
    yield made
    made.http_client.session.close()


def test_the_account_in_the_path_is_the_operators_and_the_cap_holds(site: Site, client: Client) -> None:
    twilio = site.fakes["twilio"]
    before = len(twilio.sent())
    made = [client.messages.create(to="+14155550100", from_="+14155550199", body=str(n)) for n in range(2)]
    with pytest.raises(TwilioRestException) as denied:
        client.messages.create(to="+14155550100", from_="+14155550199", body="third")
    assert (denied.value.status, denied.value.code) == (429, 9000429)
    assert denied.value.details["cap_hit"] is True
    assert [one.account_sid for one in made] == [TWILIO_ACCOUNT] * 2
    assert len(twilio.sent()) == before + 2
    assert TWILIO_SECRET not in str(denied.value.__dict__)


def test_prices_that_come_late_are_asked_for_by_luigid(site: Site, client: Client) -> None:
    sent = client.messages.create(to="+14155550101", from_="+14155550199", body="late")

    def call() -> dict[str, Any]:
        _, calls = site.call("GET", "/calls")
        return next(one for one in calls if one["object_id"] == sent.sid)

    assert (call()["spent_usd"], call()["estimated"]) == ("0.05", True)
    wait_until(lambda: not call()["estimated"], what="the price")
    assert call()["spent_usd"] == "0.01"
    assert call()["corrections"][0]["usd"] == "-0.04"
    code, out, _ = site.cli("calls", "--run", call()["run_id"])
    assert code == 0
    assert "-0.04 (Twilio's price is 0.01000 USD)" in out


def test_the_links_of_a_page_lead_back_to_the_gateway(site: Site, client: Client) -> None:
    twilio = site.fakes["twilio"]
    before = len(twilio.books()["requests"])
    assert len(client.messaging.v1.services.list(page_size=1)) == 3
    pages = twilio.books()["requests"][before:]
    assert len(pages) >= 3
    assert TWILIO_SECRET not in str([request["path"] for request in pages])
    assert len(list(client.messages.stream(page_size=1, limit=3))) == 3


def test_credentials_are_not_handed_out(site: Site, client: Client) -> None:
    with pytest.raises(TwilioRestException) as denied:
        client.api.v2010.accounts(TWILIO_ACCOUNT).fetch()
    assert denied.value.status == 403
    assert "credentials" in denied.value.msg


def test_another_account_and_another_host_are_refused(site: Site, client: Client) -> None:
    with pytest.raises(TwilioRestException, match=r"not \[spendguard_twilio\] account_sid"):
        client.api.v2010.accounts("AC" + "f" * 32).messages("SM" + "1" * 32).fetch()
    client.api.base_url = f"{site.url}/twilio/api.twilio.com.evil.example"
    with pytest.raises(TwilioRestException, match="no host of Twilio"):
        client.messages("SM" + "1" * 32).fetch()
    run_id = site.call("GET", "/vault/keys")[1][0]["run_id"]
    assert [(call["reason"], call["path"].split("/")[1]) for call in site.calls(run_id)] == [
        ("endpoint", "api.twilio.com.evil.example"),
        ("scope", "api.twilio.com"),
    ]


def test_a_mail_by_the_stock_sdk(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    mails = site.fakes["resend"]
    monkeypatch.setattr(resend, "api_key", key(site, "resend")["vault_key"])
    monkeypatch.setattr(resend, "api_url", f"{site.url}/resend")
    mail = {"from": "a@example.com", "to": ["b@example.com"], "subject": "s", "text": "t"}
    for _ in range(10):
        resend.Emails.send(mail)  # Without a task's identity each one is a new call.
    with pytest.raises(resend.exceptions.ResendError) as denied:
        resend.Emails.send(mail)
    assert (denied.value.code, denied.value.error_type) == (429, "budget_exhausted")
    assert denied.value.headers["X-Spendguard-Cap-Hit"] == "true"
    assert mails.mails() == 10
    assert all(request["key"] for request in mails.posts())


def test_curl_as_the_docs_have_it(site: Site, tmp_path: Path) -> None:
    made = key(site, "twilio")
    done = subprocess.run(
        [
            "curl",
            "-sS",
            "-u",
            f"anything:{made['vault_key']}",
            "--data-urlencode",
            "To=+14155550100",
            "--data-urlencode",
            "From=+14155550199",
            "-d",
            "Body=Hello",
            f"{site.url}/twilio/api.twilio.com/2010-04-01/Accounts/me/Messages.json",
        ],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
        cwd=tmp_path,
    )
    sent = json.loads(done.stdout)
    assert (sent["to"], sent["account_sid"]) == ("+14155550100", TWILIO_ACCOUNT)


@pytest.mark.parametrize("key_given", [True, False])
def test_a_lost_reply_is_asked_for_again_only_under_a_key(site: Site, key_given: bool) -> None:
    """Without a key the client's own retry would be another message."""
    twilio = site.fakes["twilio"]
    before = len(twilio.sent())
    headers = {"Idempotency-Key": "order-17"} if key_given else {}

    def send() -> requests.Response:
        return requests.post(
            f"{site.url}/twilio/api.twilio.com/2010-04-01/Accounts/me/Messages.json",
            data={"To": "+14155550177", "From": "+14155550199", "Body": "Paid"},
            auth=("me", vault_key),
            headers=headers,
            timeout=30,
        )

    vault_key = key(site, "twilio")["vault_key"]
    twilio.fault("drop_after", match="POST /api.twilio.com/*/Messages.json")
    lost = send()
    assert (lost.status_code, lost.headers["X-Should-Retry"]) == (502, str(key_given).lower())
    if key_given:
        found = send()
        assert (found.status_code, found.json()["sid"]) == (201, twilio.sent()[-1]["sid"])
        assert "X-Spendguard-Replayed" in found.headers
    assert len(twilio.sent()) == before + 1
