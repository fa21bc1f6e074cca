"""`spendguard revoke`, `top-up`, `approve`, `resolve`: what needs the admin token."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Mapping
from typing import Any

import click

from luigi_spendguard.cli.api_client import OperatorError, path_of
from luigi_spendguard.cli.call_names import call_named
from luigi_spendguard.cli.context import Stop, Usd, answered, operator_of
from luigi_spendguard.cli.run_names import RunName, on_run
from luigi_spendguard.cli.tables import forecast_of, freed_text, money_of, needed_line, reason_lines
from luigi_spendguard.counted import counted
from luigi_spendguard.money import Micros, format_usd, parse_usd, plain_usd
from luigi_spendguard.protocol import command, commands


def _request_id(ctx: click.Context, param: click.Parameter, value: str | None) -> str:
    if value is not None and not value.strip():
        raise click.BadParameter("must not be empty: leave it away, or name the change")
    return value or str(uuid.uuid4())


REQUEST_ID = click.option(
    "--request-id",
    default=None,
    callback=_request_id,
    help="Repeating a command with the same id changes nothing twice.",
)


@click.command(epilog="Example:  spendguard revoke BillingPipeline_2026_11_24_c4a1a2ab4a")
@click.argument("run_id", metavar="RUN", type=RunName())
def revoke(run_id: str) -> None:
    """End a run's spending for good; answers when no further call of it is sent."""
    run_id, run = on_run(run_id, lambda one: operator_of().delete(path_of("runs", one)))
    click.echo(
        f"{run_id} is revoked: no further call is sent. "
        f"{counted(run['calls_under_way'], 'call was', 'calls were')} under way; "
        f"{money_of('spent')(run)} is spent, {money_of('reserved')(run)} reserved."
    )
    _say_what_is_next(run, "revoke", "ends that one, too")


def _say_what_is_next(run: Mapping[str, Any], name: str, does: str) -> None:
    """Say of a run whose root has completed that the root's next submission is another run, and which."""
    if not run.get("root_completed"):
        return
    later = run["later_run_id"]
    now = "opens another run" if later is None else f"is run {later} by now: {command(name, later)} {does}"
    click.echo(f"Its root had completed: what is submitted after that {now}.")


# So that `-1` is no unknown option but a bad amount.
@click.command(
    name="top-up",
    context_settings={"ignore_unknown_options": True},
    epilog="Example:  spendguard top-up BillingPipeline_2026_11_24_c4a1a2ab4a 50",
)
@click.argument("run_id", metavar="RUN", type=RunName())
@click.argument("usd", type=Usd(), required=False)
@click.option("--family", help="Raise this task family's budget in the run, not the run's cap.")
@click.option("--vendor", help="Raise this vendor's budget in the run, not the run's cap.")
@click.option("--day", is_flag=True, help="Let the run pass the day's cap of all runs by so much, today.")
@click.option("--dry-run", is_flag=True, help="Only say what is needed, and what it would free.")
@REQUEST_ID
def top_up(run_id: str, usd: Micros | None, dry_run: bool, request_id: str, **inside: Any) -> None:
    """Raise a run's cap by USD, or a budget inside it; its blocked tasks may run again.

    Says what is needed before, and what it has freed. Without USD it is asked for in a terminal.
    """
    target = {name: value for name, value in inside.items() if value}
    if len(target) > 1:
        raise click.UsageError("say one of --family, --vendor and --day, or none for the run's own cap")
    asked = {} if usd is None else {"usd": plain_usd(usd)}
    query = {name: "true" if value is True else value for name, value in target.items()}
    run_id, weighed = on_run(run_id, lambda one: _weighed(one, {**asked, **query}))
    if weighed is not None and (weighed["blocked"] or weighed["thaws"] or dry_run or usd is None):
        click.echo(needed_line(run_id, weighed))
    if usd is None and not dry_run:
        if not sys.stdin.isatty():
            raise Stop("say by how much: the USD behind the run, or --dry-run to see what is needed", 2)
        default = None if weighed is None or weighed["usd"] == "0.00" else weighed["usd"]
        usd = answered(lambda: click.prompt("Raise it by (USD)", type=Usd(), default=default))
    if dry_run:
        if weighed is None:
            raise Stop("this luigid is older, and does not say beforehand what a top-up frees", 1)
        click.echo(freed_text(weighed, done=False))
        return
    assert usd is not None
    body = {"usd": plain_usd(usd), "request_id": request_id, **target}
    run_id, run = on_run(run_id, lambda one: operator_of().post(path_of("runs", one, "top_up"), body))
    if "waiting" in run:
        click.echo(_repeated(run, request_id) + _waits(run["waiting"]))
        return
    click.echo(_repeated(run, request_id) + _topped_up(run_id, run, target))
    if "top_up" in run and (run["top_up"]["blocked"] or run["top_up"]["thaws"]):
        click.echo(freed_text(run["top_up"], done=True))
    _say_what_is_next(run, "top-up", "raises the cap of that one")
    _say_what_holds(run)
    if run["overrun_usd"] != "0.00":
        click.echo(
            f"It has {money_of('overrun')(run)} overrun, which the vendor billed beyond what was reserved: "
            "that counts against what remains. `spendguard calls` shows it."
        )


