"""How runs and calls are shown in a terminal."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from typing import IO, Any

import click

from luigi_spendguard.money import format_usd, parse_usd

#: A line of a table: its heading, and what it shows of an object of the API.
Column = tuple[str, Callable[[Mapping[str, Any]], str]]
#: Blocked tasks that are listed one by one, for each reason.
LISTED = 20
#: Headings of columns of amounts.
_MONEY = ("cap", "spent", "reserved", "in doubt", "remaining", "overrun", "asked")


def show(rows: Sequence[Mapping[str, Any]], columns: Sequence[Column], form: str, empty: str) -> None:
    """Print rows as a table or as JSON; `empty` is said when there are none."""
    if form == "json":
        click.echo(json.dumps(rows, indent=2))
        return
    if not rows:
        click.echo(empty)
        return
    # Late: it takes longer to load than all the rest here, and most commands show no table.
    from rich.console import Console
    from rich.table import Table

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


def _spent(call: Mapping[str, Any]) -> str:
    """Return what a call has cost within its reservation, and beyond it."""
    over = parse_usd(call["overrun_usd"])
    return money_of("spent")(call) + (f" + {format_usd(over)} overrun" if over else "")


def _corrections(call: Mapping[str, Any]) -> str:
    """Return how a call's amount was corrected, or that its price is still to come."""
    made = [f"{one['usd']} ({one['note']})" for one in call.get("corrections", ())]
    return plain("; ".join([*made, *(["price to come"] if call.get("estimated") else [])]))


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
    caps = [(key["run_usd_cap"], "in all"), (key["daily_usd_cap"], "a day")]
    return ", ".join(f"{format_usd(parse_usd(cap))} {when}" for cap, when in caps if cap is not None)


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
    if run["estimated_usd"] == run["forecast_usd"] != "0.00":
        text += " (estimated)"
    elif run["estimated_usd"] != "0.00":
        text += " (partly estimated)"
    return text + (f" + {run['unknown_tasks']} unknown" if run["unknown_tasks"] else "")


RUN_COLUMNS: Sequence[Column] = (
    ("run", lambda run: run["run_id"]),
    ("root", lambda run: run["root_family"]),
    ("status", lambda run: run["status"]),
    ("cap", money_of("cap")),
    ("spent", money_of("spent")),
    ("reserved", money_of("reserved")),
    ("in doubt", money_of("in_doubt")),
    ("remaining", money_of("remaining")),
    ("overrun", money_of("overrun")),
    ("forecast", forecast_of),
    ("blocked", lambda run: str(sum(run["blocked_tasks"].values()))),
    ("denied", lambda run: str(run["denied_calls"])),
    ("opened", time_of("opened_at")),
)


def run_lines(run: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines that `spendguard run` shows."""
    for heading, text in RUN_COLUMNS:
        yield f"{heading:10} {plain(text(run))}"
    if run["shadow_calls"]:
        enough = format_usd(parse_usd(run["sufficient_cap_usd"]))
        yield f"{'shadow':10} {run['shadow_calls']} calls were let through; {enough} would have sufficed"
    for budget in run["budgets"]:
        yield plain(
            f"{budget['scope']:10} {budget['part']}: cap {money_of('cap')(budget)}, "
            f"spent {money_of('spent')(budget)}, remaining {money_of('remaining')(budget)}"
        )
    if run["in_doubt_calls"]:
        yield plain(
            f"{'in doubt':10} `spendguard calls --run {run['run_id']}` shows each call; `spendguard resolve "
            "CALL` ends it, after a look at the vendor's books"
        )
    for why in run["blocked"]:
        tasks = "1 task" if why["tasks"] == 1 else f"{why['tasks']} tasks"
        yield plain(f"{'because':10} {tasks}: {why['text']}; {why['advice']}")
        for task_id in why["task_ids"][:LISTED]:
            yield plain(f"{'':10}   {task_id}")
        if why["tasks"] > LISTED:
            yield f"{'':10}   and {why['tasks'] - LISTED} more: --format json has their ids"
    for task in run["awaiting_approval"]:
        cost = format_usd(parse_usd(task["cost_usd"]))
        yield plain(f"{'approval':10} {task['task_id']} may cost {cost} and waits to be approved")
    for approval in run["approvals"]:
        what = "the forecast" if approval["task_id"] is None else approval["task_id"]
        yield plain(f"{'approved':10} {what}: {format_usd(parse_usd(approval['usd']))}")
    for task in run["shared_tasks"]:
        yield plain(f"{'shared':10} {task['task_id']}: paid by {task['paid_by']}")
    if run["note"]:
        yield f"{'note':10} {run['note']}"


#: The columns of a CSV of calls: fields of the API, amounts in USD, times as in tables.
CSV_FIELDS = (
    "id",
    "created_at",
    "run_id",
    "task_id",
    "family",
    "vendor",
    "operation",
    "method",
    "path",
    "target",
    "verdict",
    "reason",
    "state",
    "status",
    "asked_usd",
    "reserved_usd",
    "spent_usd",
    "overrun_usd",
    "estimated",
    "currency",
    "object_id",
    "message",
    "ended_at",
)


def csv_of_calls(rows: Sequence[Mapping[str, Any]], file: IO[str]) -> None:
    """Write calls as CSV (RFC 4180) with a heading; no cell begins as a spreadsheet's formula does."""
    writer = csv.writer(file)
    writer.writerow(CSV_FIELDS)
    for row in rows:
        shown = {**row, "created_at": time_of("created_at")(row), "ended_at": time_of("ended_at")(row)}
        writer.writerow([_cell(shown[name]) for name in CSV_FIELDS])


def _cell(value: Any) -> str:
    text = "" if value is None else plain(str(value))
    # Names come from pipelines. A phone number stays one: a sign before digits alone is no formula.
    return f"'{text}" if re.match(r"[=@]|[+-](?![0-9.]*$)", text) else text


CALL_COLUMNS: Sequence[Column] = (
    ("call", lambda call: call["id"]),
    ("time", time_of("created_at")),
    ("task", lambda call: call["task_id"] or ""),
    ("operation", lambda call: call["operation"]),
    ("target", lambda call: call["target"] or ""),
    ("verdict", lambda call: call["verdict"]),
    ("state", lambda call: call["state"] or ""),
    ("asked", money_of("asked")),
    ("spent", _spent),
    ("object", lambda call: call["object_id"] or ""),
    ("corrections", _corrections),
)
