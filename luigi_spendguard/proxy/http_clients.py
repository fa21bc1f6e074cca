"""One exchange of a general HTTP client: whose call it is, and the vendor's reply or a denial in its shape.

A denial is answered, not raised: SDKs that are built on such clients take an exception they do not know for
a lost connection and send the call again. It is a response in the vendor's own format, 429 for the cap, with
`X-Spendguard-Denial`.

httpx and httpx2 have the same names, and so one transport, synchronous or not.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Generic, TypeVar
from urllib.parse import SplitResult, urlsplit, urlunsplit

from luigi_spendguard import proxy
from luigi_spendguard.errors import GatewayUnreachable, OutcomeUnknown, PluginError, SpendDenied
from luigi_spendguard.guard.denials import refusal
from luigi_spendguard.guard.effects import Call, NotSent
from luigi_spendguard.proxy import attempts
from luigi_spendguard.proxy.aio import in_thread
from luigi_spendguard.proxy.attempts import Attempt
from luigi_spendguard.proxy.call import attempt_for, revealed, send, vendor_of
from luigi_spendguard.proxy.sdk_clients import PLAIN, ClientOptions, options_of_transport
from luigi_spendguard.vendors import Reply, Request, Vendor

Inner = TypeVar("Inner")

_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class GuardedExchange:
    """A call that is guarded: `vendor`'s, made by `attempt`; or one that was `refused` already."""

    vendor: Vendor
    attempt: Attempt | None
    refused: SpendDenied | None = None

    def reply(self, request: Request, options: ClientOptions = PLAIN) -> Reply:
        """Send one logical call; return the vendor's reply, or a denial in the vendor's format.

        Raises NotSent, or what broke the exchange after the first byte.
        """
        try:
            if self.attempt is None:
                assert self.refused is not None
                raise self.refused
            plain = replace(request, url=_plain(request.url))
            reply = send(self.vendor, plain, Call(), self.attempt, options=options)
        except GatewayUnreachable as error:
            raise NotSent(str(error)) from error
        except (SpendDenied, OutcomeUnknown) as error:
            return refusal(self.vendor, error)
        # A session of the vendor's is nobody's here: no call is sent with a cookie either.
        kept = {name: value for name, value in reply.headers.items() if name != "set-cookie"}
        return Reply(reply.status, kept, reply.body)


def exchange(method: str, url: str, headers: Mapping[str, str]) -> GuardedExchange | None:
    """Return how a call is guarded; None for one that passes as its client made it.

    That is a call to no vendor's host, and outside vendor tasks one that may pass there.
    """
    proxy.join()
    plain = _plain(url)
    vendor = _vendor(plain)
    if vendor is None:
        return None
    try:
        attempt = attempt_for(vendor, method, plain, headers)
    except SpendDenied as denied:
        return GuardedExchange(vendor, None, denied)
    return None if attempt is None else GuardedExchange(vendor, attempt)


