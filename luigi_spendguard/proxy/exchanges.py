"""One exchange of a general HTTP client: whose call it is, and the vendor's reply or a denial in its shape.

A denial is answered, not raised: SDKs that are built on such clients take an exception they do not know for
a lost connection and send the call again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import SplitResult, urlsplit, urlunsplit

from luigi_spendguard.effects import Call, NotSent
from luigi_spendguard.errors import GatewayUnreachable, OutcomeUnknown, SpendDenied
from luigi_spendguard.proxy import context, programs
from luigi_spendguard.proxy.client_options import PLAIN, ClientOptions
from luigi_spendguard.proxy.context import Attempt
from luigi_spendguard.proxy.sending import attempt_for, revealed, send, vendor_of
from luigi_spendguard.refusals import refusal
from luigi_spendguard.vendors import Reply, Request, Vendor

_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class Exchange:
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
            found = send(self.vendor, plain, Call(), self.attempt, options=options)
        except GatewayUnreachable as error:
            raise NotSent(str(error)) from error
        except (SpendDenied, OutcomeUnknown) as error:
            return refusal(self.vendor, error)
        # A session of the vendor's is nobody's here: no call is sent with a cookie either.
        kept = {name: value for name, value in found.headers.items() if name != "set-cookie"}
        return Reply(found.status, kept, found.body)


def exchange(method: str, url: str, headers: Mapping[str, str]) -> Exchange | None:
    """Return how a call is guarded; None for one that passes as its client made it.

    That is a call to no vendor's host, and outside vendor tasks one that may pass there.
    """
    programs.enter()
    plain = _plain(url)
    vendor = _vendor(plain)
    if vendor is None:
        return None
    try:
        attempt = attempt_for(vendor, method, plain, headers)
    except SpendDenied as denied:
        return Exchange(vendor, None, denied)
    return None if attempt is None else Exchange(vendor, attempt)


def passing(url: str, headers: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the headers of a call that passes, as `sending.revealed`: the same ones to nobody's we know."""
    plain = _plain(url)
    vendor = _vendor(plain)
    return headers if vendor is None else revealed(vendor, plain, headers)


def _vendor(url: str) -> Vendor | None:
    """Return whose call this is: by the host alone, so that a wrong scheme or port is denied, not sent."""
    parts = urlsplit(url)
    as_usual = urlunsplit(("https", parts.hostname or "", parts.path, parts.query, ""))
    try:
        attempt = context.current()
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
