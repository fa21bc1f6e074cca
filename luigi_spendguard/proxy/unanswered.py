"""`Unanswered`: the calls of an attempt that a gateway was sent and has not answered.

When the task makes one again its SDK makes up another idempotency key: only by the first one can the
gateway tell that it is no second call.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from luigi_spendguard.errors import SpendDenied, VendorUnreachable
from luigi_spendguard.protocol import MAX_UNANSWERED, TOO_MANY_UNANSWERED
from luigi_spendguard.vendors import Request


class Mark(NamedTuple):
    """What two requests have in common: where they go, and whether they are the same in every byte."""

    line: str
    body: str


class Unanswered:
    """Remembers keys, oldest first, each with its request's mark."""

    def __init__(self) -> None:
        self._marks: dict[str, Mark] = {}
        self._lock = threading.Lock()

    def __reduce__(self) -> Any:
        return Unanswered, ()  # Another process's calls are its own.

    @staticmethod
    def of(request: Request, target: str) -> Mark:
        """Return the mark of a request to `target` (path and query)."""
        path, _, query = target.partition("?")
        return Mark(
            f"{request.method} {path}", hashlib.sha256(query.encode() + b"?" + request.body).hexdigest()
        )

    def named(self, mark: Mark, own: str) -> str:
        """Return the keys (blank between) of all calls that a request may be, `own` excepted.

        Requests to another path are other calls. TOO_MANY_UNANSWERED when they do not fit, and none is equal:
        a call that is left out could be made twice.
        """
        with self._lock:
            marks = dict(self._marks)
        keys = [key for key, other in marks.items() if other.line == mark.line and key != own]
        keys.sort(key=lambda key: marks[key].body != mark.body)
        joined = " ".join(keys)
        if len(joined) <= MAX_UNANSWERED:
            return joined
        if marks[keys[0]].body == mark.body:  # It is one of those that stand first.
            return joined[: MAX_UNANSWERED + 1].rpartition(" ")[0]
        return TOO_MANY_UNANSWERED

    @contextmanager
    def remembered(self, own: str, mark: Mark | None, told: str = "") -> Iterator[None]:
        """Remember a call if it is not answered in the block; None: it is known again without.

        One that is answered is forgotten, and so is the oldest equal one of those that the gateway was `told`
        of (keys, blank between): it is that call, made again.
        """
        try:
            yield
        except (SpendDenied, VendorUnreachable):
            raise
        except BaseException:
            if mark is not None and re.fullmatch(r"[\w-]{1,64}", own):
                with self._lock:
                    self._marks.setdefault(own, mark)
            raise
        with self._lock:
            if self._marks.pop(own, None) is None and mark is not None:
                named = set(told.split())
                equal = next(
                    (key for key, other in self._marks.items() if other == mark and key in named), ""
                )
                self._marks.pop(equal, None)
