"""`Spool`: what cannot be told to the ledger stands on disk, and who comes next on this host says it.

A folder with a file for each process that has something to say (`spool_file.py`): who comes next takes those
whose lock is free. A message may be said twice (its process was killed before it had noted that): to the
ledger that is the same end. No vault key stands there, but its SHA-256.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Generator, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from luigi_spendguard import config
from luigi_spendguard.http.spool_file import REFUSED, Content, Kept, SpoolFile, files_in, ready, sync
from luigi_spendguard.process_state import at_fork
from luigi_spendguard.protocol.messages import Message
from luigi_spendguard.protocol.rpcs import EndedCall

__all__ = ["Backlog", "Kept", "LeftMessage", "Spool", "backlog", "spool_folder"]

logger = logging.getLogger(__name__)


def spool_folder() -> Path | None:
    """Return where messages are kept, beside the default ledger; None where nobody has a home."""
    try:
        return config.state_folder(os.environ) / "spool"
    except RuntimeError:
        return None


class LeftMessage:
    """A message that a process has left which is gone; whoever takes it over says how that went."""

    def __init__(self, file: SpoolFile, number: int) -> None:
        self._file, self._number, self.kept = file, number, file.waiting[number]

    def heard(self, reply: Message) -> None:
        """Take it out, as the ledger has answered it; ends that it did not take are put aside."""
        ends: tuple[EndedCall, ...] = getattr(reply, "ends", ())
        if refused := [f"{end.call_id}: {end.refused}" for end in ends if end.refused]:
            self.refused("; ".join(refused))
            return
        logger.info("Said for a process that is gone: %s", self.kept.what)
        self._file.said([self._number])

    def refused(self, why: str) -> None:
        """Put it aside: the ledger will never take it."""
        self._file.refused(self._number, why)


class Spool:
    """What this process has to say to one ledger, and what others have left for that; safe under threads.

    Not where a signal interrupts it: who may be interrupted lets a thread do it.
    """

    def __init__(self, to: str, folder: Path | None = None) -> None:
        """`to`: the scheduler's URL without user and password, or the path of a ledger in this process."""
        self.to, self.folder = to, folder or spool_folder()
        self._file: SpoolFile | None = None
        self._renew()
        at_fork(self._renew)

    def _renew(self) -> None:
        """Begin without the parent's file: only the copy of it is closed, so that its lock stays."""
        file, self._file = self._file, None
        if file is not None:
            file.close()
        self._lock = threading.Lock()

    def keep(self, messages: Sequence[Kept]) -> list[int]:
        """Put messages on disk; return the numbers by which they are taken out. Raises OSError: none is."""
        with self._lock:
            if self._file is not None:
                return self._file.add(messages)
            if self.folder is None:
                raise OSError("this user has no home: set XDG_STATE_HOME")
            file = SpoolFile.made(ready(self.folder), self.to)
            try:
                numbers = file.add(messages)
                sync(self.folder)
            except BaseException:
                file.remove()
                raise
            self._file = file
            return numbers

    def said(self, numbers: Iterable[int]) -> None:
        """Take messages of this process out: the ledger has heard them."""
        with self._lock:
            if self._file is not None:
                self._file.said(numbers)
                self._tidy()

    def refused(self, number: int, why: str) -> None:
        """Put a message of this process aside: the ledger will never take it."""
        with self._lock:
            if self._file is not None and number in self._file.waiting:
                self._file.refused(number, why)
                self._tidy()

    def _tidy(self) -> None:
        file = self._file
        if file is not None and not file.waiting:
            self._file = None  # First: what a fork inherits closes nothing that is another file by then.
            file.end()

    @property
    def is_empty(self) -> bool:
        """Whether nobody at all has anything to say, to whichever ledger: a quick look."""
        return not files_in(self.folder)

    def left(self) -> Generator[LeftMessage, None, None]:
        """Yield what processes that are gone have left for this ledger, the oldest file first.

        Each is to be `heard` or `refused` before the next one; where it is neither, it goes on waiting.
        """
        for path in files_in(self.folder):
            if (file := SpoolFile.taken(path, self.to)) is None:
                continue
            try:
                for number in list(file.waiting):
                    yield LeftMessage(file, number)
            finally:
                file.end()


class Backlog(NamedTuple):
    """What waits in a folder: how many messages for whom, and since when the oldest (ms since the epoch).

    `refused`: how many were put aside, in `refused_in`.
    """

    waiting: dict[str, tuple[int, int]]
    refused: int
    refused_in: Path


def backlog(folder: Path) -> Backlog:
    """Return what waits in a folder; nothing is changed. Raises OSError."""
    waiting: dict[str, tuple[int, int]] = {}
    for path in files_in(folder, strict=True):
        with suppress(FileNotFoundError):  # It was delivered meanwhile.
            if (content := Content.of(path.read_bytes())) is None:
                continue
            for kept in content.waiting.values():
                count, since = waiting.get(content.to, (0, kept.at))
                waiting[content.to] = (count + 1, min(since, kept.at))
    aside = folder / REFUSED
    refused = sum(path.read_bytes().count(b"\n") for path in files_in(aside, strict=True))
    return Backlog(waiting, refused, aside)
