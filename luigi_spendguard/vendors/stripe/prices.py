"""Stripe: the most that an operation may cost where the request, or one object, says its amount.

Amounts are integers of the currency's minor unit (https://docs.stripe.com/currencies).

Stripe: what is known of a customer, and decides which tax comes on what Stripe collects by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from luigi_spendguard.errors import denial
from luigi_spendguard.vendors.model import Quote
from luigi_spendguard.vendors.stripe.objects import worth_of
from luigi_spendguard.vendors.stripe.request import (
    PAYERS,
    Asked,
    Body,
    Unbounded,
    amount_in,
    not_there,
    signed,
)

#: Who pays or receives, best first.
PARTIES = (*PAYERS, "payment_method", "source", "destination")


def free(asked: Asked) -> Quote:
    """Nothing is spent. Sent again as soon as anything in it is new."""
    about = "/".join(asked.ids) or asked.given(*PAYERS) or ""
    return asked.quoted(None, target=f"{about}#{asked.digest[:12]}", object_id=None)


def customers(asked: Asked) -> Quote:
    """Free."""
    return asked.quoted(None, target=asked.given("email", "name", "phone"))


def opens(asked: Asked) -> Quote:
    """Quote the request's own amount and currency."""
    minor, currency = asked.whole("amount"), asked.params.get("currency", "").lower()
    if minor is None or not currency:
        raise denial("unpriced", f"{asked.quote.operation} without amount and currency cannot be priced")
    return asked.quoted(
        asked.money(minor, currency), minor=minor, currency=currency, target=asked.given(*PARTIES)
    )


def transfers(asked: Asked) -> Quote:
    """Quote the request's amount, else what the charge it is taken from is worth."""
    if "amount" in asked.params or "source_transaction" not in asked.params:
        return opens(asked)
    path = f"/v1/charges/{asked.id_of('source_transaction')}"
    [charge] = asked.fetched(path)
    minor, currency = _amount(asked, path, charge, "amount"), str(charge.get("currency", ""))
    return asked.quoted(asked.money(minor, currency), currency=currency, target=asked.given("destination"))


def held(asked: Asked) -> Quote:
    """Quote what the intent or charge counts for already; what exceeds that is reserved."""
    operation = asked.quote.operation
    verb = operation.partition(".")[2]
    name = {
        "payment_intents.update": "amount",
        "payment_intents.capture": "amount_to_capture",
        "payment_intents.increment_authorization": "amount",
        "charges.capture": "amount",
    }.get(operation)
    own = own_object(asked)
    if verb == "update" and not {name.split("[")[0] for name in asked.params} & {"amount", "currency"}:
        return free(asked)
    if verb == "update" and "currency" in asked.params and "amount" not in asked.params:
        raise denial("unpriced", "an update of `currency` needs `amount` to be priced")
    minor = asked.whole(name) if name else None
    if minor is None and verb == "increment_authorization":
        raise denial("unpriced", f"{operation} without amount cannot be priced")
    currency = asked.params.get("currency", "").lower()
    quote = replace(own, minor=minor)
    if minor is not None and currency:
        return replace(quote, currency=currency, total_micros=asked.money(minor, currency))
    if minor is None and quote.look_ups[0] not in asked.found:
        return quote  # The ledger knows what its own objects are worth.
    # An amount without a currency is in the object's own, which has to be looked up.
    [body] = asked.fetched(*quote.look_ups)
    total = _worth(asked, quote.look_ups[0], body)
    if minor is not None:
        new = asked.money(minor, str(body["currency"]))
        # Neither a capture nor a raise makes the object count for less before it is done.
        total = new if verb == "update" else max(total, new)
    return replace(quote, total_micros=total)


def cancels(asked: Asked) -> Quote:
    """Nothing; what was counted is given back when the reply says that nothing can move any more."""
    return replace(own_object(asked), total_micros=0, only_less=True)


def own_object(asked: Asked) -> Quote:
    """Return the quote of a call on the object of its path, which can be looked up."""
    object_id = asked.ids[0]
    return asked.quoted(None, target=object_id, object_id=object_id, look_ups=(own_path(asked),))


