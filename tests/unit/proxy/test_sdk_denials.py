"""What the user of an SDK catches: for every reason, and when the exchange breaks; synchronous and not."""

from __future__ import annotations

import pickle
from pathlib import Path

import aiohttp
import pytest
import requests
from resend.exceptions import InvalidApiKeyError, RateLimitError, ResendError, ValidationError
from twilio.base.exceptions import TwilioRestException

from luigi_spendguard import BudgetExceeded, KeyRevoked, SpendDenied, proxy
from luigi_spendguard.errors import DENIAL_CLASS, DENIAL_STATUS, OutcomeUnknown
from luigi_spendguard.protocol import ReserveReply
from luigi_spendguard.proxy import resend as proxied_resend
from luigi_spendguard.proxy import twilio_http
from luigi_spendguard.worker.process import blocking
from tests.support.ports import StubLedger, VendorServer, attempt
from tests.support.sdks import MAILS, TEXTS

RESEND = {
    "cap": RateLimitError,
    "revoked": InvalidApiKeyError,
    "expired": InvalidApiKeyError,
    "unknown_key": InvalidApiKeyError,
    "idempotency_mismatch": ValidationError,
}
both_ways = pytest.mark.parametrize("way", ["sync", "async"])
every_reason = pytest.mark.parametrize("reason", DENIAL_STATUS)


def denied_by(port: StubLedger, reason: str) -> None:
    facts = {"run_id": "r", "cap_usd": "1.00"}
    if reason == "ledger_unavailable":
        port.lost = True
    else:
        port.answer = ReserveReply("denied", "c", reason=reason, message=f"denied: {reason}", facts=facts)


@pytest.mark.usefixtures("task")
@both_ways
@every_reason
def test_a_denied_text(port: StubLedger, server: VendorServer, reason: str, way: str) -> None:
    denied_by(port, reason)
    with pytest.raises(TwilioRestException) as caught:
        TEXTS[way]()
    error = caught.value
    assert isinstance(error, DENIAL_CLASS.get(reason, SpendDenied))
    assert (error.reason, error.status) == (reason, DENIAL_STATUS[reason])
    assert error.code == 9_000_000 + DENIAL_STATUS[reason]  # Twilio's have five or six digits.
    assert error.method == "POST"
    assert error.uri.endswith("/Messages.json")
    assert error.msg == error.message == str(error)
    assert error.details["cap_hit"] is (reason == "cap")
    if reason != "ledger_unavailable":
        assert error.details["run_id"] == error.facts["run_id"] == "r"
    assert (len(port.asked), server.requests) == (1, [])
    assert (blocking(error) is not None) == (reason in ("cap", "revoked"))


@pytest.mark.usefixtures("task")
@both_ways
@every_reason
def test_a_denied_mail(port: StubLedger, server: VendorServer, reason: str, way: str) -> None:
    denied_by(port, reason)
    with pytest.raises(ResendError) as caught:
        MAILS[way]()
    error = caught.value
    assert isinstance(error, DENIAL_CLASS.get(reason, SpendDenied))
    assert isinstance(error, RESEND.get(reason, ResendError))
    assert len([kind for kind in set(RESEND.values()) if isinstance(error, kind)]) == (reason in RESEND)
    assert (error.reason, error.code) == (reason, DENIAL_STATUS[reason])
    assert error.error_type != "HttpClientError"
    assert error.message == str(error)
    assert error.headers["X-Should-Retry"] == "false"
    assert ("x-spendguard-cap-hit" in error.headers) == (reason == "cap")
    assert "wait" not in error.suggested_action
    assert (len(port.asked), server.requests) == (1, [])
    assert (blocking(error) is not None) == (reason in ("cap", "revoked"))


@pytest.mark.usefixtures("task")
@both_ways
def test_an_answer_that_never_comes(port: StubLedger, server: VendorServer, way: str) -> None:
    server.status = 0
    natural = {"sync": requests.ConnectionError, "async": aiohttp.ClientConnectionError}[way]
    with pytest.raises(natural, match=r"no reply from Twilio .* counts as in doubt"):
        TEXTS[way]()
    with pytest.raises(ResendError, match=r"no reply from Resend .* counts as in doubt") as caught:
        MAILS[way]()
    assert (caught.value.code, caught.value.error_type) == (500, "HttpClientError")
    assert [end.kind for end in port.ended] == ["doubt", "doubt"]
    assert len(server.requests) == 2


