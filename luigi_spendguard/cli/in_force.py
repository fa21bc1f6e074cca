"""What decides about money: luigid's settings, and a gateway's, as they tell them; else the files' here."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from luigi_spendguard.cli.api_client import Operator, OperatorError
from luigi_spendguard.cli.context import operator_name
from luigi_spendguard.cli.tokens import token_for
from luigi_spendguard.config import Settings, VendorSettings, vendor_in_force
from luigi_spendguard.money import Micros, format_usd, parse_usd
from luigi_spendguard.settings.policy import Caps
from luigi_spendguard.vendors.registry import VENDORS

#: Settings of `[spendguard]` that are luigid's to decide, and luigid's and the workers'.
_MAIN = ("default_cap_usd", "max_cap_usd", "daily_cap_usd", "approve_above_usd", "forecast", "vendor_tasks")


@dataclass(frozen=True)
class InForce:
    """What is in force, as `GET /settings` has it.

    Attributes:
        by: luigid's address; "" where it has not said it, and these are the settings of the files here.
        has_ledger: whether luigid has one.
        gateways: for each vendor whose secret is not the workers', what the gateway that has it goes by.

    """

    told: Mapping[str, Any]
    by: str = ""
    has_ledger: bool = False
    gateways: Mapping[str, Mapping[str, Any]] | None = None

    @property
    def caps(self) -> Caps:
        """The caps."""
        told = self.told
        vendors = {name: one["run_cap_usd"] for name, one in told["vendors"].items()}
        return Caps(
            default=_read(told["default_cap_usd"]),
            limit=_read(told["max_cap_usd"]),
            day=_read(told["daily_cap_usd"]),
            families=_amounts(told["caps"]),
            task_families=_amounts(told["family_caps"]),
            vendors=_amounts(vendors),
            single=_read(told["approve_above_usd"]),
            shadow=told["mode"] == "shadow",
        )

    @property
    def families(self) -> frozenset[str]:
        """The task families that luigid has seen."""
        return frozenset(self.told.get("families", ()))


def _read(amount: str | None) -> Micros | None:
    return None if amount is None else parse_usd(amount)


def _amounts(told: Mapping[str, str | None]) -> dict[str, Micros]:
    return {name: parse_usd(amount) for name, amount in told.items() if amount is not None}


def ask(settings: Settings, operator: Operator) -> InForce:
    """Ask luigid, and a gateway apart; never raises."""
    here = settings.in_force()
    try:
        told = operator.get("/settings")
        has_ledger = bool(operator.get("/status")["ledger"])
    except (OperatorError, KeyError, TypeError):
        return InForce(here, gateways=_gateways(settings, operator, {}))
    served = {name: told["vendors"][name] for name in told["gateway"] if name in VENDORS}
    return InForce(told, operator.url, has_ledger, _gateways(settings, operator, served))


def _gateways(
    settings: Settings, operator: Operator, served: Mapping[str, Mapping[str, Any]]
) -> Mapping[str, Mapping[str, Any]] | None:
    """Return what the gateways of vendors go by; None where a gateway apart has not said it."""
    if settings.gateway_url is None:
        return served
    try:
        apart = gateway(settings, settings.gateway_url, operator).get("/settings")
    except OperatorError:
        return None
    return {name: apart["vendors"][name] for name in apart["gateway"] if name in VENDORS}


def gateway(settings: Settings, url: str, operator: Operator) -> Operator:
    """Return a client of the gateway apart, at `url`."""
    remedy = "start it, or mend [spendguard] gateway_url"
    return operator.at(url, token_for(settings, url, operator_name()), "the gateway", remedy)


def of_worker(settings: Settings, name: str) -> tuple[Mapping[str, Any], str]:
    """Return what a worker goes by that calls a vendor itself, and where it has the secret; "" nowhere."""
    own = settings.vendor(name)
    variable = next((one for one in VENDORS[name].secret_variables if os.environ.get(one)), "")
    secret = own.secret or os.environ.get(variable)
    place = "luigi.cfg" if own.secret else f"the environment variable {variable}" if variable else ""
    return vendor_in_force(replace(own, secret=secret)), place


def is_set(settings: Settings, name: str) -> bool:
    """Return whether anything here is about a vendor: a section, or a secret."""
    return settings.vendor(name) != VendorSettings(name) or bool(of_worker(settings, name)[1])


def passed_over(settings: Settings, there: InForce) -> Iterator[tuple[str, str, str]]:
    """Yield each setting of the files here that luigid does not go by: its name, what is here, what is there.

    What the files do not set is luigid's alone.
    """
    here = settings.in_force()
    named = [(f"[spendguard] {key}", here[key], there.told[key]) for key in _MAIN]
    named += [
        (f"[spendguard_{table}] {family}", cap, there.told[table].get(family))
        for table in ("caps", "family_caps")
        for family, cap in here[table].items()
    ]
    for name in there.gateways or {}:
        mine, other = here["vendors"][name], (there.gateways or {})[name]
        keys = ("base_url", "run_cap_usd", "allowed_endpoints")
        named += [(f"[spendguard_{name}] {key}", mine[key], other[key]) for key in keys if key in other]
    for setting, mine, other in named:
        if setting in settings.set_here and mine != other:
            yield setting, _shown(setting, mine), _shown(setting, other)
    key = "suspect_duplicates"
    if f"[spendguard] {key}" in settings.set_here and here[key] != there.told.get(key, here[key]):
        yield f"[spendguard] {key}", str(settings.caps.suspects), "another rule"
    if settings.caps.shadow and there.told["mode"] != "shadow":
        yield "[spendguard] mode", "shadow", "enforce"


def _shown(setting: str, value: Any) -> str:
    if value is None or value == []:
        return "none"
    if isinstance(value, list):
        return ", ".join(value)
    is_text = setting.endswith((" forecast", " base_url"))
    return str(value) if is_text else format_usd(parse_usd(value))
