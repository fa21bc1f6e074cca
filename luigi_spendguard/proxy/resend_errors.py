"""Our errors as the Resend SDK's own: each is caught by both names.

The SDK makes every exception of an HTTP client a `ResendError(500, "HttpClientError")` (resend-python 2.52,
`request.py`, `async_request.py`): what that hides of ours is brought out again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from requests.structures import CaseInsensitiveDict
from resend.exceptions import InvalidApiKeyError, RateLimitError, ResendError, ValidationError

from luigi_spendguard.effects import NotSent
from luigi_spendguard.errors import OutcomeUnknown, SpendDenied, SpendguardError, bare
from luigi_spendguard.proxy.natural import also
from luigi_spendguard.vendors.resend import VENDOR

_NATURAL: Mapping[str, type[ResendError]] = {
    "cap": RateLimitError,
    "revoked": InvalidApiKeyError,
    "expired": InvalidApiKeyError,
    "unknown_key": InvalidApiKeyError,
    "idempotency_mismatch": ValidationError,
}


def as_resend_error(error: SpendDenied | OutcomeUnknown) -> Exception:
    """Return a denial, or an unknown outcome, as an exception that is also the SDK's natural error."""
    if isinstance(error, ResendError):
        return error
    shaped = VENDOR.shape(error)
    body = json.loads(shaped.body)
    if isinstance(error, SpendDenied):
        natural = _NATURAL.get(error.reason, ResendError)
        advice = "Do not send it again: the message says what has to be changed first."
    else:
        natural = ResendError
        advice = "Resolve the call (`spendguard resolve`) once it is known whether it was executed."
    ours: ResendError = also(error, natural, "Resend")
    # Not `natural.__init__`: its advice is to wait, or to make another key.
    ResendError.__init__(
        ours,
        code=shaped.status,
        error_type=body["name"],
        message=body["message"],
        suggested_action=advice,
        headers=_headers(shaped.headers),
    )
    return ours


def _headers(headers: Mapping[str, str]) -> Any:
    return CaseInsensitiveDict(headers)


def brought_out(error: Exception) -> Exception:
    """Return what the SDK hides of ours in a `ResendError`, else the error itself.

    Without the frames that it went through, which hold the request's headers.
    """
    hidden = error.__context__ if isinstance(error, ResendError) else error
    if isinstance(hidden, (SpendDenied, OutcomeUnknown)):
        return bare(as_resend_error(hidden))
    if isinstance(hidden, SpendguardError) and not isinstance(hidden, NotSent):
        return bare(hidden)
    return bare(error) if isinstance(error, ResendError) else error
