from __future__ import annotations
from collections.abc import Mapping
from decimal import Decimal
from fractions import Fraction
from typing import NewType
Micros = NewType("Micros", int)
MAX_MICROS = 10**15
class BadAmount(ValueError): ...
class NoRate(ValueError): ...
def parse_usd(text):
    import re
    if not re.fullmatch(r"\d{1,12}(\.\d{1,6})?", str(text)): raise BadAmount(f"bad amount {text!r}")
    return Micros(int(Fraction(str(text))*1000000))
def plain_usd(m): return f"{m//10**6}.{m%10**6:06d}".rstrip("0") if m%10**4 else f"{m//10**6}.{m%10**6//10**4:02d}"
def format_usd(m): return "$"+plain_usd(m)
def currency_exponent(c): return 2
def to_micros(minor, currency, fx):
    if currency!="usd": raise NoRate("no rate")
    return Micros(minor*10000)