@both_ways
def test_a_vendor_that_cannot_be_reached(tmp_path: Path, port: StubLedger, way: str) -> None:
    natural = {"sync": requests.ConnectionError, "async": aiohttp.ClientConnectionError}[way]
    with proxy.attempt_running(attempt(tmp_path, port)):
        with pytest.raises(natural, match="could not connect to Twilio, nothing was sent"):
            TEXTS[way]()
        with pytest.raises(ResendError, match="could not connect to Resend, nothing was sent"):
            MAILS[way]()
    assert [end.kind for end in port.ended] == ["void", "void"]


def test_a_time_out_is_one_of_the_sdks_client() -> None:
    for asynchronous, natural in ((False, requests.ReadTimeout), (True, aiohttp.ServerTimeoutError)):
        with (
            pytest.raises(natural, match="no reply from Twilio"),
            twilio_http.as_the_sdks_errors("POST", "https://x", asynchronous=asynchronous),
        ):
            raise TimeoutError


@pytest.mark.usefixtures("task")
@both_ways
def test_the_vendors_own_errors_are_the_sdks_own(port: StubLedger, server: VendorServer, way: str) -> None:
    server.status, server.body = 400, {"code": 21211, "message": "no such number", "status": 400}
    with pytest.raises(TwilioRestException) as caught:
        TEXTS[way]()
    assert type(caught.value) is TwilioRestException
    assert (caught.value.code, caught.value.status) == (21211, 400)
    server.body = {"statusCode": 400, "name": "validation_error", "message": "no such address"}
    with pytest.raises(ValidationError, match="no such address") as refused:
        MAILS[way]()
    assert type(refused.value) is ValidationError
    assert [end.kind for end in port.ended] == ["void", "void"]


@pytest.mark.usefixtures("task")
@both_ways
def test_a_page_of_a_proxys_is_the_sdks_own_error(server: VendorServer, way: str) -> None:
    server.headers = {"Content-Type": "text/html"}
    with pytest.raises(ResendError, match="Expected JSON response") as caught:
        MAILS[way]()
    assert not isinstance(caught.value, OutcomeUnknown)


def test_an_unknown_outcome_is_an_error_of_both() -> None:
    unknown = OutcomeUnknown("nobody knows", "call-1")
    text = twilio_http.as_twilio_error(unknown, "post", "https://api.twilio.com/2010-04-01/X.json")
    mail = proxied_resend.as_resend_error(unknown)
    for error in (text, mail):
        assert isinstance(error, OutcomeUnknown)
        assert (error.call_id, str(error)) == ("call-1", "nobody knows")
    assert isinstance(text, TwilioRestException)
    assert (text.status, text.code, text.uri, text.method) == (502, 9_000_502, "/2010-04-01/X.json", "POST")
    assert isinstance(mail, ResendError)
    assert (mail.code, mail.error_type) == (502, "outcome_unknown")
    assert twilio_http.as_twilio_error(text, "post", "https://x") is text
    assert proxied_resend.as_resend_error(mail) is mail


@pytest.mark.usefixtures("task")
@pytest.mark.parametrize("sdk", [TEXTS, MAILS])
def test_a_denial_can_be_pickled(port: StubLedger, sdk: dict) -> None:
    denied_by(port, "cap")
    with pytest.raises(BudgetExceeded) as caught:
        sdk["sync"]()
    again = pickle.loads(pickle.dumps(caught.value))
    assert type(again) is type(caught.value)
    assert (str(again), again.facts, again.code) == (str(caught.value), caught.value.facts, caught.value.code)


@pytest.mark.usefixtures("task")
def test_what_interrupts_a_mail_is_not_taken_for_a_failed_request(
    monkeypatch: pytest.MonkeyPatch, port: StubLedger
) -> None:
    """A revoke arrives as a signal, anywhere in the SDK's code."""

    def interrupted(*args: object) -> None:
        raise KeyRevoked("revoked", "run r was revoked while this task ran")

    monkeypatch.setattr(port, "reserve", interrupted)
    with pytest.raises(KeyRevoked):
        MAILS["sync"]()
