"""A table fits into its terminal, or says what has no room; an id is never folded or cut."""

from __future__ import annotations

from typing import Any

import pytest

from luigi_spendguard.cli.tables import CALL_COLUMNS, KEY_COLUMNS, RUN_COLUMNS, Column, table_lines
from tests.unit.test_house import doc

COLUMNS: list[Column] = [
    ("id", lambda row: row["id"]),
    ("state", lambda row: row["state"]),
    ("spent", lambda row: row["spent"]),
    ("task", lambda row: row["task"]),
    ("note", lambda row: row["note"]),
]


def row(**more: Any) -> dict[str, Any]:
    return {"id": "a-run", "state": "active", "spent": "$1.00", "task": "Charge", "note": "n" * 20} | more


def test_without_a_width_there_is_everything() -> None:
    lines, dropped = table_lines([row(id="i" * 300), row()], COLUMNS, None)
    assert dropped == []
    assert lines[0].split() == ["id", "state", "spent", "task", "note"]
    assert lines[1].split() == ["i" * 300, "active", "$1.00", "Charge", "n" * 20]


@pytest.mark.parametrize(
    ("width", "shown"),
    [(46 + 4, 5), (46 + 3, 4), (28, 4), (27, 3)],
)
def test_columns_go_from_the_right_until_the_rest_fits(width: int, shown: int) -> None:
    headings = [heading for heading, _ in COLUMNS]
    lines, dropped = table_lines([row()], COLUMNS, width)
    kept = [word for line in lines[0].splitlines() for word in line.split()]
    assert dropped == headings[len(kept) :]
    if shown > 3:
        assert kept == headings[:shown]
        assert max(map(len, lines)) <= width
    else:
        # Its own line gives the id's room to the others.
        assert lines[1].splitlines()[0] == "a-run"


def test_an_id_that_leaves_no_room_has_its_own_line() -> None:
    lines, dropped = table_lines([row(id="i" * 70), row(id="j" * 90)], COLUMNS, 40)
    assert dropped == ["note"]
    assert lines[0].splitlines() == ["id", "  state   spent  task"]
    assert lines[1].splitlines() == ["i" * 70, "  active  $1.00  Charge"]
    assert lines[2].splitlines()[0] == "j" * 90


def test_an_id_whose_own_line_makes_no_room_stays_in_the_row() -> None:
    lines, dropped = table_lines([row(spent="$" * 90)], COLUMNS, 40)
    assert lines == ["id     state", "a-run  active"]
    assert dropped == ["spent", "task", "note"]


def test_a_terminal_of_nothing_shows_ids_and_the_first_figure() -> None:
    lines, dropped = table_lines([row()], COLUMNS, 1)
    assert lines[1].splitlines() == ["a-run", "  active"]
    assert dropped == ["spent", "task", "note"]


@pytest.mark.parametrize("width", [46, 40, 35])
def test_what_was_asked_for_stays_and_the_order_too(width: int) -> None:
    lines, dropped = table_lines([row()], COLUMNS, width, ["note"])
    kept = lines[0].split()
    assert kept[0] == "id"
    assert kept[-1] == "note"
    assert sorted(kept + dropped) == sorted(heading for heading, _ in COLUMNS)
    assert max(len(part) for line in lines for part in line.splitlines()) <= width


def test_an_id_that_leaves_no_room_for_what_was_asked_for_has_its_own_line() -> None:
    lines, dropped = table_lines([row(id="i" * 40)], COLUMNS, 50, ["task", "note"])
    assert lines[0].splitlines() == ["id", "  state   spent  task    note"]
    assert dropped == []
    lines, dropped = table_lines([row(id="i" * 40)], COLUMNS, 36, ["task", "note"])
    assert lines[0].splitlines() == ["id", "  task    note"]
    assert dropped == ["state", "spent"]


def test_amounts_stand_at_the_right() -> None:
    lines, _ = table_lines([row(), row(spent="$1,000.00")], COLUMNS, None)
    assert lines[1].index("$1.00") + len("$1.00") == lines[2].index("$1,000.00") + len("$1,000.00")


def test_wide_characters_count_for_what_they_take() -> None:
    lines, _ = table_lines([row(id="請求書"), row(id="abcdef")], COLUMNS, None)
    assert lines[1].index("active") == 3 + 2, "three characters of two cells"
    assert lines[2].index("active") == 6 + 2


def test_control_characters_are_not_shown() -> None:
    lines, _ = table_lines([row(task="a\x1b[31m\nb")], COLUMNS, None)
    assert "a?[31m?b" in lines[1]
    assert "\n" not in lines[1]


@pytest.mark.parametrize(
    ("name", "columns"), [("runs", RUN_COLUMNS), ("calls", CALL_COLUMNS), ("keys", KEY_COLUMNS)]
)
def test_the_docs_state_the_order(name: str, columns: list[Column]) -> None:
    order = ", ".join(heading for heading, _ in columns)
    assert f"| `{name}` | {order} |" in doc("cli.md")
