"""What the Twilio SDK sends a vendor task's call with: reserved first, here or by the gateway; sent once.

A request is made by `requests`, as the SDK's own client makes it (twilio-python 9.13, `http/http_client.py`):
so both encode parameters alike. A denial is a `TwilioRestException` with the status, code and details that a
gateway's denial would have; a broken exchange is what the SDK's own client raises: an error of `requests`, of
aiohttp when asynchronous (`http/async_http_client.py`). Imported with the SDK only.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import requests
from requests.structures import CaseInsensitiveDict
from twilio.base.exceptions import TwilioRestException
from twilio.http import AsyncHttpClient, HttpClient
from twilio.http.response import Response

from luigi_spendguard.errors import GatewayUnreachable, OutcomeUnknown, SpendDenied, SpendguardError, bare
from luigi_spendguard.guard.effects import Call, NotSent
from luigi_spendguard.proxy.aio import in_thread
from luigi_spendguard.proxy.attempts import Attempt
from luigi_spendguard.proxy.call import send
from luigi_spendguard.proxy.sdk_clients import PLAIN, ClientOptions, also, not_answered, not_sent, prepared
from luigi_spendguard.vendors import Reply, Request
from luigi_spendguard.vendors.twilio import VENDOR

_logger = logging.getLogger(__name__)

#: Bodies of these types are JSON; any other is a form (twilio-python 9.13, `http/http_client.py`).
_JSON = ("application/json", "application/scim+json")


def as_twilio_error(
    error: SpendDenied | OutcomeUnknown, method: str, url: str, *, asynchronous: bool = False
) -> Exception:
    """Return a denial, or an unknown outcome, as an exception that is also a `TwilioRestException`."""
    if isinstance(error, TwilioRestException):
        return error
    shaped = VENDOR.shape(error)
    body = json.loads(shaped.body)
    natural: type[TwilioRestException] = _ShownError
    if isinstance(error, GatewayUnreachable):
        natural = _LostAsyncConnection if asynchronous else _LostConnection
    ours: TwilioRestException = also(error, natural, "Twilio")
    TwilioRestException.__init__(
        ours,
        status=shaped.status,
        uri=urlsplit(url).path,
        msg=body["message"],
        code=body["code"],
        method=method.upper(),
        details=body.get("details"),
    )
    return ours


class _ShownError(TwilioRestException):
    """Says what it has to say on a terminal, too: the SDK's own adds a link to Twilio's list of errors."""

    def __str__(self) -> str:
        return str(self.msg)


class _LostConnection(_ShownError, requests.ConnectionError):
    """A gateway that cannot be reached."""


class _LostAsyncConnection(_ShownError, aiohttp.ClientConnectionError):
    """The same of an asynchronous client."""


def _synchronous(text: str, error: Exception) -> Exception:
    timed_out = isinstance(error, TimeoutError)
    return requests.ReadTimeout(text) if timed_out else requests.ConnectionError(text)


def _asynchronous(text: str, error: Exception) -> Exception:
    if isinstance(error, TimeoutError):
        return aiohttp.ServerTimeoutError(text)
    return aiohttp.ClientConnectionError(text)


def without_frames(error: Exception) -> Exception:
    """Return what a call has raised; what is known to be raised without its frames: they hold the token."""
    known = isinstance(error, (SpendguardError, requests.RequestException, aiohttp.ClientError))
    return bare(error) if known else error


@contextmanager
def as_the_sdks_errors(method: str, url: str, *, asynchronous: bool) -> Iterator[None]:
    """Turn what a call raises in the block into what the SDK's user understands."""
    natural = _asynchronous if asynchronous else _synchronous
    try:
        yield
    except (SpendDenied, OutcomeUnknown) as error:
        raise as_twilio_error(error, method, url, asynchronous=asynchronous) from None
    except NotSent as error:
        raise natural(not_sent("Twilio", error), error) from error
    except OSError as error:
        raise natural(not_answered("Twilio", error), error) from error


def request_of(
    method: str, url: str, params: Any = None, data: Any = None, headers: Any = None, auth: Any = None
) -> Request:
    """Return the request that the SDK's own client would send for its arguments.

    Raises what `requests` raises for what cannot be sent.
    """
    kind = next((value for name, value in (headers or {}).items() if name.lower() == "content-type"), "")
    body = {"json": data} if kind in _JSON else {"data": data}
    return prepared(method, url, headers, params=params, auth=auth, **body)


def response_of(reply: Reply) -> Response:
    """Return a reply as the SDK knows it."""
    made = requests.Response()
    made.headers = CaseInsensitiveDict(reply.headers)
    made.encoding = requests.utils.get_encoding_from_headers(made.headers) or "utf-8"
    made._content = reply.body
    return Response(reply.status, made.text, made.headers)


class GuardedTwilioClient(HttpClient):
    """The HTTP client of one logical call: the vendor's time-out, no redirects.

    Raises SpendDenied or OutcomeUnknown that are the SDK's errors too, and what its own client raises.
    """

    def __init__(self, attempt: Attempt, options: ClientOptions = PLAIN) -> None:
        super().__init__(_logger, is_async=False)
        self._attempt, self._options = attempt, options

    def request(
        self,
        method: str,
        uri: str,
        params: Any = None,
        data: Any = None,
        headers: Any = None,
        auth: Any = None,
        timeout: Any = None,
        allow_redirects: Any = None,
    ) -> Response:
        with as_the_sdks_errors(method, uri, asynchronous=False):
            request = request_of(method, uri, params, data, headers, auth)
            return response_of(send(VENDOR, request, Call(), self._attempt, options=self._options))


class GuardedAsyncTwilioClient(AsyncHttpClient):
    """The same for asynchronous calls, which live in threads.

    As asynchronous as `own` is: the SDK refuses asynchronous calls of a client that is not.
    """

    def __init__(self, attempt: Attempt, own: HttpClient, options: ClientOptions = PLAIN) -> None:
        super().__init__(_logger, is_async=bool(getattr(own, "is_async", False)))
        self._attempt, self._options = attempt, options

    async def request(  # type: ignore[override]  # as the SDK's own
        self,
        method: str,
        uri: str,
        params: Any = None,
        data: Any = None,
        headers: Any = None,
        auth: Any = None,
        timeout: Any = None,
        allow_redirects: bool = False,
    ) -> Response:
        with as_the_sdks_errors(method, uri, asynchronous=True):
            request = request_of(method, uri, params, data, headers, auth)
            sending = partial(send, VENDOR, request, Call(), self._attempt, options=self._options)
            return response_of(await in_thread(self._attempt.claim_id, sending))
