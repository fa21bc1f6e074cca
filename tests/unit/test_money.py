"""Money: exact, integer, and never rounded down where it counts against a cap."""

from __future__ import annotations

import json
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luigi_spendguard.money import (
    MAX_MICROS,
    THREE_DECIMAL,
    ZERO_DECIMAL,
    BadAmount,
    NoRate,
    currency_exponent,
    format_usd,
    parse_usd,
    plain_usd,
    to_micros,
)
from tests.unit import DATA

CURRENCIES = DATA / "stripe-currencies.json"


@pytest.mark.parametrize(
    ("text", "micros"),
    [
        ("300", 300_000_000),
        ("12.50", 12_500_000),
        ("0.0079", 7900),
        ("0", 0),
        (" 5 ", 5_000_000),
        (7, 7_000_000),
        (Decimal("1.12"), 1_120_000),
        ("1000000000", 10**15),
    ],
)
def test_amounts_are_read_exactly(text, micros: int) -> None:
    assert parse_usd(text) == micros


@pytest.mark.parametrize(
    "text",
    [
        "-1",
        "NaN",
        "inf",
        "1e3",
        "",
        " ",
        "1.",
        ".5",
        "1,000",
        "$5",
        "0x10",
        "1_000",
        "0.0000001",
        "1000000001",
        "99999999999999999999",
        "١٢",
        Decimal("NaN"),
        Decimal("-1"),
        Decimal("Infinity"),
        True,
        1.5,
        None,
    ],
)
def test_what_is_no_amount_is_refused_with_advice(text) -> None:
    with pytest.raises(BadAmount) as error:
        parse_usd(text)
    assert "such as" in str(error.value) or "largest" in str(error.value)


@given(st.integers(0, MAX_MICROS))
def test_texts_round_trip(micros: int) -> None:
    assert parse_usd(plain_usd(micros)) == micros
    assert format_usd(micros).replace(",", "").lstrip("$") == plain_usd(micros)


def test_amounts_are_shown_for_people() -> None:
    assert format_usd(1_234_500_000) == "$1,234.50"
    assert format_usd(-7900) == "-$0.0079"
    assert plain_usd(1_000_000) == "1.00"


def test_the_currency_tables_are_the_vendors() -> None:
    said = json.loads(CURRENCIES.read_text())
    # Two of those without a smaller unit are sent with two decimals, whatever else lists them.
    assert sorted(set(said["zero_decimal"]) - {"isk", "ugx"}) == sorted(ZERO_DECIMAL)
    assert sorted(said["three_decimal"]) == sorted(THREE_DECIMAL)


def test_exponents() -> None:
    assert [currency_exponent(c) for c in ("jpy", "usd", "bhd")] == [0, 2, 3]


@pytest.mark.parametrize("currency", ["isk", "ugx", "huf", "twd"])
def test_stripes_special_cases_are_sent_with_two_decimals(currency: str) -> None:
    assert to_micros(500, currency, {currency: Decimal("0.01")}) == 50_000


@pytest.mark.parametrize(
    ("minor", "currency", "micros"),
    [(100, "usd", 1_000_000), (100, "eur", 1_120_000), (100, "jpy", 660_000), (1000, "bhd", 2_650_000)],
)
def test_minor_units_become_micro_dollars(minor: int, currency: str, micros: int) -> None:
    fx = {"eur": Decimal("1.12"), "jpy": Decimal("0.0066"), "bhd": Decimal("2.65")}
    assert to_micros(minor, currency, fx) == micros


@given(
    st.integers(0, 10**9), st.decimals("0.000001", "1000", places=6), st.sampled_from(["eur", "jpy", "bhd"])
)
def test_conversion_never_counts_too_little(minor: int, rate: Decimal, currency: str) -> None:
    exact = Fraction(minor, 10 ** currency_exponent(currency)) * Fraction(rate) * 10**6
    if exact <= MAX_MICROS:
        assert exact <= to_micros(minor, currency, {currency: rate}) < exact + 1


def test_a_currency_without_a_rate_is_not_guessed() -> None:
    with pytest.raises(NoRate, match="spendguard_fx"):
        to_micros(100, "eur", {})


def test_an_amount_out_of_range_is_refused() -> None:
    with pytest.raises(BadAmount):
        to_micros(10**14, "usd", {})
    with pytest.raises(BadAmount):
        to_micros(-1, "usd", {})
