"""Stripe: what line items cost: prices named by id are looked up, prices in the request are read.

`items`, `line_items` and `add_invoice_items` are lists of groups such as `items[0][price]=price_1`.
What may be added on top by an unknown amount (tax, usage) is no bound, and refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal, InvalidOperation
from typing import Any

from luigi_spendguard.errors import denial
from luigi_spendguard.vendors.calls import Quote
from luigi_spendguard.vendors.stripe_asked import PAYERS, Asked, Body, Unbounded, not_there
from luigi_spendguard.vendors.stripe_forms import whole

#: How many a customer may choose where the request names no maximum
#: (https://docs.stripe.com/api/checkout/sessions/create, `adjustable_quantity`).
_CHOSEN_AT_MOST = 99
_MOST_EACH = 10**9

#: Keys of a line that do not raise what it costs.
_PLAIN = {"price", "plan", "quantity", "metadata", "discounts", "discountable", "period", "price_data",
          "adjustable_quantity", "id", "description", "amount", "currency", "pricing", "unit_amount",
          "unit_amount_decimal", "type"}  # fmt: skip


def groups(params: Mapping[str, str], stem: str) -> list[dict[str, str]]:
    """Return the groups of a list parameter, in their order, each by the rest of its names."""
    found: dict[str, dict[str, str]] = {}
    for name, value in params.items():
        match = re.fullmatch(re.escape(stem) + r"\[([0-9]+)\]\[(\w+)\](.*)", name)
        if match:
            found.setdefault(match[1], {})[match[2] + match[3]] = value
        elif name == stem or name.startswith(stem + "["):
            raise denial("unpriced", f"{name[:60]!r} cannot be read: send it as the stripe SDK encodes it")
    return list(found.values())


def cost(asked: Asked, *stems: str) -> tuple[int, str, bool]:
    """Return (minor units, currency, whether the customer may choose less) of all lines in `stems`."""
    lines = [line for stem in stems for line in groups(asked.params, stem)]
    if not lines:
        raise Unbounded(f"{asked.quote.operation} names no lines that could be priced")
    paths = [path for line in lines if (path := _price_path(asked, line))]
    prices = dict(zip(paths, asked.fetched(*paths), strict=True))
    total, currencies, chosen = 0, set(), False
    for line in lines:
        minor, currency, adjustable = _line(asked, line, prices)
        total += minor
        currencies.add(currency)
        chosen = chosen or adjustable
    if len(currencies) != 1:
        raise Unbounded("lines in several currencies cannot be added up")
    [currency] = currencies
    if asked.params.get("currency", currency).lower() != currency:
        raise Unbounded("the prices are in another currency than the one asked for")
    return total, currency, chosen


def _price_path(asked: Asked, line: Mapping[str, str]) -> str:
    for name, kind in (("price", "prices"), ("pricing[price]", "prices"), ("plan", "plans")):
        if name in line:
            one = Asked(asked.quote, (), line, {}, asked.fx).id_of(name)
            return f"/v1/{kind}/{one}"
    return ""


def _line(asked: Asked, line: Mapping[str, str], prices: Mapping[str, Body]) -> tuple[int, str, bool]:
    odd = sorted({name.split("[")[0] for name in line} - _PLAIN)
    if odd:
        raise Unbounded(f"a line with {odd[0]} may cost more than its price")
    quantity = whole(line, "quantity")
    quantity = 1 if quantity is None else quantity
    adjustable = line.get("adjustable_quantity[enabled]", "false") != "false"
    if adjustable:
        most = whole(line, "adjustable_quantity[maximum]")
        quantity = max(quantity, _CHOSEN_AT_MOST if most is None else most)
    if quantity > _MOST_EACH:
        raise denial("unpriced", "a quantity is too large to be priced")
    path = _price_path(asked, line)
    if path:
        if any(name.startswith(("price_data", "amount", "unit_amount")) for name in line):
            raise denial("unpriced", "a line has two prices: which one counts is open")
        each, currency = _each(asked, path, prices[path])
    else:
        each, currency = _inline(line)
    return _up(each * quantity), currency, adjustable


def _each(asked: Asked, path: str, price: Body) -> tuple[Decimal, str]:
    """Return what one unit of a looked-up price costs."""
    recurring = price.get("recurring") or {}
    chosen = price.get("custom_unit_amount")
    usage = recurring.get("usage_type") or price.get("usage_type")
    if price.get("billing_scheme") == "tiered" or usage == "metered":
        raise Unbounded(f"{path} is tiered or metered: what it costs is known only later")
    if price.get("id") != path.rpartition("/")[2] or not isinstance(price.get("currency"), str):
        raise not_there(asked.quote.operation, path)
    amounts: list[Any] = [price.get(name) for name in (
        "unit_amount", "unit_amount_decimal", "amount", "amount_decimal")]  # fmt: skip
    said = next((amount for amount in amounts if amount is not None), None)
    if said is None:
        said = chosen.get("maximum") if isinstance(chosen, dict) else None
        if said is None:
            raise Unbounded(f"{path} has no fixed amount")
    return _decimal(str(said)), str(price["currency"])


def _inline(line: Mapping[str, str]) -> tuple[Decimal, str]:
    data = {name: line.get(f"price_data[{name}]") for name in ("currency", "unit_amount",
                                                               "unit_amount_decimal")}  # fmt: skip
    said = [text for text in (data["unit_amount"], data["unit_amount_decimal"]) if text is not None]
    if len(said) != 1 or not data["currency"]:
        raise Unbounded("a line without a price, or with two, has no bound")
    return _decimal(said[0]), data["currency"].lower()


def _decimal(text: str) -> Decimal:
    try:
        if not re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,12})?", text):
            raise InvalidOperation
        return Decimal(text)
    except InvalidOperation:
        raise denial("unpriced", f"{text[:40]!r} is no amount of a currency's smallest unit") from None


def _up(exact: Decimal) -> int:
    return int(-(-exact // 1))


def _no_extras(asked: Asked, *stems: str) -> None:
    for name, value in asked.params.items():
        stem = name.split("[")[0]
        if (stem in stems or name in stems) and value not in ("", "false"):
            raise Unbounded(f"{asked.quote.operation} with {name[:60]} may cost more than its lines")


_TAXES = ("automatic_tax[enabled]", "default_tax_rates")


def subscriptions(asked: Asked) -> Quote:
    """Quote the first invoice: every line's price times its quantity. Later invoices are in no run."""
    _no_extras(asked, *_TAXES, "backdate_start_date", "billing_thresholds")
    minor, currency, _ = cost(asked, "items", "add_invoice_items")
    customer = asked.ids[0] if asked.ids else asked.given(*PAYERS)
    return asked.quoted(asked.money(minor, currency), currency=currency, target=customer, firm=True)


