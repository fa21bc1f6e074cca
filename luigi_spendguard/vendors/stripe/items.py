"""Stripe: invoice items, and what the next invoice takes along of a payer: those that are pending, and debt.

An item is counted when it is made, on a draft too, until an invoice counts it. One that is on no invoice
waits for the next one (https://docs.stripe.com/api/invoiceitems), and a positive balance of the customer's
is added to that (https://docs.stripe.com/api/customers/object).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from decimal import Decimal

from luigi_spendguard.errors import denial
from luigi_spendguard.vendors.model import Quote
from luigi_spendguard.vendors.stripe.lines import as_item, cost_of, round_up
from luigi_spendguard.vendors.stripe.objects import MOST_COVERED, OBJECT_ID
from luigi_spendguard.vendors.stripe.quotes import look_up_value, quote_cancel, quote_own_object
from luigi_spendguard.vendors.stripe.request import (
    PAYERS,
    Body,
    StripeCall,
    Unbounded,
    not_there,
    signed_minor_units,
    stems,
)

#: Items are read by pages of 100: more pages than these are no call that is meant honestly.
_MOST_PAGES = 5


@dataclass(frozen=True)
class PendingItem:
    """A pending item: its amount, either way, in minor units; the subscription it waits for ("": any)."""

    ident: str
    minor: int
    currency: str
    subscription: str


def look_up_pending(call: StripeCall, payer: tuple[str, str] | None) -> list[PendingItem]:
    """Return the pending items of a payer. Raises NotLookedUp, Unbounded, SpendDenied."""
    if payer is None:
        return []
    name, whose = payer
    path = first = f"/v1/invoiceitems?{name}={whose}&pending=true&limit=100"
    items: list[PendingItem] = []
    for _ in range(_MOST_PAGES):
        [page] = call.look_up(path)
        try:
            items += [
                PendingItem(
                    str(one["id"]), abs(int(one["amount"])), one["currency"], one.get("subscription") or ""
                )
                for one in page["data"]
            ]
            more = page["has_more"]
        except (ValueError, TypeError, KeyError):
            raise not_there(call.quote.operation, path) from None
        if more is False:
            return items
        if not items or not OBJECT_ID.fullmatch(items[-1].ident):
            raise not_there(call.quote.operation, path)
        path = f"{first}&starting_after={items[-1].ident}"
    raise Unbounded("the payer has more pending items than can be added up")


def look_up_debt(call: StripeCall, payer: tuple[str, str] | None) -> dict[str, int]:
    """Return what a customer owes from before, by currency, in minor units. Raises NotLookedUp, SpendDenied.

    Stripe shows no such balance of an account that stands for a customer.
    """
    if payer is None or payer[0] != "customer" or not OBJECT_ID.fullmatch(payer[1]):
        return {}
    path = f"/v1/customers/{payer[1]}?expand%5B%5D=invoice_credit_balance"
    if call.is_gone(path):
        return {}  # Stripe refuses the call.
    [customer] = call.look_up(path)
    own, balance = str(customer.get("currency") or ""), int(customer.get("balance") or 0)
    # Stripe documents the sign of a debt in two ways: in other currencies either counts.
    others = {
        unit: abs(int(amount)) for unit, amount in (customer.get("invoice_credit_balance") or {}).items()
    }
    return {unit: amount for unit, amount in {**others, own: balance}.items() if amount > 0}


def covered_items(items: list[PendingItem]) -> tuple[str, ...]:
    """Return the items whose counted money is counted by what takes them along."""
    return tuple(one.ident for one in items if OBJECT_ID.fullmatch(one.ident))[:MOST_COVERED]


def quote_item(call: StripeCall) -> Quote:
    """Quote the item's amount, either way, on an invoice or not: it is counted until an invoice counts it."""
    if call.ids and call.has_only("description", "period"):
        return call.quote_at(None, target=f"{call.ids[0]}#{call.digest[:12]}")
    target = call.ids[0] if call.ids else call.first_of(*PAYERS)
    minor, currency = _amount(call)
    total = call.money(minor, currency)
    more = {"minor": minor, "currency": currency, "target": target}
    if call.ids:
        known, credit = _credit(call)
        if known.get("invoice"):
            _check_untaxed(call, str(known["invoice"]))
        if not credit:
            return call.quote_at(total, object_id=call.ids[0], **more)
        # What lowers an invoice and does so no more raises it.
        new = signed_minor_units(call.params, "amount") or 0 if "amount" in call.params else minor
        rise = credit + new
        total = max(total, call.money(max(0, rise), known["currency"]))
        return call.quote_at(total, object_id=call.ids[0], firm=True, **more)
    if call.params.get("invoice"):
        _check_untaxed(call, call.id_in("invoice"))
    return call.quote_at(total, **more)


