"""A client's request as the guard sees it, and the vendor's reply back, for those who relay calls.

The whole body is read, within a limit, before anything is sent: no call can be priced by a part of it. The
whole reply is read before any of it is passed on: one that contains the secret is withheld. What a foreign
web page makes a browser on this machine send is refused.
"""

from __future__ import annotations

import contextlib
import ipaddress
import re
import threading
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from http.client import responses
from typing import Any
from urllib.parse import urlsplit

from tornado.httputil import HTTPHeaders, HTTPInputError, HTTPServerRequest

from luigi_spendguard.errors import OutcomeUnknown, SpendDenied, denial
from luigi_spendguard.guard.denials import refusal
from luigi_spendguard.guard.effects import Call, new_call_id
from luigi_spendguard.http.receiving import Receiving, has_ended
from luigi_spendguard.protocol import (
    CREDENTIAL,
    FORWARDED,
    KEY_PREFIX,
    MAX_UNANSWERED,
    NOT_TAKEN,
    PROCESS,
    TOO_MANY_LOST,
    TOO_MANY_UNANSWERED,
    TRY,
    UNANSWERED,
)
from luigi_spendguard.protocol.messages import MAX_TEXT
from luigi_spendguard.redaction import hide
from luigi_spendguard.vendors import Reply, Request, Vendor
from luigi_spendguard.vendors.bodies import split_address
from luigi_spendguard.vendors.model import bearer

#: The largest body that is relayed, in bytes: of a form, which is priced, and of an upload (Stripe's files
#: have at most 16 MB).
MAX_FORM = 1 << 20
MAX_UPLOAD = 17 << 20
_TOO_LARGE = f"a body has at most {MAX_FORM} bytes, an upload {MAX_UPLOAD}"
#: What no header may have in it.
_UNFIT = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_PROCESS = re.compile(r"[0-9a-f]{8}")
_TRY = re.compile(r"[0-9]{1,18}", re.ASCII)


class Refused(Exception):
    """The request is not allowed; `status` and `message` say why."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


def check_origin(request: HTTPServerRequest) -> None:
    """Refuse what a foreign web page makes a browser send. Raises Refused."""
    origin = request.headers.get("Origin")
    if origin is None or request.method == "GET":
        return
    try:
        same = urlsplit(origin).netloc.lower() == request.host.lower()
    except ValueError:
        same = False
    if not same:
        raise Refused(403, "forbidden", "requests from other web pages are refused")


def check_host(
    request: HTTPServerRequest, names: Callable[[], Collection[str]] = tuple, instead: str = ""
) -> None:
    """Refuse a name that its owner may have pointed at this machine, so that his page shares our origin.

    An IP address is no such name: what is served from it cannot be moved here. `names` returns this machine's
    own besides localhost; `instead` is what else could be done, for the message. Raises Refused.
    """
    name = host_of(f"//{request.host}")
    if name == "localhost" or name.endswith(".localhost"):
        return
    try:
        ipaddress.ip_address(name)
    except ValueError:
        if name and name in names():
            return
        raise Refused(
            403,
            "forbidden",
            f"{name[:60]!r} is no name of this machine: send the request to localhost{instead}",
        ) from None


def host_of(url: str) -> str:
    """Return a URL's host in lower case, "" where it has none."""
    try:
        return (urlsplit(url).hostname or "").lower()
    except ValueError:
        return ""


@dataclass(frozen=True)
class ClientCall:
    """What a client asks for, as the guard is to see it.

    Attributes:
        request: has the vendor's own URL and none of the client's credentials.
        unanswered: as `ReserveRequest`'s.
        process: the client's, as `process_of` names it, "" where it does not say.
        number: which try it is, as `ReserveRequest`'s; 0 where it does not say.
        refuse: as the guard's.
        is_gone: whether the client has gone: the call is not made then, when it is its turn.

    """

    vendor: Vendor
    request: Request
    unanswered: str = ""
    refuse: SpendDenied | None = None
    process: str = ""
    number: int = 0
    is_gone: Callable[[], bool] = lambda: False


