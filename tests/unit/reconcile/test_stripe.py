"""Stripe's books beside the ledger: each difference that is planted is found, and each cent explained."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from luigi_spendguard.config import Settings
from luigi_spendguard.errors import BooksUnread, Conflict
from luigi_spendguard.ledger.database.engines import opened
from luigi_spendguard.protocol import EndRequest
from luigi_spendguard.reconcile import Reconciled, Reconciler
from luigi_spendguard.reconcile.differences import Cause, Difference
from luigi_spendguard.reconcile.work_file import WorkFile
from luigi_spendguard.settings import VendorSettings
from luigi_spendguard.vendors import Reply
from luigi_spendguard.vendors.own_books import Period
from luigi_spendguard.vendors.stripe.tags import tag_of
from tests.support.books import Books
from tests.support.fake_stripe_lists import NoSuchObject, StripeAccount
from tests.support.reconciled import applied
from tests.support.vendor_books import PaperTransport

SECRET = "sk_test_reconcile"
HOUR = 3_600_000
CENT = 10_000


class Sides:
    """A ledger, and a Stripe account that was charged by it."""

    def __init__(self, tmp_path: Path) -> None:
        self.folder = tmp_path / "work"
        self.books = Books(tmp_path / "ledger.db", cap=10**12)
        self.stripe = StripeAccount(int(time.time()) - 60)
        self.key = self.books.claim("task")
        self.fx: dict[str, Decimal] = {}
        #: The metadata of what each call makes.
        self.tags: dict[str, dict[str, str]] = {}
        self.answer: Callable[[str, dict[str, str], int], Any] = self._answer

    def _answer(self, path: str, query: dict[str, str], number: int) -> Any:
        try:
            return self.stripe.answer(path, query)
        except NoSuchObject:
            return Reply(404, {}, b"{}")

    def call(self, amount: int, obj: str | None, **more: Any) -> str:
        """Let the guard make a call of so many cents, settled for an object; return its id."""
        counted = more.pop("counted", amount)
        kind = more.pop("kind", "settle")
        ask = self.books.ask(amount * CENT, **{"taggable": True, "tag": True, **more})
        answer = self.books.reserve(self.key, ask)
        assert (answer.verdict, answer.tagged) == ("allowed", ask.tag)
        self.tags[ask.call_id] = {"spendguard_call": tag_of(answer.wire_key)}
        if kind:
            end = EndRequest(
                kind, ask.call_id, 1, total_micros=counted * CENT, object_id=obj, status=200, worth_micros=0
            )
            self.books.end(self.key, end)
        return ask.call_id

    def paid(self, amount: int = 500, **more: Any) -> dict[str, Any]:
        """Let the guard make a charge that both sides know."""
        intent = self.stripe.intent(amount, **more)
        self.call(amount, intent["id"])
        return intent

    def compare(
        self, account: str = "stripe:test", run_id: str = "", since: int = -2 * HOUR, until: int = 0
    ) -> Reconciled:
        now = int(time.time() * 1000)
        vendor = VendorSettings("stripe", secret=SECRET)
        settings = Settings(self.folder / "x", vendors={"stripe": vendor}, fx=self.fx)
        with opened(self.books.path, read_only=True) as ledger:
            transport = PaperTransport(self.answer)
            one = Reconciler("stripe", settings, SECRET, ledger, transport, self.folder, lambda _: None)
            return one.reconcile(account, Period(now + since, now + until), run_id)

    def found(self, **how: Any) -> list[Difference]:
        """Compare, and return what differs; the sums close."""
        done = self.compare(**how)
        differences = list(done.differences())
        assert sum(one.vendor_micros for one in differences if one.differs) == done.sums.vendor_only
        assert sum(one.ledger_micros for one in differences if one.differs) == done.sums.ledger_only
        done.sums.check()
        self.sums = done.sums
        done.file.remove()
        return differences


@pytest.fixture
def sides(tmp_path: Path) -> Iterator[Sides]:
    sides = Sides(tmp_path)
    yield sides
    sides.books.ledger.close()


def one(found: list[Difference]) -> Difference:
    assert len(found) == 1, found
    return found[0]


def test_an_account_with_nothing_has_no_differences(sides: Sides) -> None:
    assert sides.found() == []
    assert (sides.sums.vendor, sides.sums.ledger) == (0, 0)


def test_what_both_know_is_equal_and_fees_are_apart(sides: Sides) -> None:
    for _ in range(250):
        sides.paid()
    assert sides.found() == []
    assert (sides.sums.matched, sides.sums.equal) == (250 * 500 * CENT, 250)
    assert sides.sums.apart == {"fee usd": (250, 250 * 44)}


def test_a_charge_that_no_call_has_made_is_outside(sides: Sides) -> None:
    sides.paid()
    foreign = sides.stripe.intent(500)
    found = one(sides.found())
    assert (found.kind, found.subject, found.vendor_micros) == (
        Cause.OUTSIDE,
        foreign["id"],
        500 * CENT,
    )
    assert (found.ledger_micros, found.certain, found.amount, found.currency) == (0, False, 500, "usd")


def test_a_charge_without_an_intent_is_known_by_its_own_id(sides: Sides) -> None:
    charge = sides.stripe.add(
        "ch",
        "charge",
        amount=300,
        amount_captured=300,
        captured=True,
        currency="usd",
        status="succeeded",
        payment_intent=None,
    )
    sides.stripe.moved(charge, "charge", 300)
    sides.call(300, charge["id"], operation="charges.create", path="/v1/charges")
    assert sides.found() == []
    assert sides.sums.matched == 300 * CENT


def test_what_the_vendor_does_not_have_is_said(sides: Sides) -> None:
    call_id = sides.call(700, "pi_gone")
    found = one(sides.found())
    assert (found.kind, found.call, found.ledger_micros) == (Cause.NOT_THERE, call_id, 700 * CENT)


def test_what_no_list_shows_or_is_not_over_cannot_be_compared(sides: Sides) -> None:
    sides.call(700, "sub_sched_1")
    sides.call(300, None, kind="")
    found = sides.found()
    assert [(each.kind, each.differs) for each in found] == [
        (Cause.UNDER_WAY, False),
        (Cause.NOT_LISTED, False),
    ]
    assert (sides.sums.differences, sides.sums.ledger_uncompared) == (0, 1000 * CENT)


def test_what_a_list_would_show_and_has_no_object_differs(sides: Sides) -> None:
    sides.call(700, None, operation="payment_intents.create")
    found = one(sides.found())
    assert (found.kind, found.differs) == (Cause.NOT_LISTED, True)


def test_refunds_and_disputes_at_the_dashboard_are_said_with_their_charge(sides: Sides) -> None:
    refunded, disputed, asked = sides.paid(), sides.paid(), sides.paid()
    sides.stripe.refund(refunded, 200)
    sides.stripe.dispute(disputed)
    sides.stripe.dispute(asked, "warning_needs_response")
    found = {each.kind: each for each in sides.found()}
    assert set(found) == {Cause.REFUNDED, Cause.DISPUTED}
    assert refunded["id"] in found[Cause.REFUNDED].reason
    assert found[Cause.REFUNDED].vendor_micros == 200 * CENT
    assert found[Cause.DISPUTED].vendor_micros == 500 * CENT
    assert sides.sums.apart["fee usd"][1] == 3 * 44 + 1500


def test_a_refund_by_a_call_is_equal(sides: Sides) -> None:
    refund = sides.stripe.refund(sides.paid(), 200)
    sides.call(200, refund["id"], operation="refunds.create", path="/v1/refunds")
    assert sides.found() == []


def test_a_payout_by_hand_is_said_and_an_automatic_one_is_apart(sides: Sides) -> None:
    sides.stripe.payout(900, automatic=True)
    by_hand = sides.stripe.payout(100)
    ours = sides.stripe.payout(50)
    sides.call(50, ours["id"], operation="payouts.create", path="/v1/payouts")
    assert one(sides.found()).subject == by_hand["id"]
    assert sides.sums.apart == {"automatic payout usd": (1, 900)}


def test_an_intent_that_nobody_has_paid_still_counts(sides: Sides) -> None:
    intent = sides.stripe.intent(500, paid=False)
    sides.call(500, intent["id"])
    found = one(sides.found())
    assert (found.kind, found.ledger_micros, found.certain) == (Cause.UNCONFIRMED, 500 * CENT, False)


def test_an_intent_that_was_cancelled_at_the_dashboard_is_certain(sides: Sides) -> None:
    intent = sides.stripe.intent(500, paid=False)
    intent["status"] = "canceled"
    call_id = sides.call(500, intent["id"])
    found = one(sides.found())
    assert (found.kind, found.certain, found.spent, found.call) == (
        Cause.CANCELLED,
        True,
        0,
        call_id,
    )


def test_less_than_was_counted_is_certain_and_so_is_more(sides: Sides) -> None:
    less, more = sides.stripe.intent(500, paid=False), sides.stripe.intent(500, paid=False)
    sides.stripe.pay(less, 300)
    sides.stripe.pay(more, 800)
    for intent in (less, more):
        sides.call(500, intent["id"])
    found = {each.subject: each for each in sides.found()}
    assert {each.kind for each in found.values()} == {Cause.AMOUNT}
    assert (found[less["id"]].ledger_micros, found[less["id"]].spent) == (200 * CENT, 300 * CENT)
    assert (found[more["id"]].vendor_micros, found[more["id"]].spent) == (300 * CENT, 800 * CENT)
    assert all(each.certain for each in found.values())


def test_several_calls_on_one_object_are_one_money(sides: Sides) -> None:
    intent = sides.stripe.intent(800)
    sides.call(500, intent["id"])
    sides.call(
        800,
        intent["id"],
        object_id=intent["id"],
        operation="payment_intents.increment_authorization",
        path=f"/v1/payment_intents/{intent['id']}/increment_authorization",
    )
    assert sides.found() == []
    assert sides.sums.matched == 800 * CENT


def test_a_call_in_doubt_is_known_by_its_tag(sides: Sides) -> None:
    call_id = sides.call(500, None, kind="doubt")
    intent = sides.stripe.intent(500, metadata=sides.tags[call_id])
    found = one(sides.found())
    assert (found.kind, found.call, found.certain) == (Cause.MADE, call_id, True)
    assert found.spent == 500 * CENT
    assert intent["id"] in found.remedy
    assert (found.vendor_micros, found.ledger_micros) == (0, 0)


def test_a_call_in_doubt_that_nothing_names_stays_so(sides: Sides) -> None:
    call_id = sides.call(500, None, kind="doubt", target="cus_1")
    alike = sides.stripe.intent(500, customer="cus_1")
    found = {each.kind: each for each in sides.found()}
    assert set(found) == {Cause.IN_DOUBT, Cause.OUTSIDE}
    assert (found[Cause.IN_DOUBT].call, found[Cause.IN_DOUBT].certain) == (call_id, False)
    assert (found[Cause.OUTSIDE].subject, found[Cause.OUTSIDE].certain) == (
        alike["id"],
        False,
    )


def test_a_copied_tag_makes_nothing_certain(sides: Sides) -> None:
    call_id = sides.call(500, None, kind="doubt")
    for _ in range(2):
        sides.stripe.intent(500, metadata=sides.tags[call_id])
    found = sides.found()
    assert sorted(each.kind for each in found) == [
        Cause.IN_DOUBT,
        Cause.OUTSIDE,
        Cause.OUTSIDE,
    ]
    assert not any(each.certain for each in found)
    assert all(call_id in each.reason for each in found)


def test_a_tag_of_a_call_whose_object_is_known_is_not_believed(sides: Sides) -> None:
    intent = sides.stripe.intent(500)
    call_id = sides.call(500, intent["id"])
    copied = sides.stripe.intent(500, metadata=sides.tags[call_id])
    found = one(sides.found())
    assert (found.kind, found.subject, found.certain) == (Cause.OUTSIDE, copied["id"], False)


def test_an_object_that_another_call_has_is_not_made_by_the_tags_call(sides: Sides) -> None:
    in_doubt = sides.call(500, None, kind="doubt")
    intent = sides.stripe.intent(500, metadata=sides.tags[in_doubt])
    sides.call(500, intent["id"])
    found = one(sides.found())
    assert (found.kind, found.call, found.certain) == (Cause.IN_DOUBT, in_doubt, False)


def test_a_tag_that_two_calls_have_makes_nothing_certain(sides: Sides) -> None:
    """A caller's own key, in two runs, is one key on the wire."""
    calls = [sides.call(500, None, kind="doubt", target=f"cus_{n}") for n in range(2)]
    sides.books.write(
        lambda tx: tx.run("UPDATE call SET wire_key = (SELECT wire_key FROM call WHERE id = ?)", calls[0])
    )
    sides.stripe.intent(500, customer="cus_0", metadata=sides.tags[calls[0]])
    found = sides.found()
    assert sorted(each.kind for each in found) == [Cause.IN_DOUBT, Cause.IN_DOUBT, Cause.OUTSIDE]
    assert not any(each.certain for each in found)


