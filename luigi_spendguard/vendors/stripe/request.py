"""Stripe: one request, read for all that is made of it: its address, its version, its parameters, its price.

v1 bodies are forms with brackets, v2's are JSON (https://docs.stripe.com/api), both by the strict readers
of `bodies`. The host is chosen by the path alone. The same parameter may bill another amount in another
version (https://docs.stripe.com/changelog): what stands here of them holds for the versions of the SDKs
that are supported, stripe-python 15 and 16. `StripeCall` is the request on its way to a price, with what
was looked up.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

from luigi_spendguard.errors import SpendDenied, denial
from luigi_spendguard.money import NoRate, to_micros
from luigi_spendguard.settings import VendorSettings
from luigi_spendguard.vendors.bodies import (
    Params,
    check_body,
    form_text,
    json_body,
    read_groups,
    split_address,
)
from luigi_spendguard.vendors.model import Quote, Request

#: Fields whose value must not be kept, nor be found by trying from a quick hash.
_SENSITIVE = re.compile(r"\[(number|cvc|account_number|iban|security_code|id_number|ssn_last_4)\]$")


def read_parameters(request: Request, path: str) -> Params:
    """Return the parameters of a request's form or, for `/v2/`, of its JSON: for price, scope and all else.

    Those of an upload are not read: only its digest counts. Raises SpendDenied (`unpriced`) for what two
    parsers could read differently (`vendors/bodies.py`).
    """
    if request.body and request.method == "POST":
        if path.startswith("/v2/"):
            check_body(request)
            if urlsplit(request.url).query:
                raise denial("unpriced", "a POST with a query string cannot be priced: say it in the body")
            return MappingProxyType(dict(_read_json("", json_body(request))))
        if is_upload(request, path):
            return read_parameters(replace(request, body=b""), path)
    return read_groups(form_text(request))


def is_upload(request: Request, path: str) -> bool:
    """Return whether a request is a file's upload, whose body is no form."""
    kind = request.headers.get("content-type", "")
    return path == "/v1/files" and re.fullmatch(r"multipart/form-data; *boundary=[^,;]+", kind) is not None


