"""What becomes of a message whose reply is lost, and what it costs in the end, by the vendor's books."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from luigi_spendguard.errors import BudgetExceeded, SpendDenied
from luigi_spendguard.guard.effects import NotSent
from luigi_spendguard.ledger import corrections
from luigi_spendguard.money import Micros
from luigi_spendguard.protocol import ReserveReply, ReserveRequest
from luigi_spendguard.vendors import FollowedUp
from tests.support.books import Books
from tests.support.twilio_desk import SID, TwilioDesk
from tests.support.vendors import FakeTwilio

CAP = 1_000_000  # $1


@pytest.fixture(scope="module")
def fake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeTwilio]:
    vendor = FakeTwilio(tmp_path_factory.mktemp("twilio"))
    yield vendor
    vendor.process.end()


@pytest.fixture
def desk(fake: FakeTwilio, tmp_path: Path) -> Iterator[TwilioDesk]:
    fake.forget()
    fake.control(options={"sms_price": {"1": "0.01"}, "price_delay": 0, "send_delay": 0})
    books = Books(tmp_path / "spendguard.db", CAP)
    yield TwilioDesk(books, fake)
    assert books.audit() == []
    books.ledger.close()


def lost(desk: TwilioDesk, fault: str, body: str = "Hello") -> None:
    desk.fake.fault(fault, match="POST /api.twilio.com/*/Messages.json")
    with pytest.raises((ConnectionError, TimeoutError)):
        desk.message(body)


def test_a_message_whose_reply_was_lost_is_found_and_not_sent_again(desk: TwilioDesk) -> None:
    lost(desk, "drop_after")
    assert [call["state"] for call in desk.calls()] == ["in_doubt"]
    desk.again()
    found = json.loads(desk.message().body)
    assert found["sid"] == desk.fake.sent()[0]["sid"]
    assert (desk.posts(), len(desk.fake.sent())) == (1, 1)
    [call] = [call for call in desk.calls() if call["verdict"] == "allowed"]
    assert (call["state"], call["object_id"]) == ("settled", found["sid"])
    desk.again()
    assert json.loads(desk.message().body)["sid"] == found["sid"]
    assert desk.posts() == 1


def test_nor_where_that_it_was_found_is_not_heard_and_asked_for_again(
    desk: TwilioDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ledger's answer is lost, and its client asks once more."""
    lost(desk, "drop_after")
    desk.again()
    reserve = desk.books.reserve

    def unheard(key: str, ask: ReserveRequest) -> ReserveReply:
        answer = reserve(key, ask)
        return reserve(key, ask) if answer.verdict == "found" else answer

    monkeypatch.setattr(desk.books, "reserve", unheard)
    assert json.loads(desk.message().body)["sid"] == desk.fake.sent()[0]["sid"]
    assert (desk.posts(), len(desk.fake.sent())) == (1, 1)


def test_a_proxys_408_about_a_message_that_was_sent_sends_no_other(desk: TwilioDesk) -> None:
    desk.fake.fault("status_after", status=408, match="POST /api.twilio.com/*/Messages.json")
    assert desk.message().status == 408
    desk.again()
    assert desk.message().status == 201
    assert (len(desk.fake.sent()), desk.books.figures()[1]) == (1, 0)


def test_what_the_vendor_does_not_show_is_not_sent_again_either(desk: TwilioDesk) -> None:
    lost(desk, "drop_before")
    for _ in range(2):
        desk.again()
        with pytest.raises(SpendDenied, match="never sent twice") as denied:
            desk.message()
        assert denied.value.reason == "in_doubt"
    assert (desk.posts(), desk.fake.sent()) == (1, [])
    assert desk.books.figures() == (0, 10_000, 0)


def test_two_equal_messages_are_two_and_each_is_found_once(desk: TwilioDesk) -> None:
    lost(desk, "drop_after")
    # Its outcome is not known, so an equal call of this attempt is that one, made again.
    first = json.loads(desk.message().body)["sid"]
    lost(desk, "drop_after")
    desk.again()
    sids = {json.loads(desk.message().body)["sid"] for _ in range(2)}
    assert len(sids | {first}) == len(sids) == 2
    assert sids == {one["sid"] for one in desk.fake.sent()}
    assert desk.posts() == 2


def test_an_older_message_of_another_program_is_not_taken_for_it(desk: TwilioDesk) -> None:
    lost(desk, "drop_after")
    desk.books.write(lambda tx: tx.run("UPDATE call SET created_at = created_at + 60000"))
    desk.again()
    with pytest.raises(SpendDenied, match="does not show it"):
        desk.message()


