"""Stripe: what a request may cost, what a reply says it did cost, and how it goes out.

What could move money and has no price is denied as `unpriced`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from urllib.parse import quote as percent_encoded
from urllib.parse import unquote_to_bytes, urlsplit

from luigi_spendguard.errors import denial
from luigi_spendguard.settings import Setting, VendorSettings, values
from luigi_spendguard.vendors.base import Vendor
from luigi_spendguard.vendors.bodies import Params, reply_object
from luigi_spendguard.vendors.misspelt import Known, nearest
from luigi_spendguard.vendors.model import Outcome, Quote, Reply, Request, TaggedPage
from luigi_spendguard.vendors.stripe import lists, outcomes, tags
from luigi_spendguard.vendors.stripe.objects import objects_of
from luigi_spendguard.vendors.stripe.operations import (
    FLOWS,
    LISTED,
    PRICEABLE,
    RULE_OF,
    answer_path,
    check_parameters,
    find_operation,
    hands_out_credentials,
    named_lines,
    without_ids,
)
from luigi_spendguard.vendors.stripe.own_books import StripeOwnBooks
from luigi_spendguard.vendors.stripe.quotes import PARTIES, own_path
from luigi_spendguard.vendors.stripe.request import (
    API_BASE,
    GONE,
    PAYERS,
    PINNED,
    Body,
    NotLookedUp,
    StripeCall,
    Unbounded,
    body_digest,
    check_version,
    host_of,
    is_sensitive,
    is_upload,
    not_there,
    path_of,
    read_parameters,
    rest_of,
)
from luigi_spendguard.vendors.stripe.rules import RULES
from luigi_spendguard.vendors.stripe.scope import scope_of
from luigi_spendguard.vendors.stripe.tags import takes_tag

__all__ = ["API_BASE", "Stripe"]

#: What names a number that could be guessed: `request` hashes such a form slowly.
_GUESSABLE = re.compile(rb"number|cvc|iban|security_code|ssn", re.IGNORECASE)


class Stripe(Vendor):
    """The Stripe adapter."""

    name = "stripe"
    moves_money = True
    flows = FLOWS
    service_category = "Business Applications"
    home = API_BASE
    secret_variables = ("STRIPE_SECRET_KEY", "STRIPE_API_KEY")
    asks = ("stripe-version", "stripe-account", "stripe-context", "x-stripe-client-")
    kept = ("content-type", "stripe-version", "stripe-account", "stripe-context")
    kept_answer = ("content-type", "request-id", "stripe-version", "stripe-account")
    request_header = "request-id"
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
        Setting(
            "",
            "tag_vendor_objects",
            values.boolean,
            "true",
            "Put `metadata[spendguard_call]` on what a call that moves money makes, where its caller has "
            "left room: by that it is found again at Stripe.",
        ),
    )

    ruled = frozenset(RULE_OF) - PRICEABLE
    books = StripeOwnBooks()

    def known(self) -> Known:
        return Known(self.name, named_lines())

    def check(self, settings: VendorSettings) -> str:
        wrong = min(set(settings.prices) - PRICEABLE, default="")
        if not wrong:
            return ""
        where = f"[spendguard_stripe] prices gives a fixed price to {wrong}"
        if wrong in RULE_OF:
            return f"{where}, which names its own amount: remove it"
        return f"{where}, which is no operation" + (nearest(wrong, RULE_OF, self.ruled) or ": remove it")

    def quote(
        self, request: Request, settings: VendorSettings, secret: str, fx: Mapping[str, Decimal]
    ) -> Quote:
        path = path_of(request.method, request.url, settings)
        params = read_parameters(request, path)
        connected = request.headers.get("stripe-account", "")
        context = request.headers.get("stripe-context", "")
        for name, shown in (("Stripe-Account", connected), ("Stripe-Context", context)):
            if not re.fullmatch(r"[A-Za-z0-9_/]*", shown):
                raise denial("scope", f"{name} names one account: what it says is read in more than one way")
        mode = "live" if "_live_" in secret else "test"
        account = ":".join(["stripe", mode, connected, context]).rstrip(":")
        key, callers = self.key_of(request)
        quote = Quote("", account, path, key=key, key_is_callers=callers, repeatable=True)
        line = f"{request.method} {path}"
        if hands_out_credentials(line, params):
            self.check_allowed(line, line, settings, hands_out_credentials=True)
            if request.method != "GET":
                address = LISTED.address_of(request.method, path) or line
                check_parameters(address, line, params, fixed=True)
            return replace(
                quote,
                operation=f"{line} *",
                read=request.method == "GET",
                target=path,
                free=True,
                fingerprint=body_digest(request, True),
                **scope_of(request, path, params),
            )
        if request.method == "GET":
            operation = f"GET {without_ids(path)}"
            self.check_allowed(line, operation, settings)
            scope = scope_of(request, path, params)
            return replace(quote, operation=operation, read=True, key=None, **scope)
        known = find_operation(request.method, path)
        if known is None:
            raise denial(
                "unpriced", f"{line} has no price in this version of luigi_spendguard and is not free"
            )
        quote = replace(quote, operation=known[0].name)
        self.check_allowed(line, quote.operation, settings)
        if wrong := self.check(settings):
            raise denial("unpriced", wrong)
        check_version(request)
        return self._price(quote, request, params, settings, {}, fx)

    def complete(
        self,
        quote: Quote,
        request: Request,
        lookups: Mapping[str, Reply],
        settings: VendorSettings,
        fx: Mapping[str, Decimal],
    ) -> Quote:
        blank = Quote(
            quote.operation,
            quote.account,
            quote.path,
            key=quote.key,
            repeatable=True,
            key_is_callers=quote.key_is_callers,
        )
        bodies = {path: _looked_up(reply) for path, reply in lookups.items()}
        params = read_parameters(request, quote.path)
        return self._price(blank, request, params, settings, bodies, fx)

    def _price(
        self,
        blank: Quote,
        request: Request,
        params: Params,
        settings: VendorSettings,
        lookups: Mapping[str, Body | None],
        fx: Mapping[str, Decimal],
    ) -> Quote:
        """Return the quote of a recognised operation, with amount, target and fingerprint."""
        known = find_operation(request.method, blank.path)
        assert known is not None
        operation, ids = known
        fixed = settings.prices.get(operation.name)
        if fixed is not None or operation.rule != "unpriced":
            priceable = operation.name in PRICEABLE
            check_parameters(
                operation.address, operation.name, params, fixed=fixed is not None, priceable=priceable
            )
        sensitive = is_sensitive(params)
        digest = body_digest(request, sensitive)
        call = StripeCall(blank, ids, params, lookups, fx, digest)
        call.payer()  # One, whatever the operation makes of it.
        money: tuple[str, ...] = ()
        try:
            if fixed is not None:
                quote = _quote_at_fixed_price(call, int(fixed))
            elif operation.rule == "unpriced":
                raise Unbounded(f"{operation.name} may move money by an amount that nothing bounds")
            else:
                rule = RULES[operation.rule]
                quote, money = rule.quote(call), rule.money
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
            raise not_there(operation.name, next(iter(lookups), blank.path)) from None
        except Unbounded as unbounded:
            raise denial(
                "unpriced",
                f"{unbounded}: denied unless [spendguard_stripe] prices gives it a fixed price, "
                f"such as `{operation.name}: 5`",
            ) from None
        if quote.total_micros is None and quote.object_id is None and not quote.look_up:
            quote = replace(quote, total_micros=0, free=True)
        if not quote.look_ups and ids and "/customers/" not in quote.path:
            # Whom it concerns can be read there, for a key that is bound to customers.
            quote = replace(quote, look_ups=(own_path(call),))
        if operation.name == "invoices.create_preview":
            quote = replace(quote, read=True)  # Never answered by an earlier preview.
        taggable = takes_tag(operation, params) and not quote.free
        return replace(
            quote,
            taggable=taggable,
            tag=taggable and bool(settings.own.get("tag_vendor_objects", True)),
            targets_before=_earlier_targets(call, quote),
            fingerprint=_fingerprint(call, quote, money),
            keep_body=not sensitive and not is_upload(request, blank.path),
            **objects_of(quote, ids, params, lookups),
            **scope_of(request, quote.path, params, own_path(call) if ids else "", lookups),
        )

    def look_up(self, quote: Quote, request: Request, path: str) -> Request:
        """Return the GET of what the guard has to know, for the same account."""
        return self._get(path, request, {"stripe-version": PINNED})

    def fetch(self, quote: Quote, object_id: str, request: Request) -> Request:
        """Return the GET of the object that an operator has named as a call's: its answer has that shape."""
        path = answer_path(request.method, quote.path, percent_encoded(object_id, safe=""))
        return self._get(path, request, {})

    def _get(self, path: str, request: Request, more: Mapping[str, str]) -> Request:
        headers = {name: request.headers[name] for name in self.kept[1:] if name in request.headers}
        return Request("GET", API_BASE + path, {**headers, **more})

    def search_tagged(
        self, quote: Quote, request: Request, span: tuple[int, int], after: str = ""
    ) -> Request | None:
        path = lists.Search(quote.path, read_parameters(request, quote.path), span).page(after)
        return None if path is None else self._get(path, request, {})

    def read_tagged(
        self, quote: Quote, request: Request, span: tuple[int, int], listed: Reply, key: str
    ) -> TaggedPage:
        search = lists.Search(quote.path, read_parameters(request, quote.path), span)
        return TaggedPage(*search.read(listed, tags.tag_of(key)))

    def tag_text(self, key: str) -> str:
        return f"metadata:{tags.TAG}={tags.tag_of(key)}"

    def undo(self, quote: Quote, request: Request, reply: Reply, settings: VendorSettings) -> Request | None:
        """Return the request that cancels a declined intent, unless luigi.cfg keeps it."""
        if settings.own.get("declined_intents") == "keep":
            return None
        headers = {name: request.headers[name] for name in self.kept[1:] if name in request.headers}
        return outcomes.undo_request(quote, reply, headers)

    def billed(
        self, quote: Quote, outcome: Outcome, reply: Reply, fx: Mapping[str, Decimal]
    ) -> Outcome | None:
        read = outcomes.read_left if quote.in_steps else outcomes.read_billed
        return read(quote, outcome, reply_object(reply), fx) if reply.status == 200 else None

    def object_url(self, account: str, object_id: str) -> str | None:
        """Return the address of an object in the dashboard, of its account and mode."""
        page, (_, mode, *more) = super().object_url(account, object_id), [*account.split(":"), ""]
        own = "".join(f"{one}/" for one in more if re.fullmatch(r"acct_[A-Za-z0-9]+", one))
        test = "test/" if mode == "test" else ""
        return None if page is None else f"https://dashboard.stripe.com/{own}{test}{page}"

    def wire(self, request: Request, settings: VendorSettings, secret: str, key: str) -> Request:
        parts = urlsplit(request.url)
        path = path_of(request.method, request.url, settings)
        base = settings.base_url or host_of(request.method, path)
        url = base + path + (f"?{parts.query}" if parts.query else "")
        headers = self.asked(request)
        headers["authorization"] = f"Bearer {secret}"
        if key:
            headers["idempotency-key"] = key
        headers.setdefault("stripe-version", PINNED)
        return Request(request.method, url, headers, request.body)

    def is_slow(self, request: Request) -> bool:
        """Return whether a form is long, or names a number that could be guessed and is hashed slowly."""
        return super().is_slow(request) or _GUESSABLE.search(unquote_to_bytes(request.body)) is not None

    tagged = staticmethod(tags.tagged)
    outcome = staticmethod(outcomes.read_outcome)
    undone = staticmethod(outcomes.is_undone)
    shape = staticmethod(outcomes.shape)
    rest = staticmethod(rest_of)


