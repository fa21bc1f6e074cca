"""Resend's own SDK, unguarded, against our look-alike of Resend, judged by its books."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
import resend
import urllib3
from resend.exceptions import InvalidApiKeyError, ResendError, ValidationError

from tests.support.processes import wait_until
from tests.support.vendors import FakeResend

SECRET = "re_canary_4eC39HqLyjWDarjtT1zdp7dc"
MAIL: Any = {"from": "Ann <ann@example.com>", "to": "bob@example.com", "subject": "Hi", "text": "Hello"}


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeResend]:
    vendor = FakeResend(tmp_path_factory.mktemp("resend"))
    yield vendor
    vendor.process.end()


@pytest.fixture
def vendor(process: FakeResend, monkeypatch: pytest.MonkeyPatch) -> FakeResend:
    """The module's look-alike with empty books; the SDK talks to it."""
    process.forget()
    monkeypatch.setattr(resend, "api_key", SECRET)
    monkeypatch.setattr(resend, "api_url", process.url)
    return process


def keyed(key: str, **more: str) -> Any:
    return {"idempotency_key": key, **more}


def hours_ahead(hours: int) -> str:
    return (datetime.now(timezone.utc) + timedelta(hours=hours)).isoformat()


def refusal(ask: Any, *args: Any) -> tuple[Any, str]:
    """Return the status and name of the error that the SDK raises."""
    with pytest.raises(ResendError) as caught:
        ask(*args)
    return caught.value.code, caught.value.error_type


def test_a_mail_is_counted_by_its_recipients(vendor: FakeResend) -> None:
    sent = resend.Emails.send(MAIL | {"cc": ["c@example.com"], "bcc": ["d@example.com", "E <e@example.com>"]})
    assert {name.lower(): value for name, value in sent["http_headers"].items()}["ratelimit-limit"] == "5"
    assert vendor.mails() == 4
    found = resend.Emails.get(sent["id"])
    assert (found["to"], found["from"], found["last_event"]) == ([MAIL["to"]], MAIL["from"], "delivered")


def test_without_a_key_every_post_mails_again(vendor: FakeResend) -> None:
    assert resend.Emails.send(MAIL)["id"] != resend.Emails.send(MAIL)["id"]
    assert vendor.mails() == 2


def test_a_key_mails_once_and_takes_no_other_payload(vendor: FakeResend) -> None:
    first = resend.Emails.send(MAIL, keyed("order-1"))["id"]
    assert resend.Emails.send(MAIL, keyed("order-1"))["id"] == first
    assert [entry["key"] for entry in vendor.sent()] == ["order-1"]
    other = refusal(resend.Emails.send, MAIL | {"subject": "Ho"}, keyed("order-1"))
    assert other == (409, "invalid_idempotent_request")
    for key in ("x" * 257, ""):
        assert refusal(resend.Emails.send, MAIL, keyed(key)) == (400, "invalid_idempotency_key")
    resend.Emails.send(MAIL, keyed("x" * 256))
    assert vendor.mails() == 2
    batch = [resend.Batch.send([MAIL, MAIL], keyed("order-2"))["data"] for _ in range(2)]
    assert batch[0] == batch[1]
    assert vendor.mails() == 4


def test_a_key_is_forgotten_after_its_time_or_ignored(vendor: FakeResend) -> None:
    vendor.control(options={"key_seconds": 0})
    for _ in range(2):
        resend.Emails.send(MAIL, keyed("order-1"))
    assert vendor.mails() == 2
    vendor.control(options={"key_seconds": 86400, "idempotency": "ignore"})
    for _ in range(2):
        resend.Emails.send(MAIL, keyed("order-2"))
    assert vendor.mails() == 4


def test_a_key_in_flight_is_refused(vendor: FakeResend) -> None:
    first = threading.Thread(target=resend.Emails.send, args=(MAIL, keyed("order-1")))
    with vendor.holding():
        first.start()
        wait_until(lambda: len(vendor.posts()) == 1)
        assert refusal(resend.Emails.send, MAIL, keyed("order-1")) == (409, "concurrent_idempotent_requests")
    first.join()
    resend.Emails.send(MAIL, keyed("order-1"))
    assert vendor.mails() == 1


def test_what_was_refused_leaves_the_key_free(vendor: FakeResend) -> None:
    with pytest.raises(ResendError, match="Missing `to`"):
        resend.Emails.send(MAIL | {"to": []}, keyed("order-1"))
    resend.Emails.send(MAIL, keyed("order-1"))
    assert vendor.mails() == 1