def test_a_message_found_for_one_call_is_no_other_calls(desk: TwilioDesk) -> None:
    sent = json.loads(desk.message().body)["sid"]
    lost(desk, "drop_before")
    desk.again()
    assert json.loads(desk.message().body)["sid"] == sent  # The first call, replayed.
    with pytest.raises(SpendDenied, match="does not show it"):
        desk.message()
    assert len(desk.fake.sent()) == 1


def test_which_of_two_tasks_equal_messages_arrived_is_not_guessed(desk: TwilioDesk) -> None:
    lost(desk, "drop_before")
    desk.again("Remind_1")
    lost(desk, "drop_after")
    [sent] = desk.fake.sent()
    for task in ("Notify_1", "Remind_1"):
        desk.again(task)
        with pytest.raises(SpendDenied, match=f"shows {sent['sid']}, which may be an equal call's"):
            desk.message()
    assert (desk.posts(), desk.books.figures()) == (2, (0, 20_000, 0))


def test_where_both_arrived_each_task_finds_one(desk: TwilioDesk) -> None:
    lost(desk, "drop_after")
    desk.again("Remind_1")
    lost(desk, "drop_after")
    sids = set()
    for task in ("Notify_1", "Remind_1"):
        desk.again(task)
        sids.add(json.loads(desk.message().body)["sid"])
    assert sids == {one["sid"] for one in desk.fake.sent()}
    assert (desk.posts(), len(sids)) == (2, 2)


def test_a_call_whose_reply_was_lost_is_the_operators_to_resolve(desk: TwilioDesk) -> None:
    """A list of calls does not show what was said: another call to this number would look the same."""
    said = {"To": "+14155550100", "From": "+14155550199", "Twiml": "<Response><Say>Hi</Say></Response>"}
    path = f"/2010-04-01/Accounts/{SID}/Calls.json"
    desk.fake.fault("drop_after", match=f"POST /api.twilio.com{path}")
    with pytest.raises((ConnectionError, TimeoutError)):
        desk.post(path, said)
    desk.again()
    with pytest.raises(SpendDenied, match="no list in which it could be found"):
        desk.post(path, said)


def test_what_an_operator_has_named_is_answered_as_what_twilio_has_made(desk: TwilioDesk) -> None:
    """Whoever goes by the documented 201 would send it again."""
    lost(desk, "drop_after")
    [call], [sent] = desk.calls(), desk.fake.sent()
    said = corrections.Resolution(Micros(10_000), sent["sid"])
    desk.books.write(corrections.resolve, call["id"], said, "by hand")
    desk.again()
    reply = desk.message()
    assert (reply.status, json.loads(reply.body)["sid"], desk.posts()) == (201, sent["sid"], 1)


def test_the_list_that_cannot_be_asked_now_leaves_it_in_doubt(desk: TwilioDesk) -> None:
    """The vendor's own answer is the call's: its author may make it again."""
    lost(desk, "drop_after")
    for status in (500, 429):
        desk.fake.fault("status", status=status, match="GET /api.twilio.com")
        desk.again()
        assert desk.message().status == status
    desk.fake.fault("drop_before", match="GET /api.twilio.com")
    desk.again()
    with pytest.raises(NotSent, match="has to be looked up"):
        desk.message()
    assert (desk.posts(), [call["state"] for call in desk.calls()]) == (1, ["in_doubt"])
    assert json.loads(desk.message().body)["sid"] == desk.fake.sent()[0]["sid"]


def test_a_repeated_call_with_another_text_is_refused(desk: TwilioDesk) -> None:
    desk.message("Your code is 1")
    desk.again()
    with pytest.raises(SpendDenied) as denied:
        desk.message("Your code is 2")
    assert denied.value.reason == "idempotency_mismatch"
    assert desk.posts() == 1


def test_a_message_that_does_not_fit_is_not_sent(desk: TwilioDesk) -> None:
    for n in range(100):
        desk.message(f"{n}")
    with pytest.raises(BudgetExceeded):
        desk.message("one too many")
    assert (desk.fake.billed(), desk.books.figures()) == (CAP, (CAP, 0, 0))


# Prices that come late.


def test_a_late_price_corrects_the_estimate(desk: TwilioDesk) -> None:
    desk.fake.control(options={"price_delay": 3600})
    sid = json.loads(desk.message().body)["sid"]
    desk.fake.control(options={"price": {sid: "-0.00750"}})
    assert desk.books.figures() == (10_000, 0, 0)
    assert desk.corrector.look() == 0  # Not yet.
    desk.prices_are_due()
    assert desk.corrector.look() == 1  # It names none yet.
    assert desk.calls()[0]["estimated"] is True
    desk.fake.control(options={"price_delay": 0})
    desk.books.restart()
    desk.prices_are_due()
    assert desk.corrector.look() == 1
    assert desk.books.figures() == (7_500, 0, 0)
    [call] = desk.calls()
    assert (call["estimated"], call["spent_usd"]) == (False, "0.0075")
    assert [(one["usd"], one["note"]) for one in call["corrections"]] == [
        ("-0.0025", "Twilio's price is 0.00750 USD")
    ]
    desk.prices_are_due()
    assert desk.corrector.look() == 0


