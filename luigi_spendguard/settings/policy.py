"""What the operator allows: the cap that a run is granted, and the operations of a vendor."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from fnmatch import fnmatchcase

from luigi_spendguard.money import Micros, format_usd


@dataclass(frozen=True)
class Caps:
    """The caps of luigi.cfg, in micro-dollars.

    Attributes:
        default: `default_cap_usd`, for a run that asks for nothing.
        limit: `max_cap_usd`, the most that a run may ask for.
        day: `daily_cap_usd`, all runs together per UTC day; None: no such budget.
        families: `[spendguard_caps]`, per root family its cap and the most its root may ask for.
        task_families: `[spendguard_family_caps]`, what a task family may spend inside any run.
        vendors: `run_cap_usd` of a vendor's section, what may be spent there inside any run.
        single: `approve_above_usd`, what a single task may spend without an approval.
        shadow: `mode = shadow`: what a cap would have denied is recorded and let through.
        suspects: `suspect_duplicates`; None: by what a vendor sells.
        moving: the vendors whose calls move money.

    """

    default: Micros | None = None
    limit: Micros | None = None
    day: Micros | None = None
    families: Mapping[str, Micros] = field(default_factory=dict)
    task_families: Mapping[str, Micros] = field(default_factory=dict)
    vendors: Mapping[str, Micros] = field(default_factory=dict)
    single: Micros | None = None
    shadow: bool = False
    suspects: str | None = None
    moving: frozenset[str] = frozenset()

    def duplicates(self, vendor: str) -> str:
        """Return what becomes of a vendor's calls that may be duplicates: `hold`, `warn` or `off`."""
        return self.suspects or ("hold" if vendor in self.moving else "warn")

    def grant(self, family: str, asked: Micros | None) -> tuple[Micros, str]:
        """Return the cap for a run of root `family`, and a note where it is not what was asked."""
        own = self.families.get(family)
        if asked is None:
            cap = own if own is not None else self.default
            return (Micros(0), _missing(family)) if cap is None else (cap, "")
        limit = next((c for c in (own, self.limit, self.default) if c is not None), None)
        if limit is None:
            return Micros(0), _missing(family)
        if asked <= limit:
            return asked, ""
        where = (
            "[spendguard_caps]"
            if own is not None
            else ("max_cap_usd" if self.limit is not None else "default_cap_usd")
        )
        return limit, f"{format_usd(asked)} was asked, {format_usd(limit)} granted: the limit of {where}"


def _missing(family: str) -> str:
    """Return why a run of a root family has no cap, and what to do: it stays true when that is done."""
    own = f", or {family} in [spendguard_caps]" if family else ""
    return (
        f"luigid's luigi.cfg had no cap for {family or 'it'}: set default_cap_usd in [spendguard]{own}, for "
        "later runs; one that was opened so has $0.00 and what it is topped up by"
    )


_ENDPOINT = re.compile(r"(?:(?:GET|POST|DELETE|PUT|PATCH) /\S+|[a-z_0-9]+(?:\.[a-z_0-9]+)+)")


def is_endpoint(pattern: str) -> bool:
    """Return whether `pattern` is like `POST /v1/payment_intents` or like `payment_intents.create`."""
    return bool(_ENDPOINT.fullmatch(pattern))


def no_endpoint(pattern: str) -> str:
    """Return what is wrong with a pattern of an allowlist."""
    return f"{pattern[:60]!r} is neither like `POST /v1/payment_intents` nor like `payment_intents.create`"


#: How long a vault key lives that is asked for without a time, and the longest it may, in milliseconds.
DEFAULT_TTL_MS, MAX_TTL_MS = 86_400_000, 366 * 86_400_000
_UNITS_MS = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


def ttl_ms(text: str) -> int:
    """Return a time to live such as `30s`, `15m`, `4h` or `7d` in milliseconds. Raises ValueError."""
    match = re.fullmatch(r"([0-9]{1,9})([smhd])", text)
    ms = int(match.group(1)) * _UNITS_MS[match.group(2)] if match else 0
    if not 0 < ms <= MAX_TTL_MS:
        raise ValueError("must be a time such as 30s, 15m, 4h or 7d, of 366 days at the most")
    return ms


def expiry_ms(text: str) -> int:
    """Return a moment such as `2026-11-26T18:00:00Z` in milliseconds since the epoch. Raises ValueError."""
    try:
        moment = datetime.fromisoformat(re.sub(r"[zZ]$", "+00:00", text))
        if moment.tzinfo is not None and moment.year >= 2000:
            return int(moment.timestamp() * 1000)
    except (ValueError, OverflowError):
        pass
    raise ValueError("must be a moment with its zone, such as 2026-11-26T18:00:00Z")


def moment(ms: int | None) -> str | None:
    """Return milliseconds since the epoch as `2026-11-26T18:00:00Z`."""
    if ms is None:
        return None
    return datetime.fromtimestamp(ms // 1000, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


class BadPeriod(ValueError):
    """A period is none; the message says why."""


def check_period(since_ms: int | None, until_ms: int | None, now_ms: int, *, over: bool = False) -> None:
    """Raise BadPeriod for a period that has not begun, or has no length, or is to be `over` and is not.

    All in milliseconds since the epoch; None: without that end.
    """
    for name, at_ms in (("begins", since_ms), ("ends", until_ms if over else None)):
        if at_ms is not None and at_ms > now_ms:
            raise BadPeriod(
                f"the period {name} in the future ({moment(at_ms)}): only what has been can be looked at"
            )
    if since_ms is not None and until_ms is not None and since_ms >= until_ms:
        raise BadPeriod(
            f"the period is empty: it begins at {moment(since_ms)} and ends at {moment(until_ms)}"
        )


def is_allowed(patterns: Sequence[str], line: str, operation: str) -> bool:
    """Return whether an allowlist lets an operation pass; an empty one lets every priced one pass.

    Patterns are `"POST /v1/payment_intents"` (with `*`) or `"payment_intents.create"`.
    """
    return not patterns or any(fnmatchcase(line, p) or operation == p for p in patterns)