def own_path(asked: Asked) -> str:
    """Return the address of the object that the path names first."""
    parts = asked.quote.path.split("/")
    return "/".join(parts[: parts.index(asked.ids[0]) + 1])


def refunds(asked: Asked) -> Quote:
    """Quote the refund's amount, else all that is left of the charge or intent."""
    charge = asked.ids[0] if asked.ids else asked.params.get("charge")
    intent = asked.params.get("payment_intent")
    if "origin" in asked.params and not charge and not intent:
        return opens(asked)
    if bool(charge) == bool(intent):
        raise denial("unpriced", "a refund names either a charge or a payment_intent")
    if intent:
        path = f"/v1/payment_intents/{asked.id_of('payment_intent')}?expand%5B%5D=latest_charge"
    else:
        path = f"/v1/charges/{asked.ids[0] if asked.ids else asked.id_of('charge')}"
    [body] = asked.fetched(path)
    minor = asked.whole("amount")
    if minor is None:
        known = body.get("latest_charge") if intent else body
        if isinstance(known, dict):
            # An authorisation that is not captured is only let go: all of it is more than enough.
            left = _amount(asked, path, known, "amount") - _refunded(asked, path, known)
        else:
            left = _amount(asked, path, body, "amount")
    else:
        left = minor
    currency = str(body.get("currency", ""))
    firm = asked.quote.path.endswith("/refund")
    if firm and minor is None:
        # Its reply is the charge, with all refunds in one sum; sent again, nothing would be left of it.
        left = _amount(asked, path, body, "amount")
    return asked.quoted(
        asked.money(max(0, left), currency),
        minor=minor,
        currency=currency,
        target=charge or intent,
        firm=firm,
    )


def given_back(asked: Asked) -> Quote:
    """Quote the amount, else all that is left of the application fee, or of the transfer.

    What a reversal takes from a connected account is its money (https://docs.stripe.com/api/transfer_reversals).
    """
    path = own_path(asked)
    [of] = asked.fetched(path)
    minor, currency = asked.whole("amount"), str(of.get("currency", ""))
    before = "amount_reversed" if path.startswith("/v1/transfers/") else "amount_refunded"
    left = _amount(asked, path, of, "amount") - _refunded(asked, path, of, before) if minor is None else minor
    return asked.quoted(
        asked.money(max(0, left), currency), minor=minor, currency=currency, target=asked.ids[0]
    )


def customer_credit(asked: Asked) -> Quote:
    """Quote the change of a customer's balance, either way: the next invoice is that much less or more."""
    minor, currency = signed(asked.params, "amount"), asked.params.get("currency", "").lower()
    if minor is None or not currency:
        raise denial("unpriced", f"{asked.quote.operation} without amount and currency cannot be priced")
    return asked.quoted(
        asked.money(abs(minor), currency),
        minor=abs(minor),
        currency=currency,
        target=f"{asked.ids[0]}{'+' if minor > 0 else '-'}",
    )


def credit_notes(asked: Asked) -> Quote:
    """Quote what is refunded or credited; nothing for one on an invoice that is still open."""
    path = f"/v1/invoices/{asked.id_of('invoice')}"
    [invoice] = asked.fetched(path)
    currency = str(invoice.get("currency", ""))
    named = [asked.whole("refund_amount"), asked.whole("credit_amount")]
    # What lines or shipping come to beside an amount is open: then it is all of the invoice at most.
    beside = any(name.startswith(("lines", "shipping_cost")) for name in asked.params)
    minor = None if beside else asked.whole("amount")
    if any(part is not None for part in named):
        total = sum(part or 0 for part in named)
    elif invoice.get("status") == "open":
        total = 0
    else:
        total = _amount(asked, path, invoice, "total") if minor is None else minor
    return asked.quoted(asked.money(total, currency), currency=currency, target=asked.params["invoice"])