def _waits(row: Mapping[str, Any]) -> str:
    """Say what a top-up waits for that one operator does not make alone."""
    amount = format_usd(parse_usd(row["usd"]))
    if row["state"] != "waiting":
        return f"{row['id']}, a top-up of {amount}, is {row['state']}."
    return (
        f"Nothing is raised yet: {row['id']}, a top-up of {amount}, waits for a second operator "
        f"({' or '.join(row['confirmers'])}), who confirms it with {command('confirm', row['id'])}; "
        f"{command('withdraw', row['id'])} takes it back."
    )


def _weighed(run_id: str, query: Mapping[str, str]) -> Any:
    """Return what luigid says that a top-up would do; None: an earlier one does not say."""
    try:
        return operator_of().get(path_of("runs", run_id, "top_up"), **query)
    except OperatorError as error:
        if error.code == "method_not_allowed":
            return None
        raise


def _topped_up(run_id: str, run: Mapping[str, Any], target: Mapping[str, Any]) -> str:
    """Say what the budget is that was topped up."""
    if not target:
        return f"{run_id} has a cap of {money_of('cap')(run)}; {money_of('remaining')(run)} remains."
    scope, part = next(iter(target.items()))
    scope = "beyond_day" if scope == "day" else scope
    budget = next((b for b in run["budgets"] if b["scope"] == scope and part in (True, b["part"])), None)
    if budget is None:
        return f"{run_id} is topped up."
    cap, left = money_of("cap")(budget), money_of("remaining")(budget)
    if scope == "beyond_day":
        return f"{run_id} may pass today's cap by {cap} in all; {left} of that remains."
    return f"{part}'s budget in {run_id} is {cap}; {left} remains. The run's own cap is as it was."


@click.command(epilog="Example:  spendguard approve BillingPipeline_2026_11_24_c4a1a2ab4a --up-to 2000")
@click.argument("run_id", metavar="RUN", type=RunName())
@click.option("--up-to", type=Usd(), help="Let the forecast pass as long as it is no more than this.")
@click.option("--forecast", type=Usd(), help="The forecast that you have seen; asked for in a terminal.")
@click.option(
    "--unknown-tasks",
    type=click.IntRange(0),
    default=0,
    metavar="N",
    help="The tasks of unknown cost that you have seen beside it, or at the most with --up-to.",
)
@click.option("--task", "task_id", help="Approve this single task instead of the run's forecast.")
@click.option("--cost", type=Usd(), help="What that task may cost.")
@click.option(
    "--duplicate-of",
    metavar="CALL",
    help="Another task's call beside which that task's call waits: it is another payment.",
)
@REQUEST_ID
def approve(
    run_id: str,
    unknown_tasks: int,
    task_id: str | None,
    cost: Micros | None,
    **more: Any,
) -> None:
    """Let a run's forecast pass, one task's cost, or its call beside another's; it does not raise any cap.

    A forecast that grows above what was approved holds the run again.
    """
    duplicate_of, forecast, up_to = more["duplicate_of"], more.pop("forecast"), more.pop("up_to")
    of_forecast = forecast is not None or up_to is not None or bool(unknown_tasks)
    if (task_id is None) is not (cost is None) or (task_id is not None and of_forecast):
        raise click.UsageError("say --up-to USD or --forecast USD, or --task TASK_ID and --cost USD")
    if forecast is not None and up_to is not None:
        raise click.UsageError("say --up-to USD or --forecast USD, not both")
    if duplicate_of is not None and task_id is None:
        raise click.UsageError("--duplicate-of goes with --task TASK_ID and --cost USD")
    if duplicate_of is not None:
        more["duplicate_of"] = duplicate_of = call_named(operator_of(), duplicate_of)
    amount = next((one for one in (cost, forecast, up_to) if one is not None), None)
    if amount is None:
        run_id, shown = on_run(run_id, _shown_forecast)
        amount, unknown_tasks = shown
    body: dict[str, Any] = {"usd": plain_usd(amount)}
    body |= {"task_id": task_id} if task_id else {"unknown_tasks": unknown_tasks}
    body |= {"up_to": True} if up_to is not None else {}
    body |= {name: value for name, value in more.items() if value is not None}
    run_id, run = on_run(run_id, lambda one: operator_of().post(path_of("runs", one, "approve"), body))
    what = (
        f"Task {task_id} of run {run_id} may ask for {format_usd(amount)} beside call {duplicate_of}"
        if duplicate_of
        else f"Task {task_id} of run {run_id} may cost {format_usd(amount)}"
        if task_id
        else f"The forecast of {run_id} is approved up to {format_usd(amount)}; it is {forecast_of(run)}"
    )
    again = _repeated(run, more["request_id"])
    click.echo(f"{again}{what}; the run's cap is {money_of('cap')(run)}.")
    _say_what_holds(run)


