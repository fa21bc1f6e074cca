"""`Anchors`: tells each block of the audit elsewhere, so that whoever has this whole machine cannot write its
history anew unseen.

A block is a line of JSON: appended to a file, or the body of a POST. Nothing waits for it, and what an
address has missed the next block says, which is chained to it.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import threading
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import urllib3

from luigi_spendguard import backoff
from luigi_spendguard.http.addresses import pool_arguments
from luigi_spendguard.ledger.audit.blocks import Block
from luigi_spendguard.process_state import begin_thread

logger = logging.getLogger(__name__)

#: Seconds for an address to answer, the longest between two tries, and for the last ones as the program ends.
_ANSWER_S, _LONGEST_S, _LAST_S = 10.0, 600.0, 2.0
#: How a file is opened: a pipe that nobody reads is not waited for.
_APPEND = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NONBLOCK", 0)


class Anchors:
    """Tells blocks to the places of `[spendguard] audit_anchor`."""

    def __init__(self) -> None:
        self._newest: Block | None = None
        self._urls: tuple[str, ...] = ()
        self._waiting: set[str] = set()
        self._told: set[str] = set()  # Once is enough.
        self._changed = threading.Condition()
        self._is_running = self._is_over = False

    def tell(self, block: Block, places: tuple[str, ...]) -> None:
        """Tell a block to files now, and to addresses soon."""
        for place in places:
            if place.startswith("/"):
                self._append(Path(place), block)
        urls = tuple(place for place in places if not place.startswith("/"))
        if not urls:
            return
        with self._changed:
            self._newest, self._urls = block, urls
            self._waiting = set(urls)
            self._changed.notify_all()
            if not self._is_running:
                with suppress(RuntimeError):  # A program that has ended begins no thread (Python 3.12.0).
                    begin_thread(self._run, "spendguard-anchor")
                    self._is_running = True

    def close(self) -> None:
        """Wait a moment for what is being told, and tell no more."""
        with self._changed:
            if self._is_running:
                self._changed.wait_for(lambda: not self._waiting, _LAST_S)
            self._is_over = True
            self._changed.notify_all()

    def _append(self, path: Path, block: Block) -> None:
        try:
            file = os.open(path, _APPEND, 0o666)
            try:
                _write(file, f"{line(block)}\n".encode())
            finally:
                os.close(file)
        except OSError as error:
            self._say(str(path), error.strerror or str(error))

    def _run(self) -> None:
        """Tell the newest block until it was taken everywhere, at last once for each that is new."""
        waits = backoff.growing(1.0, _LONGEST_S)
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._waiting) or self._is_over)
                if self._is_over or self._newest is None:
                    return
                block, urls = self._newest, sorted(self._waiting)
            failed = [url for url in urls if not self._post(url, block)]
            with self._changed:
                if block is self._newest:
                    self._waiting = set(failed)
                    self._changed.notify_all()
                if not failed:
                    waits = backoff.growing(1.0, _LONGEST_S)
                elif self._changed.wait_for(lambda: self._is_over, next(waits)):
                    return

    def _post(self, url: str, block: Block) -> bool:
        try:
            answer = urllib3.PoolManager(**pool_arguments()).request(
                "POST",
                url,
                body=line(block).encode(),
                headers={"Content-Type": "application/json"},
                timeout=_ANSWER_S,
                retries=False,
            )
        except (urllib3.exceptions.HTTPError, OSError) as error:
            self._say(_host(url), type(error).__name__)
            return False
        if not 200 <= answer.status < 300:
            self._say(_host(url), f"HTTP {answer.status}")
        return 200 <= answer.status < 300

    def _say(self, place: str, why: str) -> None:
        if place not in self._told:
            self._told.add(place)
            logger.warning("Blocks of the audit are not told to %s for now: %s", place, why)


def _write(file: int, text: bytes) -> None:
    """Write a text whole, or nothing of it: whoever reads it finds no half a block. Raises OSError."""
    written = os.write(file, text)
    if written < len(text):
        os.ftruncate(file, os.lseek(file, 0, os.SEEK_CUR) - written)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _host(url: str) -> str:
    """Return what of an address may be logged: its path may be what lets in."""
    return urlsplit(url).hostname or ""


def line(block: Block) -> str:
    """Return what is told of a block: all that its signature is of, with that."""
    return json.dumps(vars(block), separators=(",", ":"))
