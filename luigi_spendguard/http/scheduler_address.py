"""`SchedulerAddress`: how luigid is reached, as `[core] default_scheduler_url` says it."""

from __future__ import annotations

import base64
import socket
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

import urllib3
from urllib3.connection import HTTPConnection
from urllib3.connectionpool import HTTPConnectionPool

from luigi_spendguard import redaction
from luigi_spendguard.http import certificates
from luigi_spendguard.protocol import CREDENTIAL
from luigi_spendguard.redaction import Secret

#: The scheme of an address that is a Unix socket's: its path, percent-encoded, stands where the host does.
UNIX = "http+unix"
_WANTED = "it must begin with http:// or https://, or be http+unix:// and a socket's path (/ as %2F)"


@dataclass(frozen=True)
class SchedulerAddress:
    """An address, taken apart.

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
        made = urllib3.PoolManager(**arguments, **certificates.pool_arguments())
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
