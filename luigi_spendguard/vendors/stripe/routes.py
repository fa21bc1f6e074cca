"""Stripe: which operation a request is, by its address; what is in no table is denied.

Stripe: which parameters an operation takes, and what each means for what the call may cost.

`parameters.txt` beside this file has the lists.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from luigi_spendguard.vendors.bodies import Params
from luigi_spendguard.vendors.parameters import Marked, Name, Parameters, Tree
from luigi_spendguard.vendors.stripe.operations import FREE, PRICED, UNPRICED
from luigi_spendguard.vendors.stripe.rules import RULES

_ID = re.compile(r"[A-Za-z0-9_.~:@-]{1,255}")


@dataclass(frozen=True)
class Route:
    """One operation: `rule` is a name of `rules.RULES`, "free" or "unpriced"."""

    method: str
    parts: tuple[str, ...]
    operation: str
    rule: str

    @property
    def address(self) -> str:
        """Its line in the tables, such as `POST /v1/refunds/{id}`."""
        return f"{self.method} /{'/'.join(self.parts)}"


#: Last parts of an address that name what is made there, not what is done.
_COLLECTIONS = {
    "balance_transactions",
    "bank_accounts",
    "cards",
    "external_accounts",
    "features",
    "funding_instructions",
    "person_tokens",
    "persons",
    "refunds",
    "reversals",
    "sources",
    "subscriptions",
    "tax_ids",
    "usage_records",
}
_VERBS = {
    "create_preview",
    "report_payment",
    "create_from_calculation",
    "create_reversal",
    "respond",
    "create_force_capture",
    "create_unlinked_refund",
}


def named(line: str) -> str:
    """Return an operation's name by its address: `POST /v1/refunds/{id}/cancel` is `refunds.cancel`."""
    method, path = line.split(" ")
    parts = path.strip("/").split("/")
    words = [part for part in parts if not part.startswith("{")]
    words = words[1:] if words[0] == "v1" else words
    last, before = parts[-1], parts[-2]
    if last.startswith("{"):
        verb = "update" if method == "POST" else "delete"
    elif last in _VERBS or (before.startswith("{") and last not in _COLLECTIONS and method == "POST"):
        verb = words.pop()
    else:
        verb = "create" if method == "POST" else "delete"
    return ".".join([*words, verb])


def answer_path(method: str, path: str, object_id: str) -> str:
    """Return where the object is read that a POST or DELETE at `path` has answered with.

    Most answer with what they make, or with the object that they act on; `_ANSWERS` are the others.
    """
    if answered := next((kind for pattern, kind in _ANSWERS if pattern.fullmatch(path)), ""):
        return f"/v1/{answered}/{object_id}"
    found = find(method, path)
    template = list(found[0].parts) if found is not None else []
    parts = path.strip("/").split("/")
    if template and _is_verb(method, template):
        parts, template = parts[:-1], template[:-1]
    if template and template[-1].startswith("{"):
        parts[-1] = object_id
    elif not template or template[-1] not in _SINGLE:
        parts.append(object_id)
    if parts[1] == "test_helpers" and parts[2] != "test_clocks":
        del parts[1]  # It is made there, and read where all of its kind are.
    return "/" + "/".join(parts)


def _is_verb(method: str, parts: Sequence[str]) -> bool:
    """Return whether the last part of a template says what is done, rather than what is made there."""
    last, before = parts[-1], parts[-2]
    return last in _VERBS or (
        before.startswith("{")
        and not last.startswith("{")
        and method == "POST"
        and last not in _COLLECTIONS
        and last not in _SINGLE
    )


#: What an object has one of, without an id of its own.
_SINGLE = {"balance_settings", "cash_balance", "discount", "settings"}

#: Operations that answer with an object of another kind than their address says.
_ANSWERS = (
    (re.compile(r"/v1/charges/[^/]+/dispute(/close)?"), "disputes"),
    (re.compile(r"/v1/charges/[^/]+/refunds(/[^/]+)?"), "refunds"),
    (re.compile(r"/v1/customers/[^/]+/subscriptions(/[^/]+)?"), "subscriptions"),
)


def _table() -> Iterator[Route]:
    def rows(lines: Iterable[str], rule: str) -> Iterator[Route]:
        for line in lines:
            method, path = line.split(" ")
            yield Route(method, tuple(path.strip("/").split("/")), named(line), rule)

    for line, operation, rule in PRICED:
        method, path = line.split(" ")
        yield Route(method, tuple(path.strip("/").split("/")), operation, rule)
    yield from rows(FREE.split("\n")[1:-1], "free")
    yield from rows(UNPRICED.split("\n")[1:-1], "unpriced")


