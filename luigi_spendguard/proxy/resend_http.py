"""What the Resend SDK sends a vendor task's call with: reserved first, here or by the gateway; sent once.

A request is made by `requests`, as the SDK's own client makes it (resend-python 2.52,
`http_client_requests.py`), except that a GET or DELETE carries no empty JSON object: some servers refuse it.
Imported with the SDK only.

The SDK makes every exception of an HTTP client a `ResendError(500, "HttpClientError")` (resend-python 2.52,
`request.py`, `async_request.py`): what that hides of ours is brought out again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

from requests.structures import CaseInsensitiveDict
from resend.exceptions import InvalidApiKeyError, RateLimitError, ResendError, ValidationError

from luigi_spendguard.errors import OutcomeUnknown, SpendDenied, SpendguardError, bare
from luigi_spendguard.guard.effects import Call, NotSent
from luigi_spendguard.proxy.aio import in_thread
from luigi_spendguard.proxy.attempts import Attempt
from luigi_spendguard.proxy.call import send
from luigi_spendguard.proxy.client_options import PLAIN, ClientOptions
from luigi_spendguard.proxy.sdk_clients import also, not_answered, not_sent, prepared
from luigi_spendguard.vendors import Request
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
        headers=cast("dict[str, str]", CaseInsensitiveDict(shaped.headers)),
    )
    return ours


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


_Answer = tuple[bytes, int, Mapping[str, str]]


def request_of(
    method: str, url: str, headers: Mapping[str, str], json: Any = None, files: Any = None, data: Any = None
) -> Request:
    """Return the request that the SDK's own client would send for its arguments."""
    verb = method.upper()
    if files is not None or data is not None or (verb in ("GET", "DELETE") and not json):
        json = None
    request = prepared(verb, url, dict(headers), json=json, files=files, data=data)
    if request.headers.get("authorization") != "Bearer None":  # The SDK's text for no key.
        return request
    shown = {name: value for name, value in request.headers.items() if name != "authorization"}
    return replace(request, headers=shown)


class GuardedResendClient:
    """The HTTP client of one logical call, synchronous."""

    def __init__(self, attempt: Attempt, options: ClientOptions = PLAIN) -> None:
        self._attempt, self._options = attempt, options

    def request(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        json: Any = None,
        files: Any = None,
        data: Any = None,
    ) -> _Answer:
        """Send once under a reservation.

        Raises SpendDenied, OutcomeUnknown, and RuntimeError for what the SDK's own client calls a failed
        request: nothing was sent, or the exchange broke.
        """
        return self._answer(request_of(method, url, headers, json, files, data))

    def _answer(self, request: Request) -> _Answer:
        try:
            reply = send(VENDOR, request, Call(), self._attempt, options=self._options)
        except NotSent as error:
            raise RuntimeError(not_sent("Resend", error)) from error
        except OSError as error:
            raise RuntimeError(not_answered("Resend", error)) from error
        return reply.body, reply.status, CaseInsensitiveDict(reply.headers)


class GuardedAsyncResendClient(GuardedResendClient):
    """The same for an asynchronous call, which lives in a thread."""

    async def request(  # type: ignore[override]  # of the SDK's other kind of client
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        json: Any = None,
        files: Any = None,
        data: Any = None,
    ) -> _Answer:
        """Send once under a reservation, in a thread."""
        request = request_of(method, url, headers, json, files, data)
        return await in_thread(self._attempt.claim_id, lambda: self._answer(request))
