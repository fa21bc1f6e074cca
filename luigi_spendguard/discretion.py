"""Keeps secrets and vault keys out of what a process says: its log records, its standard streams.

Log records are redacted where they are made, whatever loggers and handlers there are or will be.
"""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from luigi_spendguard import redaction
from luigi_spendguard.blocks import Blocks

#: What is logged instead of a record that could not be searched.
UNSEARCHED = "(this log record could not be searched for secrets and was left out: {})"

_before: Callable[..., logging.LogRecord] | None = None


def install() -> None:
    """Redact every log record that this process makes from now on; once is enough."""
    global _before
    if _before is None:
        _before = logging.getLogRecordFactory()
        logging.setLogRecordFactory(_record)


def uninstall() -> None:
    """Put the factory of log records back, unless somebody has put another in its place."""
    global _before
    if _before is not None and logging.getLogRecordFactory() is _record:
        logging.setLogRecordFactory(_before)
        _before = None


def _record(*args: Any, **kwargs: Any) -> logging.LogRecord:
    record = (_before or logging.LogRecord)(*args, **kwargs)
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
    if redaction.shows(message):
        record.msg, record.args = redaction.redact(message), ()
    if record.exc_info and record.exc_info[0] is not None:
        text = "".join(traceback.format_exception(*record.exc_info))
        if redaction.shows(text):
            # Formatters take this text; the exception itself would be shown by others as it is.
            record.exc_text, record.exc_info = redaction.redact(text).rstrip("\n"), None
    if record.stack_info:
        record.stack_info = redaction.redact(record.stack_info)


class _Stream:
    """A text stream that redacts what is written to it."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> Any:
        """Write `text` without secrets."""
        return self._stream.write(redaction.redact(text) if isinstance(text, str) else text)

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
    return _blocks.block(_begin, _end)


def _begin(first: bool) -> None:
    for name in ("stdout", "stderr") if first else ():
        if getattr(sys, name) is not None:
            setattr(sys, name, _Stream(getattr(sys, name)))


def _end(last: bool) -> None:
    for name in ("stdout", "stderr") if last else ():
        here = getattr(sys, name)
        if isinstance(here, _Stream):  # Else the task has put another in its place.
            setattr(sys, name, here._stream)
