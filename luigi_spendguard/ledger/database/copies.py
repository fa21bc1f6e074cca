"""Whole copies of a file of SQLite's: made while it is written to, made durable, and put in its place."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from luigi_spendguard.errors import Conflict, LedgerUnavailable
from luigi_spendguard.ledger.database.sqlite import translate, translated

#: Called with how many pages are copied, and of how many.
Progress = Callable[[int, int], object]
#: Pages (of 4 KB, mostly) between two calls of a Progress.
_PAGES = 2048
#: What stands beside a file that is open, or was not closed.
BESIDE = ("-wal", "-shm", "-journal")


@contextmanager
def new_file(path: Path, beside: Path) -> Iterator[Path]:
    """Yield the path of an empty file that its owner alone may read, in the folder of `beside`; it is gone
    when the block ends.

    Raises LedgerUnavailable where it cannot be made. `path` is the one that is to be made of it.
    """
    made = beside.parent / f".{path.name}.{os.getpid()}.part"
    try:
        os.close(os.open(made, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    except FileNotFoundError:
        raise Conflict(f"there is no folder {beside.parent}: make it, or name another one") from None
    except OSError as error:
        raise LedgerUnavailable(f"{made} cannot be written: {error.strerror}") from None
    try:
        yield made
    finally:
        for one in (made, *(Path(f"{made}{name}") for name in BESIDE)):
            with suppress(FileNotFoundError):
                one.unlink()


def copy_file(source: Path, target: Path, progress: Progress) -> None:
    """Copy the state that a file has now to another one, page by page, while others go on writing to it.

    It is a snapshot: what is written meanwhile stays in the source's write-ahead log, and is not in the copy.
    The copy is a single file, with nothing beside it. Raises LedgerUnavailable.
    """
    with translated(source), closing(sqlite3.connect(_address(source), uri=True)) as old:
        old.execute("BEGIN")
        old.execute("SELECT count(*) FROM sqlite_master").fetchone()  # The snapshot begins with this.
        with closing(sqlite3.connect(target, isolation_level=None)) as new:
            new.execute("PRAGMA journal_mode = OFF")  # Where it is not finished it is deleted.
            new.execute("PRAGMA synchronous = OFF")
            old.backup(new, pages=_PAGES, progress=lambda _, left, of: progress(of - left, of), sleep=0)
    single(target)


def single(path: Path) -> None:
    """Let a file that nobody else uses be one file, with no write-ahead log beside it."""
    with translated(path), closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode = DELETE")


def finish(path: Path) -> None:
    """Bring what stands in the write-ahead log of a file that nobody else uses into it."""
    with translated(path), closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def _address(path: Path) -> str:
    return f"{path.absolute().as_uri()}?mode=ro"


def damage(path: Path) -> str:
    """Return what SQLite finds wrong in a file, "" for nothing. It reads all of it, some pages at a time.

    Raises LedgerUnavailable where somebody keeps it locked.
    """
    try:
        with closing(sqlite3.connect(_address(path), uri=True)) as db:
            said = [row[0] for row in db.execute("PRAGMA integrity_check(3)")]
    except sqlite3.Error as error:
        if "locked" in str(error):  # Which says nothing of what is in it.
            raise translate(error, path) from error
        return str(error)
    return "" if said == ["ok"] else "; ".join(said)


def sync(path: Path) -> None:
    """Make what is in a file, or which names are in a folder, survive power loss."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def name_new(made: Path, path: Path) -> None:
    """Let a file that is whole have its name, which nothing else has. Raises Conflict where something has."""
    sync(made)
    try:
        os.link(made, path)  # Unlike a rename it replaces nothing.
    except FileExistsError:
        raise Conflict(f"{path} is there already: name a file that is not") from None
    except OSError:  # A file system without links.
        if path.exists():
            raise Conflict(f"{path} is there already: name a file that is not") from None
        made.rename(path)
    sync(path.parent)


def replace(made: Path, path: Path, kept: Path | None) -> None:
    """Put a file that is whole in another one's place, which is kept under the name `kept`, with its log.

    SQLite would mix an old write-ahead log into the new file: it goes before that comes.
    """
    sync(made)
    if kept is not None:
        for end in ("", *BESIDE):
            with suppress(FileNotFoundError):
                os.link(f"{path}{end}", f"{kept}{end}")
        sync(path.parent)
    for end in BESIDE:
        with suppress(FileNotFoundError):
            os.unlink(f"{path}{end}")
    os.replace(made, path)
    sync(path.parent)
