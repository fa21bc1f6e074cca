"""What one luigid has written is in the gates of the others at once: they are told, and look besides."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from luigi_spendguard.config import Settings
from luigi_spendguard.ledger import keys
from luigi_spendguard.ledger.database.listening import Notices
from luigi_spendguard.ledger.database.postgres import CHANNEL
from luigi_spendguard.money import Micros
from luigi_spendguard.protocol import EndRequest
from luigi_spendguard.protocol.operators import ApproveRequest, TopUpRequest
from luigi_spendguard.protocol.rpcs import OpenRunRequest
from luigi_spendguard.redaction import Secret
from luigi_spendguard.settings.policy import Caps
from scheduler_patch.scheduler import BudgetScheduler
from scheduler_patch.service import LedgerService, operators
from tests.support.books import Books
from tests.support.postgres import PgBouncer, PostgresServer, need_pool
from tests.support.processes import wait_until
from tests.support.site import Site

USD = 1_000_000


class Luigids:
    """Two services before one ledger, in one loop. Neither looks for anything by the clock."""

    def __init__(self, folder: Path, url: str) -> None:
        self.one, self.two = (
            LedgerService(
                Settings(folder / name, Caps(default=Micros(10 * USD)), ledger_server=Secret(url)),
                BudgetScheduler(),
            )
            for name in ("one", "two")
        )

    async def open_run(self) -> None:
        """Open a run at the one, which the other's gate knows, too."""
        await self.one.open_run(OpenRunRequest("r", False, "Root", "r"))
        await self.two.refresh()

    def books(self) -> Books:
        """Return the one's ledger, as its workers and vendors' calls change it; for another thread."""
        books = Books.__new__(Books)
        assert self.one.opened is not None
        books.run_id, books.caps, books.ledger = "r", Caps(), self.one.opened
        return books

    def there(self) -> Any:
        """Return the run as the other's gate knows it."""
        run = self.two.state.run("r")
        assert run is not None
        return run


@asynccontextmanager
async def luigids(folder: Path, url: str) -> AsyncIterator[Luigids]:
    """Two luigids, the second of which listens."""
    made = Luigids(folder, url)
    try:
        await made.open_run()
        await made.two.listen()
        await until(lambda: listeners(url) == 1)
        yield made
    finally:
        made.one.close()
        made.two.close()


def listeners(url: str) -> int:
    with psycopg.connect(url, autocommit=True) as other:
        row = other.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE %s",
            [f"LISTEN {CHANNEL}%"],
        ).fetchone()
    assert row is not None
    return int(row[0])


async def until(condition: Callable[[], bool], seconds: float = 20) -> float:
    """Wait for a condition in the loop; return how many seconds it took."""
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() - begun < seconds
        await asyncio.sleep(0.002)
    return time.monotonic() - begun


async def revoke(both: Luigids) -> None:
    await operators.revoke(both.one, "r")


async def top_up(both: Luigids) -> None:
    await operators.top_up(both.one, TopUpRequest("r", "5"))


async def approve(both: Luigids) -> None:
    await asyncio.to_thread(both.books().claim, "Task_1")
    await operators.approve(both.one, ApproveRequest("r", "3", task_id="Task_1"))


@pytest.mark.parametrize(
    ("act", "is_there"),
    [
        (revoke, lambda run: run.state == "revoked"),
        (top_up, lambda run: run.own_budget.cap == 15 * USD),
        (approve, lambda run: run.approvals == {"Task_1": 3 * USD}),
    ],
    ids=["revoke", "top-up", "approval"],
)
def test_what_an_operator_does_at_one_is_in_the_others_gate(
    tmp_path: Path, url: str, act: Callable[[Luigids], Awaitable[None]], is_there: Callable[[Any], bool]
) -> None:
    async def live() -> None:
        async with luigids(tmp_path, url) as both:
            assert not is_there(both.there())
            await act(both)
            await until(lambda: is_there(both.there()))

    asyncio.run(live())