def schedules(asked: Asked) -> Quote:
    """Quote the first phase's first invoice, of a schedule that begins now."""
    if "from_subscription" in asked.params:
        return asked.quoted(None, target=asked.params["from_subscription"])
    if asked.params.get("start_date") != "now":
        raise Unbounded("a schedule that does not begin now may be invoiced for the past")
    if any("tax" in name or "billing_thresholds" in name for name in asked.params):
        raise Unbounded("a schedule with taxes or thresholds may cost more than its lines")
    if not any(name.startswith("phases[0]") for name in asked.params):
        raise Unbounded("a schedule without phases names no lines")
    minor, currency, _ = cost(asked, "phases[0][items]", "phases[0][add_invoice_items]")
    return asked.quoted(asked.money(minor, currency), currency=currency,
                        target=asked.given(*PAYERS), firm=True)  # fmt: skip


def subscription_items(asked: Asked) -> Quote:
    """Quote the item's whole price times its quantity: no proration is more."""
    _no_extras(asked, "tax_rates", "billing_thresholds")
    line = {name: value for name, value in asked.params.items()
            if name.split("[")[0] in ("price", "plan", "price_data", "quantity")}  # fmt: skip
    quote = asked.quoted(None, target=asked.given("subscription"), firm=True)
    if asked.ids:
        path = f"/v1/subscription_items/{asked.ids[0]}"
        # Every change counts in full: what was paid before may come back as credit only.
        quote = asked.quoted(None, target=f"{asked.ids[0]}#{asked.digest[:12]}", look_ups=(path,), firm=True)
        if not line:
            if asked.only("payment_behavior", "proration_behavior", "discounts"):
                return asked.quoted(None, target=f"{asked.ids[0]}#{asked.digest[:12]}")
            raise Unbounded("this change of a subscription item has no bound")
        [item] = asked.fetched(path)
        price = (item.get("price") or item.get("plan") or {}).get("id")
        if not isinstance(price, str):
            raise not_there(asked.quote.operation, path)
        if not line.keys() & {"price", "plan"} and not any(name.startswith("price_data") for name in line):
            line["price"] = price
        line.setdefault("quantity", str(item.get("quantity") or 1))
    as_list = {f"items[0][{name.partition('[')[0]}]{''.join(name.partition('[')[1:])}": value
               for name, value in line.items()}  # fmt: skip
    one = Asked(asked.quote, asked.ids, as_list, asked.found, asked.fx)
    minor, currency, _ = cost(one, "items")
    return replace(quote, total_micros=asked.money(minor, currency), currency=currency)


