"""`load`: the settings of luigi.cfg, read strictly and frozen.

`SETTINGS` describes each key; the reader, `spendguard check` and docs/configuration.md follow it.
"""

from __future__ import annotations

import difflib
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from luigi_spendguard import redaction
from luigi_spendguard.money import Micros, format_usd, plain_usd
from luigi_spendguard.settings import MAIN, Setting, VendorSettings, operators, values
from luigi_spendguard.settings.files import (
    PREFIX,
    ConfigError,
    NotReadable,
    Raw,
    Sections,
    expanded,
    luigi_files,
    read_sections,
)
from luigi_spendguard.settings.given import Given
from luigi_spendguard.settings.operators import OPERATORS, ROLES_SECTION, NamedOperator
from luigi_spendguard.settings.policy import Caps
from luigi_spendguard.vendors.registry import VENDORS

__all__ = ["SETTINGS", "ConfigError", "Settings", "VendorSettings", "load"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """All settings of a process.

    Attributes:
        ledger_path: the ledger's file; with a server, where a file would be.
        ledger_server: the URL of the server's database that has the ledger; None: it is in the file.
        operator_top_up_usd: in micro-dollars, by how much an operator of role `operate` may raise what is
            one run's; None: without limit.
        two_operators_above_usd: in micro-dollars, what one operator may raise alone; None: all.
        operators: who is named in `[spendguard_operators]`, by name, with a token here or without.
        fx: USD for one unit of each currency (lower case).
        tags: `[spendguard_tags]`, what runs of a root family are counted under in reports.
        reconcile: when luigid compares with the vendors' books, in minutes since midnight UTC; None: never.
        forecast_growth: a forecast so many times as high as the last run's is held.
        gateway_url: where calls of vendors without a secret here are forwarded; None: to luigid itself,
            for the vendors that it serves.
        passed_over: why settings that stand in the files count as not set here.
        unset: secrets and tokens whose environment variable is not set, as `[section] key`.
        set_here: what the files set, as `[section] key` (for a list or table also each entry that is in it).
        given: what the files say, by `[section] key`.

    """

    ledger_path: Path
    caps: Caps = field(default_factory=Caps)
    ledger_server: str | None = None
    admin_token: str | None = field(default=None, repr=False)
    worker_token: str | None = field(default=None, repr=False)
    operators: Mapping[str, NamedOperator] = field(default_factory=dict)
    operator_top_up_usd: Micros | None = None
    two_operators_above_usd: Micros | None = None
    gateway_url: str | None = None
    vendor_tasks: tuple[str, ...] = ()
    on_blocked: str = "exit"
    kill_on_revoke: bool = True
    fast_dispatch: bool = True
    forecast: str = "warn"
    forecast_growth: Decimal = Decimal(3)
    metrics_collector: str = "none"
    tls_cert: Path | None = None
    tls_key: Path | None = None
    anonymous_read: bool = True
    replay_days: int = 30
    reconcile: int | None = None
    audit_key_file: Path | None = None
    audit_anchor: tuple[str, ...] = ()
    fx: Mapping[str, Decimal] = field(default_factory=dict)
    tags: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    vendors: Mapping[str, VendorSettings] = field(default_factory=dict)
    files: tuple[Path, ...] = ()
    passed_over: tuple[str, ...] = ()
    set_here: frozenset[str] = frozenset()
    unset: tuple[str, ...] = ()
    given: Mapping[str, Given] = field(default_factory=dict, repr=False, compare=False)

    @property
    def token_file(self) -> Path:
        """Where luigid keeps the admin token when luigi.cfg has none: beside the ledger."""
        return self.ledger_path.with_name(self.ledger_path.name + ".admin-token")

    @property
    def audit_key(self) -> Path:
        """Where the key of the audit is: never in the ledger."""
        return self.audit_key_file or self.ledger_path.with_name(self.ledger_path.name + ".audit-key")

    @property
    def ledger(self) -> Path | str:
        """Where the ledger is."""
        return self.ledger_path if self.ledger_server is None else self.ledger_server

    @property
    def ledger_name(self) -> str:
        """Where the ledger is, for people: without the password and the parameters of a server's URL."""
        return values.ledger_name(self.ledger)

    @property
    def has_ledger(self) -> bool:
        """Whether there is a ledger already: a file is made with the first run."""
        return self.ledger_server is not None or self.ledger_path.exists()

    def vendor(self, name: str) -> VendorSettings:
        """Return a vendor's settings, the defaults where it has no section."""
        return self.vendors.get(name, VendorSettings(name))

    def tags_of(self, root_family: str) -> dict[str, str]:
        """Return what runs of a root family are counted under in reports."""
        return dict(self.tags.get(root_family, {}))

    @property
    def vendors_with_secret(self) -> frozenset[str]:
        """The vendors whose secret is in this luigi.cfg: where luigid reads it, it is their gateway."""
        return frozenset(name for name, vendor in self.vendors.items() if vendor.secret is not None)

    def in_force(self) -> dict[str, Any]:
        """Return what of this decides about money, as `GET /settings` answers it: nothing that is secret."""
        caps = self.caps
        return {
            "default_cap_usd": _shown(caps.default),
            "max_cap_usd": _shown(caps.limit),
            "daily_cap_usd": _shown(caps.day),
            "approve_above_usd": _shown(caps.single),
            "operator_top_up_usd": _shown(self.operator_top_up_usd),
            "two_operators_above_usd": _shown(self.two_operators_above_usd),
            "suspect_duplicates": {name: caps.duplicates(name) for name in VENDORS},
            "mode": "shadow" if caps.shadow else "enforce",
            "forecast": self.forecast,
            "vendor_tasks": list(self.vendor_tasks),
            "caps": {family: _shown(cap) for family, cap in sorted(caps.families.items())},
            "family_caps": {family: _shown(cap) for family, cap in sorted(caps.task_families.items())},
            "tags": {family: dict(tags) for family, tags in sorted(self.tags.items())},
            "vendors": {name: vendor_in_force(self.vendor(name)) for name in VENDORS},
        }

    def lacks_operators(self, *, at_luigid: bool) -> str:
        """Return why no top-up above `two_operators_above_usd` can be made; "" where one can, or needs no
        second. `at_luigid`: who has no token here is nobody; a client has not all of them.
        """
        able = operators.who_may(self.operators, "operate", with_token=at_luigid)
        if self.two_operators_above_usd is None or len([*able]) > 1:
            return ""
        return (
            "[spendguard] two_operators_above_usd: no top-up above "
            f"{format_usd(self.two_operators_above_usd)} can be made, as "
            f"[{OPERATORS}] names no two operators of role operate or admin"
            f"{' whose tokens are set here' if at_luigid else ''}"
        )

    @property
    def longest_timeout_s(self) -> float:
        """The longest that a vendor may take to answer, in seconds: of those that are set up here.

        That is one with a section, or with its secret in the environment now; of none, the default.
        """
        used = [
            vendor.timeout_s
            for name, vendor in self.vendors.items()
            if vendor != VendorSettings(name)
            or any(os.environ.get(one) for one in VENDORS[name].secret_variables)
        ]
        return max(used, default=VendorSettings("").timeout_s)


def vendor_in_force(settings: VendorSettings) -> dict[str, Any]:
    """Return what of a vendor's section decides about money, as `GET /settings` answers it."""
    vendor = VENDORS[settings.name]
    used = settings.secret is not None or bool(settings.own)
    prices: list[str] = []
    try:
        problems = list(vendor.problems(settings))
        prices += [f"{what}: {cost}" for what, cost in vendor.price_list(settings)] if used else []
    except (
        Exception
    ) as error:  # It is anybody's vendor, and one of them keeps nobody from hearing of the others.
        problems = [f"the vendor {settings.name} failed to say its prices ({type(error).__name__})"]
    fixed = {} if problems else settings.prices
    prices += [f"{operation} costs {format_usd(price)} a call" for operation, price in sorted(fixed.items())]
    return {
        "base_url": settings.base_url,
        "run_cap_usd": _shown(settings.run_cap_usd),
        "allowed_endpoints": list(settings.allowed_endpoints),
        "prices": prices,
        "problems": problems,
    }


def _shown(amount: Micros | None) -> str | None:
    return None if amount is None else plain_usd(amount)


SETTINGS: tuple[Setting, ...] = (
    *MAIN,
    *(setting for vendor in VENDORS.values() for setting in vendor.section()),
)
_BY_KEY = {(setting.section, setting.key): setting for setting in SETTINGS}
#: Sections whose keys are the user's own names.
_TABLES: Mapping[str, Callable[[Raw, str], Any]] = {
    "spendguard_caps": values.usd,
    "spendguard_family_caps": values.usd,
    "spendguard_fx": values.rate,
    OPERATORS: operators.token,
    ROLES_SECTION: operators.role,
    "spendguard_tags": values.tags,
}


def load(
    files: Sequence[Path] | None = None,
    *,
    kind: str | None = None,
    environ: Mapping[str, str] | None = None,
    as_luigid: bool = False,
    complete: bool = False,
) -> Settings:
    """Return the settings of Luigi's configuration files. Raises ConfigError.

    `files` and `kind` (`ini` or `toml`): read these instead of the files that Luigi reads. `as_luigid`: a
    LUIGI_CONFIG_PATH that Luigi ignores is no error where no other file has a section of ours, since a stock
    luigid starts with it, too. `complete`: a file whose last line has no end is refused.
    """
    environ = os.environ if environ is None else environ
    complaint = ""
    if files is None:
        kind, files, complaint = luigi_files(environ)
    elif kind is None:
        kind = "toml" if files and files[-1].suffix == ".toml" else "ini"
    sections = read_sections(kind, files, complete=complete)
    if complaint and (sections or not as_luigid):
        raise ConfigError(complaint)
    if complaint:  # Nothing can be spent: no cap is known.
        logger.warning("%s", complaint)
    _check_sections(sections)
    found = _Found()
    read = {name: _read(content, environ, found) for name, content in sections.items()}
    set_here = frozenset(
        name
        for section, content in read.items()
        for key, value in content.items()
        for name in _names(section, key, value)
    )
    main = read.get(PREFIX, {})
    vendors = {v: _vendor(v, read.get(f"spendguard_{v}", {}), environ) for v in VENDORS}
    caps = Caps(
        default=main.pop("default_cap_usd", None),
        limit=main.pop("max_cap_usd", None),
        day=main.pop("daily_cap_usd", None),
        families=read.get("spendguard_caps", {}),
        task_families=read.get("spendguard_family_caps", {}),
        vendors={v: own.run_cap_usd for v, own in vendors.items() if own.run_cap_usd is not None},
        single=main.pop("approve_above_usd", None),
        shadow=main.pop("mode", "enforce") == "shadow",
        suspects=main.pop("suspect_duplicates", None),
        moving=frozenset(name for name, vendor in VENDORS.items() if vendor.moves_money),
    )
    if caps.limit is not None and caps.default is not None and caps.default > caps.limit:
        raise sections[PREFIX]["default_cap_usd"].error(
            f"{format_usd(caps.default)} is more than max_cap_usd, {format_usd(caps.limit)}"
        )
    for one, other in (("tls_cert", "tls_key"), ("tls_key", "tls_cert")):
        if one in main and other not in main:
            raise sections[PREFIX][one].error(f"needs {other} beside it")
    if main.get("admin_token") is not None and main.get("admin_token") == main.get("worker_token"):
        raws = sections[PREFIX]
        raise raws["admin_token" if "admin_token" in raws else "admin_token_file"].error(
            "is the same as worker_token: every worker could top up and resolve. Make another one"
        )
    named = operators.operators_of(
        sections,
        read.get(OPERATORS, {}),
        read.get(ROLES_SECTION, {}),
        {name: main[name] for name in ("admin_token", "worker_token") if name in main},
    )
    usual = state_folder(environ) / "spendguard.db"
    place = main.pop("ledger_url", None) or usual
    server = None if isinstance(place, Path) else place
    settings = Settings(
        place if isinstance(place, Path) else usual,
        caps,
        server,
        **main,
        operators=named,
        fx=read.get("spendguard_fx", {}),
        tags=read.get("spendguard_tags", {}),
        vendors=vendors,
        files=tuple(files),
        passed_over=tuple(found.passed_over),
        set_here=set_here,
        unset=tuple(found.unset),
        given=found.given,
    )
    # Whoever starts a pipeline in a shell of their own hands it to the pipeline's tasks, too.
    redaction.learn(environ.get(operators.VARIABLE), *(one.token for one in named.values()))
    redaction.learn(settings.admin_token, settings.worker_token, *(own.secret for own in vendors.values()))
    redaction.learn(*values.passwords_of(server or ""))
    return settings


def _vendor(name: str, section: dict[str, Any], environ: Mapping[str, str]) -> VendorSettings:
    """Return a vendor's section; what only this vendor has is in `own`."""
    own = {s.key: section.pop(s.key, environ.get(s.variable) or None) for s in VENDORS[name].settings}
    return VendorSettings(name, **section, own={k: value for k, value in own.items() if value is not None})


@dataclass
class _Found:
    """What is noted of settings while they are read: see `Settings`."""

    passed_over: list[str] = field(default_factory=list)
    unset: list[str] = field(default_factory=list)
    given: dict[str, Given] = field(default_factory=dict)


def _read(content: Mapping[str, Raw], environ: Mapping[str, str], found: _Found) -> dict[str, Any]:
    """Return a section's values; what is in a file of its own stands under the name without `_file`."""
    by_name: dict[str, Any] = {}
    for key, raw in content.items():
        try:
            value = _value(raw, environ)
        except NotReadable as error:
            found.passed_over.append(str(error))
            continue
        setting = _BY_KEY.get((raw.section, key))
        secret = _is_secret(raw)
        name = key.removesuffix("_file") if secret else key
        if value is None:
            if secret:
                found.unset.append(f"[{raw.section}] {key}")
            continue
        if name in by_name:
            raise raw.error(f"is given beside {name if key != name else name + '_file'}: remove one of them")
        by_name[name] = value
        default = setting.default if setting is not None and setting.default.isalnum() else ""
        shown = None if secret else expanded(raw, _text(raw), environ, optional=True)
        found.given[f"[{raw.section}] {name}"] = Given(value, shown, default if default != "none" else "")
    return by_name


def _is_secret(raw: Raw) -> bool:
    """Return whether nobody is to see a setting's value."""
    setting = _BY_KEY.get((raw.section, raw.key))
    return raw.section == OPERATORS or (setting is not None and setting.secret)


def _names(section: str, key: str, value: Any) -> Iterator[str]:
    """Yield what a setting that has a value is called, and each entry of its list or table.

    Not the entries of an allowlist, not `mode`, and no operator, nor a role that without its line would be
    none of less: without them, more is guarded.
    """
    if (section, key) == (PREFIX, "mode") or section == OPERATORS:
        return
    if section == ROLES_SECTION and operators.may(value, operators.DEFAULT_ROLE):
        return
    yield f"[{section}] {key}"
    if isinstance(value, (tuple, Mapping)) and not key.startswith("allowed_"):
        yield from (f"[{section}] {key}: {entry}" for entry in value)


def state_folder(environ: Mapping[str, str]) -> Path:
    """Return where this user's ledger is, unless luigi.cfg says it, and what waits to be told to one.

    Raises RuntimeError: neither the environment nor the system knows a home.
    """
    state = environ.get("XDG_STATE_HOME", "")
    base = Path(state) if state.startswith("/") else Path.home() / ".local" / "state"
    return base / "luigi-spendguard"


def _check_sections(sections: Sections) -> None:
    operators.check_names(sections)
    known = {section for section, _ in _BY_KEY} | set(_TABLES)
    for name, content in sections.items():
        if name not in known:
            first = next(iter(content.values()), None)
            file = f"{first.file}: " if first else ""
            meant = _section_meant(name, known)
            raise ConfigError(f"{file}[{name}] is no section of luigi_spendguard{meant}")
        if name in _TABLES:
            continue
        for key, raw in content.items():
            if (name, key) not in _BY_KEY:
                if name == PREFIX and isinstance(raw.value, Mapping):  # TOML's [spendguard.caps].
                    meant = _nearest(f"{PREFIX}_{key}", known)
                    raise ConfigError(
                        f"{raw.file}: [{PREFIX}.{key}] is no section of luigi_spendguard{meant}"
                    )
                keys = {k for section, k in _BY_KEY if section == name}
                raise raw.error(f"there is no such setting{_nearest(key, keys)}")


def _section_meant(name: str, known: set[str]) -> str:
    """Return which section may have been meant, or that no such vendor is known here."""
    begin, _, own = name.partition("_")
    if begin != PREFIX or not own:
        return _nearest(name, known)
    owns = {one.removeprefix(f"{PREFIX}_") for one in known - {PREFIX}}
    if near := difflib.get_close_matches(own.lower(), sorted(owns), n=1):
        return f": did you mean {PREFIX}_{near[0]}?"
    *others, last = sorted(VENDORS)
    there = f"{', '.join(others)} and {last}" if others else last
    more = ", ".join(f"[{PREFIX}_{one}]" for one in sorted(owns - set(VENDORS)))
    return (
        f": no vendor {own} is known here, only {there}; the package that adds it may be missing here (where "
        f"no vendor is meant, there are {more})"
    )


def _nearest(name: str, known: set[str]) -> str:
    near = difflib.get_close_matches(name.lower(), sorted(known), n=1, cutoff=0.5)
    return f": did you mean {near[0]}?" if near else f"; there are {', '.join(sorted(known))}"


def _value(raw: Raw, environ: Mapping[str, str]) -> Any:
    setting = _BY_KEY.get((raw.section, raw.key))
    read = setting.read if setting else _TABLES[raw.section]
    if raw.section == "spendguard_fx" and not re.fullmatch(r"[a-z]{3}", raw.key):
        raise raw.error("must be a currency's three lower-case letters")
    if raw.section == "spendguard_fx" and raw.key == "usd":
        raise raw.error("USD needs no rate")
    text = expanded(
        raw, _text(raw), environ, optional=_is_secret(raw) or (setting is not None and bool(setting.variable))
    )
    if text is None:
        return None
    if not text.strip():
        raise raw.error("is empty: give it a value or remove the line")
    if re.search(r"\s[#;]", text):
        raise raw.error("a comment must stand on a line of its own, not behind a value")
    return read(raw, text.strip())


def _text(raw: Raw) -> str:
    value = raw.value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list) and all(isinstance(part, str) and "," not in part for part in value):
        return ",".join(value)
    if isinstance(value, dict) and not any(isinstance(one, (dict, list, bool)) for one in value.values()):
        # TOML's table form of `name: value, name: value`.
        return ",".join(
            f"{name}: {format(one, 'f') if isinstance(one, Decimal) else one}" for name, one in value.items()
        )
    if isinstance(value, (str, int)):
        return str(value)
    if isinstance(value, Decimal):
        return format(value, "f")
    if value is None:
        return ""
    raise raw.error(f"cannot be a {type(value).__name__}")
