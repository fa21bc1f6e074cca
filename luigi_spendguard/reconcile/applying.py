"""What is certain is booked: as an operator would say it to luigid's `resolve`."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from luigi_spendguard.money import Micros, plain_usd
from luigi_spendguard.reconcile.differences import Cause, Difference


def resolution_of(difference: Difference) -> dict[str, Any] | None:
    """Return the body of the `POST /calls/{id}/resolve` that books a difference; None: it is not certain.

    What is booked of a call as it is has one `request_id`: however often it is said, it counts once. Once
    more is known of the call it is another one: a price may come again that was booked before.
    """
    if not difference.certain or difference.spent is None:
        return None
    said = [difference.call, difference.entry, difference.subject, difference.spent]
    body: dict[str, Any] = {
        "spent_usd": plain_usd(Micros(difference.spent)),
        "request_id": f"reconcile-{hashlib.sha256(json.dumps(said).encode()).hexdigest()[:32]}",
    }
    if difference.opened:
        body["object_id"] = difference.opened
    return body if difference.kind is Cause.MADE else body | {"by_books": True, "overrun": True}
