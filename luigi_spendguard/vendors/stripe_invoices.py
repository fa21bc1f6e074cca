"""Stripe: invoices and their items.

An item is counted when it is made, since a subscription's next invoice takes it along. An invoice counts
once Stripe may collect it (finalized, or advanced by Stripe itself); it then counts its items' money
instead of them. A draft that waits for a guarded call counts for nothing.
"""

from __future__ import annotations

import re

from luigi_spendguard.errors import denial
from luigi_spendguard.vendors.calls import Quote
from luigi_spendguard.vendors.stripe_asked import PAYERS, Asked, Body, Unbounded, not_there
from luigi_spendguard.vendors.stripe_forms import signed
from luigi_spendguard.vendors.stripe_lines import cost
from luigi_spendguard.vendors.stripe_prices import own_object
from luigi_spendguard.vendors.stripe_worth import worth_of

#: What may change what an invoice comes to.
_AMOUNTS = {"automatic_tax", "default_tax_rates", "shipping_cost", "shipping_details", "from_invoice"}

#: More items than these are counted beside their invoice: too much rather than too little.
_MOST_COVERED = 50
_ID = re.compile(r"[A-Za-z0-9_]{1,64}", re.ASCII)


def created(asked: Asked) -> Quote:
    """Quote nothing for a draft, the customer's items for one that Stripe collects by itself."""
    target = asked.given(*PAYERS, "subscription")
    if not asked.truth("auto_advance"):
        return asked.quoted(0, target=target)
    odd = {name.split("[")[0] for name in asked.params} & {*_AMOUNTS, "subscription"}
    if odd:
        raise Unbounded(f"an invoice that Stripe collects by itself, with {min(odd)}, has no bound")
    if asked.params.get("pending_invoice_items_behavior") == "exclude":
        return asked.quoted(0, target=target)
    path = f"/v1/invoiceitems?customer={asked.id_of('customer')}&pending=true&limit=100"
    [page] = asked.fetched(path)
    items = page.get("data")
    if not isinstance(items, list) or page.get("has_more") is not False:
        raise Unbounded("the customer has more pending items than can be added up")
    try:
        total = sum(worth_of(item, asked.fx).worth for item in items)
    except (ValueError, TypeError, KeyError):
        raise not_there(asked.quote.operation, path) from None
    # Which of them it takes along (their currency, their subscription) only the reply says.
    return asked.quoted(total, target=target)


def _fetched(asked: Asked, invoice_id: str) -> tuple[Body, int]:
    """Return an invoice and what it is worth, in micro-dollars."""
    path = f"/v1/invoices/{invoice_id}"
    [invoice] = asked.fetched(path)
    try:
        if invoice["id"] != invoice_id:
            raise ValueError
        return invoice, worth_of(invoice, asked.fx).worth
    except (ValueError, TypeError, KeyError):
        asked.money(0, str(invoice.get("currency", "")))
        raise not_there(asked.quote.operation, path) from None


def covered(invoice: Body) -> tuple[str, ...]:
    """Return what was counted for an invoice before: its items, and the subscription it is the first of.

    The items as far as the first page of its lines names them.
    """
    found = []
    for line in (invoice.get("lines") or {}).get("data") or []:
        parent = (line.get("parent") or {}).get("invoice_item_details") or {}
        found.append(parent.get("invoice_item") or line.get("invoice_item"))
    if invoice.get("billing_reason") == "subscription_create":
        parent = (invoice.get("parent") or {}).get("subscription_details") or {}
        found.append(parent.get("subscription") or invoice.get("subscription"))
    return tuple(one for one in found if isinstance(one, str) and _ID.fullmatch(one))[:_MOST_COVERED]


def collected(asked: Asked) -> Quote:
    """Quote what the invoice is worth: from now on it can be collected."""
    own = own_object(asked)
    if asked.truth("paid_out_of_band"):
        return asked.quoted(None, target=asked.ids[0], look_ups=own.look_ups)
    invoice, total = _fetched(asked, asked.ids[0])
    return asked.quoted(total, target=asked.ids[0], object_id=asked.ids[0], look_ups=own.look_ups,
                        covers=covered(invoice))  # fmt: skip