@pytest.mark.parametrize("foreign", ["kind", "target", "early"])
def test_what_a_call_cannot_have_made_is_not_its_by_a_tag(sides: Sides, foreign: str) -> None:
    call_id = sides.call(500, None, kind="doubt", target="cus_1")
    if foreign == "kind":
        sides.stripe.payout(500, metadata=sides.tags[call_id])
    else:
        sides.stripe.now -= 900 if foreign == "early" else 0
        sides.stripe.intent(500, customer="cus_2", metadata=sides.tags[call_id])
    found = sides.found()
    assert found
    assert not any(each.certain for each in found)


def test_what_was_sent_the_day_before_is_found_by_its_tag(sides: Sides) -> None:
    call_id = sides.call(500, None, kind="doubt")
    day = 24 * HOUR
    sides.books.write(lambda tx: tx.run("UPDATE call SET created_at = created_at - ?", day - HOUR))
    sides.stripe.intent(500, metadata=sides.tags[call_id])
    found = one(sides.found())
    assert (found.kind, found.call, found.certain) == (Cause.MADE, call_id, True)


def test_more_than_was_reserved_is_not_certain(sides: Sides) -> None:
    call_id = sides.call(500, None, kind="doubt")
    sides.stripe.intent(600, metadata=sides.tags[call_id])
    found = one(sides.found())
    assert (found.kind, found.certain) == (Cause.MADE, False)


