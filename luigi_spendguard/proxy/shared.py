"""`SharedTexts`: a dictionary of texts that a process shares with all that it forks from then on."""

from __future__ import annotations

import fcntl
import json
import mmap
import tempfile
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

from luigi_spendguard.process_state import at_fork

#: Bytes of each of two halves: one is written while the other is in force. A length begins each.
_HALF, _LENGTH = 1 << 17, 8
#: Before them, in a byte each: which half is in force, and whether something did not fit.
_IN_FORCE, _FULL, _HEAD = 0, 1, 2


class SharedTexts:
    """One process at a time changes it; who is killed meanwhile leaves what was there before."""

    def __init__(self, texts: dict[str, list[str]]) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115
        weakref.finalize(self, self._file.close)
        self._file.truncate(_HEAD + 2 * _HALF)
        self._memory = mmap.mmap(self._file.fileno(), 0)
        self._renew()
        at_fork(self._renew)
        self._write(texts)

    def _renew(self) -> None:
        self._lock = threading.RLock()  # The handler of a signal may call a vendor, too.

    @property
    def is_full(self) -> bool:
        """Whether something did not fit, ever."""
        return bool(self._memory[_FULL])

    @contextmanager
    def held(self) -> Iterator[dict[str, list[str]]]:
        """Hold it in the block; what is changed in it there all others see afterwards."""
        with self._lock:
            fcntl.lockf(self._file, fcntl.LOCK_EX)  # That of a process ends with it, and no fork inherits it.
            try:
                texts = self._read()
                before = json.dumps(texts)
                yield texts
                if json.dumps(texts) != before:
                    self._write(texts)
            finally:
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