def updated(asked: Asked) -> Quote:
    """Nothing while it stays a draft of ours; what it is worth once Stripe collects it by itself."""
    invoice, total = _fetched(asked, asked.ids[0])
    look_ups = own_object(asked).look_ups
    target = f"{asked.ids[0]}#{asked.digest[:12]}"
    advances = asked.params.get("auto_advance", str(invoice.get("auto_advance")).lower())
    if invoice["status"] == "draft" and advances != "true":
        return asked.quoted(0, target=target, object_id=asked.ids[0], look_ups=look_ups, only_less=True)
    odd = {name.split("[")[0] for name in asked.params} & (_AMOUNTS | {"lines", "discounts"})
    if odd:
        raise Unbounded(f"{asked.quote.operation} with {min(odd)} changes what Stripe collects")
    return asked.quoted(total, target=target, object_id=asked.ids[0], look_ups=look_ups,
                        covers=covered(invoice))  # fmt: skip


def lines(asked: Asked) -> Quote:
    """Nothing on a draft that waits for a guarded call; unbounded where Stripe collects by itself."""
    invoice, _ = _fetched(asked, asked.ids[0])
    if invoice["status"] != "draft" or invoice.get("auto_advance") is True:
        raise Unbounded("the lines of an invoice that Stripe collects by itself have no bound")
    if "unassign" in asked.params.values():
        raise Unbounded("an item that is unassigned is pending again, and billed with what comes next: that")
    return asked.quoted(None, target=f"{asked.ids[0]}#{asked.digest[:12]}")


def items(asked: Asked) -> Quote:
    """Quote the item's amount, either way; nothing on a draft that waits for a guarded call."""
    if asked.ids and asked.only("description", "discountable", "discounts", "period"):
        return asked.quoted(None, target=f"{asked.ids[0]}#{asked.digest[:12]}")
    if any(name.startswith(("tax_rates", "tax_behavior")) for name in asked.params):
        raise Unbounded("an item with taxes of its own may come to more than its amount")
    target = asked.ids[0] if asked.ids else asked.given(*PAYERS)
    minor, currency = _item(asked)
    total = asked.money(abs(minor), currency)
    more = {"minor": abs(minor), "currency": currency, "target": target}
    if asked.ids:
        return asked.quoted(total, object_id=asked.ids[0], firm=True, **more)
    if not asked.params.get("invoice"):
        return asked.quoted(total, **more)
    invoice, worth = _fetched(asked, asked.id_of("invoice"))
    if invoice["status"] == "draft" and invoice.get("auto_advance") is not True:
        return asked.quoted(None, **more)
    return asked.quoted(worth + total, object_id=asked.params["invoice"], firm=True, **more)


def _item(asked: Asked) -> tuple[int, str]:
    """Return an item's amount in minor units, and its currency."""
    params = dict(asked.params)
    known: Body = {}
    if asked.ids:
        [known] = asked.fetched(f"/v1/invoiceitems/{asked.ids[0]}")
    currency = params.get("currency", str(known.get("currency", ""))).lower()
    if "amount" in params:
        if any(name.split("[")[0] in ("price", "pricing", "price_data", "unit_amount", "unit_amount_decimal")
               for name in params):  # fmt: skip
            raise denial("unpriced", "an item has two prices: which one counts is open")
        minor = signed(params, "amount")
        if minor is None or not currency:
            raise denial("unpriced", f"{asked.quote.operation} without a currency cannot be priced")
        return minor, currency
    line = {f"items[0][{name.partition('[')[0]}]{''.join(name.partition('[')[1:])}": value
            for name, value in params.items()
            if name.split("[")[0] in ("price", "pricing", "price_data", "quantity")}  # fmt: skip
    for name in ("unit_amount", "unit_amount_decimal"):
        if name in params:
            if not currency:
                raise denial("unpriced", f"{asked.quote.operation} without a currency cannot be priced")
            line[f"items[0][price_data][{name}]"] = params[name].lstrip("-")
            line["items[0][price_data][currency]"] = currency
    if asked.ids and not any("price" in name for name in line):
        each = (known.get("pricing") or {}).get("unit_amount_decimal") or known.get("unit_amount")
        line["items[0][price_data][unit_amount_decimal]"] = str(each)
        line["items[0][price_data][currency]"] = currency
    if asked.ids:
        line.setdefault("items[0][quantity]", str(known.get("quantity") or 1))
    minor, unit, _ = cost(Asked(asked.quote, (), line, asked.found, asked.fx), "items")
    return minor, unit
