"""`SpoolFile`: what one process has to say, in a file of lines of JSON, whose lock it holds while it lives.

First whom they are for, then each message, then which were said. What was cut off in the midst of a line was
never told to be kept.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import secrets
import stat
import time
import weakref
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from luigi_spendguard.protocol import EndRequest, key_hash, rpcs
from luigi_spendguard.protocol.messages import BadMessage, Message
from luigi_spendguard.protocol.rpcs import EndedRequest, Rpc

logger = logging.getLogger(__name__)

#: Of the form in which messages stand there.
VERSION = 1
#: What can be said by who comes next: it has the workers' token, or the ledger itself.
_RPCS: dict[str, Rpc[Any, Any]] = {one.name: one for one in (rpcs.ENDED, rpcs.FINISH, rpcs.CLOSE_RUN)}
#: The most bytes of its first line.
_HEAD = 8192
#: The folder beside the files for what was refused for good.
REFUSED = "refused"


class Kept(NamedTuple):
    """A message as it is kept.

    Attributes:
        what: it, for a log.
        relayed: a gateway says how calls that it has sent have ended.
        at: when it was kept, in milliseconds since the epoch; 0: it is not yet.

    """

    what: str
    rpc: str
    request: dict[str, Any]
    relayed: bool = False
    at: int = 0

    @classmethod
    def of(cls, what: str, rpc: Rpc[Any, Any], request: Message) -> Kept:
        """Return a message of one of the RPCs that can be kept."""
        return cls(what, rpc.name, request.to_json())

    @classmethod
    def ended(cls, key: str, ends: Sequence[EndRequest], *, relayed: bool = False) -> Kept:
        """Return how calls of a vault key's have ended."""
        what = f"{rpcs.ENDED.name} of {', '.join(end.call_id for end in ends)}"
        request = EndedRequest(key_hash(key), tuple(ends))
        return cls(what, rpcs.ENDED.name, request.to_json(), relayed)

    def read(self) -> tuple[Rpc[Any, Any], Any]:
        """Return the RPC, and its request. Raises BadMessage."""
        if (rpc := _RPCS.get(self.rpc)) is None:
            raise BadMessage(f"{self.rpc!r} is none of {', '.join(_RPCS)}")
        if not isinstance(self.request, dict):  # Whatever stands in the file.
            raise BadMessage("its request is no JSON object")
        return rpc, rpc.request.from_json(self.request)


class SpoolFile:
    """One process's messages, in a file whose lock this process holds.

    Attributes:
        waiting: what has neither been said nor refused, by number.

    """

    def __init__(self, descriptor: int, path: Path, to: str) -> None:
        self._descriptor, self._path, self.to = descriptor, path, to
        # Not when the interpreter ends: what is said then is still taken out.
        self._closing = weakref.finalize(self, os.close, descriptor)
        self._closing.atexit = False
        self.waiting: dict[int, Kept] = {}
        self._last = 0
        #: It ends in the midst of a line, which its process was killed in.
        self._torn = False

    @classmethod
    def made(cls, folder: Path, to: str) -> SpoolFile:
        """Return a new one. Raises OSError."""
        while True:
            name = f"{time.time_ns():019}-{os.getpid()}-{secrets.token_hex(4)}.jsonl"
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
            file = cls(os.open(folder / name, flags, 0o600), folder / name, to)
            try:
                if _is_locked(file._descriptor):
                    file._append([{"version": VERSION, "to": to}])
                    return file
            except BaseException:
                file.remove()
                raise
            file.close()  # Somebody who comes next was quicker, and has found nothing in it.

    @classmethod
    def taken(cls, path: Path, to: str) -> SpoolFile | None:
        """Return the one at `path`, where it is for that ledger.

        None where it is not, its process lives, another takes it, or we cannot read it.
        """
        file = content = None
        with suppress(OSError):
            file = cls(os.open(path, os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC), path, to)
            head = _fields(os.pread(file._descriptor, _HEAD, 0).partition(b"\n")[0])
            if head.get("to", to) == to and _is_locked(file._descriptor):
                content = Content.of(path.read_bytes())
        if file is None:
            return None
        if content is None or (content.waiting and content.to != to):  # Of whom its first line says nothing.
            file.close()
            return None
        file.waiting, file._last, file._torn = content.waiting, content.last, content.torn
        return file

    def add(self, messages: Sequence[Kept]) -> list[int]:
        """Append messages, durably; return their numbers. Raises OSError: none is."""
        now = time.time_ns() // 1_000_000
        added = {self._last + n: kept._replace(at=now) for n, kept in enumerate(messages, 1)}
        self._append([{"n": number, **kept._asdict()} for number, kept in added.items()], durable=True)
        self._last += len(messages)
        self.waiting |= added
        return list(added)

    def said(self, numbers: Iterable[int]) -> None:
        """Take messages out; where that cannot be noted, they are said again one day."""
        gone = [number for number in numbers if self.waiting.pop(number, None)]
        if self.waiting and gone:
            with suppress(OSError):
                self._append([{"said": number} for number in gone])

    def refused(self, number: int, why: str) -> None:
        """Move a message to a file of those; where that cannot be, it stays, and is said again one day."""
        kept = self.waiting[number]
        try:
            folder = ready(self._path.parent / REFUSED)
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
            descriptor = os.open(folder / self._path.name, flags, 0o600)
            try:
                _write(descriptor, [{"to": self.to, "refused": why, **kept._asdict()}])
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            sync(folder)
        except OSError as error:
            logger.error("%s cannot be put aside, and stays in %s: %s", kept.what, self._path, error)
            return
        logger.error("%s was refused, and is put aside in %s: %s", kept.what, folder, why)
        self.said([number])

    def _append(self, lines: Sequence[dict[str, Any]], *, durable: bool = False) -> None:
        before = os.fstat(self._descriptor).st_size
        try:
            _write(self._descriptor, lines, b"\n" if self._torn else b"")
            if durable:
                os.fsync(self._descriptor)
            self._torn = False
        except BaseException:
            with suppress(OSError):
                os.ftruncate(self._descriptor, before)
            raise

    def end(self) -> None:
        """Let go of it, for who comes next; where nothing in it waits, it is deleted."""
        if self.waiting:
            self.close()
        else:
            self.remove()

    def remove(self) -> None:
        """Delete it."""
        with suppress(OSError):
            self._path.unlink()
        self.close()

    def close(self) -> None:
        """Let go of it, and of its lock where no parent or child has a copy."""
        self._closing()


