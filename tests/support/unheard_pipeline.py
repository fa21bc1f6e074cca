"""The pipelines of `pipelines`, in a worker whose ledger does not hear some of what it is told.

`UNHEARD` names RPCs at which luigid is away.
"""

from __future__ import annotations

import os
from typing import Any

from luigi_spendguard.errors import LedgerUnavailable
from luigi_spendguard.http.ledger_client import HttpLedgerClient
from tests.support.pipelines import Charge, Recurring

__all__ = ["Charge", "Recurring"]

_ask = HttpLedgerClient._ask


def _unheard(client: HttpLedgerClient, rpc: Any, *args: Any, **more: Any) -> Any:
    if rpc.name in os.environ.get("UNHEARD", "").split():
        raise LedgerUnavailable("it is away")
    return _ask(client, rpc, *args, **more)


HttpLedgerClient._ask = _unheard
