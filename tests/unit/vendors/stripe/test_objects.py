"""What Stripe's single payments, refunds and transfers cost in the books, with the real SDK."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import stripe

from luigi_spendguard.errors import OutcomeUnknown, SpendDenied
from luigi_spendguard.guard.effects import NotSent
from luigi_spendguard.ledger.runs import RunRequest, open_run
from luigi_spendguard.money import Micros
from tests.support.books import Books
from tests.support.desk import CAP, Desk, charge, intent, invoice, moved, post


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    books = Books(tmp_path / "ledger.db", cap=CAP)
    yield Desk(books)
    books.ledger.close()


class TestIntents:
    CREATE = {"amount": 1000, "currency": "usd", "customer": "cus_1"}

    def opened(self, desk: Desk, **more: Any) -> None:
        desk.answers["POST /v1/payment_intents"] = intent(**more)
        desk.client.v1.payment_intents.create(self.CREATE)

    def test_a_confirm_costs_nothing_more_and_a_cancel_gives_back(self, desk: Desk) -> None:
        self.opened(desk)
        assert desk.spent() == 1000
        desk.answers["POST /v1/payment_intents/pi_1/confirm"] = intent("requires_capture")
        desk.client.v1.payment_intents.confirm("pi_1")
        assert desk.spent() == 1000
        desk.answers["POST /v1/payment_intents/pi_1/cancel"] = intent("canceled")
        desk.client.v1.payment_intents.cancel("pi_1")
        assert desk.spent() == 0
        assert desk.lines().count("GET /v1/payment_intents/pi_1") == 0

    @pytest.mark.parametrize("verb", ["confirm", "capture", "apply_customer_balance", "verify_microdeposits"])
    def test_an_intent_of_somebody_else_is_looked_up_and_counted_once(self, desk: Desk, verb: str) -> None:
        desk.answers["GET /v1/payment_intents/pi_1"] = intent("requires_capture")
        desk.answers[f"POST /v1/payment_intents/pi_1/{verb}"] = intent("succeeded")
        getattr(desk.client.v1.payment_intents, verb)("pi_1")
        assert desk.spent() == 1000
        assert desk.asked[-1].customer == ("cus_1",)
        getattr(desk.client.v1.payment_intents, verb)("pi_1")
        assert desk.spent() == 1000

    def test_another_runs_intent_is_counted_already(self, desk: Desk) -> None:
        self.opened(desk)
        desk.books.write(open_run, RunRequest("other", False, "Root", "Root_2", Micros(CAP)))
        desk.key = desk.books.claim("Other_1", run_id="other")
        desk.answers["POST /v1/payment_intents/pi_1/confirm"] = intent("succeeded")
        desk.client.v1.payment_intents.confirm("pi_1")
        assert desk.spent() == 1000

    def test_a_part_capture_gives_back_the_rest(self, desk: Desk) -> None:
        self.opened(desk, status="requires_capture")
        desk.answers["GET /v1/payment_intents/pi_1"] = intent("requires_capture")
        desk.answers["POST /v1/payment_intents/pi_1/capture"] = intent("succeeded", amount_received=300)
        desk.client.v1.payment_intents.capture("pi_1", {"amount_to_capture": 300})
        assert desk.spent() == 300

    def test_a_capture_that_may_go_on_still_counts_the_whole_intent(self, desk: Desk) -> None:
        desk.answers["GET /v1/payment_intents/pi_1"] = intent("requires_capture")
        desk.answers["POST /v1/payment_intents/pi_1/capture"] = intent("requires_capture")
        desk.client.v1.payment_intents.capture("pi_1", {"amount_to_capture": 300, "final_capture": False})
        assert desk.spent() == 1000

    def test_an_increment_names_the_new_total_and_counts_the_difference(self, desk: Desk) -> None:
        self.opened(desk, status="requires_capture")
        desk.answers["GET /v1/payment_intents/pi_1"] = intent("requires_capture")
        desk.answers["POST /v1/payment_intents/pi_1/increment_authorization"] = intent(
            "requires_capture", 1500
        )
        desk.client.v1.payment_intents.increment_authorization("pi_1", {"amount": 1500})
        assert desk.spent() == 1500

    def test_a_declined_increment_leaves_the_old_authorisation_counted(self, desk: Desk) -> None:
        self.opened(desk, status="requires_capture")
        desk.answers["GET /v1/payment_intents/pi_1"] = intent("requires_capture")
        declined = {"error": {"type": "card_error", "payment_intent": intent("requires_capture")}}
        desk.answers["POST /v1/payment_intents/pi_1/increment_authorization"] = (402, declined)
        with pytest.raises(stripe.CardError):
            desk.client.v1.payment_intents.increment_authorization("pi_1", {"amount": 1500})
        assert desk.spent() == 1000

    def test_an_update_counts_what_it_adds(self, desk: Desk) -> None:
        self.opened(desk)
        desk.answers["GET /v1/payment_intents/pi_1"] = intent()
        desk.answers["POST /v1/payment_intents/pi_1"] = intent(amount=2500)
        desk.client.v1.payment_intents.update("pi_1", {"amount": 2500})
        assert desk.spent() == 2500
        asked = {"amount": 99_999}
        assert desk.denied(desk.client.v1.payment_intents.update, "pi_1", asked).reason == "cap"
        assert desk.spent() == 2500

    def test_an_update_of_a_foreign_intents_metadata_costs_nothing(self, desk: Desk) -> None:
        desk.answers["POST /v1/payment_intents/pi_1"] = intent()
        desk.client.v1.payment_intents.update("pi_1", {"metadata": {"order": "7"}})
        assert desk.spent() == 0
        desk.answers["GET /v1/payment_intents/pi_1"] = intent()
        desk.answers["POST /v1/payment_intents/pi_1/confirm"] = intent("succeeded")
        desk.client.v1.payment_intents.confirm("pi_1")
        assert desk.spent() == 1000

    def test_cancelling_what_was_never_counted_frees_nothing(self, desk: Desk) -> None:
        self.opened(desk)
        desk.answers["POST /v1/payment_intents/pi_2/cancel"] = intent("canceled", id="pi_2")
        desk.client.v1.payment_intents.cancel("pi_2")
        assert desk.spent() == 1000

    def test_a_cancel_that_finds_it_partly_captured_is_no_overrun(self, desk: Desk) -> None:
        desk.answers["POST /v1/payment_intents/pi_1/cancel"] = intent("canceled", amount_received=300)
        desk.client.v1.payment_intents.cancel("pi_1")
        assert desk.spent() == 0

    def test_a_reply_that_the_vendor_had_kept_frees_nothing(self, desk: Desk) -> None:
        """Stripe's own answer to an earlier capture is no news about it, unless no call counts for it."""
        self.opened(desk, status="requires_capture")
        desk.headers = {"idempotent-replayed": "true"}
        captured = intent("succeeded", amount_received=300)
        desk.answers["GET /v1/payment_intents/pi_1"] = captured
        desk.answers["POST /v1/payment_intents/pi_1/capture"] = captured
        desk.client.v1.payment_intents.capture("pi_1", {"amount_to_capture": 300})
        assert desk.spent() == 1000
        desk.answers["GET /v1/payment_intents/pi_2"] = intent("succeeded", id="pi_2")
        desk.answers["POST /v1/payment_intents/pi_2/confirm"] = intent("succeeded", id="pi_2")
        desk.client.v1.payment_intents.confirm("pi_2")
        assert desk.spent() == 2000