class UnderWay:
    """The calls that clients have under way; safe under threads.

    Who makes a call again says under which keys it was not answered: one that still waits here is not made
    any more. (Of one that comes only now, here or elsewhere, the ledger knows that it was given up.)
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: dict[tuple[str, str], list[Call]] = {}

    @contextlib.contextmanager
    def made(self, who: str, asked: ClientCall) -> Iterator[Call]:
        """Have a call of `who` under way in the block; those that it makes again are given up."""
        own_id = new_call_id(asked.process or uuid.uuid4().hex[:8])
        call = Call(own_id, unanswered=asked.unanswered, number=asked.number)
        own = who, asked.request.headers.get("idempotency-key", "")
        with self._lock:
            for key in asked.unanswered.split():
                for earlier in self._calls.get((who, key), ()):
                    earlier.given_up = True
            self._calls.setdefault(own, []).append(call)
        try:
            yield call
        finally:
            with self._lock:
                self._calls[own] = [one for one in self._calls[own] if one is not call]
                if not self._calls[own]:
                    del self._calls[own]


class Relaying(Receiving):
    """Relays one call; a subclass sets `vendor` before the body comes, and says in `relayed` how."""

    #: Headers that every answer has besides.
    marks: Mapping[str, str] = {}
    #: Whether the call was handed on, and may have been sent.
    begun = False
    #: Whether the connection to the client is closed.
    closed = False
    #: Whether the answer is that to a call, or a denial of one.
    _is_taken = True
    _named: dict[str, str] | None = None
    SUPPORTED_METHODS = ("GET", "POST", "DELETE", "PUT", "PATCH", "HEAD", "OPTIONS")
    vendor: Vendor

    def initialize(self, **settings: Any) -> None:
        super().initialize()
        kind = self.request.headers.get("Content-Type", "").lower()
        self.limit = MAX_UPLOAD if kind.startswith("multipart/form-data") else MAX_FORM

    async def _relay(self) -> None:
        if self.refusal is not None:
            self.end_refused(self.refusal)
            return
        try:
            reply = await self.relayed()
        except (SpendDenied, Refused) as error:
            reply = self.refused(error)
        if self.size > self.limit:
            reply = self.refused(Refused(413, "too_large", _TOO_LARGE))
        self.pass_on(reply)

    get = post = delete = put = patch = head = options = _relay

    def refuse(self, error: Exception) -> None:
        """Answer a denial in the vendor's format; raise what is none."""
        if not isinstance(error, (SpendDenied, Refused)):
            raise error
        self.pass_on(self.refused(error))

    async def relayed(self) -> Reply:
        """Return the vendor's reply, or a denial. Raises SpendDenied, Refused."""
        raise NotImplementedError  # A route's own: tornado's handlers are no abstract classes.

    def asked(self) -> Request:
        """Return the request as it came; `url` is path and query, header names are in lower case."""
        if self._named is None:
            self._named = {name.lower(): value for name, value in self.request.headers.items()}
        return Request(self.request.method or "", self.request.uri or "", self._named, self.body)

    def shown_key(self, asked: Request) -> str:
        """Return the vault key that a request shows: in our header, as a bearer token, or where the vendor's
        own key goes.
        """
        if token := asked.headers.get(CREDENTIAL, "").strip():
            return token
        token = bearer(asked)
        return token if token.startswith(KEY_PREFIX) else self.vendor.credential(asked)

    def begin(self, asked: Request, rest: str) -> ClientCall:
        """Return the call that is handed on now, of a request to `rest` at the vendor.

        A client that had ended its own side before may still wait for its answer.
        """
        url, refuse = "/" + rest.lstrip("/"), None
        try:
            split_address(rest)
            url = self.vendor.url(rest)
            if len(asked.url) > MAX_TEXT:
                raise denial("endpoint", f"a URL has at most {MAX_TEXT} characters")
            if self.size > self.limit:
                raise denial("endpoint", _TOO_LARGE)
        except SpendDenied as denied:
            refuse = denied
        keys = asked.headers.get(UNANSWERED, "")
        if keys == TOO_MANY_UNANSWERED or len(keys) > MAX_UNANSWERED:
            keys, refuse = "", refuse or denial("in_doubt", TOO_MANY_LOST)
        request = Request(asked.method, url, self.vendor.asked(asked, "idempotency-key"), asked.body)
        self.begun, before = True, has_ended(self.request)
        return ClientCall(
            self.vendor,
            request,
            keys,
            refuse,
            asked.headers.get(PROCESS, "") if _PROCESS.fullmatch(asked.headers.get(PROCESS, "")) else "",
            int(asked.headers[TRY]) if _TRY.fullmatch(asked.headers.get(TRY, "")) else 0,
            is_gone=lambda: self.closed or (has_ended(self.request) and not before),
        )

    def on_connection_close(self) -> None:
        """Take note that the client has gone; a call that is under way is lived to its end."""
        self.closed = True
        super().on_connection_close()

    def relinked(self, reply: Reply, asked: Request, prefix: str) -> Reply:
        """Return a reply whose links to further pages lead here, to `prefix`; not for a guarded worker."""
        if FORWARDED in asked.headers:
            return reply
        return self.vendor.relinked(reply, f"{self.request.protocol}://{self.request.host}{prefix}")

    def refused(self, error: SpendDenied | Refused) -> Reply:
        """Return a refusal in the vendor's format."""
        if isinstance(error, SpendDenied):
            return refusal(self.vendor, error)
        self._is_taken = False
        shaped = self.vendor.shape(denial("scope", hide(error.message)))
        return Reply(error.status, shaped.headers, shaped.body)

    def pass_on(self, reply: Reply) -> Any:
        """Answer with a reply, unchanged; return the future of its last byte."""
        self._transforms = []  # The bytes are the vendor's: Luigi's application would compress them.
        self.set_status(reply.status, responses.get(reply.status, "Unknown"))
        self._headers = HTTPHeaders({"Connection": "close"} if self.closing else {})
        marks = self.marks if self._is_taken else dict.fromkeys(self.marks, NOT_TAKEN)
        for name, value in {**reply.headers, **marks}.items():
            with contextlib.suppress(ValueError, HTTPInputError):  # What cannot be written is left out.
                value.encode()
                if not _UNFIT.search(value):
                    self._headers.add(name.title(), value)
        return self.finish(reply.body if reply.status not in (204, 304) and reply.status >= 200 else None)

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
        if status_code >= 500 and self.begun:
            unknown = (
                "the gateway failed, and the call may have been sent: see its log and `spendguard calls`"
            )
            self.pass_on(refusal(self.vendor, OutcomeUnknown(unknown, "")))
            return
        self._is_taken = False
        shaped = self.vendor.shape(error)
        self.pass_on(Reply(status_code, {**shaped.headers, **headers}, shaped.body))

    def _request_summary(self) -> str:
        path = urlsplit(self.request.uri or "").path
        return f"{self.request.method} {path[:200]} ({self.request.remote_ip})"
