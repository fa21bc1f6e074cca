"""One call of a client library, whichever it is: whose it is, who guards it, and where it goes.

Every binding of this package asks `attempt_for` whether a call is a vendor task's, and sends it by `send`: to
a gateway, or here as the guard asks for (`drive`). A task names a call whose SDK has no way to pass a key by
`idempotency_key`.
"""

from __future__ import annotations

import inspect
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from luigi_spendguard import config
from luigi_spendguard.errors import SpendDenied, denial
from luigi_spendguard.guard import Guard
from luigi_spendguard.guard.effects import Call, Finish, Life, NotSent, Reserve, Send, advance
from luigi_spendguard.http.blocking import BlockingTransport
from luigi_spendguard.protocol import KEY_PREFIX
from luigi_spendguard.proxy import attempts, environment, interrupt
from luigi_spendguard.proxy.attempts import Attempt
from luigi_spendguard.proxy.gateway_client import Forwarder, GatewayAddress, holder_of
from luigi_spendguard.proxy.sdk_clients import PLAIN, ClientOptions, not_at_a_gateway
from luigi_spendguard.settings import VendorSettings
from luigi_spendguard.vendors import Reply, Request, Vendor
from luigi_spendguard.vendors.registry import VENDORS


def drive(life: Life, attempt: Attempt, send: Callable[[Send], Reply]) -> Reply:
    """Run `life` to its end, with real I/O, and return the vendor's reply. Raises what `life` raises."""
    value: Any = None
    error: BaseException | None = None
    read = ""
    with interrupt.calling():
        while True:
            try:
                effect = advance(life, value, error)
                if isinstance(effect, Reply):
                    if read:
                        attempt.client.under_way.has_read(read)
                    return effect
                value, error = None, None
                if isinstance(effect, Reserve):
                    value = attempt.client.reserve(attempt.key, effect.ask)
                    read = read or (value.call_id if value.is_read else "")
                elif isinstance(effect, Send):
                    value = send(effect)
                elif isinstance(effect, Finish):
                    attempt.client.end(attempt.key, effect.end)
                else:
                    time.sleep(effect.seconds)
            except BaseException as caught:  # The guard must hear of everything, Ctrl-C included.
                if inspect.getgeneratorstate(life) == inspect.GEN_CLOSED:
                    raise
                value, error = None, caught


_key: ContextVar[str | None] = ContextVar("spendguard_idempotency_key", default=None)


@contextmanager
def idempotency_key(key: str) -> Iterator[None]:
    """Let the one vendor call of the block have this key: with it, it is the same call in every attempt.

        with idempotency_key(f"receipt-{order}"):
            client.messages.create(to=..., body=...)

    A key that the call brings itself goes first. Raises ValueError for a key that no vendor takes: 1 to 255
    printable ASCII characters.
    """
    if not (0 < len(key) <= 255 and key.isascii() and key.isprintable()):
        raise ValueError("an idempotency key has 1 to 255 printable ASCII characters")
    token = _key.set(key)
    try:
        yield
    finally:
        _key.reset(token)


def _with_key_of_block(request: Request, vendor: Vendor) -> Request:
    """Return a request with the block's key, if it has none and does not only read."""
    key = _key.get()
    if key is None or vendor.only_reads(request) or request.headers.get("idempotency-key"):
        return request
    return replace(request, headers={**request.headers, "idempotency-key": key})


_transport = BlockingTransport()
_forwarder = Forwarder()


def vendor_of(url: str, attempt: Attempt | None = None) -> Vendor | None:
    """Return the vendor to which a URL leads, None for nobody's we know.

    Within an `attempt` also what stands for a vendor there: a gateway, and its `base_url` in luigi.cfg.
    """
    for vendor in VENDORS.values():
        if vendor.rest(url) is not None:
            return vendor
        if attempt is None:
            continue
        gateway = attempt.settings.gateway_url or attempt.client.url
        for base in (attempt.settings.vendor(vendor.name).base_url, gateway and f"{gateway}/{vendor.name}"):
            if base and url.startswith(base + "/"):
                return vendor
    return None


def attempt_for(vendor: Vendor, method: str, url: str, headers: Mapping[str, str]) -> Attempt | None:
    """Return the attempt that a call belongs to; None for one that passes unguarded: see `revealed`.

    Raises SpendDenied (`scope`) for a call that could spend and belongs to no vendor task, and for one that
    shows what stands in this process's environment in place of a secret.
    """
    attempt = attempts.current()
    if attempt is not None:
        return attempt
    request = Request(method.upper(), url, {name.lower(): str(value) for name, value in headers.items()})
    spends = not (vendor.only_reads(request) or _guarded_elsewhere(vendor, request))
    if spends and attempts.in_pipeline():
        raise denial(
            "scope",
            f"a call to {vendor.name} that could spend was made outside any vendor task: move it into the "
            "run() of a task that mixes in luigi_spendguard.VendorTask (or whose family matches [spendguard] "
            "vendor_tasks); a program that such a task starts sends it to luigi_spendguard.spend_proxy()",
        )
    shown = vendor.credential(request)
    if environment.is_stand_in(shown) and environment.stands_for(shown) == shown:
        raise denial(
            "scope",
            f"a program that no vendor task starts finds {shown} in place of {vendor.name}'s secret: let a "
            "vendor task start it, or give it a vault key, or a restricted key in a variable of its own",
        )
    return None


