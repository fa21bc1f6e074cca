"""`spendguard check`: who decides what may be spent, what is in force there, and what is missing here."""

from __future__ import annotations

import difflib
import os
import uuid
from collections.abc import Generator, Iterator
from contextlib import suppress

import click
import luigi.configuration

from luigi_spendguard.cli import in_force
from luigi_spendguard.cli.api_client import Operator, OperatorError
from luigi_spendguard.cli.check import caps, spool, vendors
from luigi_spendguard.cli.check.finding import (
    Doubt,
    Finding,
    Grade,
    audit_stopped,
    not_reloaded,
    said_once,
    unasked,
)
from luigi_spendguard.cli.check.tasks import Tasks, families_of, none_guarded
from luigi_spendguard.cli.context import Stop, operator_name, operator_of, settings_of
from luigi_spendguard.cli.in_force import InForce
from luigi_spendguard.cli.tokens import Token, is_said, leads_here, worker_token
from luigi_spendguard.config import Settings
from luigi_spendguard.counted import counted
from luigi_spendguard.errors import LedgerError
from luigi_spendguard.settings.operators import OPERATORS


def findings(settings: Settings, operator: Operator, modules: tuple[str, ...] = ()) -> Iterator[Finding]:
    """Yield what is found, from the files on: of each thing one line, or all that is wrong with it."""
    return said_once(_found(settings, operator, modules))


def _found(settings: Settings, operator: Operator, modules: tuple[str, ...]) -> Iterator[Finding]:
    here = families_of(modules)
    files = ", ".join(str(path) for path in settings.files)
    yield Finding("configuration", files or "no luigi.cfg was found here: all settings have their defaults")
    answers, refuses = yield from _scheduler(operator)
    there = in_force.ask(settings, operator)
    tasks, why = Tasks(there.families if there.by else None, here), ""
    if there.by:
        yield Finding("caps", f"decided by luigid at {there.by}, as are prices and forecasts")
        yield from not_reloaded("luigid", there.told)
        yield from audit_stopped(there.told)
        yield from caps.passed_over(settings, there, tasks)
    else:
        heard = answers or refuses
        why = "not told by luigid" if heard else "not asked"
        silent = "does not say what is in force" if heard else "does not answer"
        text = f"luigid {silent}: what follows is said by luigi.cfg here, if it is luigid's"
        yield Finding("caps", text, Grade.UNKNOWN)
    if doubt := none_guarded(modules, settings.vendor_tasks):
        yield Finding("tasks", ", ".join(modules)).unless([doubt])
    if answers:
        yield from _who(settings, operator)
        yield from _admin_token(settings, operator, there)
    refused = list(_worker_token(settings, operator)) if answers or refuses else []
    yield from unasked(_of_luigid(settings, there, tasks), why)
    yield from caps.of_the_day(operator, there)
    gateway = list(vendors.gateway_apart(settings, operator, there))
    yield from gateway
    mended = all(one.grade is not Grade.MISSING for one in gateway)
    yield from unasked(vendors.vendors(settings, there, gateway_works=mended), why)
    yield from refused or unasked([_tokens(settings, there)], why)
    yield from unasked(caps.rules(settings, there, tasks), why)
    yield from unasked(caps.tags(settings, there, tasks), why)
    yield spool.waiting()
    yield from _retcode()
    waits = settings.on_blocked == "wait"
    yield Finding(
        "blocked",
        "a worker with only blocked tasks left "
        + (
            "waits, and goes on at once after a top-up"
            if waits
            else "exits; after a top-up any other worker that needs them, or an --assistant, takes them up"
        ),
    )


def _of_luigid(settings: Settings, there: InForce, tasks: Tasks) -> Iterator[Finding]:
    yield _ledger(settings, there)
    yield from caps.roots(settings, there, tasks)
    for text in settings.passed_over:
        yield Finding("passed over", text)


@click.command("check", epilog="Example:  spendguard check --module billing")
@click.option(
    "--module", "modules", multiple=True, help="A pipeline's module, to look for misspelt task families."
)
@click.option("--verbose", is_flag=True, help="Each price, too.")
def check(modules: tuple[str, ...], verbose: bool) -> None:
    """Ask luigid what is in force, read luigi.cfg, and say what will happen here and what is missing."""
    missing = 0
    for finding in findings(settings_of(), operator_of(), modules):
        missing += finding.grade is Grade.MISSING
        if verbose or not finding.detail:
            click.echo(str(finding))
    if missing:
        until = "until then vendor tasks may fail, be denied, or run under other caps than were meant"
        raise Stop(f"{missing} of these must be mended (MISSING): {until}", 1)


def _scheduler(operator: Operator) -> Generator[Finding, None, tuple[bool, bool]]:
    """Return whether luigid answers, and whether it refuses to."""
    try:
        runs = operator.get("/runs")
    except OperatorError as error:
        yield Finding("scheduler", str(error), Grade.MISSING)
        return False, error.exit_code != 3 or bool(error.code)
    yield Finding("scheduler", f"luigid-spendguard answers at {operator.url} ({counted(len(runs), 'run')})")
    return True, False


