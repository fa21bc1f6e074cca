"""`spendguard backup` and `restore`: whole or not there, and what came later is not forgotten in silence."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from luigi_spendguard.cli import cli
from luigi_spendguard.errors import Conflict, LedgerUnavailable
from luigi_spendguard.ledger import keys, restoring, runs
from luigi_spendguard.ledger.audit.sums import discrepancies
from luigi_spendguard.ledger.database import copies
from luigi_spendguard.money import Micros
from luigi_spendguard.protocol import EndRequest
from luigi_spendguard.settings.policy import Caps
from tests.support.books import Books
from tests.support.sealed import SealedBooks

USD = 1_000_000


@pytest.fixture(autouse=True)
def _own_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "luigi.cfg"
    config.write_text(f"[spendguard]\nledger_url = sqlite:///{tmp_path / 'books.db'}\n")
    monkeypatch.setenv("LUIGI_CONFIG_PATH", str(config))


@pytest.fixture
def books(tmp_path: Path) -> Iterator[Books]:
    made = Books(tmp_path / "books.db", cap=100 * USD)
    try:
        yield made
    finally:
        made.ledger.close()


def run(*args: object) -> Result:
    return CliRunner().invoke(cli, [str(arg) for arg in args], standalone_mode=True)


def pay(books: Books, task_id: str, usd: int, run_id: str | None = None) -> str:
    key = books.claim(task_id, run_id)
    ask = books.ask(usd * USD)
    books.reserve(key, ask)
    end = EndRequest("settle", ask.call_id, total_micros=usd * USD, status=200, object_id=f"pi_{ask.call_id}")
    books.end(key, end)
    return ask.call_id


def rows(path: Path, sql: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as db:
        return db.execute(sql).fetchall()


def left(path: Path, run_id: str) -> object:
    return rows(
        path,
        "SELECT (cap_micros - spent_micros - reserved_micros - overrun_micros) / 1000000.0, state FROM budget"
        f" JOIN run ON run.run_id = subject WHERE scope = 'run' AND subject = '{run_id}'",
    )[0]


def tear(path: Path, table: str) -> None:
    """Destroy the pages of a table, and of nothing else."""
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        size = db.execute("PRAGMA page_size").fetchone()[0]
        [root] = db.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)).fetchone()
    with path.open("r+b") as file:
        file.seek((root - 1) * size)
        file.write(b"\xff" * size)


def test_a_backup_is_whole_and_for_its_owner_alone_while_others_write(books: Books, tmp_path: Path) -> None:
    pay(books, "before", 1)
    ending = threading.Event()

    def write() -> None:
        while not ending.is_set():
            pay(books, f"during_{threading.get_ident()}", 0)

    writers = [threading.Thread(target=write) for _ in range(2)]
    for writer in writers:
        writer.start()
    try:
        done = run("backup", tmp_path / "backup.db")
    finally:
        ending.set()
        for writer in writers:
            writer.join()
    assert done.exit_code == 0, done.output
    assert "is a whole copy" in done.output
    copy = tmp_path / "backup.db"
    assert copy.stat().st_mode & 0o777 == 0o600
    assert rows(copy, "PRAGMA integrity_check") == [("ok",)]
    assert rows(copy, "PRAGMA journal_mode") == [("delete",)]
    assert ("before",) in rows(copy, "SELECT task_id FROM call")
    assert sorted(path.name for path in tmp_path.glob("*backup*")) == ["backup.db"], "nothing beside it"


def test_no_file_is_replaced_and_none_is_left_where_it_fails(
    books: Books, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = tmp_path / "there.db"
    there.write_text("mine")
    done = run("backup", there)
    assert (done.exit_code, there.read_text()) == (1, "mine")
    assert "is there already" in done.output
    done = run("backup", tmp_path / "nowhere" / "backup.db")
    assert (done.exit_code, "there is no folder" in done.output) == (1, True)
    monkeypatch.setattr(copies, "damage", lambda path: "page 7 is never used")
    done = run("backup", tmp_path / "backup.db")
    assert (done.exit_code, "is damaged: page 7" in done.output) == (1, True)
    assert not list(tmp_path.glob("*backup.db*"))


def _file(tmp_path: Path, what: str) -> Path:
    """Make a file that is no ledger, or no whole one; `torn`: in a table that no total is made of."""
    path = tmp_path / f"{what}.db"
    if what == "foreign":
        with closing(sqlite3.connect(path)) as db:
            db.execute("CREATE TABLE other (x)")
    elif what == "garbage":
        path.write_bytes(b"no database" * 1000)
    elif what == "empty":
        path.touch()
    else:
        run("backup", path)
        tear(path, "call") if what == "torn" else os.truncate(path, path.stat().st_size // 2)
    return path


@pytest.mark.parametrize(
    ("what", "as_ledger", "as_backup"),
    [
        ("foreign", "there are no books in {}: luigid makes them", "there are no books in the backup {}."),
        ("empty", "there are no books in {}: luigid makes them", "there are no books in the backup {}."),
        ("garbage", "{} is not a ledger", "the backup {} is damaged, or none at all"),
        ("cut", "{} is damaged", "the backup {} is damaged"),
        ("torn", "{} is damaged", "the backup {} is damaged"),
    ],
)
def test_a_file_that_is_no_ledger_or_no_whole_one_is_named(
    books: Books, tmp_path: Path, what: str, as_ledger: str, as_backup: str
) -> None:
    pay(books, "before", 1)
    path = _file(tmp_path, what)
    url = f"sqlite:///{path}"
    commands = [("ledger", "check", url), ("audit", "accept", url)]
    commands += [("backup", str(tmp_path / "new.db"), "--ledger", url)]
    if what != "torn":  # What was sealed can be read of that one.
        commands += [("audit", "verify", url)]
    books.ledger.close()
    for args in commands:
        done = run(*args)
        assert (done.exit_code, as_ledger.format(path) in done.output) == (1, True), (args, done.output)
    done = run("restore", path, "--yes")
    assert (done.exit_code, as_backup.format(path) in done.output) == (1, True), done.output
    assert ".part" not in done.output


def test_what_is_wrong_with_the_old_ledger_is_said_once(books: Books, tmp_path: Path) -> None:
    pay(books, "before", 1)
    run("backup", tmp_path / "backup.db")
    old = _file(tmp_path, "garbage")
    done = run("restore", tmp_path / "backup.db", "--to", f"sqlite:///{old}", "--yes")
    assert f"\nNOT WHOLE: the ledger {old} is damaged: file is not a database. What can" in done.output
    assert done.output.count("not a database") == 1


def test_a_file_that_is_locked_is_not_taken_for_damaged(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    def locked(*args: object, **options: object) -> sqlite3.Connection:
        raise sqlite3.OperationalError("database is locked")

    monkeypatch.setattr(sqlite3, "connect", locked)
    with pytest.raises(LedgerUnavailable, match="another program keeps its file locked"):
        copies.damage(books.path)


def test_what_comes_of_that_name_meanwhile_stays(books: Books, tmp_path: Path) -> None:
    made = tmp_path / "made"
    made.write_text("new")
    (tmp_path / "there").write_text("mine")
    with pytest.raises(Exception, match="is there already"):
        copies.name_new(made, tmp_path / "there")
    assert (tmp_path / "there").read_text() == "mine"


def test_a_server_is_backed_up_by_its_own_means(tmp_path: Path) -> None:
    done = run("backup", tmp_path / "x.dump", "--ledger", "postgresql://luigi:geheim@db/books")
    assert done.exit_code == 2
    assert f"pg_dump --format=custom --file={tmp_path}/x.dump postgresql://db/books" in done.output
    done = run("restore", tmp_path / "x.dump", "--to", "postgresql://luigi:geheim@db/books")
    assert (done.exit_code, "pg_restore" in done.output, "geheim" in done.output) == (2, True, False)


def test_books_that_do_not_add_up_are_no_backup(books: Books, tmp_path: Path) -> None:
    books.ledger.close()
    with closing(sqlite3.connect(books.path)) as db:
        db.execute("UPDATE budget SET spent_micros = 1")
        db.commit()
    done = run("backup", tmp_path / "backup.db")
    assert (done.exit_code, "do not add up" in done.output) == (1, True)


def test_on_an_empty_machine_nothing_is_known_and_runs_wait(books: Books, tmp_path: Path) -> None:
    pay(books, "before", 40)
    run("backup", tmp_path / "backup.db")
    elsewhere = tmp_path / "elsewhere.db"
    done = run("restore", tmp_path / "backup.db", "--to", f"sqlite:///{elsewhere}")
    assert (done.exit_code, elsewhere.exists()) == (2, False), "nothing was said of it"
    done = run("restore", tmp_path / "backup.db", "--to", f"sqlite:///{elsewhere}", "--yes")
    assert done.exit_code == 0, done.output
    assert "UNKNOWN: what was paid, topped up and revoked after" in done.output
    held = "HELD: run: $60.00 was left in the backup; once you know what is left: `spendguard top-up run USD`"
    assert held in done.output
    assert left(elsewhere, "run") == (0.0, "active")
    assert elsewhere.stat().st_mode & 0o777 == 0o600
    again = Books(elsewhere, run_id="run")
    try:
        assert again.audit() == []
        again.write(runs.top_up, "run", Micros(10 * USD), "more")
        assert again.run()["remaining_micros"] == 10 * USD
        [note] = again.read(lambda tx: [row["note"] for row in tx.all("SELECT note FROM run")])
        assert "its cap was $100.00, $60.00 of it left, in the backup of" in note
        [entry] = again.read(lambda tx: tx.all("SELECT * FROM journal WHERE kind = 'restore'"))
        assert "on this machine" in entry["actor"]
        assert entry["note"].startswith("from backup.db, whose last entry is ")
    finally:
        again.ledger.close()


@contextmanager
def in_use(path: Path) -> Iterator[None]:
    """Let another process have a ledger open."""
    code = (
        "import sqlite3, sys; db = sqlite3.connect(sys.argv[1]); db.execute('SELECT * FROM run').fetchall();"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", f"{code} print('open', flush=True); input()", str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with other:
        assert other.stdout is not None
        assert other.stdout.readline() == "open\n"
        try:
            yield
        finally:
            other.communicate("\n", timeout=20)


def test_a_ledger_in_use_is_not_replaced(books: Books, tmp_path: Path) -> None:
    run("backup", tmp_path / "backup.db")
    books.ledger.close()
    with in_use(books.path):
        done = run("restore", tmp_path / "backup.db", "--yes")
    assert (done.exit_code, "is in use: end luigid" in done.output) == (1, True)


def test_nor_is_one_that_luigid_opens_while_its_operator_is_asked(books: Books, tmp_path: Path) -> None:
    run("backup", tmp_path / "backup.db")
    books.ledger.close()
    before = books.path.read_bytes()
    with (
        restoring.prepared(tmp_path / "backup.db", books.path, {}) as found,
        in_use(books.path),
        pytest.raises(Conflict, match="is in use: end luigid"),
    ):
        found.put(with_revokes=True, actor="alice")
    assert books.path.read_bytes() == before


def test_a_whole_ledger_that_knows_more_is_gone_on_with(books: Books, tmp_path: Path) -> None:
    run("backup", tmp_path / "backup.db")
    pay(books, "after", 5)
    books.ledger.close()
    done = run("restore", tmp_path / "backup.db", "--yes")
    assert done.exit_code == 1
    assert "is whole, and knows more than the backup" in done.output
    assert ("after",) in rows(tmp_path / "books.db", "SELECT task_id FROM call")


@pytest.mark.parametrize("torn", [False, True], ids=["whole", "its calls are unreadable"])
def test_what_came_later_is_named_and_revokes_hold(books: Books, tmp_path: Path, torn: bool) -> None:
    for name in ("stopped", "quiet"):
        books.write(runs.open_run, runs.RunRequest(name, False, "Root", f"Root_{name}", Micros(50 * USD)))
    pay(books, "before", 40)
    terms = keys.Terms(vendor="stripe", run_cap=Micros(USD), label="luigi/run")
    key, _ = books.write(keys.issue, terms, Caps(default=Micros(100 * USD), limit=Micros(100 * USD)))
    assert run("backup", tmp_path / "backup.db").exit_code == 0
    later = pay(books, "after", 25)
    books.write(runs.open_run, runs.RunRequest("fresh", False, "Root", "Root_f", Micros(50 * USD)))
    pay(books, "fresh", 7, "fresh")
    books.write(runs.open_run, runs.RunRequest("gone", False, "Root", "Root_g", Micros(50 * USD)))
    for name in ("stopped", "gone"):
        books.write(runs.revoke, name)
    books.write(keys.revoke_key, key["id"])
    books.write(runs.top_up, "run", Micros(3 * USD), "more")
    books.ledger.close()
    place = tmp_path / "books.db"
    if torn:
        tear(place, "call")
    before = place.read_bytes()
    done = run("restore", tmp_path / "backup.db", "--yes", *([] if torn else ["--replace-whole"]))
    assert done.exit_code == 0, done.output
    said = done.output
    for line in (
        "REVOKED since, and again now: run stopped",
        "REVOKED since, and again now: run gone",
        f"REVOKED since, and again now: vault key {key['id']} of run run",
        "TOPPED UP since, and not again: run run: $3.00",
        "SPENT since: run run: $25.00",
        "SPENT since: run fresh (opened since): $7.00",
        "HELD: run: $60.00 was left in the backup, $38.00 in the ledger that is replaced; once you know what "
        "is left: `spendguard top-up run 38.00`",
        "UNREADABLE: its calls" if torn else f"CALLED since: run run, call {later}: $25.00 settled, stripe",
    ):
        assert line in said, said
    assert "HELD: quiet" not in said
    assert [left(place, one) for one in ("run", "stopped", "quiet", "fresh", "gone")] == [
        (0.0, "active"),
        (50.0, "revoked"),
        (50.0, "active"),
        (0.0, "active"),
        (0.0, "revoked"),
    ]
    assert rows(place, f"SELECT state FROM claim WHERE id = '{key['id']}'") == [("revoked",)]
    [kept] = tmp_path.glob("books.db.until-*Z")
    assert kept.read_bytes() == before if torn else rows(kept, "SELECT count(*) FROM run") == [(5,)]
    again = Books(place, run_id="run")
    try:
        assert again.read(discrepancies) == []
    finally:
        again.ledger.close()


@pytest.fixture
def sealed(tmp_path: Path) -> Iterator[SealedBooks]:
    """Books of which one call is sealed, and in `backup.db`."""
    place, key = tmp_path / "sealed.db", tmp_path / "audit-key"
    (tmp_path / "luigi.cfg").write_text(
        f"[spendguard]\nledger_url = sqlite:///{place}\naudit_key_file = {key}\n"
    )
    books = SealedBooks(place)
    pay(books, "before", 1)
    assert books.seal() == ""
    run("backup", tmp_path / "backup.db")
    yield books
    books.ledger.close()


def test_the_audit_goes_on_behind_the_restored_block(sealed: SealedBooks, tmp_path: Path) -> None:
    books, place = sealed, tmp_path / "sealed.db"
    pay(books, "after", 2)
    assert books.seal() == ""
    books.ledger.close()
    done = run("restore", tmp_path / "backup.db", "--yes", "--replace-whole")
    assert done.exit_code == 0, done.output
    assert f"Its audit is as it was sealed, up to block 1 ({books.told[0].hash})." in done.output
    assert "Its audit ends with block 1" in done.output
    again = SealedBooks(place)
    try:
        assert again.seal() == ""
        [row] = again.read(lambda tx: tx.all("SELECT * FROM audit_row WHERE text LIKE '%from backup.db%'"))
        assert row["block"] == 2
    finally:
        again.ledger.close()


def test_a_backup_that_is_not_as_it_was_sealed_is_not_restored(sealed: SealedBooks, tmp_path: Path) -> None:
    backup, elsewhere = tmp_path / "backup.db", f"sqlite:///{tmp_path / 'elsewhere.db'}"
    with closing(sqlite3.connect(backup)) as db:
        db.execute("UPDATE call SET target = 'cus_mine'")
        db.commit()
    done = run("restore", backup, "--to", elsewhere, "--yes")
    assert done.exit_code == 1
    assert 'was changed since: target was "cus_' in done.output
    assert not (tmp_path / "elsewhere.db").exists()
    sealed.files.trusted_file.rename(tmp_path / "apart")
    done = run("restore", backup, "--to", elsewhere, "--yes", "--public-key", tmp_path / "apart")
    assert done.exit_code == 1
    done = run("restore", backup, "--to", elsewhere, "--yes")
    assert (done.exit_code, "NOT VERIFIED: its audit, up to block 1" in done.output) == (0, True)


def test_revokes_can_be_left_away(books: Books, tmp_path: Path) -> None:
    run("backup", tmp_path / "backup.db")
    books.write(runs.revoke, "run")
    books.ledger.close()
    done = run("restore", tmp_path / "backup.db", "--yes", "--replace-whole", "--without-revokes")
    assert "REVOKED since, and NOT again: run run" in done.output
    assert left(tmp_path / "books.db", "run") == (100.0, "active")


@pytest.mark.parametrize("what", ["text", "cut", "torn", "unequal", "nothing"])
def test_what_is_no_whole_backup_changes_nothing(books: Books, tmp_path: Path, what: str) -> None:
    pay(books, "before", 40)
    backup = tmp_path / "backup.db"
    run("backup", backup)
    books.ledger.close()
    before = (tmp_path / "books.db").read_bytes()
    if what == "text":
        backup.write_text("no ledger at all" * 100)
    elif what == "cut":
        backup.write_bytes(backup.read_bytes()[:-4096])
    elif what == "torn":
        tear(backup, "journal")
    elif what == "unequal":
        with closing(sqlite3.connect(backup)) as db:
            db.execute("UPDATE budget SET spent_micros = 1")
            db.commit()
    else:
        backup.unlink()
    done = run("restore", backup, "--yes", "--replace-whole")
    assert done.exit_code == 1, done.output
    wanted = {"unequal": "do not add up", "nothing": "there is no backup"}.get(what, "")
    assert wanted in done.output
    assert str(backup) in done.output, "it is not the ledger that is wrong"
    assert "ledger_url" not in done.output
    assert "stop luigid" not in done.output
    assert "Traceback" not in done.output
    assert (tmp_path / "books.db").read_bytes() == before
    assert not list(tmp_path.glob(".books*"))


def test_other_books_are_not_replaced_unasked(books: Books, tmp_path: Path) -> None:
    run("backup", tmp_path / "backup.db")
    Books(tmp_path / "other.db", run_id="elsewhere").ledger.close()
    done = run("restore", tmp_path / "backup.db", "--to", f"sqlite:///{tmp_path / 'other.db'}", "--yes")
    assert (done.exit_code, "has other books" in done.output) == (1, True)


def test_another_program_s_database_is_not_replaced(books: Books, tmp_path: Path) -> None:
    run("backup", tmp_path / "backup.db")
    other = tmp_path / "other.db"
    with closing(sqlite3.connect(other)) as db:
        db.execute("CREATE TABLE theirs (x)")
        db.commit()
    before = other.read_bytes()
    to = f"sqlite:///{other}"
    done = run("restore", tmp_path / "backup.db", "--to", to, "--yes", "--replace-whole")
    assert done.exit_code == 1, done.output
    assert f"{other} is another program's database" in done.output
    assert other.read_bytes() == before
