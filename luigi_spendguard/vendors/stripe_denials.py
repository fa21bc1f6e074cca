"""Stripe: which credential a request shows, and how a denial looks in Stripe's own error format.

Errors are `{"error": {"type", "code", "message"}}` (https://docs.stripe.com/api/errors). The SDK sends a
409 or a 5xx again unless `Stripe-Should-Retry: false` forbids it (stripe-python 15 and 16).
"""

from __future__ import annotations

import base64
import json

from luigi_spendguard.errors import OutcomeUnknown, SpendDenied, VendorUnreachable
from luigi_spendguard.vendors import Reply, Request

_CODES = {
    "cap": "budget_exhausted",
    "endpoint": "endpoint_not_allowed",
    "revoked": "vault_key_revoked",
    "expired": "vault_key_expired",
    "in_doubt": "outcome_unknown",
}


def credential(request: Request) -> str:
    """Return the bearer token, or the user name of basic authentication (`curl -u key:`)."""
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return given.strip()
    if scheme.lower() != "basic":
        return ""
    try:
        return base64.b64decode(given.strip(), validate=True).decode("ascii").partition(":")[0]
    except ValueError:  # No base64, or no text in it.
        return ""


def shape(error: SpendDenied | OutcomeUnknown | VendorUnreachable) -> Reply:
    """Return a denial as Stripe would answer it; the SDK sends it again only where that may help."""
    again = isinstance(error, VendorUnreachable) or (isinstance(error, OutcomeUnknown) and error.again)
    headers = {"content-type": "application/json", "stripe-should-retry": "true" if again else "false"}
    if isinstance(error, OutcomeUnknown):
        status, kind, code, message = 502, "api_error", "outcome_unknown", str(error)
    elif isinstance(error, VendorUnreachable):
        status, kind, code, message = 503, "api_error", "vendor_unreachable", str(error)
    else:
        mismatch = error.reason == "idempotency_mismatch"
        kind = "idempotency_error" if mismatch else "invalid_request_error"
        status, code, message = error.denial_status, _CODES.get(error.reason, error.reason), error.message
        if error.reason == "cap":
            headers |= {"x-spendguard-cap-hit": "true", "x-keybrake-cap-hit": "true"}
    body = {"error": {"type": kind, "code": code, "message": message}}
    return Reply(status, headers, json.dumps(body).encode())