#: Twilio's list price and a carrier's fee, in micro-dollars a segment.
LIST, FEE = 8_300, 8_750


@pytest.mark.parametrize(
    ("billed", "spent", "overrun"),
    [
        (LIST, LIST + FEE, 0),  # Twilio's price lacks the fee, which comes on a bill of its own.
        (LIST + 3_000, LIST + FEE, 0),  # It contains a carrier's that is less dear.
        (LIST + FEE, LIST + FEE, 0),
        (LIST + FEE + 1_000, LIST + FEE, 1_000),  # It is what Twilio bills, not the fee once more.
        (1_000, 1_000 + FEE, 0),
    ],
)
def test_a_price_that_contains_the_carriers_fee_is_not_booked_with_it_twice(
    desk: TwilioDesk, billed: int, spent: int, overrun: int
) -> None:
    desk = TwilioDesk(desk.books, desk.fake, sms_prices={"1": LIST}, sms_fees={"1": FEE})
    sid = json.loads(desk.message().body)["sid"]
    assert desk.books.figures() == (LIST + FEE, 0, 0)
    desk.fake.control(options={"price": {sid: f"-{billed / 1_000_000:.5f}"}})
    desk.prices_are_due()
    desk.corrector.look()
    assert desk.fake.billed() == billed
    assert desk.books.figures() == (spent, 0, overrun)
    assert desk.books.run()["state"] == ("frozen" if overrun else "active")


@pytest.mark.parametrize("more", [{}, {"ShortenUrls": "true"}], ids=["plain", "with fees of Twilio's own"])
def test_a_failed_message_costs_the_price_of_one_and_no_fees(desk: TwilioDesk, more: dict[str, str]) -> None:
    desk = TwilioDesk(desk.books, desk.fake, sms_fees={"1": FEE}, failed_price=1_000)
    desk.fake.control(options={"failing": ["+14155550100"], "price": {"+14155550100": "-0.00100"}})
    desk.message(**more)
    desk.prices_are_due()
    desk.corrector.look()
    assert (desk.fake.billed(), desk.books.figures()) == (1_000, (1_000, 0, 0))


def test_a_price_in_a_currency_without_a_rate_is_said(
    desk: TwilioDesk, caplog: pytest.LogCaptureFixture
) -> None:
    desk.fake.control(options={"price_unit": "EUR"})
    for number in range(2):
        desk.message(f"Hello {number}")
    for _ in range(2):
        desk.prices_are_due()
        desk.corrector.look()
    assert desk.books.figures() == (20_000, 0, 0)
    said = "Twilio's prices are in EUR, which has no rate in [spendguard_fx]"
    assert [said in line for line in caplog.messages] == [True]
    assert desk.books.run()["note"].count(said) == 1
    assert all(said in call["corrections"][-1]["note"] for call in desk.calls())
    assert [len(call["corrections"]) for call in desk.calls()] == [1, 1]
    desk.with_rates(EUR="1.5")
    desk.prices_are_due()
    desk.corrector.look()
    assert desk.books.figures() == (20_000, 0, 10_000)


def test_what_costs_more_than_was_reserved_is_overrun(desk: TwilioDesk) -> None:
    sid = json.loads(desk.message().body)["sid"]
    desk.fake.control(options={"price": {sid: "-0.03"}})
    desk.prices_are_due()
    desk.corrector.look()
    assert desk.books.figures() == (10_000, 0, 20_000)
    assert desk.books.run()["state"] == "frozen"
    assert desk.calls()[0]["corrections"][-1]["usd"] == "0.02"


@pytest.mark.parametrize("how", ["failed", "canceled"])
def test_a_failed_or_cancelled_message_gives_its_money_back(desk: TwilioDesk, how: str) -> None:
    if how == "failed":
        desk.fake.control(options={"failing": ["+14155550100"]})
        desk.message()
    else:
        in_a_week = (datetime.now(timezone.utc) + timedelta(days=7)).isoformat(timespec="seconds")
        later = {"MessagingServiceSid": "MG" + "1" * 32, "ScheduleType": "fixed", "SendAt": in_a_week}
        made = desk.message(**later)
        assert made.status == 201, made.body
        sid = json.loads(made.body)["sid"]
        desk.post(f"/2010-04-01/Accounts/{SID}/Messages/{sid}.json", {"Status": "canceled"})
        assert desk.books.figures() == (0, 0, 0)
    desk.prices_are_due()
    desk.corrector.look()
    assert (desk.fake.billed(), desk.books.figures()) == (0, (0, 0, 0))


