"""The ledger's disk: in memory or a file, by a virtual clock, with power loss and no room for more."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections.abc import Callable
from datetime import datetime, timezone
from functools import cache
from pathlib import Path
from typing import Any

from luigi_spendguard.ledger import Operation, Writer
from luigi_spendguard.ledger.database import LedgerFile, Tx
from luigi_spendguard.ledger.migrations import migrate
from tests.simulation.world import Pending, PowerLoss, World

FULL = sqlite3.OperationalError("database or disk is full")
#: `strftime` and `julianday` of now are the database's clock: these are the history's.
_EPOCH_JD, _DAY_MS = 2440587.5, 86_400_000


@cache
def _written(form: str, seconds: int) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).strftime(form)


class Statements:
    """What a ledger's operations execute statements by; `words` stand for those that begin and end one."""

    def __init__(self, connection: sqlite3.Connection, disk: Disk, words: dict[str, tuple[str, ...]]) -> None:
        self._connection, self._disk, self._words = connection, disk, words
        self._run = connection.execute
        self._within = False

    @property
    def in_transaction(self) -> bool:
        return self._within if self._words else self._connection.in_transaction

    def execute(self, sql: str, values: Any = ()) -> Any:
        if self._disk.trouble is not None and self.in_transaction:
            self._disk.trouble(sql)
        if sql in self._words:
            self._within = sql == "BEGIN IMMEDIATE"
            for word in self._words[sql][:-1]:
                self._run(word)
            return self._run(self._words[sql][-1])
        return self._run(sql, values)


