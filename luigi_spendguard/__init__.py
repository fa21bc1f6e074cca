"""Luigi pipelines that cannot spend more than their cap at Stripe, Twilio, Resend and other vendors.

Importing `VendorTask` (or calling `install()`) installs the patched worker; by the package's import
alone it is installed when Luigi begins to run a pipeline.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from luigi_spendguard import first_worker

if TYPE_CHECKING:
    from luigi_spendguard.errors import BudgetExceeded, KeyRevoked, OutcomeUnknown, SpendDenied
    from luigi_spendguard.proxy.call import idempotency_key
    from luigi_spendguard.proxy.listener import spend_proxy
    from luigi_spendguard.tasks import VendorTask
    from luigi_spendguard.vault_key_task import VaultKeyTask
    from luigi_spendguard.worker import WorkerSchedulerFactory, install

__version__ = "0.1.0"

__all__ = [
    "BudgetExceeded",
    "KeyRevoked",
    "OutcomeUnknown",
    "SpendDenied",
    "VaultKeyTask",
    "VendorTask",
    "WorkerSchedulerFactory",
    "idempotency_key",
    "install",
    "spend_proxy",
]

_HOME = {
    "BudgetExceeded": "errors",
    "KeyRevoked": "errors",
    "OutcomeUnknown": "errors",
    "SpendDenied": "errors",
    "VaultKeyTask": "vault_key_task",
    "VendorTask": "tasks",
    "WorkerSchedulerFactory": "worker",
    "idempotency_key": "proxy.call",
    "install": "worker",
    "spend_proxy": "proxy.listener",
}


def __getattr__(name: str) -> Any:
    # Late, so that luigid and the command line need not load the vendors' SDKs.
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


first_worker.watch()