def _repeated(run: Mapping[str, Any], request_id: str) -> str:
    """Return that a command changed nothing, if so: it was done before under its request id."""
    return f"Nothing was changed: {request_id} was done before. " if run.get("repeated") else ""


def _say_what_holds(run: Mapping[str, Any]) -> None:
    """Say what holds a run now, and which of its budgets are too small for what is to come."""
    for line in (*reason_lines(run), *reason_lines(run, "Next: ", "to_come")):
        click.echo(line)


def _shown_forecast(run_id: str) -> tuple[Micros, int]:
    """Show a run's forecast and ask for it to be approved; return both its parts. Raises Stop."""
    run = operator_of().get(path_of("runs", run_id))
    if run["forecast_usd"] is None:
        raise Stop(f"{run_id} has no forecast: nothing of it was scheduled completely", 1)
    text = f"{run_id} may cost {forecast_of(run)}; its cap is {money_of('cap')(run)}."
    if all(why["code"] != "forecast" for why in run.get("reasons", [{"code": "forecast"}])):
        others = "".join(f"\n{line}" for line in reason_lines(run))
        raise Stop(f"{text} Nothing of it waits for its forecast to be approved.{others}", 1)
    if not sys.stdin.isatty():
        unknown = f" --unknown-tasks {run['unknown_tasks']}" if run["unknown_tasks"] else ""
        said = "".join(f"\n{line}" for line in reason_lines(run))
        raise Stop(f"{text} Say what you have seen: --forecast {run['forecast_usd']}{unknown}{said}", 2)
    if not answered(lambda: click.confirm(f"{text} Approve?")):
        raise Stop(f"not approved: nothing was changed, {run_id} is held as before", 1)
    return parse_usd(run["forecast_usd"]), int(run["unknown_tasks"])


@click.command(
    epilog="Example:  spendguard resolve 5a8e6f0e-6f0e-4a8e-9a8e-5a8e6f0e6f0e --spent 1.00 --object pi_3Q0001"
)
@click.argument("call_id", metavar="CALL")
@click.option("--spent", "spent", type=Usd(), help="What the vendor's books say it cost.")
@click.option("--not-sent", is_flag=True, help="The vendor's books do not have it.")
@click.option("--object", "object_id", help="The vendor's object that it opened, such as pi_….")
@click.option("--overrun", is_flag=True, help="Yes, more was spent than was reserved, or fits.")
@click.option("--correct", is_flag=True, help="Correct what was said of it before.")
@REQUEST_ID
def resolve(
    call_id: str,
    spent: Micros | None,
    not_sent: bool,
    object_id: str | None,
    request_id: str,
    **confirmed: bool,
) -> None:
    """End a call that is in doubt, by what the vendor's own books say.

    The task's next attempt gets the object that you name as the call's answer, and goes on from there.
    """
    if (spent is None) == (not not_sent):
        raise click.UsageError("say either --spent USD or --not-sent")
    if not_sent and object_id:
        raise click.UsageError("--object goes with --spent USD")
    body: dict[str, Any] = {"request_id": request_id}
    body |= {"not_sent": True} if spent is None else {"spent_usd": plain_usd(spent)}
    body |= {"object_id": object_id} if object_id else {}
    body |= {name: True for name, is_set in confirmed.items() if is_set}
    operator = operator_of()
    call_id = call_named(operator, call_id)
    click.echo(_resolved(call_id, operator.post(path_of("calls", call_id, "resolve"), body)))


def _resolved(call_id: str, call: Mapping[str, Any]) -> str:
    """Say what became of a call that was resolved."""
    text = f"{call_id} of run {call['run_id']} is {call['state']}: {money_of('spent')(call)} spent"
    if call["overrun_usd"] != "0.00":
        text += f", and {money_of('overrun')(call)} overrun beyond what was reserved"
    text += "."
    if handed := call["message"].partition("; ")[2]:
        text += f" {handed[0].upper()}{handed[1:]}: that was counted by this one, and relied on."
    if call["run_state"] == "frozen":
        text += (
            f" Run {call['run_id']} is frozen: no further call is paid until it is topped up "
            f"({command('top-up', call['run_id'], '--dry-run')} says by how much). If the amount was a "
            "mistake, correct it with --correct."
        )
    elif call["state"] == "settled" and not call["object_id"]:
        text += (
            " Its object is not known, so the task's next attempt is refused (idempotency_mismatch): name "
            f"what it opened at the vendor with {commands.correct(call_id, parse_usd(call['spent_usd']))}."
        )
    return text
