"""`spendguard reconcile twilio` and `resend` with a real luigid, after calls by the vendors' own SDKs."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
import resend
from twilio.base.exceptions import TwilioException
from twilio.rest import Client

from luigi_spendguard.settings.policy import moment
from tests.support.asking import ADMIN, WORKER
from tests.support.site import Site
from tests.support.vendors import FakeResend, FakeTwilio


@pytest.fixture(scope="module")
def site(engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("gateway")
    twilio, mails = FakeTwilio(folder / "twilio"), FakeResend(folder / "resend")
    # Nobody else learns a price meanwhile.
    twilio.control(options={"sms_price": {"1": "0.01"}, "send_delay": 0, "price_delay": 3600})
    with Site(
        folder / "site",
        twilio=twilio,
        resend=mails,
        gateway=True,
        spendguard={"admin_token": ADMIN, "worker_token": WORKER},
        spendguard_twilio={"sms_prices": "1: 0.01", "sms_fees": "1: 0.002"},
    ) as site:
        site.fakes = {"twilio": twilio, "resend": mails}
        yield site
    twilio.process.end()
    mails.process.end()


def key(site: Site, vendor: str) -> dict[str, Any]:
    said = {"vendor": vendor, "run_usd_cap": "1", "agent_run_label": f"{vendor}-{time.time_ns()}"}
    status, made = site.call("POST", "/vault/keys", said, WORKER)
    assert status == 201, made
    return made


def found(site: Site, vendor: str, *args: str) -> tuple[int, dict[str, Any]]:
    """Return the exit code and what was printed of the one account."""
    until = str(moment(int(time.time() + 1) * 1000))
    said = ("reconcile", vendor, "--until", until, "--format", "json", *args)
    code, out, err = site.cli(*said, **site.secrets)
    assert code in (0, 1), out + err
    [account] = json.loads(out)
    assert not [one for one in site.secrets.values() if one in out + err]
    return code, account


def causes(account: dict[str, Any]) -> dict[str, str]:
    return {one["cause"]: one["applied"] for one in account["differences"]}


def not_compared(account: dict[str, Any]) -> list[str]:
    return [one["cause"] for one in account["not_compared"]]


def test_a_lost_text_is_known_and_booked_with_its_sid(site: Site) -> None:
    made = key(site, "twilio")
    client = Client("run_1", made["vault_key"])
    client.api.base_url = f"{site.url}/twilio/api.twilio.com"
    client.messages.create(to="+14155550100", from_="+14155550199", body="Hello")
    twilio = site.fakes["twilio"]
    twilio.fault("drop_after", match="POST /api.twilio.com/*/Messages.json")
    with suppress(TwilioException):
        client.messages.create(to="+14155550101", from_="+14155550199", body="Hello")
    client.http_client.session.close()
    assert site.run(made["run_id"])["reserved_usd"] == "0.012"
    code, account = found(site, "twilio")
    assert (code, causes(account)) == (1, {"made": ""})
    assert (not_compared(account), account["ledger_not_compared_usd"]) == (["no_price"], "0.012")
    code, account = found(site, "twilio", "--apply")
    assert causes(account)["made"] == "booked"
    run = site.run(made["run_id"])
    assert (run["spent_usd"], run["reserved_usd"]) == ("0.024", "0.00")
    sids = {one["sid"] for one in twilio.sent()}
    assert {one["object_id"] for one in site.calls(made["run_id"])} == sids
    code, account = found(site, "twilio")
    assert (code, causes(account), not_compared(account)) == (0, {}, ["no_price", "no_price"])
    twilio.control(options={"price_delay": 0})
    code, account = found(site, "twilio")
    assert (code, account["fees_usd"]) == (0, "0.004")
    assert site.cli("ledger", "check")[0] == 0


def test_a_mail_that_was_cancelled_at_resend_is_given_back(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = key(site, "resend")
    monkeypatch.setattr(resend, "api_url", f"{site.url}/resend")
    monkeypatch.setattr(resend, "api_key", made["vault_key"])
    mail: resend.Emails.SendParams = {
        "from": "a@example.com",
        "to": ["one@example.com", "two@example.com"],
        "subject": "Hello",
        "html": "<p>Hi</p>",
        "scheduled_at": "in 1 hour",
    }
    sent = resend.Emails.send(mail)
    resend.Batch.send([mail, {**mail, "to": ["three@example.com"]}])
    assert found(site, "resend")[0] == 0
    mails = site.fakes["resend"]
    shown = mails.books()["objects"]
    for mail_id in (sent["id"], list(shown)[-1]):
        mails.control(put=[{**shown[mail_id], "last_event": "canceled"}])
    code, account = found(site, "resend", "--apply")
    assert (code, [one["applied"] for one in account["differences"]]) == (0, ["booked", "booked"])
    assert site.run(made["run_id"])["spent_usd"] == "0.0018"
    code, table, _ = site.cli("reconcile", "resend", **site.secrets)
    assert (code, "0 differences" in table) == (0, True)
    assert site.cli("ledger", "check")[0] == 0


def test_whose_books_twilios_are_has_to_be_known(site: Site) -> None:
    key(site, "twilio")
    before = site.settings["spendguard_twilio"].pop("account_sid")
    try:
        site.configure()
        code, _, err = site.cli("reconcile", "twilio", **site.secrets)
    finally:
        site.settings["spendguard_twilio"]["account_sid"] = before
        site.configure()
    assert (code, err.count("set [spendguard_twilio] account_sid")) == (3, 1)
    assert "Traceback" not in err
