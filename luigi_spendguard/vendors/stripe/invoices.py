"""Stripe: invoices.

An invoice counts once Stripe may collect it (finalized, or advanced by Stripe itself); it then counts its
items' money instead of them: a subscription's next invoice takes along what is pending, and a draft that is
deleted lets go of its items. A draft that waits for a guarded call counts for what guarded calls have added
to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from luigi_spendguard.errors import denial
from luigi_spendguard.vendors.model import Quote
from luigi_spendguard.vendors.stripe.items import covered_items, look_up_debt, look_up_pending
from luigi_spendguard.vendors.stripe.lines import Cost, as_item, cost_of, read_lines, shipping_cost
from luigi_spendguard.vendors.stripe.objects import MOST_COVERED, covered_by, is_first
from luigi_spendguard.vendors.stripe.quotes import look_up_value, own_path, quote_cancel
from luigi_spendguard.vendors.stripe.request import (
    PAYERS,
    Body,
    StripeCall,
    Unbounded,
    minor_units,
    signed_minor_units,
    stems,
)

#: What may change what an invoice comes to.
_AMOUNTS = {"automatic_tax", "default_tax_rates", "shipping_cost", "shipping_details", "from_invoice"}

#: What decides which tax Stripe puts on an invoice.
_TAXES = {"shipping_details", "issuer", "on_behalf_of"}

#: What of a line says nothing of its amount.
_DESCRIBED = {"id", "behavior", "description", "metadata", "period", "expand", "invoice_metadata"}

#: An invoice's lines are read by pages of 100: more pages than these are no draft that is meant honestly.
_MOST_PAGES = 5


def quote_invoice(call: StripeCall) -> Quote:
    """Quote nothing for a draft, the customer's items for one that Stripe collects by itself."""
    target = call.first_of(*PAYERS, "subscription")
    if not call.flag("auto_advance"):
        if shipping := _shipping(call):
            return call.quote_at(Cost(shipping).dearest(call)[0], target=target, firm=True)
        return call.quote_at(0, target=target)
    odd = stems(call.params) & {*_AMOUNTS, "subscription"}
    if odd:
        raise Unbounded(f"an invoice that Stripe collects by itself, with {min(odd)}, has no bound")
    alone = call.params.get("pending_invoice_items_behavior") == "exclude"
    if call.payer() is None and not alone:
        raise denial("unpriced", f"{call.quote.operation} without a payer cannot be priced")
    # Which of them it takes along (their currency, their subscription) only the reply says.
    waiting = [] if alone else look_up_pending(call, call.payer())
    total = sum(call.money(one.minor, one.currency) for one in waiting)
    total += sum(call.money(minor, unit) for unit, minor in look_up_debt(call, call.payer()).items())
    return call.quote_at(total, target=target, covers=covered_items(waiting))


def _look_up_invoice(call: StripeCall) -> tuple[Body, int]:
    """Return the invoice that the path names, and the most it can move, in micro-dollars."""
    invoice, value = look_up_value(call, own_path(call), call.ids[0])
    return invoice, value.movable_micros


def quote_invoice_due(call: StripeCall) -> Quote:
    """Quote what the invoice is worth: from now on it can be collected."""
    if call.flag("paid_out_of_band"):
        return call.quote_at(None, target=call.ids[0], look_ups=(own_path(call),))
    invoice, total = _look_up_invoice(call)
    # A draft is finalized before it is paid, or sent.
    return call.quote_at(
        total,
        target=call.ids[0],
        object_id=call.ids[0],
        look_ups=(own_path(call),),
        in_steps=invoice["status"] == "draft",
        covers=covered_by(invoice),
        covers_stay=is_first(invoice),
    )


