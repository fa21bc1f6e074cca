"""`spendguard check`, `self-test`: what this luigi.cfg will do, what it lacks, and that its cap bites."""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace

import click
import luigi.configuration

from luigi_spendguard.cli.api_client import Operator, OperatorError, admin_token
from luigi_spendguard.cli.context import Stop, Usd, operator_of, settings_of
from luigi_spendguard.config import ConfigError, Settings, VendorSettings
from luigi_spendguard.money import Micros, format_usd
from luigi_spendguard.redaction import redact
from luigi_spendguard.selftest.race import judge, race
from luigi_spendguard.selftest.sandbox import ProcessFailed, SelfTestError
from luigi_spendguard.vendors.registry import VENDORS


@dataclass(frozen=True)
class Finding:
    """One line of the check; `missing`: something has to be done before vendor tasks can run."""

    subject: str
    text: str
    missing: bool = False


def findings(settings: Settings, operator: Operator) -> Iterator[Finding]:
    """Yield what is found, from the files on."""
    files = ", ".join(str(path) for path in settings.files)
    yield Finding("configuration", files or "no luigi.cfg was found here: all settings have their defaults")
    yield from _scheduler(settings, operator)
    yield _ledger(settings)
    yield from _caps(settings)
    for text in settings.passed_over:
        yield Finding("passed over", text)
    served = _served(operator)
    used = [name for name in VENDORS if _is_used(settings, name, served)]
    for vendor in used:
        yield _vendor(settings, vendor, served)
        yield from _prices(settings, vendor, served)
    if unused := [name for name in VENDORS if name not in used]:
        yield _unused(unused, missing=not used)
    refused = list(_worker_token(settings, operator))
    yield from refused or [_tokens(settings)]
    yield from _retcode()
    yield from _rules(settings)
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


@click.command("check", epilog="Example:  spendguard check")
def check() -> None:
    """Read luigi.cfg and say what will happen to each root and vendor, and what is missing."""
    missing = 0
    for finding in findings(settings_of(), operator_of()):
        missing += finding.missing
        click.echo(f"{'MISSING ' if finding.missing else 'ok      '}{finding.subject}: {finding.text}")
    if missing:
        raise Stop(f"{missing} of these must be mended before vendor tasks can run", 1)


def _scheduler(settings: Settings, operator: Operator) -> Iterator[Finding]:
    try:
        runs = operator.get("/runs")
    except OperatorError as error:
        yield Finding("scheduler", str(error), missing=True)
        return
    yield Finding("scheduler", f"luigid-spendguard answers at {operator.url} ({len(runs)} runs)")
    token = admin_token(settings)
    if token is None:
        yield Finding("admin token", f"none yet: luigid makes {settings.token_file} with its first run")


def _served(operator: Operator) -> list[str]:
    """Return the vendors whose gateway luigid is; none when it does not answer."""
    try:
        return list(operator.get("/status")["gateway"])
    except (OperatorError, KeyError, TypeError):
        return []


def _ledger(settings: Settings) -> Finding:
    path = settings.ledger_path
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


