"""Who sends a request to a port of ours, and what a foreign web page makes a browser on this machine send."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from urllib.parse import urlsplit

from tornado.httputil import HTTPServerRequest


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


def check_host(request: HTTPServerRequest, names: Collection[str], instead: str = "") -> None:
    """Refuse a name that its owner may have pointed at this machine, so that his page shares our origin.

    An IP address is no such name: what is served from it cannot be moved here. `names` are this machine's
    own besides localhost; `instead` is what else could be done, for the message. Raises Refused.
    """
    name = host_of(f"//{request.host}")
    if name == "localhost" or name.endswith(".localhost"):
        return
    try:
        ipaddress.ip_address(name)
    except ValueError:
        if name and name in names:
            return
        raise Refused(403, "forbidden", f"{name[:60]!r} is no name of this machine: send the request to "
                      f"localhost{instead}") from None  # fmt: skip


def host_of(url: str) -> str:
    """Return a URL's host in lower case, "" where it has none."""
    try:
        return (urlsplit(url).hostname or "").lower()
    except ValueError:
        return ""
