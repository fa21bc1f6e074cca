"""Sends a request to the vendor and knows for certain whether a byte of it has left.

`requests` with its own connection class: the deadline of the grant is checked after connecting and before
the first byte, and the whole reply has to come within the time-out. No redirects, no netrc, no retries;
proxies and CA bundles from the environment, but no proxy for this machine.
"""

from __future__ import annotations

import io
import os
import threading
import time
from http.client import BadStatusLine, HTTPResponse, parse_headers
from http.cookiejar import DefaultCookiePolicy
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import HTTPError

from luigi_spendguard import certificates
from luigi_spendguard.config_values import is_loopback
from luigi_spendguard.effects import Late, NotSent
from luigi_spendguard.vendors import Reply, Request

#: Time to connect, in seconds; the vendor's `timeout_s` is for its answer.
CONNECT_S = 10.0
#: A longer reply is not read: the call is in doubt.
MAX_REPLY = 32 << 20
#: No proxy of the environment's: None takes its place.
_NO_PROXIES: Any = {"http": None, "https": None, "all": None}


class _Sending(threading.local):
    """What the connection of this thread's send has to know and to say."""

    deadline: float = 0.0
    started: bool = False
    timeout_s: float = 0.0
    #: When the reply has to be here, by `time.monotonic`; before the first byte, a proxy's.
    reply_by: float = 0.0


_sending = _Sending()


class _Timely(io.RawIOBase):
    """Reads a socket as long as the reply may take: a time-out of the socket's is for each read alone."""

    def __init__(self, sock: Any, raw: Any) -> None:
        self._sock, self._raw = sock, raw

    def readinto(self, buffer: Any) -> Any:
        left = _sending.reply_by - time.monotonic()
        if left <= 0:
            raise TimeoutError("the reply has not come within the time-out")
        self._sock.settimeout(left)
        return self._raw.readinto(buffer)

    def readable(self) -> bool:
        return True

    def fileno(self) -> int:
        return int(self._raw.fileno())

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Response(HTTPResponse):
    def __init__(self, sock: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp = io.BufferedReader(_Timely(sock, self.fp.detach()))

    def _read_status(self) -> tuple[str, int, str]:
        """Skip interim replies: `http.client` takes all but 100 for the reply, and would mix up the next."""
        while True:
            version, status, reason = super()._read_status()  # type: ignore[misc]  # not in its stubs
            if status == 101:
                raise BadStatusLine("the vendor speaks another protocol now")
            if not 102 <= status < 200:
                return version, status, reason
            parse_headers(self.fp)


class _Checked:
    """Mixed into a connection: checks the grant's clock before the first byte."""

    sock: Any
    response_class: type[HTTPResponse] = _Response

    def send(self, data: Any) -> Any:
        if self.sock is None:
            self.connect()  # type: ignore[attr-defined]  # of the connection class
        if not _sending.started:
            if time.monotonic() > _sending.deadline:
                self.close()  # type: ignore[attr-defined]  # of the connection class
                raise Late("the grant was too old when the connection was ready")
            _sending.started = True
            _sending.reply_by = time.monotonic() + _sending.timeout_s
        return super().send(data)  # type: ignore[misc]  # of the connection class


class _HTTP(_Checked, HTTPConnection):
    pass


class _HTTPS(_Checked, HTTPSConnection):
    pass


class _HTTPPool(HTTPConnectionPool):
    ConnectionCls = _HTTP


class _HTTPSPool(HTTPSConnectionPool):
    ConnectionCls = _HTTPS


_POOLS = {"http": _HTTPPool, "https": _HTTPSPool}


class _Adapter(HTTPAdapter):
    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(*args, **kwargs)
        manager.pool_classes_by_scheme = _POOLS
        return manager


def _no_auth(prepared: requests.PreparedRequest) -> requests.PreparedRequest:
    """Keep `requests` from putting netrc's credentials over the vendor's."""
    return prepared


def _bare(error: BaseException) -> None:
    """Take from an error, and from what it came of, all that holds the request: the secret is in it.

    That is the frames of the libraries below, and the request and reply of an error of `requests`.
    """
    seen: list[object] = []
    todo: list[object] = [error]
    while todo:
        found = todo.pop()
        if not isinstance(found, BaseException) or any(found is one for one in seen):
            continue
        seen.append(found)
        found.__traceback__ = None
        if isinstance(found, requests.RequestException):
            found.request = found.response = None
        todo += [found.__cause__, found.__context__, getattr(found, "reason", None), *found.args]


class Upstream:
    """One session for each thread of each process.

    `straight`: never through a proxy of the environment's, and trusting what `certificates` names.
    """

    def __init__(self, *, straight: bool = False) -> None:
        self._straight = straight
        self._local = threading.local()

    def _session(self) -> requests.Session:
        # A forked child must not use a connection it inherited: replies would be mixed up.
        if getattr(self._local, "pid", None) != os.getpid():
            session = requests.Session()
            session.headers.clear()
            # A call goes as the SDK made it, and one vendor's cookies never reach another by the gateway.
            session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
            if self._straight:
                session.trust_env = False
                session.verify = certificates.bundle() or True
            for scheme in ("http://", "https://"):
                session.mount(scheme, _Adapter(pool_connections=4, pool_maxsize=4, max_retries=0))
            self._local.session, self._local.pid = session, os.getpid()
        session = self._local.session
        assert isinstance(session, requests.Session)
        return session

    def send(
        self, request: Request, deadline: float, timeout_s: float, connect_s: float = CONNECT_S
    ) -> Reply:
        """Send and return the reply, which has to be whole `timeout_s` seconds after the first byte.

        Raises Late, NotSent, or what broke the exchange afterwards.
        """
        _sending.deadline, _sending.started = deadline, False
        _sending.timeout_s, _sending.reply_by = timeout_s, time.monotonic() + connect_s
        # The bytes are the vendor's own: who would undo a coding is not the one who asked for it.
        headers = {name: value for name, value in request.headers.items() if name != "accept-encoding"}
        try:
            with self._session().request(
                request.method,
                request.url,
                headers=headers,
                proxies=_NO_PROXIES if is_loopback(urlsplit(request.url).hostname) else {},
                data=request.body or None,
                timeout=(connect_s, timeout_s),
                allow_redirects=False,
                auth=_no_auth,
                stream=True,
            ) as response:
                body = response.raw.read(MAX_REPLY + 1, decode_content=True)
                if len(body) > MAX_REPLY:
                    raise requests.ConnectionError("the reply is too long")
                said = {name.lower(): value for name, value in response.headers.items()}
                for name in ("content-encoding", "content-length", "transfer-encoding"):
                    said.pop(name, None)  # The body is decoded and whole.
                return Reply(response.status_code, said, body)
        except BaseException as error:
            _bare(error)
            if isinstance(error, NotSent) or not isinstance(error, Exception):
                raise error
            if not _sending.started:
                raise NotSent(f"{type(error).__name__} before the first byte") from error
            if isinstance(error, HTTPError):  # Of the body, which `requests` leaves to us.
                raise requests.ConnectionError(f"the reply broke off: {type(error).__name__}") from error
            raise error
