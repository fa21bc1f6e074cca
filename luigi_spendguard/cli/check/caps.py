"""Caps, approvals and forecasts that are in force, and families that are named for them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from luigi_spendguard.cli import in_force
from luigi_spendguard.cli.api_client import Operator, OperatorError
from luigi_spendguard.cli.check.finding import Doubt, Finding, Grade
from luigi_spendguard.cli.check.tasks import Tasks
from luigi_spendguard.cli.in_force import InForce
from luigi_spendguard.config import Settings
from luigi_spendguard.money import BadAmount, format_usd, parse_usd

#: Sections whose keys are task families.
_OF_FAMILIES = ("[spendguard_caps] ", "[spendguard_family_caps] ")


def passed_over(settings: Settings, there: InForce, tasks: Tasks) -> Iterator[Finding]:
    """Yield what the files here say and luigid does not go by; a family that none has may be why."""
    named = {**there.told["caps"], **there.told["family_caps"]}
    for setting, here, said in in_force.passed_over(settings, there):
        family = next((setting.removeprefix(one) for one in _OF_FAMILIES if setting.startswith(one)), None)
        doubt = None if family is None or family in named else tasks.doubt(family, named)
        what = f"{setting} is {here} here and {said} there: reload luigid if this is its file"
        yield Finding("not in force", what, Grade.LOOK).unless([doubt])


def _doubts(settings: Settings, there: InForce, tasks: Tasks, table: str, name: str) -> list[Doubt]:
    """Return what may be wrong with a family that luigid goes by: no task has it, or the file here has not.

    A worker's file need have no cap, and its own vendor_tasks alone; one that has other caps, or not what is
    misspelt, may be luigid's.
    """
    here, doubt = settings.in_force()[table], tasks.doubt(name)
    doubts = [] if doubt is None else [doubt]
    misspelt = doubt is not None and doubt.grade is not Grade.UNKNOWN
    if there.by and name not in here and (misspelt or (here and table != "vendor_tasks")):
        gone = "luigi.cfg here does not have it: if that is luigid's, restart luigid"
        doubts.append(Doubt(f"{gone}, as a reload takes nothing away", Grade.LOOK))
    return doubts


def roots(settings: Settings, there: InForce, tasks: Tasks) -> Iterator[Finding]:
    """Yield what the runs of each root may spend."""
    caps = there.caps
    for family in sorted(caps.families):
        cap, _ = caps.grant(family, None)
        text = f"cap {format_usd(cap)} a run, and no more if it asks"
        doubts = _doubts(settings, there, tasks, "caps", family)
        yield Finding(f"root {family}", text).unless(
            [*doubts, tasks.unguarded(family, settings.vendor_tasks)]
        )
    cap, note = caps.grant("any other root", None)
    limit = caps.limit if caps.limit is not None else caps.default
    rest = [family for family in tasks.roots() if family not in caps.families]
    among = f" ({', '.join(rest)})" if rest else ""
    if note and caps.shadow:
        text = f"cap $0.00{among}: default_cap_usd is not set, and a run that is opened so keeps that cap"
        yield Finding("other roots" if caps.families else "roots", text, Grade.LOOK)
    elif note and not caps.families:
        where = "set default_cap_usd in [spendguard] of luigid's luigi.cfg"
        if there.by:
            text = f"no cap is set, so every paid call is denied: {where}"
            yield Finding("roots", text, Grade.MISSING)
        else:
            text = f"no cap is set here; if it is not in luigid's either, {where}"
            yield Finding("roots", text, Grade.LOOK)
    elif limit is None:
        yield Finding("other roots", f"cap $0.00: default_cap_usd is not set{among}")
    else:
        yield Finding(
            "other roots",
            f"cap {format_usd(cap)} a run; at most {format_usd(limit)} if its budget_usd asks for it{among}",
        )
    if caps.day is not None:
        yield Finding("all runs", f"cap {format_usd(caps.day)} a UTC day together")


def of_the_day(operator: Operator, there: InForce) -> Iterator[Finding]:
    """Say where another process of luigid's ledger has a smaller cap of all runs: that one holds."""
    if there.caps.day is None or not there.by:
        return
    try:
        held = parse_usd(operator.get("/day")["cap_usd"])
    except (OperatorError, BadAmount, KeyError, TypeError):
        return
    if held < there.caps.day:
        text = (
            f"cap {format_usd(held)} a UTC day together, as another luigid, gateway or local worker of its "
            f"ledger has that daily_cap_usd; luigid's own is {format_usd(there.caps.day)}: give all the same"
        )
        yield Finding("all runs", text, Grade.LOOK)