ROUTES = tuple(_table())

RULE_OF = {route.operation: route.rule for route in ROUTES}

#: Operations that may be given a fixed price: those whose request does not name its own amount.
PRICEABLE = {operation for operation, rule in RULE_OF.items() if rule == "unpriced" or not RULES[rule].exact}


def _index() -> dict[tuple[str, str, int], list[Route]]:
    found: dict[tuple[str, str, int], list[Route]] = {}
    # An address with fewer ids goes first: `invoices/create_preview` is no invoice's id.
    for route in sorted(ROUTES, key=lambda r: sum(part.startswith("{") for part in r.parts)):
        found.setdefault((route.method, route.parts[1], len(route.parts)), []).append(route)
    return found


_INDEX = _index()

#: Operations that return or mint credentials.
_CREDENTIALS = re.compile(
    r"(POST|DELETE) /v1/ephemeral_keys(/.*)?"
    r"|POST /v1/webhook_endpoints(/.*)?"
    r"|\w+ /v1/apps/secrets(/.*)?"
    r"|POST /v1/account_(links|sessions)|POST /v1/customer_sessions"
    r"|POST /v1/billing_portal/sessions"
    r"|POST /v1/accounts/[^/]+/login_links"
    r"|POST /v1/terminal/(connection_tokens|onboarding_links)"
    r"|POST /v2/core/event_destinations(/.*)?|POST /v2/core/account_(links|tokens)(/.*)?"
    r"|POST /v2/core/accounts/[^/]+/person_tokens|POST /v2/billing/meter_event_session"
    r"|\w+ /oauth/.*"
)

#: What has to be asked for by name because it opens something: card numbers, signing secrets.
_HIDDEN = {"number", "cvc", "signing_secret"}


def hands_out_credentials(line: str, said: Params) -> bool:
    """Return whether an operation returns or mints what somebody could spend with."""
    return bool(_CREDENTIALS.fullmatch(line)) or any(
        name.startswith(("expand", "include"))
        and not _HIDDEN.isdisjoint(re.split(r"[^a-z_]+", value.lower()))
        for name, value in said.items()
    )


def find(method: str, path: str) -> tuple[Route, tuple[str, ...]] | None:
    """Return the operation at an address with the ids in it, None for one that is in no table."""
    parts = path.strip("/").split("/")
    if len(parts) < 2:
        return None
    for route in _INDEX.get((method, parts[1], len(parts)), ()):
        ids = []
        for want, got in zip(route.parts, parts, strict=True):
            if want.startswith("{") and _ID.fullmatch(got):
                ids.append(got)
            elif want != got:
                break
        else:
            return route, tuple(ids)
    return None


def family(path: str) -> str:
    """Return a path with its ids replaced, as a reading operation's name."""
    return "/".join(
        "{id}" if re.search(r"[0-9_].*[0-9]|_", part) and part not in _NAMES else part
        for part in path.split("/")
    )


_NAMES = {part for route in ROUTES for part in route.parts} | {
    "checkout_sessions",
    "line_items",
    "invoice_items",
    "setup_attempts",
    "country_specs",
    "exchange_rates",
    "cash_balance_transactions",
    "invoice_payments",
    "payment_records",
    "payment_attempt_records",
}


__all__ = ["Marked", "Tree", "address_of", "check", "line_of", "marks"]

_LISTED = Parameters("stripe")
address_of = _LISTED.address_of


def check(
    address: str, operation: str, said: Mapping[str, str], *, fixed: bool, priceable: bool = False
) -> None:
    """Raise SpendDenied (`unpriced`) for a parameter that is not known, or is refused.

    At a `fixed` price all that are known pass. `address` is the operation's own, such as
    `POST /v1/refunds/{id}`; `priceable`: it may be given such a price.
    """
    values = {_parts(name): {value} for name, value in said.items()}
    _LISTED.check(address, operation, values, fixed=fixed, priceable=priceable)


def line_of(address: str, name: str) -> Marked | None:
    """Return the line that lists a parameter of an operation, None where none does."""
    return _LISTED.line_of(address, _parts(name))


def marks() -> Mapping[str, tuple[Marked, ...]]:
    """Return the lists, by the operation's address. Raises ValueError for a list that cannot be read."""
    return _LISTED.marks


def _parts(name: str) -> Name:
    return tuple(part.rstrip("]") for part in name.split("["))
