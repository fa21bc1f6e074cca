"""Stripe's form encoding, read strictly: what could be read in two ways is refused.

v1 bodies are `application/x-www-form-urlencoded` with brackets (https://docs.stripe.com/api).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from urllib.parse import parse_qsl, urlsplit

from luigi_spendguard.errors import denial
from luigi_spendguard.vendors.calls import Request

#: Fields whose value must not be kept, nor be found by trying from a quick hash.
_SENSITIVE = re.compile(r"\[(number|cvc|account_number|iban|security_code|id_number|ssn_last_4)\]$")


def parameters(request: Request) -> dict[str, str]:
    """Return the form's parameters. Raises SpendDenied (`unpriced`) when they are ambiguous."""
    if not request.body:
        return _pairs(urlsplit(request.url).query) if request.method == "DELETE" else {}
    if request.method == "DELETE":
        raise denial("unpriced", "a DELETE with a body cannot be priced")
    kind = request.headers.get("content-type", "application/x-www-form-urlencoded")
    if not kind.startswith("application/x-www-form-urlencoded"):
        raise denial("unpriced", f"a body of type {kind[:60]!r} cannot be priced: send a form")
    try:
        text = request.body.decode("ascii")
    except ValueError:
        raise denial("unpriced", _ODD) from None
    return _pairs(text)


_ODD = "the form cannot be read: send it as the stripe SDK encodes it"


def _pairs(text: str) -> dict[str, str]:
    if not text:
        return {}
    try:
        if ";" in text:
            raise ValueError
        pairs = parse_qsl(
            text, keep_blank_values=True, strict_parsing=True, errors="strict", max_num_fields=2000
        )
    except ValueError:
        raise denial("unpriced", _ODD) from None
    found: dict[str, str] = {}
    for name, value in pairs:
        if name in found and not name.endswith("[]"):
            raise denial("unpriced", f"the parameter {name[:60]!r} is given twice: which one counts is open")
        found[name] = value
    for name in found:
        stem = name.split("[", 1)[0]
        if stem != name and stem in found:
            raise denial("unpriced", f"the parameter {stem[:60]!r} is both a value and a group")
    return found


def whole(params: Mapping[str, str], name: str) -> int | None:
    """Return a non-negative whole number of minor units, None when it is not given.

    Raises SpendDenied (`unpriced`) for anything else.
    """
    single(params, name)
    text = params.get(name)
    if text is None:
        return None
    if not re.fullmatch(r"[0-9]{1,12}", text):
        raise denial("unpriced", f"{name} must be a whole number of the currency's smallest unit, from 0 up")
    return int(text)


def single(params: Mapping[str, str], name: str) -> None:
    """Raise SpendDenied (`unpriced`) where a parameter that is one value comes as a list or a group."""
    if any(given.startswith(f"{name}[") for given in params):
        raise denial("unpriced", f"the parameter {name!r} is one value: a list of them cannot be priced")


def signed(params: Mapping[str, str], name: str) -> int | None:
    """Return a whole number of minor units that may be negative, None when it is not given."""
    text = params.get(name, "")
    if not text.startswith("-"):
        return whole(params, name)
    amount = whole({name: text[1:]}, name)
    return None if amount is None else -amount


def is_sensitive(params: Mapping[str, str]) -> bool:
    """Return whether a parameter carries a card or bank account number."""
    return any(_SENSITIVE.search(name) for name in params)


def body_digest(request: Request, sensitive: bool) -> str:
    """Return a digest of the body; a slow one where the body could be guessed."""
    if sensitive:
        return hashlib.scrypt(request.body, salt=b"luigi-spendguard", n=2**14, r=8, p=1).hex()
    return hashlib.sha256(request.body).hexdigest()
