"""Every way of the Twilio and Resend SDKs to a vendor leads through the guard, and sends what they would."""

from __future__ import annotations

import asyncio
import io
import os
import threading
from pathlib import Path
from typing import Any

import pytest
import resend
from twilio.credential.client_credential_provider import ClientCredentialProvider
from twilio.http import HttpClient
from twilio.http.async_http_client import AsyncTwilioHttpClient
from twilio.http.http_client import TwilioHttpClient
from twilio.http.response import Response
from twilio.http.validation_client import ValidationClient
from twilio.rest import Client

from luigi_spendguard import SpendDenied, proxy
from luigi_spendguard.proxy import attempts, twilio_http
from luigi_spendguard.proxy import resend as proxied_resend
from luigi_spendguard.proxy.attempts import Attempt
from tests.support.ports import (
    ACCOUNT,
    RESEND_SECRET,
    TWILIO_SECRET,
    StubLedger,
    VendorServer,
    attempt,
)
from tests.support.sdks import MAIL, MAILS, TEXTS, mail, mail_async, text, text_async

MESSAGES = f"https://api.twilio.com/2010-04-01/Accounts/{ACCOUNT}/Messages.json"
TEXT = {"To": "+15551234567", "From": "+15557654321", "Body": "hello"}


class Own(HttpClient):
    """A client of the pipeline's own."""

    def __init__(self, *, is_async: bool = False) -> None:
        self.is_async, self.used = is_async, 0

    def request(self, *args: Any, **kwargs: Any) -> Any:
        self.used += 1
        made = Response(200, '{"sid": "SM_own"}', {})

        async def soon() -> Response:
            return made

        return soon() if self.is_async else made


class OwnMail(resend.HTTPClient):
    """The same for mails, synchronous and asynchronous."""

    used = 0

    def request(self, *args: Any, **kwargs: Any) -> Any:
        self.used += 1
        return b'{"id": "own"}', 200, {"content-type": "application/json"}


class OwnAsyncMail(resend.AsyncHTTPClient):
    used = 0

    async def request(self, *args: Any, **kwargs: Any) -> Any:
        self.used += 1
        return b'{"id": "own"}', 200, {"content-type": "application/json"}


# What is sent.


@pytest.mark.parametrize(
    ("method", "params", "data", "kind"),
    [
        (
            "GET",
            {"To": "+1 5", "DateSent>": "2026-01-01", "Fields": ["a", "b"], "x": True, "n": None},
            {},
            "",
        ),
        ("POST", {}, {"Body": "h\u00e9 & ho", "MediaUrl": ["https://a/1", "https://a/2"], "Flag": True}, ""),
        ("POST", {"q": "1"}, {"friendly_name": "h\u00e9", "types": {"a": [1, 2]}}, "application/json"),
        ("PATCH", None, {"a": None}, "application/scim+json"),
        ("DELETE", {}, None, ""),
    ],
)
def test_a_twilio_request_is_what_the_sdks_own_client_sends(
    server: VendorServer, method: str, params: Any, data: Any, kind: str
) -> None:
    headers = {"Content-Type": kind} if kind else {}
    arguments = (method, f"{server.url}/api.twilio.com/X.json", params, data, headers, ("AC1", "token"))
    TwilioHttpClient().request(*arguments)
    [sent] = server.requests
    made = twilio_http.request_of(*arguments)
    assert (made.method, made.url, made.body) == (sent["method"], server.url + sent["path"], sent["body"])
    for name in ("content-type", "authorization"):
        assert made.headers.get(name) == sent["headers"].get(name)


@pytest.mark.parametrize(
    "said",
    [
        {"json": {"to": ["a@b.c"], "subject": "h\u00e9"}},
        {"json": [{"to": "a"}, {"to": "b"}]},
        {"json": {}, "data": {"on_conflict": "skip"}},
        {"json": {}, "files": {"file": ("c.csv", b"email\n", "text/csv")}, "data": {"on_conflict": "skip"}},
    ],
)
def test_a_resend_request_is_what_the_sdks_own_client_sends(server: VendorServer, said: Any) -> None:
    url, headers = f"{server.url}/emails", {"Authorization": "Bearer key", "Idempotency-Key": "k"}
    resend.RequestsClient().request("post", url, headers, **said)
    [sent] = server.requests
    made = proxied_resend.request_of("post", url, headers, **said)
    boundary = sent["headers"]["content-type"].rpartition("boundary=")[2]
    ours = made.headers["content-type"].rpartition("boundary=")[2]
    assert made.body == sent["body"].replace(boundary.encode(), ours.encode())
    assert made.headers["content-type"] == sent["headers"]["content-type"].replace(boundary, ours)
    assert (made.headers["authorization"], made.headers["idempotency-key"]) == ("Bearer key", "k")