def sessions(asked: Asked) -> Quote:
    """All lines, each in the highest quantity that may be chosen, and the dearest shipping."""
    target = asked.given(*PAYERS, "customer_email", "client_reference_id")
    if asked.params.get("mode") == "setup":
        return asked.quoted(0, target=target)
    _no_extras(asked, *_TAXES, "optional_items", "subscription_data[default_tax_rates]")
    if any(name.startswith("subscription_data[default_tax_rates]") for name in asked.params):
        raise Unbounded("a subscription with tax rates may cost more than its lines")
    minor, currency, chosen = cost(asked, "line_items")
    shipping = [_shipping(asked, option, currency) for option in groups(asked.params, "shipping_options")]
    minor += max(shipping, default=0)
    return asked.quoted(asked.money(minor, currency), currency=currency, target=target,
                        firm=chosen or len(shipping) > 0)  # fmt: skip


def _shipping(asked: Asked, option: Mapping[str, str], currency: str) -> int:
    if "shipping_rate" in option:
        one = Asked(asked.quote, (), option, {}, asked.fx).id_of("shipping_rate")
        [rate] = asked.fetched(f"/v1/shipping_rates/{one}")
        fixed = rate.get("fixed_amount") or {}
        amount, unit = str(fixed.get("amount")), fixed.get("currency")
    else:
        amount = option.get("shipping_rate_data[fixed_amount][amount]", "")
        unit = option.get("shipping_rate_data[fixed_amount][currency]", "").lower()
    if unit != currency or not re.fullmatch(r"[0-9]{1,12}", amount):
        raise Unbounded("a shipping rate without a fixed amount in the lines' currency has no bound")
    return int(amount)


def quotes(asked: Asked) -> Quote:
    """Quote what the quote says that it comes to, up front or for its first period, whichever is more."""
    path = f"/v1/quotes/{asked.ids[0]}"
    [quote] = asked.fetched(path)
    computed = quote.get("computed") or {}
    amounts = [quote.get("amount_total")] + [
        (computed.get(part) or {}).get("amount_total") for part in ("upfront", "recurring")
    ]
    known = [amount for amount in amounts if isinstance(amount, int) and not isinstance(amount, bool)]
    if quote.get("id") != asked.ids[0] or not known or not isinstance(quote.get("currency"), str):
        raise not_there(asked.quote.operation, path)
    return asked.quoted(asked.money(max(known), str(quote["currency"])), target=asked.ids[0],
                        object_id=asked.ids[0], look_ups=(path,), firm=True)  # fmt: skip