@pytest.mark.parametrize("field", ["from", "to", "subject"])
def test_a_field_that_is_missing(vendor: FakeResend, field: str) -> None:
    mail = {name: value for name, value in MAIL.items() if name != field}
    assert refusal(resend.Emails.send, mail) == (422, "missing_required_field")


def test_what_is_not_valid(vendor: FakeResend) -> None:
    with pytest.raises(ValidationError, match="at most 50"):
        resend.Emails.send(MAIL | {"to": [f"p{number}@example.com" for number in range(51)]})
    with pytest.raises(ValidationError, match="Invalid `cc`"):
        resend.Emails.send(MAIL | {"cc": "nobody"})
    with pytest.raises(ValidationError, match="1 to 100"):
        resend.Batch.send([MAIL] * 101)
    resend.Emails.send(MAIL | {"to": [f"p{number}@example.com" for number in range(50)]})
    resend.Batch.send([MAIL] * 100)
    assert vendor.mails() == 150


def test_a_batch_is_sent_whole_or_in_its_valid_parts(vendor: FakeResend) -> None:
    mails: Any = [MAIL, MAIL | {"to": "nobody"}, MAIL]
    for options in (None, keyed("order-1", batch_validation="strict")):
        assert refusal(resend.Batch.send, mails, options) == (422, "validation_error")
    assert vendor.mails() == 0
    sent: Any = resend.Batch.send(mails, keyed("order-1", batch_validation="permissive"))
    assert len(sent["data"]) == 2
    assert sent["errors"] == [{"index": 1, "message": "Invalid `to` field."}]
    assert vendor.mails() == 2
    assert "errors" not in resend.Batch.send([MAIL])


def test_a_scheduled_mail_is_moved_or_cancelled(vendor: FakeResend) -> None:
    sid = resend.Emails.send(MAIL | {"scheduled_at": hours_ahead(1)})["id"]
    assert (resend.Emails.get(sid)["last_event"], vendor.mails()) == ("scheduled", 1)
    assert resend.Emails.update({"id": sid, "scheduled_at": hours_ahead(2)})["id"] == sid
    assert resend.Emails.cancel(sid)["object"] == "email"
    assert (resend.Emails.get(sid)["last_event"], vendor.mails()) == ("canceled", 0)
    assert [(entry["scheduled"], entry["cancelled"]) for entry in vendor.sent()] == [(True, True)]
    assert refusal(resend.Emails.cancel, sid) == (422, "validation_error")
    assert refusal(resend.Emails.cancel, "nobody") == (404, "not_found")
    assert refusal(resend.Emails.cancel, resend.Emails.send(MAIL)["id"]) == (422, "validation_error")
    soon = resend.Emails.send(MAIL | {"scheduled_at": "in 1 hour"})["id"]
    resend.Emails.update({"id": soon, "scheduled_at": hours_ahead(-1)})
    assert resend.Emails.get(soon)["last_event"] == "delivered"


def test_lists_are_paged(vendor: FakeResend) -> None:
    sent = [resend.Emails.send(MAIL)["id"] for _ in range(3)]
    page = resend.Emails.list({"limit": 2})
    assert ([mail["id"] for mail in page["data"]], page["has_more"]) == ([sent[2], sent[1]], True)
    rest = resend.Emails.list({"limit": 2, "after": sent[1]})
    assert ([mail["id"] for mail in rest["data"]], rest["has_more"]) == ([sent[0]], False)
    back = resend.Emails.list({"limit": 1, "before": sent[0]})
    assert ([mail["id"] for mail in back["data"]], back["has_more"]) == ([sent[1]], True)


def test_who_may_ask(vendor: FakeResend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resend, "api_key", "vk_live_1")
    with pytest.raises(InvalidApiKeyError):
        resend.Emails.send(MAIL)
    reply = urllib3.request("POST", f"{vendor.url}/emails", body=b"{}", retries=False)
    assert (reply.status, reply.json()["name"]) == (401, "missing_api_key")
    assert vendor.mails() == 0
    vendor.control(options={"secrets": ["vk_"]})
    resend.Emails.send(MAIL)