def quote_invoice_update(call: StripeCall) -> Quote:
    """Quote what is added to a draft, else nothing; what it is worth once Stripe collects it by itself."""
    invoice, total = _look_up_invoice(call)
    look_ups = (own_path(call),)
    target = f"{call.ids[0]}#{call.digest[:12]}"
    advances = call.params.get("auto_advance", str(invoice.get("auto_advance")).lower())
    if invoice["status"] == "draft" and advances != "true":
        added = _raised(call, invoice)
        if not added:
            return call.quote_at(0, target=target, object_id=call.ids[0], look_ups=look_ups, only_less=True)
        return call.quote_at(
            total + added,
            target=target,
            object_id=call.ids[0],
            look_ups=look_ups,
            covers=covered_by(invoice),
            covers_stay=True,
            firm=True,
        )
    odd = stems(call.params) & {*_AMOUNTS, *_TAXES, "lines", "discounts"}
    if odd:
        raise Unbounded(f"{call.quote.operation} with {min(odd)} changes what Stripe collects")
    return call.quote_at(
        total,
        target=target,
        object_id=call.ids[0],
        look_ups=look_ups,
        covers=covered_by(invoice),
        covers_stay=is_first(invoice),
    )


def _raised(call: StripeCall, invoice: Body) -> int:
    """Return by how much an update may raise a draft, in micro-dollars.

    Raises Unbounded for a tax, and for what a tax comes on top of.
    """
    changed = stems(call.params)
    automatic = (invoice.get("automatic_tax") or {}).get("enabled") is not False
    if call.params.get("automatic_tax[enabled]", "false") != "false" or (
        "default_tax_rates" in changed and call.params.get("default_tax_rates") != ""
    ):
        raise Unbounded(
            "a tax that is put on a draft comes on top of its lines (invoices.create takes it): it"
        )
    if automatic and changed & _TAXES:
        raise Unbounded(f"{call.quote.operation} with {min(changed & _TAXES)} changes the draft's tax: that")
    shipped, currency = _shipping(call), str(invoice["currency"])
    if shipped and currency not in shipped:
        raise Unbounded(f"a shipping rate without an amount in {currency} has no bound")
    off = [one["amount"] for one in invoice.get("total_discount_amounts") or []]
    if "discounts" in changed and invoice.get("discounts") and not off:
        raise Unbounded("what the draft's discounts take off is not known: what takes them away")
    added = shipped.get(currency, 0) + (sum(map(int, off)) if "discounts" in changed else 0)
    if added and (automatic or invoice.get("default_tax_rates")):
        raise Unbounded(f"{call.quote.operation} of a draft with taxes, which come on top")
    return call.money(added, currency)


def _shipping(call: StripeCall) -> dict[str, int]:
    """Return what an invoice's own shipping costs in each currency, in minor units; {} for none."""
    stem = "shipping_cost["
    option = {
        name[len(stem) :].replace("]", "", 1): value
        for name, value in call.params.items()
        if name.startswith(stem)
    }
    cost = shipping_cost(call, option) if option else {}
    if option and not cost:
        raise Unbounded("a shipping rate without a fixed amount has no bound")
    return cost


def quote_invoice_delete(call: StripeCall) -> Quote:
    """Quote the items of a draft: once it is gone they are pending, and the next invoice takes them along.

    Those that are counted already go on counting for themselves.
    """
    first = path = f"/v1/invoices/{call.ids[0]}/lines?limit=100"
    lines: list[Body] = []
    if call.is_gone(first):
        return quote_cancel(call)
    for _ in range(_MOST_PAGES):
        # With the invoice: whose items become pending is whose turn it is.
        page, _ = call.look_up(path, own_path(call))
        lines += page["data"]
        if page["has_more"] is False:
            break
        path = f"{first}&starting_after={lines[-1]['id']}"
    else:
        raise Unbounded("the draft has more lines than can be added up")
    items = {covered_by({"lines": {"data": [line]}}): line for line in lines}
    total = sum(call.money(abs(int(line["amount"])), line["currency"]) for ids, line in items.items() if ids)
    covers = tuple(ident for ids in items for ident in ids)[:MOST_COVERED]
    return call.quote_at(
        total,
        target=call.ids[0],
        object_id=call.ids[0],
        covers=covers,
        covers_stay=True,
        look_ups=(own_path(call),),
        firm=True,
    )


