"""Stripe: the most that an operation may cost where the request, or one object, says its amount.

Amounts are integers of the currency's minor unit (https://docs.stripe.com/currencies). What changes the tax
on an invoice that Stripe collects by itself is quoted here, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from luigi_spendguard.errors import denial
from luigi_spendguard.vendors.model import Quote
from luigi_spendguard.vendors.stripe.objects import ObjectValue, value_of
from luigi_spendguard.vendors.stripe.request import (
    PAYERS,
    Body,
    StripeCall,
    Unbounded,
    amount_in,
    id_of,
    not_there,
    signed_minor_units,
    stems,
)

#: Who pays or receives, best first.
PARTIES = (*PAYERS, "payment_method", "source", "destination")


def quote_free(call: StripeCall) -> Quote:
    """Quote nothing. Sent again as soon as anything in it is new."""
    about = "/".join(call.ids) or call.first_of(*PAYERS) or ""
    return call.quote_at(None, target=f"{about}#{call.digest[:12]}", object_id=None)


def quote_customer(call: StripeCall) -> Quote:
    """Quote nothing; a new customer is the same one by the e-mail address, the name or the telephone."""
    return call.quote_at(None, target=call.first_of("email", "name", "phone"))


def quote_amount(call: StripeCall) -> Quote:
    """Quote the request's own amount and currency."""
    minor, currency = call.minor_units("amount"), call.params.get("currency", "").lower()
    if minor is None or not currency:
        raise denial("unpriced", f"{call.quote.operation} without amount and currency cannot be priced")
    return call.quote_at(
        call.money(minor, currency), minor=minor, currency=currency, target=call.first_of(*PARTIES)
    )


def quote_transfer(call: StripeCall) -> Quote:
    """Quote the request's amount, else what the charge it is taken from is worth."""
    if "amount" in call.params or "source_transaction" not in call.params:
        return quote_amount(call)
    path = f"/v1/charges/{call.id_in('source_transaction')}"
    [charge] = call.look_up(path)
    minor, currency = _amount(call, path, charge), str(charge.get("currency", ""))
    return call.quote_at(call.money(minor, currency), currency=currency, target=call.first_of("destination"))


def quote_held(call: StripeCall) -> Quote:
    """Quote what the intent or charge counts for already; what exceeds that is reserved."""
    operation = call.quote.operation
    verb = operation.partition(".")[2]
    name = {
        "payment_intents.update": "amount",
        "payment_intents.capture": "amount_to_capture",
        "payment_intents.increment_authorization": "amount",
        "charges.capture": "amount",
    }.get(operation)
    quote = quote_own_object(call)
    path = own_path(call)
    if verb == "update" and not stems(call.params) & {"amount", "currency"}:
        return quote_free(call)
    if verb == "update" and "currency" in call.params and "amount" not in call.params:
        raise denial("unpriced", "an update of `currency` needs `amount` to be priced")
    minor = call.minor_units(name) if name else None
    if minor is None and verb == "increment_authorization":
        raise denial("unpriced", f"{operation} without amount cannot be priced")
    currency = call.params.get("currency", "").lower()
    quote = replace(quote, minor=minor)
    if minor is not None and currency:
        return replace(quote, currency=currency, total_micros=call.money(minor, currency))
    if minor is None and path not in call.lookups:
        return quote  # The ledger knows what its own objects are worth.
    # An amount without a currency is in the object's own, which has to be looked up.
    body, value = look_up_value(call, path, call.ids[0])
    total = max(value.movable_micros, value.counted_micros)
    if minor is not None:
        new = call.money(minor, str(body["currency"]))
        # Neither a capture nor a raise makes the object count for less before it is done.
        total = new if verb == "update" else max(total, new)
    return replace(quote, total_micros=total)


def quote_cancel(call: StripeCall) -> Quote:
    """Quote nothing; what was counted is given back once the reply says that nothing can move any more."""
    return replace(quote_own_object(call), total_micros=0, only_less=True)


