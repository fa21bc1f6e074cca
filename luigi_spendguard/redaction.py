"""Secrets that do not show themselves, and the one pattern that takes them out of any text.

Whatever reads a secret or token teaches it here (`learn`); `redact` then replaces it, in every form it
usually takes on its way into a text, and every vault key. So they stay out of what a process says: its
standard streams, and its log records, which are redacted where they are made, whatever loggers and handlers
there are or will be.
"""

from __future__ import annotations

import base64
import html
import json
import logging
import re
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import lru_cache
from typing import Any
from urllib.parse import quote, quote_plus, unquote

from luigi_spendguard.process_state import Blocks, at_fork

#: What stands in a secret's place.
REDACTED = "[redacted]"
#: Shorter values are not looked for: they would be found in ordinary words.
SHORTEST = 8
#: Bytes that are searched at a time.
_PART = 1 << 18
#: So many values are remembered, the latest: a process has a few, rotated now and then.
_MOST = 64


class Secret(str):
    """A secret or token: a `str` in every respect, except that its `repr` does not show it.

    So a traceback with local variables, a dataclass or a dict that holds it does not show it either.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return REDACTED


def _base64_forms(value: bytes) -> Iterator[str]:
    """Yield what is found in the base64 of any text that contains `value`, at each of the 3 alignments.

    Of its edges, whose characters depend on what stands beside it, at most two bytes are left out.
    """
    for before in range(3):
        encoded = base64.b64encode(b"\0" * before + value).decode()
        certain = encoded[(0, 2, 3)[before] : (before + len(value)) * 8 // 6]
        yield certain
        yield certain.translate({ord("+"): "-", ord("/"): "_"})


def _forms(value: str) -> Iterator[str]:
    """Yield how `value` may be written: as it is, in a URL, in JSON, in Python, in HTML, in base64."""
    yield value
    yield from (quote(value, errors="replace"), quote(value, "", errors="replace"))
    yield quote_plus(value, errors="replace")
    in_json = json.dumps(value)[1:-1]
    yield from (in_json, json.dumps(in_json)[1:-1])  # A traceback goes to luigid as JSON in JSON.
    yield from (repr(str(value))[1:-1], html.escape(value))
    yield from _base64_forms(value.encode("utf-8", "surrogateescape"))


#: A vault key, as it is (its random part has 43 characters; error codes such as vault_key_revoked stay) and
#: in base64.
_KEY = (
    "vault_key_[A-Za-z0-9_-]{16,}",
    f"(?:{'|'.join(map(re.escape, dict.fromkeys(_base64_forms(b'vault_key_'))))})[A-Za-z0-9+/=_-]{{16,}}",
)
_values: dict[str, None] = {}
_pattern = re.compile("|".join(_KEY))
_lock = threading.Lock()


def _begin_anew() -> None:
    global _lock
    _lock = threading.Lock()


at_fork(_begin_anew)


def learn(*values: str | None) -> None:
    """Take `values` out of every text from now on; None and what is too short is passed over."""
    global _pattern
    given = [str(value) for value in values if value and len(value) >= SHORTEST]
    with _lock:
        is_new = any(value not in _values for value in given)
        for value in given:  # What is said again is in force: what was rotated is forgotten before it.
            _values.pop(value, None)
            _values[value] = None
        if not is_new:
            return
        while len(_values) > _MOST:
            del _values[next(iter(_values))]
        forms = {form for value in _values for form in _forms(value)}
        longest_first = sorted(forms, key=lambda form: (-len(form), form))
        _pattern = re.compile("|".join((*map(re.escape, longest_first), *_KEY)))


def forget() -> None:
    """Forget all values (for tests)."""
    global _pattern
    with _lock:
        _values.clear()
        _pattern = re.compile("|".join(_KEY))


def shows(text: str) -> bool:
    """Return whether a secret or vault key stands in `text`."""
    return _pattern.search(text) is not None


@lru_cache(maxsize=_MOST)
def _written(secret: str) -> tuple[bytes, ...]:
    forms = {form.encode("utf-8", "surrogateescape") for form in _forms(secret) if len(form) >= SHORTEST}
    return (secret.encode("utf-8", "surrogateescape"), *forms)


def is_in(data: bytes, secret: str) -> bool:
    """Return whether `secret` stands in `data`, in any form that it is taken out of texts in.

    Looked for in parts: between two of them other threads go on.
    """
    forms = _written(secret)
    longest = max(map(len, forms))
    if len(data) <= _PART + longest:
        return any(form in data for form in forms)
    return any(
        form in data[start : start + _PART + longest]
        for start in range(0, len(data), _PART)
        for form in forms
    )


def redact(text: str) -> str:
    """Return `text` without secrets and vault keys."""
    return _pattern.sub(REDACTED, text)


#: How vendors' keys look, whoever's they are: what this process has not learnt is in the wrong place, too.
_LOOKS = re.compile(
    r"(?:(?<![A-Za-z0-9_])|(?<=%[0-9A-Fa-f][0-9A-Fa-f]))(?:[spr]k_(?:live|test)_[A-Za-z0-9]{8,}|whsec_[A-Za-z0-9+/=]{16,}"
    r"|re_[A-Za-z0-9]{6,12}_[A-Za-z0-9]{16,}|SK[0-9a-f]{32}(?![0-9a-f]))"
)


def hide(text: str) -> str:
    """Return a text without secrets, vault keys, and what looks like a vendor's key."""
    return _LOOKS.sub(REDACTED, redact(text))


