"""Stripe: which operation a request is, by its address, and which parameters it takes (`parameters.txt`)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

from luigi_spendguard.vendors.bodies import Params
from luigi_spendguard.vendors.parameters import Name, Parameters
from luigi_spendguard.vendors.stripe.rules import RULES

_ID = re.compile(r"[A-Za-z0-9_.~:@-]{1,255}")

#: Every operation that changes something, with its parameters.
LISTED = Parameters("stripe")


@dataclass(frozen=True)
class Operation:
    """One operation: `rule` is a name of `rules.RULES`, "free" or "unpriced".

    `flow`: its money has a counterparty of its own, `inflow` or `outflow`; "": it is spent.
    """

    method: str
    parts: tuple[str, ...]
    name: str
    rule: str
    flow: str = ""

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


def name_of(method: str, parts: Sequence[str]) -> str:
    """Return an operation's name by its address: `POST /v1/refunds/{id}/cancel` is `refunds.cancel`."""
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
    operation = find_operation(method, path)
    template = list(operation[0].parts) if operation is not None else []
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


def _table() -> Iterator[Operation]:
    for address, (rule, *more) in LISTED.rules():
        method, path = address.split(" ")
        parts = tuple(path.strip("/").split("/"))
        flow = "".join(word[1:] for word in more if word[0] == "@")
        name = "".join(word for word in more if word[0] != "@")
        yield Operation(method, parts, name or name_of(method, parts), rule, flow)


OPERATIONS = tuple(_table())


@cache
def named_lines() -> Mapping[str, tuple[str, ...]]:
    """Return every listed line by its operation's name; what hands out credentials is named by its line."""
    lines: dict[str, tuple[str, ...]] = {line: (line,) for line in LISTED.marks}
    for one in OPERATIONS:
        lines.pop(one.address, None)
        lines[one.name] = (*lines.get(one.name, ()), one.address)
    return lines


RULE_OF = {one.name: one.rule for one in OPERATIONS}
FLOWS = {one.name: one.flow for one in OPERATIONS if one.flow}

#: Operations that may be given a fixed price: those whose request does not name its own amount.
PRICEABLE = {name for name, rule in RULE_OF.items() if rule == "unpriced" or not RULES[rule].exact}


def _index() -> dict[tuple[str, str, int], list[Operation]]:
    index: dict[tuple[str, str, int], list[Operation]] = {}
    # An address with fewer ids goes first: `invoices/create_preview` is no invoice's id.
    for one in sorted(OPERATIONS, key=lambda one: sum(part.startswith("{") for part in one.parts)):
        index.setdefault((one.method, one.parts[1], len(one.parts)), []).append(one)
    return index


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

#: What nobody gets without naming it, because it opens something: card numbers, signing secrets.
_HIDDEN = {"number", "cvc", "signing_secret"}


def hands_out_credentials(line: str, params: Params) -> bool:
    """Return whether an operation returns or mints what somebody could spend with."""
    return bool(_CREDENTIALS.fullmatch(line)) or any(
        name.startswith(("expand", "include"))
        and not _HIDDEN.isdisjoint(re.split(r"[^a-z_]+", value.lower()))
        for name, value in params.items()
    )


@lru_cache(maxsize=256)
def find_operation(method: str, path: str) -> tuple[Operation, tuple[str, ...]] | None:
    """Return the operation at an address with the ids in it, None for one that is in no table."""
    parts = path.strip("/").split("/")
    if len(parts) < 2:
        return None
    for operation in _INDEX.get((method, parts[1], len(parts)), ()):
        ids = []
        for want, got in zip(operation.parts, parts, strict=True):
            if want.startswith("{") and _ID.fullmatch(got):
                ids.append(got)
            elif want != got:
                break
        else:
            return operation, tuple(ids)
    return None


def without_ids(path: str) -> str:
    """Return a path with its ids replaced, as a reading operation's name."""
    return "/".join(
        "{id}" if re.search(r"[0-9_].*[0-9]|_", part) and part not in _NAMES else part
        for part in path.split("/")
    )


_NAMES = {part for one in OPERATIONS for part in one.parts} | {
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


def check_parameters(
    address: str, operation: str, params: Params, *, fixed: bool, priceable: bool = False
) -> None:
    """Raise SpendDenied (`unpriced`) for a parameter that is not known, or is refused: `Parameters.check`."""
    values = {parts_of(name): {value} for name, value in params.items()}
    LISTED.check(address, operation, values, fixed=fixed, priceable=priceable)


def parts_of(name: str) -> Name:
    """Return the parts of a parameter's name: `items[0][price]` is ("items", "0", "price")."""
    return tuple(part.rstrip("]") for part in name.split("["))
