"""What an attempt's processes share: `Sharing`, and which calls they have under way.

A process of it that is killed says nothing any more. What it had under way is in doubt, the others say: made
again by one of them, it is the same call.
"""

from __future__ import annotations

import errno
import fcntl
import json
import mmap
import os
import re
import stat
import tempfile
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

from luigi_spendguard.errors import SpendDenied
from luigi_spendguard.process_state import at_fork
from luigi_spendguard.protocol import EndRequest

#: Bytes of each of two halves: one is written while the other is in force. A length begins each.
_HALF, _LENGTH = 1 << 17, 8
#: Before them, in a byte each: which half is in force, and whether something did not fit; then what tells
#: one from any other file.
_IN_FORCE, _FULL, _MARK, _HEAD = 0, 1, 2, 18
_SIZE = _HEAD + 2 * _HALF
_PATH = re.compile(r"(/proc/(\d+)/fd/\d+) ([0-9a-f]{32})")


class SharedTexts:
    """One process at a time changes it; who is killed meanwhile leaves what was there before.

    Shared with what is forked, and with who opens its `path` while this process lives.
    """

    def __init__(self, texts: dict[str, list[str]]) -> None:
        self._open(_new_file())
        self._memory[_MARK:_HEAD] = os.urandom(_HEAD - _MARK)
        self._write(texts)
        _here[self._mark] = self

    @classmethod
    def at(cls, path: str) -> SharedTexts:
        """Return what another process has at `path`; where that is gone, one in which nothing fits."""
        if (texts := cls._find(path)) is None:
            texts = cls({})
            texts._memory[_FULL] = 1
        return texts

    @staticmethod
    def concerns(path: str) -> bool:
        """Return whether a path is there, or was this process's own before it became another program.

        Else who has handed it down is elsewhere (in a container, on another machine).
        """
        if SharedTexts._find(path) is not None:
            return True
        match = _PATH.fullmatch(path)
        return match is not None and int(match[2]) == os.getpid()

    @classmethod
    def _find(cls, path: str) -> SharedTexts | None:
        """Return the one of this process, for who closes a file lets go of its lock, however he opened it."""
        with _opening:
            if (texts := _here.get(path.rpartition(" ")[2])) is None and (file := _found(path)) is not None:
                texts = cls.__new__(cls)
                texts._open(file)
                _here[texts._mark] = texts
        return texts

    @property
    def _mark(self) -> str:
        return self._memory[_MARK:_HEAD].hex()

    def _open(self, file: IO[bytes]) -> None:
        self._file = file
        weakref.finalize(self, file.close)
        self._memory = mmap.mmap(file.fileno(), 0)
        self._renew()
        at_fork(self._renew)

    @property
    def path(self) -> str:
        """Where another process of this machine finds it, "" where no system tells that."""
        path = f"/proc/{os.getpid()}/fd/{self._file.fileno()}"
        return f"{path} {self._mark}" if os.path.exists(path) else ""

    def _renew(self) -> None:
        self._lock = threading.RLock()  # The handler of a signal may call a vendor, too.
        self._is_held = False

    @property
    def is_full(self) -> bool:
        """Whether something did not fit, ever."""
        return bool(self._memory[_FULL])

    @contextmanager
    def held(self) -> Iterator[dict[str, list[str]]]:
        """Hold it in the block; what is changed in it there all others see afterwards.

        The handler of a signal may do so within the block that it interrupts: each keeps its own changes.
        """
        with self._lock:
            within = self._is_held
            try:
                self._is_held = True
                if not within:  # It ends with its process, and no fork inherits it.
                    fcntl.lockf(self._file, fcntl.LOCK_EX)
                before = self._read()
                yield (texts := dict(before))
                changed = {key: text for key, text in texts.items() if before.get(key) != text}
                if changed or before.keys() - texts.keys():
                    now = self._read().items()
                    kept = {key: text for key, text in now if key in texts or key not in before}
                    self._write(kept | changed)
            finally:
                self._is_held = within
                if not within:
                    fcntl.lockf(self._file, fcntl.LOCK_UN)

    def _read(self) -> dict[str, list[str]]:
        begin = _HEAD + self._memory[_IN_FORCE] * _HALF + _LENGTH
        length = int.from_bytes(self._memory[begin - _LENGTH : begin], "big")
        texts: dict[str, list[str]] = json.loads(self._memory[begin : begin + length])
        return texts

    def _write(self, texts: dict[str, list[str]]) -> None:
        data = json.dumps(texts).encode()
        if len(data) > _HALF - _LENGTH:
            self._memory[_FULL] = 1
            return
        half = 1 - self._memory[_IN_FORCE]
        begin = _HEAD + half * _HALF
        whole = len(data).to_bytes(_LENGTH, "big") + data
        self._memory[begin : begin + len(whole)] = whole
        self._memory[_IN_FORCE] = half


