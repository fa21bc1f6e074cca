"""`spendguard check`: who decides what may be spent, what is in force there, and what is missing here."""

from __future__ import annotations

import difflib
import importlib
import os
import sys
import uuid
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

import click
import luigi.configuration
from luigi.task_register import Register

from luigi_spendguard.cli import in_force
from luigi_spendguard.cli.api_client import Operator, OperatorError, admin_token
from luigi_spendguard.cli.context import Stop, operator_of, settings_of
from luigi_spendguard.cli.in_force import InForce
from luigi_spendguard.config import Settings, vendor_in_force
from luigi_spendguard.http.addresses import shown_in_clear
from luigi_spendguard.money import format_usd, parse_usd
from luigi_spendguard.vendors.registry import VENDORS

#: How alike a family has to be to be named as what was meant.
_ALIKE = 0.75


@dataclass(frozen=True)
class Finding:
    """One line of the check.

    Attributes:
        missing: something has to be done before vendor tasks can run.
        doubtful: it may be a mistake; whether it is cannot be known here.
        detail: shown with `--verbose` alone.

    """

    subject: str
    text: str
    missing: bool = False
    doubtful: bool = False
    detail: bool = False

    def __str__(self) -> str:
        mark = "MISSING" if self.missing else "look" if self.doubtful else "ok"
        return f"{mark:8}{self.subject}: {self.text}"


class Tasks(NamedTuple):
    """The task families that are known: those that luigid has seen, and those of the pipeline's modules."""

    seen: frozenset[str]
    here: frozenset[str] | None = None

    def doubt(self, subject: str, pattern: str) -> Finding | None:
        """Return what is to be said of a setting whose pattern is no known task's family."""
        known = self.seen | (self.here or frozenset())
        if any(fnmatchcase(family, pattern) for family in known):
            return None
        near = difflib.get_close_matches(pattern, sorted(known), n=3, cutoff=_ALIKE)
        there = f": did you mean {' or '.join(near)}?" if near else ""
        if self.here is not None:
            return Finding(
                subject, f"{pattern} is no task of these modules, nor seen before{there}", missing=True
            )
        if near:
            return Finding(subject, f"luigid has seen no task {pattern}{there}", doubtful=True)
        return None


def findings(settings: Settings, operator: Operator, modules: tuple[str, ...] = ()) -> Iterator[Finding]:
    """Yield what is found, from the files on."""
    files = ", ".join(str(path) for path in settings.files)
    yield Finding("configuration", files or "no luigi.cfg was found here: all settings have their defaults")
    # A worker has no admin token, and luigid may answer nobody without one.
    reader = operator if admin_token(settings) else operator.under(settings.worker_token)
    answers, refuses = yield from _scheduler(reader)
    there = in_force.ask(settings, reader)
    if there.by:
        yield Finding("caps", f"decided by luigid at {there.by}, as are prices and forecasts")
        for setting, here, said in in_force.passed_over(settings, there):
            what = f"{setting} is {here} here and {said} there: reload luigid if this is its file"
            yield Finding("not in force", what, doubtful=True)
    elif answers or refuses:
        yield Finding(
            "caps", "luigid does not say what is in force: this is said by luigi.cfg, if it is luigid's"
        )
    else:
        yield Finding("caps", "luigid does not answer: this is said by luigi.cfg, if it is luigid's")
    if answers:
        yield from _admin_token(settings, there)
    yield _ledger(settings, there)
    yield from _caps(there)
    for text in settings.passed_over:
        yield Finding("passed over", text)
    yield from _vendors(settings, reader, there)
    refused = list(_worker_token(settings, operator)) if answers or refuses else []
    yield from refused or [_tokens(settings, there)]
    yield from _retcode()
    yield from _rules(settings, there)
    yield from _families(settings, there, Tasks(there.families, _families_of(modules)))
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


@click.command("check", epilog="Example:  spendguard check --module billing")
@click.option(
    "--module", "modules", multiple=True, help="A pipeline's module, to look for misspelt task families."
)
@click.option("--verbose", is_flag=True, help="Each price, too.")
def check(modules: tuple[str, ...], verbose: bool) -> None:
    """Ask luigid what is in force, read luigi.cfg, and say what will happen here and what is missing."""
    missing = 0
    for finding in findings(settings_of(), operator_of(), modules):
        missing += finding.missing
        if verbose or not finding.detail:
            click.echo(str(finding))
    if missing:
        raise Stop(f"{missing} of these must be mended before vendor tasks can run", 1)


def _scheduler(reader: Operator) -> Generator[Finding, None, tuple[bool, bool]]:
    """Return whether luigid answers, and whether it refuses to."""
    try:
        runs = reader.get("/runs")
    except OperatorError as error:
        yield Finding("scheduler", str(error), missing=True)
        return False, error.exit_code != 3
    yield Finding("scheduler", f"luigid-spendguard answers at {reader.url} ({len(runs)} runs)")
    return True, False


