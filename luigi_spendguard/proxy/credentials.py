"""Where the secret is, and what task code finds in its place."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from luigi_spendguard import redaction
from luigi_spendguard.config import Settings
from luigi_spendguard.redaction import Secret
from luigi_spendguard.vendors import Vendor

_lock = threading.Lock()
_hidden: dict[str, str | None] = {}
#: What `secret_of` found before the keys were put in place, None for nothing.
_secrets: dict[str, str | None] = {}
_users = 0


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def learn(vendor: Vendor) -> None:
    """Take what this vendor's usual variables hold out of all that this process says."""
    redaction.learn(*(os.environ.get(name) for name in vendor.secret_variables))


def secret_of(vendor: Vendor, settings: Settings, environ: Mapping[str, str] | None = None) -> str | None:
    """Return the vendor's secret: from luigi.cfg, else from its usual environment variable."""
    configured = settings.vendor(vendor.name).secret
    if configured:
        return configured
    with _lock:
        if vendor.name in _secrets:
            return _secrets[vendor.name]
    found = os.environ if environ is None else environ
    secret = next((Secret(found[name]) for name in vendor.secret_variables if found.get(name)), None)
    redaction.learn(secret)
    return secret


@contextmanager
def hidden(vendor: Vendor, secret: str | None, key: str) -> Iterator[None]:
    """Let task code (and its subprocesses) find `key` in every variable that holds `secret`, and what else
    the vendor's SDK asks the environment for.

    The environment belongs to the process: with several attempts in one process the last key is
    found, and the last attempt to end puts the variables back. The proxy accepts any of their keys.
    """
    global _users
    with _lock:
        _users += 1
        _secrets[vendor.name] = secret
        for name in list(os.environ):
            if os.environ[name] == secret or (name in _hidden and _hidden[name] == secret):
                # As a Secret: in Python 3.10 this frame is on the stack of whatever the task raises.
                _hidden.setdefault(name, Secret(os.environ[name]))
                os.environ[name] = key
        if vendor.secret_variables and not any(os.environ.get(name) for name in vendor.secret_variables):
            _hidden.setdefault(vendor.secret_variables[0], None)
        for name, before in _hidden.items():
            if before is None and name in vendor.secret_variables:
                os.environ[name] = key
        for name, text in vendor.stand_ins.items():
            if not os.environ.get(name):
                _hidden.setdefault(name, None)
                os.environ[name] = text
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if not _users:
                for name, before in _hidden.items():
                    if before is None:
                        os.environ.pop(name, None)
                    else:
                        os.environ[name] = before
                _hidden.clear()
                _secrets.clear()
