"""Stripe: what a change of a subscription's items is invoiced for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal

from luigi_spendguard.vendors.model import Quote
from luigi_spendguard.vendors.stripe.lines import Cost, at_once, cost, owner
from luigi_spendguard.vendors.stripe.prices import free
from luigi_spendguard.vendors.stripe.request import Asked, Body, Unbounded, not_there


def subscription_items(asked: Asked) -> Quote:
    """Quote the item's whole price times its quantity: no proration is more; and what is pending."""
    line = {
        name: value
        for name, value in asked.params.items()
        if name.split("[")[0] in ("price", "plan", "price_data", "quantity")
    }
    look_ups: tuple[str, ...] = ()
    target, of, invoiced = asked.given("subscription"), asked.params.get("subscription", ""), True
    had = 0
    if asked.ids:
        path = f"/v1/subscription_items/{asked.ids[0]}"
        # Every change counts in full: what was paid before may come back as credit only.
        target, look_ups = f"{asked.ids[0]}#{asked.digest[:12]}", (path,)
        # Another quantity alone is billed with the next invoice, unless it says otherwise.
        invoiced = line.keys() != {"quantity"} or asked.params.get("proration_behavior") == "always_invoice"
        if not line:
            if asked.only("payment_behavior", "proration_behavior"):
                return asked.quoted(None, target=target)
            raise Unbounded("this change of a subscription item has no bound")
        [item] = asked.fetched(path)
        of, had = item["subscription"], item.get("quantity") or 0
        price = (item.get("price") or item.get("plan") or {}).get("id")
        if not isinstance(price, str):
            raise not_there(asked.quote.operation, path)
        if not line.keys() & {"price", "plan"} and not any(name.startswith("price_data") for name in line):
            line["price"] = price
        line.setdefault("quantity", str(item.get("quantity") or 1))
    as_list = {
        f"items[0][{name.partition('[')[0]}]{''.join(name.partition('[')[1:])}": value
        for name, value in line.items()
    }
    one = Asked(asked.quote, asked.ids, as_list, asked.found, asked.fx)
    subscription = _subscription(asked, of)
    lines, payer = cost(one, "items", currency=subscription["currency"]), owner(subscription)
    # From free to paid, or back, is invoiced at once (https://docs.stripe.com/api/subscriptions/update).
    invoiced = invoiced or not had or not all(lines.minor.values())
    quote = at_once(asked, lines, payer if invoiced else None, of, target=target, look_ups=look_ups)
    newest = subscription.get("latest_invoice")
    newest = newest.get("id") if isinstance(newest, dict) else newest
    # It opens no object that could count for what is pending.
    return replace(quote, covers=(), before=newest if isinstance(newest, str) else "")


def _subscription(asked: Asked, subscription: str) -> Body:
    """Return the subscription that an item is part of: its currency is the one that is billed."""
    one = Asked(asked.quote, (), {"subscription": subscription}, {}, asked.fx).id_of("subscription")
    [found] = asked.fetched(f"/v1/subscriptions/{one}")
    if found.get("id") != one or not isinstance(found.get("currency"), str):
        raise not_there(asked.quote.operation, f"/v1/subscriptions/{one}")
    return found


def item_deleted(asked: Asked) -> Quote:
    """Quote what is pending where the subscription turns free: Stripe invoices that change at once.

    Nothing where another item of it is paid for, or this one never was.
    """
    if asked.params.get("proration_behavior") != "none":
        raise Unbounded(
            f"{asked.quote.operation} bills or credits an unknown amount: pass proration_behavior=none"
        )
    path = f"/v1/subscription_items/{asked.ids[0]}"
    if asked.is_gone(path):
        return free(asked)
    [item] = asked.fetched(path)
    if item.get("id") != asked.ids[0]:
        raise not_there(asked.quote.operation, path)
    subscription = _subscription(asked, item["subscription"])
    others = [one for one in _items_of(subscription) if one["id"] != asked.ids[0]]
    if _is_used(item):
        raise Unbounded("usage of an item that is metered or tiered may be billed when it goes: that")
    if {_interval(one) for one in others} - {_interval(item)}:
        raise Unbounded("items of other intervals may be billed when one goes: that")
    reduced = bool(subscription.get("discounts"))
    if _each(item) == 0 or any(
        (_each(one) or 0) > 0 and not (reduced or one.get("discounts")) for one in others
    ):
        return free(asked)
    quote = at_once(
        asked,
        Cost({subscription["currency"]: 0}),
        owner(subscription),
        item["subscription"],
        target=free(asked).target,
        look_ups=(path,),
    )
    # It opens no object that could count for what is pending.
    return replace(quote, covers=(), currency="")


def _items_of(subscription: Body) -> Iterator[Body]:
    """Yield the items of a subscription, as far as its first page names them."""
    yield from (subscription.get("items") or {}).get("data") or []


def _price(item: Body) -> Body:
    found = item.get("price") or item.get("plan")
    return found if isinstance(found, dict) else {}


def _is_used(item: Body) -> bool:
    """Return whether an item is billed by its usage, or by tiers: what it costs is known only later."""
    price = _price(item)
    usage = (price.get("recurring") or {}).get("usage_type") or price.get("usage_type")
    return usage == "metered" or price.get("billing_scheme") == "tiered"


def _each(item: Body) -> Decimal | None:
    """Return what a period of an item costs, in minor units; None where nobody knows."""
    price = _price(item)
    amounts = (price.get(name) for name in ("unit_amount", "unit_amount_decimal", "amount", "amount_decimal"))
    each = next((one for one in amounts if one is not None), None)
    return None if each is None or _is_used(item) else Decimal(str(each)) * int(item.get("quantity", 1))


def _interval(item: Body) -> tuple[object, object]:
    price = _price(item)
    said = price.get("recurring") or price
    return said.get("interval"), said.get("interval_count")
