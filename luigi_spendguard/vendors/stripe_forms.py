"""Stripe's encoding, by the strict readers of `bodies`: what could be read in two ways is refused.

v1 bodies are `application/x-www-form-urlencoded` with brackets, v2's are JSON (https://docs.stripe.com/api).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

from luigi_spendguard.errors import denial
from luigi_spendguard.vendors import bodies
from luigi_spendguard.vendors.bodies import Params, check_body, form_text, json_body
from luigi_spendguard.vendors.calls import Request

#: Fields whose value must not be kept, nor be found by trying from a quick hash.
_SENSITIVE = re.compile(r"\[(number|cvc|account_number|iban|security_code|id_number|ssn_last_4)\]$")


def parameters(request: Request, path: str) -> Params:
    """Return what a request says in its form or, for `/v2/`, its JSON: for price, scope and all else.

    An upload is asked of nobody: only its digest counts. Raises SpendDenied (`unpriced`) for what two parsers
    could read differently (`vendors/bodies.py`).
    """
    if request.body and request.method == "POST":
        if path.startswith("/v2/"):
            check_body(request)
            if urlsplit(request.url).query:
                raise denial("unpriced", "a POST with a query string cannot be priced: say it in the body")
            return MappingProxyType(dict(_flat("", json_body(request))))
        if is_upload(request, path):
            return parameters(replace(request, body=b""), path)
    return bodies.parameters(form_text(request))


def is_upload(request: Request, path: str) -> bool:
    """Return whether a request is a file's upload, whose body is no form."""
    kind = request.headers.get("content-type", "")
    return path == "/v1/files" and re.fullmatch(r"multipart/form-data; *boundary=[^,;]+", kind) is not None


def _flat(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """Yield what JSON says, named as a form would name it."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if "[" in key or "]" in key:
                raise denial("unpriced", f"the key {key[:60]!r} of the body could be read as a group")
            yield from _flat(f"{name}[{key}]" if name else key, inner)
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _flat(f"{name}[{number}]", inner)
    else:
        yield name, value if isinstance(value, str) else json.dumps(value)


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