def passing(url: str, headers: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the headers of a call that passes, as `call.revealed`: the same ones to nobody's we know."""
    plain = _plain(url)
    vendor = _vendor(plain)
    return headers if vendor is None else revealed(vendor, plain, headers)


def _vendor(url: str) -> Vendor | None:
    """Return whose call this is: by the host alone, so that a wrong scheme or port is denied, not sent."""
    parts = urlsplit(url)
    as_usual = urlunsplit(("https", parts.hostname or "", parts.path, parts.query, ""))
    try:
        attempt = attempts.current()
    except SpendDenied:  # `attempt_for` raises it again where it matters.
        attempt = None
    return vendor_of(url, attempt) or vendor_of(as_usual)


def _plain(url: str) -> str:
    """Return a URL as vendors' addresses are written; credentials in it have become a header already."""
    parts = urlsplit(url)
    host = (parts.hostname or "").rstrip(".")
    if ":" in host:
        host = f"[{host}]"
    port = _port(parts)
    if port is not None and port != _PORTS.get(parts.scheme):
        host = f"{host}:{port}"
    return urlunsplit((parts.scheme, host, parts.path or "/", parts.query, ""))


def _port(parts: SplitResult) -> int | None:
    try:
        return parts.port
    except ValueError:  # No client sends it.
        return None


def missing(package: str) -> PluginError:
    """Return the error of a binding whose package is not installed."""
    return PluginError(
        f"luigi_spendguard.proxy.{package} needs {package}, which is not installed: "
        f"pip install 'luigi-spendguard[{package}]'"
    )


class ReadBody:
    """A reply's body, which the guard has read to its end; its client then knows when it was taken."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def __iter__(self) -> Iterator[bytes]:
        yield self._content

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._content


class Binding:
    """Guards the requests of one `package`, httpx or httpx2."""

    def __init__(self, package: Any) -> None:
        self.package = package
        self._body = type("Body", (ReadBody, package.SyncByteStream, package.AsyncByteStream), {})

    def guarded(self, request: Any) -> GuardedExchange | None:
        """Return how a request is guarded, None for one that passes.

        Raises PluginError for a client of the other package: it could not read the response.
        """
        if not isinstance(request, self.package.Request):
            raise PluginError(
                f"this transport is for clients of {self.package.__name__}, and nothing was sent; "
                "luigi_spendguard.proxy has one for httpx (`httpx`) and one for httpx2 (`httpx2`), on which "
                "openai 3 and anthropic 1 are built"
            )
        return exchange(request.method, str(request.url), request.headers)

    def passing(self, request: Any) -> Any:
        """Return a request that passes, or a copy of it with the secret where a stand-in for it is shown."""
        headers = request.headers
        shown = passing(str(request.url), headers)
        if shown is headers:
            return request
        return self.package.Request(
            request.method, request.url, headers=shown, stream=request.stream, extensions=request.extensions
        )

    def response(self, guarded: GuardedExchange, request: Any, inner: Any) -> Any:
        """Send the task's request, which has been read, and return the response.

        The request stays as it is: the secret is put on a copy. Raises the package's ConnectError when
        nothing was sent, and its ReadError or ReadTimeout when no reply came.
        """
        headers = {name.lower(): value for name, value in request.headers.items()}
        asked = Request(request.method.upper(), str(request.url), headers, request.content)
        try:
            reply = guarded.reply(asked, options_of_transport(inner, asked.url))
        except NotSent as error:
            raise self.package.ConnectError(f"nothing was sent: {error}", request=request) from error
        except OSError as error:
            timed_out = isinstance(error, TimeoutError)
            kind = self.package.ReadTimeout if timed_out else self.package.ReadError
            raise kind(_NO_REPLY.format(type(error).__name__), request=request) from error
        return self._as_response(reply)

    def _as_response(self, reply: Reply) -> Any:
        headers = [
            (name.encode("latin-1"), value.encode("latin-1", "replace"))  # A text would have to be ASCII.
            for name, value in {**reply.headers, "content-length": str(len(reply.body))}.items()
        ]
        more = {"http_version": b"HTTP/1.1"}
        return self.package.Response(
            reply.status, headers=headers, stream=self._body(reply.body), extensions=more
        )


_NO_REPLY = "no reply ({}): the call may have been executed, and is in doubt unless it only reads"


class GuardedTransport(Generic[Inner]):
    """A transport for synchronous clients; a subclass is its package's `BaseTransport`, too."""

    binding: Binding

    def __init__(self, inner: Inner | None = None) -> None:
        self._inner: Any = inner if inner is not None else self.binding.package.HTTPTransport()

    def handle_request(self, request: Any) -> Any:
        """Send one request. Raises the package's ConnectError when nothing was sent, its ReadError or
        ReadTimeout when no reply came, and what `inner` raises.
        """
        guarded = self.binding.guarded(request)
        if guarded is None:
            return self._inner.handle_request(self.binding.passing(request))
        request.read()
        return self.binding.response(guarded, request, self._inner)

    def close(self) -> None:
        """Close `inner`."""
        self._inner.close()


class GuardedAsyncTransport(Generic[Inner]):
    """A transport for asyncio's clients; a subclass is its package's `AsyncBaseTransport`, too."""

    binding: Binding

    def __init__(self, inner: Inner | None = None) -> None:
        self._inner: Any = inner if inner is not None else self.binding.package.AsyncHTTPTransport()

    async def handle_async_request(self, request: Any) -> Any:
        """Send one request. Raises as `GuardedTransport` does, and PluginError outside asyncio."""
        guarded = self.binding.guarded(request)
        if guarded is None:
            return await self._inner.handle_async_request(self.binding.passing(request))
        await request.aread()
        if guarded.attempt is None:  # Denied already.
            return self.binding.response(guarded, request, self._inner)
        sending = partial(self.binding.response, guarded, request, self._inner)
        return await in_thread(guarded.attempt.claim_id, sending)

    async def aclose(self) -> None:
        """Close `inner`."""
        await self._inner.aclose()
