"""How runs and calls are shown in a terminal."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

from luigi_spendguard.counted import counted
from luigi_spendguard.money import format_usd, micros_of, parse_usd
from luigi_spendguard.protocol import blocked_text

#: A column of a table: its heading, and what it shows of an object of the API.
Column = tuple[str, Callable[[Mapping[str, Any]], str]]
#: Blocked tasks that are listed one by one, for each reason.
LISTED = 20
#: Headings of columns of amounts.
_MONEY = (
    *("cap", "spent", "reserved", "in doubt", "remaining", "overrun", "asked"),
    *("calls", "corrections ", "inflow", "outflow", "before", "change", "%", "would have cost", "made at"),
    *("forecast ", "actual", "difference", "tries", "made"),
)


#: Columns that stand beside an id at the least; where there is no room for them, an id has its own line.
_BESIDE = 3
_GAP = "  "


def table_lines(
    rows: Sequence[Mapping[str, Any]], columns: Sequence[Column], width: int | None, asked: Sequence[str] = ()
) -> tuple[list[str], list[str]]:
    """Return a table's lines, the heading first, and the headings of columns that have no room.

    Those are dropped from the right until the rest fits into `width` cells (None: all fit), those that were
    asked for last. The first column is an id and stays; nothing is cut or folded.
    """
    headings = [heading for heading, _ in columns]
    # Names come from pipelines and vendors: no control characters.
    cells = [headings, *([plain(show(row)) for _, show in columns] for row in rows)]
    widths = [max(map(_cells, column)) for column in zip(*cells, strict=True)]
    # From the last that stays to the first that goes; sorted() keeps the order of columns.
    ranked = sorted(range(len(columns)), key=lambda place: place > 0 and headings[place] not in asked)
    kept, stacked = _fitting(ranked, widths, width), False
    wanted = sum(heading in asked for heading in headings[1:])
    if width is not None and (len(kept) <= _BESIDE or len(kept) <= wanted):
        below = [0, *_fitting(ranked[1:], widths, width - len(_GAP))]
        kept, stacked = max((kept, False), (below, True), key=lambda way: len(way[0]))
    kept.sort()
    lines = [
        _line([(headings[place], line[place], widths[place]) for place in kept], stacked) for line in cells
    ]
    return lines, [heading for place, heading in enumerate(headings) if place not in kept]


def _fitting(ranked: Sequence[int], widths: Sequence[int], width: int | None) -> list[int]:
    """Return the first of ranked columns, as many as fit into a terminal; one stays."""
    ends = itertools.accumulate(ranked, lambda end, one: end + len(_GAP) + widths[one], initial=-len(_GAP))
    return list(ranked[: max(1, sum(1 for end in ends if width is None or end <= width) - 1)])


def _line(cells: Sequence[tuple[str, str, int]], stacked: bool) -> str:
    """Return a row's line of cells, each with its heading and its width."""
    padded = []
    for heading, cell, width in cells:
        blanks = " " * (width - _cells(cell))
        padded.append(blanks + cell if heading in _MONEY else cell + blanks)
    if stacked:
        return f"{cells[0][1]}\n{_GAP}{_GAP.join(padded[1:]).rstrip()}"
    return _GAP.join(padded).rstrip()


def _cells(text: str) -> int:
    """Return how many cells of a terminal a text takes."""
    if text.isascii():
        return len(text)
    # Late: most tables need none of it.
    from rich.cells import cell_len

    return cell_len(text)


def plain(text: str) -> str:
    """Return a text without control characters: names come from pipelines and vendors."""
    return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)


#: How a spreadsheet's formula begins. A phone number is none: a sign before digits alone. (Some spreadsheets
#: take the signs of East Asian keyboards as well.)
_FORMULA = re.compile(r" *([=@\uff1d\uff20\uff0b\uff0d]|[+-](?![0-9.]*$))")
_BEGINNINGS = frozenset(" =@+-\uff1d\uff20\uff0b\uff0d")


def csv_cell(text: str) -> str:
    """Return a text as a cell that no spreadsheet takes for a formula: names come from pipelines."""
    text = plain(text)
    return f"'{text}" if text[:1] in _BEGINNINGS and _FORMULA.match(text) else text


