"""docs/performance.md and its plots, made of the figures that were kept. Every number in it was measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from bench.figures import text
from bench.plots import bars, lines

Figures = Mapping[str, Any]

_HEAD = """\
# Performance

What a guarded pipeline, a call and luigid cost beside stock Luigi, and beside others who bound spending. `make bench`
measures this and writes this page; `make bench-quick`, two minutes on a machine that does nothing else, shows a little of
each and leaves the page as it is. What the page lacks was not measured when it was written; the figures themselves are in
[performance.json](performance.json), and `make bench ARGS="--parts call,ledger"` measures some of them anew.

Each figure is a median, with the least and the most of its rounds in brackets. What is compared in a part was measured in
turns, in one run, whose load is said; a ratio is that of one round. On a machine that others use as well all times are longer than they have to
be: read ratios and processor time, and the load that is said with each part. The ledger is on disk, each reservation
durable (`synchronous=FULL`) before a byte leaves. What was charged the vendor has counted: it was what the ledger had,
or there would be no figure. *Before* is another checkout of this project, where one was given (`--old`).
"""  # noqa: E501  # a page's lines are longer

_SIDES = {
    "stock": "stock Luigi",
    "worker": "guarded, secret on the worker",
    "gateway": "guarded, at the gateway",
    "guarded": "guarded luigid",
    "old_worker": "before, secret on the worker",
    "old_gateway": "before, at the gateway",
    "old_guarded": "before",
}


def write_report(found: Figures, folder: Path) -> None:
    """Write the page and its plots into a folder; parts that were not measured are left out."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = [_HEAD]
    measured = [name for name in _SECTIONS if name in found]
    machines = list(dict.fromkeys(_machine(found[name]["machine"]) for name in measured))
    parts += [f"Measured on {machine}.\n" for machine in machines]
    for name in measured:
        figures, before, after = (
            found[name]["figures"],
            found[name]["machine"]["load"],
            found[name]["load_after"],
        )
        parts += [*_SECTIONS[name](figures, _Plots(folder))]
        rounds = sorted(_rounds(figures)) or [1]
        times = " to ".join(str(n) for n in dict.fromkeys((rounds[0], rounds[-1])))
        plural = "" if times == "1" else "s"
        parts.append(
            f"\n{times} round{plural} of {found[name]['machine']['commit'] or 'no commit'};"
            f" the machine's load was {before[0]} before and {after[0]} after.\n"
        )
    (folder / "performance.md").write_text("\n".join(parts).rstrip() + "\n", "utf-8")


def _machine(on: Figures) -> str:
    return (
        f"{on['cores']} cores ({on['processor']}), {on['memory_gb']:.0f} GB, {on['system']}, Python"
        f" {on['python']}, SQLite {on['sqlite']}, Luigi {on['luigi']}, stripe {on['stripe']}, tornado"
        f" {on['tornado']}"
    )


def _rounds(figures: Any) -> set[int]:
    """Return of how many rounds the medians in some figures are."""
    if not isinstance(figures, Mapping):
        return set()
    if "median" in figures:
        return {figures["n"]}
    return {n for each in figures.values() for n in _rounds(each)}


