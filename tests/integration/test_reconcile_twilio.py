"""Twilio's books beside the ledger: each difference that is planted is found, and each cent explained."""

from __future__ import annotations

import base64
import json
import time
import uuid
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import urllib3

from luigi_spendguard.config import Settings
from luigi_spendguard.errors import BooksUnread
from luigi_spendguard.http.blocking import BlockingTransport
from luigi_spendguard.ledger import corrections, queries
from luigi_spendguard.ledger.database.engines import opened
from luigi_spendguard.money import Micros
from luigi_spendguard.reconcile import Reconciler
from luigi_spendguard.reconcile.comparing import Sums
from luigi_spendguard.reconcile.differences import Cause, Difference
from luigi_spendguard.vendors.own_books import Period
from tests.support.books import Books
from tests.support.reconciled import applied
from tests.support.twilio_desk import SECRET, SID, TwilioDesk
from tests.support.vendors import FakeTwilio

HOUR = 3_600_000
SENT = "POST /api.twilio.com/*/Messages.json"
SMS, FEE = 8_000, 4_000
SCHEDULED = {
    "MessagingServiceSid": "MG" + "1" * 32,
    "ScheduleType": "fixed",
    "SendAt": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 7_200)),
}
_http = urllib3.PoolManager(timeout=30, retries=False)


@pytest.fixture(scope="module")
def fake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeTwilio]:
    vendor = FakeTwilio(tmp_path_factory.mktemp("twilio"))
    yield vendor
    vendor.process.end()


class Sides:
    """A ledger, and a Twilio account; a message is quoted at $0.012, of which $0.004 are a carrier's fee."""

    def __init__(self, folder: Path, fake: FakeTwilio) -> None:
        fake.forget()
        fake.control(options={"sms_price": {"1": "0.008"}, "price_delay": 0, "send_delay": 0})
        self.fake, self.folder = fake, folder / "work"
        self.now: int | None = None
        self.books = Books(folder / "spendguard.db", 100_000_000)
        own = {"sms_prices": {"1": SMS}, "sms_fees": {"1": FEE}, "failed_price": 1_000}
        self.desk = TwilioDesk(self.books, fake, **own, channel_prices={"whatsapp": 50_000})

    def message(self, to: str = "+14155550100", **more: str) -> str:
        """Let a call send a message, whose price is booked; return its SID."""
        return str(json.loads(self.desk.message(To=to, **more).body)["sid"])

    def lost(self, fault: str = "drop_after", to: str = "+14155550100", body: str = "Hello") -> str:
        """Let a message's reply be lost; return its call's id."""
        before = {call["id"] for call in self.desk.calls()}
        self.fake.fault(fault, match=SENT)
        with pytest.raises((ConnectionError, TimeoutError)):
            self.desk.message(body, To=to)
        [call] = [call for call in self.desk.calls() if call["id"] not in before]
        return str(call["id"])

    def priced(self) -> None:
        """Let every price that is there be booked."""
        self.desk.prices_are_due()
        while self.desk.corrector.look():
            pass

    def outside(self, to: str = "+14155550100", body: str = "Hello") -> str:
        """Let somebody with the secret send a message."""
        form = urlencode({"To": to, "From": "+14155550199", "Body": body})
        return str(json.loads(self._asked("POST", "Messages", form))["sid"])

    def deleted(self, sid: str) -> None:
        """Let somebody delete a message."""
        self._asked("DELETE", f"Messages/{sid}")

    def _asked(self, method: str, path: str, form: str = "") -> bytes:
        user = base64.b64encode(f"{SID}:{SECRET}".encode()).decode()
        headers = {"authorization": f"Basic {user}", "content-type": "application/x-www-form-urlencoded"}
        url = f"{self.fake.url}/api.twilio.com/2010-04-01/Accounts/{SID}/{path}.json"
        reply: bytes = _http.request(method, url, form, headers=headers).data
        return reply

    def shows(self, **more: Any) -> str:
        """Let Twilio show something; return its SID."""
        sid = str(more.get("sid") or "SM" + uuid.uuid4().hex)
        made = formatdate(time.time() - more.pop("ago", 0))
        line = {"sid": sid, "account_sid": SID, "status": "delivered", "direction": "outbound-api"}
        dates = {"date_created": made, "date_sent": made, "start_time": made}
        said = {"to": "+14155550100", "from": "+14155550199", "body": "Hi", "price_unit": "USD", **more}
        self.fake.control(put=[line | dates | said])
        return sid

    def changed(self, sid: str, **more: Any) -> None:
        """Let Twilio show something otherwise from now on."""
        thing = {**self.fake.books()["objects"][sid], **more}
        self.fake.control(put=[thing])

    def compare(self, since: int = -2 * HOUR, until: int = 0) -> tuple[Sums, list[Difference]]:
        """Compare; the sums close, and each cent on one side only has its reason and what to do."""
        now = self.now or int(time.time() * 1000)
        settings = Settings(self.folder / "x", vendors={"twilio": self.desk.settings})
        with opened(self.books.path, read_only=True) as ledger:
            one = Reconciler(
                "twilio", settings, SECRET, ledger, BlockingTransport(), self.folder, lambda _: None
            )
            done = one.reconcile(f"twilio:{SID}", Period(now + since, now + until + 1_000))
        found = list(done.differences())
        assert sum(each.vendor_micros for each in found if each.differs) == done.sums.vendor_only
        assert sum(each.ledger_micros for each in found if each.differs) == done.sums.ledger_only
        assert all(each.reason and each.remedy for each in found)
        done.sums.check()
        done.file.remove()
        return done.sums, found

    def found(self, **how: Any) -> list[Difference]:
        """Return what differs."""
        return self.compare(**how)[1]

    def applied(self) -> list[Difference]:
        """Book what is certain, twice; return what differs then."""
        found = self.found()
        for _ in range(2):
            assert applied(self.books, found) == sum(one.certain for one in found)
        return self.found()

    def only(self, **how: Any) -> Difference:
        """Return the one thing that differs."""
        found = self.found(**how)
        assert len(found) == 1, found
        return found[0]


