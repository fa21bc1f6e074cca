"""Stripe: how a denial looks in Stripe's own error format.

Errors are `{"error": {"type", "code", "message"}}` (https://docs.stripe.com/api/errors). The SDK sends a
409 or a 5xx again unless `Stripe-Should-Retry: false` forbids it (stripe-python 15 and 16).
"""

from __future__ import annotations

import json

from luigi_spendguard.errors import OutcomeUnknown, SpendDenied, VendorUnreachable
from luigi_spendguard.vendors import shapes
from luigi_spendguard.vendors.calls import Reply


def shape(error: SpendDenied | OutcomeUnknown | VendorUnreachable) -> Reply:
    """Return a denial as Stripe would answer it; the SDK sends it again only where that may help."""
    said = shapes.said_of(error)
    headers = {**said.headers, "stripe-should-retry": "true" if said.again else "false"}
    kind = "invalid_request_error" if isinstance(error, SpendDenied) else "api_error"
    if said.code == "idempotency_mismatch":
        kind = "idempotency_error"
    body = {"error": {"type": kind, "code": said.code, "message": said.message}}
    return Reply(said.status, headers, json.dumps(body).encode())
