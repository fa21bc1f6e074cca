"""What the Twilio SDK sends a vendor task's call with: reserved first, here or by the gateway; sent once.

A request is made by `requests`, as the SDK's own client makes it (twilio-python 9.13, `http/http_client.py`):
so both encode parameters alike.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

import requests
from requests.structures import CaseInsensitiveDict
from twilio.http import AsyncHttpClient, HttpClient
from twilio.http.response import Response

from luigi_spendguard.effects import Call
from luigi_spendguard.proxy.aside import aside
from luigi_spendguard.proxy.client_options import PLAIN, ClientOptions
from luigi_spendguard.proxy.context import Attempt
from luigi_spendguard.proxy.sending import send
from luigi_spendguard.proxy.twilio_errors import as_the_sdks_errors, without_frames
from luigi_spendguard.vendors import Reply, Request
from luigi_spendguard.vendors.twilio import VENDOR

__all__ = ["GuardedAsyncHttpClient", "GuardedHttpClient", "request_of", "response_of", "without_frames"]

#: Bodies of these types are JSON; any other is a form (twilio-python 9.13, `http/http_client.py`).
_JSON = ("application/json", "application/scim+json")


_logger = logging.getLogger(__name__)


def request_of(
    method: str, url: str, params: Any = None, data: Any = None, headers: Any = None, auth: Any = None
) -> Request:
    """Return the request that the SDK's own client would send for its arguments.

    Raises what `requests` raises for what cannot be sent.
    """
    kind = next((value for name, value in (headers or {}).items() if name.lower() == "content-type"), "")
    body = {"json": data} if kind in _JSON else {"data": data}
    made = requests.Request(method.upper(), url, params=params, headers=headers, auth=auth, **body).prepare()
    content = made.body or b""
    if isinstance(content, str):
        content = content.encode()
    lowered = {name.lower(): value for name, value in made.headers.items() if name != "Content-Length"}
    return Request(made.method or "", made.url or "", lowered, content)


def response_of(reply: Reply) -> Response:
    """Return a reply as the SDK knows it."""
    made = requests.Response()
    made.headers = CaseInsensitiveDict(reply.headers)
    made.encoding = requests.utils.get_encoding_from_headers(made.headers) or "utf-8"
    made._content = reply.body
    return Response(reply.status, made.text, made.headers)


class GuardedHttpClient(HttpClient):
    """The HTTP client of one logical call: the vendor's time-out, no redirects.

    Raises SpendDenied or OutcomeUnknown that are the SDK's errors too, and what its own client raises.
    """

    def __init__(self, attempt: Attempt, options: ClientOptions = PLAIN) -> None:
        super().__init__(_logger, is_async=False)
        self._attempt, self._options = attempt, options

    def request(self, method: str, uri: str, params: Any = None, data: Any = None, headers: Any = None,
                auth: Any = None, timeout: Any = None, allow_redirects: Any = None) -> Response:  # fmt: skip
        """Send once under a reservation."""
        with as_the_sdks_errors(method, uri, asynchronous=False):
            request = request_of(method, uri, params, data, headers, auth)
            return response_of(send(VENDOR, request, Call(), self._attempt, options=self._options))


class GuardedAsyncHttpClient(AsyncHttpClient):
    """The same for asynchronous calls, which live in threads.

    As asynchronous as `own` is: the SDK refuses asynchronous calls of a client that is not.
    """

    def __init__(self, attempt: Attempt, own: HttpClient, options: ClientOptions = PLAIN) -> None:
        super().__init__(_logger, is_async=bool(getattr(own, "is_async", False)))
        self._attempt, self._options = attempt, options

    async def request(  # type: ignore[override]  # as the SDK's own
        self, method: str, uri: str, params: Any = None, data: Any = None, headers: Any = None,
        auth: Any = None, timeout: Any = None, allow_redirects: bool = False) -> Response:  # fmt: skip
        """Send once under a reservation, in a thread."""
        with as_the_sdks_errors(method, uri, asynchronous=True):
            request = request_of(method, uri, params, data, headers, auth)
            sending = partial(send, VENDOR, request, Call(), self._attempt, options=self._options)
            return response_of(await aside(self._attempt.claim_id, sending))
