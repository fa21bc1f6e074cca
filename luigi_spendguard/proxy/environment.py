"""Where the secret is, and what the code and the programs of a pipeline find in its place.

While a worker runs here, no variable of the environment holds a vendor's secret: inside a vendor task's
`run()` it holds the attempt's vault key, elsewhere a stand-in, which nobody takes. The SDKs' calls that only
read pass outside vendor tasks, and what a stand-in stands for is put into them where they are sent
(`call.revealed`): in this process and its children by `multiprocessing`, for its whole life, as code may
keep a client that it has made with one. The programs that a task starts find this machine in `NO_PROXY`.
"""

from __future__ import annotations

import base64
import binascii
import os
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import NamedTuple

from luigi_spendguard import config, redaction
from luigi_spendguard.config import Settings
from luigi_spendguard.process_state import Blocks, at_fork
from luigi_spendguard.protocol import KEY_PREFIX
from luigi_spendguard.redaction import Secret
from luigi_spendguard.vendors import Vendor
from luigi_spendguard.vendors.registry import VENDORS

#: How every stand-in begins.
STAND_IN = "no-secret-outside-vendor-tasks"
#: How what stands in a secret's place begins.
_NO_SECRET = (KEY_PREFIX, STAND_IN)


class _Running(NamedTuple):
    """One vendor of an attempt that runs here: its secret, and the attempt's key."""

    vendor: Vendor
    secret: str | None
    key: str


class Hidden(NamedTuple):
    """What the variables held, what was put there, and what the stand-ins stand for."""

    held: dict[str, str | None]
    put: dict[str, str]
    stand_ins: dict[str, Secret]


_lock = threading.Lock()
_running: list[_Running] = []
_in_worker = False
#: What the variables held that hold something else now (None: nothing), and what was put there.
_held: dict[str, str | None] = {}
_put: dict[str, str] = {}
#: The stand-ins of this process, and what they stand for.
_stand_ins: dict[str, Secret] = {}
#: Secrets of luigi.cfg, under whatever name the environment may have them.
_configured: set[str] = set()


def _begin_anew() -> None:
    global _lock
    _lock = threading.Lock()


at_fork(_begin_anew)


def learn(vendor: Vendor) -> None:
    """Take what this vendor's usual variables hold out of all that this process says."""
    values = (os.environ.get(name, "") for name in vendor.secret_variables)
    redaction.learn(*(value for value in values if not value.startswith(_NO_SECRET)))


def environ() -> dict[str, str]:
    """Return the environment as it was before anything was put into it: what luigi.cfg is read with."""
    with _lock:
        before = {name: text for name, text in os.environ.items() if _put.get(name) != text}
        before |= {name: text for name, text in _held.items() if text is not None and name not in before}
    return before


def secret_of(vendor: Vendor, settings: Settings) -> str | None:
    """Return the vendor's secret: from luigi.cfg, else from its usual environment variable.

    A vault key is none, nor is a stand-in: they stand where the secret was in the environment, and so in a
    luigi.cfg that names the variable and is read by a program that a task starts.
    """
    configured = settings.vendor(vendor.name).secret
    if configured and not configured.startswith(_NO_SECRET):
        return configured
    variables = environ()
    values = [variables.get(name, "") for name in vendor.secret_variables]
    if configured:
        values.insert(0, stands_for(configured))
    secret = next((Secret(value) for value in values if value and not value.startswith(_NO_SECRET)), None)
    redaction.learn(secret)
    return secret


def is_elsewhere_too(settings: Settings) -> bool:
    """Return whether luigi.cfg has a secret that is not in the environment: a program may read it there."""
    values = set(environ().values())
    return any(vendor.secret and vendor.secret not in values for vendor in settings.vendors.values())


def is_stand_in(text: str) -> bool:
    """Return whether `text` is a stand-in, of this process or of the one that has started it."""
    return text.startswith(STAND_IN)


def stands_for(text: str) -> str:
    """Return what a stand-in of this process stands for; any other text as it is."""
    return _stand_ins.get(text, text)


