"""Where the secret is, and what task code finds in its place."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager

from luigi_spendguard import redaction
from luigi_spendguard.blocks import Blocks
from luigi_spendguard.config import Settings
from luigi_spendguard.messages import KEY_PREFIX
from luigi_spendguard.redaction import Secret
from luigi_spendguard.vendors import Vendor

_blocks = Blocks()
_hidden: dict[str, str | None] = {}
#: What `secret_of` found before the keys were put in place, None for nothing.
_secrets: dict[str, str | None] = {}


def learn(vendor: Vendor) -> None:
    """Take what this vendor's usual variables hold out of all that this process says."""
    redaction.learn(*(os.environ.get(name) for name in vendor.secret_variables))


def secret_of(vendor: Vendor, settings: Settings, environ: Mapping[str, str] | None = None) -> str | None:
    """Return the vendor's secret: from luigi.cfg, else from its usual environment variable.

    A vault key is none: it stands where the secret was in the environment, and so in a luigi.cfg that names
    the variable and is read while a task runs (by a worker within a task, or in a child of it).
    """
    configured = settings.vendor(vendor.name).secret
    if configured and not configured.startswith(KEY_PREFIX):
        return configured
    with _blocks.lock:
        if vendor.name in _secrets:
            return _secrets[vendor.name]
    found = os.environ if environ is None else environ
    values = (found.get(name, "") for name in vendor.secret_variables)
    secret = next((Secret(value) for value in values if value and not value.startswith(KEY_PREFIX)), None)
    redaction.learn(secret)
    return secret


def given(secrets: Mapping[str, str | None]) -> None:
    """Take the secrets that a child was sent: its environment has the vault key in their place."""
    redaction.learn(*secrets.values())
    with _blocks.lock:
        _secrets.update(secrets)


def hidden(vendor: Vendor, secret: str | None, key: str) -> AbstractContextManager[None]:
    """Let task code (and its subprocesses) find `key` in every variable that holds `secret`, and what else
    the vendor's SDK asks the environment for.

    The environment belongs to the process: with several attempts in one process the last key is
    found, and the last attempt to end puts the variables back. The proxy accepts any of their keys.
    """
    return _blocks.block(lambda _: _hide(vendor, secret, key), _put_back)


def _hide(vendor: Vendor, secret: str | None, key: str) -> None:
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


def _put_back(last: bool) -> None:
    if not last:
        return
    for name, before in _hidden.items():
        if before is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = before
    _hidden.clear()
    _secrets.clear()
