"""What a vendor task's first call loads is loaded in the worker, once: the children it forks have it then.

An SDK loads most of itself when it is first used, and every task has a child of its own, which would load it
again. What is known to be loaded is here before the first vendor task is started (`prepare`); what else of an
SDK a task has loaded its child tells (`loaded_since`), and those after it have that, too (`take`). A child
that is spawned, or made by a forkserver, has nothing of this process: nothing is loaded for it.

Another thread's worker (`luigi.build` in several) forks none meanwhile: in its child a module that is half
loaded stays so, and who imports it waits for ever.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import multiprocessing
import sys
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from luigi.worker import fork_lock

from luigi_spendguard.http.addresses import prepare_tls
from luigi_spendguard.protocol import messages, rpcs
from luigi_spendguard.proxy import resend, stripe, twilio
from luigi_spendguard.worker.runs import vendors_of

logger = logging.getLogger(__name__)

#: What loads all that an SDK, and the guard of it, are known to load late, by the SDK's name.
_LATE = {"stripe": stripe.preload, "twilio": twilio.preload, "resend": resend.preload}
#: SDKs, and the HTTP clients by which they send: loading a part of one does nothing else.
_PACKAGES = frozenset(
    {"stripe", "twilio", "resend", "requests", "urllib3", "httpx", "httpcore", "aiohttp", "luigi_spendguard"}
)
#: What an attempt says to luigid.
_RPCS: tuple[rpcs.Rpc[Any, Any], ...] = (
    rpcs.CLAIM,
    rpcs.FINISH,
    rpcs.RESERVE,
    rpcs.ATTEMPT,
    *rpcs.ENDS.values(),
)
_prepared: set[str] = set()


@dataclass(frozen=True)
class Loaded:
    """What a child has loaded of SDKs, the names of modules; it travels with the results of tasks."""

    names: tuple[str, ...]


def prepare(task: Any) -> bool:
    """Load what the SDKs of this pipeline load late: those that it has imported, or that `task` names.

    Called before the process of a vendor task is started. Returns whether that is forked.
    """
    if multiprocessing.get_start_method() != "fork":
        return False
    named: list[str] = []
    with _only_helping("vendors"):
        named = vendors_of(task)
    with fork_lock:
        prepare_tls()
        for rpc in _RPCS:
            messages.prepare(rpc.request, rpc.reply)
        for name in _LATE.keys() - _prepared:
            if name in named or _is_imported(name):
                _prepared.add(name)
                with _only_helping(name):
                    _LATE[name]()
    return True


def _is_imported(name: str) -> bool:
    """Return whether the pipeline has imported an SDK: this package imports that of Stripe itself."""
    sdk = sys.modules.get(name)
    if sdk is None:
        return False
    if f"{name}.rest" in sys.modules:  # Twilio's clients are there.
        return True
    return any(
        isinstance(module, ModuleType) and vars(module).get(name) is sdk
        for other, module in list(sys.modules.items())
        if other.partition(".")[0] not in (name, "luigi_spendguard")
    )


def loaded_since(before: AbstractSet[str]) -> Loaded | None:
    """Return what of SDKs this process has loaded since its modules were `before`; None for nothing."""
    late = [name for name in sys.modules.keys() - before if name.partition(".")[0] in _PACKAGES]
    return Loaded(tuple(sorted(late))) if late else None


def take(loaded: Loaded) -> None:
    """Load what a child has loaded."""
    with fork_lock:
        for name in loaded.names:
            if name not in sys.modules:
                with _only_helping(name):
                    importlib.import_module(name)


@contextlib.contextmanager
def _only_helping(name: str) -> Iterator[None]:
    """Go on without what cannot be loaded: the task that needs it says so."""
    try:
        yield
    except Exception as error:
        logger.debug("%s was not loaded beforehand: %s", name, error)
