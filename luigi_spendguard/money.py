"""Money: an `int` of micro-dollars inside; decimal texts and vendors' minor units at the edges.

1 USD = 1_000_000 micro-dollars. There is no float anywhere. How many decimals a currency's minor unit
has is what https://docs.stripe.com/currencies says of Stripe's API, its special cases included: not ISO 4217.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from fractions import Fraction
from typing import NewType

#: An amount in micro-dollars.
Micros = NewType("Micros", int)

MICROS_PER_USD = 1_000_000

#: The largest amount accepted anywhere, $1,000,000,000 in micro-dollars.
MAX_MICROS = Micros(10**15)

_USD = re.compile(r"[0-9]{1,10}(?:\.[0-9]{1,6})?", re.ASCII)

#: Currencies whose smallest unit is the unit (https://docs.stripe.com/currencies#zero-decimal). ISK and UGX,
#: which have no smaller one, are sent with two decimals all the same: 5 ISK are 500. HUF and TWD have two
#: decimals as well; only their payouts have to be whole, so that they count alike
#: (https://docs.stripe.com/currencies#special-cases).
ZERO_DECIMAL = frozenset(
    ["bif", "clp", "djf", "gnf", "jpy", "kmf", "krw", "mga", "pyg", "rwf", "vnd", "vuv", "xaf", "xof", "xpf"]
)
#: Currencies with thousandths, the last digit of which is 0 (https://docs.stripe.com/currencies#three-decimal).
THREE_DECIMAL = frozenset(["bhd", "jod", "kwd", "omr", "tnd"])


class BadAmount(ValueError):
    """A text or number is no amount of USD; the message says which are."""


class NoRate(ValueError):
    """A currency has no rate in `[spendguard_fx]`."""


def parse_usd(value: str | int | Decimal) -> Micros:
    """Return an amount of USD such as `"300"` or `"12.50"` in micro-dollars.

    At most six decimals, nothing negative, no exponent, no float. Raises BadAmount.
    """
    if isinstance(value, bool) or not isinstance(value, (str, int, Decimal)):
        raise BadAmount(f"an amount must be a decimal text such as 12.50, not a {type(value).__name__}")
    text = format(value, "f") if isinstance(value, Decimal) else str(value).strip()
    if re.fullmatch(r"[0-9]{11,}(\.[0-9]+)?", text, re.ASCII):
        raise BadAmount(f"{text[:40]} is more than the largest amount, {format_usd(MAX_MICROS)}")
    if not _USD.fullmatch(text):
        raise BadAmount(
            f"{text[:40]!r} is no amount of USD: write digits with at most six decimals, such as 300 or 12.50"
        )
    micros = int(Fraction(text) * MICROS_PER_USD)
    if micros > MAX_MICROS:
        raise BadAmount(f"{text[:40]} is more than the largest amount, {format_usd(MAX_MICROS)}")
    return Micros(micros)


def plain_usd(micros: int) -> str:
    """Return micro-dollars as a decimal text with two to six decimals, such as `"1234.50"`."""
    sign, rest = ("-", -micros) if micros < 0 else ("", micros)
    whole, part = divmod(rest, MICROS_PER_USD)
    digits = f"{part:06d}"
    return f"{sign}{whole}.{digits[:2]}{digits[2:].rstrip('0')}"


def micros_of(usd: str) -> int:
    """Return what `plain_usd` has written in micro-dollars, with its sign."""
    whole, _, part = usd.lstrip("-").partition(".")
    micros = int(whole) * MICROS_PER_USD + int(part.ljust(6, "0"))
    return -micros if usd.startswith("-") else micros


def format_usd(micros: int) -> str:
    """Return micro-dollars for people, such as `"$1,234.50"`."""
    text = plain_usd(abs(micros))
    whole, _, part = text.partition(".")
    return f"{'-' if micros < 0 else ''}${int(whole):,}.{part}"


def with_fees(price: int, fees: int, quoted: int) -> int:
    """Return what to book for a `price` that may or may not contain the `fees` that were `quoted` with it.

    All in micro-dollars. A price beyond the quote is what is billed; the fees are not booked once more.
    """
    return min(price + fees, max(price, quoted)) if price else 0


def currency_exponent(currency: str) -> int:
    """Return how many decimals a currency's minor unit stands for at Stripe: 0, 2 or 3."""
    if currency in ZERO_DECIMAL:
        return 0
    return 3 if currency in THREE_DECIMAL else 2


def to_micros(minor: int, currency: str, fx: Mapping[str, Decimal]) -> Micros:
    """Return `minor` units of a currency (lower case) in micro-dollars, rounded up.

    `fx`: USD for one unit of each currency but USD. Raises NoRate, BadAmount (out of range).
    """
    if currency == "usd":
        micros = minor * (MICROS_PER_USD // 100)
    elif currency in fx:
        exact = Fraction(minor, 10 ** currency_exponent(currency)) * Fraction(fx[currency]) * MICROS_PER_USD
        micros = -(-exact.numerator // exact.denominator)
    else:
        raise NoRate(
            f"the currency {currency[:10]!r} has no rate: set it in [spendguard_fx] as USD for one unit"
        )
    if not 0 <= micros <= MAX_MICROS:
        raise BadAmount(f"{minor} {currency[:10]} is out of range")
    return Micros(micros)
