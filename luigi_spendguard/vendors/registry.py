"""Which vendors there are: those of this package, and those that others have registered as entry points."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterator, Mapping
from importlib.metadata import entry_points

from luigi_spendguard import vendors
from luigi_spendguard.errors import PluginError
from luigi_spendguard.vendors.base import Vendor
from luigi_spendguard.vendors.model import Flows

#: Where another package names its vendors: `name = package.module:object`.
GROUP = "luigi_spendguard.vendors"


def _own() -> Iterator[Vendor]:
    """Yield the `VENDOR` of every module of this package that has one."""
    for module in pkgutil.iter_modules(vendors.__path__):
        if module.name == "registry":
            continue
        vendor = getattr(importlib.import_module(f"{vendors.__name__}.{module.name}"), "VENDOR", None)
        if vendor is not None:
            yield vendor


def find() -> dict[str, Vendor]:
    """Return all vendors by name. Raises PluginError for one that cannot be loaded: guards fail closed."""
    known = {vendor.name: vendor for vendor in _own()}
    for entry in entry_points(group=GROUP):
        where = f"the vendor {entry.name!r} ({entry.value})"
        try:
            loaded = entry.load()
            vendor = loaded() if isinstance(loaded, type) else loaded
        except Exception as error:
            raise PluginError(f"{where} cannot be loaded ({error}): mend or uninstall its package") from error
        if not isinstance(vendor, Vendor):
            raise PluginError(f"{where} is no luigi_spendguard.vendors.Vendor")
        if vendor.name != entry.name or not re.fullmatch(r"[a-z][a-z0-9_]{0,39}", vendor.name):
            raise PluginError(f"{where} must have its entry point's name, of letters, digits and _")
        if vendor.name in known or vendor.name in _TAKEN:
            raise PluginError(f"{where} has the name of another one: uninstall one of them")
        known[vendor.name] = vendor
    return known


#: `[spendguard_<name>]` and `/<name>` mean something else already.
_TAKEN = {
    *("caps", "family_caps", "fx", "tags", "runs", "calls", "vault", "status", "api", "static", "history"),
    "reports",
}

VENDORS: Mapping[str, Vendor] = find()


def flows() -> Flows:
    """Return the operations of all vendors whose money has a counterparty of its own."""
    marked = [(flow, f"{name} {one}") for name, v in VENDORS.items() for one, flow in v.flows.items()]
    inflow, outflow = ([one for mark, one in marked if mark == flow] for flow in ("inflow", "outflow"))
    return Flows(tuple(sorted(inflow)), tuple(sorted(outflow)))
