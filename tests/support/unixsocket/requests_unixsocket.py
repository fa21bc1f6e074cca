"""Stands for the package that Luigi's own RPCs need for `http+unix://`; ours need none."""

from __future__ import annotations

import socket
from typing import Any
from urllib.parse import unquote, urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection
from urllib3.connectionpool import HTTPConnectionPool


class _Connection(HTTPConnection):
    path = ""

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self.path)


class _Adapter(HTTPAdapter):
    def get_connection_with_tls_context(
        self, request: requests.PreparedRequest, *args: Any, **kwargs: Any
    ) -> urllib3.HTTPConnectionPool:
        path = unquote(urlsplit(request.url or "").netloc)
        pool = HTTPConnectionPool("localhost")
        pool.ConnectionCls = type("Connection", (_Connection,), {"path": path})
        return pool

    def request_url(self, request: requests.PreparedRequest, proxies: Any) -> str:
        return request.path_url


class Session(requests.Session):
    def __init__(self) -> None:
        super().__init__()
        self.mount("http+unix://", _Adapter())