def test_a_broadcast_mails_a_whole_segment(vendor: FakeResend) -> None:
    segment = resend.Segments.create({"name": "all"})["id"]
    for name in ("a", "b", "c"):
        resend.Contacts.create({"email": f"{name}@example.com", "segments": [{"id": segment}]})
    draft: Any = {"from": MAIL["from"], "subject": "News", "segment_id": segment, "html": "<p>x</p>"}
    made = resend.Broadcasts.create(draft)["id"]
    assert vendor.mails() == 0
    resend.Broadcasts.send({"broadcast_id": made})
    assert vendor.mails() == 3
    assert refusal(resend.Broadcasts.send, {"broadcast_id": made}) == (422, "validation_error")
    vendor.control(options={"segments": {"elsewhere": 1000}})
    resend.Broadcasts.create(draft | {"segment_id": "elsewhere", "send": True})
    assert vendor.mails() == 1003
    later = resend.Broadcasts.create(draft)["id"]
    resend.Broadcasts.send({"broadcast_id": later, "scheduled_at": "in 1 hour"})
    resend.Broadcasts.cancel(later)
    assert vendor.mails() == 1003


def test_an_event_may_start_mails(vendor: FakeResend) -> None:
    asked: Any = {"event": "signed.up", "email": "bob@example.com"}
    assert resend.Events.send(asked)["event"] == "signed.up"
    assert vendor.mails() == 0
    vendor.control(options={"automations": {"signed.up": 2}})
    resend.Events.send(asked)
    assert vendor.mails() == 2


def test_what_else_there_is(vendor: FakeResend) -> None:
    assert resend.ApiKeys.create({"name": "another"})["token"].startswith("re_canary_")
    assert resend.Domains.get(resend.Domains.create({"name": "example.com"})["id"])["name"] == "example.com"
    template = resend.Templates.create({"name": "t", "html": "<p>x</p>"})["id"]
    assert [found["id"] for found in resend.Templates.list()["data"]] == [template]
    with pytest.deprecated_call():
        audience = resend.Audiences.create({"name": "people"})["id"]
    person = resend.Contacts.create({"email": "a@example.com", "audience_id": audience})["id"]
    assert resend.Contacts.get(email="a@example.com")["id"] == person
    assert [found["id"] for found in resend.Contacts.list(audience_id=audience)["data"]] == [person]
    assert resend.Contacts.list(audience_id="another")["data"] == []
    assert refusal(resend.Webhooks.list) == (404, "not_found")
    assert vendor.mails() == 0


def test_faults_before_anything_is_sent(vendor: FakeResend) -> None:
    vendor.fault("drop_before")
    assert refusal(resend.Emails.send, MAIL) == (500, "HttpClientError")
    for status, name in ((500, "application_error"), (429, "rate_limit_exceeded")):
        vendor.fault("status", status=status)
        assert refusal(resend.Emails.send, MAIL) == (status, name)
    assert vendor.sent() == []


@pytest.mark.parametrize(
    ("fault", "raised"),
    [
        ({"fault": "drop_after"}, (500, "HttpClientError")),
        ({"fault": "status_after", "status": 502}, (502, "application_error")),
        ({"fault": "not_json"}, (500, "application_error")),
        ({"fault": "truncate"}, (500, "HttpClientError")),
    ],
)
def test_faults_after_it_was_sent(vendor: FakeResend, fault: Any, raised: Any) -> None:
    """The same key finds out what became of it, and mails nothing again."""
    vendor.fault(**fault)
    assert refusal(resend.Emails.send, MAIL, keyed("order-1")) == raised
    [entry] = vendor.sent()
    assert resend.Emails.send(MAIL, keyed("order-1"))["id"] == entry["id"]
    assert vendor.mails() == 1


def test_a_slow_answer_mails_all_the_same(vendor: FakeResend, monkeypatch: pytest.MonkeyPatch) -> None:
    impatient: Any = resend.RequestsClient(timeout=0.1)
    monkeypatch.setattr(resend, "default_http_client", impatient)
    with vendor.holding():
        assert refusal(resend.Emails.send, MAIL) == (500, "HttpClientError")
        assert vendor.mails() == 0
    wait_until(lambda: vendor.mails() == 1)


def test_changed_answers_and_leaked_secrets(vendor: FakeResend) -> None:
    vendor.fault("change", change={"id": "another"})
    assert resend.Emails.send(MAIL)["id"] == "another"
    vendor.fault("echo_secret")
    leaking: Any = resend.Emails.send(MAIL)
    assert leaking["leak"] == SECRET
