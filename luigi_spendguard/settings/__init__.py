"""What may stand in luigi.cfg: each key with how it is read and what it means (`Setting`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from luigi_spendguard.money import Micros
from luigi_spendguard.settings import values
from luigi_spendguard.settings.files import PREFIX, Raw, in_file


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


#: What may stand in `[spendguard]`.
MAIN: tuple[Setting, ...] = (
    Setting(
        PREFIX,
        "ledger_url",
        values.ledger_url,
        "luigi-spendguard/spendguard.db in XDG_STATE_HOME",
        "Where the ledger is: a file, as `sqlite:////absolute/path`, or a database of a PostgreSQL server, "
        "as `postgresql://user@host/database`. Read by luigid.",
    ),
    Setting(
        PREFIX,
        "default_cap_usd",
        values.usd,
        "none: such a run has a cap of 0",
        "The cap of a run that asks for nothing.",
    ),
    Setting(PREFIX, "max_cap_usd", values.usd, "`default_cap_usd`", "No run may ask for more."),
    Setting(PREFIX, "daily_cap_usd", values.usd, "none", "All runs together, per UTC day."),
    Setting(
        PREFIX,
        "admin_token",
        values.token,
        "made with the first run, beside the ledger, mode 0600",
        "Who shows it may top up, resolve and revoke.",
        True,
    ),
    Setting(
        PREFIX,
        "admin_token_file",
        in_file(values.token),
        "none",
        "A file with the admin token, mode 0600, instead of `admin_token`.",
        True,
    ),
    Setting(
        PREFIX,
        "worker_token",
        values.token,
        "none: only workers on luigid's own machine are served",
        "Who shows it may open runs and claim tasks. The same in the workers' and luigid's files.",
        True,
    ),
    Setting(
        PREFIX,
        "gateway_url",
        values.gateway_url,
        "luigid's address, for the vendors that it serves",
        "Where the gateway is, if not at luigid's address. Read by the worker; by luigid, too.",
    ),
    Setting(
        PREFIX,
        "worker_token_file",
        in_file(values.token),
        "none",
        "A file with the worker token, mode 0600, instead of `worker_token`.",
        True,
    ),
    Setting(
        PREFIX,
        "operator_top_up_usd",
        values.usd,
        "none: as much as an admin",
        "The most by which an operator of role `operate` may raise one run's budgets in all.",
    ),
    Setting(
        PREFIX,
        "two_operators_above_usd",
        values.usd,
        "none: each operator tops up alone",
        "A top-up above it, or several of one operator's that come to more, waits for a second operator.",
    ),
    Setting(
        PREFIX,
        "vendor_tasks",
        values.names,
        "none",
        "Families (or patterns such as `billing.*`) that are vendor tasks without the mixin.",
    ),
    Setting(
        PREFIX,
        "on_blocked",
        values.one_of("exit", "wait"),
        "exit",
        "`exit` or `wait`: what a worker with only blocked tasks left does. Read by the worker.",
    ),
    Setting(
        PREFIX,
        "kill_on_revoke",
        values.boolean,
        "true",
        "Whether running tasks of a revoked run are ended, once their call in flight has.",
    ),
    Setting(
        PREFIX,
        "fast_dispatch",
        values.boolean,
        "true",
        "Whether luigid finds work without looking at every pending task. What it hands out is the same.",
    ),
    Setting(
        PREFIX,
        "forecast",
        values.one_of("off", "warn", "hold"),
        "warn",
        "`off`, `warn` or `hold`: what is done about a run that says it will cost too much.",
    ),
    Setting(
        PREFIX,
        "forecast_growth",
        values.growth,
        "3",
        "A forecast this many times as high as the last run of the same root family is too much.",
    ),
    Setting(
        PREFIX,
        "approve_above_usd",
        values.usd,
        "none",
        "A single task that may cost more waits for an approval.",
    ),
    Setting(
        PREFIX,
        "suspect_duplicates",
        values.one_of("hold", "warn", "off"),
        "`hold` for money, `warn` for texts and mails",
        "`hold`, `warn` or `off`: what becomes of a call whose target was charged by another task of the "
        "same family that has not completed. `hold`: its task waits for an approval; `warn`: it is said.",
    ),
    Setting(
        PREFIX,
        "mode",
        values.one_of("enforce", "shadow"),
        "enforce",
        "`enforce` or `shadow`: what a cap would have denied is recorded and let through.",
    ),
    Setting(
        PREFIX,
        "metrics_collector",
        values.one_of("none", "datadog", "prometheus"),
        "none",
        "Luigi's own collector beside ours, where a stock luigid is switched on by "
        "`metrics_collector = custom`.",
    ),
    Setting(
        PREFIX,
        "tls_cert",
        values.file,
        "none: plain HTTP",
        "luigid's (or the gateway's) certificate, PEM: its whole port then speaks TLS. With `tls_key`.",
    ),
    Setting(PREFIX, "tls_key", values.file, "none", "The key of `tls_cert`, PEM."),
    Setting(
        PREFIX,
        "anonymous_read",
        values.boolean,
        "true",
        "Whether runs' figures can be seen without a token, as Luigi's own page can.",
    ),
    Setting(
        PREFIX, "replay_days", values.days, "30", "Days for which the vendor's answers are kept for replay."
    ),
    Setting(
        PREFIX,
        "reconcile",
        values.time_of_day,
        "none",
        "When luigid compares the day before with the books of the vendors whose secrets it has: a time of "
        "day (UTC), such as `03:00`.",
    ),
    Setting(
        PREFIX,
        "audit_key_file",
        values.path,
        "made with the first run, beside the ledger, mode 0600",
        "The key that the audit is sealed with, PEM. The same for all luigids of a ledger.",
    ),
    Setting(
        PREFIX,
        "audit_anchor",
        values.anchors,
        "none",
        "Where each block of the audit is told, too: a file's absolute path, an https URL, or several.",
    ),
)


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
