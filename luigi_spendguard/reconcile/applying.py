"""What is certain is booked: as an operator would say it to luigid's `resolve`."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from luigi_spendguard.money import Micros, plain_usd
from luigi_spendguard.reconcile.differences import Cause, Difference
from luigi_spendguard.reconcile.work_file import Work


def resolution_of(work: Work, difference: Difference) -> dict[str, Any] | None:
    """Return the body of the `POST /calls/{id}/resolve` that books a difference; None: it is not certain.

    The same difference of the same period has the same `request_id`: however often it is booked, it counts
    once.
    """
    if not difference.certain or difference.spent is None:
        return None
    said: list[object] = [
        work.vendor,
        work.account,
        vars(work.period),
        difference.call,
        difference.subject,
        difference.kind.value,
    ]
    said += [difference.vendor_micros, difference.ledger_micros, difference.spent]
    body: dict[str, Any] = {
        "spent_usd": plain_usd(Micros(difference.spent)),
        "request_id": f"reconcile-{hashlib.sha256(json.dumps(said).encode()).hexdigest()[:32]}",
    }
    if difference.opened:
        body["object_id"] = difference.opened
    return body if difference.kind is Cause.MADE else body | {"by_books": True, "overrun": True}
