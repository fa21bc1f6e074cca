"""Stripe: what begins, ends or changes a subscription, and whatever else is invoiced at once.

Later invoices are in no run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from typing import Any

from luigi_spendguard.vendors.model import Quote
from luigi_spendguard.vendors.stripe.items import covered_items, look_up_debt, look_up_pending
from luigi_spendguard.vendors.stripe.lines import Cost, amount_of, as_item, cost_of, read_lines, shipping_cost
from luigi_spendguard.vendors.stripe.objects import payer_of
from luigi_spendguard.vendors.stripe.quotes import quote_free
from luigi_spendguard.vendors.stripe.request import (
    PAYERS,
    Body,
    StripeCall,
    Unbounded,
    id_of,
    not_there,
    stems,
)


def _check_untaxed(call: StripeCall) -> None:
    """Raise Unbounded where Stripe adds taxes by itself; rates in the request are refused before this."""
    for name, value in call.params.items():
        if re.search(r"automatic_tax\]?\[enabled\]$", name) and value != "false":
            raise Unbounded(f"{call.quote.operation} with {name} may cost more than its lines")


def quote_subscription(call: StripeCall) -> Quote:
    """Quote the first invoice: every line, and what is pending."""
    _check_untaxed(call)
    lines = cost_of(call, "items", "add_invoice_items", currency=call.params.get("currency"))
    payer = ("customer", call.ids[0]) if call.ids else call.payer()
    return quote_at_once(call, lines, payer, target=payer and payer[1])


def quote_at_once(
    call: StripeCall, lines: Cost, payer: tuple[str, str] | None, subscription: str = "", **more: Any
) -> Quote:
    """Quote an invoice that is made at once: its lines, and what it takes along of its payer.

    Of the currencies that are possible the dearest counts, whatever of it is counted already.
    """
    waiting = [one for one in look_up_pending(call, payer) if one.subscription in ("", subscription)]
    along = {unit: [one for one in waiting if one.currency == unit] for unit in lines.minor}
    debt = look_up_debt(call, payer)
    minor = {
        unit: own + sum(one.minor for one in along[unit]) + debt.get(unit, 0)
        for unit, own in lines.minor.items()
    }
    total, unit = Cost(minor).dearest(call)
    covers = covered_items(along[unit]) if lines.certain else ()
    return call.quote_at(total, currency=unit, firm=True, covers=covers, **more)


def quote_schedule(call: StripeCall) -> Quote:
    """Quote the first phase's first invoice, of a schedule that begins now.

    Where a phase ends at a time of the caller's (a second from now if need be), the next one is quoted, too.
    """
    if "from_subscription" in call.params:
        return call.quote_at(None, target=call.params["from_subscription"])
    if call.params.get("start_date") != "now":
        raise Unbounded("a schedule that does not begin now may be invoiced for the past")
    _check_untaxed(call)
    if not any(name.startswith("phases[0]") for name in call.params):
        raise Unbounded("a schedule without phases names no lines")
    last = 0
    while f"phases[{last}][end_date]" in call.params:
        last += 1
    phases = [f"phases[{number}]" for number in range(last + 1)]
    phases = [one for one in phases if any(name.startswith(one) for name in call.params)]
    currencies = {call.params[f"{one}[currency]"] for one in phases if f"{one}[currency]" in call.params}
    if len(currencies) > 1:
        raise Unbounded("phases in several currencies cannot be added up")
    lists = [f"{one}[{list_}]" for one in phases for list_ in ("items", "add_invoice_items")]
    lines = cost_of(call, *lists, currency=min(currencies, default=None))
    return quote_at_once(call, lines, call.payer(), target=call.first_of(*PAYERS))


def quote_session(call: StripeCall) -> Quote:
    """Quote all lines in the highest quantity that may be chosen, the dearest shipping, what is pending."""
    target = call.first_of(*PAYERS, "customer_email", "client_reference_id")
    mode = call.params.get("mode")
    if mode == "setup":
        return call.quote_at(0, target=target)
    _check_untaxed(call)
    lines = cost_of(call, "line_items", currency=call.params.get("currency"))
    options = [shipping_cost(call, option) for option in read_lines(call.params, "shipping_options")]
    shipped = {
        unit: own + max((option[unit] for option in options), default=0)
        for unit, own in lines.minor.items()
        if all(unit in option for option in options)
    }
    if not shipped:
        raise Unbounded("a shipping rate without a fixed amount in the lines' currency has no bound")
    cost = Cost(shipped, lines.chosen)
    if mode != "payment":  # Without one the prices may decide.
        # An expired session gives back what it counts for; the items would then be pending as before.
        return replace(quote_at_once(call, cost, call.payer(), target=target), covers=())
    total, unit = cost.dearest(call)
    # On its page the customer chooses, takes a code off, or pays in the currency of the own address.
    coded = any(name.startswith("discounts") for name in call.params)
    firm = lines.chosen or len(options) > 0 or coded or not cost.certain
    return call.quote_at(total, currency=unit, target=target, firm=firm)


def quote_accepted_quote(call: StripeCall) -> Quote:
    """Quote what the quote comes to, up front or for its first period, whichever is more; what is pending.

    With a trial both are billed: what is due up front, and the first period when the trial is over.
    """
    path = f"/v1/quotes/{call.ids[0]}"
    [quote] = call.look_up(path)
    computed = quote.get("computed") or {}
    upfront, recurring = ((computed.get(part) or {}).get("amount_total") for part in ("upfront", "recurring"))
    amounts = [quote.get("amount_total"), upfront, recurring]
    if (quote.get("subscription_data") or {}).get("trial_period_days"):
        amounts.append((upfront or 0) + (recurring or 0))
    known = [amount for amount in amounts if isinstance(amount, int) and not isinstance(amount, bool)]
    if quote.get("id") != call.ids[0] or not known or not isinstance(quote.get("currency"), str):
        raise not_there(call.quote.operation, path)
    return quote_at_once(
        call,
        Cost({quote["currency"]: max(known)}),
        payer_of(quote),
        target=call.ids[0],
        object_id=call.ids[0],
        look_ups=(path,),
    )


def quote_subscription_item(call: StripeCall) -> Quote:
    """Quote the item's whole price times its quantity: no proration is more; and what is pending."""
    line = {
        name: value
        for name, value in call.params.items()
        if name.split("[")[0] in ("price", "plan", "price_data", "quantity")
    }
    look_ups: tuple[str, ...] = ()
    target, of, invoiced = call.first_of("subscription"), call.params.get("subscription", ""), True
    had = 0
    if call.ids:
        path = f"/v1/subscription_items/{call.ids[0]}"
        # Every change counts in full: what was paid before may come back as credit only.
        target, look_ups = f"{call.ids[0]}#{call.digest[:12]}", (path,)
        # Another quantity alone is billed with the next invoice, unless it says otherwise.
        invoiced = line.keys() != {"quantity"} or call.params.get("proration_behavior") == "always_invoice"
        if not line:
            if call.has_only("payment_behavior", "proration_behavior"):
                return call.quote_at(None, target=target)
            raise Unbounded("this change of a subscription item has no bound")
        [item] = call.look_up(path)
        of, had = item["subscription"], item.get("quantity") or 0
        price = (item.get("price") or item.get("plan") or {}).get("id")
        if not isinstance(price, str):
            raise not_there(call.quote.operation, path)
        if not stems(line) & {"price", "plan", "price_data"}:
            line["price"] = price
        line.setdefault("quantity", str(item.get("quantity") or 1))
    subscription = _subscription(call, of)
    lines = cost_of(replace(call, params=as_item(line)), "items", currency=subscription["currency"])
    # From free to paid, or back, is invoiced at once (https://docs.stripe.com/api/subscriptions/update).
    invoiced = invoiced or not had or not all(lines.minor.values())
    payer = payer_of(subscription) if invoiced else None
    quote = quote_at_once(call, lines, payer, of, target=target, look_ups=look_ups)
    newest = id_of(subscription.get("latest_invoice"))
    # It opens no object that could count for what is pending.
    return replace(quote, covers=(), before=newest if isinstance(newest, str) else "")