def test_what_is_not_certain_is_not_booked(sides: Sides) -> None:
    """It says what a call may have cost, and nobody books that but a person."""
    call_id = sides.call(500, None, kind="doubt", target="cus_1")
    sides.stripe.intent(500, customer="cus_2", metadata=sides.tags[call_id])
    found = [each for each in sides.found() if each.call == call_id]
    assert [(each.certain, each.spent) for each in found] == [(False, 500 * CENT)]
    assert applied(sides.books, found) == 0
    assert sides.books.read(lambda tx: tx.value("SELECT state FROM call WHERE id = ?", call_id)) == "in_doubt"


def test_a_tag_that_an_older_object_has_too_makes_nothing_certain(sides: Sides) -> None:
    """The call cannot have made that one: somebody copies tags, and may have copied the other one's, too."""
    call_id = sides.call(500, None, kind="doubt")
    sides.stripe.intent(500, metadata=sides.tags[call_id])
    sides.stripe.now -= 900
    sides.stripe.intent(500, metadata=sides.tags[call_id])
    assert not any(each.certain for each in sides.found())


def test_a_call_on_a_known_object_is_known_by_that(sides: Sides) -> None:
    intent = sides.paid()
    call_id = sides.call(500, None, kind="doubt", object_id=intent["id"], operation="payment_intents.confirm")
    found = one(sides.found())
    assert (found.kind, found.call, found.certain, found.spent) == (Cause.MADE, call_id, True, 0)


