"""Stripe: one request on its way to a price: its parameters, and what has been looked up for it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from types import MappingProxyType
from typing import Any

from luigi_spendguard.errors import SpendDenied, denial
from luigi_spendguard.money import NoRate, to_micros
from luigi_spendguard.vendors.calls import Quote
from luigi_spendguard.vendors.stripe_forms import single, whole

Body = Mapping[str, Any]

#: Who pays, by a parameter's name: a customer, or an account that stands for one (in Stripe's v1 API a
#: `customer_account`, https://docs.stripe.com/connect/use-accounts-as-customers; in v2 an `account`).
PAYERS = ("customer", "customer_account", "account")

#: What stands in for an object that is not there (HTTP 404); one that could not be fetched is None.
GONE: Body = MappingProxyType({})

_ID = re.compile(r"[A-Za-z0-9_.:@-]{1,255}")


def owners(body: Body) -> set[str]:
    """Return whose an object is: its customer, and the account that stands for one."""
    said = [body.get("customer"), body.get("customer_account")]
    named = [one.get("id") if isinstance(one, dict) else one for one in said]
    return {one for one in named if isinstance(one, str) and one}


class Unbounded(Exception):
    """Nothing says how much a call may cost; the message says why. A fixed price lets it pass."""


class NotLookedUp(Exception):
    """A rule needs what stands at `paths`."""

    def __init__(self, paths: tuple[str, ...]) -> None:
        super().__init__(paths)
        self.paths = paths


@dataclass(frozen=True)
class Asked:
    """A recognised request.

    Attributes:
        quote: what is known of it already, its operation first of all.
        ids: the ids in its path, in their order.
        found: what was looked up, by path; None for what could not be fetched, GONE for what is not there.
        digest: of its body.

    """

    quote: Quote
    ids: tuple[str, ...]
    params: Mapping[str, str]
    found: Mapping[str, Body | None]
    fx: Mapping[str, Decimal]
    digest: str = ""

    def fetched(self, *paths: str) -> list[Body]:
        """Return what stands at `paths`. Raises NotLookedUp, or SpendDenied for what is not there."""
        missing = tuple(path for path in paths if path not in self.found)
        if missing:
            raise NotLookedUp(missing)
        bodies = [self.found[path] for path in paths]
        for path, body in zip(paths, bodies, strict=True):
            if not body:
                raise not_there(self.quote.operation, path)
        return [body for body in bodies if body is not None]

    def is_gone(self, path: str) -> bool:
        """Return whether nothing stands at `path`, such as what an earlier try has deleted."""
        body = self.found.get(path)
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

    def whole(self, name: str) -> int | None:
        """Return a parameter's whole number of minor units, None when it is not given."""
        return whole(self.params, name)

    def given(self, *names: str) -> str | None:
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

    def truth(self, name: str) -> bool:
        """Return a true-or-false parameter, false when it is not given. Raises SpendDenied."""
        single(self.params, name)
        text = self.params.get(name, "false")
        if text not in ("true", "false"):
            raise denial("unpriced", f"{name} must be true or false")
        return text == "true"

    def id_of(self, name: str) -> str:
        """Return a parameter that is an object's id. Raises SpendDenied for anything else."""
        value = self.params.get(name, "")
        if not _ID.fullmatch(value) or value.startswith("."):
            raise denial("unpriced", f"{self.quote.operation} without a proper {name} cannot be priced")
        return value

    def only(self, *stems: str) -> bool:
        """Return whether nothing but these parameters (and groups) is given."""
        return {name.split("[", 1)[0] for name in self.params} <= {*stems, "expand", "metadata"}

    def quoted(self, total: int | None, **more: Any) -> Quote:
        """Return the quote at `total` micro-dollars."""
        return replace(self.quote, total_micros=total, **more)


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