def _read_json(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """Yield the values of JSON, named as a form would name them."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if "[" in key or "]" in key:
                raise denial("unpriced", f"the key {key[:60]!r} of the body could be read as a group")
            yield from _read_json(f"{name}[{key}]" if name else key, inner)
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _read_json(f"{name}[{number}]", inner)
    else:
        yield name, value if isinstance(value, str) else json.dumps(value)


def minor_units(params: Mapping[str, str], name: str) -> int | None:
    """Return a parameter's non-negative whole number of minor units, None without one.

    Raises SpendDenied (`unpriced`) for anything else.
    """
    _check_single(params, name)
    text = params.get(name)
    if text is None:
        return None
    if not re.fullmatch(r"[0-9]{1,12}", text):
        raise denial("unpriced", f"{name} must be a whole number of the currency's smallest unit, from 0 up")
    return int(text)


def _check_single(params: Mapping[str, str], name: str) -> None:
    """Raise SpendDenied (`unpriced`) where a parameter that is one value comes as a list or a group."""
    if any(other.startswith(f"{name}[") for other in params):
        raise denial("unpriced", f"the parameter {name!r} is one value: a list of them cannot be priced")


def signed_minor_units(params: Mapping[str, str], name: str) -> int | None:
    """Return a parameter's whole number of minor units, which may be negative; None without one."""
    text = params.get(name, "")
    if not text.startswith("-"):
        return minor_units(params, name)
    amount = minor_units({name: text[1:]}, name)
    return None if amount is None else -amount


def is_sensitive(params: Mapping[str, str]) -> bool:
    """Return whether a parameter carries a card or bank account number."""
    return any(_SENSITIVE.search(name) for name in params)


def body_digest(request: Request, sensitive: bool) -> str:
    """Return a digest of the body; a slow one where the body could be guessed."""
    if sensitive:
        return hashlib.scrypt(request.body, salt=b"luigi-spendguard", n=2**14, r=8, p=1).hex()
    return hashlib.sha256(request.body).hexdigest()


API_BASE = "https://api.stripe.com"
FILES_BASE = "https://files.stripe.com"

#: What is served elsewhere (stripe-python 16.1, `base_address`): method and path.
_ELSEWHERE = (
    (re.compile(r"POST /v1/files|GET /v1/files/[^/]+/contents|GET /v1/quotes/[^/]+/pdf"), FILES_BASE),
    (re.compile(r"\w+ /oauth/.*"), "https://connect.stripe.com"),
    (re.compile(r"\w+ /v2/billing/meter_event_stream"), "https://meter-events.stripe.com"),
)

#: api, files, connect and meter-events (stripe-python 16.1, `_base_address.py`).
_HOSTS = re.compile(r"https://[a-z][a-z-]*\.stripe\.com(?P<rest>/.*)", re.DOTALL)


def rest_of(url: str) -> str | None:
    """Return path and query of a call to one of Stripe's own hosts, None for another host."""
    match = _HOSTS.fullmatch(url)
    return match.group("rest") if match else None


def host_of(method: str, path: str) -> str:
    """Return the base address that serves a path."""
    line = f"{method} {path}"
    return next((base for pattern, base in _ELSEWHERE if pattern.fullmatch(line)), API_BASE)


def path_of(method: str, url: str, settings: VendorSettings) -> str:
    """Return the path of a request to one of Stripe's own addresses. Raises SpendDenied (`endpoint`)."""
    for base in {API_BASE, settings.base_url, *(base for _, base in _ELSEWHERE)}:
        if base and url.startswith(base + "/"):
            path, _ = split_address(url[len(base) :])
            if "%" in path:
                raise denial("endpoint", "the path has characters that no Stripe path has")
            if base in (API_BASE, settings.base_url) or base == host_of(method, path):
                return path
            break
    host = urlsplit(url).hostname or "?"
    raise denial(
        "endpoint", f"{host} is not where [spendguard_stripe] base_url sends this call: nothing was sent"
    )


#: Put where a request names none: the account's own version may be of any age.
PINNED = "2026-10-28.endive"

#: Releases within one of these names add to one another and change nothing; their previews may.
_TAKEN = re.compile(r"20\d\d-\d\d-\d\d\.(dahlia|endive)")
_FIRST = "2026-03-25.dahlia"


def check_version(request: Request) -> None:
    """Raise SpendDenied (`unpriced`) where a request asks for a version that is not known."""
    version = request.headers.get("stripe-version", PINNED)
    if not _TAKEN.fullmatch(version):
        raise denial(
            "unpriced",
            f"what a call costs in the API version {version[:60]!r} is not known: pass {_FIRST} or a later "
            f"Stripe-Version, up to those named endive and no preview, or none, which means {PINNED}",
        )


Body = Mapping[str, Any]

#: Who pays, by a parameter's name: a customer, or an account that stands for one (in Stripe's v1 API a
#: `customer_account`, https://docs.stripe.com/connect/use-accounts-as-customers; in v2 an `account`).
PAYERS = ("customer", "customer_account", "account")

#: What stands in for an object that is not there (HTTP 404); one that could not be fetched is None.
GONE: Body = MappingProxyType({})

_ID = re.compile(r"[A-Za-z0-9_.:@-]{1,255}")


def id_of(named: Any) -> Any:
    """Return the id of what a reply names by its id alone, or in full."""
    return named.get("id") if isinstance(named, dict) else named


def owners(body: Body) -> set[str]:
    """Return whose an object is: its customer, and the account that stands for one."""
    named = (id_of(body.get(name)) for name in PAYERS[:2])
    return {one for one in named if isinstance(one, str) and one}


def stems(params: Mapping[str, str]) -> set[str]:
    """Return what the names of parameters begin with: of `items[0][price]`, `items`."""
    return {name.split("[", 1)[0] for name in params}


class Unbounded(Exception):
    """Nothing says how much a call may cost; the message says why. A fixed price lets it pass."""


class NotLookedUp(Exception):
    """A rule needs what stands at `paths`."""

    def __init__(self, paths: tuple[str, ...]) -> None:
        super().__init__(paths)
        self.paths = paths


@dataclass(frozen=True)
class StripeCall:
    """A recognised request, on its way to a price.

    Attributes:
        quote: what is known of it already, its operation first of all.
        ids: the ids in its path, in their order.
        params: its parameters.
        lookups: what was looked up, by path; None for what could not be fetched, GONE for what is not there.
        fx: the rates of other currencies.
        digest: of its body.

    """

    quote: Quote
    ids: tuple[str, ...]
    params: Mapping[str, str]
    lookups: Mapping[str, Body | None]
    fx: Mapping[str, Decimal]
    digest: str = ""

    def look_up(self, *paths: str) -> list[Body]:
        """Return what stands at `paths`. Raises NotLookedUp, or SpendDenied for what is not there."""
        missing = tuple(path for path in paths if path not in self.lookups)
        if missing:
            raise NotLookedUp(missing)
        objects: list[Body] = []
        for path in paths:
            if not (body := self.lookups[path]):
                raise not_there(self.quote.operation, path)
            objects.append(body)
        return objects

    def is_gone(self, path: str) -> bool:
        """Return whether nothing stands at `path`, such as what an earlier try has deleted."""
        body = self.lookups.get(path)
        return body is not None and not body

    def money(self, minor: int, currency: str) -> int:
        """Return minor units in micro-dollars. Raises SpendDenied (`currency`, `unpriced`)."""
        try:
            return int(to_micros(minor, currency, self.fx))
        except NoRate as error:
            raise denial("currency", str(error)) from None
        except ValueError as error:
            raise denial("unpriced", str(error)) from None

    def check_rates(self, currencies: Iterable[str]) -> None:
        """Raise SpendDenied (`currency`) where one of several possible currencies has no rate."""
        for currency in currencies:
            try:
                to_micros(0, currency, self.fx)
            except NoRate as error:
                raise denial(
                    "currency",
                    f"{error}; or say in the request which `currency` is used: a price has several",
                ) from None

    def minor_units(self, name: str) -> int | None:
        """Return a parameter's whole number of minor units, None without one. Raises SpendDenied."""
        return minor_units(self.params, name)

    def first_of(self, *names: str) -> str | None:
        """Return the first of these parameters that has a value."""
        return next((self.params[name] for name in names if self.params.get(name)), None)

    def payer(self) -> tuple[str, str] | None:
        """Return who pays, as (the parameter's name, the id); None where nobody is named.

        Raises SpendDenied where several are.
        """
        named = [(name, self.params[name]) for name in PAYERS if self.params.get(name)]
        if len(named) > 1:
            raise denial("unpriced", f"{named[0][0]} and {named[1][0]} are named: which one pays is open")
        return named[0] if named else None

    def flag(self, name: str) -> bool:
        """Return a true-or-false parameter, false without one. Raises SpendDenied."""
        _check_single(self.params, name)
        text = self.params.get(name, "false")
        if text not in ("true", "false"):
            raise denial("unpriced", f"{name} must be true or false")
        return text == "true"

    def id_in(self, name: str) -> str:
        """Return a parameter that is an object's id. Raises SpendDenied for anything else."""
        return self.check_id(self.params.get(name, ""), name)

    def check_id(self, text: str, name: str) -> str:
        """Return what `name` says, where that is an object's id. Raises SpendDenied for anything else."""
        if not _ID.fullmatch(text) or text.startswith("."):
            raise denial("unpriced", f"{self.quote.operation} without a proper {name} cannot be priced")
        return text

    def has_only(self, *names: str) -> bool:
        """Return whether there are no parameters (or groups) but these."""
        return stems(self.params) <= {*names, "expand", "metadata"}

    def quote_at(self, total_micros: int | None, **more: Any) -> Quote:
        """Return the quote at so many micro-dollars."""
        return replace(self.quote, total_micros=total_micros, **more)


def not_there(operation: str, path: str) -> SpendDenied:
    """Return the denial of a call whose price could not be looked up."""
    return denial(
        "unpriced",
        f"{operation}: {path.partition('?')[0]} has to be looked up at Stripe to price it, and was not "
        "answered as it should be. Nothing was sent",
    )


def amount_in(body: Body, name: str) -> int:
    """Return an amount of minor units from a reply. Raises ValueError."""
    value = body.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{name} must be a whole number")
    return value