class Content(NamedTuple):
    """What stands in a file; `torn`: also the beginning of a line."""

    to: str
    waiting: dict[int, Kept]
    last: int
    torn: bool

    @classmethod
    def of(cls, data: bytes) -> Content | None:
        """Read a file's content; None where a later version has written it.

        A line that cannot be read was cut off: nobody was told that it is kept.
        """
        to, last, waiting = "", 0, dict[int, Kept]()
        for line in data.split(b"\n"):
            fields = _fields(line)
            if "to" in fields and "n" not in fields:
                if fields.get("version") != VERSION:
                    return None
                to = str(fields["to"])
            elif isinstance(said := fields.get("said"), int):
                waiting.pop(said, None)
            elif isinstance(number := fields.pop("n", last + 1), int) and (kept := _kept(fields)):
                last = number
                waiting[number] = kept
        return cls(to, waiting, last, not data.endswith(b"\n"))


def _fields(line: bytes) -> dict[str, Any]:
    """Return what a line says; nothing where it was cut off, or is of somebody else's making."""
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return fields if isinstance(fields, dict) else {}


def _kept(fields: dict[str, Any]) -> Kept | None:
    """Return the message of a line; None where it has none."""
    types = {"what": str, "rpc": str, "request": object, "relayed": bool, "at": int}
    if not {"what", "rpc", "request"} <= fields.keys() <= types.keys():
        return None
    return Kept(**fields) if all(isinstance(fields[name], types[name]) for name in fields) else None


def files_in(folder: Path | None, *, strict: bool = False) -> list[Path]:
    """Return the files of a folder, the oldest first: none where it is not there.

    Nor where it cannot be read, or is another user's; `strict`: then OSError is raised.
    """
    try:
        if folder is None:
            return []
        if not _is_own(folder):
            raise PermissionError(f"{folder} is another user's")
        return sorted(path for path in folder.iterdir() if path.suffix == ".jsonl" and _is_file(path))
    except FileNotFoundError:
        return []
    except OSError:
        if strict:
            raise
        return []


def _is_file(path: Path) -> bool:
    """Return whether it is a file itself: who opens a FIFO, or reads a device, may wait for ever."""
    with suppress(OSError):
        return stat.S_ISREG(path.lstat().st_mode)
    return False


def _is_own(folder: Path) -> bool:
    """Return whether a folder is this user's: what another one has put there is said by nobody."""
    found = folder.lstat()
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()


def ready(folder: Path) -> Path:
    """Make a folder that its owner alone can look into; return it. Raises OSError."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.mkdir(mode=0o700)
        sync(folder.parent)
    except FileExistsError:
        if not _is_own(folder):
            raise PermissionError(f"{folder} is another user's") from None
        if stat.S_IMODE(folder.stat().st_mode) & 0o077:
            folder.chmod(0o700)
    return folder


def _is_locked(descriptor: int) -> bool:
    """Return whether this process has the lock of a file now, which is still there."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return os.fstat(descriptor).st_nlink > 0


def _write(descriptor: int, lines: Sequence[dict[str, Any]], before: bytes = b"") -> None:
    text = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)
    data = memoryview(before + text.encode())
    while data:
        data = data[os.write(descriptor, data) :]


def sync(folder: Path) -> None:
    """Make durable which files a folder has. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