class TestRefunds:
    def test_a_refund_spends_and_never_gives_back_the_charge(self, desk: Desk) -> None:
        desk.answers["POST /v1/charges"] = charge()
        desk.client.v1.charges.create({"amount": 1000, "currency": "usd", "source": "tok_visa"})
        desk.answers["GET /v1/charges/ch_1"] = charge()
        desk.answers["POST /v1/refunds"] = moved("refund", "re_1", 400, charge="ch_1")
        desk.client.v1.refunds.create({"charge": "ch_1", "amount": 400})
        assert desk.spent() == 1400

    def test_without_an_amount_it_is_what_is_left(self, desk: Desk) -> None:
        desk.answers["GET /v1/charges/ch_1"] = charge(amount_refunded=300)
        desk.answers["POST /v1/refunds"] = moved("refund", "re_1", 700, charge="ch_1")
        desk.client.v1.refunds.create({"charge": "ch_1"})
        assert desk.spent() == 700
        assert (desk.asked[-1].total_micros, desk.asked[-1].customer) == (7_000_000, ("cus_1",))

    def test_of_an_intent_its_charge_says_what_is_left(self, desk: Desk) -> None:
        known = intent("succeeded", latest_charge=charge(amount_refunded=900))
        desk.answers["GET /v1/payment_intents/pi_1"] = known
        desk.answers["POST /v1/refunds"] = moved("refund", "re_1", 100, payment_intent="pi_1")
        desk.client.v1.refunds.create({"payment_intent": "pi_1"})
        assert desk.spent() == 100
        assert desk.asked[-1].total_micros == 1_000_000

    @pytest.mark.parametrize("status", ["failed", "canceled"])
    def test_a_refund_that_failed_spends_nothing(self, desk: Desk, status: str) -> None:
        desk.answers["GET /v1/charges/ch_1"] = charge()
        desk.answers["POST /v1/refunds"] = moved("refund", "re_1", 1000, status, charge="ch_1")
        desk.client.v1.refunds.create({"charge": "ch_1"})
        assert desk.spent() == 0

    def test_a_cancelled_refund_is_given_back(self, desk: Desk) -> None:
        desk.answers["GET /v1/charges/ch_1"] = charge()
        desk.answers["POST /v1/refunds"] = moved("refund", "re_1", 1000, "requires_action", charge="ch_1")
        desk.client.v1.refunds.create({"charge": "ch_1"})
        desk.answers["POST /v1/refunds/re_1/cancel"] = moved("refund", "re_1", 1000, "canceled")
        desk.client.v1.refunds.cancel("re_1")
        assert desk.spent() == 0

    def test_the_old_route_counts_each_refund_beside_its_charge(self, desk: Desk) -> None:
        desk.answers["POST /v1/charges"] = charge()
        desk.client.v1.charges.create({"amount": 1000, "currency": "usd", "source": "tok_visa"})
        desk.answers["GET /v1/charges/ch_1"] = charge()
        desk.answers["POST /v1/charges/ch_1/refund"] = charge(amount_refunded=400)
        desk.guarded(post("/v1/charges/ch_1/refund", b"amount=400"))
        assert desk.spent() == 1400

    def test_the_old_route_without_an_amount_counts_the_whole_charge(self, desk: Desk) -> None:
        """Its reply says only what all refunds came to, so one that is sent again must not count less."""
        desk.answers["GET /v1/charges/ch_1"] = charge(amount_refunded=1000)
        desk.answers["POST /v1/charges/ch_1/refund"] = charge(amount_refunded=1000)
        desk.guarded(post("/v1/charges/ch_1/refund"))
        assert desk.spent() == 1000

    def test_a_refund_of_another_charge_is_not_believed(self, desk: Desk) -> None:
        desk.answers["GET /v1/charges/ch_1"] = charge()
        desk.answers["POST /v1/refunds"] = moved("refund", "re_1", 1000, charge="ch_other")
        with pytest.raises(OutcomeUnknown, match="another object"):
            desk.client.v1.refunds.create({"charge": "ch_1"})
        assert desk.figures() == (0, 10_000_000, 0)

    @pytest.mark.parametrize(
        "named", [{}, {"charge": "ch_1", "payment_intent": "pi_1"}, {"charge": "../x"}, {"charge": "ch 1"}]
    )
    def test_what_names_no_single_charge_is_denied(self, desk: Desk, named: Any) -> None:
        assert desk.denied(desk.client.v1.refunds.create, named).reason == "unpriced"
        assert desk.sent == []