def test_what_was_read_before_a_call_was_over_does_not_free_what_it_reserves(sides: Sides) -> None:
    """The intent was listed, then it was raised, and the answer was lost: that list says nothing of it."""
    intent = sides.stripe.intent(500, paid=False)
    sides.call(500, intent["id"])
    plain, calls = sides.answer, list[str]()

    def raised_meanwhile(path: str, query: dict[str, str], number: int) -> Any:
        if path.endswith("/balance_transactions") and not calls:
            calls.append(raised_in_doubt(sides, intent))
        return plain(path, query, number)

    sides.answer = raised_meanwhile
    found = one(sides.found())
    assert (found.call, found.certain) == (calls[0], False)


def raised_in_doubt(sides: Sides, intent: dict[str, Any]) -> str:
    """Raise an intent to 800 cents at the vendor, by a call whose answer is lost; return its id."""
    intent["amount"] = 800
    return sides.call(
        800,
        None,
        kind="doubt",
        object_id=intent["id"],
        operation="payment_intents.increment_authorization",
        path=f"/v1/payment_intents/{intent['id']}/increment_authorization",
    )


def sent_long_ago(sides: Sides) -> None:
    """Let all calls be over for longer than the lists were read."""
    earlier = "UPDATE call SET created_at = created_at - 100000, granted_at = granted_at - 100000"
    sides.books.write(lambda tx: tx.run(earlier))