@pytest.fixture
def sides(fake: FakeTwilio, tmp_path: Path) -> Iterator[Sides]:
    made = Sides(tmp_path, fake)
    yield made
    assert made.books.audit() == []
    made.books.ledger.close()


def test_what_both_know_is_equal_and_what_the_price_may_lack_stands_apart(sides: Sides) -> None:
    for _ in range(3):
        sides.desk.again(f"Notify_{uuid.uuid4()}")
        sides.message()
    sides.priced()
    sums, found = sides.compare()
    assert found == []
    assert (sums.vendor, sums.ledger) == (3 * SMS, 3 * (SMS + FEE))
    assert (sums.matched, sums.fees, sums.equal) == (3 * SMS, 3 * FEE, 3)


def test_a_message_that_no_call_has_sent_is_outside(sides: Sides) -> None:
    sides.message()
    sides.priced()
    sid = sides.outside()
    found = sides.only()
    assert (found.kind, found.subject, found.vendor_micros) == (Cause.OUTSIDE, sid, SMS)
    assert not found.certain


def test_nor_is_one_without_a_price_passed_over(sides: Sides) -> None:
    bare = sides.shows(price=None)
    by_channel = sides.shows(to="whatsapp:+14155550100", price="-0.00500")
    assert {(one.kind, one.subject, one.vendor_micros) for one in sides.found()} == {
        (Cause.OUTSIDE, bare, 0),
        (Cause.OUTSIDE, by_channel, 5_000),
    }


def test_what_comes_in_is_billed_too_and_nobodys_call(sides: Sides) -> None:
    sid = sides.shows(direction="inbound", status="received", price="-0.00750")
    found = sides.only()
    assert (found.kind, found.subject, found.vendor_micros) == (Cause.CAME_IN, sid, 7_500)


