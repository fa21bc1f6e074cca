"""Stripe: which rule prices which operation, and what is said of each rule in docs/vendors.md."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from luigi_spendguard.vendors.model import Quote
from luigi_spendguard.vendors.stripe import invoices, items, lines, prices
from luigi_spendguard.vendors.stripe.request import Asked


@dataclass(frozen=True)
class Rule:
    """How an operation is priced.

    Attributes:
        price: returns the quote; raises Unbounded, NotLookedUp, SpendDenied.
        quoted, settled, denied: the same for people.
        exact: the request names its own amount, so that no fixed price may take its place.
        kind: what `object` the reply must be; "" for any.
        money: the parameters that must be equal for two calls to be the same one, where no amount is.

    """

    price: Callable[[Asked], Quote]
    quoted: str
    settled: str
    denied: str = ""
    exact: bool = False
    kind: str = ""
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
    "free": Rule(prices.free, _FREE, _FREE),
    "customers": Rule(prices.customers, _FREE, _FREE, "a balance"),
    "customer_update": Rule(
        prices.customer_updated,
        _FREE,
        _FREE,
        "a change of the customer's balance; of address or tax while Stripe collects a taxed draft of theirs "
        "by itself, looked up",
    ),
    "tax_ids": Rule(
        prices.tax_ids, _FREE, _FREE, "while Stripe collects a taxed draft of the customer's, looked up"
    ),
    "intents": Rule(
        prices.opens,
        "`amount`, confirmed or not",
        "`amount_received` when succeeded or canceled, `amount` before that",
        _NO_AMOUNT,
        True,
        "payment_intent",
    ),
    "charges": Rule(
        prices.opens,
        "`amount`, captured or not",
        "`amount_captured` once captured and paid, else `amount`",
        _NO_AMOUNT,
        True,
        "charge",
    ),
    "held": Rule(
        prices.held,
        "what exceeds what it counts for already, looked up where that or its currency is not known; "
        "nothing for an update without an amount",
        "by the object's status and amounts",
        "an amount that the operation does not take",
        True,
    ),
    "cancels": Rule(prices.cancels, _FREE, "gives back what can no longer move", "", True),
    "refunds": Rule(
        prices.refunds,
        "`amount`, else what is left of the charge or intent, looked up",
        "`amount`, 0 when failed or canceled; never gives back the charge",
        "neither or both of `charge` and `payment_intent`",
        True,
        "refund",
    ),
    "transfers": Rule(
        prices.transfers,
        "`amount`, else the `source_transaction`, looked up",
        "`amount`",
        _NO_AMOUNT,
        True,
        "transfer",
    ),
    "reversals": Rule(
        prices.given_back,
        "`amount`, else what is left of the transfer, looked up",
        "`amount`",
        "",
        True,
        "transfer_reversal",
    ),
    "payouts": Rule(
        prices.opens, "`amount`", "`amount`, 0 when failed or canceled", _NO_AMOUNT, True, "payout"
    ),
    "topups": Rule(
        prices.opens, "`amount`", "`amount`, 0 when failed or canceled", _NO_AMOUNT, True, "topup"
    ),
    "credit": Rule(
        prices.customer_credit,
        "`amount`, credit or debit",
        "`amount`",
        _NO_AMOUNT,
        True,
        "customer_balance_transaction",
    ),
    "fee_refunds": Rule(
        prices.given_back,
        "`amount`, else what is left of the fee, looked up",
        "`amount`",
        "",
        True,
        "fee_refund",
    ),
    "credit_notes": Rule(
        prices.credit_notes,
        "`refund_amount` and `credit_amount`, else `amount`, else the "
        "invoice's total, looked up; nothing on an open invoice",
        "what was refunded or credited",
        "",
        False,
        "credit_note",
        ("amount", "refund_amount", "credit_amount", "lines"),
    ),
    "invoice": Rule(
        invoices.created,
        "nothing for a draft but its shipping; with `auto_advance`, the customer's pending items and debt, "
        "looked up",
        "`amount_due` and the credit it takes when Stripe collects it by itself, else nothing",
        "`auto_advance` with taxes, shipping or a subscription",
        False,
        "invoice",
        ("auto_advance", "pending_invoice_items_behavior", "subscription", "from_invoice"),
    ),
    "invoice_update": Rule(
        invoices.updated,
        "what shipping, or a discount that goes, adds to a draft, looked up, else nothing; with "
        "`auto_advance`, `amount_due`, looked up",
        "by the invoice's status and amounts; what was added to a draft stays counted",
        "taxes; on what Stripe collects or taxes by itself, shipping and discounts, too",
        False,
        "invoice",
    ),
    "invoice_delete": Rule(
        invoices.deleted,
        "the draft's items that are not counted yet, looked up: they are pending from now on",
        _BILLED,
        "",
        False,
        "invoice",
    ),
    "invoice_due": Rule(
        invoices.collected,
        "`amount_due` and the credit it takes, looked up, less what is counted already; nothing with "
        "`paid_out_of_band`",
        "the same, `amount_paid` for what is paid",
        "",
        False,
        "invoice",
    ),
    "invoice_lines": Rule(
        invoices.lines,
        "what is added to a draft, or lowers it and is taken back, looked up; nothing for a change of no "
        "amount",
        _BILLED,
        "an invoice that Stripe collects by itself; an item that is unassigned",
    ),
    "items": Rule(
        invoices.items,
        "`amount`, or the price (looked up) times the quantity, on a draft too; what it took off an invoice "
        "before; nothing for another description",
        "`amount`, until an invoice counts it",
        "tax rates of its own, or of an invoice that Stripe collects by itself, metered or tiered prices",
        False,
        "invoiceitem",
        ("amount", *_LINES),
    ),
    "item_delete": Rule(
        invoices.item_deleted,
        "nothing; what an item takes off an invoice, looked up, for that is billed once it is gone",
        "gives back what can no longer move",
        "",
        True,
        "invoiceitem",
    ),
    "subscriptions": Rule(
        lines.subscriptions,
        "the first invoice: prices (looked up) times quantities, and pending items. Later invoices are in "
        "no run",
        _BILLED,
        _TAX + ", back-dating",
        False,
        "subscription",
        _LINES,
    ),
    "subscription_items": Rule(
        items.subscription_items,
        "the price (looked up) times the quantity, and pending items; nothing where neither changes",
        _BILLED,
        _TAX + ", a change of discounts alone",
        False,
        "subscription_item",
        _LINES,
    ),
    "subscription_item_delete": Rule(
        items.item_deleted,
        "nothing; pending items, looked up, where no other item is paid for: they are invoiced at once",
        "as quoted",
        "a proration, where not switched off; metered or tiered prices, items of several intervals",
    ),
    "schedules": Rule(
        lines.schedules,
        "the first phase's first invoice, prices looked up, and pending items; the next one's where it ends "
        "at an `end_date`",
        _BILLED,
        _TAX + ", a `start_date` other than `now`",
        False,
        "subscription_schedule",
        _LINES,
    ),
    "quotes": Rule(
        lines.quotes,
        "what the quote comes to, with a trial its first period, too, looked up, and pending items",
        _BILLED,
        "",
        False,
        "quote",
    ),
    "sessions": Rule(
        lines.sessions,
        "lines: prices (looked up) times the highest quantity that may be chosen, and the dearest shipping; "
        "but with `mode=payment` also pending items",
        "`amount_total`, 0 when expired; no less than quoted where the customer may choose",
        _TAX + ", optional items",
        False,
        "checkout.session",
        _LINES,
    ),
    "subscription_update": Rule(
        prices.free,
        _FREE,
        _FREE,
        "a change of anything but payment method, description or an end with the period; that it goes on",
    ),
    "endings": Rule(
        prices.endings, _FREE, _FREE, "a final invoice, usage or a proration, where not switched off"
    ),
    "session_update": Rule(prices.free, _FREE, _FREE, "a change of its lines or addresses"),
    "link_update": Rule(prices.switches_off, _FREE, _FREE, "anything but switching it off"),
}