def test_what_was_read_once_a_call_was_over_frees_what_it_has_not_spent(sides: Sides) -> None:
    intent = sides.stripe.intent(500, paid=False)
    sides.call(500, intent["id"])
    call_id = raised_in_doubt(sides, intent)
    intent["amount"] = 500  # It was not raised.
    sent_long_ago(sides)
    found = one(sides.found())
    assert (found.call, found.certain, found.spent) == (call_id, True, 0)


def test_what_was_booked_since_it_was_compared_is_not_overwritten(sides: Sides) -> None:
    """Amounts are absolute: of two lists the older one is refused, whichever comes first."""
    intent = sides.stripe.intent(500, paid=False)
    sides.stripe.pay(intent, 300)
    call_id = sides.call(500, intent["id"])
    older = sides.found()
    assert one(older).spent == 300 * CENT
    sides.stripe.objects[intent["latest_charge"]]["amount_captured"] = intent["amount_received"] = 400
    newer = sides.found()
    assert (one(newer).spent, applied(sides.books, newer)) == (400 * CENT, 1)
    with pytest.raises(Conflict, match=f"^call {call_id} has changed since it was compared: .*Nothing was b"):
        applied(sides.books, older)
    assert sides.books.figures() == (400 * CENT, 0, 0)
    assert applied(sides.books, newer) == 1, "what is said again counts once"
    assert sides.books.figures() == (400 * CENT, 0, 0)


def test_a_call_that_is_sent_again_since_it_was_compared_stays_in_doubt(sides: Sides) -> None:
    """The list was read before that: what it has made, or has not, is not what is known of it now."""
    intent = sides.stripe.intent(500, paid=False)
    sides.call(500, intent["id"])
    ask = sides.books.ask(
        800 * CENT,
        object_id=intent["id"],
        target="cus_1",
        operation="payment_intents.increment_authorization",
        path=f"/v1/payment_intents/{intent['id']}/increment_authorization",
    )
    sides.books.reserve(sides.key, ask)
    sides.books.end(sides.key, EndRequest("doubt", ask.call_id, 1))
    sent_long_ago(sides)
    found = sides.found()
    assert (one(found).call, one(found).certain, one(found).spent) == (ask.call_id, True, 0)
    again = replace(ask, call_id=f"0000000a{ask.call_id[8:]}")
    sent = sides.books.reserve(sides.key, again)
    assert (sent.verdict, sent.call_id) == ("allowed", ask.call_id)
    intent["amount"] = 800
    sides.books.end(sides.key, EndRequest("doubt", ask.call_id, sent.ask))
    before = sides.books.figures()
    with pytest.raises(Conflict, match="has changed since it was compared"):
        applied(sides.books, found)
    assert (before, sides.books.figures()) == ((500 * CENT, 300 * CENT, 0), before)