def test_a_price_that_came_late_is_certain(sides: Sides) -> None:
    """Nobody has asked for it: the ledger has what was quoted."""
    sid = sides.message()
    sides.fake.control(options={"price": {sid: "-0.00600"}})
    found = sides.only()
    assert (found.kind, found.ledger_micros, found.vendor_micros) == (Cause.PRICE, 2_000, 0)
    assert (found.certain, found.spent) == (True, 6_000 + FEE)
    assert sides.applied() == []
    assert sides.books.figures() == (6_000 + FEE, 0, 0)
    sides.fake.control(options={"price": {sid: "-0.00700"}})
    assert sides.applied() == []  # Which fee a price may lack is still known.
    assert sides.books.figures() == (7_000 + FEE, 0, 0)
    assert sides.desk.calls()[0]["estimated"] is False


@pytest.mark.parametrize(
    ("price", "spent", "vendor_only", "ledger_only"),
    [
        ("-0.00500", 5_000 + FEE, 0, SMS - 5_000),
        ("-0.02000", 20_000, 20_000 - SMS - FEE, 0),  # It is what Twilio bills, not the fee once more.
    ],
)
def test_another_price_than_the_booked_one_is_certain(
    sides: Sides, price: str, spent: int, vendor_only: int, ledger_only: int
) -> None:
    sid = sides.message()
    sides.priced()
    sides.fake.control(options={"price": {sid: price}})
    found = sides.only()
    assert (found.kind, found.certain, found.spent) == (Cause.PRICE, True, spent)
    assert (found.vendor_micros, found.ledger_micros) == (vendor_only, ledger_only)
    assert sides.applied() == []
    assert sum(sides.books.figures()) == spent


def test_a_price_that_goes_back_and_forth_is_booked_each_time(sides: Sides) -> None:
    sid = sides.message()
    sides.priced()
    sides.now = int(time.time() * 1000)  # Of one period.
    for price in (5_000, 6_000, 5_000, 6_000, 5_000):
        sides.fake.control(options={"price": {sid: f"-0.00{price // 10}"}})
        assert sides.applied() == []
        assert sides.books.figures() == (price + FEE, 0, 0)
    words = sides.books.read(lambda tx: tx.value("SELECT count(*) FROM journal WHERE kind = 'operator'"))
    assert words == 5  # Each was booked twice, and has counted once.


def test_a_dearer_price_may_contain_some_of_the_fee(sides: Sides) -> None:
    sid = sides.message()
    sides.priced()
    sides.fake.control(options={"price": {sid: "-0.00900"}})
    sums, found = sides.compare()
    assert found == []
    assert (sums.matched, sums.fees) == (9_000, SMS + FEE - 9_000)


def test_a_failed_message_costs_the_failed_fee_alone(sides: Sides) -> None:
    sides.fake.control(options={"failing": ["+14155550111"]})
    sides.message("+14155550111")
    found = sides.only()
    assert (found.kind, found.spent, found.certain) == (Cause.PRICE, 1_000, True)
    assert found.ledger_micros == SMS + FEE - 1_000
    assert sides.applied() == []
    assert sides.books.figures() == (1_000, 0, 0)


def test_an_undelivered_message_costs_what_its_price_says(sides: Sides) -> None:
    sid = sides.message()
    sides.priced()
    sides.changed(sid, status="undelivered")
    assert sides.found() == []


def test_a_message_without_a_price_yet_is_waited_for(sides: Sides) -> None:
    sides.fake.control(options={"price_delay": 3600})
    sides.message()
    found = sides.only()
    assert (found.kind, found.ledger_micros, found.certain) == (Cause.NO_PRICE, SMS + FEE, False)
    assert not found.differs