def switches_off(asked: Asked) -> Quote:
    """Free as long as a page is at most closed."""
    if asked.params.get("active", "false") != "false":
        raise Unbounded(f"{asked.quote.operation} with active other than false may move money")
    return free(asked)


#: What must be said so that ending or pausing a subscription, or a part of it, neither bills nor credits
#: anything; None: it does neither unless it is said.
_QUIET: dict[str, dict[str, str | None]] = {
    "subscriptions.cancel": {"invoice_now": None, "prorate": None},
    "subscription_schedules.cancel": {"invoice_now": "false", "prorate": "false"},
    "subscriptions.pause": {
        "bill_for[outstanding_usage_through][type]": "none",
        "bill_for[unused_time_from][type]": "none",
    },
}


def endings(asked: Asked) -> Quote:
    """Free as long as nothing is invoiced or credited at the end."""
    for name, needed in _QUIET[asked.quote.operation].items():
        if asked.params.get(name, "false" if needed is None else "") != (needed or "false"):
            raise Unbounded(
                f"{asked.quote.operation} bills or credits an unknown amount: pass {name}={needed or 'false'}"
            )
    return free(asked)


def _worth(asked: Asked, path: str, body: Body) -> int:
    try:
        if body["id"] != asked.ids[0]:
            raise ValueError
        found = worth_of(body, asked.fx)
    except (ValueError, TypeError, KeyError):
        # A currency without a rate is its own denial.
        asked.money(0, str(body.get("currency", "")))
        raise not_there(asked.quote.operation, path) from None
    return max(found.worth, found.counts)


def _refunded(asked: Asked, path: str, body: Body, name: str = "amount_refunded") -> int:
    return _amount(asked, path, body, name) if body.get(name) else 0


def _amount(asked: Asked, path: str, body: Body, name: str) -> int:
    try:
        return amount_in(body, name)
    except ValueError:
        raise not_there(asked.quote.operation, path) from None


def customer_updated(asked: Asked) -> Quote:
    """Quote nothing. Raises Unbounded where what Stripe collects by itself may rise by it."""
    if {name.split("[")[0] for name in asked.params} & {"address", "shipping", "tax", "tax_exempt"}:
        _check_drafts(asked, "customer", asked.ids[0], exempt="tax_exempt" in asked.params)
    return free(asked)


def tax_ids(asked: Asked) -> Quote:
    """Quote nothing, for the account's own or a customer's. Raises Unbounded as `customer_updated` does."""
    if asked.quote.path.startswith("/v1/customers/"):
        whose: Mapping[str, Any] = {"customer": asked.ids[0]}
    elif asked.ids:
        path = f"/v1/tax_ids/{asked.ids[0]}"
        if asked.is_gone(path):
            return free(asked)
        [known] = asked.fetched(path)
        whose = known.get("owner") or {}
    else:
        whose = {name: asked.params.get(f"owner[{name}]") for name in PAYERS}
    for name in ("customer", "customer_account"):
        one = whose.get(name)
        one = one.get("id") if isinstance(one, dict) else one
        if one:
            found = Asked(asked.quote, (), {name: str(one)}, {}, asked.fx).id_of(name)
            _check_drafts(asked, name, found, exempt=False)
    return free(asked)


def _check_drafts(asked: Asked, payer: str, whose: str, *, exempt: bool) -> None:
    """Raise Unbounded where Stripe collects a draft of a payer's by itself whose tax may rise.

    What is finalized keeps its tax, and what a guarded call collects is counted then. `exempt`: rates of
    one's own, too, which only an exemption switches off.
    """
    path = f"/v1/invoices?{payer}={whose}&status=draft&limit=100"
    [page] = asked.fetched(path)
    taxed = [
        one
        for one in page["data"]
        if one.get("auto_advance") is not False
        and (exempt or (one.get("automatic_tax") or {}).get("enabled") is not False)
    ]
    if taxed or page["has_more"] is not False:
        raise Unbounded(
            f"{asked.quote.operation} while Stripe collects a draft of {whose} by itself, whose tax may rise"
        )