def test_a_cap_that_was_reached_and_freed_is(tmp_path: Path, url: str) -> None:
    async def live() -> None:
        async with luigids(tmp_path, url) as both:
            books = both.books()
            key = await asyncio.to_thread(books.claim, "Task_1")
            first = await asyncio.to_thread(books.reserve, key, books.ask(9 * USD))
            assert first.verdict == "allowed"
            await asyncio.to_thread(books.reserve, key, books.ask(2 * USD))
            await until(lambda: both.there().own_budget.reserved == 9 * USD)
            await asyncio.to_thread(books.end, key, EndRequest("void", first.call_id, first.ask, status=402))
            await until(lambda: both.there().own_budget.reserved == 0)

    asyncio.run(live())


def test_a_key_that_was_revoked_is_believed_no_more(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scheduler_patch.service.known_keys.BELIEVED_S", 600.0)

    async def live() -> None:
        async with luigids(tmp_path, url) as both:
            books = both.books()
            key = await asyncio.to_thread(books.claim, "Task_1")
            assert await both.two.check_key(key) is None
            assert both.two.known_keys.believes(key)
            await asyncio.to_thread(books.write, keys.revoke_key, books.last_claim)
            await until(lambda: not both.two.known_keys.believes(key))
            denied = await both.two.check_key(key)
            assert denied is not None

    asyncio.run(live())


def test_a_listener_that_loses_its_connection_listens_again(tmp_path: Path, url: str) -> None:
    async def live() -> None:
        async with luigids(tmp_path, url) as both:
            with psycopg.connect(url, autocommit=True) as other:
                other.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE %s",
                    [f"LISTEN {CHANNEL}%"],
                )
            await top_up(both)  # Nobody hears it: who listens again looks.
            await until(lambda: both.there().own_budget.cap == 15 * USD)
            await until(lambda: listeners(url) == 1)
            await top_up(both)
            await until(lambda: both.there().own_budget.cap == 20 * USD)

    asyncio.run(live())


def test_where_nobody_can_listen_it_is_looked_for(
    tmp_path: Path, server: PostgresServer, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    need_pool()
    caplog.set_level(logging.INFO)

    async def live(pooled: str) -> None:
        both = Luigids(tmp_path, pooled)
        try:
            await both.open_run()
            await both.two.listen()
            await until(lambda: "looked for, not heard" in caplog.text)
            await top_up(both)
            await both.two.hear()
            assert both.there().own_budget.cap == 15 * USD
        finally:
            both.one.close()
            both.two.close()

    with PgBouncer(server) as pool:
        asyncio.run(live(pool.url(url)))


def test_a_server_that_cannot_be_told_keeps_nothing_from_being_written(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("luigi_spendguard.ledger.database.postgres.TELL", b"SELECT 1 / 0")

    async def live() -> None:
        async with luigids(tmp_path, url) as both:
            await top_up(both)
            await top_up(both)
            await both.two.hear()
            assert both.there().own_budget.cap == 20 * USD

    asyncio.run(live())


def test_luigid_listens_as_long_as_it_runs(tmp_path: Path, url: str) -> None:
    with Site(tmp_path / "site", start=False, spendguard={"ledger_url": url}) as site:
        site.start()
        wait_until(lambda: listeners(url) == 1, what="its listener")
        assert site.luigid is not None
        site.luigid.end()
        assert listeners(url) == 0


def test_a_listener_ends_at_once_also_while_its_server_is_away(
    tmp_path: Path, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    here, gone = Notices(url, lambda: None), Notices("postgresql://127.0.0.1:1/books", lambda: None)
    wait_until(lambda: "until it is back" in caplog.text, what="what it says of a server that is away")
    wait_until(lambda: listeners(url) == 1, what="the listener")
    begun = time.monotonic()
    here.close()
    gone.close()
    assert time.monotonic() - begun < 4
    assert not here._thread.is_alive()
    assert not gone._thread.is_alive()
    assert caplog.text.count("until it is back") == 1
