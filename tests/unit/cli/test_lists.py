"""No cell of a CSV is a formula, for names come from pipelines; and what a filter is about."""

from __future__ import annotations

import click
import pytest

from luigi_spendguard.cli import keys, queries
from luigi_spendguard.cli.lists import CALLS, KEYS, RUNS, Listed, Output, cell_of, list_options
from luigi_spendguard.protocol import CALL_STATES, RUN_STATUSES


@pytest.mark.parametrize(
    "text",
    ["=1+1", "@SUM(A1)", "+1+cmd", "-1+cmd", " =1+1", "  @x", "\uff1d1+1", "\uff0b1", "\uff0d1", "\uff20x"],
)
def test_no_cell_begins_as_a_formula_does(text: str) -> None:
    assert cell_of({"target": text}, "target") == f"'{text}"


@pytest.mark.parametrize("text", ["cus_1", "+491701234567", "-1.50", "a=b", " a", "2026-11-24"])
def test_what_is_none_stays_as_it_is(text: str) -> None:
    assert cell_of({"target": text}, "target") == text


@list_options
def nothing(output: Output) -> None:
    """Do nothing: it has the options of every list alone."""


OF_EVERY_LIST = {option.name for option in click.command(nothing).params}


@pytest.mark.parametrize(
    ("command", "what"), [(queries.runs, RUNS), (queries.calls, CALLS), (keys.keys, KEYS)]
)
def test_every_filter_says_which_columns_it_is_about(command: click.Command, what: Listed) -> None:
    filters = {str(option.name) for option in command.params} - OF_EVERY_LIST
    assert filters == {name for name in what.about if "=" not in name}
    headings = {heading for heading, _ in what.columns}
    assert {heading for about in what.about.values() for heading in about} <= headings
    values = {"runs": ("status", RUN_STATUSES), "calls": ("state", CALL_STATES), "keys": ("", ())}
    name, said = values[what.noun]
    assert {about for about in what.about if "=" in about} == {f"{name}={one}" for one in said}


def run(**more: str) -> dict[str, str]:
    return {"run_id": "nightly-1", "root_family": "Nightly", "label": ""} | more


@pytest.mark.parametrize(
    ("rows", "wanted"),
    [
        ([run()], []),
        ([run(run_id="x")], ["root"]),
        ([run(), run(run_id="y", root_family="Other", label="by nIGHtly")], ["label"]),
    ],
)
def test_a_search_is_about_the_columns_that_have_its_text(
    rows: list[dict[str, str]], wanted: list[str]
) -> None:
    assert RUNS.asked_for({"search": "nightLY", "status": None}, rows) == wanted


def test_a_status_is_about_what_it_says() -> None:
    assert RUNS.asked_for({"status": "held", "search": None, "since": "1"}, []) == [
        "status",
        "opened",
        "forecast",
    ]