def _admin_token(settings: Settings, there: InForce) -> Iterator[Finding]:
    if admin_token(settings) is not None:
        return
    if there.has_ledger:
        yield Finding("admin token", "none here: who tops up, approves, resolves or revokes needs luigid's")
    else:
        yield Finding("admin token", f"none yet: luigid makes {settings.token_file} with its first run")


def _ledger(settings: Settings, there: InForce) -> Finding:
    path = settings.ledger_path
    if there.by:
        where = f"; {path} is here" if path.exists() else ""
        return Finding(
            "ledger", "luigid has one" + where if there.has_ledger else "made with luigid's first run"
        )
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
            missing=True,
        )
    return Finding("ledger", f"{path}" + ("" if path.exists() else " (made with the first run)"))


def _caps(there: InForce) -> Iterator[Finding]:
    caps = there.caps
    for family in sorted(caps.families):
        cap, _ = caps.grant(family, None)
        yield Finding(f"root {family}", f"cap {format_usd(cap)} a run, and no more if it asks")
    cap, note = caps.grant("any other root", None)
    limit = caps.limit if caps.limit is not None else caps.default
    if note and not caps.families:
        where = "set default_cap_usd in [spendguard] of luigid's luigi.cfg"
        if there.by:
            text = f"no cap is set, so every paid call is denied: {where}"
            yield Finding("roots", text, missing=True)
        else:
            yield Finding(
                "roots", f"no cap is set here; if it is not in luigid's either, {where}", doubtful=True
            )
    elif limit is None:
        yield Finding("other roots", "cap $0.00: default_cap_usd is not set")
    else:
        yield Finding(
            "other roots",
            f"cap {format_usd(cap)} a run; at most {format_usd(limit)} if its budget_usd asks for it",
        )
    if caps.day is not None:
        yield Finding("all runs", f"cap {format_usd(caps.day)} a UTC day together")


def _duplicates(there: InForce) -> Iterator[Finding]:
    """Say what becomes of suspect duplicates at each vendor; a luigid of before does not tell."""
    rules: dict[str, str] = there.told.get("suspect_duplicates", {})
    if not rules:
        return
    at = {rule: ", ".join(sorted(name for name in rules if rules[name] == rule)) for rule in ("hold", "warn")}
    said = [f"{word} at {at[rule]}" for rule, word in (("hold", "held"), ("warn", "said")) if at[rule]]
    yield Finding("duplicates", f"suspect ones are {'; '.join(said) or 'not looked for'}")


def _rules(settings: Settings, there: InForce) -> Iterator[Finding]:
    caps = there.caps
    for family in sorted(caps.task_families):
        yield Finding(f"tasks {family}", f"cap {format_usd(caps.task_families[family])} inside any run")
    if caps.single is not None:
        yield Finding("single tasks", f"above {format_usd(caps.single)} wait for `spendguard approve`")
    yield from _duplicates(there)
    forecast = there.told["forecast"]
    what = {
        "off": "not made",
        "warn": "said in luigid's log when they are too much; nothing is held",
        "hold": "a run with too high a forecast is held until `spendguard approve`",
    }
    yield Finding("forecasts", what.get(forecast, forecast))
    if caps.shadow:
        yield Finding("mode", "shadow: NO CAP IS ENFORCED, what they would have denied is only recorded")
    if settings.vendor_tasks:
        yield Finding(
            "plugin",
            "a pipeline whose modules import no VendorTask has to call "
            "luigi_spendguard.install(), else its worker is one without the plugin",
        )
        text = (
            "under a worker without the plugin no call of theirs is seen: only the day's budget holds back "
            "their dispatch; what they spend is bounded by a vault key of the gateway, else BY NOTHING"
        )
        if forecast == "hold":
            text += "; forecast = hold holds them for good, since nobody opens their run"
        yield Finding("vendor_tasks", f"{', '.join(settings.vendor_tasks)}: {text}")


def _families(settings: Settings, there: InForce, tasks: Tasks) -> Iterator[Finding]:
    """Yield the families of settings that no known task has; without a module or a run nothing is known."""
    caps = there.caps
    named = [
        *(("[spendguard_caps]", family) for family in sorted(caps.families)),
        *(("[spendguard_family_caps]", family) for family in sorted(caps.task_families)),
        *(("[spendguard] vendor_tasks", one) for one in dict.fromkeys(settings.vendor_tasks)),
        *(
            ("[spendguard] vendor_tasks of luigid", one)
            for one in there.told["vendor_tasks"]
            if one not in settings.vendor_tasks
        ),
    ]
    for setting, pattern in named:
        if (doubt := tasks.doubt(setting, pattern)) is not None:
            yield doubt


def _families_of(modules: tuple[str, ...]) -> frozenset[str] | None:
    """Return the task families of a pipeline's modules; None where none is named. Raises Stop."""
    if not modules:
        return None
    sys.path.insert(0, str(Path.cwd()))  # As the installed command has it not, and `luigi --module` does.
    try:
        for module in modules:
            importlib.import_module(module)
    except Exception as error:
        raise Stop(f"--module {module} cannot be imported ({type(error).__name__}: {error})", 2) from None
    finally:
        sys.path.pop(0)
    return frozenset(Register.task_names())


