"""What the operator allows: the cap that a run is granted, and the operations of a vendor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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

    """

    default: Micros | None = None
    limit: Micros | None = None
    day: Micros | None = None
    families: Mapping[str, Micros] = field(default_factory=dict)
    task_families: Mapping[str, Micros] = field(default_factory=dict)
    vendors: Mapping[str, Micros] = field(default_factory=dict)
    single: Micros | None = None
    shadow: bool = False

    def grant(self, family: str, asked: Micros | None) -> tuple[Micros, str]:
        """Return the cap for a run of root `family`, and a note where it is not what was asked."""
        own = self.families.get(family)
        if asked is None:
            cap = own if own is not None else self.default
            return (Micros(0), _MISSING.format(family=family)) if cap is None else (cap, "")
        limit = next((c for c in (own, self.limit, self.default) if c is not None), None)
        if limit is None:
            return Micros(0), _MISSING.format(family=family)
        if asked <= limit:
            return asked, ""
        where = "[spendguard_caps]" if own is not None else (
            "max_cap_usd" if self.limit is not None else "default_cap_usd"
        )  # fmt: skip
        return limit, f"{format_usd(asked)} was asked, {format_usd(limit)} granted: the limit of {where}"


_MISSING = (
    "luigid's luigi.cfg grants {family} nothing: set default_cap_usd in [spendguard], or {family} in "
    "[spendguard_caps]"
)


def is_allowed(patterns: Sequence[str], line: str, operation: str) -> bool:
    """Return whether an allowlist lets an operation pass; an empty one lets every priced one pass.

    Patterns are `"POST /v1/payment_intents"` (with `*`) or `"payment_intents.create"`.
    """
    return not patterns or any(fnmatchcase(line, p) or operation == p for p in patterns)
