"""What the SDKs of Twilio and Resend send is what the vendors' own documents allow: prism judges it.

A forwarder stands between: prism knows no hosts, and refuses the `{}` that Resend's SDK sends as the body
of a request that has none.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import resend
from resend.exceptions import ResendError
from twilio.base.exceptions import TwilioRestException
from twilio.rest import Client

from tests.support import npm
from tests.support.forwarder import Forwarder
from tests.support.redirected import Redirect

DATA = Path(__file__).with_name("data")
FROM, TO = "+15005550006", "+14155550100"
MAIL: Any = {"from": "Ann <ann@example.com>", "to": "bob@example.com", "subject": "Hi", "text": "Hello"}
SOME = "4ef9a417-02e9-4d39-ad75-9611e0fcc33c"


@pytest.fixture
def twilio(tmp_path: Path) -> Iterator[Any]:
    server = npm.prism(tmp_path, DATA / "twilio-trimmed.openapi.json")
    with Forwarder(server.url, hosts=True) as forwarder, Redirect(forwarder.url) as hook:
        yield Client("AC" + "a1" * 16, "twilio_canary_1", http_client=hook)
    server.process.end()


@pytest.fixture
def _resend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    server = npm.prism(tmp_path, DATA / "resend.openapi.json")
    with Forwarder(server.url) as forwarder:
        monkeypatch.setattr(resend, "api_url", forwarder.url)
        monkeypatch.setattr(resend, "api_key", "re_canary_1")
        yield
    server.process.end()


def test_twilio(twilio: Any) -> None:
    sent = twilio.messages.create(to=TO, from_=FROM, body="Hello")
    assert (sent.status, sent.price) == ("queued", None)
    message = twilio.messages("SM" + "1" * 32)
    assert message.fetch().price == "-0.00750"
    assert message.update(body="").sid
    assert message.delete() is True
    assert twilio.messages.list(to=TO, date_sent_after=datetime.now(timezone.utc), limit=1)
    assert twilio.calls.create(to=TO, from_=FROM, twiml="<Response/>", time_limit=60).sid[:2] == "CA"
    service = twilio.verify.v2.services("VA" + "1" * 32)
    assert service.verifications.create(to=TO, channel="sms").status == "pending"
    assert twilio.lookups.v2.phone_numbers(TO).fetch(fields="caller_name").valid is True
    with pytest.raises(TwilioRestException) as caught:
        twilio.messages.create(to=None, from_=FROM, body="x")
    assert caught.value.status == 422


@pytest.mark.usefixtures("_resend")
def test_resend() -> None:
    later = (datetime.now(timezone.utc) + timedelta(hours=1)).isoformat()
    everything = {"cc": "c@example.com", "bcc": ["d@example.com"], "scheduled_at": later}
    assert resend.Emails.send(MAIL | everything, {"idempotency_key": "order-1"})["id"]
    assert resend.Batch.send([MAIL, MAIL], {"idempotency_key": "order-2"})["data"]
    assert resend.Emails.get(SOME)["last_event"]
    assert resend.Emails.list({"limit": 2})["object"] == "list"
    assert resend.Emails.cancel(SOME)
    draft: Any = {"from": MAIL["from"], "subject": "News", "segment_id": "1", "html": "<p>x</p>"}
    assert resend.Broadcasts.create(draft)["id"]
    broken: Any = {"from": MAIL["from"]}
    with pytest.raises(ResendError) as caught:
        resend.Emails.send(broken)
    assert caught.value.code == 422