class _Plots:
    """Writes plots beside the page."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def keep(self, name: str, svg: str, what: str) -> str:
        """Write one; return the line that shows it."""
        file = self._folder / f"performance-{name}.svg"
        file.write_text(svg, "utf-8")
        return f"\n![{what}]({file.name})\n"


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines_ = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in lines_)


def _sides_of(found: Figures) -> list[tuple[str, Figures]]:
    return [(_SIDES[name], side) for name, side in found.items() if name in _SIDES]


def _pipelines(figures: Figures, plots: _Plots) -> Iterator[str]:
    yield "## Whole pipelines"
    yield ""
    first = next(iter(figures.values()))
    yield (
        f"Each task charges one customer with the stripe SDK, {first['latency_ms']:.0f} ms at the vendor;"
        f" {first['workers']} worker processes. Wall time from the start of `luigi` to its end; processor"
        " time of luigid, of the worker with its children, and of all others on this machine meanwhile."
    )
    for tasks, found in figures.items():
        yield from _pipeline(f"### {int(tasks):,} tasks", f"pipeline-{tasks}", found, plots)


def _plain(found: Figures, plots: _Plots) -> Iterator[str]:
    title = f"## A pipeline without a vendor, {found['tasks']:,} tasks"
    yield from _pipeline(title, "plain", found, plots)


def _pipeline(title: str, name: str, found: Figures, plots: _Plots) -> Iterator[str]:
    sides = _sides_of(found)
    yield f"\n{title}\n"
    head = (
        "",
        "wall, s",
        "of stock's",
        "luigid's processor, s",
        "of stock's",
        "worker's processor, s",
        "others', s",
    )
    rows = [
        (
            side,
            text(one["wall_s"], 1),
            text(one["wall_ratio"]),
            text(one["luigid_cpu_s"], 1),
            text(one["luigid_cpu_ratio"]),
            text(one["worker_cpu_s"], 1),
            text(one["others_cpu_s"], 1),
        )
        for side, one in sides
    ]
    yield _table(head, rows)
    walls = [(side, one["wall_ratio"]) for side, one in sides]
    yield plots.keep(
        name, bars("Wall time, stock Luigi = 1 (shorter is better)", walls, "", reference=1.0), "Wall time"
    )


def _dispatch(figures: Figures, plots: _Plots) -> Iterator[str]:
    yield "## Finding work"
    yield ""
    yield (
        "Processor time of one `get_work` in the scheduler's own process, and its ratio to stock Luigi's of"
        " as many plain tasks, where `[spendguard] fast_dispatch` is on (it is by default; where it is off,"
        " every task is looked at, as stock Luigi does). *Blocked* tasks are vendor tasks of a run without"
        " money."
    )
    yield ""
    rows = []
    series: dict[str, list[tuple[float, float]]] = {}
    for size, kinds in figures.items():
        for kind, one in kinds.items():
            name = kind.replace("old_", "before: ")
            memory = f"{one['bytes_a_task']:,} ({one['stock_bytes_a_task']:,})"
            rows.append(
                (
                    f"{int(size):,}",
                    name,
                    text(one["ms"], 3),
                    text(one["stock_ms"], 2),
                    text(one["ratio"], 4),
                    memory,
                )
            )
            series.setdefault(name, []).append((float(size), one["ms"]["median"]))
        series.setdefault("stock Luigi", []).append((float(size), kinds["plain"]["stock_ms"]["median"]))
    yield _table(("pending", "tasks", "ms", "stock, ms", "ratio", "bytes a task (stock's)"), rows)
    svg = lines("One get_work (lower is better)", series, "pending tasks", "ms of processor time")
    yield plots.keep("dispatch", svg, "Time of get_work by pending tasks")


def _lag(figures: Figures, plots: _Plots) -> Iterator[str]:
    yield "## luigid beside blocked tasks"
    first = next(iter(figures.values()))
    yield ""
    yield (
        f"How late luigid's loop is, in milliseconds, with {first['blocked']:,} blocked tasks for which"
        f" {first['waiting']} workers wait. A loop that is idle is late, too, on a machine that others use."
    )
    yield ""
    names = {
        "alone": "nobody there",
        "still": "they wait",
        "beside_another_run": "another run charges meanwhile",
    }
    rows = [
        (
            _SIDES[side],
            said,
            *(f"{found[name][what]:.1f}" for what in ("p50_ms", "p99_ms", "max_ms")),
            f"{found[name]['luigid_busy']:.0%}",
        )
        for side, found in figures.items()
        for name, said in names.items()
    ]
    yield _table(("", "when", "p50", "p99", "most", "luigid is busy"), rows)


def _call(figures: Figures, plots: _Plots) -> Iterator[str]:
    yield "## One call in a task"
    yield ""
    yield "The same SDK and vendor with and without the guard, the secret on the worker; milliseconds."
    yield ""
    rows = [
        (part, *(text(figures[f"{side}_{part}_ms"]) for side in ("unguarded", "guarded", "added")))
        for part in ("p50", "p99")
    ]
    yield _table(("", "unguarded", "guarded", "added"), rows)


def _messages(figures: Figures, plots: _Plots) -> Iterator[str]:
    yield "## Messages"
    yield ""
    yield "What workers and luigid say to each other for a task of one call: messages a task, without pings."
    yield ""
    sides = _sides_of(figures)
    routes = dict.fromkeys(route for _, side in sides for route in side["messages"])
    rows = [
        (f"`{route.rpartition('/')[2]}`", *(str(side["messages"].get(route, "")) for _, side in sides))
        for route in routes
    ]
    rows.append(("all", *(f"{sum(side['messages'].values()):.2f}" for _, side in sides)))
    rows.append(("bytes, both ways", *(f"{side['bytes']:,}" for _, side in sides)))
    rows.append(("connections", *(str(side["connections"]) for _, side in sides)))
    yield _table(("", *(name for name, _ in sides)), rows)


def _gateway(figures: Figures, plots: _Plots) -> Iterator[str]:
    yield "## The gateway"
    yield ""
    yield "Calls by a client of HTTP, to the vendor itself and through the gateway; closed loop."
    yield ""
    rows = []
    shown = []
    for clients, sides in figures.items():
        if clients == "calls":
            continue
        for name, side in sides.items():
            added = (
                (text(side["added_p50_ms"]), text(side["added_p99_ms"]))
                if "added_p50_ms" in side
                else ("", "")
            )
            cpu = text(side["cpu_ms"]) if "cpu_ms" in side else ""
            title = {"direct": "the vendor itself", "gateway": "the gateway"}.get(
                name, _SIDES.get(name, name)
            )
            rows.append((clients, title, text(side["per_s"], 0), text(side["p50_ms"]), *added, cpu))
            if name != "direct":
                shown.append((f"{title}, {clients} client{'s' if clients != '1' else ''}", side["per_s"]))
    head = ("clients", "", "calls/s", "p50, ms", "added p50, ms", "added p99, ms", "processor a call, ms")
    yield _table(head, rows)
    ratios = [
        f"{clients}: {text(sides['gateway']['per_s_ratio_to_old'])} times as many calls/s,"
        f" {text(sides['gateway']['cpu_ratio_to_old'])} of the processor time a call"
        for clients, sides in figures.items()
        if "old_gateway" in sides
    ]
    if ratios:
        yield f"\nTo the gateway before, by clients: {'; '.join(ratios)}."
    yield plots.keep(
        "gateway", bars("Calls a second (longer is better)", shown, "/s", digits=0), "Calls a second"
    )


def _ledger(figures: Figures, plots: _Plots) -> Iterator[str]:
    yield "## The ledger alone"
    yield ""
    yield "Pairs of a reservation and its end, each durable; beside what the disk's `fdatasync` allows."
    yield ""
    rows = []
    for name, sides in figures.items():
        digits = 2 if name.endswith(", ms") else 0
        before = (text(sides["before"], digits), text(sides["ratio"])) if "before" in sides else ()
        rows.append((name, text(sides["now"], digits), *before))
    yield _table(("", "now", "before", "ratio")[: len(rows[0])], rows)


def _server(figures: Figures, plots: _Plots) -> Iterator[str]:
    yield "## The ledger at a server"
    yield ""
    yield (
        "Pairs of a reservation and its end in one run at a PostgreSQL server on the same machine, each"
        " durable (`fsync` on). Each process has one caller where nothing else is said."
    )
    yield ""
    yield _table(("", "pairs/s"), [(name, text(of, 0)) for name, of in figures["pairs"].items()])
    yield ""
    yield (
        "What a pair of another run takes that makes some fifty a second, alone; beside a hot run; and beside"
        " as much work in other books, on the same processors: what is more than that, its locks have cost."
    )
    yield ""
    titles = {"alone": "alone", "elsewhere": "beside as much in other books", "beside": "beside a hot run"}
    rows = [
        (
            title,
            *(text(side[p]) for p in ("p50", "p99")),
            *(text(side[f"p99_to_{of}"]) for of in ("alone", "elsewhere")),
        )
        for name, title in titles.items()
        for side in [figures["other run"][name]]
    ]
    yield _table(("", "p50, ms", "p99, ms", "p99 to alone", "p99 to other books"), rows)


def _start(figures: Figures, plots: _Plots) -> Iterator[str]:
    yield "## Start"
    yield ""
    yield _table(("command", "s"), [(f"`{name}`", text(figure)) for name, figure in figures.items()])


def _history(figures: Figures, plots: _Plots) -> Iterator[str]:
    yield "## A long ledger"
    yield ""
    yield (
        "Of runs that are all still open, and of tasks that have all paid and none of which has completed:"
        " the most that luigid has to remember of so many calls."
    )
    yield ""
    rows = [
        (
            f"{int(calls):,}",
            f"{one['file_mb']:,}",
            text(one["start_s"], 1),
            text(one["luigid_mb"], 0),
            text(one["list_runs_ms"], 0),
            text(one["list_calls_ms"], 0),
        )
        for calls, one in figures.items()
    ]
    head = (
        "calls",
        "file, MB",
        "luigid starts, s",
        "luigid holds, MB",
        "first /runs, ms",
        "first /calls, ms",
    )
    yield _table(head, rows)


def _reconcile(figures: Figures, plots: _Plots) -> Iterator[str]:
    yield "## The vendor's own books"
    yield ""
    yield (
        "A day of Stripe's lists compared with the ledger (`spendguard reconcile`), in a process of its own:"
        " each payment has an intent, a charge and a balance transaction, and one in ten differs, in one of"
        " ten ways; each was found. The vendor answers at once here; at the 8 pages of 100 lines a second"
        " that are asked for, reading takes the time of the last column at least. Memory is the most that the"
        " process had, and when it began to compare."
    )
    yield ""
    rows = [
        (
            f"{one['lines']:,}",
            f"{one['s']:.1f}",
            f"{one['lines_s']:,}",
            f"{one['mb']:.0f}",
            f"{one['before_mb']:.0f}",
            f"{sum(one['found'].values()):,} of {sum(one['planted'].values()):,}",
            f"{one['pages'] / 8:.0f}",
        )
        for one in figures.values()
    ]
    head = ("lines", "s", "lines a second", "MB", "MB before", "differences found", "s at the vendor's rate")
    yield _table(head, rows)


def _audit(figures: Figures, plots: _Plots) -> Iterator[str]:
    yield "## The sealed audit"
    yield ""
    yield (
        f"Of {figures['rows']:,} sealed rows (two entries of the journal for each call, and the call), a"
        f" ledger of {figures['file_mb']:,.0f} MB. Sealing goes on beside the calls; an export is a process"
        " of its own. Its memory does not grow with the rows: of Parquet's, 33 MB are what `pyarrow` takes to"
        " be loaded."
    )
    yield ""
    rows = [
        (
            name,
            f"{one['rows_s']:,}",
            f"{one['s']:.1f}",
            f"{one['cpu_s']:.1f}" if "cpu_s" in one else "",
            f"{one['mb']:.0f}" if "mb" in one else "",
            f"{one['file_mb']:,.0f}" if "file_mb" in one else "",
        )
        for name, one in figures.items()
        if isinstance(one, dict) and "rows_s" in one
    ]
    yield _table(("what", "rows/s", "s", "of a processor, s", "most memory, MB", "file, MB"), rows)
    yield ""
    yield "Calls a second (reserve and settle) in one process, without sealing and with it, in turns:"
    yield ""
    calls = [
        (name, text(one["unsealed"], 0), text(one["sealed"], 0), text(one["ratio"]))
        for name, one in figures["calls"].items()
    ]
    yield _table(("callers", "unsealed", "sealed", "ratio"), calls)
    yield ""
    yield "Whole guarded calls one after another, by the SDK to a vendor on this machine, in turns:"
    yield ""
    whole = [
        (name, text(one["unsealed"]), text(one["sealed"]), text(one["ratio"]))
        for name, one in figures["whole calls"].items()
    ]
    yield _table(("of a call", "unsealed", "sealed", "ratio"), whole)


def _peers(figures: Figures, plots: _Plots) -> Iterator[str]:
    yield "## Beside others who bound spending"
    yield ""
    yield (
        "16 callers, $1 a call, 50 ms at the vendor, a cap of $20: dollars that the vendor counted. Then"
        " calls a second under a cap that nobody reaches, no time at the vendor, with one caller and with 16."
        " Redis writes to disk before it answers (`appendfsync always`), as the ledger does; agentbudget and"
        " LiteLLM keep what was spent in memory. LiteLLM has a budget for its provider here: one for a key"
        " needs a database. Of these the gateway alone reads what a call costs out of the request, and has a"
        " record of each."
    )
    yield ""
    rows = []
    for name, one in figures.items():
        if "absent" in one:
            rows.append((name, f"not measured: {one['absent']}", "", ""))
        else:
            rows.append((name, text(one["spent_usd"], 0), text(one["per_s_1"], 0), text(one["per_s_16"], 0)))
    yield _table(("", "spent of $20", "calls/s, 1", "calls/s, 16"), rows)
    bounded = list(figures.items())[1:]  # Nobody bounds the first: its bar would hide the others.
    shown = [(name, one["spent_usd"]) for name, one in bounded if "absent" not in one]
    svg = bars("Dollars spent of a cap of $20", shown, "USD", reference=20.0, digits=0)
    yield plots.keep("peers", svg, "Dollars spent of a cap of $20")


def _page(figures: Figures, plots: _Plots) -> Iterator[str]:
    yield "## The Budgets tab"
    yield ""
    yield (
        f"Over {figures['page_runs']:,} runs and {figures['page_calls']:,} calls, in Chromium "
        f"{figures['page_chromium']}: when the list of runs, and one run, is first painted and is whole, "
        "what a refresh takes, and what each fetches. Then luigid's `ping` and `get_work` (p50 / p99) alone "
        "and while somebody refreshes five times as often as a page does."
    )
    yield ""
    left = [name for name in figures if name not in ("page_runs", "page_calls", "page_chromium")]
    rows = [(name.removeprefix("page_").replace("_", " "), str(figures[name])) for name in left]
    yield _table(("", ""), rows)


_SECTIONS: Mapping[str, Callable[[Figures, _Plots], Iterator[str]]] = {
    "pipeline": _pipelines,
    "plain": _plain,
    "dispatch": _dispatch,
    "lag": _lag,
    "call": _call,
    "messages": _messages,
    "gateway": _gateway,
    "ledger": _ledger,
    "server": _server,
    "peers": _peers,
    "start": _start,
    "history": _history,
    "page": _page,
    "audit": _audit,
    "reconcile": _reconcile,
}
