"""Who may do what on our routes: vault key, worker token, admin token, or the loopback peer."""

from __future__ import annotations

import hmac
import ipaddress
import socket
from urllib.parse import urlsplit

from tornado.httputil import HTTPServerRequest

from scheduler_patch.office import Office


class Refused(Exception):
    """The request is not allowed; `status` and `message` say why."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


def bearer(request: HTTPServerRequest) -> str:
    """Return the bearer token of a request, or an empty text."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def is_loopback(request: HTTPServerRequest) -> bool:
    """Return whether the peer is on this machine and no proxy stands between."""
    if any(name in request.headers for name in ("X-Forwarded-For", "Forwarded", "X-Real-Ip")):
        return False
    context = getattr(request.connection, "context", None)
    if getattr(context, "address_family", None) == getattr(socket, "AF_UNIX", object()):
        return True
    try:
        return ipaddress.ip_address(request.remote_ip or "").is_loopback
    except ValueError:
        return False


def _same(given: str, wanted: str | None) -> bool:
    return bool(wanted) and hmac.compare_digest(given.encode(), (wanted or "").encode())


def check(request: HTTPServerRequest, who: str, office: Office) -> str:
    """Raise Refused unless the request may act as `who`; return its vault key for `key` and `holder`.

    `who`: `read`, `key`, `worker`, `admin`, `holder` (of a key, or the admin), or `public`.
    """
    check_origin(request)
    if who == "public":
        return ""
    token = bearer(request)
    check_peer(request, token, office, anywhere=who in ("admin", "holder"))
    try:
        return _checked(token, who, office)
    except Refused as refused:
        if token and refused.status == 401:
            office.throttle.was_wrong(request.remote_ip or "")
        raise


def check_peer(request: HTTPServerRequest, token: str, office: Office, *, anywhere: bool = False) -> None:
    """Raise Refused for a peer on another machine that is not served, and for one that failed too often.

    `anywhere`: peers on other machines are served without a worker token, too.
    """
    if office.throttle.is_limited(request.remote_ip or "", token):
        raise Refused(429, "too_many_attempts", "too many attempts with a wrong token or key: wait a minute")
    if anywhere or office.settings.worker_token is not None or is_loopback(request):
        return
    if not (token and _same(token, office.admin_token)):
        raise Refused(403, "forbidden", "without [spendguard] worker_token in luigid's luigi.cfg only "
                      "peers on its own machine are served: set the same token for both")  # fmt: skip


def _checked(token: str, who: str, office: Office) -> str:
    worker_token = office.settings.worker_token
    is_admin = _same(token, office.admin_token)
    if is_admin or _same(token, worker_token):
        office.throttle.was_right(token)
    if who == "holder" and token and not is_admin:
        return token
    if who in ("admin", "holder"):
        if not is_admin:
            raise Refused(401, "unauthorized", "this needs the admin token: [spendguard] admin_token, "
                          "or the file beside the ledger that luigid made")  # fmt: skip
        return ""
    if who == "read" and (is_admin or _same(token, worker_token)):
        return ""
    if who == "key":
        if not token:
            raise Refused(401, "unknown_key", "a vault key is missing")
        return token
    if who == "read":
        if not office.settings.anonymous_read:
            raise Refused(401, "unauthorized", "[spendguard] anonymous_read is off: send a token")
        return ""
    if worker_token is not None and not (_same(token, worker_token) or is_admin):
        wrong = "is wrong" if token else "is missing"
        raise Refused(401, "unauthorized", f"the worker token {wrong}: set the same [spendguard] "
                      "worker_token in the worker's luigi.cfg as in luigid's")  # fmt: skip
    return ""


def check_origin(request: HTTPServerRequest) -> None:
    """Refuse what a foreign web page makes a browser send."""
    origin = request.headers.get("Origin")
    if origin is None or request.method == "GET":
        return
    try:
        same = urlsplit(origin).netloc.lower() == request.host.lower()
    except ValueError:
        same = False
    if not same:
        raise Refused(403, "forbidden", "requests from other web pages are refused")
