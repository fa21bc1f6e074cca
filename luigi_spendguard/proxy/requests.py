"""The binding for requests: an adapter whose calls to vendors go through the guard, inside vendor tasks.

    session = requests.Session()
    session.mount("https://", SpendAdapter())

A denial is a response in the vendor's own format, 429 for the cap, with `X-Spendguard-Denial`.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from http.client import responses
from typing import Any

import requests
import urllib3
from requests.adapters import BaseAdapter, HTTPAdapter
from requests.structures import CaseInsensitiveDict

from luigi_spendguard.guard.effects import NotSent
from luigi_spendguard.proxy.http_clients import exchange, passing
from luigi_spendguard.proxy.sdk_clients import ClientOptions, proxy_of, retries_of, sends_again
from luigi_spendguard.vendors import Reply, Request

__all__ = ["SpendAdapter"]


class SpendAdapter(HTTPAdapter):
    """Sends calls to vendors under a reservation, and all others by `inner`, without any secret.

    `inner`: None for what `requests.adapters.HTTPAdapter` does. For vendors' calls `timeout_s` of luigi.cfg
    holds, and the session's time-outs and certificates do not. A proxy of the session's does, and how often
    `inner` makes a lost connection again. Redirects are the session's: each hop is a call of its own.
    """

    __attrs__ = [*HTTPAdapter.__attrs__, "_inner"]

    def __init__(self, inner: BaseAdapter | None = None) -> None:
        super().__init__()
        self._inner = inner

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,
        timeout: Any = None,
        verify: Any = True,
        cert: Any = None,
        proxies: Mapping[str, str] | None = None,
    ) -> requests.Response:
        """Send one request. Raises requests.ConnectionError when nothing was sent or no reply came,
        requests.Timeout when it did not come in time, and what `inner` raises.
        """
        headers = {name.lower(): _text(value) for name, value in request.headers.items()}
        method, url = (request.method or "GET").upper(), request.url or ""
        guarded = exchange(method, url, headers)
        if guarded is None:
            own = self._inner.send if self._inner is not None else super().send
            shown = passing(url, request.headers)
            if shown is not request.headers:  # On a copy: redirects are followed by the request itself.
                request = request.copy()
                request.headers = CaseInsensitiveDict(shown)
            return own(request, stream=stream, timeout=timeout, verify=verify, cert=cert, proxies=proxies)
        asked = Request(method, url, headers, _body(request))
        try:
            reply = guarded.reply(asked, self._options(url, proxies))
        except NotSent as error:
            raise requests.ConnectionError(f"nothing was sent: {error}", request=request) from error
        except OSError as error:
            kind = requests.ReadTimeout if isinstance(error, TimeoutError) else requests.ConnectionError
            raise kind(f"no reply ({type(error).__name__})", request=request) from error
        return self.build_response(request, _raw(reply, method))

    def _options(self, url: str, proxies: Mapping[str, str] | None) -> ClientOptions:
        made = retries_of(self._inner) if self._inner is not None else 0
        if made is None:
            return ClientOptions(refuse=sends_again())
        return ClientOptions(proxy_of([proxies] if proxies else [], url), made)

    def close(self) -> None:
        super().close()
        if self._inner is not None:
            self._inner.close()


def _body(request: requests.PreparedRequest) -> bytes:
    """Read a request's body, once; what could not be read again stays with the request as bytes."""
    body: Any = request.body
    if body is None:
        return b""
    if isinstance(body, str):
        return body.encode("utf-8")
    if isinstance(body, (bytes, bytearray)):
        return bytes(body)
    if hasattr(body, "read"):  # A file: `requests` goes back to its start before it follows a redirect.
        content = body.read()
        return content.encode("utf-8") if isinstance(content, str) else bytes(content)
    parts = [part.encode("utf-8") if isinstance(part, str) else bytes(part) for part in body]
    request.body = b"".join(parts)
    return b"".join(parts)


def _text(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


def _raw(reply: Reply, method: str) -> urllib3.HTTPResponse:
    headers: Mapping[str, str] = {**reply.headers, "content-length": str(len(reply.body))}
    return urllib3.HTTPResponse(
        io.BytesIO(reply.body),
        headers,
        reply.status,
        version=11,
        version_string="HTTP/1.1",
        reason=responses.get(reply.status, ""),
        preload_content=False,
        request_method=method,
    )
