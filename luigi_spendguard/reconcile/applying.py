"""What is certain is booked: as an operator would say it to luigid's `resolve`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

from luigi_spendguard.money import Micros, plain_usd
from luigi_spendguard.reconcile.differences import Cause, Difference


class Booking:
    """Books what is certain of one comparison.

    Attributes:
        resolve: says the body of a `POST /calls/{id}/resolve` to luigid, and returns its answer.

    """

    def __init__(self, resolve: Callable[[str, dict[str, Any]], Mapping[str, Any]]) -> None:
        self.resolve = resolve
        self._booked: dict[str, int] = {}

    def book(self, difference: Difference) -> bool:
        """Book a difference; return whether it was certain. What `resolve` raises is raised.

        What has changed since it was compared is not overwritten, but for what was booked here of another
        one of several things that the call has opened.
        """
        body = resolution_of(difference)
        if body is None:
            return False
        call = difference.call
        answer = self.resolve(call, {**body, "as_of": self._booked.get(call, difference.entry)})
        self._booked[call] = int(answer["as_of"])
        return True


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
