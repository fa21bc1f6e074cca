"""Resend's books beside the ledger: each difference that is planted is found, and each cent explained."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import urllib3

from luigi_spendguard.config import Settings
from luigi_spendguard.http.blocking import BlockingTransport
from luigi_spendguard.ledger.database.engines import opened
from luigi_spendguard.reconcile import Reconciler, comparing
from luigi_spendguard.reconcile.comparing import Sums
from luigi_spendguard.reconcile.differences import Cause, Difference
from luigi_spendguard.settings import VendorSettings
from luigi_spendguard.vendors.own_books import Period
from tests.support.books import Books
from tests.support.reconciled import applied
from tests.support.resend_desk import SECRET, ResendDesk, mail_to
from tests.support.vendors import FakeResend

HOUR = 3_600_000
MAIL = 900
_http = urllib3.PoolManager(timeout=30, retries=False)


@pytest.fixture(scope="module")
def fake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeResend]:
    vendor = FakeResend(tmp_path_factory.mktemp("resend"))
    yield vendor
    vendor.process.end()


class Sides:
    """A ledger, and a Resend team; a mail costs $0.0009 for each recipient."""

    def __init__(self, folder: Path, fake: FakeResend) -> None:
        fake.forget()
        self.fake, self.folder = fake, folder / "work"
        self.books = Books(folder / "spendguard.db", 100_000_000)
        self.desk = ResendDesk(self.books, fake)

    def mail(self, to: Any = "one@example.com", **more: Any) -> str:
        """Let a call send a mail; return its id."""
        return str(json.loads(self.desk.mail(to, **more).body)["id"])

    def batch(self, *people: str, **more: Any) -> list[str]:
        """Let a call send a batch; return its mails' ids."""
        reply = self.desk.post("/emails/batch", [mail_to(one, **more) for one in people])
        return [one["id"] for one in json.loads(reply.body)["data"]]

    def lost(self, body: Any, fault: str = "drop_after", path: str = "/emails") -> str:
        """Let a call's reply be lost; return its id."""
        before = {call["id"] for call in self.desk.calls()}
        self.fake.fault(fault, match=f"POST {path}")
        with pytest.raises((ConnectionError, TimeoutError)):
            self.desk.post(path, body)
        [call] = [call for call in self.desk.calls() if call["id"] not in before]
        return str(call["id"])

    def outside(self, to: Any = "one@example.com", **more: Any) -> str:
        """Let somebody with the secret send a mail."""
        headers = {"authorization": f"Bearer {SECRET}", "content-type": "application/json"}
        body = json.dumps(mail_to(to, **more))
        return str(
            json.loads(_http.request("POST", f"{self.fake.url}/emails", body, headers=headers).data)["id"]
        )

    def changed(self, mail_id: str, **more: Any) -> None:
        """Let Resend show something otherwise from now on."""
        self.fake.control(put=[{**self.fake.books()["objects"][mail_id], **more}])

    def compare(self, price: int | None = None) -> tuple[Sums, list[Difference]]:
        """Compare, perhaps at another price; the sums close, and each cent has its reason and what to do."""
        now = int(time.time() * 1000)
        own = {} if price is None else {"email_price": price}
        vendor = VendorSettings("resend", SECRET, base_url=self.fake.url, timeout_s=5.0, own=own)
        settings = Settings(self.folder / "x", vendors={"resend": vendor})
        with opened(self.books.path, read_only=True) as ledger:
            one = Reconciler(
                "resend", settings, SECRET, ledger, BlockingTransport(), self.folder, lambda _: None
            )
            done = one.reconcile("resend", Period(now - 2 * HOUR, now + 1_000))
        found = list(done.differences())
        assert sum(each.vendor_micros for each in found if each.differs) == done.sums.vendor_only
        assert sum(each.ledger_micros for each in found if each.differs) == done.sums.ledger_only
        assert all(each.reason and each.remedy for each in found)
        done.sums.check()
        done.file.remove()
        return done.sums, found

    def found(self) -> list[Difference]:
        """Return what differs."""
        return self.compare()[1]

    def applied(self) -> list[Difference]:
        """Book what is certain, twice; return what differs then."""
        found = self.found()
        for _ in range(2):
            assert applied(self.books, found) == sum(one.certain for one in found)
        return self.found()

    def only(self) -> Difference:
        """Return the one thing that differs."""
        found = self.found()
        assert len(found) == 1, found
        return found[0]


@pytest.fixture
def sides(fake: FakeResend, tmp_path: Path) -> Iterator[Sides]:
    made = Sides(tmp_path, fake)
    yield made
    assert made.books.audit() == []
    made.books.ledger.close()


def test_what_both_know_is_equal(sides: Sides) -> None:
    sides.mail(["one@example.com", "two@example.com"], cc="three@example.com")
    sides.batch("four@example.com", "five@example.com")
    sides.mail("six@example.com", scheduled_at="in 1 hour")
    sums, found = sides.compare()
    assert found == []
    assert (sums.matched, sums.equal) == (6 * MAIL, 4)


def test_another_price_in_luigi_cfg_is_no_difference(sides: Sides) -> None:
    """Resend names none: what a call was quoted with stands."""
    sides.mail()
    assert sides.compare(price=2_000)[1] == []


def test_a_mail_that_no_call_has_sent_is_outside_at_the_price_of_now(sides: Sides) -> None:
    sides.mail()
    outside = sides.outside(["two@example.com", "three@example.com"])
    found = sides.only()
    assert (found.kind, found.subject, found.vendor_micros) == (Cause.OUTSIDE, outside, 2 * MAIL)


