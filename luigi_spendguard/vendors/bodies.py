"""Bodies and replies that several vendors have in common, read strictly: what is ambiguous is refused."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection
from typing import Any
from urllib.parse import parse_qsl

from luigi_spendguard.errors import denial
from luigi_spendguard.vendors.calls import Outcome, Quote, Reply, Request


def check_body(request: Request) -> None:
    """Raise SpendDenied (`unpriced`) for a body that a vendor could read otherwise than it is read here."""
    if request.body and request.method in ("GET", "HEAD"):
        raise denial("unpriced", f"a {request.method} with a body cannot be judged: use the query string")
    coding = request.headers.get("content-encoding", "identity").strip().lower()
    if coding not in ("", "identity"):
        raise denial(
            "unpriced", f"a body with Content-Encoding {coding[:60]!r} cannot be read: send it plain"
        )


def form(request: Request, lists: Collection[str] = ()) -> dict[str, list[str]]:
    """Return a form's parameters; only those in `lists` may be given several times.

    Raises SpendDenied (`unpriced`).
    """
    kind = _media_type(request)
    if request.body and kind != "application/x-www-form-urlencoded":
        raise denial("unpriced", f"a body of type {kind[:60]!r} cannot be priced: send a form")
    try:
        text = request.body.decode("ascii")
        if ";" in text:
            raise ValueError
        pairs = parse_qsl(
            text, keep_blank_values=True, strict_parsing=bool(text), errors="strict", max_num_fields=2000
        )
    except ValueError:
        raise denial("unpriced", "the form cannot be read: send it as the vendor's SDK encodes it") from None
    found: dict[str, list[str]] = {}
    for name, value in pairs:
        found.setdefault(name, []).append(value)
    for name, values in found.items():
        if len(values) > 1 and name not in lists:
            raise denial("unpriced", f"the parameter {name[:60]!r} is given twice: which one counts is open")
    return found


def json_body(request: Request) -> Any:
    """Return a request's JSON. Raises SpendDenied (`unpriced`) for another body, or a doubled key."""
    kind = _media_type(request)
    if kind != "application/json":
        raise denial("unpriced", f"a body of type {kind[:60]!r} cannot be priced: send JSON")
    try:
        return json.loads(request.body.decode("utf-8"), object_pairs_hook=_once, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        why = str(error) if isinstance(error, _Doubled) else "it is no JSON"
        raise denial("unpriced", f"the body cannot be priced: {why}") from None


def _media_type(request: Request) -> str:
    """Return a body's media type. Raises SpendDenied (`unpriced`): in other signs it says something else."""
    kind, _, more = request.headers.get("content-type", "").partition(";")
    if more.strip() and not re.fullmatch(r'charset=("?)utf-8\1', more.strip(), re.IGNORECASE):
        raise denial("unpriced", f"a body with {more.strip()[:60]!r} cannot be priced: send it as UTF-8")
    return kind.strip().lower()


class _Doubled(ValueError):
    pass


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _Doubled("a key stands in it twice, and which one counts is open")
    return found


def _no_constant(text: str) -> Any:
    raise _Doubled(f"{text} is no JSON")


def reply_object(reply: Reply) -> dict[str, Any]:
    """Return a reply's JSON object, an empty one for anything else."""
    try:
        body = json.loads(reply.body)
    except (ValueError, RecursionError):
        return {}
    return body if isinstance(body, dict) else {}


def digest(*parts: object) -> str:
    """Return a digest of texts, lists and mappings of them."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def unsuccessful(quote: Quote, reply: Reply) -> Outcome | None:
    """Return what became of a call that its vendor has not answered with 2xx, or that only reads.

    A 409 says that an earlier send is under way; anything beyond 4xx may have been executed.
    """
    note = f"HTTP {reply.status}"
    if quote.read:
        return Outcome("settle")
    if 400 <= reply.status < 500 and reply.status != 409:
        return Outcome("void", note=note)
    return None if 200 <= reply.status < 300 else Outcome("doubt", note=note)


def unbelieved(why: str) -> Outcome:
    """Return the outcome of a call whose reply cannot be believed: it is in doubt, and its caller is told."""
    return Outcome("doubt", note=why, error=why)
