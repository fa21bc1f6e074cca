"""`idempotency_key`: how a task names a call whose SDK has no way to pass a key."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace

from luigi_spendguard.vendors import Request, Vendor

_key: ContextVar[str | None] = ContextVar("spendguard_idempotency_key", default=None)


@contextmanager
def idempotency_key(key: str) -> Iterator[None]:
    """Let the one vendor call of the block have this key: with it, it is the same call in every attempt.

        with idempotency_key(f"receipt-{order}"):
            client.messages.create(to=..., body=...)

    A key that the call brings itself goes first. Raises ValueError for a key that no vendor takes: 1 to 255
    printable ASCII characters.
    """
    if not (0 < len(key) <= 255 and key.isascii() and key.isprintable()):
        raise ValueError("an idempotency key has 1 to 255 printable ASCII characters")
    token = _key.set(key)
    try:
        yield
    finally:
        _key.reset(token)


def named(request: Request, vendor: Vendor) -> Request:
    """Return a request with the block's key, if it has none and does not only read."""
    key = _key.get()
    if key is None or vendor.only_reads(request) or request.headers.get("idempotency-key"):
        return request
    return replace(request, headers={**request.headers, "idempotency-key": key})