def test_a_price_that_never_comes_is_given_up_and_the_estimate_stays(desk: TwilioDesk) -> None:
    desk.fake.control(options={"price_delay": 10**9})
    desk.message()
    for _ in range(len(corrections.BACK_OFF_MS)):
        desk.prices_are_due()
        assert desk.corrector.look() == 1
    desk.prices_are_due()
    assert desk.corrector.look() == 0
    assert desk.books.figures() == (10_000, 0, 0)
    assert desk.calls()[0]["corrections"][0]["note"] == "Twilio names no price yet: $0.01 stays"


def test_a_vendor_that_does_not_answer_is_asked_again(desk: TwilioDesk) -> None:
    desk.message()
    desk.fake.fault("drop_before", match="GET /api.twilio.com")
    desk.prices_are_due()
    desk.corrector.look()
    assert desk.calls()[0]["estimated"] is True
    desk.prices_are_due()
    desk.corrector.look()
    assert desk.calls()[0]["estimated"] is False


def test_a_vendor_that_hangs_is_asked_for_a_bounded_time(desk: TwilioDesk) -> None:
    """However many prices are due: a worker with a ledger of its own asks at its end."""
    for number in range(5):
        desk.message(f"Hello {number}")
    desk.fake.fault("hang", seconds=30, times=5, match="GET /api.twilio.com")
    desk.prices_are_due()
    desk.corrector.look(0.0)
    assert not [one for one in desk.fake.books()["requests"] if one["method"] == "GET"]
    assert desk.books.read(lambda tx: tx.value("SELECT max(tries) FROM price_due")) == 0
    desk.prices_are_due()
    began = time.monotonic()
    desk.corrector.look(1.0)
    assert 0.5 < time.monotonic() - began < 20
    assert all(call["estimated"] for call in desk.calls())


def test_another_accounts_prices_are_not_asked_for(desk: TwilioDesk) -> None:
    desk.message()
    desk.with_account("AC" + "2" * 32)
    desk.prices_are_due()
    before = len(desk.fake.books()["requests"])
    desk.corrector.look()
    assert len(desk.fake.books()["requests"]) == before
    assert desk.calls()[0]["estimated"] is True


@pytest.mark.parametrize("given_up", [False, True])
def test_another_price_than_the_one_that_was_named_is_corrected_with_the_same_fees(
    desk: TwilioDesk, *, given_up: bool
) -> None:
    """Whether it was named in time, or nothing was: what may be missing in it is still known."""
    desk = TwilioDesk(desk.books, desk.fake, sms_fees={"1": 4_000})
    sid = json.loads(desk.message().body)["sid"]
    [call] = desk.calls()
    named = FollowedUp(None, final=True) if given_up else FollowedUp(8_000, final=True)
    desk.books.write(lambda tx: corrections.correct(tx, call["id"], named))
    assert desk.books.figures() == (14_000 if given_up else 12_000, 0, 0)
    again = FollowedUp(9_000, final=True, note="Twilio's books")
    desk.books.write(lambda tx: corrections.correct(tx, call["id"], again, waited=False))
    desk.books.write(lambda tx: corrections.correct(tx, call["id"], again, waited=False))
    assert desk.books.figures() == (13_000, 0, 0)
    assert desk.books.write(lambda tx: corrections.correct(tx, call["id"], again)) is None
    known = desk.books.read(lambda tx: tx.value("SELECT counted_micros FROM vendor_object"))
    assert (known, desk.calls()[0]["object_id"]) == (13_000, sid)


def test_of_a_call_whose_fees_were_not_kept_a_lower_price_changes_nothing(desk: TwilioDesk) -> None:
    """It was corrected before the ledger kept them: they may be the difference."""
    desk.message()
    desk.corrector.look()
    desk.prices_are_due()
    desk.corrector.look()
    [call] = desk.calls()
    desk.books.write(lambda tx: tx.run("UPDATE call SET fees_micros = NULL"))
    for price, cost in ((9_000, 10_000), (11_000, 11_000), (0, 0)):
        said = FollowedUp(price, final=True)
        desk.books.write(lambda tx, said=said: corrections.correct(tx, call["id"], said, waited=False))
        assert sum(desk.books.figures()) == cost
