"""What the transports of httpx and of httpx2 have in common: the two have the same names.

A denial is a response in the vendor's own format, 429 for the cap, with `X-Spendguard-Denial`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from luigi_spendguard.effects import NotSent
from luigi_spendguard.errors import PluginError
from luigi_spendguard.proxy.aside import aside
from luigi_spendguard.proxy.client_options import options_of_transport
from luigi_spendguard.proxy.exchanges import Exchange, exchange, passing
from luigi_spendguard.vendors import Reply, Request


def missing(package: str) -> PluginError:
    """Return the error of a binding whose package is not installed."""
    return PluginError(
        f"luigi_spendguard.proxy.{package} needs {package}, which is not installed: "
        f"pip install 'luigi-spendguard[{package}]'"
    )


class Whole:
    """A reply's body, which the guard has read to its end; its client then knows when it was taken."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def __iter__(self) -> Iterator[bytes]:
        yield self._content

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._content


class Binding:
    """Guards the requests of one `package` (httpx or httpx2); `body`: its class of a `Whole`."""

    def __init__(self, package: Any, body: Callable[[bytes], Any]) -> None:
        self._package, self._body = package, body

    def guarded(self, request: Any) -> Exchange | None:
        """Return how a request is guarded, None for one that passes.

        Raises PluginError for a client of the other package: it could not read the response.
        """
        if not isinstance(request, self._package.Request):
            raise PluginError(
                f"this transport is for clients of {self._package.__name__}, and nothing was sent; "
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
        return self._package.Request(
            request.method, request.url, headers=shown, stream=request.stream, extensions=request.extensions
        )

    async def response_aside(self, guarded: Exchange, request: Any, inner: Any) -> Any:
        """Return `response`'s from a thread. Raises what that does, and PluginError outside asyncio."""
        if guarded.attempt is None:  # Denied already.
            return self.response(guarded, request, inner)
        return await aside(guarded.attempt.claim_id, lambda: self.response(guarded, request, inner))

    def response(self, guarded: Exchange, request: Any, inner: Any) -> Any:
        """Send the task's request, which has been read, and return the response.

        The request stays as it is: the secret is put on a copy. Raises the package's ConnectError when
        nothing was sent, and its ReadError or ReadTimeout when no reply came.
        """
        headers = {name.lower(): value for name, value in request.headers.items()}
        asked = Request(request.method.upper(), str(request.url), headers, request.content)
        try:
            reply = guarded.reply(asked, options_of_transport(inner, asked.url))
        except NotSent as error:
            raise self._package.ConnectError(f"nothing was sent: {error}", request=request) from error
        except OSError as error:
            timed_out = isinstance(error, TimeoutError)
            kind = self._package.ReadTimeout if timed_out else self._package.ReadError
            raise kind(_NO_REPLY.format(type(error).__name__), request=request) from error
        return self._as_response(reply)

    def _as_response(self, reply: Reply) -> Any:
        headers = [
            (name.encode("latin-1"), value.encode("latin-1", "replace"))  # A text would have to be ASCII.
            for name, value in {**reply.headers, "content-length": str(len(reply.body))}.items()
        ]
        more = {"http_version": b"HTTP/1.1"}
        return self._package.Response(
            reply.status, headers=headers, stream=self._body(reply.body), extensions=more
        )


_NO_REPLY = "no reply ({}): the call may have been executed, and is in doubt unless it only reads"
