"""Stripe's own books: what moves money, and what has moved it.

Lists of an account (https://docs.stripe.com/api/pagination): newest first, 100 a page, `starting_after` the
last one's id, by `created`. A balance transaction says that money moved, in the balance's currency, and
names what moved it (`source`, expanded: https://docs.stripe.com/api/balance_transactions); what it belongs
to may have been opened long before. What a thing counts for is read as the guard reads it
(`objects.value_of`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

from luigi_spendguard.money import NoRate, to_micros
from luigi_spendguard.settings import VendorSettings
from luigi_spendguard.vendors.bodies import reply_object
from luigi_spendguard.vendors.model import Reply
from luigi_spendguard.vendors.own_books import MOVEMENT, Entry, EntryPage, OwnBooks, PageRequest, Reading
from luigi_spendguard.vendors.stripe.objects import OBJECT_ID, is_first, value_of
from luigi_spendguard.vendors.stripe.request import Body, id_of
from luigi_spendguard.vendors.stripe.tags import tag_in, tag_of

#: Lines on a page: Stripe gives no more.
PAGE = 100
#: A larger amount is none: a page with one is not read.
_MOST = 10**12

_PATHS = {
    "payment_intents": "/v1/payment_intents",
    "charges": "/v1/charges",
    "refunds": "/v1/refunds",
    "disputes": "/v1/disputes",
    "payouts": "/v1/payouts",
    "topups": "/v1/topups",
    "transfers": "/v1/transfers",
    "invoices": "/v1/invoices",
    "invoice_payments": "/v1/invoice_payments",
    "invoiceitems": "/v1/invoiceitems",
    "checkout.sessions": "/v1/checkout/sessions",
    "credit_notes": "/v1/credit_notes",
    "balance_transactions": "/v1/balance_transactions",
}

#: In which list an object is, by how its id begins.
_BY_ID = {
    "pi": "payment_intents",
    "ch": "charges",
    "py": "charges",
    "re": "refunds",
    "pyr": "refunds",
    "po": "payouts",
    "tu": "topups",
    "tr": "transfers",
    "in": "invoices",
    "ii": "invoiceitems",
    "cs": "checkout.sessions",
    "cn": "credit_notes",
}


class StripeOwnBooks(OwnBooks):
    """An account's lists, in its mode."""

    lists = tuple(_PATHS)
    paths = re.compile(rf"({'|'.join(map(re.escape, _PATHS.values()))})(/[A-Za-z0-9_]{{1,64}})?")
    # Of 100 a second in live mode, 25 in test mode (https://docs.stripe.com/rate-limits).
    per_second = 8.0
    shown = ("pi_", "ch_", "py_", "re_", "pyr_", "po_", "tu_", "tr_", "in_", "ii_", "cs_", "cn_", "fr_")

    def own_account(self, settings: VendorSettings, secret: str) -> str:
        return f"stripe:{'live' if '_live_' in secret else 'test'}"

    def can_read(self, account: str, settings: VendorSettings, secret: str) -> bool:
        own = self.own_account(settings, secret)
        return account == own or account.startswith(f"{own}:")

    def headers(self, account: str) -> Mapping[str, str]:
        _, _, connected, context = [*account.split(":"), "", ""][:4]
        named = {"stripe-account": connected, "stripe-context": context}
        return {name: value for name, value in named.items() if value}

    def tag_of(self, wire_key: str) -> str:
        return tag_of(wire_key)

    def first(self, listed: str, reading: Reading) -> PageRequest:
        query = [
            ("limit", str(PAGE)),
            ("created[gte]", str(reading.period.since_ms // 1000)),
            ("created[lt]", str(-(-reading.period.until_ms // 1000))),
        ]
        if listed == "balance_transactions":
            query.append(("expand[0]", "data.source"))
        return PageRequest(listed, _PATHS[listed], tuple(query))

    def named(self, object_id: str, reading: Reading) -> PageRequest | None:
        listed = _BY_ID.get(object_id.partition("_")[0])
        if listed is None or not OBJECT_ID.fullmatch(object_id):
            return None
        return PageRequest("named", f"{_PATHS[listed]}/{object_id}")

    def read(self, page: PageRequest, reply: Reply, reading: Reading) -> EntryPage:
        body = reply_object(reply)
        if page.listed == "named":
            path, _, named = page.path.rpartition("/")
            if body["id"] != named:
                raise ValueError("it is another object than asked for")
            listed = next(one for one, of in _PATHS.items() if of == path)
            return EntryPage(tuple(_READERS[listed](body, reading.fx)))
        lines, more = body["data"], body["has_more"]
        if body.get("object") != "list" or not isinstance(lines, list) or not isinstance(more, bool):
            raise ValueError("it is no list of Stripe's")
        entries: list[Entry] = []
        for line in lines:
            if not isinstance(line, dict):
                raise ValueError("a line is no object")
            entries += _READERS[page.listed](line, reading.fx)
        if not more or not lines:
            if more:
                raise ValueError("it has nothing, and says that there is more")
            return EntryPage(tuple(entries))
        query = [(name, value) for name, value in page.query if name != "starting_after"]
        query.append(("starting_after", _id(lines[-1]["id"])))
        return EntryPage(tuple(entries), PageRequest(page.listed, page.path, tuple(query)))


def _id(value: Any) -> str:
    if not isinstance(value, str) or not OBJECT_ID.fullmatch(value):
        raise ValueError("an id is none")
    return value


def _named(*values: Any) -> tuple[str, ...]:
    """Return those of some values (ids, or expanded objects) that name something."""
    ids = (id_of(value) for value in values)
    return tuple(dict.fromkeys(one for one in ids if isinstance(one, str) and OBJECT_ID.fullmatch(one)))


def _minor(body: Body, name: str) -> int:
    """Return an amount, in minor units, never below 0. Raises ValueError for what is none."""
    value = body.get(name)
    if value is None:
        return 0
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) > _MOST:
        raise ValueError(f"{name} is no amount")
    return max(0, value)


def _entry(
    listed: str, kind: str, body: Body, fx: Mapping[str, Decimal], moved: int, opened: int = 0
) -> dict[str, Any]:
    """Return what entries have in common; `moved` and `opened` are in minor units."""
    created = body.get("created", body.get("date"))
    if not isinstance(created, int) or isinstance(created, bool) or not 0 <= created < 2**40:
        raise ValueError("it does not say when it was made")
    currency = str(body["currency"])
    if not re.fullmatch("[a-z]{3}", currency):
        raise ValueError("a currency is none")
    try:
        micros: int | None = int(to_micros(moved, currency, fx))
        open_micros = int(to_micros(opened, currency, fx))
    except NoRate:
        micros, open_micros = None, 0
    name = _id(body["id"])
    return {
        "listed": listed,
        "id": name,
        "kind": kind,
        "at_ms": created * 1000,
        "state": str(body.get("status") or "")[:40],
        "objects": (name,),
        "amount": moved,
        "currency": currency,
        "micros": micros,
        "open_micros": open_micros,
        "tag": tag_in(body),
        "target": next(iter(_named(body.get("customer"), body.get("destination"))), ""),
    }


def _value(body: Body) -> int:
    """Return what a thing counts for, in minor units, as the guard counts it."""
    return value_of({**body, "currency": "usd"}, {}).counted_micros // 10_000


def _movable(body: Body) -> int:
    """Return the most that a thing can still be made to move, in minor units."""
    return value_of({**body, "currency": "usd"}, {}).movable_micros // 10_000


def _intents(body: Body, fx: Mapping[str, Decimal]) -> list[Entry]:
    ended = body["status"] in ("succeeded", "canceled")
    counted = _value(body)
    moved = counted if ended else _minor(body, "amount_received")
    facts = _entry("payment_intents", "charge", body, fx, moved, max(0, counted - moved))
    objects = (*facts.pop("objects"), *_named(body.get("latest_charge")))
    return [Entry(**facts, objects=objects, rank=1)]


def _charges(body: Body, fx: Mapping[str, Decimal]) -> list[Entry]:
    counted = _value(body)
    moved = counted if body.get("captured") is True and body["status"] == "succeeded" else 0
    facts = _entry("charges", "charge", body, fx, moved, counted - moved)
    objects = (*_named(body.get("payment_intent")), *facts.pop("objects"))
    return [Entry(**facts, objects=objects, rank=2)]


def _plain(listed: str, kind: str, *about: str) -> Callable[[Body, Mapping[str, Decimal]], list[Entry]]:
    """Return the reader of what counts for its amount, unless it has failed."""

    def read(body: Body, fx: Mapping[str, Decimal]) -> list[Entry]:
        counted = _value(body)
        facts = _entry(listed, kind, body, fx, counted)
        by_itself = listed == "payouts" and body.get("automatic") is True
        if by_itself:
            facts["kind"] = "automatic payout"
        return [Entry(**facts, about=_named(*(body.get(n) for n in about)), rank=1, counted=not by_itself)]

    return read


#: Of a dispute: no money was taken, or it was given back (https://docs.stripe.com/api/disputes/object).
_NOT_TAKEN = ("warning_needs_response", "warning_under_review", "warning_closed", "won", "prevented")


def _disputes(body: Body, fx: Mapping[str, Decimal]) -> list[Entry]:
    taken = 0 if body["status"] in _NOT_TAKEN else _minor(body, "amount")
    facts = _entry("disputes", "dispute", body, fx, taken)
    return [Entry(**facts, about=_named(body.get("payment_intent"), body.get("charge")), rank=1)]


def _invoices(body: Body, fx: Mapping[str, Decimal]) -> list[Entry]:
    counted = _value(body)
    moved = counted if body["status"] == "paid" else min(counted, _minor(body, "amount_paid"))
    # A draft can be collected: until it is gone, what it has taken along counts.
    opened = _movable(body) if body["status"] == "draft" else counted
    facts = _entry("invoices", "charge", body, fx, moved, max(0, opened - moved))
    parent = (body.get("parent") or {}).get("subscription_details") or {}
    begins = _named(parent.get("subscription"), body.get("subscription")) if is_first(body) else ()
    return [Entry(**facts | {"objects": (*facts["objects"], *begins)})]


def _invoice_payments(body: Body, fx: Mapping[str, Decimal]) -> list[Entry]:
    facts = _entry("invoice_payments", "charge", body, fx, 0)
    paid = body.get("payment") or {}
    objects = _named(body.get("invoice"), paid.get("payment_intent"), paid.get("charge"))
    return [Entry(**facts | {"objects": objects}, counted=False)]


def _items(body: Body, fx: Mapping[str, Decimal]) -> list[Entry]:
    invoice = _named(body.get("invoice"))
    # What became of one on an invoice that says, where a list has it.
    facts = _entry("invoiceitems", "charge", body, fx, 0, _minor(body, "amount"))
    return [Entry(**facts | {"objects": (*invoice, *facts["objects"])}, rank=5)]


def _sessions(body: Body, fx: Mapping[str, Decimal]) -> list[Entry]:
    if body.get("mode") == "setup" or body.get("currency") is None:
        return []
    total = _minor(body, "amount_total")
    moved = total if body.get("payment_status") == "paid" else 0
    opened = total if not moved and body.get("status") != "expired" else 0
    facts = _entry("checkout.sessions", "charge", body, fx, moved, opened)
    objects = (*facts["objects"], *_named(body.get("payment_intent"), body.get("invoice")))
    return [Entry(**facts | {"objects": objects})]


def _credit_notes(body: Body, fx: Mapping[str, Decimal]) -> list[Entry]:
    counted = _value(body)
    facts = _entry("credit_notes", "refund", body, fx, counted)
    refunds = [one.get("refund") for one in body.get("refunds") or [] if isinstance(one, dict)]
    objects = (*facts["objects"], *_named(*refunds, body.get("refund")))
    return [Entry(**facts | {"objects": objects}, about=_named(body.get("invoice")))]


#: What a balance transaction's type is here; of another one it is `other`, which counts by itself.
#: (https://docs.stripe.com/reports/balance-transaction-types)
_MOVES = {
    "charge": "charge",
    "payment": "charge",
    "refund": "refund",
    "payment_refund": "refund",
    "payout": "payout",
    "topup": "topup",
    "transfer": "transfer",
    "application_fee_refund": "refund",
}
_FEES = ("stripe_fee", "stripe_fx_fee", "tax_fee", "tax_fund", "network_cost", "application_fee")
#: What comes back, or is only set aside.
_BACK = re.compile(
    r".*(failure|cancel|reversal|release|hold)|payment_failure_refund|transfer_refund|reserve\w*|fee_credit_\w+"
    r"|payment_unreconciled|advance_funding"
)


def _movements(body: Body, fx: Mapping[str, Decimal]) -> list[Entry]:
    """Read a balance transaction: the movement, and apart from it the fee."""
    kind, source = str(body["type"]), body.get("source")
    signed = body["amount"]
    moved = _minor({"amount": abs(signed) if isinstance(signed, int) else signed}, "amount")
    whole = source if isinstance(source, dict) else {}
    facts = _entry("balance_transactions", "", body, fx, moved)
    fee = _minor(body, "fee")
    entries = []
    if fee:
        fees = facts | _entry("balance_transactions", "fee", body, fx, fee)
        entries.append(Entry(**fees | {"listed": "fees", "objects": ()}, counted=False))
    counted = not (kind in _FEES or _BACK.fullmatch(kind) or whole.get("automatic") is True)
    if kind in _FEES:
        facts["kind"] = "fee"
    elif kind == "adjustment" and whole.get("object") == "dispute":
        facts["kind"], counted = "dispute", signed < 0
    elif not counted:
        facts["kind"] = "automatic payout" if kind == "payout" else "returned or set aside"
        counted = False
    else:
        facts["kind"] = _MOVES.get(kind, "other")
    objects = _named(whole.get("payment_intent") if whole.get("object") == "charge" else None, source)
    if kind == "payout" and not counted:  # The list of payouts has it.
        facts["amount"] = 0
    if counted and whole.get("currency") not in (None, body["currency"]):
        # What was asked for, as the guard counts it, and not what it came to in the balance.
        asked = _minor(whole, "amount_captured" if whole.get("amount_captured") else "amount")
        named = {**whole, "created": body["created"], "id": body["id"]}
        facts |= {
            name: value
            for name, value in _entry("balance_transactions", "", named, fx, asked).items()
            if name in ("amount", "currency", "micros", "tag")
        }
    return [
        *entries,
        Entry(**facts | {"objects": objects or facts["objects"]}, counted=counted, rank=MOVEMENT),
    ]


_READERS: Mapping[str, Callable[[Body, Mapping[str, Decimal]], list[Entry]]] = {
    "payment_intents": _intents,
    "charges": _charges,
    "refunds": _plain("refunds", "refund", "payment_intent", "charge"),
    "disputes": _disputes,
    "payouts": _plain("payouts", "payout"),
    "topups": _plain("topups", "topup"),
    "transfers": _plain("transfers", "transfer"),
    "invoices": _invoices,
    "invoice_payments": _invoice_payments,
    "invoiceitems": _items,
    "checkout.sessions": _sessions,
    "credit_notes": _credit_notes,
    "balance_transactions": _movements,
}