def _subscription(call: StripeCall, subscription: str) -> Body:
    """Return the subscription that an item is part of: its currency is the one that is billed."""
    path = f"/v1/subscriptions/{call.check_id(subscription, 'subscription')}"
    [body] = call.look_up(path)
    if body.get("id") != subscription or not isinstance(body.get("currency"), str):
        raise not_there(call.quote.operation, path)
    return body


def quote_subscription_item_delete(call: StripeCall) -> Quote:
    """Quote what is pending where the subscription turns free: Stripe invoices that change at once.

    Nothing where another item of it is paid for, or this one never was.
    """
    if call.params.get("proration_behavior") != "none":
        raise Unbounded(
            f"{call.quote.operation} bills or credits an unknown amount: pass proration_behavior=none"
        )
    path = f"/v1/subscription_items/{call.ids[0]}"
    if call.is_gone(path):
        return quote_free(call)
    [item] = call.look_up(path)
    if item.get("id") != call.ids[0]:
        raise not_there(call.quote.operation, path)
    subscription = _subscription(call, item["subscription"])
    others = [one for one in _items_of(subscription) if one["id"] != call.ids[0]]
    if _is_used(item):
        raise Unbounded("usage of an item that is metered or tiered may be billed when it goes: that")
    if {_interval(one) for one in others} - {_interval(item)}:
        raise Unbounded("items of other intervals may be billed when one goes: that")
    reduced = bool(subscription.get("discounts"))
    if _each(item) == 0 or any(
        (_each(one) or 0) > 0 and not (reduced or one.get("discounts")) for one in others
    ):
        return quote_free(call)
    quote = quote_at_once(
        call,
        Cost({subscription["currency"]: 0}),
        payer_of(subscription),
        item["subscription"],
        target=quote_free(call).target,
        look_ups=(path,),
    )
    # It opens no object that could count for what is pending.
    return replace(quote, covers=(), currency="")


def _items_of(subscription: Body) -> Iterator[Body]:
    """Yield the items of a subscription, as far as its first page names them."""
    yield from (subscription.get("items") or {}).get("data") or []


def _price(item: Body) -> Body:
    price = item.get("price") or item.get("plan")
    return price if isinstance(price, dict) else {}


def _is_used(item: Body) -> bool:
    """Return whether an item is billed by its usage, or by tiers: what it costs is known only later."""
    price = _price(item)
    usage = (price.get("recurring") or {}).get("usage_type") or price.get("usage_type")
    return usage == "metered" or price.get("billing_scheme") == "tiered"


def _each(item: Body) -> Decimal | None:
    """Return what a period of an item costs, in minor units; None where nobody knows."""
    each = amount_of(_price(item))
    return None if each is None or _is_used(item) else Decimal(str(each)) * int(item.get("quantity", 1))


def _interval(item: Body) -> tuple[object, object]:
    price = _price(item)
    recurring = price.get("recurring") or price
    return recurring.get("interval"), recurring.get("interval_count")