def quote_own_object(call: StripeCall) -> Quote:
    """Return the quote of a call on the object of its path, which can be looked up."""
    object_id = call.ids[0]
    return call.quote_at(None, target=object_id, object_id=object_id, look_ups=(own_path(call),))


def own_path(call: StripeCall) -> str:
    """Return the address of the object that the path names first, such as `/v1/invoices/in_1`."""
    parts = call.quote.path.split("/")
    return "/".join(parts[: parts.index(call.ids[0], 3) + 1])


def quote_refund(call: StripeCall) -> Quote:
    """Quote the refund's amount, else all that is left of the charge or intent."""
    charge = call.ids[0] if call.ids else call.params.get("charge")
    intent = call.params.get("payment_intent")
    if "origin" in call.params and not charge and not intent:
        return quote_amount(call)
    if bool(charge) == bool(intent):
        raise denial("unpriced", "a refund names either a charge or a payment_intent")
    if intent:
        path = f"/v1/payment_intents/{call.id_in('payment_intent')}?expand%5B%5D=latest_charge"
    else:
        path = f"/v1/charges/{call.ids[0] if call.ids else call.id_in('charge')}"
    [body] = call.look_up(path)
    minor = call.minor_units("amount")
    if minor is None:
        known = body.get("latest_charge") if intent else body
        if isinstance(known, dict):
            # An authorisation that is not captured is only let go: all of it is more than enough.
            left = _amount(call, path, known) - _refunded(call, path, known)
        else:
            left = _amount(call, path, body)
    else:
        left = minor
    currency = str(body.get("currency", ""))
    firm = call.quote.path.endswith("/refund")
    if firm and minor is None:
        # Its reply is the charge, with all refunds in one sum; sent again, nothing would be left of it.
        left = _amount(call, path, body)
    return call.quote_at(
        call.money(max(0, left), currency), minor=minor, currency=currency, target=charge or intent, firm=firm
    )


def quote_reversal(call: StripeCall) -> Quote:
    """Quote the amount, else all that is left of the application fee, or of the transfer.

    What a reversal takes from a connected account is its money (https://docs.stripe.com/api/transfer_reversals).
    """
    path = own_path(call)
    [of] = call.look_up(path)
    minor, currency = call.minor_units("amount"), str(of.get("currency", ""))
    before = "amount_reversed" if path.startswith("/v1/transfers/") else "amount_refunded"
    left = _amount(call, path, of) - _refunded(call, path, of, before) if minor is None else minor
    return call.quote_at(
        call.money(max(0, left), currency), minor=minor, currency=currency, target=call.ids[0]
    )


def quote_customer_credit(call: StripeCall) -> Quote:
    """Quote the change of a customer's balance, either way: the next invoice is that much less or more."""
    minor, currency = signed_minor_units(call.params, "amount"), call.params.get("currency", "").lower()
    if minor is None or not currency:
        raise denial("unpriced", f"{call.quote.operation} without amount and currency cannot be priced")
    return call.quote_at(
        call.money(abs(minor), currency),
        minor=abs(minor),
        currency=currency,
        target=f"{call.ids[0]}{'+' if minor > 0 else '-'}",
    )


def quote_credit_note(call: StripeCall) -> Quote:
    """Quote what is refunded or credited; nothing for one on an invoice that is still open."""
    path = f"/v1/invoices/{call.id_in('invoice')}"
    [invoice] = call.look_up(path)
    currency = str(invoice.get("currency", ""))
    named = [call.minor_units("refund_amount"), call.minor_units("credit_amount")]
    # What lines or shipping come to beside an amount is open: then it is all of the invoice at most.
    beside = any(name.startswith(("lines", "shipping_cost")) for name in call.params)
    minor = None if beside else call.minor_units("amount")
    if any(part is not None for part in named):
        total = sum(part or 0 for part in named)
    elif invoice.get("status") == "open":
        total = 0
    else:
        total = _amount(call, path, invoice, "total") if minor is None else minor
    return call.quote_at(call.money(total, currency), currency=currency, target=call.params["invoice"])


