"""`Destination`: where a request's connection leads, and through which proxy of the environment's."""

from __future__ import annotations

import base64
from typing import NamedTuple
from urllib.parse import SplitResult, unquote, urlsplit

from requests.utils import get_environ_proxies, select_proxy

from luigi_spendguard.http import certificates
from luigi_spendguard.http.scheduler_address import UNIX
from luigi_spendguard.redaction import Secret
from luigi_spendguard.settings.values import is_loopback

_PORTS = {"http": 80, "https": 443}


class NoAddress(ValueError):
    """A URL or a proxy that cannot be used; the text has nothing of what is secret in it."""


class Proxy(NamedTuple):
    """A proxy that is asked to CONNECT; `authorization` is the header's value, "" for none."""

    host: str
    port: int
    tls: bool
    authorization: str = ""


class Destination(NamedTuple):
    """A scheme, host and port, and the way there; `bundle`: the certificates to trust, as `certificates`'.

    A `host` that is a path is a Unix socket.
    """

    host: str
    port: int
    tls: bool
    proxy: Proxy | None
    bundle: str | None

    @property
    def authority(self) -> str:
        """Host and port as the Host header has them."""
        if self.host.startswith("/"):
            return "localhost"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS["https" if self.tls else "http"] else f"{host}:{self.port}"


def destination(url: str, *, straight: bool = False, proxy: str = "") -> Destination:
    """Return where `url` leads: by `proxy` (a URL), else, unless `straight`, by the environment's.

    This machine is never reached through a proxy, and no plain http is: it is this machine's, or luigid's.
    Raises NoAddress.
    """
    parts = urlsplit(url)
    if parts.scheme == UNIX and (path := unquote(parts.netloc)).startswith("/"):
        return Destination(path, 0, False, None, None)
    if parts.scheme not in _PORTS or not parts.hostname:
        raise NoAddress("no http URL")
    tls = parts.scheme == "https"
    through = None
    if tls and not straight and not is_loopback(parts.hostname):
        through = _proxy(proxy or select_proxy(url, get_environ_proxies(url)) or "")
    return Destination(
        _ascii(parts.hostname), _port(parts), tls, through, certificates.bundle() if tls else None
    )


def _port(parts: SplitResult) -> int:
    try:
        port = parts.port
    except ValueError:  # Its text has what stands there, perhaps a part of a password.
        raise NoAddress("an address has a port that is no number") from None
    return _PORTS[parts.scheme] if port is None else port


def _proxy(url: str) -> Proxy | None:
    if not url:
        return None
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
    except ValueError:
        raise NoAddress("the proxy's address cannot be read") from None
    if parts.scheme not in _PORTS or not parts.hostname:
        raise NoAddress(f"a proxy of the kind {parts.scheme}:// cannot be used: http:// and https:// can")
    authorization = ""
    if parts.username is not None:
        shown = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        authorization = Secret("Basic " + base64.b64encode(shown.encode()).decode())
    return Proxy(_ascii(parts.hostname), _port(parts), parts.scheme == "https", authorization)


def _ascii(host: str) -> str:
    return host if host.isascii() else host.encode("idna").decode()