def test_what_another_call_has_moved_since_it_was_compared_is_not_overwritten(sides: Sides) -> None:
    """What one call on an object has cost depends on what the others on it count for."""
    intent = sides.stripe.intent(500, paid=False)
    sides.call(500, intent["id"])
    call_id = raised_in_doubt(sides, intent)
    intent["amount"] = 500
    sent_long_ago(sides)
    found = sides.found()
    assert one(found).certain
    capture = f"/v1/payment_intents/{intent['id']}/capture"
    other = sides.call(
        900, intent["id"], object_id=intent["id"], operation="payment_intents.capture", path=capture
    )
    before = sides.books.figures()
    said = f"call {call_id} has changed since it was compared \\(call {other}, on the same object\\)"
    with pytest.raises(Conflict, match=said):
        applied(sides.books, found)
    assert sides.books.figures() == before


def test_an_item_on_a_draft_counts_until_that_is_gone(sides: Sides) -> None:
    """A draft can be finalized and paid: it is not cancelled."""
    draft = {"status": "draft", "auto_advance": False, "amount_paid": 0, "amount_remaining": 500}
    invoice = sides.stripe.add("in", "invoice", amount_due=500, total=500, currency="usd", **draft)
    item = sides.stripe.add("ii", "invoiceitem", amount=500, currency="usd", invoice=invoice["id"])
    sides.call(500, item["id"], operation="invoiceitems.create")
    sides.call(0, invoice["id"], operation="invoices.create")
    found = one(sides.found())
    assert (found.kind, found.certain, found.ledger_micros) == (Cause.UNCONFIRMED, False, 500 * CENT)


def test_an_item_counts_where_no_list_has_its_invoice(sides: Sides) -> None:
    item = sides.stripe.add("ii", "invoiceitem", amount=500, currency="usd", invoice="in_of_last_year")
    sides.call(500, item["id"], operation="invoiceitems.create")
    found = one(sides.found())
    assert (found.kind, found.certain, found.ledger_micros) == (Cause.UNCONFIRMED, False, 500 * CENT)


def test_a_call_in_doubt_about_an_older_object_is_known_by_that(sides: Sides) -> None:
    """No list of the period has the object: it is read by its id."""
    sides.stripe.now -= 20 * 86400
    intent = sides.stripe.intent(500)
    sides.stripe.now += 20 * 86400
    sides.call(500, intent["id"])
    sides.books.write(lambda tx: tx.run("UPDATE call SET created_at = created_at - ?", 20 * 24 * HOUR))
    call_id = sides.call(500, None, kind="doubt", object_id=intent["id"], operation="payment_intents.confirm")
    found = one(sides.found())
    assert (found.kind, found.call, found.certain, found.spent) == (Cause.MADE, call_id, True, 0)


def test_what_was_opened_far_from_its_call_is_not_missing(sides: Sides) -> None:
    sides.stripe.now -= 5 * 86400
    intent = sides.stripe.intent(500)
    sides.call(500, intent["id"])
    assert sides.found() == []


def test_a_call_that_was_said_not_to_be_made_and_was_is_said(sides: Sides) -> None:
    call_id = sides.call(500, None, kind="void")
    intent = sides.stripe.intent(500, metadata=sides.tags[call_id])
    found = one(sides.found())
    assert (found.kind, found.subject, found.certain) == (Cause.MADE, intent["id"], False)
    assert found.vendor_micros == 500 * CENT


def test_other_currencies_are_compared_at_the_rate_of_the_quote(sides: Sides) -> None:
    sides.fx["eur"] = Decimal("1.10")
    intent = sides.stripe.intent(500, currency="eur")
    sides.call(550, intent["id"], currency="eur")
    assert sides.found() == []
    sides.fx["eur"] = Decimal("1.20")
    found = one(sides.found())
    assert (found.kind, found.certain, found.vendor_micros) == (Cause.AMOUNT, False, 50 * CENT)
    assert "another rate" in found.reason
    sides.fx.clear()
    found = one(sides.found())
    assert (found.kind, found.certain, found.amount, found.currency) == (
        Cause.NO_RATE,
        False,
        500,
        "eur",
    )
    assert sides.sums.unpriced == {"eur": 500}