class Disk:
    """Where the ledger stands. `trouble` is asked before each statement, and may raise."""

    trouble: Callable[[str], None] | None = None
    #: How many transactions have been committed.
    commits = 0
    #: The power has failed in a transaction, and nobody has taken note of it yet.
    is_lost = False

    def __init__(self, world: World) -> None:
        self.world = world

    def opened(self) -> LedgerFile:
        """Open the ledger, for a luigid."""
        raise NotImplementedError

    def reader(self) -> LedgerFile:
        """Return the ledger as it is now, for who looks on."""
        raise NotImplementedError

    def lose_power(self) -> None:
        """Leave what the disk has when power comes back."""

    def close(self) -> None:
        raise NotImplementedError

    def set_clock(self, connection: sqlite3.Connection) -> None:
        world = self.world
        connection.create_function("julianday", 1, lambda _: _EPOCH_JD + world.wall_ms() / _DAY_MS)
        connection.create_function("strftime", 2, lambda form, _: _written(form, world.wall_ms() // 1000))

    def full_for_now(self, label: object) -> Callable[[str], None]:
        """Return what lets a transaction find no room, at one of its statements or when it is committed."""
        left = int(self.world.chance("full", label) * 25)

        def fail(sql: str) -> None:
            nonlocal left
            left -= 1
            if sql == "COMMIT" or (left < 0 and sql.startswith(("INSERT", "UPDATE"))):
                raise FULL

        return fail

    def lost_within(self, label: object) -> Callable[[str], None]:
        """Return what lets the power fail in a transaction; the disk keeps what it had at that moment."""
        left = int(self.world.chance("power", label) * 40)

        def fail(sql: str) -> None:
            nonlocal left
            left -= 1
            if sql == "COMMIT" or left < 0:
                self.trouble, self.is_lost = None, True
                self.lose_power()
                raise PowerLoss

        return fail


class _InMemory(LedgerFile):
    """The one ledger of a `Memory`, for whoever opens it."""

    def __init__(self, statements: Statements) -> None:
        self.busy_s, self.names, self._statements = 0.0, {}, statements

    def handle(self) -> Any:
        return self._statements

    def check(self) -> None:
        pass

    check_opened = check

    def close(self) -> bool:
        return True


class Memory(Disk):
    """In memory, one for many histories: each is one transaction of it that is undone at its end."""

    _connection: sqlite3.Connection | None = None

    def __init__(self, world: World) -> None:
        super().__init__(world)
        if Memory._connection is None:
            with tempfile.TemporaryDirectory(prefix="simulation-") as folder:
                migrate(Path(folder) / "ledger.db")
                made = sqlite3.connect(Path(folder) / "ledger.db")
                Memory._connection = sqlite3.connect(":memory:", isolation_level=None, cached_statements=2000)
                made.backup(Memory._connection)
                made.close()
            Memory._connection.execute("PRAGMA foreign_keys = 1")
        connection = Memory._connection
        self.set_clock(connection)
        connection.execute("BEGIN")
        words = {
            "BEGIN IMMEDIATE": ("SAVEPOINT operation",),
            "COMMIT": ("RELEASE operation",),
            "ROLLBACK": ("ROLLBACK TO operation", "RELEASE operation"),
        }
        self._ledger = _InMemory(Statements(connection, self, words))

    def opened(self) -> LedgerFile:
        return self._ledger

    reader = opened

    def close(self) -> None:
        assert Memory._connection is not None
        Memory._connection.execute("ROLLBACK")


class _OnDisk(LedgerFile):
    def __init__(self, path: Path, disk: Disk) -> None:
        super().__init__(path)
        self._disk, self._statements = disk, {}

    def handle(self) -> Any:
        connection = super().handle()
        if connection not in self._statements:
            self._disk.set_clock(connection)
            self._statements = {connection: Statements(connection, self._disk, {})}
        return self._statements[connection]


class File(Disk):
    """A real file, which each luigid has opened for itself."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        shared = Path("/dev/shm")
        self._folder = Path(tempfile.mkdtemp(prefix="simulation-", dir=shared if shared.is_dir() else None))
        self._lives, self._read_life = 0, -1
        self._opened: list[LedgerFile] = []
        migrate(self._path)

    @property
    def _path(self) -> Path:
        return self._folder / f"ledger-{self._lives}.db"

    def opened(self) -> LedgerFile:
        self._opened.append(_OnDisk(self._path, self))
        return self._opened[-1]

    def reader(self) -> LedgerFile:
        if self._read_life != self._lives:
            self._read_life, self._reader = self._lives, self.opened()
        return self._reader

    def lose_power(self) -> None:
        """Keep the file, and of its WAL what was synced: with `synchronous=FULL` that is every commit."""
        before = self._path
        self._lives += 1
        shutil.copy(before, self._path)
        synced = self._opened[-1].handle().execute("PRAGMA synchronous").fetchone()[0]
        if synced >= 2:
            shutil.copy(f"{before}-wal", f"{self._path}-wal")

    def close(self) -> None:
        for one in self._opened:
            one.close()
        shutil.rmtree(self._folder)


class Ledger:
    """A luigid's ledger: what waits together is committed together, by the product's own writer."""

    def __init__(self, world: World, disk: Disk, process: Any, committed: Callable[[], None]) -> None:
        self._world, self._disk, self._process, self._committed = world, disk, process, committed
        self.db = disk.opened()
        self._writer = Writer.__new__(Writer)  # It has a thread, and none is wanted here.
        self._writer._db = self.db
        self._waiting: list[tuple[Operation, Any]] = []

    def write(self, operation: Callable[..., Any], *args: Any) -> Pending:
        done = Pending(self._world)
        self._waiting.append((lambda tx: operation(tx, *args), done))
        if len(self._waiting) == 1:
            wait_s = 0.0005 + 0.002 * self._world.chance(self._process.name, "commit", self._disk.commits)
            self._world.later(wait_s, self._commit)
        return done

    def _commit(self) -> None:
        if not self._process.alive:
            return
        batch, self._waiting = self._waiting, []
        self._disk.commits += 1
        self._writer._commit(batch)
        self._committed()

    def read(self, operation: Callable[..., Any], *args: Any) -> Pending:
        done = Pending(self._world)
        done.set_result(operation(Tx(self.db), *args))
        return done

    browse = read

    def at_once(self, operation: Callable[..., Any], *args: Any) -> Any:
        """Do something while nothing else happens. Raises Broken where it fails."""
        done, self._disk.trouble = Pending(self._world), None
        self._writer._commit([(lambda tx: operation(tx, *args), done)])
        return done.result()
