"""`race`: forked workers ask at once for one cap at a fake vendor, by a luigid of their own.

`judge`: what that has shown, by the vendor's own count, which is then compared with the ledger.
"""

from __future__ import annotations

import json
import os
import tempfile
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

from luigi_spendguard.config import Settings
from luigi_spendguard.money import Micros, format_usd, parse_usd
from luigi_spendguard.selftest.sandbox import (
    Processes,
    ProcessFailed,
    SelfTestError,
    free_port,
    listening,
    tail,
)
from luigi_spendguard.selftest.site import FAMILY, Site, make_site, python_path

_MICROS_PER_CENT = 10_000
#: So many charges together are the cap; each worker asks for so many.
CHARGES = 10
_RUN = "self-test"
_PACKAGE = __package__ or ""
_ATTEMPTS = 3


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


def limit_of(settings: Settings, cap: Micros) -> tuple[Micros, str]:
    """Return the lowest cap that a run of the self-test has, and the user's setting it comes from, if any."""
    limits: list[tuple[Micros, str]] = [(cap, "")]
    if settings.caps.day is not None:
        limits.append((settings.caps.day, "daily_cap_usd"))
    if "stripe" in settings.caps.vendors:
        limits.append((settings.caps.vendors["stripe"], "[spendguard_stripe] run_cap_usd"))
    lowest, name = min(limits, key=lambda limit: limit[0])
    if lowest < CHARGES * _MICROS_PER_CENT:
        whose = f" ({name})" if name else ""
        raise SelfTestError(
            f"a cap of {format_usd(lowest)}{whose} is too low for a self-test: $0.10 at least"
        )
    return lowest, name