def quote_link_update(call: StripeCall) -> Quote:
    """Quote nothing as long as a page is at most closed. Raises Unbounded."""
    if call.params.get("active", "false") != "false":
        raise Unbounded(f"{call.quote.operation} with active other than false may move money")
    return quote_free(call)


#: What must be passed so that ending or pausing a subscription, or a part of it, neither bills nor credits
#: anything; None: it does neither unless it is passed.
_QUIET: dict[str, dict[str, str | None]] = {
    "subscriptions.cancel": {"invoice_now": None, "prorate": None},
    "subscription_schedules.cancel": {"invoice_now": "false", "prorate": "false"},
    "subscriptions.pause": {
        "bill_for[outstanding_usage_through][type]": "none",
        "bill_for[unused_time_from][type]": "none",
    },
}


def quote_ending(call: StripeCall) -> Quote:
    """Quote nothing as long as nothing is invoiced or credited at the end. Raises Unbounded."""
    for name, needed in _QUIET[call.quote.operation].items():
        if call.params.get(name, "false" if needed is None else "") != (needed or "false"):
            raise Unbounded(
                f"{call.quote.operation} bills or credits an unknown amount: pass {name}={needed or 'false'}"
            )
    return quote_free(call)


def look_up_value(call: StripeCall, path: str, object_id: str) -> tuple[Body, ObjectValue]:
    """Return the object at `path` and what it can move. Raises NotLookedUp, SpendDenied."""
    [body] = call.look_up(path)
    try:
        if body["id"] != object_id:
            raise ValueError
        return body, value_of(body, call.fx)
    except (ValueError, TypeError, KeyError):
        # A currency without a rate is its own denial.
        call.money(0, str(body.get("currency", "")))
        raise not_there(call.quote.operation, path) from None


def _refunded(call: StripeCall, path: str, body: Body, name: str = "amount_refunded") -> int:
    return _amount(call, path, body, name) if body.get(name) else 0


def _amount(call: StripeCall, path: str, body: Body, name: str = "amount") -> int:
    try:
        return amount_in(body, name)
    except ValueError:
        raise not_there(call.quote.operation, path) from None


def quote_customer_update(call: StripeCall) -> Quote:
    """Quote nothing. Raises Unbounded where what Stripe collects by itself may rise by it."""
    if stems(call.params) & {"address", "shipping", "tax", "tax_exempt"}:
        _check_drafts(call, "customer", call.ids[0], exempt="tax_exempt" in call.params)
    return quote_free(call)


def quote_tax_id(call: StripeCall) -> Quote:
    """Quote nothing, for the account's own or a customer's. Raises Unbounded as `quote_customer_update`."""
    if call.quote.path.startswith("/v1/customers/"):
        whose: Mapping[str, Any] = {"customer": call.ids[0]}
    elif call.ids:
        path = f"/v1/tax_ids/{call.ids[0]}"
        if call.is_gone(path):
            return quote_free(call)
        [known] = call.look_up(path)
        whose = known.get("owner") or {}
    else:
        whose = {name: call.params.get(f"owner[{name}]") for name in PAYERS}
    for name in ("customer", "customer_account"):
        if one := id_of(whose.get(name)):
            _check_drafts(call, name, call.check_id(str(one), name), exempt=False)
    return quote_free(call)


def _check_drafts(call: StripeCall, payer: str, whose: str, *, exempt: bool) -> None:
    """Raise Unbounded where Stripe collects a draft of a payer's by itself whose tax may rise.

    What is finalized keeps its tax, and what a guarded call collects is counted then. `exempt`: rates of
    one's own, too, which only an exemption switches off.
    """
    path = f"/v1/invoices?{payer}={whose}&status=draft&limit=100"
    [page] = call.look_up(path)
    taxed = [
        one
        for one in page["data"]
        if one.get("auto_advance") is not False
        and (exempt or (one.get("automatic_tax") or {}).get("enabled") is not False)
    ]
    if taxed or page["has_more"] is not False:
        raise Unbounded(
            f"{call.quote.operation} while Stripe collects a draft of {whose} by itself, whose tax may rise"
        )
