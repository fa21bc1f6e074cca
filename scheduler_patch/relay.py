"""The gateway's routes, `/<vendor>/…`: a client's request as the guard sees it, and the vendor's reply back.

The whole body is read, within a limit, before anything is sent: no call can be priced by a part of it. The
whole reply is read before any of it is passed on: one that contains the secret is withheld.
"""

from __future__ import annotations

import logging
import re
from http.client import responses
from typing import Any
from urllib.parse import urlsplit

from tornado.httputil import HTTPHeaders
from tornado.web import RequestHandler, stream_request_body

from luigi_spendguard.errors import SpendDenied, denial
from luigi_spendguard.messages import MAX_TEXT, UNANSWERED
from luigi_spendguard.vendors import Reply, Request
from luigi_spendguard.vendors.registry import VENDORS
from scheduler_patch.auth import Refused, check_origin, check_peer
from scheduler_patch.gateway import Gateway, refusal

logger = logging.getLogger(__name__)

#: The largest body that is relayed, in bytes: a form that is priced, and an upload (Stripe's files have at
#: most 16 MB).
MAX_FORM = 1 << 20
MAX_BODY = 17 << 20

#: What says who the client is or how it came here; a vendor is told neither.
_STRIPPED = {
    "authorization", "proxy-authorization", "cookie", "x-api-key", "host", "content-length", "connection",
    "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade", "expect", "origin",
    "referer", "accept-encoding", "forwarded", "via", "x-real-ip",
}  # fmt: skip
_STRIPPED_PREFIXES = ("x-forwarded-", "x-spendguard-", "sec-", "proxy-")
_UNFIT = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


@stream_request_body
class Relay(RequestHandler):
    """Relays one call of one vendor."""

    SUPPORTED_METHODS = ("GET", "POST", "DELETE", "PUT", "PATCH", "HEAD", "OPTIONS")

    def initialize(self, gateway: Gateway, name: str) -> None:
        """Take the route's settings: the gateway, and the vendor's name."""
        self._gateway, self._vendor = gateway, VENDORS[name]
        kind = self.request.headers.get("Content-Type", "").lower()
        self._limit = MAX_BODY if kind.startswith("multipart/form-data") else MAX_FORM
        self._parts: list[bytes] = []
        self._size = 0

    def data_received(self, chunk: bytes) -> None:
        """Keep a part of the body; one that is too large is read, so that its client gets an answer."""
        self._size += len(chunk)
        if self._size <= self._limit:
            self._parts.append(chunk)
        else:
            self._parts.clear()

    async def _relay(self) -> None:
        try:
            if self._size > self._limit:
                raise Refused(413, "too_large", f"a body has at most {MAX_FORM} bytes, an upload {MAX_BODY}")
            reply = await self._relayed()
        except SpendDenied as denied:
            reply = self._refused(denied)
        except Refused as refused:
            reply = self._refused(refused)
        self._pass_on(reply)

    get = post = delete = put = patch = head = options = _relay

    async def _relayed(self) -> Reply:
        check_origin(self.request)
        headers = {name.lower(): value for name, value in self.request.headers.items()}
        url = self.request.uri or ""
        request = Request(self.request.method or "", url, headers)
        key = self._vendor.credential(request)
        check_peer(self.request, key, self._gateway.office)
        if not key:
            raise denial("unknown_key", "a vault key is missing: send it where the vendor's own key goes")
        if self._gateway.draining:
            raise denial("ledger_unavailable", "this gateway is ending and takes no new calls")
        if len(url) > MAX_TEXT:
            raise denial("endpoint", f"a URL has at most {MAX_TEXT} characters")
        rest = url[len(self._vendor.name) + 1 :]
        sent = {
            name: value for name, value in headers.items()
            if name not in _STRIPPED and not name.startswith(_STRIPPED_PREFIXES)
        }  # fmt: skip
        request = Request(request.method, self._vendor.url(rest), sent, b"".join(self._parts))
        unanswered = headers.get(UNANSWERED, "")[:MAX_TEXT]
        reply = await self._gateway.relay(self._vendor.name, request, key, unanswered)
        self._count(reply, key)
        return reply

    def _count(self, reply: Reply, key: str) -> None:
        throttle = self._gateway.office.throttle
        if '"reason": "unknown_key"' in reply.headers.get("x-spendguard-denial", "")[:30]:
            throttle.was_wrong(self.request.remote_ip or "")
        else:
            throttle.was_right(key)

    def _refused(self, error: SpendDenied | Refused) -> Reply:
        if isinstance(error, SpendDenied):
            return refusal(self._vendor, error)
        shaped = self._vendor.shape(denial("scope", error.message))
        return Reply(error.status, shaped.headers, shaped.body)

    def _pass_on(self, reply: Reply) -> None:
        self._transforms = []  # The bytes are the vendor's: Luigi's application would compress them.
        self.set_status(reply.status, responses.get(reply.status, "Unknown"))
        self._headers = HTTPHeaders()
        for name, value in reply.headers.items():
            if not _UNFIT.search(value):
                self._headers.add(name.title(), value)
        self.finish(reply.body if reply.status not in (204, 304) and reply.status >= 200 else None)

    def compute_etag(self) -> str | None:
        """Return no tag of our own: what the vendor answered is passed on as it is."""
        return None

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Answer an unexpected error in the vendor's format, without its text."""
        headers: dict[str, str] = {}
        error = denial("ledger_unavailable", "the gateway failed: see its log")
        if status_code < 500:
            error = denial("endpoint", f"this request cannot be relayed ({responses.get(status_code, '?')})")
        if status_code == 405:
            headers["allow"] = ", ".join(self.SUPPORTED_METHODS)
        shaped = self._vendor.shape(error)
        self._pass_on(Reply(status_code, {**shaped.headers, **headers}, shaped.body))

    def _request_summary(self) -> str:
        path = urlsplit(self.request.uri or "").path
        return f"{self.request.method} {path[:200]} ({self.request.remote_ip})"


def relay_routes(gateway: Gateway) -> list[tuple[str, type[Relay], dict[str, Any]]]:
    """Return the routes of all vendors; one without a secret here answers that it has none."""
    return [(rf"/{name}(?:/.*)?", Relay, {"gateway": gateway, "name": name}) for name in VENDORS]