class TestLookUps:
    @pytest.mark.parametrize(
        "answer",
        [
            (404, {"error": {}}),
            (200, {}),
            {"id": "ch_1"},
            {**charge(), "amount": "1000"},
            {**charge(), "amount": -5},
            {**charge(), "amount_refunded": "5"},
        ],
    )
    def test_one_that_fails_denies_the_call_and_sends_nothing(self, desk: Desk, answer: Any) -> None:
        desk.answers["GET /v1/charges/ch_1"] = answer
        denied = desk.denied(desk.client.v1.refunds.create, {"charge": "ch_1"})
        assert denied.reason in ("unpriced", "currency")
        assert "POST /v1/refunds" not in desk.lines()
        assert desk.spent() == 0

    @pytest.mark.parametrize(("status", "natural"), [(429, stripe.RateLimitError), (503, stripe.APIError)])
    def test_one_that_the_vendor_does_not_answer_now_is_its_own_answer(
        self, desk: Desk, status: int, natural: type[Exception]
    ) -> None:
        desk.answers["GET /v1/charges/ch_1"] = status, {"error": {"message": "slow down"}}
        desk.answers["POST /v1/refunds"] = moved("refund", "re_1", charge="ch_1")
        with pytest.raises(natural, match="slow down") as answered:
            desk.client.v1.refunds.create({"charge": "ch_1"})
        assert not isinstance(answered.value, SpendDenied)
        assert "POST /v1/refunds" not in desk.lines()
        desk.answers["GET /v1/charges/ch_1"] = charge()
        desk.client.v1.refunds.create({"charge": "ch_1"})  # As its author would, again.
        assert (desk.spent(), desk.lines().count("POST /v1/refunds")) == (1000, 1)

    @pytest.mark.parametrize("lost", [TimeoutError(), ConnectionResetError(), NotSent("refused")])
    def test_one_that_is_lost_was_not_sent(self, desk: Desk, lost: Exception) -> None:
        desk.answers["GET /v1/charges/ch_1"] = lost
        with pytest.raises(NotSent, match="could not be done"):
            desk.client.v1.refunds.create({"charge": "ch_1"})
        assert "POST /v1/refunds" not in desk.lines()
        assert desk.spent() == 0

    def test_its_price_may_be_in_a_currency_without_a_rate(self, desk: Desk) -> None:
        desk.answers["GET /v1/charges/ch_1"] = charge(currency="gbp")
        assert desk.denied(desk.client.v1.refunds.create, {"charge": "ch_1"}).reason == "currency"

    def test_an_operators_allowlist_is_not_about_them(self, desk: Desk) -> None:
        narrow = Desk(desk.books, allowed_endpoints=("refunds.create",))
        narrow.answers = {
            "GET /v1/charges/ch_1": charge(),
            "POST /v1/refunds": moved("refund", "re_1", charge="ch_1"),
        }
        narrow.client.v1.refunds.create({"charge": "ch_1"})
        assert narrow.spent() == 1000
        assert narrow.denied(narrow.client.v1.charges.retrieve, "ch_1").reason == "endpoint"

    def test_they_are_bounded(self, desk: Desk) -> None:
        items = [{"price": f"price_{n}"} for n in range(31)]
        asked = {"customer": "cus_1", "items": items}
        assert "more than 30" in desk.denied(desk.client.v1.subscriptions.create, asked).message
        assert desk.sent == []

    def test_they_go_to_the_same_connected_account(self, desk: Desk) -> None:
        desk.answers["GET /v1/charges/ch_1"] = charge()
        desk.answers["POST /v1/refunds"] = moved("refund", "re_1", charge="ch_1")
        desk.client.v1.refunds.create({"charge": "ch_1"}, {"stripe_account": "acct_1"})
        assert [request.headers["stripe-account"] for request in desk.sent] == ["acct_1", "acct_1"]
        assert {ask.accounts for ask in desk.asked} == {("acct_1",)}