@pytest.mark.parametrize(
    ("hours", "status", "differs"),
    [(23, "delivered", False), (25, "delivered", True), (25, "queued", True), (25, "scheduled", False)],
)
def test_a_price_that_twilio_should_have_named_differs(
    sides: Sides, hours: int, status: str, differs: bool
) -> None:
    sid = sides.message(**SCHEDULED)
    made = formatdate(time.time() - hours * 3600)
    sent = made if status == "delivered" else None
    sides.changed(sid, status=status, date_created=made, date_sent=sent, price=None, price_unit=None)
    age = "UPDATE call SET created_at = created_at - ?"
    sides.books.write(lambda tx: tx.run(age, hours * HOUR))
    sums, [found] = sides.compare(since=-30 * HOUR)
    assert (found.kind, found.differs) == (Cause.NO_PRICE, differs)
    quoted = sums.ledger
    assert (sums.ledger_only, sums.ledger_uncompared) == ((quoted, 0) if differs else (0, quoted))
    assert (dict(sums.kinds), dict(sums.uncompared)) == (
        ({"no_price": 1}, {}) if differs else ({}, {"no_price": 1})
    )


def test_a_currency_without_a_rate_is_said_with_the_price(sides: Sides) -> None:
    sides.fake.control(options={"price_unit": "EUR"})
    sides.message()
    found = sides.only()
    assert (found.kind, found.currency, found.certain) == (Cause.NO_RATE, "eur", False)
    assert "eur" in found.reason


def test_what_is_in_no_list_is_asked_for_by_its_sid(sides: Sides) -> None:
    """Scheduled, and cancelled at the console: it was never sent, and Twilio lists by when that was."""
    sid = sides.message(**SCHEDULED)
    assert sides.only().kind is Cause.NO_PRICE
    sides.changed(sid, status="canceled")
    found = sides.only()
    assert (found.kind, found.spent, found.certain) == (Cause.CANCELLED, 0, True)


def test_what_was_sent_after_the_period_is_of_another_one(sides: Sides) -> None:
    """It was scheduled in it, and in no period it is missed, or shown twice."""
    sid = sides.message(**SCHEDULED)
    at = time.time() + 3 * 3_600
    sides.changed(sid, status="delivered", date_sent=formatdate(at), price="-0.00500", price_unit="USD")
    assert sides.found() == []
    found = sides.only(since=2 * HOUR, until=4 * HOUR)
    assert (found.kind, found.subject) == (Cause.PRICE, sid)
    assert found.spent == 5_000 + FEE + 15_000  # With what scheduling costs.


def test_what_twilio_has_no_more_is_said(sides: Sides) -> None:
    sides.message()
    sides.priced()
    sides.fake.forget()
    found = sides.only()
    assert (found.kind, found.ledger_micros, found.certain) == (Cause.NOT_THERE, SMS + FEE, False)


def test_a_message_by_a_channel_costs_what_was_quoted(sides: Sides) -> None:
    """Twilio's price does not contain what the channel takes."""
    sides.message("whatsapp:+14155550100", From="whatsapp:+14155550199")
    assert sides.found() == []
    sides.priced()
    assert sides.found() == []


def test_a_call_that_fails_costs_nothing(sides: Sides) -> None:
    sides.fake.control(options={"failing": ["+14155550100"]})
    twiml = "<Response><Say>Hello</Say></Response>"
    form = {"To": "+14155550100", "From": "+14155550199", "Twiml": twiml, "TimeLimit": "60"}
    sides.desk.post(f"/2010-04-01/Accounts/{SID}/Calls.json", form)
    found = sides.only()
    assert (found.kind, found.spent, found.certain) == (Cause.CANCELLED, 0, True)