#: What this process has of them, by what tells one from any other file.
_here: weakref.WeakValueDictionary[str, SharedTexts] = weakref.WeakValueDictionary()
_opening = threading.RLock()


def _begin_anew() -> None:
    global _opening
    _opening = threading.RLock()


at_fork(_begin_anew)


def _new_file() -> IO[bytes]:
    """Return a file of `_SIZE` zeros, on no disk where the system has such files.

    A disk may be full, or read-only; and memory that stands on one for which there is no room kills whoever
    writes there: so each byte is written here then. Raises OSError.
    """
    if hasattr(os, "memfd_create"):
        number = os.memfd_create("spendguard")
        os.truncate(number, _SIZE)
        return open(number, "r+b", buffering=0)
    file: IO[bytes] = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115  # closed with its object
    try:
        if file.write(bytes(_SIZE)) < _SIZE:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except BaseException:
        file.close()
        raise
    return file


def _found(path: str) -> IO[bytes] | None:
    """Open what is at a path, None where that is gone: the number may be another file's by now."""
    match = _PATH.fullmatch(path)
    try:
        if match is None or not stat.S_ISREG(os.stat(match[1]).st_mode):
            return None
        file = open(match[1], "r+b", buffering=0)  # noqa: SIM115  # whoever asked closes it
    except OSError:
        return None
    there = os.pread(file.fileno(), _HEAD, 0)[_MARK:].hex()
    if there == match[3] and os.fstat(file.fileno()).st_size == _SIZE:
        return file
    file.close()
    return None


