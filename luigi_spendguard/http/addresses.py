"""Where connections lead, to luigid and to vendors, through which proxy, and whom they trust there."""

from __future__ import annotations

import base64
import contextlib
import os
import socket
import ssl
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from urllib.parse import SplitResult, unquote, urlsplit

import certifi
import urllib3
from requests.utils import get_environ_proxies, select_proxy
from urllib3.connection import HTTPConnection
from urllib3.connectionpool import HTTPConnectionPool

from luigi_spendguard import redaction
from luigi_spendguard.protocol import CREDENTIAL
from luigi_spendguard.redaction import Secret
from luigi_spendguard.settings.values import is_loopback

#: The scheme of an address that is a Unix socket's: its path, percent-encoded, stands where the host does.
UNIX = "http+unix"
_WANTED = "it must begin with http:// or https://, or be http+unix:// and a socket's path (/ as %2F)"
#: Read in this order: the first two are those of `requests`, which Luigi's own RPCs use.
CERTIFICATE_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")
_PORTS = {"http": 80, "https": 443}

_contexts: dict[str | None, ssl.SSLContext] = {}


class NoAddress(ValueError):
    """A URL or a proxy that cannot be used; the text has nothing of what is secret in it."""


class Proxy(NamedTuple):
    """A proxy that is asked to CONNECT; `authorization` is the header's value, "" for none."""

    host: str
    port: int
    tls: bool
    authorization: str = ""


class Destination(NamedTuple):
    """A scheme, host and port, and the way there; `bundle`: the certificates to trust, for `tls_context`.

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
        _ascii(parts.hostname), _port(parts), tls, through, certificate_bundle() if tls else None
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


def shown_in_clear(gateway_url: str, home: str) -> bool:
    """Return whether a gateway is reached in clear over a network, while luigid, at `home`, is not."""
    parts = urlsplit(gateway_url)
    return parts.scheme == "http" and not is_loopback(parts.hostname) and not home.startswith("http:")


def certificate_bundle() -> str | None:
    """Return the file (or folder) of certificates that the environment names, None for the usual ones."""
    return next((os.environ[name] for name in CERTIFICATE_VARIABLES if os.environ.get(name)), None)


def pool_arguments() -> dict[str, Any]:
    """Return what a urllib3 pool has to be given to trust them."""
    path = certificate_bundle()
    if path is None:
        return {}
    return {"ca_cert_dir" if os.path.isdir(path) else "ca_certs": path}


def prepare_tls() -> None:
    """Make the context that this process's calls need; its children are forked with it."""
    with contextlib.suppress(OSError):  # The call says so, if one is made.
        tls_context(certificate_bundle())


def tls_context(bundle: str | None) -> ssl.SSLContext:
    """Return the TLS context that trusts what is in `bundle`; None: this machine's own and certifi's.

    Made once in a process, since it takes as long as several calls; a forked child has its parent's. Raises
    OSError for a file that cannot be read.
    """
    if bundle not in _contexts:
        if bundle is None:
            made = ssl.create_default_context()
            made.load_verify_locations(certifi.where())
        else:
            folder = os.path.isdir(bundle)
            made = ssl.create_default_context(
                cafile=None if folder else bundle, capath=bundle if folder else None
            )
        made.set_alpn_protocols(["http/1.1"])
        _contexts[bundle] = made
    return _contexts[bundle]


@dataclass(frozen=True)
class SchedulerAddress:
    """How luigid is reached, as `[core] default_scheduler_url` says it.

    Attributes:
        url: it without user and password, and without a slash at its end.
        authorization: the `Authorization` header for the proxy that asks for these, "" for none.
        base: what requests by `pool` begin with.

    """

    url: str
    base: str
    authorization: str = field(default="", repr=False)
    _socket: str = ""

    @classmethod
    def of(cls, url: str) -> SchedulerAddress:
        """Take `url` apart. Raises ValueError, which says what is wrong without what is secret."""
        try:
            parts = urlsplit(url.strip())
            port = parts.port if parts.scheme != UNIX else None
        except ValueError:
            raise ValueError(
                f"the scheduler's address cannot be read (is its port a number?): {_WANTED}"
            ) from None
        userinfo, _, host = parts.netloc.rpartition("@")
        if parts.scheme not in ("http", "https", UNIX) or not host or (port is None and not parts.hostname):
            raise ValueError(
                f"the scheduler's address {parts.scheme[:20]}://… is not supported by luigi_spendguard: "
                + _WANTED
            )
        path = parts.path.rstrip("/")
        plain = f"{parts.scheme}://{host}{path}"
        if parts.scheme == UNIX:
            return cls(plain, f"http://localhost{path}", _basic(userinfo), unquote(host))
        return cls(plain, plain, _basic(userinfo))

    def credentials(self, token: str | None) -> dict[str, str]:
        """Return the headers that show a token or vault key, and the proxy's user and password."""
        shown = {"Authorization": self.authorization} if self.authorization else {}
        if token:
            name, value = (CREDENTIAL, token) if self.authorization else ("Authorization", f"Bearer {token}")
            shown[name] = Secret(value)  # Of tracebacks with local variables.
        return shown

    def pool(self, **arguments: Any) -> urllib3.PoolManager:
        """Return connections that lead here; to be asked for what begins with `base`."""
        made = urllib3.PoolManager(**arguments, **pool_arguments())
        if self._socket:
            connection = type("UnixConnection", (_UnixConnection,), {"path": self._socket})
            pool = type("UnixPool", (HTTPConnectionPool,), {"ConnectionCls": connection})
            made.pool_classes_by_scheme = {"http": pool}
        return made


def _basic(userinfo: str) -> str:
    """Return basic authentication as Luigi's own RPCs send it (requests 2.34, `_basic_auth_str`)."""
    if not userinfo:
        return ""
    user, _, password = userinfo.partition(":")
    text = f"{unquote(user)}:{unquote(password)}"
    try:
        encoded = text.encode("latin-1")
    except UnicodeEncodeError:
        encoded = text.encode()
    shown = base64.b64encode(encoded).decode()
    redaction.learn(password, unquote(password), shown)  # Luigi writes its scheduler's address into its log.
    return Secret(f"Basic {shown}")


class _UnixConnection(HTTPConnection):
    path = ""

    def connect(self) -> None:
        """Connect to the socket. Raises OSError."""
        made = socket.socket(socket.AF_UNIX)
        try:
            made.settimeout(self.timeout if isinstance(self.timeout, (int, float)) else None)
            made.connect(self.path)
        except BaseException:
            made.close()
            raise
        self.sock = made
