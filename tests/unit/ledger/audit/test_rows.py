"""What is sealed of rows is canonical JSON."""

from __future__ import annotations

import json
from typing import Any

import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from luigi_spendguard.ledger import schema
from luigi_spendguard.ledger.audit import rows
from luigi_spendguard.ledger.audit.rows import canonical, differing

TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
NAMES = st.one_of(TEXTS, st.sampled_from(["a", "\ufb33", "\U0001f600", "\u20ac", "\x7f", "\x1f", "é"]))
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**53) + 1, 2**53 - 1), TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(NAMES, inner, max_size=6)),
    max_leaves=20,
)


@given(VALUES)
def test_it_is_what_rfc_8785_says(value: Any) -> None:
    assert canonical(value).encode() == rfc8785.dumps(value)
    assert json.loads(canonical(value)) == value


#: What changes while a call is asked for and sent, and says nothing of money or of who it was.
NOT_SEALED = {"ask", "sender", "number", "given_up", "granted_at", "timeout_ms", "unknown", "tries"}


def test_each_column_of_a_call_is_sealed_or_is_said_not_to_be() -> None:
    columns = set(schema.CallTable._meta.columns)
    named = rows._OF_CALL | rows._AMOUNTS | rows._DOCUMENTS
    sealed = {name.removeprefix("call.") for name in named if name.startswith("call.")}
    assert columns - sealed == NOT_SEALED
    assert all(f"`{name}`" in (rows.__doc__ or "") for name in NOT_SEALED)


def test_each_column_of_an_entry_is_sealed() -> None:
    columns = set(schema.JournalTable._meta.columns)
    sealed = {*rows._OF_ENTRY, *(f"{name}_micros" for name in ("cap", "spent", "reserved", "overrun"))}
    assert columns == sealed


def test_what_differs_is_said_with_both_values() -> None:
    assert differing({"seq": 1, "a": "x"}, {"a": "y"}) == 'a was "x" and is "y"'
    assert differing({"seq": 1, "a": "x"}, {"a": "x"}) is None
    assert differing({"seq": 1, "a": "x", "b": None}, {"a": "x"}) == "b was null and is null"


def test_a_budget_that_counts_a_call_only_later_lets_nothing_go() -> None:
    assert rows.let_go({"budgets": [1, 2]}, {"budgets": [1, 2, 7]}) is None
    assert rows.let_go({"budgets": [1, 2]}, {"budgets": [2]}) == "budgets was [1,2] and is [2]"
    assert rows.let_go({}, {"budgets": []}) is None, "a text of an earlier version"
