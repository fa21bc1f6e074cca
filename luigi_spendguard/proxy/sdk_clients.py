"""What the bindings share of an SDK's own HTTP client: its requests, its errors, and what it was told.

Our own client takes that one's place for a guarded call. Our errors are of classes that are caught by both
names. What code has set on the client (a proxy, how often a lost connection is made again) is honoured or
refused, never ignored: a proxy may be the only way to the vendor, or a rule. What the environment says holds
anyway.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import requests
from requests.utils import get_environ_proxies, select_proxy

from luigi_spendguard.errors import SpendDenied, denial
from luigi_spendguard.redaction import Secret
from luigi_spendguard.vendors import Request

#: Where clients keep their proxy, and their session (stripe-python 16.1, twilio-python 9.13, resend-python
#: 2.52, and classes that are made after them).
_PROXIES, _SESSIONS = ("_proxy", "proxy", "proxies", "proxy_url"), ("session", "_session", "_user_session")

_classes: dict[tuple[type, type, str], type[Any]] = {}


def also(error: Exception, natural: type[Exception], sdk: str) -> Any:
    """Return `error` as an instance of its own class and of the SDK's `natural`, whose `__init__` is to be
    called: the class is named after `sdk`, and can be pickled, as a task's process pool does.
    """
    return _made((type(error), natural, sdk), error.args, vars(error))


def _made(bases: tuple[Any, Any, str], args: tuple[Any, ...], state: Mapping[str, Any]) -> Exception:
    if bases not in _classes:
        ours, natural, sdk = bases

        def reduced(self: Exception) -> tuple[Any, ...]:
            return _made, (bases, self.args, vars(self))

        body = {"__module__": __name__, "__reduce__": reduced}
        _classes[bases] = type(f"{sdk}{ours.__name__}", (ours, natural), body)
    made = _classes[bases]
    error: Exception = made.__new__(made, *args)  # No `__init__`: they take different arguments.
    vars(error).update(state)
    return error


def prepared(method: str, url: str, headers: Any, **content: Any) -> Request:
    """Return the request that `requests` makes of its arguments. Raises what it does for what is unfit."""
    made = requests.Request(method.upper(), url, headers=headers, **content).prepare()
    body = made.body or b""
    lowered = {name.lower(): value for name, value in made.headers.items() if name != "Content-Length"}
    return Request(
        made.method or "", made.url or "", lowered, body.encode() if isinstance(body, str) else body
    )


def not_sent(vendor: str, error: Exception) -> str:
    """Return the text for a call that never left."""
    return f"could not connect to {vendor}, nothing was sent: {error}"


def not_answered(vendor: str, error: Exception) -> str:
    """Return the text for a call whose exchange broke after its first byte."""
    return (
        f"no reply from {vendor} ({type(error).__name__}): the call may have been executed, and counts as in "
        "doubt until that is known"
    )


@dataclass(frozen=True)
class ClientOptions:
    """What holds for one call.

    Attributes:
        proxy: the URL of the proxy; "" for the environment's, or none.
        retries: how often a call is made again of which nothing was sent.
        refuse: why the call cannot be made as its client was told to.

    """

    proxy: str = ""
    retries: int = 0
    refuse: SpendDenied | None = None


PLAIN = ClientOptions()


def options_of(client: Any, url: str) -> ClientOptions:
    """Return what was set on a client whose calls to `url` are guarded. Nothing of it is called or made."""
    held = getattr(client, "__dict__", {})
    sessions = [held[name] for name in _SESSIONS if held.get(name) is not None]
    retries = 0
    for session in list(sessions):
        options = getattr(session, "_retry_options", None)  # aiohttp-retry's RetryClient.
        if options is not None:
            retries = max(retries, int(getattr(options, "attempts", 1)) - 1)
            sessions.append(getattr(session, "_client", None))
    proxies = [held.get(name) for name in _PROXIES]
    proxies += [
        getattr(session, name, None) for session in sessions for name in ("proxies", "_default_proxy")
    ]
    for session in sessions:
        if hasattr(session, "get_adapter"):
            made = retries_of(session.get_adapter(url))
            if made is None:
                return ClientOptions(refuse=sends_again())
            retries = max(retries, made)
    return ClientOptions(proxy_of([one for one in proxies if one], url), retries)


def proxy_of(proxies: list[Any], url: str) -> str:
    """Return the URL of the first of `proxies` (a URL, or a mapping as of `requests`) that is for `url`.

    "" where there is none, or where it is the one of the environment's.
    """
    for one in proxies:
        proxy = select_proxy(url, dict(one)) if isinstance(one, Mapping) else str(one)
        if proxy:
            return "" if proxy == select_proxy(url, get_environ_proxies(url)) else Secret(proxy)
    return ""


def retries_of(adapter: Any) -> int | None:
    """Return how often an adapter of `requests` makes a lost connection again; None where it would also send
    again what the vendor has answered.
    """
    policy = getattr(adapter, "max_retries", None)
    if getattr(policy, "status_forcelist", None):
        return None
    return int(getattr(policy, "connect", None) or getattr(policy, "total", None) or 0)


def options_of_transport(inner: Any, url: str) -> ClientOptions:
    """Return what was set on a transport of httpx or httpx2: they keep it in httpcore's connection pool."""
    pool = getattr(inner, "_pool", None)
    there = getattr(pool, "_proxy_url", None)
    retries = int(getattr(pool, "_retries", 0) or 0)
    if there is None:
        return ClientOptions(retries=retries)
    host = f"{there.host.decode()}:{there.port}" if there.port else there.host.decode()
    for name, value in getattr(pool, "_proxy_headers", None) or ():
        kind, _, shown = value.decode("latin-1").partition(" ")
        if name.lower() == b"proxy-authorization" and kind.lower() == "basic":
            user, _, password = base64.b64decode(shown).decode().partition(":")
            host = f"{quote(user, safe='')}:{quote(password, safe='')}@{host}"
    return ClientOptions(proxy_of([f"{there.scheme.decode()}://{host}"], url), retries)


def sends_again() -> SpendDenied:
    """Return the denial of a call whose client would send again what the vendor has answered."""
    return denial(
        "scope",
        "the HTTP client of this call sends a request again after certain replies: that cannot be kept to "
        "where each send is reserved. Give it a plain number of retries, made where nothing was sent",
    )


def not_at_a_gateway(gateway: str) -> SpendDenied:
    """Return the denial of a call whose client has a proxy, where another process is to send it."""
    return denial(
        "scope",
        f"the HTTP client of this call was given a proxy, but the gateway at {gateway} sends it: leave the "
        "proxy away here, and set HTTPS_PROXY in luigid's environment if it needs one",
    )