def test_what_a_call_dials_is_billed_with_it(sides: Sides) -> None:
    """Its legs were quoted with it: Twilio's price of the call lacks them."""
    own = {"account_sid": SID, "call_prices": {"1": 14_000, "1907": 14_000}, "call_legs": 3}
    desk = TwilioDesk(sides.books, sides.fake, **own)
    form = {"To": "+14155550100", "From": "+14155550199", "Url": "https://example.com/", "TimeLimit": "60"}
    sides.fake.control(options={"call_delay": 0})
    reply = desk.post(f"/2010-04-01/Accounts/{SID}/Calls.json", form)
    sid = json.loads(reply.body)["sid"]
    sides.fake.control(options={"price": {sid: "-0.01400"}})
    sides.priced()
    ledger = 3 * 14_000
    assert sides.books.figures() == (ledger, 0, 0)
    leg = {"direction": "outbound-dial", "parent_call_sid": sid, "status": "completed"}
    for price in ("-0.01400", "-0.01000"):
        sides.shows(sid="CA" + uuid.uuid4().hex, price=price, **leg)
    sums, found = sides.compare()
    assert found == []
    assert (sums.vendor, sums.matched, sums.fees) == (38_000, 38_000, 4_000)
    sides.shows(sid="CA" + uuid.uuid4().hex, price="-0.01000", **leg)
    dearer = sides.only()
    assert (dearer.kind, dearer.vendor_micros, dearer.spent) == (Cause.PRICE, 6_000, 48_000)


def test_what_has_no_list_is_said(sides: Sides) -> None:
    path = "/v2/Services/VA00000000000000000000000000000001/Verifications"
    sides.desk.post(path, {"To": "+14155550100", "Channel": "sms"}, "verify.twilio.com")
    found = sides.only()
    assert (found.kind, found.certain, found.differs) == (Cause.NOT_LISTED, False, False)


# In doubt: Twilio has no idempotency, and no metadata.


def test_a_lost_message_is_known_where_it_can_be_no_other(sides: Sides) -> None:
    call = sides.lost()
    sides.outside("+14155550177")
    found = {each.kind: each for each in sides.found()}
    assert set(found) == {Cause.MADE, Cause.OUTSIDE}
    assert (found[Cause.MADE].call, found[Cause.MADE].certain) == (call, True)
    assert found[Cause.MADE].spent == SMS + FEE  # Its price may lack the fee, and that was quoted.
    sent = next(one["sid"] for one in sides.fake.sent() if one["to"] == "+14155550100")
    assert found[Cause.MADE].subject == sent
    assert [one.kind for one in sides.applied()] == [Cause.OUTSIDE]
    assert sides.books.figures() == (SMS + FEE, 0, 0)
    assert sides.desk.calls()[0]["object_id"] == sent
    sides.desk.again()
    assert json.loads(sides.desk.message().body)["sid"] == sent
    assert sides.desk.posts() == 2


def test_what_was_not_sent_stays_in_doubt(sides: Sides) -> None:
    """A list without it does not say that it never was: it may be sent yet, or have been deleted."""
    call = sides.lost("drop_before")
    found = sides.only()
    assert (found.kind, found.call, found.certain, found.spent) == (Cause.IN_DOUBT, call, False, None)


@pytest.mark.parametrize("other", ["twin", "rival", "resolved", "blind"])
def test_what_may_be_another_ones_is_not_guessed(sides: Sides, other: str) -> None:
    call = sides.lost()
    if other == "twin":  # Somebody has sent the same words to the same number.
        sides.outside()
    else:  # So may another call have, that was lost as well.
        sides.desk.again("Notify_2")
        rival = sides.lost("drop_before", body="Hello" if other != "blind" else "Something else")
        if other == "resolved":
            word = corrections.Resolution(Micros(SMS), overrun=True)
            sides.books.write(corrections.resolve, rival, word, "an operator's")
        if other == "blind":  # What it said is not kept any more.
            sides.books.write(lambda tx: tx.run("DELETE FROM exchange WHERE call_id = ?", rival))
    found = [each for each in sides.found() if each.call == call]
    assert [(each.kind, each.certain) for each in found] == [(Cause.IN_DOUBT, False)]