def _vendors(settings: Settings, reader: Operator, there: InForce) -> Iterator[Finding]:
    """Yield a line for each vendor that is used, and what is wrong there."""
    apart, known = settings.gateway_url, there.gateways is not None
    served = there.gateways or {}
    if apart is not None:
        try:
            reader.at(apart, "the gateway", "start it, or mend [spendguard] gateway_url").get("/status")
            yield Finding("gateway", f"answers at {apart}, for {', '.join(sorted(served)) or 'no vendor'}")
            if shown_in_clear(apart, reader.url):
                clear = f"{apart} would show vault keys to the network, while luigid is reached by https"
                yield Finding("gateway", f"{clear}: calls are denied until both are https", missing=True)
        except OperatorError as error:
            yield Finding("gateway", str(error), missing=True)
    used = [
        name
        for name in VENDORS
        if name in served or in_force.is_set(settings, name) or (apart is not None and not known)
    ]
    for name in used:
        yield from _vendor(settings, there, name)
    if unused := [name for name in VENDORS if name not in used]:
        yield _unused(unused, none=not used, told=bool(there.by))


def _unused(names: list[str], *, none: bool, told: bool) -> Finding:
    where = ", ".join(
        f"[spendguard_{name}] secret or {VENDORS[name].secret_variables[0]}"
        for name in names
        if VENDORS[name].secret_variables
    )
    if none:
        text = f"no secret here{'' if told else ', and perhaps not in luigid'}: on the workers, set {where}"
        return Finding("vendors", f"{text}, else their calls are denied", missing=told, doubtful=not told)
    return Finding("not used", f"{', '.join(names)}: their calls are denied (there is no {where})")


def _vendor(settings: Settings, there: InForce, name: str) -> Iterator[Finding]:
    """Yield what a vendor's calls are guarded by, in one line; what is wrong with that; and each price."""
    own, place = in_force.of_worker(settings, name)
    goes_by = (there.gateways or {}).get(name)
    apart = settings.gateway_url
    if goes_by is not None:
        who = f"the gateway at {apart} has the secret" if apart is not None else "luigid is the gateway"
        text = f"{who}: workers need no secret" + (", nor is the one here used" if place else "")
    elif place:
        text = f"secret from {place}; calls go to {settings.vendor(name).base_url or 'the vendor itself'}"
    elif apart is not None and there.gateways is None:
        yield Finding(name, f"no secret here: calls are forwarded to the gateway at {apart}")
        return
    else:
        where = " or ".join([f"[spendguard_{name}] secret", *VENDORS[name].secret_variables[:1]])
        yield Finding(
            name, f"no secret here: on the workers, set {where}, else their calls are denied", missing=True
        )
        return
    told = goes_by if goes_by is not None else own
    text += f"; allowed: {', '.join(told['allowed_endpoints']) or 'everything that has a price, and reads'}"
    cap = there.told["vendors"].get(name, {}).get("run_cap_usd")
    text += f"; cap {format_usd(parse_usd(cap))} inside any run" if cap is not None else ""
    text += f"; {len(told['prices'])} prices of its own (--verbose)" if told["prices"] else ""
    yield Finding(name, text)
    # The section here, too: it may be luigid's, changed and not in force yet.
    section = vendor_in_force(settings.vendor(name))
    for problem in dict.fromkeys([*told["problems"], *section["problems"]]):
        yield Finding(name, problem, missing=True)
    for price in told["prices"]:
        yield Finding(f"at {name}", price, detail=True)


def _tokens(settings: Settings, there: InForce) -> Finding:
    if settings.worker_token is None:
        return Finding("workers", "no worker_token: only workers on luigid's own machine are served")
    bound = "" if there.caps.day is not None else ", but no daily_cap_usd bounds who has it"
    return Finding("workers", f"must show the worker_token{bound}")


def _worker_token(settings: Settings, operator: Operator) -> Iterator[Finding]:
    """Ask luigid what a worker is asked first: whether it may come in."""
    try:
        # No run has this name: nothing is ended, and no ledger is made for it.
        probe = {"name": f"spendguard-check-{uuid.uuid4()}"}
        operator.under(settings.worker_token).post("/api/spend_close_run", probe)
    except OperatorError as error:
        if error.exit_code == 4:
            yield Finding("worker token", str(error), missing=True)


def _retcode() -> Iterator[Finding]:
    value = luigi.configuration.get_config().get("retcode", "spend_blocked", None)
    if value is None:
        return
    if str(value).strip().isdecimal() and int(value) <= 255:
        yield Finding("exit code", f"{value} when vendor tasks are blocked")
    else:
        yield Finding("exit code", "[retcode] spend_blocked must be a number from 0 to 255", missing=True)