def quote_invoice_lines(call: StripeCall) -> Quote:
    """Quote what is added to a draft; unbounded where Stripe collects by itself."""
    invoice, total = _look_up_invoice(call)
    if invoice["status"] != "draft" or invoice.get("auto_advance") is True:
        raise Unbounded("the lines of an invoice that Stripe collects by itself have no bound")
    if "unassign" in call.params.values():
        raise Unbounded("an item that is unassigned is pending again, and billed with what comes next: that")
    target = f"{call.ids[0]}#{call.digest[:12]}"
    named = [call.params] if len(call.ids) > 1 else read_lines(call.params, "lines")
    added = sum(_added(call, line, invoice) + _taken_back(call, line, invoice) for line in named)
    if not added:
        return call.quote_at(None, target=target)
    assigned = tuple(line["invoice_item"] for line in named if "invoice_item" in line)
    covers = (*covered_by(invoice), *assigned)[:MOST_COVERED]
    return call.quote_at(
        total + added,
        target=target,
        object_id=call.ids[0],
        covers=covers,
        covers_stay=True,
        look_ups=(own_path(call),),
        firm=True,
    )


def _added(call: StripeCall, line: Mapping[str, str], invoice: Body) -> int:
    """Return what a line may add to an invoice, in micro-dollars."""
    currency = str(invoice["currency"])
    known = stems(line)
    if known & {"tax_rates", "tax_amounts"}:
        raise Unbounded("a line with taxes of its own may come to more than its amount")
    prices = known & {"amount", "price", "pricing", "price_data", "invoice_item"}
    if len(prices) > 1:
        raise denial("unpriced", f"a line has both {' and '.join(sorted(prices))}: which one counts is open")
    if "invoice_item" in known:
        [item] = call.look_up(f"/v1/invoiceitems/{call.check_id(line['invoice_item'], 'invoice_item')}")
        return call.money(abs(int(item["amount"])), item["currency"])
    if "amount" in known:
        minor = signed_minor_units(line, "amount") or 0
        return call.money(abs(minor), currency)
    if not prices:
        return _more_of(call, line, invoice) if "quantity" in known else 0
    priced = {name: value for name, value in line.items() if name.split("[")[0] not in ("id", "behavior")}
    cost = cost_of(replace(call, params=as_item(priced)), "items", currency=currency)
    return cost.dearest(call)[0]


def _taken_back(call: StripeCall, line: Mapping[str, str], invoice: Body) -> int:
    """Return what a line, or its discount, takes off an invoice and may do so no more, in micro-dollars."""
    changed = stems(line) - _DESCRIBED
    ident = line.get("id") or (call.ids[1] if len(call.ids) > 1 else "")
    if not ident or (not changed and call.quote.operation != "invoices.remove_lines"):
        return 0
    lines = invoice.get("lines") or {}
    known = next((one for one in lines.get("data") or [] if one.get("id") == ident), None)
    if known is None and lines.get("has_more"):
        raise Unbounded(f"what {ident} takes off the invoice is not known")
    amount = int(known["amount"]) if known is not None else 0
    lowers = amount < 0 or changed & {"discounts", "discountable"}
    return call.money(abs(amount), str(invoice["currency"])) if lowers else 0


def _more_of(call: StripeCall, line: Mapping[str, str], invoice: Body) -> int:
    """Return what a line of an invoice comes to in another quantity, in micro-dollars."""
    ident = line.get("id", call.ids[-1])
    for known in (invoice.get("lines") or {}).get("data") or []:
        each, wanted = known.get("quantity"), minor_units(line, "quantity") or 0
        if known.get("id") == ident and isinstance(each, int) and each > 0:
            return call.money(-(-abs(int(known["amount"])) * wanted // each), str(invoice["currency"]))
    raise Unbounded(f"what {ident} comes to in another quantity is not known")