def _guarded_elsewhere(vendor: Vendor, request: Request) -> bool:
    """Return whether a call shows a vault key, and not to the vendor itself: only a gateway takes it."""
    return vendor.credential(request).startswith(KEY_PREFIX) and vendor.rest(request.url) is None


def revealed(vendor: Vendor, url: str, headers: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the headers of a call that passes, with the secret where code has found a stand-in for it."""
    for name, value in headers.items():
        if name.lower() == "authorization" and isinstance(value, str):
            authorized = environment.authorized(value)
            if authorized is not value and takes_the_secret(vendor, url):
                return {**headers, name: authorized}
    return headers


def takes_the_secret(vendor: Vendor, url: str) -> bool:
    """Return whether a URL is the vendor's own, or what luigi.cfg has set in its place."""
    if vendor.rest(url) is not None:
        return True
    try:
        base = config.load(environ=environment.environ()).vendor(vendor.name).base_url
    except config.ConfigError:
        return False
    return base is not None and url.startswith(base + "/")


def send(
    vendor: Vendor,
    request: Request,
    call: Call,
    attempt: Attempt,
    refuse: SpendDenied | None = None,
    options: ClientOptions = PLAIN,
) -> Reply:
    """Send under a reservation: the gateway's where there is one, else this worker's own.

    `refuse` is put on record and raised; `options`: of the client that would send it without us. Raises
    SpendDenied, OutcomeUnknown, NotSent, or what broke the exchange.
    """
    for left in range(options.retries, -1, -1):
        try:
            return _send(vendor, request, call, attempt, refuse or options.refuse, options.proxy)
        except NotSent:
            if not left:
                raise
    raise AssertionError("a number of retries is not negative")


def _send(
    vendor: Vendor, request: Request, call: Call, attempt: Attempt, refuse: SpendDenied | None, proxy: str
) -> Reply:
    request = _with_key_of_block(request, vendor)
    settings = attempt.settings.vendor(vendor.name)
    holder = holder_of(vendor, attempt)
    gateway, secret = holder.gateway, holder.secret
    if gateway is None and secret is None:
        refuse = _no_secret(vendor, attempt)
    refuse = refuse or _foreign_credential(vendor, request, secret)
    if gateway is not None and proxy:
        refuse = refuse or not_at_a_gateway(gateway.base)
    if gateway is not None and refuse is None:
        try:
            target = _target(vendor, request.url, settings, gateway)
        except SpendDenied as denied:
            refuse = denied
        else:
            return _forwarder.forward(vendor, request, target, gateway, attempt, call)
    # Guarded here, or put on record here as refused: nothing is sent then, and no secret is needed.
    life = Guard(vendor, settings, secret or "", attempt.settings.fx, time.monotonic).guarded(
        request, call, refuse
    )
    return drive(
        life, attempt, lambda one: _transport.send(one.request, one.deadline, settings.timeout_s, proxy=proxy)
    )


def _no_secret(vendor: Vendor, attempt: Attempt) -> SpendDenied:
    """Return the denial of a call to a vendor whose secret nobody has."""
    also = f" (or {vendor.secret_variables[0]} in its environment)" if vendor.secret_variables else ""
    if any(environment.is_stand_in(os.environ.get(name, "")) for name in vendor.secret_variables):
        also += ". What is there is a stand-in: a pipeline has started this one, and hands down no secret"
    if attempt.handed_down is not None:
        also += (
            ". The task that has started this program hands its secret to nobody: start it in the block "
            "of luigi_spendguard.spend_proxy()"
        )
    return denial(
        "scope",
        f"there is no secret for {vendor.name}: set [spendguard_{vendor.name}] secret in luigid's "
        f"luigi.cfg, so that its gateway guards the calls, or in this worker's{also}",
    )


def _foreign_credential(vendor: Vendor, request: Request, secret: str | None) -> SpendDenied | None:
    """Accept no credential, our vault key and the configured secret; any other is another account's."""
    shown = environment.stands_for(vendor.credential(request))
    if shown in ("", secret) or attempts.is_vault_key(shown):
        return None
    variables = " or ".join(vendor.secret_variables)
    return denial(
        "scope",
        f"this call carries a credential for {vendor.name} that is not [spendguard_{vendor.name}] secret "
        f"(or {variables}): leave it away, or configure that one",
    )


def _target(vendor: Vendor, url: str, settings: VendorSettings, gateway: GatewayAddress) -> str:
    """Return path and query, at the gateway, of a call to the vendor or to what stands for it here.

    Raises SpendDenied (`endpoint`) for another host.
    """
    rest = vendor.rest(url)
    if rest is not None:
        return rest
    for base in (gateway.url, settings.base_url):
        if base and url.startswith(base + "/"):
            return url[len(base) :].partition("#")[0]
    host = urlsplit(url).hostname or "?"
    raise denial(
        "endpoint",
        f"{host} is no host of {vendor.name}'s: calls are forwarded to the gateway at {gateway.base}",
    )
