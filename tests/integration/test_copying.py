"""`spendguard ledger`: books of each earlier format move to a server and back, and every total is right."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
from click.testing import CliRunner, Result

from luigi_spendguard.cli.books import ledger
from luigi_spendguard.config import Settings
from luigi_spendguard.ledger import Ledger, copying, runs
from luigi_spendguard.ledger.audit.sealing import Sealer
from luigi_spendguard.ledger.audit.signing import KeyFiles
from luigi_spendguard.ledger.audit.verifying import verify
from luigi_spendguard.ledger.database import postgres
from luigi_spendguard.ledger.database.sqlite import FileTx
from luigi_spendguard.ledger.migrations import FORMAT
from luigi_spendguard.money import Micros
from luigi_spendguard.settings.policy import Caps
from tests.support.books import Books
from tests.support.postgres import PostgresServer, database_url
from tests.support.processes import environment

OLD = Path(__file__).parents[1] / "unit" / "ledger" / "formats" / f"format-{FORMAT}.db"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    shutil.copy(OLD, tmp_path / "old.db")
    return tmp_path / "old.db"


def run(*args: str) -> Result:
    return CliRunner().invoke(ledger, args)


def url(path: Path) -> str:
    return f"sqlite:///{path}"


def content(path: Path) -> list[object]:
    with closing(sqlite3.connect(path)) as db:
        tables = [
            row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY 1")
        ]
        wanted = {table: "rowid, *" if table in ("call", "claim") else "*" for table in tables}
        return [
            sorted(map(repr, db.execute(f"SELECT {columns} FROM {table}")))
            for table, columns in wanted.items()
            if not table.startswith(("migration", "sqlite_"))
        ]


def test_there_and_back_they_are_the_same_and_go_on(
    server: PostgresServer, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying, "_AT_ONCE", 3)
    database, back = database_url(server.url, tmp_path), tmp_path / "back.db"
    done = run("copy", url(file), database)
    assert (done.exit_code, "the same on both sides" in done.output) == (0, True), done.output
    assert run("check", database).output == run("check", url(file)).output
    assert run("copy", database, url(back)).exit_code == 0
    assert content(back) == content(file)
    books = Ledger(database)  # Numbers go on behind those that were copied.
    books.write(runs.open_run, runs.RunRequest("after", False, "Root", "Root_9", Micros(5))).result(20)
    books.close()
    assert run("check", database).exit_code == 0


def test_the_audit_goes_on_in_the_copy_with_its_key(
    server: PostgresServer, file: Path, tmp_path: Path
) -> None:
    files, settings = KeyFiles(tmp_path / "old.db.audit-key"), Settings(file, Caps())
    books = Ledger(file)
    assert not Sealer(books, files).seal(60)
    books.close()
    database = database_url(server.url, tmp_path)
    done = CliRunner().invoke(ledger, ["copy", url(file), database], obj=(settings, None))
    assert done.exit_code == 0, done.output
    assert f"let [spendguard] audit_key_file name that (of this luigi.cfg: {files.key})" in done.output
    books = Ledger(database)
    books.write(runs.open_run, runs.RunRequest("after", False, "Root", "Root_9", Micros(5))).result(20)
    sealer = Sealer(books, files)
    assert not sealer.seal(60)
    assert sealer.stopped == ""
    found = books.read(lambda tx: verify(tx, files.trusted(), head=files.head())).result(20)
    assert found.chain.blocks == 2
    books.close()


def test_a_server_waits_for_a_slow_disk(
    server: PostgresServer, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "STALLED_S", 0.1)
    whole = FileTx.all

    def slow(tx: FileTx, sql: str, *values: Any) -> Any:
        if "FROM budget" in sql:
            time.sleep(0.3)
        return whole(tx, sql, *values)

    monkeypatch.setattr(FileTx, "all", slow)
    database = database_url(server.url, tmp_path)
    for args in ((url(file), database), (database, url(tmp_path / "back.db"))):
        done = run("copy", *args)
        assert done.exit_code == 0, done.output


@pytest.mark.parametrize("table", ["journal", "exchange"])
def test_a_copy_that_is_not_the_same_is_none(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, table: str
) -> None:
    whole = FileTx.insert_all

    def all_but_the_last(tx: FileTx, statement: str, rows: Sequence[Sequence[Any]]) -> None:
        whole(tx, statement, rows[:-1] if f"INTO {table} " in statement else rows)

    monkeypatch.setattr(FileTx, "insert_all", all_but_the_last)
    target = tmp_path / "target.db"
    done = run("copy", url(file), url(target))
    assert (done.exit_code, f"what was copied is not the same: {table}" in done.output) == (1, True), (
        done.output
    )
    assert not any(content(target))


def test_a_target_that_has_books_is_refused(server: PostgresServer, file: Path, tmp_path: Path) -> None:
    taken = tmp_path / "taken.db"
    Books(taken).ledger.close()
    before = content(taken)
    done = run("copy", url(file), url(taken))
    assert (done.exit_code, "has books already" in done.output) == (1, True), done.output
    assert content(taken) == before


def test_a_total_that_is_not_its_entries_is_named(tmp_path: Path) -> None:
    path = tmp_path / "books.db"
    Books(path, cap=100).ledger.close()
    assert run("check", url(path)).exit_code == 0
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE budget SET cap_micros = 99")
    done = run("check", url(path))
    assert done.exit_code == 1
    assert "budget run run : cap is 99, the journal says 100" in done.output


def refused(*args: str, code: int = 1) -> str:
    """Return what is said where nothing is done."""
    done = run(*args)
    assert done.exit_code == code, done.output
    return done.output


def changed(path: Path, statement: str) -> Path:
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(statement)
    return path


def test_books_that_somebody_has_open_are_not_copied(
    server: PostgresServer, file: Path, tmp_path: Path
) -> None:
    """By another process: luigid's own connection is what a file, or its server, shows of it."""
    database, target = database_url(server.url, tmp_path), tmp_path / "target.db"
    for place, other in ((url(file), url(target)), (url(target), url(file)), (database, url(target))):
        source = "Path(sys.argv[1][10:])" if place.startswith("sqlite") else "sys.argv[1]"
        opens = (
            "import sys, time; from pathlib import Path; from luigi_spendguard.ledger import Ledger; "
            f"books = Ledger({source}); books.write(lambda tx: None).result(); print(flush=True); "
            "time.sleep(60)"
        )
        luigid = subprocess.Popen([sys.executable, "-c", opens, place], stdout=subprocess.PIPE)
        assert luigid.stdout is not None
        with luigid:
            try:
                luigid.stdout.readline()
                said = refused("copy", place, other)
            finally:
                luigid.kill()
        assert "is in use: end luigid, its gateways and workers with --local-scheduler first" in said
        assert luigid.wait() != 0
        target.unlink(missing_ok=True)
    assert run("copy", url(file), database).exit_code == 0


