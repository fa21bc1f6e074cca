"""Our errors as the stripe SDK's own: each is caught by both names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import stripe
from requests.structures import CaseInsensitiveDict

from luigi_spendguard.errors import OutcomeUnknown, SpendDenied

_NATURAL: Mapping[str, type[stripe.StripeError]] = {
    "cap": stripe.RateLimitError,
    "endpoint": stripe.PermissionError,
    "scope": stripe.PermissionError,
    "unpriced": stripe.PermissionError,
    "currency": stripe.PermissionError,
    "revoked": stripe.AuthenticationError,
    "expired": stripe.AuthenticationError,
    "unknown_key": stripe.AuthenticationError,
    "idempotency_mismatch": stripe.IdempotencyError,
    "in_doubt": stripe.APIError,
    "ledger_unavailable": stripe.APIError,
}
_CODES = {
    "cap": "budget_exhausted",
    "endpoint": "endpoint_not_allowed",
    "revoked": "vault_key_revoked",
    "expired": "vault_key_expired",
    "in_doubt": "outcome_unknown",
}
_classes: dict[tuple[type, type], type] = {}


def _both(ours: type[Exception], natural: type[Exception]) -> type[Any]:
    """Return a class that is caught both as ours and as the SDK's."""
    if (ours, natural) not in _classes:
        _classes[ours, natural] = type(f"Stripe{ours.__name__}", (ours, natural), {})
    return _classes[ours, natural]


def as_stripe_error(denied: SpendDenied) -> SpendDenied:
    """Return the denial as an exception that is also the SDK's natural error."""
    if isinstance(denied, stripe.StripeError):
        return denied
    natural = _NATURAL[denied.reason]
    kind = "idempotency_error" if denied.reason == "idempotency_mismatch" else "invalid_request_error"
    code = _CODES.get(denied.reason, denied.reason)
    headers = {"Stripe-Should-Retry": "false"}
    if denied.reason == "cap":
        headers |= {"X-Spendguard-Cap-Hit": "true", "X-Keybrake-Cap-Hit": "true"}
    error: SpendDenied = _both(type(denied), natural)(denied.reason, denied.message, denied.facts)
    stripe.StripeError.__init__(
        error,  # type: ignore[arg-type]  # it is both
        message=denied.message,
        http_status=denied.denial_status,
        json_body={"error": {"type": kind, "code": code, "message": denied.message}},
        headers=cast("dict[str, str]", CaseInsensitiveDict(headers)),
        code=code,
    )
    return error


def outcome_unknown(unknown: OutcomeUnknown) -> Exception:
    """Return the error as an exception that is also the SDK's natural one."""
    error: Any = _both(OutcomeUnknown, stripe.APIConnectionError)(str(unknown), unknown.call_id)
    stripe.APIConnectionError.__init__(error, str(unknown), should_retry=False)
    return error  # type: ignore[no-any-return]  # made by type()
