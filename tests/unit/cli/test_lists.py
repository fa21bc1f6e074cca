"""Cells of a CSV: names come from pipelines, and spreadsheets take some for formulas."""

from __future__ import annotations

import pytest

from luigi_spendguard.cli.lists import _cell


@pytest.mark.parametrize(
    "text",
    ["=1+1", "@SUM(A1)", "+1+cmd", "-1+cmd", " =1+1", "  @x", "\uff1d1+1", "\uff0b1", "\uff0d1", "\uff20x"],
)
def test_no_cell_begins_as_a_formula_does(text: str) -> None:
    assert _cell({"target": text}, "target") == f"'{text}"


@pytest.mark.parametrize("text", ["cus_1", "+491701234567", "-1.50", "a=b", " a", "2026-11-24"])
def test_what_is_none_stays_as_it_is(text: str) -> None:
    assert _cell({"target": text}, "target") == text