def test_another_currency_than_the_calls_is_said(sides: Sides) -> None:
    sides.fx["eur"] = Decimal("1.25")
    intent = sides.stripe.intent(400, currency="eur")
    sides.call(500, intent["id"], currency="usd")
    found = one(sides.found())
    assert (found.kind, found.certain) == (Cause.CURRENCY, False)


def test_an_object_that_was_called_in_another_account_is_said(sides: Sides) -> None:
    intent = sides.stripe.intent(500)
    call_id = sides.call(500, intent["id"], account="stripe:test:acct_1")
    found = one(sides.found())
    assert (found.kind, call_id in found.reason) == (Cause.OTHER_ACCOUNT, True)
    assert "stripe:test:acct_1" in found.reason


def test_the_edges_of_a_period_make_no_differences(sides: Sides) -> None:
    """Calls a moment before the edge whose objects are a moment behind it, and the other way round."""
    before, after = sides.stripe.now - 3000, sides.stripe.now + 10
    sides.stripe.now = before
    early = sides.stripe.intent(100)
    sides.stripe.now = after
    late = sides.stripe.intent(200)
    for intent, amount in ((early, 100), (late, 200)):
        sides.call(amount, intent["id"])
    edge = int(time.time() * 1000) - 5
    since = edge - int(time.time() * 1000)
    # Both calls are behind the edge by the ledger's clock, and both objects before it by the vendor's.
    assert sides.found(since=since, until=0) == []
    assert sides.sums.monies == 0
    assert sides.found() == []
    assert sides.sums.matched == 300 * CENT


def test_money_that_moves_long_after_it_was_asked_for_is_matched_by_its_object(sides: Sides) -> None:
    now = sides.stripe.now
    sides.stripe.now = now - 5 * 86400
    ours, foreign = sides.stripe.intent(500, paid=False), sides.stripe.intent(300, paid=False)
    sides.stripe.now = now
    for intent in (ours, foreign):
        charge = sides.stripe.pay(intent)
        charge["created"] = now - 5 * 86400
    sides.call(500, ours["id"])
    found = one(sides.found())
    assert (found.kind, found.subject, found.vendor_micros) == (
        Cause.OUTSIDE,
        foreign["id"],
        300 * CENT,
    )
    assert sides.sums.matched == 500 * CENT


OLDER = 40 * 86400


def older(sides: Sides, call_id: str) -> None:
    """Let a call have been made long before the period."""
    sides.books.write(
        lambda tx: tx.run("UPDATE call SET created_at = created_at - ? WHERE id = ?", OLDER * 1000, call_id)
    )


@pytest.mark.parametrize("captured", [500, 300])
def test_what_is_captured_long_after_it_was_asked_for_is_all_looked_at(sides: Sides, captured: int) -> None:
    sides.stripe.now -= OLDER
    intent = sides.stripe.intent(500, paid=False)
    call_id = sides.call(500, intent["id"])
    older(sides, call_id)
    sides.stripe.now += OLDER
    sides.stripe.pay(intent, captured)["created"] -= OLDER
    found = sides.found()
    if captured == 500:
        assert (found, sides.sums.matched) == ([], 500 * CENT)
        return
    less = one(found)
    assert (less.kind, less.call, less.spent, less.certain) == (Cause.AMOUNT, call_id, 300 * CENT, True)
    assert (less.ledger_micros, sides.sums.matched) == (200 * CENT, 300 * CENT)
    assert sides.found(until=-HOUR) == [], "nothing has moved by then"


def test_what_comes_back_long_after_it_was_sent_is_seen(sides: Sides) -> None:
    sides.stripe.now -= OLDER
    refund = sides.stripe.refund(sides.stripe.intent(500), 200)
    payout, kept = sides.stripe.payout(100), sides.stripe.payout(50)
    calls = {
        refund["id"]: sides.call(200, refund["id"], operation="refunds.create", path="/v1/refunds"),
        payout["id"]: sides.call(100, payout["id"], operation="payouts.create", path="/v1/payouts"),
        kept["id"]: sides.call(50, kept["id"], operation="payouts.create", path="/v1/payouts"),
    }
    for call_id in calls.values():
        older(sides, call_id)
    sides.stripe.now += OLDER
    for thing, kind in ((refund, "refund_failure"), (payout, "payout_failure")):
        thing["status"] = "failed"
        sides.stripe.moved(thing, kind, thing["amount"])
    found = {each.subject: each for each in sides.found()}
    assert set(found) == {refund["id"], payout["id"]}
    for name, each in found.items():
        assert (each.kind, each.call, each.spent, each.certain) == (Cause.CANCELLED, calls[name], 0, True)