def tags(settings: Settings, there: InForce, tasks: Tasks) -> Iterator[Finding]:
    """Yield what the runs of each root are counted under; a luigid of before does not tell."""
    for family, told in sorted(there.told.get("tags", {}).items()):
        text = f"runs are counted under {', '.join(f'{name}: {value}' for name, value in told.items())}"
        doubts = _doubts(settings, there, tasks, "tags", family)
        unlike = [replace(one, grade=Grade.LOOK) if one.grade is Grade.MISSING else one for one in doubts]
        yield Finding(f"tags {family}", text).unless(unlike)  # What they miss keeps no call from being made.


def _duplicates(there: InForce) -> Iterator[Finding]:
    """Say what becomes of suspect duplicates at each vendor; a luigid of before does not tell."""
    rules: dict[str, str] = there.told.get("suspect_duplicates", {})
    if not rules:
        return
    at = {rule: ", ".join(sorted(name for name in rules if rules[name] == rule)) for rule in ("hold", "warn")}
    said = [f"{word} at {at[rule]}" for rule, word in (("hold", "held"), ("warn", "said")) if at[rule]]
    yield Finding("duplicates", f"suspect ones are {'; '.join(said) or 'not looked for'}")


def rules(settings: Settings, there: InForce, tasks: Tasks) -> Iterator[Finding]:
    """Yield what holds inside runs."""
    caps = there.caps
    for family in sorted(caps.task_families):
        text = f"cap {format_usd(caps.task_families[family])} inside any run"
        yield Finding(f"tasks {family}", text).unless(_doubts(settings, there, tasks, "family_caps", family))
    if caps.single is not None:
        yield Finding("single tasks", f"above {format_usd(caps.single)} wait for `spendguard approve`")
    yield from _duplicates(there)
    forecast = there.told["forecast"]
    what = {
        "off": "not made",
        "warn": "said in luigid's log when they are too much; nothing is held",
        "hold": "a run with too high a forecast is held until `spendguard approve`; tasks of unknown cost "
        "count for nothing in it",
    }
    yield Finding("forecasts", what.get(forecast, forecast))
    if caps.shadow:
        text = "shadow: NO CAP IS ENFORCED, what they would have denied is only recorded"
        yield Finding("mode", text, Grade.LOOK)
    yield from _vendor_tasks(settings, there, tasks)


def _vendor_tasks(settings: Settings, there: InForce, tasks: Tasks) -> Iterator[Finding]:
    named = list(dict.fromkeys(settings.vendor_tasks))
    if named:
        yield Finding(
            "plugin",
            "a pipeline whose modules import no VendorTask has to import luigi_spendguard, or to call "
            "luigi_spendguard.install(), else its worker is one without the plugin",
        )
        text = (
            "under a worker without the plugin no call of theirs is seen: only the day's budget holds back "
            "their dispatch; what they spend is bounded by a vault key of the gateway, else BY NOTHING"
        )
        if there.told["forecast"] == "hold":
            text += "; forecast = hold holds them for good, since nobody opens their run"
        found = Finding("vendor_tasks", f"{', '.join(settings.vendor_tasks)}: {text}")
        yield found.unless(tasks.doubt(one) for one in named)
    for pattern in there.told["vendor_tasks"]:
        if pattern not in named and (doubts := _doubts(settings, there, tasks, "vendor_tasks", pattern)):
            first, *more = doubts
            yield Finding("vendor_tasks of luigid", first.text, first.grade).unless(more)