@pytest.mark.parametrize(("verb", "body"), [("get", b""), ("delete", b""), ("post", b"{}"), ("patch", b"{}")])
def test_a_mail_request_without_parameters(verb: str, body: bytes) -> None:
    made = proxied_resend.request_of(
        verb, "https://api.resend.com/x", {"Authorization": "Bearer None"}, json={}
    )
    assert made.body == body
    assert ("content-type" in made.headers) == bool(body)
    assert "authorization" not in made.headers


def test_an_answers_text_and_headers_are_the_vendors(task: Attempt, server: VendorServer) -> None:
    server.body = {"sid": "SM1", "body": "h\u00e9"}
    server.headers = {"Content-Type": "application/json", "Twilio-Request-Id": "RQ1"}
    said = Client().messages.create_with_http_info(to="+15551234567", from_="+15557654321", body="hello")
    assert (said.data.body, said.status_code) == ("h\u00e9", 200)
    assert {name.lower(): value for name, value in said.headers.items()}["twilio-request-id"] == "RQ1"


# What no client of the pipeline's own gets round.


def test_a_client_of_the_pipelines_own_is_bypassed_in_the_task_alone(
    task: Attempt, server: VendorServer
) -> None:
    own = Own()
    assert text(http_client=own).startswith("SM2")
    assert own.used == 0

    async def program() -> str:
        made = Client(http_client=Own(is_async=True))
        return str((await made.messages.create_async(to="+15551234567", from_="+1555", body="hi")).sid)

    assert asyncio.run(program()).startswith("SM2")
    assert len(server.requests) == 2


def test_an_asynchronous_call_of_a_synchronous_client_is_the_sdks_error(task: Attempt) -> None:
    with pytest.raises(RuntimeError, match="must be asynchronous"):
        asyncio.run(Client().messages.create_async(to="+15551234567", from_="+1555", body="hi"))


