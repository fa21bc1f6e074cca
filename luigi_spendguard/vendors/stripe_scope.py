"""Stripe: whom a call concerns: its customers, and the connected accounts that it names.

An allowlist is satisfied by what is known to steer the call; whatever else it names can only forbid it.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from luigi_spendguard.messages import MAX_BODY
from luigi_spendguard.vendors.calls import Request
from luigi_spendguard.vendors.stripe_asked import PAYERS, Body

_ACCOUNT = re.compile(r"acct_[A-Za-z0-9]{1,250}")
_IN_TEXT = re.compile(r"(?<![A-Za-z0-9_])acct_[A-Za-z0-9]{1,250}")

_FORM = "application/x-www-form-urlencoded"
#: Named for a body that cannot be read, and may name any account: it is in no allowlist.
_UNREADABLE = "acct_unreadable"

#: Where a path names the account that the call is about; ids of products and coupons are anybody's choice.
_ACCOUNT_PATH = re.compile(r"/v1/accounts/([^/]+)(/.*)?|/v2/core/accounts/([^/]+)(/.*)?")

_TO = r"(on_behalf_of|transfer_data\[destination\])"
_IN = r"\[(on_behalf_of|transfer_data\]\[destination)\]"
#: The parameters that send a call's money, or what it opens, to an account.
_STEERS = re.compile(
    r"(GET|POST) /v1/transfers destination"
    r"|POST /v1/charges destination(\[account\])?"
    rf"|POST /v1/(charges|payment_intents|setup_intents|payment_links) {_TO}"
    rf"|POST /v1/(invoices|quotes|subscriptions)(/[A-Za-z0-9_]+)? {_TO}"
    rf"|POST /v1/customers/[^/]+/subscriptions {_TO}"
    rf"|POST /v1/(checkout/sessions|payment_links) (payment_intent|subscription)_data{_IN}"
    r"|POST /v1/account_(links|sessions) account"
    r"|POST /v2/money_management/outbound_payments to\[recipient\]"
)

#: The lists that Stripe filters by their payer: what else is read says only afterwards whose it is.
_LISTS = re.compile(
    r"/v1/(charges|payment_intents|setup_intents|payment_methods|invoices|invoiceitems|subscriptions"
    r"|subscription_schedules|quotes|credit_notes|promotion_codes|checkout/sessions"
    r"|billing/credit_(grants|balance_summary|balance_transactions)|entitlements/active_entitlements)"
)
#: Where a new object is the customer's whom `customer` (or `customer_account`) names.
_OPENS = re.compile(
    _LISTS.pattern + r"|/v1/(refunds|sources|tokens|tax/calculations|invoices/create_preview)"
)
#: More customers than these are in no call that is meant honestly.
_MOST = 10
#: What is looked up for its price alone, and belongs to no customer.
_CATALOGUE = re.compile(r"/v1/(prices|plans|products|shipping_rates|tax_rates|coupons|invoiceitems\?).*")


def whom(
    request: Request, path: str, own_path: str = "", found: Mapping[str, Body | None] | None = None
) -> dict[str, Any]:
    """Return a quote's `customers`, `owner_unknown` and `accounts`.

    `own_path` is the address of the object that the path names, "" where it names none.
    """
    said = list(_said(request))
    owner, named = _of_path(path), [value for name, value in said if name in PAYERS and value]
    customers, unknown = {*named, *([owner] if owner else [])}, False
    if request.method == "GET":
        query = dict(parse_qsl(urlsplit(request.url).query))
        filtered = (query.get("customer") or query.get("customer_account")) and _LISTS.fullmatch(path)
        unknown = bool(request.body) or not (owner or filtered)  # Whether a GET's body counts is open.
    elif found is None:
        unknown = not owner
    elif not owner:
        wanted = {own_path} - {""} | {one for one in found if not _CATALOGUE.fullmatch(one)}
        owners = [_own(found.get(one) or {}) for one in wanted]
        customers |= {one for own in owners for one in own}
        unknown = not all(owners) or not (owners or _OPENS.fullmatch(path))
        if named and re.fullmatch(r"/v1/payment_methods/[^/]+/attach", path) and found.get(own_path):
            unknown = False  # It becomes the named customer's, and was nobody else's.
    words = sorted(re.sub(r"\s", "_", one)[:255] for one in customers)  # Messages put a blank between two.
    return {
        "customers": tuple(words) if len(words) <= _MOST else ("too_many",),
        "owner_unknown": unknown,
        "accounts": _accounts(request, path, said),
    }


def _of_path(path: str) -> str:
    parts = path.split("/")
    return parts[3] if len(parts) > 3 and parts[2] == "customers" and parts[3] != "search" else ""


def _own(body: Body) -> set[str]:
    """Return whose an object is: its customer, and the account that stands for one."""
    said = [body.get("customer"), body.get("customer_account")]
    named = [one.get("id") if isinstance(one, dict) else one for one in said]
    return {one for one in named if isinstance(one, str) and one}


def _accounts(request: Request, path: str, said: list[tuple[str, str]]) -> tuple[str, ...]:
    """Return the accounts that a call names, sorted; none where nothing that steers it is one."""
    context = request.headers.get("stripe-context", "")
    headers = [request.headers.get("stripe-account", ""), context]
    at = _ACCOUNT_PATH.fullmatch(path)
    steering = [headers[0], context.split("/")[-1], (at.group(1) or at.group(3)) if at else ""]
    times = Counter(name for name, _ in said)
    steering += [value for name, value in said
                 if times[name] == 1 and _STEERS.fullmatch(f"{request.method} {path} {name}")]  # fmt: skip
    if not any(_ACCOUNT.fullmatch(one) for one in steering):
        return ()
    harmless = ("metadata", "descr", "customer_account")  # That one pays, and is judged as a customer.
    texts = [*headers, path, *(v for name, v in said if not name.startswith(harmless))]
    return tuple(sorted({one for text in texts for one in _IN_TEXT.findall(text)}))


def _said(request: Request) -> Iterator[tuple[str, str]]:
    """Yield names and values of query and body; a body that is no form is also one text."""
    yield from parse_qsl(urlsplit(request.url).query)
    text = request.body.decode("utf-8", "replace")
    kind = request.headers.get("content-type", _FORM)
    try:
        if kind.startswith(_FORM):
            yield from parse_qsl(text, max_num_fields=2000)
            return
        yield "", text
        if "json" in kind and text:
            if len(text) > MAX_BODY:
                raise ValueError
            yield from _flat("", json.loads(text, object_pairs_hook=tuple))
    except (ValueError, RecursionError):
        yield "", _UNREADABLE


def _flat(name: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, tuple):
        for key, inner in value:
            yield from _flat(f"{name}[{key}]" if name else key, inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _flat(f"{name}[]", inner)
    else:
        yield name, str(value)