def _spent(call: Mapping[str, Any]) -> str:
    """Return what a call has cost within its reservation, and beyond it; what it may have, in doubt."""
    if call["state"] == "in_doubt":
        return f"{money_of('reserved')(call)} in doubt"
    over = parse_usd(call["overrun_usd"])
    return money_of("spent")(call) + (f" + {format_usd(over)} overrun" if over else "")


def _corrections(call: Mapping[str, Any]) -> str:
    """Return how a call's amount was corrected, or that its price is still to come."""
    made = [f"{one['usd']} ({one['note']})" for one in call.get("corrections", ())]
    return plain("; ".join([*made, *(["price to come"] if call.get("estimated") else [])]))


def money_of(name: str) -> Callable[[Mapping[str, Any]], str]:
    """Return what shows an amount of an API object."""
    return lambda row: format_usd(parse_usd(row[f"{name}_usd"]))


def usd_of(row: Mapping[str, Any]) -> str:
    """Return the amount that an API object is about."""
    return format_usd(parse_usd(row["usd"]))


def time_of(name: str) -> Callable[[Mapping[str, Any]], str]:
    """Return what shows a time of an API object."""

    def shown(row: Mapping[str, Any]) -> str:
        if not row.get(name):
            return ""
        return datetime.fromtimestamp(row[name] / 1000, timezone.utc).strftime("%Y-%m-%d %H:%M:%SZ")

    return shown


def day_of(at: int) -> str:
    """Return the UTC day of a time in milliseconds since the epoch."""
    return datetime.fromtimestamp(at / 1000, timezone.utc).strftime("%Y-%m-%d")


def _caps_of(key: Mapping[str, Any]) -> str:
    caps = [(key["run_usd_cap"], "in all"), (key["daily_usd_cap"], "a day")]
    said = [f"{format_usd(parse_usd(cap))} {when}" for cap, when in caps if cap is not None]
    left = parse_usd(key.get("run_remaining_usd") or "0")
    own = [key.get(name) for name in ("key_remaining_usd", "key_day_remaining_usd")]
    if key.get("run_remaining_usd") is not None and all(
        left < parse_usd(one) for one in own if one is not None
    ):
        said.append(f"{format_usd(left)} left in its run")
    return ", ".join(said)


# In a narrow terminal the last columns go first: what is asked for most stands at the left. What a filter is
# about goes last of all.
KEY_COLUMNS: Sequence[Column] = (
    ("key", lambda key: key["id"]),
    ("state", lambda key: key["state"]),
    ("expires", lambda key: key["expires_at"] or ""),
    ("vendor", lambda key: key["vendor"] or "every"),
    ("run", lambda key: key["run_id"]),
    ("caps", _caps_of),
    (
        "allowed",
        lambda key: ", ".join(key["allowed_endpoints"] + key["allowed_customers"] + key["allowed_accounts"]),
    ),
    ("task", lambda key: key["task_id"]),
)


TOP_UP_COLUMNS: Sequence[Column] = (
    ("top-up", lambda row: row["id"]),
    ("state", lambda row: row["state"]),
    ("amount", usd_of),
    ("run", lambda row: row["run_id"]),
    ("budget", lambda row: f"{row['scope']} {row['part']}".rstrip()),
    ("asked by", lambda row: row["asked_by"]),
    ("asked", time_of("asked_at")),
    ("expires", time_of("expires_at")),
    ("ended by", lambda row: row["ended_by"] or ""),
    ("may confirm", lambda row: ", ".join(row["confirmers"])),
)
TOP_UP_FILTERS = {"run": ("run",), "state": ("state",)}
KEY_FILTERS = {"run": ("run",)}


def forecast_of(run: Mapping[str, Any]) -> str:
    """Return a run's forecast, and how sure it is."""
    if run["forecast_usd"] is None:
        return ""
    text = format_usd(parse_usd(run["forecast_usd"]))
    if run["estimated_usd"] == run["forecast_usd"] != "0.00":
        text += " (estimated)"
    elif run["estimated_usd"] != "0.00":
        text += " (partly estimated)"
    if not run["unknown_tasks"]:
        return text
    now = run.get("expected_usd")
    by_now = f"; by now {format_usd(parse_usd(now))}" if now not in (None, run["forecast_usd"]) else ""
    return f"{text} + {run['unknown_tasks']} unknown{by_now}"