class TestMoneyOut:
    def test_a_transfer_counts_and_so_does_its_reversal(self, desk: Desk) -> None:
        desk.answers["POST /v1/transfers"] = moved("transfer", "tr_1")
        desk.client.v1.transfers.create({"amount": 1000, "currency": "usd", "destination": "acct_2"})
        assert (desk.asked[-1].accounts, desk.asked[-1].target) == (("acct_2",), "acct_2")
        desk.answers["POST /v1/transfers/tr_1/reversals"] = moved("transfer_reversal", "trr_1")
        desk.answers["GET /v1/transfers/tr_1"] = moved("transfer", "tr_1", amount_reversed=0)
        desk.client.v1.transfers.reversals.create("tr_1")
        desk.answers["POST /v1/transfers/tr_1"] = moved("transfer", "tr_1")
        desk.client.v1.transfers.update("tr_1", {"metadata": {"a": "b"}})
        assert desk.spent() == 2000

    def test_a_transfer_without_amount_is_worth_its_charge(self, desk: Desk) -> None:
        desk.answers["GET /v1/charges/ch_1"] = charge(500)
        desk.answers["POST /v1/transfers"] = moved("transfer", "tr_1", 500)
        desk.client.v1.transfers.create(
            {"currency": "usd", "destination": "acct_2", "source_transaction": "ch_1"}
        )
        assert desk.spent() == 500

    @pytest.mark.parametrize("kind", ["payout", "topup"])
    def test_a_payout_or_topup_is_given_back_when_cancelled(self, desk: Desk, kind: str) -> None:
        service = getattr(desk.client.v1, f"{kind}s")
        desk.answers[f"POST /v1/{kind}s"] = moved(kind, "x_1")
        service.create({"amount": 1000, "currency": "usd"})
        assert desk.spent() == 1000
        desk.answers[f"POST /v1/{kind}s/x_1/cancel"] = moved(kind, "x_1", status="canceled")
        service.cancel("x_1")
        assert desk.spent() == 0

    def test_a_reversed_payout_is_given_back(self, desk: Desk) -> None:
        desk.answers["POST /v1/payouts"] = moved("payout", "po_1", status="paid")
        desk.client.v1.payouts.create({"amount": 1000, "currency": "usd"})
        desk.answers["POST /v1/payouts/po_1/reverse"] = moved("payout", "po_2", original_payout="po_1")
        desk.client.v1.payouts.reverse("po_1")
        assert desk.spent() == 0

    @pytest.mark.parametrize("amount", [-700, 700])
    def test_a_customers_balance_counts_either_way(self, desk: Desk, amount: int) -> None:
        desk.answers["POST /v1/customers/cus_1/balance_transactions"] = moved(
            "customer_balance_transaction", "cbtxn_1", amount
        )
        desk.client.v1.customers.balance_transactions.create("cus_1", {"amount": amount, "currency": "usd"})
        assert desk.spent() == 700
        assert desk.asked[-1].customer == ("cus_1",)

    @pytest.mark.parametrize(
        ("more", "spent"),
        [
            ({"total": 1000}, 1000),
            ({"total": 1000, "pre_payment_credit_notes_amount": 300}, 700),
            ({"total": 400}, 400),
            ({"total": 350}, 400),
            ({"total": -900}, 400),
            ({"total": None}, 400),
            (
                {
                    "total": 400,
                    "total_pretax_credit_amounts": [
                        {"type": "credit_balance_transaction", "amount": 250},
                        {"type": "discount", "amount": 50},
                    ],
                },
                650,
            ),
        ],
    )
    def test_an_invoice_counts_what_it_takes_of_a_credit(self, desk: Desk, more: Any, spent: int) -> None:
        desk.answers["GET /v1/invoices/in_1"] = {**invoice(due=400), **more}
        desk.answers["POST /v1/invoices/in_1/pay"] = {**invoice("paid", due=400), **more}
        desk.client.v1.invoices.pay("in_1")
        assert desk.spent() == spent

    def test_a_fee_refund_is_what_is_left_of_the_fee(self, desk: Desk) -> None:
        desk.answers["GET /v1/application_fees/fee_1"] = {
            "id": "fee_1",
            "amount": 300,
            "amount_refunded": 100,
            "currency": "usd",
        }
        desk.answers["POST /v1/application_fees/fee_1/refunds"] = moved("fee_refund", "fr_1", 200)
        desk.client.v1.application_fees.refunds.create("fee_1")
        assert desk.spent() == 200

    @pytest.mark.parametrize(
        ("status", "params", "spent"),
        [
            ("paid", {"refund_amount": 300, "credit_amount": 50}, 350),
            ("paid", {"amount": 400}, 400),
            ("open", {"amount": 400}, 0),
        ],
    )
    def test_a_credit_note_counts_what_goes_back(
        self, desk: Desk, status: str, params: Any, spent: int
    ) -> None:
        desk.answers["GET /v1/invoices/in_1"] = {**invoice(status), "total": 1000}
        desk.answers["POST /v1/credit_notes"] = {
            **moved("credit_note", "cn_1", 400),
            "post_payment_amount": spent,
        }
        desk.client.v1.credit_notes.create({"invoice": "in_1", **params})
        assert desk.spent() == spent