def _who(settings: Settings, operator: Operator) -> Iterator[Finding]:
    """Say who is named here, and as whom luigid takes the token that is shown to it."""
    for one in settings.operators.values():
        token = "" if one.token is not None else ", whose token cannot be had here"
        yield Finding("operators", f"{one.name} has role {one.role}{token}")
    if lacks := settings.lacks_operators(at_luigid=False):
        yield Finding("operators", lacks, Grade.LOOK)
    if not settings.operators and not is_said(operator_name()):
        return
    try:
        told = operator.get("/whoami")
    except OperatorError as error:
        if is_said(operator_name()):
            yield Finding("operators", str(error), Grade.MISSING)
        return
    yield Finding("operators", f"luigid takes you for {told['shown']}, of role {told['role']}")
    for name in told.get("without_token", ()):  # An earlier luigid does not tell.
        text = (
            f"{name} may not change anything: the token in [{OPERATORS}] cannot be had by luigid, as its "
            "variable is not set there, or its file may not be read"
        )
        yield Finding("operators of luigid", text, Grade.LOOK)


def _admin_token(settings: Settings, operator: Operator, there: InForce) -> Iterator[Finding]:
    """Say whence an admin token would come where there is none to be shown at luigid's address."""
    here = leads_here(operator.url)
    if settings.admin_token is not None or (here and settings.token_file.exists()):
        return
    if here and not there.has_ledger:
        text = (
            f"none here yet: with its first run luigid makes {settings.token_file}, unless its own luigi.cfg "
            "has an admin_token"
        )
    else:
        text = f"none for {operator.url} here: who tops up, approves, resolves or revokes needs that luigid's"
    yield Finding("admin token", text)


def _ledger(settings: Settings, there: InForce) -> Finding:
    path = settings.ledger_path
    if there.by:
        where = f"; {settings.ledger_name} is here" if path.exists() else ""
        if settings.ledger_server is not None:
            where = f"; luigi.cfg here names {settings.ledger_name}"
        return Finding(
            "ledger", "luigid has one" + where if there.has_ledger else "made with luigid's first run"
        )
    if settings.ledger_server is not None:
        return _ledger_server(settings)
    folder = next(p for p in (path.parent, *path.parent.parents) if p.exists())
    if path.exists():
        writable = path.is_file() and os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)
    else:
        writable = folder.is_dir() and os.access(folder, os.W_OK)
    if not writable:
        return Finding(
            "ledger",
            f"{path} cannot be written by this user: set [spendguard] ledger_url to a "
            "file that luigid may write",
            Grade.MISSING,
        )
    return Finding("ledger", f"{path}" + ("" if path.exists() else " (made with the first run)"))


def _ledger_server(settings: Settings) -> Finding:
    """Look whether the server has the ledger: a gateway, or a worker with a local scheduler, asks it."""
    from luigi_spendguard.ledger.database.engines import opened  # Late, as all that not each command needs.

    found = Finding("ledger", f"{settings.ledger_name}, at a server")
    try:
        with opened(settings.ledger, read_only=True) as books, books.reading() as tx:
            tx.has_tables("budget")
    except LedgerError as error:
        return found.unless([Doubt(str(error), Grade.LOOK)])
    return found


def _tokens(settings: Settings, there: InForce) -> Finding:
    if settings.worker_token is None:
        return Finding("workers", "no worker_token: only workers on luigid's own machine are served")
    bound = "" if there.caps.day is not None else ", but no daily_cap_usd bounds who has it"
    return Finding("workers", f"must show the worker_token{bound}")


def _worker_token(settings: Settings, operator: Operator) -> Iterator[Finding]:
    """Ask luigid what a worker is asked first: may it come in? And could one come in with any token?"""
    try:
        _come_in(operator, worker_token(settings))
    except OperatorError as error:
        if error.exit_code == 4:
            yield Finding("worker token", str(error), Grade.MISSING)
        return
    if settings.worker_token is None:
        return
    with suppress(OperatorError):
        _come_in(operator, Token(None, ""))
        text = (
            "worker_token is set here, not in force there: luigid serves workers of its own machine with any "
            "token, or none, and no others; reload it if this is its file (a variable must be set there, too)"
        )
        yield Finding("workers", text, Grade.LOOK)


def _come_in(operator: Operator, token: Token) -> None:
    """Say to luigid what only a worker may. Raises OperatorError."""
    # No run has this name: nothing is ended, and no ledger is made for it.
    probe = {"name": f"spendguard-check-{uuid.uuid4()}"}
    operator.under(token).post("/api/spend_close_run", probe)


def _retcode() -> Iterator[Finding]:
    config = luigi.configuration.get_config()
    value = config.get("retcode", "spend_blocked", None)
    if value is None:
        sections = dict(getattr(config, "data", config))  # Of TOML, or an INI file.
        for key in sections.get("retcode", ()):
            if difflib.get_close_matches(key.replace("-", "_"), ["spend_blocked"], cutoff=0.75):
                text = f"[retcode] {key} is nobody's setting: did you mean spend_blocked?"
                yield Finding("exit code", text, Grade.LOOK)
        return
    if str(value).strip().isdecimal() and int(value) <= 255:
        yield Finding("exit code", f"{value} when vendor tasks are blocked")
    else:
        yield Finding("exit code", "[retcode] spend_blocked must be a number from 0 to 255", Grade.MISSING)
