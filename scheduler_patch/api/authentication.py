"""Who may do what on our routes: vault key, worker token, an operator's token, or the loopback peer.

The table of routes says for each who may (`Endpoint.who`); what that means is decided here alone.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import socket
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache

import luigi.configuration
from tornado.httputil import HTTPServerRequest

from luigi_spendguard.http.relay import Refused, check_host, check_origin, host_of
from luigi_spendguard.protocol import CREDENTIAL
from luigi_spendguard.settings.operators import OPERATORS
from scheduler_patch.service import LedgerService
from scheduler_patch.service.callers import ADMIN, Caller, who_could


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


#: Which role an operator needs of a route that is for operators, by who may use it.
NEEDED: Mapping[str, str] = {"list": "read", "operate": "operate", "admin": "admin", "holder": "operate"}


def check(request: HTTPServerRequest, who: str, service: LedgerService) -> Caller:
    """Return who asks. Raises Refused unless they may act as `who`.

    `who`: `public`; `read` (anybody, or a worker or operator where that is closed); `list`, `operate` or
    `admin` (an operator of that role, for `list` of any); `holder` (of a key, or an operator); `key`;
    `worker` (or an operator of role `admin`).
    """
    check_origin(request)
    address = request.remote_ip or ""
    if who == "public":
        return Caller(address=address)
    token = shown(request)
    if who not in NEEDED:
        check_peer(request, token, service, least="read" if who == "read" else "admin")
    try:
        return replace(_checked(token, who, service), address=address)
    except Refused as refused:
        if token and refused.status == 401 and (instead := wrong(request, service)) is not None:
            raise instead from None
        raise


def caller_of(token: str, service: LedgerService) -> Caller:
    """Return whose token this is; how long it takes tells nothing of the tokens."""
    settings = service.settings
    named = [one for one in settings.operators.values() if _same(token, one.token)]
    is_admin, is_worker = _same(token, service.admin_token), _same(token, settings.worker_token)
    if named:
        return Caller.of(named[0])
    return ADMIN if is_admin else Caller(is_worker=is_worker)


def check_peer(
    request: HTTPServerRequest, token: str, service: LedgerService, *, least: str = "admin"
) -> None:
    """Raise Refused for a peer on another machine that is not served.

    `least`: operators of this role are served there without a worker token, too.
    """
    if service.settings.worker_token is not None:
        return
    try:
        _check_place(request, service.settings.gateway_url)
    except Refused:
        if not (token and caller_of(token, service).may(least)):
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


def _checked(token: str, who: str, service: LedgerService) -> Caller:
    if who == "key":
        if not token:
            raise Refused(401, "unknown_key", "a vault key is missing")
        return Caller(key=token)
    caller = caller_of(token, service)
    if who == "holder" and token and not caller.role and not caller.is_worker:
        return Caller(key=token)
    if who in NEEDED:
        _check_role(caller, NEEDED[who], service, token)
    elif who == "read":
        if not (caller.role or caller.is_worker or service.settings.anonymous_read):
            wrong = ", and this token is wrong" if token else ""
            or_operators = ", or an operator's token" if service.settings.operators else ""
            raise Refused(
                401,
                "unauthorized",
                f"[spendguard] anonymous_read is off{wrong}: send luigid's admin_token (admin_token_file) or "
                f"worker_token (worker_token_file){or_operators}",
            )
    elif service.settings.worker_token is not None and not caller.is_worker:
        if caller.role:
            _check_role(caller, "admin", service, token)
            return caller
        wrong = "is wrong" if token else "is missing"
        raise Refused(
            401,
            "unauthorized",
            f"the worker token {wrong}: set the same [spendguard] "
            "worker_token in the worker's luigi.cfg as in luigid's",
        )
    return caller


def _check_role(caller: Caller, needed: str, service: LedgerService, token: str) -> None:
    """Raise Refused for who is no operator, or one of another role."""
    if caller.may(needed):
        return
    named = service.settings.operators
    if not caller.role:
        which = "an operator's token" if named else "the admin token"
        what = f"this is not {which}, which is needed here" if token else f"this needs {which}"
        where = f"[{OPERATORS}], [spendguard] admin_token" if named else "[spendguard] admin_token"
        text = f"{what}: {where}, or the file beside the ledger that luigid made"
        raise Refused(401, "unauthorized", text)
    could = who_could(service.settings, needed)
    text = f"you are {caller.shown}, of role {caller.role}: this needs role {needed}, which {could}"
    raise Refused(403, "forbidden", text)
