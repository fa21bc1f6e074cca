"""Stripe: whom a call concerns: its customers, and the connected accounts that it names.

An allowlist is satisfied by what is known to steer the call; whatever else it names can only forbid it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from luigi_spendguard.vendors.bodies import Params
from luigi_spendguard.vendors.model import Request
from luigi_spendguard.vendors.stripe.request import PAYERS, Body, owners

_ACCOUNT = re.compile(r"acct_[A-Za-z0-9]{1,250}")
_IN_TEXT = re.compile(r"(?<![A-Za-z0-9_])acct_[A-Za-z0-9]{1,250}")

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
#: What is looked up for its price alone, and names no customer.
_CATALOGUE = re.compile(
    r"/v1/(prices|plans|products|shipping_rates|tax_rates|coupons).*"
    r"|/v1/(invoiceitems|invoices|invoices/[^/]+/lines|customers/[^/]+)\?.*"
)


def scope_of(
    request: Request,
    path: str,
    params: Params,
    own_path: str = "",
    lookups: Mapping[str, Body | None] | None = None,
) -> dict[str, Any]:
    """Return a quote's `customers`, `owner_unknown` and `accounts`.

    `own_path` is the address of the object that the path names, "" where it names none; `lookups`: what was
    looked up, by path; None where nothing is.
    """
    owner, named = _customer_in(path), [value for name, value in params.items() if name in PAYERS and value]
    customers, unknown = {*named, *([owner] if owner else [])}, False
    if request.method == "GET":
        filtered = params.get("customer") or params.get("customer_account")
        unknown = not (owner or (filtered and _LISTS.fullmatch(path)))
    elif lookups is None:
        unknown = not owner
    elif not owner:
        wanted = {own_path} - {""} | {one for one in lookups if not _CATALOGUE.fullmatch(one)}
        whose = [owners(lookups.get(one) or {}) for one in wanted]
        customers |= {one for own in whose for one in own}
        unknown = not all(whose) or not (whose or _OPENS.fullmatch(path))
        if named and re.fullmatch(r"/v1/payment_methods/[^/]+/attach", path) and lookups.get(own_path):
            unknown = False  # It becomes the named customer's, and was nobody else's.
    words = sorted(re.sub(r"\s", "_", one)[:255] for one in customers)  # Messages put a blank between two.
    return {
        "customers": tuple(words) if len(words) <= _MOST else ("too_many",),
        "owner_unknown": unknown,
        "accounts": _accounts(request, path, params),
    }


def _customer_in(path: str) -> str:
    parts = path.split("/")
    return parts[3] if len(parts) > 3 and parts[2] == "customers" and parts[3] != "search" else ""


def _accounts(request: Request, path: str, params: Params) -> tuple[str, ...]:
    """Return the accounts that a call names, sorted; none where nothing that steers it is one."""
    context = request.headers.get("stripe-context", "")
    headers = [request.headers.get("stripe-account", ""), context]
    at = _ACCOUNT_PATH.fullmatch(path)
    steering = [headers[0], context.split("/")[-1], (at.group(1) or at.group(3)) if at else ""]
    steering += [v for name, v in params.items() if _STEERS.fullmatch(f"{request.method} {path} {name}")]
    if not any(_ACCOUNT.fullmatch(one) for one in steering):
        return ()
    harmless = ("metadata", "descr", "customer_account")  # That one pays, and is judged as a customer.
    texts = [*headers, path, *(v for name, v in params.items() if not name.startswith(harmless))]
    if request.body and not params:  # An upload.
        texts.append(request.body.decode("utf-8", "replace"))
    return tuple(sorted({one for text in texts for one in _IN_TEXT.findall(text)}))
