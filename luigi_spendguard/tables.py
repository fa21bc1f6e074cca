"""How runs and calls are shown in a terminal."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from luigi_spendguard.money import format_usd, parse_usd

#: A line of a table: its heading, and what it shows of an object of the API.
Column = tuple[str, Callable[[Mapping[str, Any]], str]]


def show(rows: Sequence[Mapping[str, Any]], columns: Sequence[Column], form: str, empty: str) -> None:
    """Print rows as a table or as JSON; `empty` is said when there are none."""
    if form == "json":
        click.echo(json.dumps(rows, indent=2))
        return
    if not rows:
        click.echo(empty)
        return
    table = Table(box=None, pad_edge=False)
    for heading, _ in columns:
        money = heading in _MONEY
        table.add_column(heading, justify="right" if money else "left", no_wrap=money, overflow="fold")
    for row in rows:
        # Names come from pipelines and vendors: no markup, no control characters.
        table.add_row(*(plain(show(row)) for _, show in columns))
    console = Console(markup=False, highlight=False, emoji=False)
    if not console.is_terminal:
        console = Console(markup=False, highlight=False, emoji=False, width=250)
    console.print(table)


def plain(text: str) -> str:
    """Return a text without control characters: names come from pipelines and vendors."""
    return "".join(c if c.isprintable() else "?" for c in text)


_MONEY = ("cap", "spent", "reserved", "in doubt", "remaining", "overrun", "asked")


def money_of(name: str) -> Callable[[Mapping[str, Any]], str]:
    """Return what shows an amount of an API object."""
    return lambda row: format_usd(parse_usd(row[f"{name}_usd"]))


def time_of(name: str) -> Callable[[Mapping[str, Any]], str]:
    """Return what shows a time of an API object."""

    def shown(row: Mapping[str, Any]) -> str:
        if not row.get(name):
            return ""
        return datetime.fromtimestamp(row[name] / 1000, timezone.utc).strftime("%Y-%m-%d %H:%M:%SZ")

    return shown


def _caps_of(key: Mapping[str, Any]) -> str:
    said = [(key["run_usd_cap"], "in all"), (key["daily_usd_cap"], "a day")]
    return ", ".join(f"{format_usd(parse_usd(cap))} {when}" for cap, when in said if cap is not None)


KEY_COLUMNS: Sequence[Column] = (
    ("key", lambda key: key["id"]),
    ("run", lambda key: key["run_id"]),
    ("task", lambda key: key["task_id"]),
    ("vendor", lambda key: key["vendor"] or "every"),
    ("state", lambda key: key["state"]),
    ("caps", _caps_of),
    (
        "allowed",
        lambda key: ", ".join(key["allowed_endpoints"] + key["allowed_customers"] + key["allowed_accounts"]),
    ),
    ("expires", lambda key: key["expires_at"] or ""),
)


def forecast_of(run: Mapping[str, Any]) -> str:
    """Return a run's forecast, and how sure it is."""
    if run["forecast_usd"] is None:
        return ""
    text = format_usd(parse_usd(run["forecast_usd"]))
    text += " (partly estimated)" if run["estimated_usd"] != "0.00" else ""
    return text + (f" + {run['unknown_tasks']} unknown" if run["unknown_tasks"] else "")


RUN_COLUMNS: Sequence[Column] = (
    ("run", lambda run: run["run_id"]),
    ("root", lambda run: run["root_family"]),
    ("state", lambda run: run["state"]),
    ("cap", money_of("cap")),
    ("spent", money_of("spent")),
    ("reserved", money_of("reserved")),
    ("in doubt", money_of("in_doubt")),
    ("remaining", money_of("remaining")),
    ("overrun", money_of("overrun")),
    ("forecast", forecast_of),
    ("denied", lambda run: str(run["denied_calls"])),
    ("opened", time_of("opened_at")),
)

CALL_COLUMNS: Sequence[Column] = (
    ("call", lambda call: call["id"]),
    ("time", time_of("created_at")),
    ("task", lambda call: call["task_id"] or ""),
    ("operation", lambda call: call["operation"]),
    ("target", lambda call: call["target"] or ""),
    ("verdict", lambda call: call["verdict"]),
    ("state", lambda call: call["state"] or ""),
    ("asked", money_of("asked")),
    ("spent", money_of("spent")),
    ("object", lambda call: call["object_id"] or ""),
)