def test_one_run_alone_can_be_asked_for(sides: Sides) -> None:
    sides.paid()
    sides.stripe.intent(100)
    sides.call(700, "pi_gone")
    assert [each.kind for each in sides.found(run_id="run")] == [Cause.NOT_THERE]
    assert sides.found(run_id="other") == []


@pytest.mark.parametrize(
    "line",
    [
        {"amount": 10**30},
        {"amount": -5},
        {"amount": "500"},
        {"amount": True},
        {"created": "yesterday"},
        {"created": 10**18},
        {"currency": "US$"},
        {"id": "pi/../x"},
        {"id": None},
        {"status": None, "amount": None},
    ],
)
def test_a_line_that_is_none_ends_the_reading_in_a_sentence(sides: Sides, line: dict[str, Any]) -> None:
    sides.stripe.intent(500, paid=False)
    plain = sides.answer

    def broken(path: str, query: dict[str, str], number: int) -> Any:
        page = plain(path, query, number)
        return {**page, "data": [{**each, **line} for each in page["data"]]}

    sides.answer = broken
    with pytest.raises(BooksUnread, match="payment_intents of stripe: a page cannot be read"):
        sides.compare()


def test_a_list_that_changes_while_it_is_read_and_lists_twice_is_whole(sides: Sides) -> None:
    for _ in range(300):
        sides.paid()
    plain = sides.answer
    before: list[dict[str, Any]] = []

    def changing(path: str, query: dict[str, str], number: int) -> Any:
        page = plain(path, query, number)
        page["data"] = [*before[:3], *page["data"]]
        if path == "/v1/payment_intents":
            before[:] = page["data"]
            sides.stripe.now += 120  # It is newer than the period: the next one has it.
            sides.stripe.intent(1)
        else:
            before.clear()
        return page

    sides.answer = changing
    assert sides.found() == []
    assert (sides.sums.matched, sides.sums.monies) == (300 * 500 * CENT, 300)


def test_a_list_in_another_order_is_the_same(sides: Sides) -> None:
    for _ in range(250):
        sides.paid()
    sides.stripe.oldest_first = True
    assert sides.found() == []
    assert sides.sums.matched == 250 * 500 * CENT


def test_a_full_disk_is_said_in_a_sentence(sides: Sides, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(100):
        sides.paid()
    prepare = WorkFile._prepare

    def small(file: WorkFile) -> None:
        prepare(file)
        file.db.execute("PRAGMA max_page_count = 40")

    monkeypatch.setattr(WorkFile, "_prepare", small)
    with pytest.raises(BooksUnread, match=r"is full.*make room there"):
        sides.compare()
    monkeypatch.undo()
    assert sides.found() == []


def test_a_list_that_breaks_off_goes_on_where_it_stopped(sides: Sides) -> None:
    for _ in range(250):
        sides.paid()
    plain = sides.answer
    since, until = -2 * HOUR, 0

    def broken(path: str, query: dict[str, str], number: int) -> Any:
        return Reply(200, {}, b'{"object": "list", "da') if number > 1 else plain(path, query, number)

    sides.answer = broken
    now = time.time
    fixed = now()
    try:
        time.time = lambda: fixed
        with pytest.raises(BooksUnread):
            sides.compare(since=since, until=until)
        asked: list[str] = []

        def noted(path: str, query: dict[str, str], number: int) -> Any:
            asked.append(f"{path} {query.get('starting_after', '')}")
            return plain(path, query, number)

        sides.answer = noted
        assert sides.found(since=since, until=until) == []
    finally:
        time.time = now
    assert asked[0].startswith("/v1/payment_intents pi_")
    assert sides.sums.matched == 250 * 500 * CENT