def test_a_mail_that_was_canceled_at_resend_is_given_back(sides: Sides) -> None:
    mail = sides.mail(scheduled_at="in 1 hour")
    sides.changed(mail, last_event="canceled")
    found = sides.only()
    assert (found.kind, found.ledger_micros, found.certain, found.spent) == (Cause.CANCELLED, MAIL, True, 0)
    assert sides.applied() == []
    assert sides.books.figures() == (0, 0, 0)


def test_one_of_a_batch_that_was_canceled_is_said_with_its_own_amount(sides: Sides) -> None:
    mails = sides.batch(*(f"{name}@example.com" for name in "abc"), scheduled_at="in 1 hour")
    sides.changed(mails[1], last_event="canceled")
    found = sides.only()
    assert (found.kind, found.subject, found.ledger_micros) == (Cause.CANCELLED, mails[1], MAIL)
    assert sides.applied() == []
    assert sides.books.figures() == (2 * MAIL, 0, 0)
    for mail in mails[::2]:
        sides.changed(mail, last_event="canceled")
    assert [(one.kind, one.certain) for one in sides.found()] == [(Cause.CANCELLED, True)] * 2
    assert sides.applied() == []
    assert sides.books.figures() == (0, 0, 0)


def test_what_resend_shows_no_more_is_said(sides: Sides) -> None:
    mail = sides.mail()
    sides.fake.forget()
    found = sides.only()
    assert (found.kind, found.subject, found.ledger_micros) == (Cause.NOT_THERE, mail, MAIL)


# In doubt.


def test_a_lost_mail_is_known_where_it_can_be_no_other(sides: Sides) -> None:
    call = sides.lost(mail_to(["one@example.com", "two@example.com"]))
    sides.outside("two@example.com")
    found = {each.kind: each for each in sides.found()}
    assert set(found) == {Cause.MADE, Cause.OUTSIDE}
    assert (found[Cause.MADE].call, found[Cause.MADE].spent) == (call, 2 * MAIL)
    assert found[Cause.MADE].certain
    assert found[Cause.MADE].subject == sides.fake.sent()[0]["id"]
    assert [one.kind for one in sides.applied()] == [Cause.OUTSIDE]
    assert sides.books.figures() == (2 * MAIL, 0, 0)


def test_a_lost_batch_is_known_by_all_its_mails(sides: Sides, monkeypatch: pytest.MonkeyPatch) -> None:
    """For a day it is left to its task, which gets all their ids by the key."""
    body = [mail_to(f"{name}@example.com") for name in ("a", "b", "a")]
    call = sides.lost(body, path="/emails/batch")
    found = sides.only()
    assert (found.kind, found.call, found.spent, found.certain) == (Cause.MADE, call, 3 * MAIL, False)
    assert "--object" not in found.remedy
    monkeypatch.setattr(comparing, "KEPT_MS", 0)
    assert sides.only().certain
    assert sides.applied() == []
    assert sides.books.figures() == (3 * MAIL, 0, 0)


@pytest.mark.parametrize("how", ["dropped", "twin", "rival", "part"])
def test_what_is_not_certain_stays_in_doubt(sides: Sides, how: str) -> None:
    body = [mail_to("a@example.com"), mail_to("b@example.com")] if how == "part" else mail_to("a@example.com")
    path = "/emails/batch" if how == "part" else "/emails"
    call = sides.lost(body, "drop_before" if how in ("dropped", "part") else "drop_after", path)
    if how in ("twin", "part"):
        sides.outside("a@example.com")
    if how == "rival":
        sides.desk.again("Mail_2")
        sides.lost(mail_to("a@example.com"), "drop_before")
    found = [each for each in sides.found() if each.call == call]
    assert [(each.kind, each.certain) for each in found] == [(Cause.IN_DOUBT, False)]


def test_a_mail_by_a_template_has_its_subject_there(sides: Sides) -> None:
    body = mail_to("a@example.com", template={"id": "welcome"})
    del body["subject"], body["html"]
    call = sides.lost(body)
    assert {each.kind for each in sides.found() if each.call == call} == {Cause.IN_DOUBT}


def test_all_kinds_at_once_are_told_apart(sides: Sides) -> None:
    """Each cent of both sides is matched, or in one difference with its reason."""
    for number in range(5):
        sides.mail(f"equal{number}@example.com")
    parts = sides.batch("b1@example.com", "b2@example.com", "b3@example.com", scheduled_at="in 1 hour")
    canceled = sides.mail("canceled@example.com", scheduled_at="in 1 hour")
    for one in (canceled, parts[0]):
        sides.changed(one, last_event="canceled")
    sides.desk.again("Mail_2")
    known = sides.lost(mail_to("known@example.com"))
    unknown = sides.lost(mail_to("unknown@example.com"), "drop_before")
    sides.outside("outside@example.com")
    sums, found = sides.compare()
    assert sorted(each.kind.value for each in found) == [
        *("cancelled", "cancelled", "in_doubt", "made", "outside")
    ]
    assert (sums.matched, sums.ledger_only) == (8 * MAIL, 3 * MAIL)
    assert sums.vendor_only == MAIL
    certain = {each.call for each in found if each.certain}
    assert known in certain
    assert unknown not in certain
    assert sorted(each.kind.value for each in sides.applied()) == ["in_doubt", "outside"]
