"""`Setting`, one key of luigi.cfg, and `VendorSettings`, what a vendor's section comes to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from luigi_spendguard.money import Micros
from luigi_spendguard.settings import values
from luigi_spendguard.settings.files import Raw
from luigi_spendguard.settings.values import in_file


@dataclass(frozen=True)
class Setting:
    """One key of luigi.cfg: how it is read and what it means.

    Attributes:
        section: where it stands; "" for a vendor's own: `[spendguard_<vendor>]`.
        variable: the environment variable that is read where the key is not set; "" for none.

    """

    section: str
    key: str
    read: Callable[[Raw, str], Any]
    default: str
    meaning: str
    secret: bool = False
    variable: str = ""


@dataclass(frozen=True)
class VendorSettings:
    """One vendor's section.

    Attributes:
        secret: the vendor's real credential, None where this file has none.
        base_url: where calls are sent instead of to the vendor itself; None: to the vendor.
        timeout_s: seconds to wait for the vendor.
        allowed_endpoints: patterns of what may be called; empty: everything that has a price.
        run_cap_usd: what may be spent there inside any run, in micro-dollars; None: the run's cap alone.
        prices: what a call of an operation costs, in micro-dollars, where the operator says so.
        own: the values of the keys that only this vendor has (`Vendor.settings`).

    """

    name: str
    secret: str | None = field(default=None, repr=False)
    base_url: str | None = None
    timeout_s: float = 80.0
    allowed_endpoints: tuple[str, ...] = ()
    run_cap_usd: Micros | None = None
    prices: Mapping[str, Micros] = field(default_factory=dict)
    own: Mapping[str, Any] = field(default_factory=dict)


def vendor_section(
    name: str, home: str, variables: tuple[str, ...], own: tuple[Setting, ...]
) -> tuple[Setting, ...]:
    """Return what may stand in `[spendguard_<name>]`: what every vendor has, and its `own` settings.

    `home` is the vendor's address, `variables` are where its secret usually is.
    """
    section = f"spendguard_{name}"
    usual = " or ".join(variables) or "environment has none"
    return (
        Setting(section, "secret", values.secret, f"the worker's {usual}", "The vendor's secret.", True),
        Setting(
            section,
            "secret_file",
            in_file(values.secret),
            "none",
            "A file with the vendor's secret, mode 0600, instead of `secret`.",
            True,
        ),
        Setting(
            section,
            "base_url",
            values.base_url,
            home or "the vendor's own addresses",
            "Where calls are sent: https, or http to this machine for tests.",
        ),
        Setting(
            section,
            "timeout_s",
            values.seconds,
            "80",
            "Seconds from the first byte of a request until the vendor's whole reply is here.",
        ),
        Setting(
            section,
            "allowed_endpoints",
            values.endpoints,
            "everything that has a price, and what reads",
            "What may be called: a method and a path, in which `*` may stand, or an operation",
        ),
        Setting(
            section,
            "run_cap_usd",
            values.usd,
            "none: the run's cap alone",
            "What may be spent at this vendor inside any run. Read by luigid.",
        ),
        Setting(
            section,
            "prices",
            values.prices,
            "none: what has no bound is denied",
            "Fixed prices of operations in USD, as `subscriptions.create: 20, payment_links.create: 5`.",
        ),
        *(Setting(section, s.key, s.read, s.default, s.meaning, s.secret, s.variable) for s in own),
    )
