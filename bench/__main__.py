"""Measure speed and size; keep the figures as JSON, and write docs/performance.md of them."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.audit import measure_audit
from bench.calls import measure_calls
from bench.dispatch import SIZES, measure_dispatch
from bench.footprint import measure_history, measure_start
from bench.gateway import CLIENTS, measure_gateway
from bench.ledger import measure_ledger
from bench.machine import machine
from bench.messages import measure_messages
from bench.page import measure_page
from bench.peers import measure_peers
from bench.pipeline import measure_lag, measure_pipeline, sides
from bench.reconciling import measure_reconcile
from bench.report import write_report
from bench.server import measure_server
from tests.support.processes import REPOSITORY

BUILD = REPOSITORY / "build" / "bench"


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Attributes:
        pipelines: of each whole pipeline, its tasks and how often it runs; `plain`: of one without a vendor.
        page: runs, calls and repeats.
        audit: runs, sealed rows, rounds of calls, and whole calls in each.
        server: seconds, repeats and processes at a PostgreSQL server.
        history: runs, and calls of each ledger.
        reconciled: payments that are compared, each with three lines.

    """

    pipelines: tuple[tuple[int, int], ...] = ((1500, 5), (10_000, 1))
    plain: tuple[int, int] = (10_000, 5)
    workers: int = 8
    blocked: int = 5000
    lag_s: float = 20.0
    dispatch: tuple[int, ...] = SIZES
    rounds: int = 7
    asks: int = 5
    calls: int = 200
    messages: int = 200
    clients: tuple[int, ...] = CLIENTS
    pairs: int = 2000
    server: tuple[float, int, int] = (5.0, 5, 8)
    history: tuple[int, tuple[int, ...]] = (1000, (10_000, 1_000_000))
    page: tuple[int, int, int] = (1000, 100_000, 8)
    audit: tuple[int, int, int, int] = (1000, 1_000_000, 7, 1000)
    peer_calls: int = 200
    reconciled: tuple[int, ...] = (3400, 34_000)


_FULL = Sizes()
_QUICK = Sizes(
    pipelines=((60, 1),),
    plain=(60, 1),
    blocked=200,
    lag_s=2.0,
    dispatch=(1000,),
    rounds=3,
    asks=3,
    calls=30,
    messages=20,
    clients=(1, 16),
    pairs=100,
    server=(1.5, 1, 8),
    history=(50, (2000,)),
    page=(50, 2000, 1),
    audit=(50, 6000, 2, 200),
    peer_calls=60,
    reconciled=(1000,),
)
_TINY = Sizes(
    pipelines=((4, 1),),
    plain=(4, 1),
    workers=2,
    blocked=4,
    lag_s=0.5,
    dispatch=(50,),
    rounds=2,
    asks=1,
    calls=10,
    messages=4,
    clients=(2,),
    pairs=10,
    server=(0.2, 1, 1),
    history=(3, (30,)),
    page=(3, 30, 1),
    audit=(3, 90, 1, 20),
    peer_calls=20,
    reconciled=(200,),
)


def _parts(sizes: Sizes, old: Path | None) -> Mapping[str, Callable[[Path], Any]]:
    """Return what can be measured, by name; `old`: a checkout of other code, measured in turns."""
    whole = sides(old, plain=False)
    return {
        "start": lambda folder: measure_start(sizes.rounds),
        "dispatch": lambda folder: measure_dispatch(sizes.dispatch, sizes.rounds, sizes.asks, old),
        "call": lambda folder: measure_calls(folder, sizes.calls, sizes.rounds),
        "messages": lambda folder: measure_messages(folder, whole, sizes.messages),
        "ledger": lambda folder: measure_ledger(folder, sizes.pairs, sizes.rounds, old),
        "server": lambda folder: measure_server(folder, *sizes.server),
        "gateway": lambda folder: measure_gateway(folder, sizes.rounds, old, sizes.clients),
        "history": lambda folder: measure_history(folder, *sizes.history, min(5, sizes.rounds)),
        "peers": lambda folder: measure_peers(folder, sizes.peer_calls, min(5, sizes.rounds)),
        "lag": lambda folder: {
            side.name: measure_lag(folder / side.name, side, sizes.blocked, 4, sizes.lag_s)
            for side in whole
            if side.guarded and not side.gateway
        },
        "plain": lambda folder: measure_pipeline(
            folder, sides(old, plain=True), sizes.plain[0], sizes.workers, sizes.plain[1], 0
        ),
        "pipeline": lambda folder: {
            str(tasks): measure_pipeline(folder / str(tasks), whole, tasks, sizes.workers, repeats, 0.05)
            for tasks, repeats in sizes.pipelines
        },
        "page": lambda folder: measure_page(folder, *sizes.page),
        "audit": lambda folder: measure_audit(folder, *sizes.audit),
        "reconcile": lambda folder: measure_reconcile(folder, sizes.reconciled),
    }


def main() -> None:
    """Measure what was asked for, one part after the other; figures of other parts are kept as they were."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    size = parser.add_mutually_exclusive_group()
    size.add_argument(
        "--quick",
        action="store_true",
        help="a little of each but the peers, in two minutes; docs/ stays as it is",
    )
    size.add_argument("--tiny", action="store_true", help="only to see that it runs")
    parser.add_argument("--parts", help="some of the parts, such as pipeline,gateway")
    parser.add_argument("--old", type=Path, help="a checkout of other code, measured in turns with this one")
    parser.add_argument("--folder", type=Path, help="where ledgers lie; their disk is measured, too")
    parser.add_argument("--build", type=Path, default=BUILD, help="where --quick and --tiny keep figures")
    given = parser.parse_args()
    sizes = _QUICK if given.quick else _TINY if given.tiny else _FULL
    small = given.quick or given.tiny
    target = given.build if small else REPOSITORY / "docs"
    results = target / ("quick.json" if small else "performance.json")
    target.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = json.loads(results.read_text()) if results.exists() and not small else {}
    parts = _parts(sizes, given.old.resolve() if given.old else None)
    every = [name for name in parts if name != "peers" or not given.quick]  # Those have to be installed.
    for name in given.parts.split(",") if given.parts else every:
        begun = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="spendguard-bench-", dir=given.folder) as place:
            before = machine()
            figures = parts[name](Path(place))
        found[name] = {"figures": figures, "machine": before, "load_after": machine()["load"]}
        results.write_text(json.dumps(found, indent=2) + "\n")  # What is measured is kept, whatever comes.
        print(f"# {name}: {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)
    write_report(found, target)
    print((target / "performance.md").read_text())


if __name__ == "__main__":
    main()