def test_a_mail_client_of_the_pipelines_own_is_bypassed_in_the_task_alone(
    tmp_path: Path, port: StubLedger, server: VendorServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, own_async, legacy = OwnMail(), OwnAsyncMail(), OwnAsyncMail()
    monkeypatch.setattr(resend, "api_key", "re_before")
    monkeypatch.setattr(resend, "default_http_client", own)
    monkeypatch.setattr(resend, "default_async_http_client", own_async)
    assert (mail(), mail_async(), own.used, own_async.used) == ("own", "own", 1, 1)
    monkeypatch.setattr(resend, "api_key", RESEND_SECRET)
    with proxy.attempt_running(attempt(tmp_path, port, server.url)):
        resend.default_http_client = own
        assert (mail(), mail_async()) == ("49a3999c", "49a3999c")
        resend.default_http_client = legacy  # The SDK's older way.
        assert mail_async() == "49a3999c"
        assert resend.default_http_client is legacy
    assert (own.used, own_async.used, legacy.used, len(server.requests)) == (1, 1, 0, 3)


def test_the_sdks_http_clients_by_themselves_are_guarded(task: Attempt, port: StubLedger) -> None:
    arguments = {"data": TEXT, "auth": (ACCOUNT, task.key)}
    assert TwilioHttpClient().request("POST", MESSAGES, **arguments).status_code == 200
    validation = ValidationClient(ACCOUNT, "SK1", "CR1", "no key")
    assert validation.request("POST", MESSAGES, **arguments).status_code == 200

    async def program() -> int:
        async with AsyncTwilioHttpClient() as http:
            return int((await http.request("POST", MESSAGES, **arguments)).status_code)

    assert asyncio.run(program()) == 200
    assert [end.kind for end in port.ended] == ["settle"] * 3


def test_every_product_and_region_and_page_is_guarded(task: Attempt, server: VendorServer) -> None:
    client = Client(region="ie1", edge="dublin")
    own = Own()
    client.http_client = own
    server.body = {
        "messages": [{"sid": "SM1"}],
        "next_page_uri": f"/2010-04-01/Accounts/{ACCOUNT}/M.json?Page=1",
    }
    page = client.messages.page(page_size=1)
    server.body = {"messages": [], "next_page_uri": "/2010-04-01/Accounts/AC" + "f" * 32 + "/M.json?Page=2"}
    last = page.next_page()
    assert list(last) == []
    with pytest.raises(SpendDenied, match="account_sid: nothing was sent"):
        last.next_page()  # The vendor's own answer names another account.
    server.body = {"sid": "VE1", "status": "pending"}
    client.verify.v2.services("VA" + "3" * 32).verifications.create(to="+15551234567", channel="sms")
    hosts = [request["path"].split("/")[1] for request in server.requests]
    assert hosts == ["api.dublin.ie1.twilio.com"] * 2 + ["verify.dublin.ie1.twilio.com"]
    assert own.used == 0


# Whose credentials, and whose call.


@pytest.mark.parametrize("way", ["sync", "async"])
def test_another_accounts_credentials_are_denied(
    task: Attempt, server: VendorServer, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resend, "api_key", "re_another_account")
    calls = [
        lambda: TEXTS[way](username=ACCOUNT, password="another_accounts_token"),
        lambda: TEXTS[way](username="SK" + "4" * 32, password="another", account_sid=ACCOUNT),
        lambda: TEXTS[way](username="AC" + "5" * 32, password=str(task.key)),
        lambda: TEXTS[way](credential_provider=ClientCredentialProvider("OQ1", "another_accounts_secret")),
        MAILS[way],
    ]
    reasons = []
    for call in calls:
        with pytest.raises(SpendDenied) as denied:
            call()
        reasons.append(denied.value.reason)
        assert "another" not in str(denied.value).replace("another account's", "")
    assert reasons == ["scope", "scope", "scope", "endpoint", "scope"]
    assert server.requests == []


@pytest.mark.parametrize("way", ["sync", "async"])
def test_the_secret_and_the_vault_key_are_accepted(
    task: Attempt, server: VendorServer, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    TEXTS[way](username=ACCOUNT, password=TWILIO_SECRET)
    TEXTS[way](username="SK" + "4" * 32, password=str(task.key), account_sid=ACCOUNT)
    for key in (RESEND_SECRET, str(task.key), None):
        monkeypatch.setattr(resend, "api_key", key)
        MAILS[way]()
    assert {request["headers"]["authorization"] for request in server.requests[2:]} == {
        f"Bearer {RESEND_SECRET}"
    }
    assert len(server.requests) == 5


def test_outside_vendor_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    own, own_mail, own_async = Own(), OwnMail(), OwnAsyncMail()
    monkeypatch.setattr(resend, "api_key", "re_web_application")
    monkeypatch.setattr(resend, "default_http_client", own_mail)
    monkeypatch.setattr(resend, "default_async_http_client", own_async)
    client = {"username": ACCOUNT, "password": "token", "http_client": own}
    with attempts.worker_running():
        asynchronous = {"username": ACCOUNT, "password": "token"}
        for call in (lambda: text(**client), lambda: text_async(**asynchronous), mail, mail_async):
            with pytest.raises(SpendDenied, match="outside any vendor task") as denied:
                call()
            assert denied.value.reason == "scope"
        lookup = Client(**client).lookups.v2.phone_numbers("+15551234567")
        with pytest.raises(SpendDenied):
            lookup.fetch(fields="line_type_intelligence")
        assert (own.used, own_mail.used, own_async.used) == (0, 0, 0)
        lookup.fetch()
        Client(**client).messages("SM1").fetch()
        assert resend.Emails.get("49a3999c")["id"] == "own"
        assert (own.used, own_mail.used) == (2, 1)
    assert (text(**client), mail(), mail_async()) == ("SM_own", "own", "own")


def test_threads_and_forks_of_the_task_belong_to_it(task: Attempt, port: StubLedger) -> None:
    def work(number: int) -> None:
        text(to=f"+1555123{number:04}")
        mail(to=f"{number}@example.com")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(port.ended) == 16
    pid = os.fork()
    if pid == 0:
        wrong = 1
        try:
            wrong = int(
                (text(), text_async(), mail(), mail_async()) != ("SM" + "2" * 32,) * 2 + ("49a3999c",) * 2
            )
        finally:
            os._exit(wrong)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_a_batch_and_an_import_of_a_file_are_guarded(task: Attempt, server: VendorServer) -> None:
    server.body = {"data": [{"id": "1"}, {"id": "2"}]}
    assert resend.Batch.send([MAIL, MAIL], {"idempotency_key": "batch-1"})["data"][1]["id"] == "2"
    assert server.requests[0]["headers"]["idempotency-key"].startswith("wire-")
    with pytest.raises(SpendDenied) as denied:
        resend.ContactImports.create({"file": io.BytesIO(b"email\n")})
    assert denied.value.reason == "unpriced"
    assert len(server.requests) == 1
