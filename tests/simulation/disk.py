"""The ledger's disk: in memory or a file, by a virtual clock, with power loss and no room for more."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import datetime, timezone
from functools import cache
from pathlib import Path
from typing import Any

from luigi_spendguard.ledger import Operation, Writer
from luigi_spendguard.ledger.database.away import Away
from luigi_spendguard.ledger.database.sqlite import FileTx, LedgerFile
from luigi_spendguard.ledger.migrations import migrate
from tests.simulation.world import Pending, PowerLoss, World

FULL = sqlite3.OperationalError("database or disk is full")
#: Where files stand that no process needs to find after a crash of the real machine.
SHARED = Path("/dev/shm") if Path("/dev/shm").is_dir() else None


@cache
def _written(form: str, seconds: int) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).strftime(form)


class Disk:
    """Where the ledger stands, in memory. `trouble` is asked before each statement, and may raise.

    One ledger serves many histories: each is one transaction of it that is undone at its end.
    """

    #: Of the history that is lived now: another function for each would prepare all statements anew.
    world: World

    def __init__(self, world: World) -> None:
        Disk.world = world
        self.trouble: Callable[[str], None] | None = None
        #: How many transactions were committed; the power has failed in one, and nobody has taken note yet.
        self.commits, self.is_lost = 0, False
        self._begin()

    def _begin(self) -> None:
        _memory().execute("BEGIN")
        self._ledger = _InMemory(self, _memory())

    def opened(self) -> LedgerFile:
        """Return the ledger, for a luigid."""
        return self._ledger

    def reader(self) -> LedgerFile:
        """Return the ledger as it is now, for who looks on."""
        return self._ledger

    def lose_power(self) -> None:
        """Leave what the disk has when power comes back."""

    def close(self) -> None:
        _memory().execute("ROLLBACK")

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


@cache
def _memory() -> sqlite3.Connection:
    """Return the ledger in memory, in which nothing is between histories: to migrate one takes long."""
    memory = sqlite3.connect(":memory:", isolation_level=None, cached_statements=2000)
    with tempfile.TemporaryDirectory(prefix="simulation-") as folder:
        migrate(Path(folder) / "ledger.db")
        with closing(sqlite3.connect(Path(folder) / "ledger.db")) as made:
            made.backup(memory)
    memory.execute("PRAGMA foreign_keys = 1")
    _set_clock(memory)
    return memory


def _set_clock(connection: sqlite3.Connection) -> None:
    """Let the database's clock, as its `strftime` and `julianday` of now, be the history's."""
    connection.create_function("julianday", 1, lambda _: 2440587.5 + Disk.world.wall_ms() / 86_400_000)
    connection.create_function("strftime", 2, lambda form, _: _written(form, Disk.world.wall_ms() // 1000))


#: In memory a transaction is a part of the history's own.
_WORDS = {
    "BEGIN IMMEDIATE": ("SAVEPOINT operation",),
    "COMMIT": ("RELEASE operation",),
    "ROLLBACK": ("ROLLBACK TO operation", "RELEASE operation"),
}


class _InMemory(LedgerFile):
    """The one ledger of a `Disk`; it is also what its statements are executed by."""

    in_transaction = False

    def __init__(self, disk: Disk, connection: sqlite3.Connection) -> None:
        self.path, self.names = Path("books-in-memory"), {}
        self._disk, self._run = disk, connection.execute

    def handle(self) -> Any:
        return self

    def execute(self, sql: str, values: Any = ()) -> Any:
        if self._disk.trouble is not None and self.in_transaction:
            self._disk.trouble(sql)
        if sql in _WORDS:
            self.in_transaction = sql == "BEGIN IMMEDIATE"
            return [self._run(word) for word in _WORDS[sql]][-1]
        return self._run(sql, values)

    @contextmanager
    def writing(self, *_: object) -> Iterator[FileTx]:  # Without looks at a file, and without a fork's gate.
        tx = FileTx(self)
        tx.run("BEGIN IMMEDIATE")
        try:
            yield tx
            tx.run("COMMIT")
        except BaseException as error:
            if self.in_transaction:
                tx.run("ROLLBACK")
            raise self.translate(error) if isinstance(error, Exception) else error from None


class _Statements:
    """A file's connection, of which the disk may be in trouble."""

    def __init__(self, connection: sqlite3.Connection, disk: Disk) -> None:
        self._connection, self._disk = connection, disk

    @property
    def in_transaction(self) -> bool:
        return self._connection.in_transaction

    def execute(self, sql: str, values: Any = ()) -> Any:
        if self._disk.trouble is not None and self.in_transaction:
            self._disk.trouble(sql)
        return self._connection.execute(sql, values)


class _OnDisk(LedgerFile):
    def __init__(self, path: Path, disk: Disk) -> None:
        super().__init__(path)
        self._disk, self._statements = disk, dict[Any, _Statements]()

    def handle(self) -> Any:
        connection = super().handle()
        if connection not in self._statements:
            _set_clock(connection)
            self._statements = {connection: _Statements(connection, self._disk)}
        return self._statements[connection]


class File(Disk):
    """A real file, which each luigid has opened for itself."""

    def _begin(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="simulation-", dir=SHARED))
        self._lives, self._read_life, self._opened = 0, -1, list[LedgerFile]()
        with closing(sqlite3.connect(self._path)) as made:
            _memory().backup(made)

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
            one.disconnect()
        shutil.rmtree(self._folder)


class Ledger:
    """A luigid's ledger: what waits together is committed together, by the product's own writer."""

    #: A file is never away.
    away = None

    def __init__(self, disk: Disk, process: Any, committed: Callable[[], None]) -> None:
        self._disk, self._process, self._committed = disk, process, committed
        self.db = disk.opened()
        self._writer = Writer.__new__(Writer)  # It has a thread, and none is wanted here.
        self._writer._db, self._writer._away = self.db, Away(lambda: self.db)
        self._waiting: list[tuple[Operation, None, Any]] = []

    def write(self, operation: Callable[..., Any], *args: Any, **kwargs: Any) -> Pending:
        world, done = self._disk.world, Pending(self._disk.world)
        self._waiting.append((lambda tx: operation(tx, *args, **kwargs), None, done))
        if len(self._waiting) == 1:
            wait_s = 0.0005 + 0.002 * world.chance(self._process.name, "commit", self._disk.commits)
            world.later(wait_s, self._commit)
        return done

    def _commit(self) -> None:
        if not self._process.alive:
            return
        batch, self._waiting = self._waiting, []
        self._disk.commits += 1
        self._writer._commit(batch)
        self._committed()

    def read(self, operation: Callable[..., Any], *args: Any) -> Pending:
        done = Pending(self._disk.world)
        done.set_result(operation(FileTx(self.db), *args))
        return done

    browse = read

    def at_once(self, operation: Callable[..., Any], *args: Any) -> Any:
        """Do something while nothing else happens. Raises Broken where it fails."""
        done, self._disk.trouble = Pending(self._disk.world), None
        self._writer._commit([(lambda tx: operation(tx, *args), None, done)])
        return done.result()