def race(settings: Settings, workers: int, cap: Micros, timeout_s: float) -> Facts:
    """Let `workers` processes ask for the whole cap each, at once; return what became of it.

    Raises SelfTestError, ConfigError.
    """
    effective, limit = limit_of(settings, cap)
    day = datetime.now(timezone.utc).date()
    asked = {"workers": workers, "charges": CHARGES, "cents": effective // (CHARGES * _MICROS_PER_CENT)}
    with tempfile.TemporaryDirectory(prefix="spendguard-self-test-") as name:
        folder = Path(name).resolve()
        site = make_site(folder, settings)
        with Processes(folder, timeout_s) as processes:
            vendor_url = _start_vendor(processes)
            _start_luigid(processes, site, cap, vendor_url)
            _run_pipeline(processes, site, vendor_url, asked)
            books = _books(vendor_url)
            run = _run_in_ledger(processes, site, vendor_url)
            reports = [json.loads(path.read_bytes()) for path in sorted(folder.glob("worker-*.json"))]
            logs = "".join(f"--- {name}\n{tail(processes.log(name))}\n" for name in ("luigid", "workers"))
    if settings.caps.day is not None and datetime.now(timezone.utc).date() != day:
        raise SelfTestError("midnight (UTC) has renewed daily_cap_usd in the midst of it: start it again")
    strangers = [shown for shown in books["credentials"] if shown != site.secret]
    return Facts(
        **asked,
        cap=effective,
        limit=limit,
        shadow=settings.caps.shadow,
        gateway=site.gateway,
        charged=books["charges"],
        counted_cents=books["cents"],
        strangers=len(strangers),
        run=run,
        reports=reports,
        logs=logs,
    )


def _start_vendor(processes: Processes) -> str:
    """Start the fake vendor; return its address."""
    port_file = processes.folder / "vendor.port"
    environment = {"PYTHONPATH": os.pathsep.join(python_path())}
    processes.serve("vendor", ["-m", f"{_PACKAGE}.vendor", str(port_file)], environment, port_file.exists)
    return f"http://127.0.0.1:{int(port_file.read_text())}"


def _sandboxed(site: Site, vendor_url: str, module: str, *args: str) -> list[str]:
    return ["-m", f"{_PACKAGE}.sandbox", str(site.config), vendor_url, module, *args]


def _start_luigid(processes: Processes, site: Site, cap: Micros, vendor_url: str) -> None:
    """Start luigid-spendguard on a free port, and write the luigi.cfg that leads there."""
    for left in reversed(range(_ATTEMPTS)):
        port = free_port()
        site.write(cap, vendor_url, port)
        args = _sandboxed(site, vendor_url, "scheduler_patch", "--address", "127.0.0.1", "--port", str(port))
        try:
            processes.serve("luigid", args, site.environment(luigid=True), partial(listening, port))
        except ProcessFailed:
            # Somebody else may have taken the port meanwhile.
            if not left or "Address already in use" not in tail(processes.log("luigid")):
                raise
        else:
            return


def _run_pipeline(processes: Processes, site: Site, vendor_url: str, asked: dict[str, int]) -> None:
    """Run the pipeline with Luigi's own command, whose worker forks a process for each task."""
    args = [
        "--module",
        f"{_PACKAGE}.pipeline",
        FAMILY,
        "--workers",
        str(asked["workers"]),
        "--run-id",
        _RUN,
        "--tasks",
        str(asked["workers"]),
        "--charges",
        str(asked["charges"]),
        "--cents",
        str(asked["cents"]),
        "--folder",
        str(site.folder),
    ]
    environment = site.environment() | {"SPENDGUARD_SELF_TEST_VENDOR": vendor_url}
    processes.run("workers", _sandboxed(site, vendor_url, "luigi", *args), environment)


def _books(vendor_url: str) -> dict[str, Any]:
    """Return what the vendor has counted."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"{vendor_url}/books", timeout=10) as reply:
        books: dict[str, Any] = json.load(reply)
    return books


def _run_in_ledger(processes: Processes, site: Site, vendor_url: str) -> dict[str, Any] | None:
    """Return the run as `spendguard run` shows it, None if there is none."""
    args = _sandboxed(site, vendor_url, "luigi_spendguard", "run", _RUN, "--format", "json")
    if processes.run("ledger", args, site.environment()) != 0:
        return None
    run: dict[str, Any] = json.loads(processes.log("ledger").read_bytes())
    return run


def judge(facts: Facts) -> tuple[bool, str]:
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
    wrong = []
    over = facts.counted - facts.cap
    if over > 0 and facts.shadow:
        wrong.append(f"THE CAP DOES NOT BITE, because mode = shadow: {format_usd(over)} too much passed")
    elif over > 0:
        wrong.append(f"THE CAP WAS PASSED by {format_usd(over)}")
    elif facts.counted < facts.cap // facts.cents // _MICROS_PER_CENT * facts.cents * _MICROS_PER_CENT:
        wrong.append(f"less than the cap was let through, so it was not put to the test{_why(facts)}")
    pids = {report["pid"] for report in facts.reports}
    if len(pids) != facts.workers:
        wrong.append(f"only {len(pids)} of {facts.workers} workers took part to the end")
    unclear = next((report["failed"][0] for report in facts.reports if report["failed"]), None)
    if unclear is not None and facts.counted >= facts.cap:
        wrong.append(f"a worker was not told what became of a charge ({unclear})")
    if facts.strangers:
        wrong.append("the vendor was shown another credential than the secret")
    return [*wrong, *_ledger(facts)]


def _why(facts: Facts) -> str:
    """Return what a worker was told where it should have been let through."""
    for report in facts.reports:
        if report["failed"]:
            return f" ({report['failed'][0]})"
    message = next((report["message"] for report in facts.reports if "message" in report), "")
    return f" ({message})" if message else ""


def _ledger(facts: Facts) -> list[str]:
    """Return where the ledger does not agree with the vendor."""
    if facts.run is None:
        return ["the ledger knows no such run"]
    wrong = []
    spent, reserved = (parse_usd(facts.run[f"{part}_usd"]) for part in ("spent", "reserved"))
    if spent != facts.counted:
        wrong.append(f"the ledger says {format_usd(spent)}")
    if reserved:
        wrong.append(f"{format_usd(reserved)} are still reserved in the ledger")
    return wrong