RUN_COLUMNS: Sequence[Column] = (
    ("run", lambda run: run["run_id"]),
    ("status", lambda run: run["status"]),
    ("cap", money_of("cap")),
    ("spent", money_of("spent")),
    ("remaining", money_of("remaining")),
    ("reserved", money_of("reserved")),
    ("in doubt", money_of("in_doubt")),
    ("overrun", money_of("overrun")),
    ("blocked", lambda run: blocked_text(sum(run["blocked_tasks"].values()), run.get("behind_tasks", 0))),
    ("denied", lambda run: str(run["denied_calls"])),
    ("opened", time_of("opened_at")),
    ("forecast", forecast_of),
    ("root", lambda run: run["root_family"]),
    ("label", lambda run: run["label"]),
)
RUN_FILTERS = {
    "status": ("status",),
    "status=active": (),
    "status=denied": ("denied",),
    "status=blocked": ("blocked",),
    "status=held": ("forecast",),
    "status=in_doubt": ("in doubt",),
    "status=frozen": ("overrun",),
    "status=ended": (),
    "status=revoked": (),
    "search": ("root", "label"),
    "since": ("opened",),
    "until": ("opened",),
}


#: What budgets inside a run are called.
_INSIDE = {"beyond_day": "beyond day"}


def _budget_lines(budgets: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield a line for each budget inside a run."""
    for budget in budgets:
        raised = budget.get("raised_usd", "0.00")
        more = f", {format_usd(parse_usd(raised))} of it topped up" if raised != "0.00" else ""
        yield plain(
            f"{_INSIDE.get(budget['scope'], budget['scope']):10} {budget['part']}: cap "
            f"{money_of('cap')(budget)}{more}, spent {money_of('spent')(budget)}, "
            f"reserved {money_of('reserved')(budget)}, remaining {money_of('remaining')(budget)}"
        )


def reason_lines(run: Mapping[str, Any], mark: str = "Held by ", of: str = "reasons") -> Iterator[str]:
    """Yield what holds a run now, with the commands that clear it; nothing where luigid is an earlier one.

    `of`: `to_come` for the budgets that are too small for what is to come.
    """
    said: set[str] = set()
    for why in run.get(of, ()):
        tasks = f" ({_tasks_of(why)})" if why["tasks"] or why.get("behind") else ""
        amounts = ""
        if why["missing_usd"] is not None:
            need, there, lack = (
                format_usd(parse_usd(why[f"{name}_usd"])) for name in ("needed", "available", "missing")
            )
            amounts = f": {need} needed, {there} available, {lack} missing{_whole(why)}"
        yield plain(f"{mark}{why['text'].removeprefix('held: ')}{tasks}{amounts}")
        for each in why["commands"]:
            yield plain(f"{'':{len(mark)}}  {each}{' (the same)' if each in said else ''}")
        said.update(why["commands"])


def day_text(day: Mapping[str, Any]) -> str:
    """Return what all runs have spent today; an earlier luigid does not say what of it is beyond the cap."""
    said = []
    for name in ("spent", "reserved"):
        beyond = day.get(f"beyond_{name}_usd", "0.00")
        of_it = f" ({format_usd(parse_usd(beyond))} of it beyond the cap, by top-ups)"
        said.append(f"{money_of(name)(day)} {name}{of_it if parse_usd(beyond) else ''}, ")
    if parse_usd(day["overrun_usd"]):
        said.append(f"{money_of('overrun')(day)} overrun, ")
    return (
        f"All runs together today ({day['day']}, UTC): {''.join(said)}{money_of('remaining')(day)} remaining "
        f"of {money_of('cap')(day)} (daily_cap_usd)."
    )


def _whole(short: Mapping[str, Any]) -> str:
    """Return why more of the day's cap is missing than what is needed less what there is, "" otherwise."""
    need, there, lack = (parse_usd(short[f"{name}_usd"]) for name in ("needed", "available", "missing"))
    is_left = short["scope"] == "day" and lack > max(0, need - there)
    return " (a task's call goes into the day's cap or beyond it, as a whole)" if is_left else ""


def needed_line(run_id: str, weighed: Mapping[str, Any]) -> str:
    """Return what a top-up is needed for: `weighed` as luigid has weighed it."""
    need, there, lack = (
        format_usd(parse_usd(weighed[f"{name}_usd"])) for name in ("needed", "available", "missing")
    )
    scope, part = weighed["scope"], weighed["part"]
    # The tasks are all those of the run, the amounts what they need of this budget.
    of = {"run": "", "day": " of the day's cap"}.get(scope, f" of {part}'s budget")
    blocked = blocked_text(weighed["blocked"], weighed["behind"]) or "none"
    return plain(
        f"Blocked tasks of {run_id}: {blocked}. Needed{of} {need}, available {there}, missing {lack}"
        f"{_whole(weighed)}."
    )


def freed_text(weighed: Mapping[str, Any], *, done: bool) -> str:
    """Return what a top-up has freed, or would."""
    frees, of = weighed["frees"], weighed["blocked"]
    verb = "Freed" if done else f"{format_usd(parse_usd(weighed['usd']))} frees"
    text = f"{verb} {frees} of {of} blocked {'task' if of == 1 else 'tasks'}"
    if weighed["thaws"]:
        text += "; the run is thawed" if done else "; the run is thawed by it"
    needs = []
    if weighed["rest_command"] is not None:
        rest = format_usd(parse_usd(weighed["rest_usd"]))
        needs.append(f"{rest} more: `spendguard {weighed['rest_command'].partition(' ')[2]}`")
    if frees < of:
        needs += [f"`{one}`" for one in weighed.get("other_commands", ())]
    if needs:
        text += f"; the rest needs {', and '.join(needs)}"
    elif frees < of:
        text += "; the rest waits for something else"
    text += "."
    still = weighed.get("still_blocked", of - frees)
    if still < of - frees:
        left = f"lists count {still} as blocked" if still else "lists count none as blocked"
        text += f" Until it is spent, {left}: each task that it is enough for may get it."
    return plain(text)


def _tasks_of(why: Mapping[str, Any]) -> str:
    """Return how many tasks are blocked for a reason; an earlier luigid does not tell those behind apart."""
    return blocked_text(why["tasks"], why.get("behind", 0))


def _blocked_lines(run: Mapping[str, Any], whole: bool) -> Iterator[str]:
    """Yield which tasks are blocked; why was said before, unless luigid is an earlier one."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for group in run["blocked"]:
        held = (" ".join(filter(None, [why["code"], why["part"]])) for why in group.get("reasons", ()))
        by = ", ".join(held) if "reasons" in run else f"{group['text']}; {group['advice']}"
        groups.setdefault(by, []).append(group)
    for by, same in groups.items():
        tasks, behind = (sum(one.get(name, 0) for one in same) for name in ("tasks", "behind"))
        if "reasons" not in run:
            yield plain(f"{'because':10} {blocked_text(tasks, behind)}: {by}")
        else:
            alone = len(groups) == 1 or not by
            yield plain(f"{'tasks':10} {blocked_text(tasks, behind)}{'' if alone else f', held by {by}'}:")
        ids = [task_id for group in same for task_id in group["task_ids"]]
        listed = ids if whole else ids[:LISTED]
        for task_id in listed:
            yield plain(f"{'':10}   {task_id}")
        if (more := tasks + behind - len(listed)) > 0:
            yield f"{'':10}   and {more} more: --all lists them"
    if (plain_tasks := run.get("behind_tasks", 0) - sum(one.get("behind", 0) for one in run["blocked"])) > 0:
        others = "1 other task waits" if plain_tasks == 1 else f"{plain_tasks} other tasks wait"
        yield f"{'':10} {others} behind them"


def run_lines(run: Mapping[str, Any], *, whole: bool = False) -> Iterator[str]:
    """Yield the lines that `spendguard run` shows; `whole`: every blocked task is listed."""
    for heading, text in RUN_COLUMNS:
        yield f"{heading:10} {plain(text(run))}"
    if run["shadow_calls"]:
        enough = format_usd(parse_usd(run["sufficient_cap_usd"]))
        passed = counted(run["shadow_calls"], "call was", "calls were")
        yield f"{'shadow':10} {passed} let through; {enough} would have sufficed"
    for flow in ("inflow", "outflow"):
        if (moved := run.get(f"{flow}_usd", "0.00")) != "0.00":
            yield f"{flow:10} {format_usd(micros_of(moved))} of what was spent"
    if run.get("tags"):
        yield plain(f"{'tags':10} {', '.join(f'{name}: {value}' for name, value in run['tags'].items())}")
    yield from _budget_lines(run["budgets"])
    yield from reason_lines(run, f"{'held by':10} ")
    if run["in_doubt_calls"] and "reasons" not in run:
        yield plain(
            f"{'in doubt':10} `spendguard calls --run {run['run_id']} --state in_doubt` shows each call; "
            "`spendguard resolve CALL --spent USD --object ID` ends it, or --not-sent, by the vendor's books"
        )
    yield from reason_lines(run, f"{'next':10} ", "to_come")
    yield from _blocked_lines(run, whole)
    for task in run["awaiting_approval"] if "reasons" not in run else ():
        yield plain(
            f"{'approval':10} {task['task_id']} may cost {money_of('cost')(task)} and waits to be approved"
        )
    for approval in run["approvals"]:
        what = "the forecast" if approval["task_id"] is None else approval["task_id"]
        beside = f" beside call {approval['duplicate_of']}" if approval.get("duplicate_of") else ""
        yield plain(f"{'approved':10} {what}: {format_usd(parse_usd(approval['usd']))}{beside}")
    for task in run["shared_tasks"]:
        yield plain(f"{'shared':10} {task['task_id']}: paid by {task['paid_by']}")
    if run["note"]:
        yield f"{'note':10} {run['note']}"


CALL_COLUMNS: Sequence[Column] = (
    ("call", lambda call: call["id"]),
    ("state", lambda call: call["state"] or ""),
    ("spent", _spent),
    ("verdict", lambda call: call["verdict"]),
    ("target", lambda call: call["target"] or ""),
    ("task", lambda call: call["task_id"] or ""),
    ("time", time_of("created_at")),
    ("operation", lambda call: call["operation"]),
    ("vendor", lambda call: call["vendor"]),
    ("asked", money_of("asked")),
    ("object", lambda call: call["object_id"] or ""),
    ("payment key", lambda call: ", ".join(call.get("payment_keys", ()))),
    ("corrections", _corrections),
    ("vendor's request", lambda call: call.get("vendor_request", "")),
)
CALL_FILTERS = {
    "run": (),  # One run's: its id was said.
    "task": ("task",),
    "verdict": ("verdict",),
    "state": ("state",),
    "state=pending": ("asked",),
    "state=settled": ("spent",),
    "state=voided": ("asked",),
    "state=in_doubt": ("asked",),
    "vendor": ("vendor",),
    "customer": ("target", "object"),
    "since": ("time",),
    "until": ("time",),
}

#: The columns of a CSV: all fields of the API. Those that were added later stand at the end.
CALL_FIELDS = (
    *("id", "created_at", "run_id", "task_id", "family", "vendor", "operation", "method", "path", "target"),
    *("verdict", "reason", "state", "status", "asked_usd", "reserved_usd", "spent_usd", "overrun_usd"),
    *("estimated", "currency", "object_id", "message", "ended_at"),
    *("account", "params", "corrections", "replay_of", "seq", "object_url", "payment_keys"),
    *("vendor_request", "tags"),
)
RUN_FIELDS = (
    *("run_id", "opened_at", "ended_at", "root_family", "root_task_id", "label", "status", "state"),
    *("cap_usd", "spent_usd", "remaining_usd", "reserved_usd", "in_doubt_usd", "overrun_usd"),
    *("forecast_usd", "estimated_usd", "unknown_tasks", "approved_usd", "sufficient_cap_usd"),
    *("blocked_tasks", "denied_calls", "in_doubt_calls", "shadow_calls", "vendors", "note", "behind_tasks"),
    "tags",
)
KEY_FIELDS = (
    *("id", "run_id", "task_id", "vendor", "label", "state", "issued_at", "expires_at", "ended_at"),
    *("run_usd_cap", "key_spent_usd", "key_remaining_usd"),
    *("daily_usd_cap", "key_day_spent_usd", "key_day_remaining_usd"),
    "run_remaining_usd",
    *("allowed_endpoints", "allowed_customers", "allowed_accounts"),
)
TOP_UP_FIELDS = (
    *("id", "run_id", "scope", "part", "usd", "state", "asker", "asked_by", "asked_at", "expires_at"),
    *("ended_by", "ended_at", "confirmers"),
)