def _caps(settings: Settings) -> Iterator[Finding]:
    caps = settings.caps
    for family in sorted(caps.families):
        cap, _ = caps.grant(family, None)
        yield Finding(f"root {family}", f"cap {format_usd(cap)} a run, and no more if it asks")
    cap, note = caps.grant("any other root", None)
    limit = caps.limit if caps.limit is not None else caps.default
    if note and not caps.families:
        yield Finding(
            "roots",
            "no cap is set, so every paid call is denied: set default_cap_usd in [spendguard]",
            missing=True,
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


def _rules(settings: Settings) -> Iterator[Finding]:
    caps = settings.caps
    for family in sorted(caps.task_families):
        yield Finding(f"tasks {family}", f"cap {format_usd(caps.task_families[family])} inside any run")
    for vendor in sorted(caps.vendors):
        yield Finding(f"at {vendor}", f"cap {format_usd(caps.vendors[vendor])} inside any run")
    if caps.single is not None:
        yield Finding("single tasks", f"above {format_usd(caps.single)} wait for `spendguard approve`")
    what = {
        "off": "not made",
        "warn": "said in luigid's log when they are too much; nothing is held",
        "hold": "a run with too high a forecast is held until `spendguard approve`",
    }[settings.forecast]
    yield Finding("forecasts", what)
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
        if settings.forecast == "hold":
            text += "; forecast = hold holds them for good, since nobody opens their run"
        yield Finding("vendor_tasks", f"{', '.join(settings.vendor_tasks)}: {text}")


def _is_used(settings: Settings, name: str, served: list[str]) -> bool:
    """Return whether anything here is about a vendor: a section, a secret, a gateway."""
    variables = VENDORS[name].secret_variables
    is_set = settings.vendor(name) != VendorSettings(name) or any(os.environ.get(one) for one in variables)
    return name in served or is_set or settings.gateway_url is not None


def _unused(names: list[str], *, missing: bool) -> Finding:
    where = ", ".join(
        f"[spendguard_{name}] secret or {VENDORS[name].secret_variables[0]}"
        for name in names
        if VENDORS[name].secret_variables
    )
    if missing:
        return Finding(
            "vendors",
            f"no secret here: on the workers, set {where}, else their calls are denied",
            missing=True,
        )
    return Finding("not used", f"{', '.join(names)}: their calls are denied (there is no {where})")


def _vendor(settings: Settings, name: str, served: list[str]) -> Finding:
    vendor = settings.vendor(name)
    variables = VENDORS[name].secret_variables
    variable = next((v for v in variables if os.environ.get(v)), None)
    to = vendor.base_url or "the vendor itself"
    allowed = ", ".join(vendor.allowed_endpoints) or "everything that has a price, and reads"
    if name in served:
        where = f", and workers forward to {settings.gateway_url}" if settings.gateway_url else ""
        return Finding(
            name,
            f"luigid is the gateway{where}: workers need no secret; it sends calls to {to}; "
            f"allowed: {allowed}",
        )
    if vendor.secret:
        place = "luigi.cfg"
    elif variable:
        place = f"the environment variable {variable}"
    elif settings.gateway_url:
        return Finding(name, f"no secret here: calls are forwarded to the gateway at {settings.gateway_url}")
    else:
        return Finding(
            name,
            f"no secret here: on the workers, set [spendguard_{name}] secret or "
            f"{variables[0]}, else their calls are denied",
            missing=True,
        )
    return Finding(name, f"secret from {place}; calls go to {to}; allowed: {allowed}")


def _prices(settings: Settings, name: str, served: list[str]) -> Iterator[Finding]:
    vendor = settings.vendor(name)
    shown = next((os.environ[one] for one in VENDORS[name].secret_variables if os.environ.get(one)), None)
    if wrong := VENDORS[name].check(replace(vendor, secret=vendor.secret or shown)):
        yield Finding(f"prices at {name}", wrong, missing=True)
    if name in served or vendor.secret or vendor.own:
        for what, cost in VENDORS[name].price_list(vendor):
            yield Finding(f"at {name}", f"{what}: {cost}")
    for operation, price in () if wrong else sorted(vendor.prices.items()):
        yield Finding(f"at {name}", f"{operation} costs {format_usd(price)} a call")


def _tokens(settings: Settings) -> Finding:
    if settings.worker_token is None:
        return Finding("workers", "no worker_token: only workers on luigid's own machine are served")
    bound = "" if settings.caps.day is not None else ", but no daily_cap_usd bounds who has it"
    return Finding("workers", f"must show the worker_token{bound}")


def _worker_token(settings: Settings, operator: Operator) -> Iterator[Finding]:
    """Ask luigid what a worker is asked first: whether it may come in."""
    try:
        # No run has this name: nothing is ended, and no ledger is made for it.
        probe = {"name": f"spendguard-check-{uuid.uuid4()}"}
        Operator(operator.url, settings.worker_token).post("/api/spend_close_run", probe)
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


def _end(number: int, frame: object) -> None:
    raise KeyboardInterrupt  # As Ctrl-C: nothing is left behind.


@click.command(name="self-test", epilog="Example:  spendguard self-test --workers 8")
@click.option(
    "--workers",
    type=click.IntRange(2, 64),
    default=4,
    show_default=True,
    help="Processes that ask at once, each for the whole cap.",
)
@click.option("--cap", type=Usd(), default="10", show_default=True, help="The run's cap in USD.")
@click.option(
    "--timeout",
    "timeout_s",
    type=click.IntRange(5, 3600),
    default=120,
    show_default=True,
    help="Seconds until it is given up.",
)
def self_test(workers: int, cap: Micros, timeout_s: int) -> None:
    """Prove that the cap bites: real workers, your luigi.cfg, a fake vendor.

    Everything runs on this machine, with a luigid, a ledger and a vendor of its own; nothing of yours is
    touched, and no vendor is called.
    """
    settings = settings_of()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    try:
        facts = race(settings, workers, cap, timeout_s)
    except ProcessFailed as error:
        click.echo(error.log_end, err=True)
        raise Stop(str(error), 1) from None
    except (ConfigError, SelfTestError) as error:
        raise Stop(str(error), 2) from None
    good, line = judge(facts)
    click.echo(redact(line))
    if not good:
        if not facts.shadow:
            click.echo(facts.logs, err=True)
        raise SystemExit(1)