def authorized(authorization: str) -> str:
    """Return an `Authorization` header with what the stand-in in it stands for; any other as it is."""
    scheme, _, credential = authorization.partition(" ")
    credential = credential.strip()
    if scheme.lower() == "bearer" and credential in _stand_ins:
        return Secret(f"{scheme} {_stand_ins[credential]}")
    if scheme.lower() == "basic" and _stand_ins:
        try:
            user, colon, password = base64.b64decode(credential, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return authorization
        if {user, password} & set(_stand_ins):
            shown = f"{stands_for(user)}{colon}{stands_for(password)}"
            return Secret(f"{scheme} {base64.b64encode(shown.encode()).decode()}")
    return authorization


# What the environment holds.


def worker_runs() -> None:
    """Let no variable hold a secret from now on."""
    global _in_worker
    secrets = set() if _in_worker else _of_the_configuration()
    with _lock:
        _configured.update(secrets)
        _in_worker = True
        _arrange()


def no_worker_runs() -> None:
    """Put back what the variables held, except what a vendor task that still runs has there."""
    global _in_worker
    with _lock:
        _in_worker = False
        _arrange()
        _configured.clear()


@contextmanager
def hidden(vendor: Vendor, secret: str | None, key: str) -> Iterator[None]:
    """Let task code (and its programs) find `key` in every variable that holds `secret`, and what else the
    vendor's SDK asks the environment for.

    The environment belongs to the process: with several attempts in one process the last one's key is found.
    The proxy accepts any of their keys.
    """
    running = _Running(vendor, secret, key)
    with _lock:
        _running.append(running)
        _arrange()
    try:
        yield
    finally:
        with _lock:
            _running.remove(running)
            _arrange()


def hidden_now() -> Hidden:
    """Return what a child needs to know, whose environment is this one's."""
    with _lock:
        return Hidden(dict(_held), dict(_put), dict(_stand_ins))


def take_over(hidden: Hidden) -> None:
    """Take what a child was sent, which runs in a worker's stead."""
    global _in_worker
    redaction.learn(*hidden.held.values(), *hidden.stand_ins.values())
    with _lock:
        _in_worker = True
        _held.update(hidden.held)
        _put.update(hidden.put)
        _stand_ins.update(hidden.stand_ins)


def _of_the_configuration() -> set[str]:
    try:
        vendors = config.load(environ=environ()).vendors.values()
    except config.ConfigError:  # It matters to vendor tasks only, which are told.
        return set()
    return {vendor.secret for vendor in vendors if vendor.secret and not vendor.secret.startswith(_NO_SECRET)}


def _arrange() -> None:
    """Let each variable hold what it is to hold now. The lock is held."""
    for name in [name for name, text in _put.items() if os.environ.get(name) != text]:
        del _held[name], _put[name]  # Somebody has put something else there, or taken it away.
    if _in_worker or _running:
        usual = {name for vendor in VENDORS.values() for name in vendor.secret_variables}
        secrets = _configured | {each.secret for each in _running if each.secret}
        for name, text in list(os.environ.items()):
            is_secret = (name in usual and text and not text.startswith(_NO_SECRET)) or text in secrets
            if name not in _held and is_secret:
                # As a Secret: in Python 3.10 this frame is on the stack of whatever the task raises.
                _held[name] = Secret(text)
    wanted: dict[str, str] = {name: _stand_in(text) for name, text in _held.items() if text}
    if not _in_worker and not _running:
        wanted.clear()
    for each in _running:
        variables = each.vendor.secret_variables
        wanted |= {name: each.key for name, text in _held.items() if text and text == each.secret}
        if variables and not any(
            _held.get(name) or (name not in _held and os.environ.get(name)) for name in variables
        ):
            wanted[variables[0]] = each.key
        wanted |= {
            name: text
            for name, text in each.vendor.stand_ins.items()
            if name in _held or not os.environ.get(name)
        }
    for name in [*_held, *wanted]:
        _hold(name, wanted.get(name))


def _hold(name: str, text: str | None) -> None:
    if text is not None:
        _held.setdefault(name, os.environ.get(name))
        os.environ[name] = _put[name] = text
        return
    before = _held.pop(name, None)
    _put.pop(name, None)
    if before is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = before


def _stand_in(value: str) -> str:
    known = next((text for text, stood in _stand_ins.items() if stood == value), None)
    if known is None:
        known = f"{STAND_IN}-{len(_stand_ins) + 1}" if _stand_ins else STAND_IN
        redaction.learn(value)
        _stand_ins[known] = Secret(value)
    return known


_NO_PROXY = ("NO_PROXY", "no_proxy")
_THIS_MACHINE = ("127.0.0.1", "localhost")

_blocks = Blocks()
#: What stood in each of `_NO_PROXY` before, and what was put there.
_unproxied: dict[str, tuple[str | None, str]] = {}


def past_proxies() -> AbstractContextManager[None]:
    """Name this machine in `NO_PROXY` and `no_proxy` while the block, or another one, runs."""
    return _blocks.block(_name_this_machine, _leave_this_machine)


def _name_this_machine(first: bool) -> None:
    if not first:
        return
    values = {name: os.environ.get(name) for name in _NO_PROXY}
    for name, value in values.items():
        # Of the two a program reads one: each says what either said.
        stated = value or next(filter(None, values.values()), "")
        added = [host for host in _THIS_MACHINE if host not in stated.replace(" ", "").split(",")]
        text = stated if stated.strip() == "*" else ",".join(filter(None, (stated, *added)))
        _unproxied[name] = value, text
        os.environ[name] = text


def _leave_this_machine(last: bool) -> None:
    if not last:
        return
    for name, (value, text) in _unproxied.items():
        if os.environ.get(name) != text:
            continue  # The task has put something else there.
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value
    _unproxied.clear()
