"""How many segments a text is billed as; the cases are those of Twilio's own calculator (1.3.0)."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luigi_spendguard.vendors.twilio import prices
from luigi_spendguard.vendors.twilio.prices import MAX_SEGMENTS, count_segments, count_units
from tests.support import fake_twilio_traffic
from tests.unit import DATA

TABLE = json.loads((DATA / "sms-gsm7.json").read_text("utf-8"))
EMOJI = "\U0001f600"


def test_the_alphabet_is_the_standards() -> None:
    assert frozenset(TABLE["basic"]) == prices._BASIC
    assert frozenset(TABLE["extension"]) == prices._EXTENSION


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 1),
        ("a" * 160, 1),
        ("a" * 161, 2),
        ("a" * 306, 2),
        ("a" * 307, 3),
        ("a" * 1600, 11),
        ("]" * 80, 1),
        ("]" * 81, 2),
        ("]" * 152, 2),
        ("]" * 153, 3),
        ("]" * 1600, 22),
        ("a" * 152 + "]" + "a" * 152, 3),  # The bracket never straddles two parts.
        ("ж" * 70, 1),
        ("ж" * 71, 2),
        ("ж" * 134, 2),
        ("ж" * 135, 3),
        ("ж" * 1600, 24),
        (EMOJI * 35, 1),
        (EMOJI * 36, 2),
        (EMOJI * 66, 2),
        (EMOJI * 67, 3),
        (EMOJI * 800, MAX_SEGMENTS),
        ("\r\n" * 80, 1),
        ("\r\n" * 81, 2),
        ("`" + "a" * 70, 2),
        ("ç" * 71, 2),
        ("Ç" * 71, 1),
        ("]" + "ж" * 69, 1),  # An extension character is one unit in UCS-2.
    ],
)
def test_segments(text: str, count: int) -> None:
    assert count_segments(text) == count


def test_smart_encoding_may_make_a_text_longer() -> None:
    assert count_segments("…" * 70) == 1
    assert count_segments("…" * 70, smart=True) >= 2
    assert count_segments("\t" * 60, smart=True) >= 3
    assert count_segments("a" * 161, smart=True) == 2


@given(
    st.text(alphabet=st.one_of(st.characters(codec="utf-8"), st.sampled_from("a]ж…\t" + EMOJI)), max_size=400)
)
def test_the_vendors_own_count_is_ours(text: str) -> None:
    assert count_segments(text) == fake_twilio_traffic.segments(text)
    assert count_segments(text, smart=True) >= count_segments(text)
    assert count_units(text) == len(text.encode("utf-16-le")) // 2
