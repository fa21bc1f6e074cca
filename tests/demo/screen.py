"""What the demo prints: steps, one live line, checks, and the table at the end."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from tests.demo.servers import DemoFailed

#: Seconds between two looks, and between two lines where there is no terminal.
LOOK_S = 0.5
LINE_S = 4.0
#: Nothing in the demo takes so long, on however slow a machine.
GIVE_UP_S = 240.0


@dataclass(frozen=True)
class Figure:
    """A line of the final table."""

    step: str
    what: str
    found: str


class Screen:
    """Plain lines; on a terminal, the last one is alive."""

    def __init__(self) -> None:
        # Without a terminal (a pipe, a CI log) lines are neither coloured nor folded.
        console = Console(highlight=False, emoji=False)
        self._console = console if console.is_terminal else Console(highlight=False, emoji=False, width=160)
        self._figures: list[Figure] = []
        self._seconds: dict[str, float] = {}
        self._step = ""

    @contextmanager
    def step(self, name: str, title: str) -> Iterator[None]:
        """Print a heading; measure what happens below it."""
        self._step, began = name, time.monotonic()
        self._console.print(f"\n[bold]{title}[/bold]")
        yield
        self._seconds[name] = time.monotonic() - began

    def say(self, text: str) -> None:
        """Print a line; `[...]` in it is not markup."""
        self._console.print(f"  {text}", markup=False, soft_wrap=True)

    def code(self, lines: list[str]) -> None:
        """Print lines of code or of a log, unfolded."""
        for line in lines:
            self._console.print(f"    {line}", markup=False, soft_wrap=True)

    def watch(self, look: Callable[[], tuple[str, bool]], what: str, log: Path) -> None:
        """Show what `look` tells until it says that it is done. Raises DemoFailed."""
        limit = time.monotonic() + GIVE_UP_S
        with self._live() as show:
            while True:
                text, done = look()
                show(text, done)
                if done:
                    return
                if time.monotonic() > limit:
                    raise DemoFailed(f"{what}: not within {GIVE_UP_S:.0f} s ({text})", log)
                time.sleep(LOOK_S)

    @contextmanager
    def _live(self) -> Iterator[Callable[[str, bool], None]]:
        shown, last = time.monotonic(), ""

        def line(text: str, done: bool) -> None:
            nonlocal shown, last
            if text != last and (done or time.monotonic() - shown > LINE_S):
                shown, last = time.monotonic(), text
                self.say(f"... {text}")

        if not self._console.is_terminal:
            yield line
            return
        with self._console.status("", spinner="line") as status:
            yield lambda text, done: self.say(f"... {text}") if done else status.update(f"  {text}")

    def check(self, what: str, found: object, wanted: object, log: Path | None = None) -> None:
        """Print that `found` is as it should be, and keep it for the table. Raises DemoFailed."""
        if found != wanted:
            raise DemoFailed(f"{what}: should be {wanted}, is {found}", log)
        self._console.print(f"  [green]ok[/green]  {what}: [bold]{found}[/bold]")
        self._figures.append(Figure(self._step, what, str(found)))

    def note(self, what: str, found: object) -> None:
        """Keep a figure for the table that differs from run to run."""
        self._figures.append(Figure(self._step, what, str(found)))

    def table(self) -> None:
        """Print all figures, and how long each step took."""
        table = Table(box=box.ASCII2 if not self._console.is_terminal else box.ROUNDED)
        table.add_column("step")
        table.add_column("what Stripe's books, files and processes say")
        table.add_column("figure", justify="right")
        table.add_column("seconds", justify="right")
        last = ""
        for figure in self._figures:
            new = figure.step != last
            last = figure.step
            if new and table.row_count:
                table.add_section()
            seconds = f"{self._seconds.get(figure.step, 0):.1f}" if new else ""
            table.add_row(figure.step if new else "", figure.what, figure.found, seconds)
        self._console.print()
        self._console.print(table)
        self.say(f"{sum(self._seconds.values()):.0f} seconds in all.")

    def failed(self, error: DemoFailed, folder: Path) -> None:
        """Print what went wrong, the end of its log and where the rest is."""
        self._console.print(f"\n[bold red]FAILED[/bold red]  {error}")
        if error.log is not None and error.log.exists():
            self.say(f"The end of {error.log}:")
            with error.log.open(encoding="utf-8", errors="replace") as file:
                self.code([line.rstrip() for line in deque(file, maxlen=25)])
        self.say(f"All logs, the ledger and luigi.cfg are kept in {folder}")
