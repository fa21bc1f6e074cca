"""Stripe: which rule prices which operation, and what docs/vendors.md has of each rule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from luigi_spendguard.vendors.model import Quote
from luigi_spendguard.vendors.stripe import invoices, items, quotes, subscriptions
from luigi_spendguard.vendors.stripe.request import StripeCall


@dataclass(frozen=True)
class Rule:
    """How an operation is priced.

    Attributes:
        quote: returns the quote; raises Unbounded, NotLookedUp, SpendDenied.
        quoted, settled, denied: the same for people.
        exact: the request names its own amount, so that no fixed price may take its place.
        answer: what `object` the reply must be; "" for any.
        money: the parameters that must be equal for two calls to be the same one, where no amount is.

    """

    quote: Callable[[StripeCall], Quote]
    quoted: str
    settled: str
    denied: str = ""
    exact: bool = False
    answer: str = ""
    money: tuple[str, ...] = ()


_FREE = "nothing"
_BILLED = "what its invoice bills, looked up after the call; as quoted while that is still to come"
_NO_AMOUNT = "no amount or no currency"
_LINES = (
    "items",
    "add_invoice_items",
    "line_items",
    "phases",
    "price",
    "price_data",
    "plan",
    "quantity",
    "shipping_options",
    "mode",
    "pricing",
    "unit_amount",
    "unit_amount_decimal",
)
_TAX = "taxes, metered or tiered prices, prices without a fixed amount"

RULES: dict[str, Rule] = {
    "free": Rule(quotes.quote_free, _FREE, _FREE),
    "intents": Rule(
        quotes.quote_amount,
        "`amount`, confirmed or not",
        "`amount_received` when succeeded or canceled, `amount` before that",
        _NO_AMOUNT,
        exact=True,
        answer="payment_intent",
    ),
    "held": Rule(
        quotes.quote_held,
        "what exceeds what it counts for already, looked up where that or its currency is not known; "
        "nothing for an update without an amount",
        "by the object's status and amounts",
        "an amount that the operation does not take",
        exact=True,
    ),
    "cancels": Rule(quotes.quote_cancel, _FREE, "gives back what can no longer move", exact=True),
    "charges": Rule(
        quotes.quote_amount,
        "`amount`, captured or not",
        "`amount_captured` once captured and paid, else `amount`",
        _NO_AMOUNT,
        exact=True,
        answer="charge",
    ),
    "refunds": Rule(
        quotes.quote_refund,
        "`amount`, else what is left of the charge or intent, looked up",
        "`amount`, 0 when failed or canceled; never gives back the charge",
        "neither or both of `charge` and `payment_intent`",
        exact=True,
        answer="refund",
    ),
    "transfers": Rule(
        quotes.quote_transfer,
        "`amount`, else the `source_transaction`, looked up",
        "`amount`",
        _NO_AMOUNT,
        exact=True,
        answer="transfer",
    ),
    "reversals": Rule(
        quotes.quote_reversal,
        "`amount`, else what is left of the transfer, looked up",
        "`amount`",
        exact=True,
        answer="transfer_reversal",
    ),
    "payouts": Rule(
        quotes.quote_amount,
        "`amount`",
        "`amount`, 0 when failed or canceled",
        _NO_AMOUNT,
        exact=True,
        answer="payout",
    ),
    "topups": Rule(
        quotes.quote_amount,
        "`amount`",
        "`amount`, 0 when failed or canceled",
        _NO_AMOUNT,
        exact=True,
        answer="topup",
    ),
    "fee_refunds": Rule(
        quotes.quote_reversal,
        "`amount`, else what is left of the fee, looked up",
        "`amount`",
        exact=True,
        answer="fee_refund",
    ),
    "credit": Rule(
        quotes.quote_customer_credit,
        "`amount`, credit or debit",
        "`amount`",
        _NO_AMOUNT,
        exact=True,
        answer="customer_balance_transaction",
    ),
    "credit_notes": Rule(
        quotes.quote_credit_note,
        "`refund_amount` and `credit_amount`, else `amount`, else the "
        "invoice's total, looked up; nothing on an open invoice",
        "what was refunded or credited",
        answer="credit_note",
        money=("amount", "refund_amount", "credit_amount", "lines"),
    ),
    "customers": Rule(quotes.quote_customer, _FREE, _FREE, "a balance"),
    "customer_update": Rule(
        quotes.quote_customer_update,
        _FREE,
        _FREE,
        "a change of the customer's balance; of address or tax while Stripe collects a taxed draft of theirs "
        "by itself, looked up",
    ),
    "tax_ids": Rule(
        quotes.quote_tax_id, _FREE, _FREE, "while Stripe collects a taxed draft of the customer's, looked up"
    ),
    "invoice": Rule(
        invoices.quote_invoice,
        "nothing for a draft but its shipping; with `auto_advance`, the customer's pending items and debt, "
        "looked up",
        "`amount_due` and the credit it takes when Stripe collects it by itself, else nothing",
        "`auto_advance` with taxes, shipping or a subscription",
        answer="invoice",
        money=("auto_advance", "pending_invoice_items_behavior", "subscription", "from_invoice"),
    ),
    "invoice_update": Rule(
        invoices.quote_invoice_update,
        "what shipping, or a discount that goes, adds to a draft, looked up, else nothing; with "
        "`auto_advance`, `amount_due`, looked up",
        "by the invoice's status and amounts; what was added to a draft stays counted",
        "taxes; on what Stripe collects or taxes by itself, shipping and discounts, too",
        answer="invoice",
    ),
    "invoice_delete": Rule(
        invoices.quote_invoice_delete,
        "the draft's items that are not counted yet, looked up: they are pending from now on",
        _BILLED,
        answer="invoice",
    ),
    "invoice_due": Rule(
        invoices.quote_invoice_due,
        "`amount_due` and the credit it takes, looked up, less what is counted already; nothing with "
        "`paid_out_of_band`",
        "the same, `amount_paid` for what is paid",
        answer="invoice",
    ),
    "invoice_lines": Rule(
        invoices.quote_invoice_lines,
        "what is added to a draft, or lowers it and is taken back, looked up; nothing for a change of no "
        "amount",
        _BILLED,
        "an invoice that Stripe collects by itself; an item that is unassigned",
    ),
    "items": Rule(
        items.quote_item,
        "`amount`, or the price (looked up) times the quantity, on a draft too; what it took off an invoice "
        "before; nothing for another description",
        "`amount`, until an invoice counts it",
        "tax rates of its own, or of an invoice that Stripe collects by itself, metered or tiered prices",
        answer="invoiceitem",
        money=("amount", *_LINES),
    ),
    "item_delete": Rule(
        items.quote_item_delete,
        "nothing; what an item takes off an invoice, looked up, for that is billed once it is gone",
        "gives back what can no longer move",
        exact=True,
        answer="invoiceitem",
    ),
    "subscriptions": Rule(
        subscriptions.quote_subscription,
        "the first invoice: prices (looked up) times quantities, and pending items. Later invoices are in "
        "no run",
        _BILLED,
        _TAX + ", back-dating",
        answer="subscription",
        money=_LINES,
    ),
    "subscription_items": Rule(
        subscriptions.quote_subscription_item,
        "the price (looked up) times the quantity, and pending items; nothing where neither changes",
        _BILLED,
        _TAX + ", a change of discounts alone",
        answer="subscription_item",
        money=_LINES,
    ),
    "subscription_item_delete": Rule(
        subscriptions.quote_subscription_item_delete,
        "nothing; pending items, looked up, where no other item is paid for: they are invoiced at once",
        "as quoted",
        "a proration, where not switched off; metered or tiered prices, items of several intervals",
    ),
    "schedules": Rule(
        subscriptions.quote_schedule,
        "the first phase's first invoice, prices looked up, and pending items; the next one's where it ends "
        "at an `end_date`",
        _BILLED,
        _TAX + ", a `start_date` other than `now`",
        answer="subscription_schedule",
        money=_LINES,
    ),
    "quotes": Rule(
        subscriptions.quote_accepted_quote,
        "what the quote comes to, with a trial its first period, too, looked up, and pending items",
        _BILLED,
        answer="quote",
    ),
    "sessions": Rule(
        subscriptions.quote_session,
        "lines: prices (looked up) times the highest quantity that may be chosen, and the dearest shipping; "
        "but with `mode=payment` also pending items",
        "`amount_total`, 0 when expired; no less than quoted where the customer may choose",
        _TAX + ", optional items",
        answer="checkout.session",
        money=_LINES,
    ),
    "subscription_update": Rule(
        quotes.quote_free,
        _FREE,
        _FREE,
        "a change of anything but payment method, description or an end with the period; that it goes on",
    ),
    "endings": Rule(
        quotes.quote_ending, _FREE, _FREE, "a final invoice, usage or a proration, where not switched off"
    ),
    "session_update": Rule(quotes.quote_free, _FREE, _FREE, "a change of its lines or addresses"),
    "link_update": Rule(quotes.quote_link_update, _FREE, _FREE, "anything but switching it off"),
}
