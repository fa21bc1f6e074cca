"""Who may do what on our routes: vault key, worker token, admin token, or the loopback peer."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import socket
from functools import lru_cache

import luigi.configuration
from tornado.httputil import HTTPServerRequest

from luigi_spendguard.http.relay import Refused, check_host, check_origin, host_of
from luigi_spendguard.protocol import CREDENTIAL
from scheduler_patch.service import LedgerService


def shown(request: HTTPServerRequest) -> str:
    """Return the token or key of a request, or an empty text: of our own header, else the bearer token."""
    if token := request.headers.get(CREDENTIAL, "").strip():
        return str(token)
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def is_loopback(request: HTTPServerRequest) -> bool:
    """Return whether the peer is on this machine and no proxy stands between."""
    if any(name in request.headers for name in ("X-Forwarded-For", "Forwarded", "X-Real-Ip")):
        return False
    if _on_unix_socket(request):
        return True
    return _is_of_this_machine(request.remote_ip or "")


@lru_cache(maxsize=256)
def _is_of_this_machine(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def _on_unix_socket(request: HTTPServerRequest) -> bool:
    context = getattr(request.connection, "context", None)
    return bool(getattr(context, "address_family", None) == getattr(socket, "AF_UNIX", object()))


def _same(token: str, wanted: str | None) -> bool:
    """Compare digests: how long it takes tells nothing of the token, nor of its length."""
    digests = (hashlib.sha256(one.encode("utf-8", "replace")).digest() for one in (token, wanted or ""))
    return bool(wanted) and hmac.compare_digest(*digests)


def wrong(request: HTTPServerRequest, service: LedgerService) -> Refused | None:
    """Count a wrong token or key; return what is to be answered instead where its peer shows too many."""
    if not service.throttle.was_wrong(request.remote_ip or ""):
        return None
    return Refused(
        429,
        "too_many_attempts",
        "too many wrong tokens or keys from this address, and this one is wrong, too: wait a minute",
    )


def check(request: HTTPServerRequest, who: str, service: LedgerService) -> str:
    """Raise Refused unless the request may act as `who`; return its vault key for `key` and `holder`.

    `who`: `read`, `key`, `worker`, `admin`, `holder` (of a key, or the admin), or `public`.
    """
    check_origin(request)
    if who == "public":
        return ""
    token = shown(request)
    check_peer(request, token, service, anywhere=who in ("admin", "holder"))
    try:
        return _checked(token, who, service)
    except Refused as refused:
        if token and refused.status == 401 and (instead := wrong(request, service)) is not None:
            raise instead from None
        raise


def check_peer(
    request: HTTPServerRequest, token: str, service: LedgerService, *, anywhere: bool = False
) -> None:
    """Raise Refused for a peer on another machine that is not served.

    `anywhere`: peers on other machines are served without a worker token, too.
    """
    if anywhere or service.settings.worker_token is not None:
        return
    try:
        _check_place(request, service.settings.gateway_url)
    except Refused:
        if not (token and _same(token, service.admin_token)):
            raise


def _check_place(request: HTTPServerRequest, gateway_url: str | None) -> None:
    """Raise Refused for a peer on another machine, and for a name that may lead here and is not ours."""
    if not is_loopback(request):
        raise Refused(
            403,
            "forbidden",
            "without [spendguard] worker_token in luigid's luigi.cfg only "
            "peers on its own machine are served: set the same token for both",
        )
    _check_host(request, gateway_url)


def _check_host(request: HTTPServerRequest, gateway_url: str | None) -> None:
    """Refuse a name that may lead here although it is not ours.

    For peers who are served because they are on this machine: a browser is there, too. It does not reach a
    Unix socket.
    """
    if _on_unix_socket(request):
        return

    def names() -> set[str]:
        ours = luigi.configuration.get_config().get("core", "default_scheduler_url", "")
        return {socket.gethostname().lower(), host_of(ours), host_of(gateway_url or "")}

    check_host(request, names, ", or set [spendguard] worker_token in luigi.cfg")


def _checked(token: str, who: str, service: LedgerService) -> str:
    worker_token = service.settings.worker_token
    is_admin = _same(token, service.admin_token)
    if who == "holder" and token and not is_admin and not _same(token, worker_token):
        return token
    if who in ("admin", "holder"):
        if not is_admin:
            what = (
                "this is not the admin token, which is needed here" if token else "this needs the admin token"
            )
            raise Refused(
                401,
                "unauthorized",
                f"{what}: [spendguard] admin_token, or the file beside the ledger that luigid made",
            )
        return ""
    if who == "read" and (is_admin or _same(token, worker_token)):
        return ""
    if who == "key":
        if not token:
            raise Refused(401, "unknown_key", "a vault key is missing")
        return token
    if who == "read":
        if not service.settings.anonymous_read:
            wrong = ", and this token is wrong" if token else ""
            raise Refused(
                401,
                "unauthorized",
                f"[spendguard] anonymous_read is off{wrong}: send luigid's admin_token (admin_token_file) or "
                "worker_token (worker_token_file)",
            )
        return ""
    if worker_token is not None and not (_same(token, worker_token) or is_admin):
        wrong = "is wrong" if token else "is missing"
        raise Refused(
            401,
            "unauthorized",
            f"the worker token {wrong}: set the same [spendguard] "
            "worker_token in the worker's luigi.cfg as in luigid's",
        )
    return ""