def redact_url(text: str) -> str:
    """Return a path, or a text with one in it, without all that; decoded where only that shows it."""
    text = hide(text)
    if "%" in text and hide(decoded := unquote(text)) != decoded:
        return hide(decoded)
    return text


def redacted(value: Any) -> Any:
    """Return `value` with every text in it redacted: texts, and dicts, lists and tuples of them."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {redacted(key): redacted(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(redacted(item) for item in value)
    return value


#: What is logged instead of a record that could not be searched.
UNSEARCHED = "(this log record could not be searched for secrets and was left out: {})"

_stock_factory: Callable[..., logging.LogRecord] | None = None


def install() -> None:
    """Redact every log record that this process makes from now on; once is enough."""
    global _stock_factory
    if _stock_factory is None:
        _stock_factory = logging.getLogRecordFactory()
        logging.setLogRecordFactory(_record)


def uninstall() -> None:
    """Put the factory of log records back, unless somebody has put another in its place."""
    global _stock_factory
    if _stock_factory is not None and logging.getLogRecordFactory() is _record:
        logging.setLogRecordFactory(_stock_factory)
        _stock_factory = None


def _record(*args: Any, **kwargs: Any) -> logging.LogRecord:
    record = (_stock_factory or logging.LogRecord)(*args, **kwargs)
    try:
        _redact(record)
    except Exception as error:  # What cannot be searched is not let through, and never stops its task.
        record.msg, record.args = UNSEARCHED.format(type(error).__name__), ()
        record.exc_info = record.exc_text = record.stack_info = None
    return record


def _redact(record: logging.LogRecord) -> None:
    """Take secrets out of a record; one without any stays as it is."""
    try:
        message = record.getMessage()
    except Exception:
        # `logging` will show it with its arguments, and where it was made.
        message = f"{record.msg} {record.args!r}"
    if (hidden := redact_url(message)) != message:
        record.msg, record.args = hidden, ()
    if record.exc_info and record.exc_info[0] is not None:
        text = "".join(traceback.format_exception(*record.exc_info))
        if shows(text):
            # Formatters take this text; the exception itself would be shown by others as it is.
            record.exc_text, record.exc_info = redact(text).rstrip("\n"), None
    if record.stack_info:
        record.stack_info = redact(record.stack_info)


class _Stream:
    """A text stream that redacts what is written to it."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> Any:
        """Write `text` without secrets."""
        return self._stream.write(redact(text) if isinstance(text, str) else text)

    def writelines(self, lines: Any) -> None:
        """Write each of `lines` without secrets."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        # Not yet there while it is copied; how the stream is copied is not how this is (Python 3.10 asks).
        if name == "_stream" or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._stream, name)


_blocks = Blocks()


def streams() -> AbstractContextManager[None]:
    """Redact what Python code prints meanwhile; a child process's own output is not seen."""
    return _blocks.block(_replace_streams, _restore_streams)


def _replace_streams(first: bool) -> None:
    for name in ("stdout", "stderr") if first else ():
        if getattr(sys, name) is not None:
            setattr(sys, name, _Stream(getattr(sys, name)))


def _restore_streams(last: bool) -> None:
    for name in ("stdout", "stderr") if last else ():
        here = getattr(sys, name)
        if isinstance(here, _Stream):  # Else the task has put another in its place.
            setattr(sys, name, here._stream)
