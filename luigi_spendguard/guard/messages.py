"""What the guard tells the ledger of a call: how it asks for its reservation, and how the call has ended."""

from __future__ import annotations

from luigi_spendguard.guard.effects import Call
from luigi_spendguard.guard.lookups import LookedUp
from luigi_spendguard.protocol import MAX_BODY, TARGET_DIGITS, EndRequest, ReserveReply, ReserveRequest
from luigi_spendguard.redaction import redact, shows
from luigi_spendguard.vendors import Outcome, Quote, Reply, Request, Vendor
from luigi_spendguard.vendors.bodies import digest


def reserve_request(
    vendor: Vendor,
    request: Request,
    quote: Quote,
    call: Call,
    looked_up: LookedUp,
    timeout_s: float,
) -> ReserveRequest:
    """Return how a call asks for its reservation."""
    executed = looked_up.executed
    acts_on = {*quote.acts_on, *([quote.object_id] if quote.object_id else [])}
    body = kept_text(request.body) if quote.keep_body and not quote.read else None
    headers = some_of(request, vendor.kept)
    keep = body is not None and not shows("\n".join([body, *headers.values()]))
    return ReserveRequest(
        call_id=call.call_id,
        ask=call.ask,
        vendor=vendor.name,
        account=quote.account,
        operation=quote.operation,
        method=request.method,
        path=quote.path,
        target=quote.target,
        targets_before=" ".join(quote.targets_before),
        key=quote.key,
        key_is_callers=quote.key_is_callers,
        unsure=call.unsure,
        fingerprint=quote.fingerprint,
        read=quote.read,
        total_micros=quote.total_micros,
        currency=quote.currency,
        object_id=quote.object_id,
        body=(body or "") if keep else "",
        headers=headers if keep else {},
        timeout_ms=int(timeout_s * 1000),
        customer=" ".join(quote.customers),
        accounts=" ".join(quote.accounts),
        owner_unknown=quote.owner_unknown,
        look_up=call.look_up,
        look_up_for=call.look_up_for,
        covers=" ".join(quote.covers),
        acts_on=" ".join(sorted(acts_on)),
        priced_by=" ".join(sorted({*quote.priced_by} - acts_on)),
        since=looked_up.since,
        unanswered=call.unanswered,
        repeatable=quote.repeatable,
        searched=executed is not None,
        executed=" ".join(executed or ()),
        targets=" ".join(digest(vendor.name, quote.account, one)[:TARGET_DIGITS] for one in quote.targets),
    )


def end_request(
    vendor: Vendor, quote: Quote, grant: ReserveReply, reply: Reply, outcome: Outcome, *, leaked: bool
) -> EndRequest:
    """Return how a call has ended by its reply; of one that has `leaked` the secret nothing is kept."""
    kept = outcome.kind == "settle" and not quote.read and not leaked and len(reply.body) <= MAX_BODY
    return EndRequest(
        outcome.kind,
        grant.call_id,
        grant.ask,
        definite=outcome.definite,
        total_micros=outcome.total_micros,
        worth_micros=outcome.worth_micros,
        only_less=outcome.only_less,
        only_more=outcome.only_more,
        covers="" if leaked else " ".join(outcome.covers),
        covers_stay=outcome.covers_stay,
        object_id=None if leaked else outcome.object_id,  # Whatever part of it is the secret.
        status=reply.status,
        answer_headers=some_of(reply, vendor.kept_answer) if kept else {},
        answer_body=redact(reply.body.decode("utf-8", "replace")) if kept else "",
        # What only the request says of an existing object is not the object's own.
        customer="" if quote.owner_unknown else " ".join(quote.customers),
        note=outcome.note,
        price_due=outcome.price_due,
        fees_micros=quote.fees_micros,
        opened={} if leaked else {one: str(micros) for one, micros in outcome.opened.items()},
    )


def kept_text(body: bytes) -> str | None:
    """Return a body that may be kept to be sent again; None for a file's, or one that is too long."""
    if len(body) > MAX_BODY:
        return None
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError:
        return None


def some_of(message: Request | Reply, names: tuple[str, ...]) -> dict[str, str]:
    """Return those headers of a message that are kept."""
    return {name: message.headers[name] for name in names if name in message.headers}