@pytest.mark.parametrize("what", ["media", "older", "owned"])
def test_nor_is_what_a_list_does_not_show_or_others_have_sent_taken(sides: Sides, what: str) -> None:
    if what == "owned":  # Another call has that one.
        sides.message()
        sides.priced()
        sides.desk.again("Notify_2")
        sides.lost("drop_before")
    elif what == "older":
        sides.shows(ago=600, body="Hello", price="-0.00800")
        sides.lost("drop_before")
    else:
        sides.fake.fault("drop_after", match=SENT)
        with pytest.raises((ConnectionError, TimeoutError)):
            sides.desk.message(MediaUrl="https://example.com/a.png")
    kinds = sorted(each.kind.value for each in sides.found())
    assert kinds == ["in_doubt"] if what == "owned" else ["in_doubt", "outside"]


def test_what_an_operator_has_said_without_an_object_is_known_by_what_it_says(sides: Sides) -> None:
    call = sides.lost()
    word = corrections.Resolution(Micros(SMS + FEE))
    sides.books.write(corrections.resolve, call, word, "an operator's")
    assert sides.found() == []


def test_a_call_in_doubt_has_only_candidates(sides: Sides) -> None:
    """What TwiML it had is in no list."""
    sides.fake.fault("drop_after", match="POST /api.twilio.com/*/Calls.json")
    form = {"To": "+14155550100", "From": "+14155550199", "Twiml": "<Response/>", "TimeLimit": "60"}
    with pytest.raises((ConnectionError, TimeoutError)):
        sides.desk.post(f"/2010-04-01/Accounts/{SID}/Calls.json", form)
    assert {each.kind for each in sides.found()} == {Cause.IN_DOUBT, Cause.OUTSIDE}


def test_all_kinds_at_once_are_told_apart(sides: Sides) -> None:
    """Each cent of both sides is matched, a fee that was quoted, or in one difference with its reason."""
    for number in range(10):
        sides.desk.again(f"Equal_{number}")
        sides.message(f"+1415555{2000 + number}")
    sides.priced()
    late, failed, dearer, gone = (f"+1415555300{number}" for number in range(4))
    sides.fake.control(options={"failing": [failed], "price": {late: "-0.00500", dearer: "-0.02500"}})
    for to in (late, failed, dearer, gone):
        sides.desk.again(f"Other_{to}")
        sid = sides.message(to)
    sides.deleted(sid)
    sides.desk.again("Scheduled")
    sides.message("+14155553999", **SCHEDULED)
    sides.desk.again("Lost_1")
    known = sides.lost(to="+14155554001")
    sides.desk.again("Lost_2")
    sides.lost("drop_before", to="+14155554002")
    sides.outside("+14155555001")
    sides.shows(direction="inbound", status="received", price="-0.00750")
    sides.shows(direction="outbound-reply", price="-0.00830")
    sums, found = sides.compare()
    kinds = sorted(each.kind.value for each in found)
    assert kinds == sorted(
        [
            *("price", "price", "price", "not_there", "no_price", "made", "in_doubt", "came_in"),
            *("outside", "outside"),
        ]
    )
    assert sums.ledger == sums.matched + sums.fees + sums.ledger_only + sums.ledger_uncompared
    assert sums.vendor == sums.matched + sums.vendor_only
    assert {each.kind for each in found if each.certain} == {Cause.PRICE, Cause.MADE}
    assert known in {each.call for each in found if each.certain}
    left = [each.kind.value for each in sides.applied()]
    assert sorted(left) == ["came_in", "in_doubt", "no_price", "not_there", "outside", "outside"]


def test_no_call_is_made_and_nothing_is_changed(sides: Sides) -> None:
    sides.message()
    sides.lost()
    before = sides.books.read(queries.calls), sides.fake.posts()
    sides.found()
    assert (sides.books.read(queries.calls), sides.fake.posts()) == before


def test_a_line_of_another_account_is_none_of_this_one(sides: Sides) -> None:
    stranger = {"sid": "SM" + "2" * 32, "account_sid": "AC" + "2" * 32, "status": "sent"}
    sides.fake.fault("change", change={"messages": [stranger]}, match="GET /api.twilio.com/*/Messages.json")
    with pytest.raises(BooksUnread, match="another account"):
        sides.found()
