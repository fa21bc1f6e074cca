"""Our errors as the stripe SDK's own: each is caught by both names."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import stripe
from requests.structures import CaseInsensitiveDict

from luigi_spendguard.effects import NotSent
from luigi_spendguard.errors import GatewayUnreachable, OutcomeUnknown, SpendDenied
from luigi_spendguard.proxy.natural import also
from luigi_spendguard.vendors.stripe_denials import shape

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


def as_stripe_error(denied: SpendDenied) -> SpendDenied:
    """Return the denial as an exception that is also the SDK's natural error."""
    if isinstance(denied, stripe.StripeError):
        return denied
    shaped = shape(denied)
    body = json.loads(shaped.body)
    lost = isinstance(denied, GatewayUnreachable)
    natural = stripe.APIConnectionError if lost else _NATURAL[denied.reason]
    error: SpendDenied = also(denied, natural, "Stripe")
    if lost:  # It was tried for long enough.
        error.should_retry = False  # type: ignore[attr-defined]  # set by an `__init__` that is not called
    stripe.StripeError.__init__(
        error,  # type: ignore[arg-type]  # it is both
        message=denied.message,
        http_status=shaped.status,
        json_body=body,
        headers=cast("dict[str, str]", CaseInsensitiveDict(shaped.headers)),
        code=body["error"]["code"],
    )
    return error


def outcome_unknown(unknown: OutcomeUnknown) -> Exception:
    """Return the error as an exception that is also the SDK's natural one."""
    error: Any = also(unknown, stripe.APIConnectionError, "Stripe")
    stripe.APIConnectionError.__init__(error, str(unknown), should_retry=False)
    return error  # type: ignore[no-any-return]  # made by type()


@contextmanager
def as_the_sdks_errors() -> Iterator[None]:
    """Turn what a send raises in the block into what the SDK's retry loop, and its user, understand."""
    try:
        yield
    except SpendDenied as denied:
        raise as_stripe_error(denied) from None
    except OutcomeUnknown as unknown:
        raise outcome_unknown(unknown) from None
    except NotSent as error:
        raise stripe.APIConnectionError(
            f"could not connect to Stripe, nothing was sent: {error}", should_retry=True
        ) from error
    except OSError as error:
        raise stripe.APIConnectionError(
            f"no reply from Stripe ({type(error).__name__}): the call may have been executed and is in doubt "
            "until a retry with the same key says so",
            should_retry=True,
        ) from error