def _check_untaxed(call: StripeCall, invoice_id: str) -> None:
    """Raise Unbounded for an item of an invoice with taxes that Stripe collects by itself."""
    invoice, _ = look_up_value(call, f"/v1/invoices/{invoice_id}", invoice_id)
    taxed = (invoice.get("automatic_tax") or {}).get("enabled") or invoice.get("default_tax_rates")
    if invoice.get("auto_advance") is True and taxed:
        raise Unbounded("an item on an invoice with taxes that Stripe collects by itself")


def quote_item_delete(call: StripeCall) -> Quote:
    """Quote nothing; of an item that lowers an invoice its amount, which is billed once that is gone."""
    if call.is_gone(f"/v1/invoiceitems/{call.ids[0]}"):
        return quote_cancel(call)
    known, credit = _credit(call)
    if not credit:
        return quote_cancel(call)
    if known.get("invoice"):
        _check_untaxed(call, str(known["invoice"]))
    return replace(quote_own_object(call), total_micros=call.money(credit, known["currency"]), firm=True)


def _credit(call: StripeCall) -> tuple[Body, int]:
    """Return an item, and by how much it lowers the invoice that it is on, in minor units."""
    [known] = call.look_up(f"/v1/invoiceitems/{call.ids[0]}")
    return known, max(0, -int(known["amount"]))


def _amount(call: StripeCall) -> tuple[int, str]:
    """Return an item's amount in minor units, either way, and its currency, the dearest that may be."""
    params = call.params
    known: Body = {}
    if call.ids:
        [known] = call.look_up(f"/v1/invoiceitems/{call.ids[0]}")
    currency = params.get("currency", str(known.get("currency", ""))).lower()
    if "amount" in params:
        if stems(params) & {"price", "pricing", "price_data", "unit_amount", "unit_amount_decimal"}:
            raise denial("unpriced", "an item has two prices: which one counts is open")
        minor = signed_minor_units(params, "amount")
        if minor is None or not currency:
            raise denial("unpriced", f"{call.quote.operation} without a currency cannot be priced")
        return abs(minor), currency
    priced = ("price", "pricing", "price_data", "quantity")
    line = as_item({name: value for name, value in params.items() if name.split("[")[0] in priced})
    for name in ("unit_amount", "unit_amount_decimal"):
        if name in params:
            if not currency:
                raise denial("unpriced", f"{call.quote.operation} without a currency cannot be priced")
            line[f"items[0][price_data][{name}]"] = params[name].lstrip("-")
            line["items[0][price_data][currency]"] = currency
    if call.ids and not line:
        return abs(int(known["amount"])), currency
    if call.ids and not any("price" in name for name in line):
        each = (known.get("pricing") or {}).get("unit_amount_decimal") or known.get("unit_amount")
        line["items[0][price_data][unit_amount_decimal]"] = str(each).lstrip("-")
        line["items[0][price_data][currency]"] = currency
    if call.ids:
        # `quantity` is cut off (https://docs.stripe.com/api/invoiceitems/object).
        many = Decimal(str(known.get("quantity_decimal") or known.get("quantity") or 1))
        line.setdefault("items[0][quantity]", str(round_up(many)))
    cost = cost_of(replace(call, params=line), "items", currency=currency or None)
    _, unit = cost.dearest(call)
    return cost.minor[unit], unit
