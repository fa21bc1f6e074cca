"""Lists in a real terminal of 80 to 200 columns, and where there is none."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from luigi_spendguard.cli.tables import CALL_COLUMNS, KEY_COLUMNS, RUN_COLUMNS
from tests.support.asking import Case
from tests.support.site import Site
from tests.support.terminal import in_terminal

WIDTHS = (80, 100, 120, 200)
SHORT = "BillingPipeline_2026_11_24_c4a1a2ab4a"
LONG = "BillingPipeline_2026_11_24_customers_of_the_no_invoices_of_last_c4a1a2ab4b"
WIDE = "請求_2026_11_24_c4a1a2ab4c"
COLUMNS = {"runs": RUN_COLUMNS, "calls": CALL_COLUMNS, "keys": KEY_COLUMNS}
#: What is left of what terminals show, to be looked at.
SHOTS = Path(__file__).parents[2] / "build" / "screenshots"


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with Site(tmp_path_factory.mktemp("terminal")) as site:
        for run_id in (SHORT, LONG, WIDE):
            case = Case(site, run_id)
            case.reserved()
            case.doubted()
        yield site


def shown(site: Site, columns: int, *args: str) -> list[str]:
    """Return the lines that a terminal shows."""
    code, text = in_terminal(site.folder, site.environment(), columns, *args)
    assert code == 0, text
    return text.splitlines()


def cells(line: str) -> int:
    return len(line) + len(re.findall("[請求]", line))


def ids(site: Site, name: str) -> list[str]:
    rows = site.call("GET", {"runs": "/runs", "calls": "/calls", "keys": "/vault/keys"}[name])[1]
    return [row["run_id" if name == "runs" else "id"] for row in rows]


@pytest.mark.parametrize("columns", WIDTHS)
@pytest.mark.parametrize("name", COLUMNS)
def test_ids_are_whole_and_every_line_of_the_table_fits(filled: Site, name: str, columns: int) -> None:
    lines = shown(filled, columns, name)
    SHOTS.mkdir(parents=True, exist_ok=True)
    (SHOTS / f"terminal-{name}-{columns}.txt").write_text("\n".join([*lines, ""]))
    words = [line.split() for line in lines]
    for one in ids(filled, name):
        assert sum(one in line for line in words) == 1, (one, lines)
    assert [line for line in lines if cells(line) > columns] == []
    check_order(COLUMNS[name], lines)


def left_out(lines: list[str]) -> list[str]:
    """Return the headings that are said to have no room; below, the sentence may take two lines."""
    _, _, said = " ".join(lines).partition("Not shown for want of room: ")
    return said.split("; --wide")[0].split(", ") if said else []


def check_order(columns: Any, lines: list[str]) -> None:
    """Look that what is shown and what is not, together, are all columns in their order."""
    headings = [heading for heading, _ in columns]
    dropped = left_out(lines)
    kept = headings[: len(headings) - len(dropped)]
    assert kept + dropped == headings
    assert len(kept) > 1
    heading = lines[0] if len(lines[0].split()) > 1 else lines[0] + lines[1]
    assert heading.split() == " ".join(kept).split()


@pytest.mark.parametrize("columns", [80, 120])
def test_short_ids_leave_room_for_what_counts(filled: Site, columns: int) -> None:
    lines = shown(filled, columns, "runs", "--search", SHORT)
    assert lines[0].split()[:5] == ["run", "status", "cap", "spent", "remaining"]
    assert lines[1].split()[:5] == [SHORT, "in_doubt", "$100.00", "$0.00", "$96.00"]


@pytest.mark.parametrize(
    ("args", "wanted"),
    [
        (("runs", "--status", "in_doubt"), ["status", "in doubt"]),
        (("runs", "--since", "1h"), ["opened"]),
        (("calls", "--state", "in_doubt"), ["state", "asked"]),
        (("calls", "--vendor", "stripe"), ["vendor"]),
        (("calls", "--until", "2099-01-01", "--limit", "1"), ["time"]),
        (("keys", "--run", LONG), ["run"]),
    ],
)
def test_what_a_list_was_asked_for_is_in_it(filled: Site, args: tuple[str, ...], wanted: list[str]) -> None:
    for columns in WIDTHS:
        lines = shown(filled, columns, *args)
        (SHOTS / f"terminal-{'-'.join(one.strip('-') for one in args[:2])}-{columns}.txt").write_text(
            "\n".join([*lines, ""])
        )
        every = [heading for heading, _ in COLUMNS[args[0]]]
        dropped = left_out(lines)
        assert not set(wanted) & set(dropped), lines
        kept = [heading for heading in every if heading not in dropped]
        heading = lines[0] if len(lines[0].split()) > 1 else lines[0] + lines[1]
        assert heading.split() == " ".join(kept).split()
        assert [line for line in lines if cells(line) > columns] == []


@pytest.mark.parametrize("name", COLUMNS)
def test_wide_shows_all_columns_in_any_terminal(filled: Site, name: str) -> None:
    lines = shown(filled, 80, name, "--wide")
    assert lines[0].split() == " ".join(heading for heading, _ in COLUMNS[name]).split()
    assert left_out(lines) == []


@pytest.mark.parametrize("name", COLUMNS)
def test_where_there_is_no_terminal_there_is_everything(filled: Site, name: str) -> None:
    code, out, err = filled.cli(name, COLUMNS="80", TERM="xterm")
    assert (code, err) == (0, "")
    assert "\x1b" not in out
    assert out.splitlines()[0].split() == " ".join(heading for heading, _ in COLUMNS[name]).split()
    for one in ids(filled, name):
        assert any(line.split()[0] == one for line in out.splitlines()[1:])


def test_a_run_is_named_by_its_beginning_and_the_answer_says_which(filled: Site) -> None:
    lines = shown(filled, 80, "run", SHORT[:-4])
    assert lines[0] == f"{SHORT[:-4]} is run {SHORT}."
    assert lines[1].split() == ["run", SHORT]