def test_what_cannot_be_copied_says_why_and_makes_nothing(file: Path, tmp_path: Path) -> None:
    target = tmp_path / "new" / "target.db"
    assert f"no folder {target.parent}: make it" in refused("copy", url(file), url(target))
    target = tmp_path / "target.db"
    for same in (file, tmp_path / "link.db"):
        if not same.exists():
            same.symlink_to(file)
        assert "the ledger to be copied itself: name an empty database" in refused(
            "copy", url(file), url(same)
        )
    empty = tmp_path / "empty.db"
    empty.touch()
    assert f"no books in {empty}: luigid makes them" in refused("copy", url(empty), url(target))
    old = shutil.copy(OLD.with_name(f"format-{FORMAT - 1}.db"), tmp_path / "older.db")
    said = f"has format {FORMAT - 1}, and this version copies {FORMAT}: start luigid"
    assert said in refused("copy", url(old), url(target))
    wrong = changed(file, "UPDATE budget SET cap_micros = cap_micros + 1 WHERE id = 1")
    assert "(totals that are wrong: 1): `spendguard ledger check`" in refused("copy", url(wrong), url(target))
    newer = changed(file, "INSERT INTO migration (number, applied_at) VALUES (99, 1)")
    for args in (("copy", url(newer), url(target)), ("check", url(newer))):
        assert f"written by a newer version (format 99, this version knows {FORMAT}): install" in refused(
            *args
        )
    assert not target.exists()
    assert not target.parent.joinpath("new").exists()


def test_what_keeps_a_server_from_being_connected_to_says_what_to_do(
    server: PostgresServer, tmp_path: Path
) -> None:
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute("CREATE DATABASE bare")
    bare = urlsplit(server.url)._replace(path="/bare").geturl()
    assert "no books in postgresql:///bare: luigid makes them" in refused("check", bare)
    away = {
        urlsplit(server.url)._replace(path="/nope").geturl(): "make it (createdb), or mend",
        server.url.replace("postgres:@", "nobody@"): "make it (createuser), or mend the user",
        "postgresql://luigi:canary@127.0.0.1:9/books": "start the server, or mend host and port in its URL",
        "postgresql://luigi@luigid.invalid/books": "mend the host's name in its URL",
        "postgresql://luigi@/books?host=%2Fnowhere": "start the server, or mend host and port",
    }
    config = tmp_path / "luigi.cfg"
    config.write_text(f"[spendguard]\nledger_url = {bare.replace('/bare', '/nope')}\ndefault_cap_usd = 1\n")
    luigid = [sys.executable, "-m", "scheduler_patch", "--port", "0"]
    environ = environment(LUIGI_CONFIG_PATH=str(config), XDG_STATE_HOME=str(tmp_path))
    done = subprocess.run(luigid, env=environ, capture_output=True, text=True, timeout=60)
    assert (done.returncode, "make it (createdb), or mend" in done.stderr) == (3, True), done.stderr
    for place, remedy in away.items():
        said = refused("check", place, code=3)
        assert remedy in said, said
        assert "canary" not in said


@pytest.mark.parametrize(
    "args", [("check", "mysql://x/y"), ("copy", "sqlite:////nowhere/x.db", "postgresql://h/")]
)
def test_a_url_that_is_none_is_bad_usage(args: tuple[str, ...]) -> None:
    done = run(*args)
    assert done.exit_code == 2
    assert "must" in done.output
