"""Real HTTP clients as a task uses them, and an environment whose proxies lead nowhere."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import httpx2
import requests

from luigi_spendguard.proxy import httpx2 as of_httpx2
from luigi_spendguard.proxy.httpx import AsyncSpendTransport, SpendTransport
from luigi_spendguard.proxy.requests import SpendAdapter
from tests.support.processes import free_port

#: One request: method and URL, and what both libraries take (`data`, `headers`, …); `follow`s redirects.
Send = Callable[..., Any]
PROXIES = ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")


def _sent(package: Any, transport: Any, method: str, url: str, follow: bool, more: dict[str, Any]) -> Any:
    with package.Client(transport=transport, follow_redirects=follow) as client:
        return client.request(method, url, **more)


def _sent_async(package: Any, transport: Any, method: str, url: str, follow: bool, more: Any) -> Any:
    async def program() -> Any:
        async with package.AsyncClient(transport=transport, follow_redirects=follow) as client:
            return await client.request(method, url, **more)

    return asyncio.run(program())


def by_httpx(method: str, url: str, *, follow: bool = False, **more: Any) -> Any:
    return _sent(httpx, SpendTransport(), method, url, follow, more)


def by_httpx2(method: str, url: str, *, follow: bool = False, **more: Any) -> Any:
    return _sent(httpx2, of_httpx2.SpendTransport(), method, url, follow, more)


def by_async_httpx(method: str, url: str, *, follow: bool = False, **more: Any) -> Any:
    return _sent_async(httpx, AsyncSpendTransport(), method, url, follow, more)


def by_async_httpx2(method: str, url: str, *, follow: bool = False, **more: Any) -> Any:
    return _sent_async(httpx2, of_httpx2.AsyncSpendTransport(), method, url, follow, more)


def by_requests(method: str, url: str, *, follow: bool = False, **more: Any) -> requests.Response:
    with requests.Session() as session:
        for scheme in ("https://", "http://"):
            session.mount(scheme, SpendAdapter())
        return session.request(method, url, allow_redirects=follow, **more)


CLIENTS = (by_httpx, by_httpx2, by_async_httpx, by_async_httpx2, by_requests)
ASYNCHRONOUS = (by_async_httpx, by_async_httpx2)
#: The same error of each library.
HTTP_ERROR = (httpx.HTTPStatusError, httpx2.HTTPStatusError, requests.HTTPError)
NOT_CONNECTED = (httpx.ConnectError, httpx2.ConnectError, requests.ConnectionError)
NO_REPLY = (httpx.ReadError, httpx2.ReadError, requests.ConnectionError)


@contextmanager
def dead_proxies() -> Iterator[None]:
    """Let every proxy variable name a port where nobody listens, and no host be excepted."""
    before = {name: os.environ.pop(name, None) for name in (*PROXIES, "NO_PROXY", "no_proxy")}
    os.environ.update(dict.fromkeys(PROXIES, f"http://127.0.0.1:{free_port()}"))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
