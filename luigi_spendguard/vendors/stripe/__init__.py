"""Stripe: what a request may cost, what a reply says it did cost, and how it goes out.

What could move money and has no price is denied as `unpriced`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any
from urllib.parse import quote as percent_encoded
from urllib.parse import unquote_to_bytes, urlsplit

from luigi_spendguard.errors import denial
from luigi_spendguard.settings import values
from luigi_spendguard.settings.schema import Setting, VendorSettings
from luigi_spendguard.vendors.base import Vendor
from luigi_spendguard.vendors.bodies import reply_object
from luigi_spendguard.vendors.model import Outcome, Quote, Reply, Request
from luigi_spendguard.vendors.stripe import (
    outcomes,
)
from luigi_spendguard.vendors.stripe import (
    outcomes as stripe_declines,
)
from luigi_spendguard.vendors.stripe import (
    outcomes as stripe_denials,
)
from luigi_spendguard.vendors.stripe import (
    outcomes as stripe_outcomes,
)
from luigi_spendguard.vendors.stripe import (
    request as stripe_hosts,
)
from luigi_spendguard.vendors.stripe import (
    request as stripe_versions,
)
from luigi_spendguard.vendors.stripe.objects import acting
from luigi_spendguard.vendors.stripe.prices import PARTIES
from luigi_spendguard.vendors.stripe.prices import own_path as own_object_path
from luigi_spendguard.vendors.stripe.request import (
    API_BASE,
    GONE,
    PAYERS,
    Asked,
    NotLookedUp,
    Unbounded,
    body_digest,
    host_of,
    is_sensitive,
    is_upload,
    not_there,
    own_path,
    parameters,
)
from luigi_spendguard.vendors.stripe.routes import (
    PRICEABLE,
    RULE_OF,
    Route,
    address_of,
    answer_path,
    family,
    find,
    hands_out_credentials,
)
from luigi_spendguard.vendors.stripe.routes import check as check_parameters
from luigi_spendguard.vendors.stripe.rules import RULES
from luigi_spendguard.vendors.stripe.scope import whom

__all__ = ["API_BASE", "Stripe"]

#: What names a number that could be guessed: `request` hashes such a form slowly.
_GUESSABLE = re.compile(rb"number|cvc|iban|security_code|ssn", re.IGNORECASE)


class Stripe(Vendor):
    """The Stripe adapter."""

    name = "stripe"
    home = API_BASE
    secret_variables = ("STRIPE_SECRET_KEY", "STRIPE_API_KEY")
    asks = ("stripe-version", "stripe-account", "stripe-context", "x-stripe-client-")
    kept = ("content-type", "stripe-version", "stripe-account", "stripe-context")
    kept_answer = ("content-type", "request-id", "stripe-version", "stripe-account")
    # The dashboard's addresses (https://docs.stripe.com/dashboard/basics); its search finds what has none.
    pages = {
        "pi_": "payments/",
        "ch_": "payments/",
        "py_": "payments/",
        "cus_": "customers/",
        "in_": "invoices/",
        "sub_": "subscriptions/",
        "po_": "payouts/",
        "": "search?query=",
    }

    settings = (
        Setting(
            "",
            "declined_intents",
            values.one_of("cancel", "keep"),
            "cancel",
            "What becomes of a PaymentIntent that was declined when it was made, and could be confirmed "
            "later: `cancel` it at once, or `keep` it counted until it is cancelled.",
        ),
    )

    def check(self, settings: VendorSettings) -> str:
        """Return which of `prices` no operation can have, "" when all are right."""
        wrong = min(set(settings.prices) - PRICEABLE, default="")
        if not wrong:
            return ""
        why = "which names its own amount" if wrong in RULE_OF else "which is no operation"
        return f"[spendguard_stripe] prices gives a fixed price to {wrong}, {why}: remove it"

    def quote(
        self, request: Request, settings: VendorSettings, secret: str, fx: Mapping[str, Decimal]
    ) -> Quote:
        """Recognise and price a request. Raises SpendDenied."""
        path = own_path(request.method, request.url, settings)
        said = parameters(request, path)
        connected = request.headers.get("stripe-account", "")
        context = request.headers.get("stripe-context", "")
        for name, shown in (("Stripe-Account", connected), ("Stripe-Context", context)):
            if not re.fullmatch(r"[A-Za-z0-9_/]*", shown):
                raise denial("scope", f"{name} names one account: what it says is read in more than one way")
        mode = "live" if "_live_" in secret else "test"
        account = ":".join(["stripe", mode, connected, context]).rstrip(":")
        key, callers = self.key_of(request)
        blank = Quote("", account, path, key=key, key_is_callers=callers, repeatable=True)
        line = f"{request.method} {path}"
        if hands_out_credentials(line, said):
            self.check_allowed(line, line, settings, hands_out_credentials=True)
            if request.method != "GET":
                check_parameters(address_of(request.method, path) or line, line, said, fixed=True)
            return replace(
                blank,
                operation=f"{line} *",
                read=request.method == "GET",
                target=path,
                free=True,
                fingerprint=body_digest(request, True),
                **whom(request, path, said),
            )
        if request.method == "GET":
            quote = replace(
                blank, operation=f"GET {family(path)}", read=True, key=None, **whom(request, path, said)
            )
            self.check_allowed(line, quote.operation, settings)
            return quote
        found = find(request.method, path)
        if found is None:
            raise denial(
                "unpriced", f"{line} has no price in this version of luigi_spendguard and is not free"
            )
        route, ids = found
        blank = replace(blank, operation=route.operation)
        self.check_allowed(line, blank.operation, settings)
        if wrong := self.check(settings):
            raise denial("unpriced", wrong)
        stripe_versions.check(request)
        return self._priced(blank, route, ids, request, settings, {}, fx)

    def complete(
        self,
        quote: Quote,
        request: Request,
        found: Mapping[str, Reply],
        settings: VendorSettings,
        fx: Mapping[str, Decimal],
    ) -> Quote:
        """Price the request again with what was looked up so far. Raises SpendDenied."""
        at = find(request.method, quote.path)
        assert at is not None
        blank = Quote(
            quote.operation,
            quote.account,
            quote.path,
            key=quote.key,
            repeatable=True,
            key_is_callers=quote.key_is_callers,
        )
        bodies = {
            path: GONE
            if reply.status == 404
            else (reply_object(reply) if reply.status == 200 else None) or None
            for path, reply in found.items()
        }
        return self._priced(blank, *at, request, settings, bodies, fx)

    def _priced(
        self,
        blank: Quote,
        route: Route,
        ids: tuple[str, ...],
        request: Request,
        settings: VendorSettings,
        found: Mapping[str, Any],
        fx: Mapping[str, Decimal],
    ) -> Quote:
        """Fill in amount, target and fingerprint of a recognised operation."""
        fixed = settings.prices.get(route.operation)
        params = parameters(request, blank.path)
        if fixed is not None or route.rule != "unpriced":
            check_parameters(
                route.address,
                route.operation,
                params,
                fixed=fixed is not None,
                priceable=route.operation in PRICEABLE,
            )
        sensitive = is_sensitive(params)
        digest = body_digest(request, sensitive)
        asked = Asked(blank, ids, params, found, fx, digest)
        money: tuple[str, ...] = ()
        asked.payer()  # One, whatever the operation makes of it.
        try:
            if fixed is not None:
                quote = _at_fixed_price(asked, int(fixed))
            elif route.rule == "unpriced":
                raise Unbounded(f"{route.operation} may move money by an amount that nothing bounds")
            else:
                quote = RULES[route.rule].price(asked)
                money = RULES[route.rule].money
        except NotLookedUp as missing:
            quote = replace(
                blank,
                total_micros=None,
                object_id=ids[0] if ids else None,
                look_up=True,
                look_ups=missing.paths,
            )
        except (ValueError, TypeError, KeyError, AttributeError):
            # What was looked up is not what Stripe answers.
            raise not_there(route.operation, next(iter(found), blank.path)) from None
        except Unbounded as unbounded:
            raise denial(
                "unpriced",
                f"{unbounded}: denied unless [spendguard_stripe] prices gives it a fixed price, "
                f"such as `{route.operation}: 5`",
            ) from None
        if quote.total_micros is None and quote.object_id is None and not quote.look_up:
            quote = replace(quote, total_micros=0, free=True)
        if not quote.look_ups and ids and "/customers/" not in quote.path:
            # Whom it concerns can be read there, for a key that is bound to customers.
            quote = replace(quote, look_ups=(own_object_path(asked),))
        if route.operation == "invoices.create_preview":
            quote = replace(quote, read=True)  # Never answered by what a preview said before.
        said = [quote.operation, quote.target, quote.minor, quote.currency]
        said += [f"{name}={params[name]}" for name in sorted(params) if name.split("[")[0] in money]
        if quote.target is None:
            said.append(digest)
        fingerprint = "|".join(map(str, said))
        if len(fingerprint) > 1000:
            fingerprint = body_digest(Request("", "", {}, fingerprint.encode()), sensitive=False)
        older: tuple[str, ...] = ()
        if quote.target is not None and quote.target == asked.given(*PAYERS[1:]):
            # These payers were not known: the target was what was named beside them.
            older = (asked.given(*PARTIES[len(PAYERS) :], "subscription") or "-", "-")
        return replace(
            quote,
            targets_before=older,
            fingerprint=fingerprint,
            keep_body=not sensitive and not is_upload(request, blank.path),
            **acting(quote, ids, params, found),
            **whom(request, quote.path, params, own_object_path(asked) if ids else "", found),
        )

    def look_up(self, quote: Quote, request: Request, path: str) -> Request:
        """Return the GET of what the guard has to know, for the same account."""
        return self._get(path, request, {"stripe-version": stripe_versions.PINNED})

    def fetch(self, quote: Quote, object_id: str, request: Request) -> Request:
        """Return the GET of the object that an operator has named as a call's: its answer has that shape."""
        path = answer_path(request.method, quote.path, percent_encoded(object_id, safe=""))
        return self._get(path, request, {})

    def _get(self, path: str, request: Request, more: Mapping[str, str]) -> Request:
        headers = {name: request.headers[name] for name in self.kept[1:] if name in request.headers}
        return Request("GET", API_BASE + path, {**headers, **more})

    def undo(self, quote: Quote, request: Request, reply: Reply, settings: VendorSettings) -> Request | None:
        """Return the request that cancels a declined intent, unless luigi.cfg keeps it."""
        if settings.own.get("declined_intents") == "keep":
            return None
        headers = {name: request.headers[name] for name in self.kept[1:] if name in request.headers}
        return stripe_declines.undo(quote, reply, headers)

    undone = staticmethod(stripe_declines.undone)

    def billed(
        self, quote: Quote, outcome: Outcome, reply: Reply, fx: Mapping[str, Decimal]
    ) -> Outcome | None:
        """Return an outcome by the invoice that the call has made, None where there is none to be read."""
        read = stripe_declines.left if quote.in_steps else outcomes.billed
        return read(quote, outcome, reply_object(reply), fx) if reply.status == 200 else None

    def object_url(self, account: str, object_id: str) -> str | None:
        """Return the address of an object in the dashboard, of its account and mode."""
        page, (_, mode, *more) = super().object_url(account, object_id), [*account.split(":"), ""]
        own = "".join(f"{one}/" for one in more if re.fullmatch(r"acct_[A-Za-z0-9]+", one))
        test = "test/" if mode == "test" else ""
        return None if page is None else f"https://dashboard.stripe.com/{own}{test}{page}"

    def wire(self, request: Request, settings: VendorSettings, secret: str, key: str) -> Request:
        """Return the request for the vendor's own host, with the secret and the wire key."""
        parts = urlsplit(request.url)
        path = own_path(request.method, request.url, settings)
        base = settings.base_url or host_of(request.method, path)
        url = base + path + (f"?{parts.query}" if parts.query else "")
        headers = self.asked(request)
        headers["authorization"] = f"Bearer {secret}"
        if key:
            headers["idempotency-key"] = key
        headers.setdefault("stripe-version", stripe_versions.PINNED)
        return Request(request.method, url, headers, request.body)

    def rest(self, url: str) -> str | None:
        """Return path and query of a call to one of Stripe's own hosts: the path tells them apart."""
        return stripe_hosts.rest(url)

    def is_slow(self, request: Request) -> bool:
        """Return whether a form is long, or names a number that could be guessed and is hashed slowly."""
        return super().is_slow(request) or _GUESSABLE.search(unquote_to_bytes(request.body)) is not None

    outcome = staticmethod(stripe_outcomes.outcome)
    shape = staticmethod(stripe_denials.shape)


VENDOR = Stripe()


def _at_fixed_price(asked: Asked, price: int) -> Quote:
    """Return the quote of an operation to which the operator has given a price, in micro-dollars.

    Each call costs it anew, whatever its object has cost before.
    """
    about = "/".join(asked.ids) or asked.given(*PARTIES)
    return asked.quoted(price, target=f"{about or ''}#{asked.digest[:12]}", fixed=True)
