"""Stripe: what line items cost: prices named by id are looked up, prices in the request are read.

`items`, `line_items` and `add_invoice_items` are lists of groups such as `items[0][price]=price_1`.
What may be added on top by an unknown amount (tax, usage) is no bound, and refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal, InvalidOperation
from typing import Any

from luigi_spendguard.errors import denial
from luigi_spendguard.vendors.stripe.request import Body, StripeCall, Unbounded, minor_units, not_there, stems

#: How many a customer may choose where the request names no maximum
#: (https://docs.stripe.com/api/checkout/sessions/create, `adjustable_quantity`).
_CHOSEN_AT_MOST = 99
_MOST_EACH = 10**9

#: Keys of a line that do not raise what it costs.
_PLAIN = {
    "price",
    "plan",
    "quantity",
    "metadata",
    "discounts",
    "discountable",
    "period",
    "price_data",
    "adjustable_quantity",
    "id",
    "description",
    "amount",
    "currency",
    "pricing",
    "unit_amount",
    "unit_amount_decimal",
    "type",
}

#: What names a price: a plan is one, too.
_PRICES = ("price", "pricing[price]", "plan")


def read_lines(params: Mapping[str, str], stem: str) -> list[dict[str, str]]:
    """Return the groups of a list parameter, in their order, each by the rest of its names."""
    groups: dict[str, dict[str, str]] = {}
    for name, value in params.items():
        match = re.fullmatch(re.escape(stem) + r"\[([0-9]+)\]\[(\w+)\](.*)", name)
        if match:
            groups.setdefault(match[1], {})[match[2] + match[3]] = value
        elif name == stem or name.startswith(stem + "["):
            raise denial("unpriced", f"{name[:60]!r} cannot be read: send it as the stripe SDK encodes it")
    return list(groups.values())


def as_item(line: Mapping[str, str]) -> dict[str, str]:
    """Return the parameters of a line that stands alone as those of `items[0]`."""
    return {
        f"items[0][{name.partition('[')[0]}]{''.join(name.partition('[')[1:])}": value
        for name, value in line.items()
    }


@dataclass(frozen=True)
class Cost:
    """What lines come to, in minor units of each currency that Stripe may use for all of them.

    `chosen`: the customer may choose less.
    """

    minor: Mapping[str, int]
    chosen: bool = False

    @property
    def certain(self) -> bool:
        """Whether there is one currency in which this can be billed."""
        return len(self.minor) == 1

    def dearest(self, call: StripeCall) -> tuple[int, str]:
        """Return the most it may come to: micro-dollars, and the currency. Raises SpendDenied."""
        if not self.certain:
            call.check_rates(self.minor)
        return max((call.money(minor, currency), currency) for currency, minor in self.minor.items())


def cost_of(call: StripeCall, *stems: str, currency: str | None = None) -> Cost:
    """Return what all lines in `stems` come to; `currency`: the one that will be used, None: not known.

    A price has an amount in each of its `currency_options`, and the payer's own currency may decide which
    (https://docs.stripe.com/products-prices/how-products-and-prices-work#multiple-currencies).
    """
    lines = [line for stem in stems for line in read_lines(call.params, stem)]
    if not lines:
        raise Unbounded(f"{call.quote.operation} names no lines that could be priced")
    paths = [path for line in lines if (path := _price_path(call, line))]
    prices = dict(zip(paths, call.look_up(*paths), strict=True))
    costs = [_line(call, line, prices) for line in lines]
    common = set.intersection(*(set(amounts) for amounts, _ in costs))
    if not common:
        raise Unbounded("lines in several currencies cannot be added up")
    if currency:
        common &= {currency.lower()}
    if not common:
        raise Unbounded("the prices are in another currency than the one asked for")
    minor = {one: sum(amounts[one] for amounts, _ in costs) for one in sorted(common)}
    return Cost(minor, any(adjustable for _, adjustable in costs))


def _price_path(call: StripeCall, line: Mapping[str, str]) -> str:
    for name in _PRICES:
        if name in line:
            return f"/v1/prices/{call.check_id(line[name], name)}?expand%5B%5D=currency_options"
    return ""


def _line(
    call: StripeCall, line: Mapping[str, str], prices: Mapping[str, Body]
) -> tuple[Mapping[str, int], bool]:
    """Return what a line comes to by currency, and whether the customer may choose less of it."""
    odd = sorted(stems(line) - _PLAIN)
    if odd:
        raise Unbounded(f"a line with {odd[0]} may cost more than its price")
    quantity = minor_units(line, "quantity")
    quantity = 1 if quantity is None else quantity
    adjustable = line.get("adjustable_quantity[enabled]", "false") != "false"
    if adjustable:
        most = minor_units(line, "adjustable_quantity[maximum]")
        quantity = max(quantity, _CHOSEN_AT_MOST if most is None else most)
    if quantity > _MOST_EACH:
        raise denial("unpriced", "a quantity is too large to be priced")
    path = _price_path(call, line)
    if path:
        own = any(name.startswith(("price_data", "amount", "unit_amount")) for name in line)
        if own or sum(name in line for name in _PRICES) > 1:
            raise denial("unpriced", "a line has two prices: which one counts is open")
        each = _each(call, path, prices[path])
        adjustable = adjustable or isinstance(prices[path].get("custom_unit_amount"), dict)
    else:
        each = _inline(line)
    return {currency: round_up(one * quantity) for currency, one in each.items()}, adjustable


def _each(call: StripeCall, path: str, price: Body) -> dict[str, Decimal]:
    """Return what one unit of a looked-up price costs in each of its currencies."""
    recurring = price.get("recurring") or {}
    usage = recurring.get("usage_type") or price.get("usage_type")
    if price.get("billing_scheme") == "tiered" or usage == "metered":
        raise Unbounded(f"{path.partition('?')[0]} is tiered or metered: what it costs is known only later")
    own = price.get("currency")
    if price.get("id") != path.partition("?")[0].rpartition("/")[2] or not isinstance(own, str):
        raise not_there(call.quote.operation, path)
    options = {str(name): option for name, option in (price.get("currency_options") or {}).items()}
    others = {name: _amount(path, option) for name, option in options.items() if name != own}
    return {own: _amount(path, price), **others}


def amount_of(price: Body) -> Any:
    """Return the amount of a price, or of one of its currencies; None where it has no fixed one."""
    amounts = (price.get(name) for name in ("unit_amount", "unit_amount_decimal", "amount", "amount_decimal"))
    return next((one for one in amounts if one is not None), None)


def _amount(path: str, price: Body) -> Decimal:
    one, chosen = amount_of(price), price.get("custom_unit_amount")
    if one is None and isinstance(chosen, dict):
        one = chosen.get("maximum")
    if one is None or price.get("tiers"):
        raise Unbounded(f"{path.partition('?')[0]} has no fixed amount")
    return _decimal(str(one))


def _inline(line: Mapping[str, str]) -> dict[str, Decimal]:
    data = {
        name: line.get(f"price_data[{name}]") for name in ("currency", "unit_amount", "unit_amount_decimal")
    }
    amounts = [text for text in (data["unit_amount"], data["unit_amount_decimal"]) if text is not None]
    if len(amounts) != 1 or not data["currency"]:
        raise Unbounded("a line without a price, or with two, has no bound")
    return {data["currency"].lower(): _decimal(amounts[0])}


def _decimal(text: str) -> Decimal:
    try:
        if not re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,12})?", text):
            raise InvalidOperation
        return Decimal(text)
    except InvalidOperation:
        raise denial("unpriced", f"{text[:40]!r} is no amount of a currency's smallest unit") from None


def round_up(exact: Decimal) -> int:
    """Return the next whole number from below; `//` cuts a Decimal off towards zero."""
    return int(exact.to_integral_value(ROUND_CEILING))


def shipping_cost(call: StripeCall, option: Mapping[str, str]) -> dict[str, int]:
    """Return what a shipping option costs in each of its currencies, in minor units."""
    if "shipping_rate" in option:
        one = call.check_id(option["shipping_rate"], "shipping_rate")
        [rate] = call.look_up(f"/v1/shipping_rates/{one}?expand%5B%5D=fixed_amount.currency_options")
        fixed = rate.get("fixed_amount") or {}
        others = fixed.get("currency_options") or {}
        amounts = {str(unit): str(other.get("amount")) for unit, other in others.items()}
        amounts[str(fixed.get("currency"))] = str(fixed.get("amount"))
    else:
        stem = "shipping_rate_data[fixed_amount]"
        others = {match[1]: value for name, value in option.items() if (match := _SHIPPED.fullmatch(name))}
        amounts = {unit.lower(): amount for unit, amount in others.items()}
        amounts[option.get(f"{stem}[currency]", "").lower()] = option.get(f"{stem}[amount]", "")
    return {unit: int(amount) for unit, amount in amounts.items() if re.fullmatch(r"[0-9]{1,12}", amount)}


_SHIPPED = re.compile(r"shipping_rate_data\[fixed_amount\]\[currency_options\]\[(\w+)\]\[amount\]")