VENDOR = Stripe()


def _looked_up(reply: Reply) -> Body | None:
    """Return the object of a reply to a look-up: GONE where there is none, None for what is no answer."""
    if reply.status == 404:
        return GONE
    return (reply_object(reply) or None) if reply.status == 200 else None


def _quote_at_fixed_price(call: StripeCall, price: int) -> Quote:
    """Return the quote of an operation to which the operator has given a price, in micro-dollars.

    Each call costs it anew, whatever its object has cost before.
    """
    about = "/".join(call.ids) or call.first_of(*PARTIES)
    return call.quote_at(price, target=f"{about or ''}#{call.digest[:12]}", fixed=True)


def _fingerprint(call: StripeCall, quote: Quote, money: tuple[str, ...]) -> str:
    """Return what must be equal for two calls to be the same one; `money`: the parameters that must be."""
    parts = [quote.operation, quote.target, quote.minor, quote.currency]
    parts += [f"{name}={call.params[name]}" for name in sorted(call.params) if name.split("[")[0] in money]
    if quote.target is None:
        parts.append(call.digest)
    text = "|".join(map(str, parts))
    return text if len(text) <= 1000 else hashlib.sha256(text.encode()).hexdigest()


def _earlier_targets(call: StripeCall, quote: Quote) -> tuple[str, ...]:
    """Return the targets of earlier versions, where a payer is named that was not known to them.

    The target was then what was named beside the payer.
    """
    if quote.target is None or quote.target != call.first_of(*PAYERS[1:]):
        return ()
    return (call.first_of(*PARTIES[len(PAYERS) :], "subscription") or "-", "-")
