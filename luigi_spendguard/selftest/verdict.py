"""What a self-test has shown: judged by the vendor's own count, then compared with the ledger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from luigi_spendguard.money import format_usd, parse_usd

_MICROS_PER_CENT = 10_000


@dataclass(frozen=True)
class Facts:
    """What was asked of the guard, and what became of it.

    Attributes:
        charges: how many each worker asked for, of `cents` each.
        cap: the lowest that was in force, in micro-dollars; `limit`: the user's setting it comes from.
        gateway: whether the workers had no secret, and asked luigid's gateway.
        charged, counted_cents: what the vendor has counted.
        strangers: how many credentials the vendor was shown beside the right one.
        run: the run as the ledger has it, None if it has none.
        reports: what each worker's task wrote down.
        logs: the ends of what the processes said.

    """

    workers: int
    charges: int
    cents: int
    cap: int
    limit: str
    shadow: bool
    gateway: bool
    charged: int
    counted_cents: int
    strangers: int
    run: Mapping[str, Any] | None
    reports: Sequence[Mapping[str, Any]]
    logs: str = ""

    @property
    def counted(self) -> int:
        """What the vendor has counted, in micro-dollars."""
        return self.counted_cents * _MICROS_PER_CENT

    @property
    def refused(self) -> int:
        """How many charges the guard refused."""
        return sum(sum(report["refused"].values()) for report in self.reports)


def judged(facts: Facts) -> tuple[bool, str]:
    """Return whether the cap has bitten, and the one line that says so."""
    asked = facts.workers * facts.charges
    limit = f" ({facts.limit})" if facts.limit else ""
    way = " through the gateway" if facts.gateway else ""
    begin = (
        f"{facts.workers} workers asked for {format_usd(asked * facts.cents * _MICROS_PER_CENT)} in {asked} "
        f"charges{way} under a cap of {format_usd(facts.cap)}{limit}: the vendor counted "
        f"{format_usd(facts.counted)} ({facts.charged} charges)"
    )
    wrong = list(_wrong(facts))
    if wrong:
        return False, f"FAILED: {begin}; {'; '.join(wrong)}"
    return True, f"ok: {begin}, the ledger agrees; {facts.refused} were refused"


def _wrong(facts: Facts) -> list[str]:
    found = []
    over = facts.counted - facts.cap
    if over > 0 and facts.shadow:
        found.append(f"THE CAP DOES NOT BITE, because mode = shadow: {format_usd(over)} too much passed")
    elif over > 0:
        found.append(f"THE CAP WAS PASSED by {format_usd(over)}")
    elif facts.counted < facts.cap // facts.cents // _MICROS_PER_CENT * facts.cents * _MICROS_PER_CENT:
        found.append(f"less than the cap was let through, so it was not put to the test{_why(facts)}")
    processes = {report["pid"] for report in facts.reports}
    if len(processes) != facts.workers:
        found.append(f"only {len(processes)} of {facts.workers} workers took part to the end")
    unclear = next((report["failed"][0] for report in facts.reports if report["failed"]), None)
    if unclear is not None and facts.counted >= facts.cap:
        found.append(f"a worker was not told what became of a charge ({unclear})")
    if facts.strangers:
        found.append("the vendor was shown another credential than the secret")
    return [*found, *_ledger(facts)]


def _why(facts: Facts) -> str:
    """Return what a worker was told where it should have been let through."""
    for report in facts.reports:
        if report["failed"]:
            return f" ({report['failed'][0]})"
    said = next((report["said"] for report in facts.reports if "said" in report), "")
    return f" ({said})" if said else ""


def _ledger(facts: Facts) -> list[str]:
    """Return where the ledger does not agree with the vendor."""
    if facts.run is None:
        return ["the ledger knows no such run"]
    found = []
    spent, reserved = (parse_usd(facts.run[f"{part}_usd"]) for part in ("spent", "reserved"))
    if spent != facts.counted:
        found.append(f"the ledger says {format_usd(spent)}")
    if reserved:
        found.append(f"{format_usd(reserved)} are still reserved in the ledger")
    return found
