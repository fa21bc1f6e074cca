"""A broadcast that somebody has scheduled grows by no free call: judged by the look-alike's books."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
import resend
import urllib3
from resend.exceptions import ResendError

from luigi_spendguard import SpendDenied
from tests.support.attempts import Pretender
from tests.support.site import RESEND_SECRET, Site
from tests.support.vendors import FakeResend


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeResend]:
    vendor = FakeResend(tmp_path_factory.mktemp("resend"))
    yield vendor
    vendor.process.end()


@pytest.fixture(scope="module")
def here(process: FakeResend, shared_site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with Site(tmp_path_factory.mktemp("worker"), stripe=shared_site.stripe, resend=process) as site:
        yield site


@pytest.fixture
def vendor(process: FakeResend) -> FakeResend:
    process.forget()
    return process


def by_hand(vendor: FakeResend, path: str, **said: Any) -> str:
    """Make something past the guard; return its id."""
    headers = {"authorization": f"Bearer {RESEND_SECRET}", "content-type": "application/json"}
    got = urllib3.request("POST", vendor.url + path, body=json.dumps(said).encode(), headers=headers)
    return str(got.json()["id"])


@pytest.fixture
def segment(vendor: FakeResend) -> str:
    """A segment, with one contact, to which somebody has scheduled a broadcast."""
    made = by_hand(vendor, "/segments", name="all", filter={"city": "Bonn"})
    by_hand(vendor, "/contacts", email="bob@example.com", segments=[made])
    draft = by_hand(
        vendor, "/broadcasts", segment_id=made, subject="s", topic_id="t1", **{"from": "a@b.example"}
    )
    by_hand(vendor, f"/broadcasts/{draft}/send", scheduled_at="in 1 hour")
    assert vendor.mails() == 1
    return made


def contact(vendor: FakeResend, **more: Any) -> str:
    return by_hand(vendor, "/contacts", email="ann@example.com", **more)


def subscribed(vendor: FakeResend, segment: str) -> None:
    resend.Contacts.update(
        {"id": contact(vendor, segments=[segment], unsubscribed=True), "unsubscribed": False}
    )


def in_the_segment(vendor: FakeResend, segment: str) -> None:
    resend.Contacts.Segments.add({"contact_id": contact(vendor), "segment_id": segment})


def found_by_it(vendor: FakeResend, segment: str) -> None:
    resend.Contacts.update({"id": contact(vendor), "properties": {"city": "Bonn"}})


def in_the_topic(vendor: FakeResend, segment: str) -> None:
    one = contact(vendor, segments=[segment], opted_out=["t1"])
    resend.Contacts.Topics.update({"id": one, "topics": [{"id": "t1", "subscription": "opt_in"}]})


def suppressed_no_more(vendor: FakeResend, segment: str) -> None:
    contact(vendor, segments=[segment])
    resend.Suppressions.remove(by_hand(vendor, "/suppressions", email="ann@example.com"))


def several_suppressed_no_more(vendor: FakeResend, segment: str) -> None:
    contact(vendor, segments=[segment])
    resend.Suppressions.Batch.remove({"ids": [by_hand(vendor, "/suppressions", email="ann@example.com")]})


MORE = (subscribed, in_the_segment, found_by_it, in_the_topic, suppressed_no_more, several_suppressed_no_more)


@pytest.mark.parametrize("call", MORE, ids=lambda call: call.__name__)
def test_somebodys_broadcast_grows_by_nothing_free(
    here: Site, vendor: FakeResend, segment: str, call: Any
) -> None:
    unique = uuid.uuid4().hex[:10]
    task = Pretender(here, f"run-{unique}", f"Send_{unique}")
    reason = ""
    with task.attempt(), suppress(ResendError):
        try:
            call(vendor, segment)
        except SpendDenied as denied:
            reason = denied.reason
    assert (vendor.mails(), reason) == (1, "unpriced")


def test_what_makes_it_smaller_is_free(here: Site, vendor: FakeResend, segment: str) -> None:
    unique = uuid.uuid4().hex[:10]
    with Pretender(here, f"run-{unique}", f"Send_{unique}").attempt():
        resend.Contacts.update({"email": "bob@example.com", "first_name": "Bob", "unsubscribed": True})
    assert vendor.mails() == 0