def is_gone(pid: int) -> bool:
    """Return whether a process has ended, as far as that can be told; its parent may not have heard of it."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()[0] == "Z"
    except ProcessLookupError:
        return True
    except (OSError, IndexError):
        return False


class Sharing:
    """Texts of an attempt, by name: this process's own until it starts another one that has them, too.

    `path`: where another process has them, "" for nowhere.
    """

    def __init__(self, path: str = "") -> None:
        self._shared = SharedTexts.at(path) if path else None
        self._begin_anew()
        at_fork(self._begin_anew, before=self.share)

    def __reduce__(self) -> Any:
        self.share()
        return type(self), (self.path,)

    def _begin_anew(self) -> None:
        self._lock = threading.RLock()
        #: What is there while nothing is shared.
        self._own: dict[str, list[str]] = {}

    @property
    def path(self) -> str:
        """Where another process finds them, "" for nowhere: they are not shared."""
        return self._shared.path if self._shared is not None else ""

    def share(self) -> None:
        """Have them where the other processes of the task find them, from now on."""
        with self._lock:
            if self._shared is None:
                self._shared, self._own = SharedTexts(self._own), {}

    @contextmanager
    def _held(self) -> Iterator[dict[str, list[str]]]:
        """Hold them in the block, and keep what is changed in them there."""
        with self._lock:
            if self._shared is None:
                yield self._own
                return
        with self._shared.held() as texts:
            yield texts


#: What stands behind a call that its process has given up, and has not said so yet.
_GIVEN_UP = "given up"


class LeftCall(NamedTuple):
    """A call that a process which is gone has left; `asked_by`: its sender, where it heard no answer."""

    call_id: str
    ask: int
    asked_by: str = ""


class CallsUnderWay(Sharing):
    """The calls that the processes of an attempt have asked for, or were granted, and that have not ended.

    Those of a process that is gone stay, as lost, until one of them is made again: the ledger may have heard
    how it ended, and the task has not.
    """

    def __init__(self, path: str = "") -> None:
        self._attempts = 0
        super().__init__(path)

    def _begin_anew(self) -> None:
        super()._begin_anew()
        #: What this process has asked for, and is answered by what it reads now.
        self._read: set[str] = set()

    def share(self) -> None:
        """Share with what is started in the block of an attempt, and with nothing else."""
        if self._attempts:
            super().share()

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Share with what is forked in the block."""
        with self._lock:
            self._attempts += 1
        try:
            yield
        finally:
            with self._lock:
                self._attempts -= 1
                if not self._attempts:
                    self._shared = None

    @contextmanager
    def asking(self, call_id: str, ask: int, sender: str) -> Iterator[None]:
        """Let the others know of a request in the block: killed there, this process sends nothing under it.

        One that is denied is over; one that got no answer is ended by who has made it, and so is one that is
        answered by what this process reads now (`reads`).
        """
        asked = [str(ask), str(os.getpid()), sender]
        with self._held() as texts:
            texts.setdefault(call_id, asked)
        unanswered = True
        try:
            yield
            unanswered = False
        except SpendDenied:
            unanswered = False
            raise
        finally:
            if not unanswered:
                with self._held() as texts:
                    if texts.get(call_id) == asked and call_id not in self._read:
                        del texts[call_id]

    def reads(self, call_id: str) -> None:
        """Take note that this process reads what a call is answered with: killed there, the task has not had
        that.
        """
        self._read.add(call_id)

    def has_read(self, call_id: str) -> None:
        """Take note that the task has that answer; nothing of a call that was given up instead."""
        if call_id in self._read:
            self.end(call_id)

    def begin(self, call_id: str, ask: int) -> None:
        """Take note that this process was granted a call."""
        with self._held() as texts:
            texts[call_id] = [str(ask), str(os.getpid()), ""]

    def give_up(self, end: EndRequest) -> None:
        """Take note that a call was not made: its task hears so, and may make it elsewhere, before the ledger
        does. `end`, once that is said.
        """
        self._read.discard(end.call_id)
        with self._held() as texts:
            if end.call_id in texts:
                texts[end.call_id] = [str(end.ask), str(os.getpid()), end.sender_id, _GIVEN_UP]

    def end(self, call_id: str) -> None:
        """Take note that a call has ended."""
        self._read.discard(call_id)
        with self._held() as texts:
            texts.pop(call_id, None)

    def left(self) -> list[LeftCall]:
        """Return the calls that are left from now on: their processes are gone.

        What was granted is lost; what no answer was heard to was not sent, and is forgotten here.
        """
        if self._shared is None:
            return []
        with self._held() as texts:
            left = [
                LeftCall(call_id, int(ask), asked_by)
                for call_id, (ask, pid, asked_by, *_) in texts.items()
                if pid and is_gone(int(pid))
            ]
            for one in left:
                if one.asked_by:
                    del texts[one.call_id]
                else:
                    texts[one.call_id] = [str(one.ask), "", ""]
        return left

    def lost(self) -> list[str]:
        """Return the calls that are lost: an equal call is one of them, made again."""
        with self._held() as texts:
            here = str(os.getpid())
            return [
                call_id
                for call_id, (_, pid, _, *given_up) in texts.items()
                if not pid or (given_up and pid != here)  # Behind its own ends a process waits by itself.
            ]
