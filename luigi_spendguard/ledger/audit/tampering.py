"""`Tampered`: what is not as it was sealed, in a sentence."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from luigi_spendguard.errors import LedgerError
from luigi_spendguard.ledger.audit import rows
from luigi_spendguard.ledger.audit.blocks import Block
from luigi_spendguard.ledger.database import Row, Tx
from luigi_spendguard.settings.policy import moment


class Tampered(LedgerError):
    """Something is not as it was sealed; the message is a sentence about the first that is not.

    Attributes:
        block, row: its numbers in the audit, None where it is of none.
        sealed_at: when that block was sealed, in milliseconds since the epoch.

    """

    def __init__(self, text: str, block: Block | None = None, row: int | None = None) -> None:
        super().__init__(text)
        self.block = None if block is None else block.number
        self.sealed_at = None if block is None else block.sealed_at
        self.row = row


def moment_of(ms: Any) -> str:
    """Return when that was, in words: whatever stands there."""
    try:
        return str(moment(ms))
    except (ValueError, OverflowError, OSError, TypeError):
        return "at no time that there is"


def when(block: Block) -> str:
    """Return which block it is, in words."""
    return f"block {block.number} (sealed {moment_of(block.sealed_at)})"


def entry_named(one: Mapping[str, Any], block: Block) -> str:
    """Return which sealed entry it is, in words."""
    call = f" of call {one['call_id']}" if one.get("call_id") else ""
    return f"entry {one['id']} ({one.get('kind')}{call}, row {one['seq']} of {when(block)})"


def call_named(one: Mapping[str, Any], text: str) -> str:
    """Return which call it is, in words; `text`: where it stands."""
    return f"call {one['id']} ({one['vendor']} {one['operation']}, run {one['run_id']}, {text})"


@contextmanager
def texts_of(what: str) -> Iterator[None]:
    """Raise Tampered where a text of `what`, in words, is none: a byte of it was changed."""
    try:
        yield
    except Tampered:
        raise
    except Exception as error:
        if "decode" not in str(error):
            raise
        raise Tampered(f"{what} was changed: there is a text that is no UTF-8") from None


def read(tx: Tx, what: str, sql: str, *values: Any) -> list[Row]:
    """Return rows of a query, which are `what` in words. Raises Tampered for a text that is none."""
    with texts_of(what):
        return tx.all(sql, *values)


def difference(
    made: Callable[[Row], dict[str, Any]],
    row: Row,
    sealed: dict[str, Any],
    *,
    is_now: bool = True,
    names: Collection[str] | None = None,
) -> str | None:
    """Return in words how a row of the books differs from what was sealed of it, None where it does not.

    `is_now`: what is in the books was changed; else what is in the audit. `names`: in these fields; None: in
    any.
    """
    try:
        now = made(row)
    except (ValueError, TypeError, RecursionError):
        return "it has a value that none can have"
    if names is not None:
        now, sealed = ({name: one[name] for name in names if name in one} for one in (now, sealed))
    found = rows.differing(sealed, now) if is_now else rows.differing(now, sealed)
    return found or (rows.let_go(sealed, now) if is_now else None)
