"""Undoes the codings of a reply that was asked for without any."""

from __future__ import annotations

import zlib


def decoded(body: bytes, codings: str, limit: int) -> tuple[bytes, str]:
    """Return a body without its `codings` (a Content-Encoding), and those that are not known here.

    Raises ValueError for one that is broken, or longer than `limit` bytes.
    """
    todo = [name for one in codings.split(",") if (name := one.strip().lower()) not in ("", "identity")]
    while todo and todo[-1] in ("gzip", "x-gzip", "deflate"):
        body = _inflated(body, todo.pop().endswith("gzip"), limit)
    return body, ", ".join(todo)


def _inflated(body: bytes, gzip: bool, limit: int) -> bytes:
    # Deflate is zlib's format by its RFC, and the bare one with some servers.
    forms = (zlib.MAX_WBITS | 16,) if gzip else (zlib.MAX_WBITS, -zlib.MAX_WBITS)
    for form in forms:
        inflating = zlib.decompressobj(form)
        try:
            found = inflating.decompress(body, limit + 1)
        except zlib.error:
            continue
        if len(found) > limit:
            raise ValueError("the reply is too long")
        if inflating.eof:
            return found
    if not body:
        return body
    raise ValueError("the reply's coding is broken")
