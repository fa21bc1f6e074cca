"""Stripe: what line items cost: prices named by id are looked up, prices in the request are read.

`items`, `line_items` and `add_invoice_items` are lists of groups such as `items[0][price]=price_1`.
What may be added on top by an unknown amount (tax, usage) is no bound, and refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import ROUND_CEILING, Decimal, InvalidOperation
from typing import Any

from luigi_spendguard.errors import denial
from luigi_spendguard.vendors.model import Quote
from luigi_spendguard.vendors.stripe.pending import OBJECT_ID, covered, owed, pending
from luigi_spendguard.vendors.stripe.request import PAYERS, Asked, Body, Unbounded, not_there, whole

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

    def dearest(self, asked: Asked) -> tuple[int, str]:
        """Return the most it may come to: micro-dollars, and the currency. Raises SpendDenied."""
        if not self.certain:
            asked.check_rates(self.minor)
        return max((asked.money(minor, currency), currency) for currency, minor in self.minor.items())


def cost(asked: Asked, *stems: str, currency: str | None = None) -> Cost:
    """Return what all lines in `stems` come to; `currency`: the one that will be used, None: not known.

    A price has an amount in each of its `currency_options`, and the payer's own currency may decide which
    (https://docs.stripe.com/products-prices/how-products-and-prices-work#multiple-currencies).
    """
    lines = [line for stem in stems for line in groups(asked.params, stem)]
    if not lines:
        raise Unbounded(f"{asked.quote.operation} names no lines that could be priced")
    paths = [path for line in lines if (path := _price_path(asked, line))]
    prices = dict(zip(paths, asked.fetched(*paths), strict=True))
    read = [_line(asked, line, prices) for line in lines]
    common = set.intersection(*(set(amounts) for amounts, _ in read))
    if not common:
        raise Unbounded("lines in several currencies cannot be added up")
    if currency:
        common &= {currency.lower()}
    if not common:
        raise Unbounded("the prices are in another currency than the one asked for")
    minor = {one: sum(amounts[one] for amounts, _ in read) for one in sorted(common)}
    return Cost(minor, any(adjustable for _, adjustable in read))


def _price_path(asked: Asked, line: Mapping[str, str]) -> str:
    for name in _PRICES:
        if name in line:
            one = Asked(asked.quote, (), line, {}, asked.fx).id_of(name)
            return f"/v1/prices/{one}?expand%5B%5D=currency_options"
    return ""


def _line(
    asked: Asked, line: Mapping[str, str], prices: Mapping[str, Body]
) -> tuple[Mapping[str, int], bool]:
    """Return what a line comes to by currency, and whether the customer may choose less of it."""
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
        own = any(name.startswith(("price_data", "amount", "unit_amount")) for name in line)
        if own or sum(name in line for name in _PRICES) > 1:
            raise denial("unpriced", "a line has two prices: which one counts is open")
        each = _each(asked, path, prices[path])
        adjustable = adjustable or isinstance(prices[path].get("custom_unit_amount"), dict)
    else:
        each = _inline(line)
    return {currency: up(one * quantity) for currency, one in each.items()}, adjustable


def _each(asked: Asked, path: str, price: Body) -> dict[str, Decimal]:
    """Return what one unit of a looked-up price costs in each of its currencies."""
    recurring = price.get("recurring") or {}
    usage = recurring.get("usage_type") or price.get("usage_type")
    if price.get("billing_scheme") == "tiered" or usage == "metered":
        raise Unbounded(f"{path.partition('?')[0]} is tiered or metered: what it costs is known only later")
    own = price.get("currency")
    if price.get("id") != path.partition("?")[0].rpartition("/")[2] or not isinstance(own, str):
        raise not_there(asked.quote.operation, path)
    options = {str(name): option for name, option in (price.get("currency_options") or {}).items()}
    found = {name: _amount(path, option) for name, option in options.items() if name != own}
    return {own: _amount(path, price), **found}


def _amount(path: str, said: Body) -> Decimal:
    """Return the amount of a price, or of one of its currencies."""
    amounts: list[Any] = [
        said.get(name) for name in ("unit_amount", "unit_amount_decimal", "amount", "amount_decimal")
    ]
    chosen = said.get("custom_unit_amount")
    amounts.append(chosen.get("maximum") if isinstance(chosen, dict) else None)
    one = next((amount for amount in amounts if amount is not None), None)
    if one is None or said.get("tiers"):
        raise Unbounded(f"{path.partition('?')[0]} has no fixed amount")
    return _decimal(str(one))


def _inline(line: Mapping[str, str]) -> dict[str, Decimal]:
    data = {
        name: line.get(f"price_data[{name}]") for name in ("currency", "unit_amount", "unit_amount_decimal")
    }
    said = [text for text in (data["unit_amount"], data["unit_amount_decimal"]) if text is not None]
    if len(said) != 1 or not data["currency"]:
        raise Unbounded("a line without a price, or with two, has no bound")
    return {data["currency"].lower(): _decimal(said[0])}


def _decimal(text: str) -> Decimal:
    try:
        if not re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,12})?", text):
            raise InvalidOperation
        return Decimal(text)
    except InvalidOperation:
        raise denial("unpriced", f"{text[:40]!r} is no amount of a currency's smallest unit") from None


def up(exact: Decimal) -> int:
    """Return the next whole number from below; `//` cuts a Decimal off towards zero."""
    return int(exact.to_integral_value(ROUND_CEILING))


def _no_tax(asked: Asked) -> None:
    """Raise Unbounded where Stripe adds taxes by itself; rates in the request are refused before this."""
    for name, value in asked.params.items():
        if re.search(r"automatic_tax\]?\[enabled\]$", name) and value != "false":
            raise Unbounded(f"{asked.quote.operation} with {name} may cost more than its lines")


def subscriptions(asked: Asked) -> Quote:
    """Quote the first invoice: every line, and what is pending. Later invoices are in no run."""
    _no_tax(asked)
    lines = cost(asked, "items", "add_invoice_items", currency=asked.params.get("currency"))
    payer = ("customer", asked.ids[0]) if asked.ids else asked.payer()
    return at_once(asked, lines, payer, target=payer and payer[1])


def at_once(
    asked: Asked, lines: Cost, payer: tuple[str, str] | None, subscription: str = "", **more: Any
) -> Quote:
    """Quote an invoice that is made at once: its lines, and what it takes along of its payer.

    Of the currencies that are possible the dearest counts, whatever of it is counted already.
    """
    waiting = [one for one in pending(asked, payer) if one.subscription in ("", subscription)]
    along = {unit: [one for one in waiting if one.currency == unit] for unit in lines.minor}
    debt = owed(asked, payer)
    minor = {
        unit: own + sum(one.minor for one in along[unit]) + debt.get(unit, 0)
        for unit, own in lines.minor.items()
    }
    total, unit = Cost(minor).dearest(asked)
    covers = covered(along[unit]) if lines.certain else ()
    return asked.quoted(total, currency=unit, firm=True, covers=covers, **more)


def schedules(asked: Asked) -> Quote:
    """Quote the first phase's first invoice, of a schedule that begins now.

    Where a phase ends at a time of the caller's (a second from now if need be), the next one is quoted, too.
    """
    if "from_subscription" in asked.params:
        return asked.quoted(None, target=asked.params["from_subscription"])
    if asked.params.get("start_date") != "now":
        raise Unbounded("a schedule that does not begin now may be invoiced for the past")
    _no_tax(asked)
    if not any(name.startswith("phases[0]") for name in asked.params):
        raise Unbounded("a schedule without phases names no lines")
    last = 0
    while f"phases[{last}][end_date]" in asked.params:
        last += 1
    phases = [f"phases[{number}]" for number in range(last + 1)]
    phases = [one for one in phases if any(name.startswith(one) for name in asked.params)]
    currencies = {asked.params[f"{one}[currency]"] for one in phases if f"{one}[currency]" in asked.params}
    if len(currencies) > 1:
        raise Unbounded("phases in several currencies cannot be added up")
    stems = [f"{one}[{list_}]" for one in phases for list_ in ("items", "add_invoice_items")]
    lines = cost(asked, *stems, currency=min(currencies, default=None))
    return at_once(asked, lines, asked.payer(), target=asked.given(*PAYERS))


def owner(body: Body) -> tuple[str, str] | None:
    """Return whose an object is, as (the parameter's name, the id)."""
    for name in PAYERS[:2]:
        one = body.get(name)
        one = one.get("id") if isinstance(one, dict) else one
        if isinstance(one, str) and OBJECT_ID.fullmatch(one):
            return name, one
    return None


def sessions(asked: Asked) -> Quote:
    """All lines, each in the highest quantity that may be chosen, the dearest shipping, what is pending."""
    target = asked.given(*PAYERS, "customer_email", "client_reference_id")
    mode = asked.params.get("mode")
    if mode == "setup":
        return asked.quoted(0, target=target)
    _no_tax(asked)
    lines = cost(asked, "line_items", currency=asked.params.get("currency"))
    options = [shipping(asked, option) for option in groups(asked.params, "shipping_options")]
    shipped = {
        unit: own + max((option[unit] for option in options), default=0)
        for unit, own in lines.minor.items()
        if all(unit in option for option in options)
    }
    if not shipped:
        raise Unbounded("a shipping rate without a fixed amount in the lines' currency has no bound")
    whole_cost = Cost(shipped, lines.chosen)
    if mode != "payment":  # Where none is said the prices may decide.
        # An expired session gives back what it counts for; the items would then be pending as before.
        return replace(at_once(asked, whole_cost, asked.payer(), target=target), covers=())
    total, unit = whole_cost.dearest(asked)
    # On its page the customer chooses, takes a code off, or pays in the currency of the own address.
    coded = any(name.startswith("discounts") for name in asked.params)
    firm = lines.chosen or len(options) > 0 or coded or not whole_cost.certain
    return asked.quoted(total, currency=unit, target=target, firm=firm)


def shipping(asked: Asked, option: Mapping[str, str]) -> dict[str, int]:
    """Return what a shipping option costs in each of its currencies, in minor units."""
    if "shipping_rate" in option:
        one = Asked(asked.quote, (), option, {}, asked.fx).id_of("shipping_rate")
        [rate] = asked.fetched(f"/v1/shipping_rates/{one}?expand%5B%5D=fixed_amount.currency_options")
        fixed = rate.get("fixed_amount") or {}
        others = fixed.get("currency_options") or {}
        said = {str(unit): str(other.get("amount")) for unit, other in others.items()}
        said[str(fixed.get("currency"))] = str(fixed.get("amount"))
    else:
        stem = "shipping_rate_data[fixed_amount]"
        others = {match[1]: value for name, value in option.items() if (match := _SHIPPED.fullmatch(name))}
        said = {unit.lower(): amount for unit, amount in others.items()}
        said[option.get(f"{stem}[currency]", "").lower()] = option.get(f"{stem}[amount]", "")
    return {unit: int(amount) for unit, amount in said.items() if re.fullmatch(r"[0-9]{1,12}", amount)}


_SHIPPED = re.compile(r"shipping_rate_data\[fixed_amount\]\[currency_options\]\[(\w+)\]\[amount\]")


def quotes(asked: Asked) -> Quote:
    """Quote what the quote comes to, up front or for its first period, whichever is more; what is pending.

    With a trial both are billed: what is due up front, and the first period when the trial is over.
    """
    path = f"/v1/quotes/{asked.ids[0]}"
    [quote] = asked.fetched(path)
    computed = quote.get("computed") or {}
    upfront, recurring = ((computed.get(part) or {}).get("amount_total") for part in ("upfront", "recurring"))
    amounts = [quote.get("amount_total"), upfront, recurring]
    if (quote.get("subscription_data") or {}).get("trial_period_days"):
        amounts.append((upfront or 0) + (recurring or 0))
    known = [amount for amount in amounts if isinstance(amount, int) and not isinstance(amount, bool)]
    if quote.get("id") != asked.ids[0] or not known or not isinstance(quote.get("currency"), str):
        raise not_there(asked.quote.operation, path)
    return at_once(
        asked,
        Cost({quote["currency"]: max(known)}),
        owner(quote),
        target=asked.ids[0],
        object_id=asked.ids[0],
        look_ups=(path,),
    )
