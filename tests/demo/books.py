"""The vendor's own books: what localstripe says was charged. Nothing here asks our ledger."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import requests

#: PaymentIntents asked for at once.
PAGE = 100


def local_session() -> requests.Session:
    """Return an HTTP session that ignores the environment's proxies and credentials."""
    session = requests.Session()
    session.trust_env = False
    return session


@dataclass(frozen=True)
class Charges:
    """Succeeded charges: how many, how many cents, and how often each row was charged."""

    count: int
    cents: int
    rows: Counter[str]

    @property
    def usd(self) -> str:
        """The sum as `$300.00`."""
        return f"${self.cents // 100:,}.{self.cents % 100:02d}"

    def of(self, prefix: str) -> Charges:
        """Return the charges of the rows whose id starts with `prefix` (every row costs $1.00)."""
        rows = Counter({row: times for row, times in self.rows.items() if row.startswith(prefix)})
        return Charges(rows.total(), 100 * rows.total(), rows)

    def twice(self) -> list[str]:
        """Return the rows that were charged more than once."""
        return sorted(row for row, times in self.rows.items() if times > 1)


class Books:
    """Reads the books of the Stripe at `url` with the real secret."""

    def __init__(self, url: str, secret: str) -> None:
        self._url = url
        self._session = local_session()
        self._session.headers["Authorization"] = f"Bearer {secret}"
        self._intents: list[dict[str, Any]] = []

    def new_customers(self, count: int) -> list[str]:
        """Make customers and return their ids."""

        def one(number: int) -> str:
            name = {"name": f"Customer {number}"}
            reply = self._session.post(f"{self._url}/v1/customers", data=name, timeout=30)
            reply.raise_for_status()
            return str(reply.json()["id"])

        with ThreadPoolExecutor(4) as pool:
            return list(pool.map(one, range(1, count + 1)))

    def count(self) -> int:
        """Return how many PaymentIntents there are."""
        return int(self._page(None, 1)["total_count"])

    def charges(self) -> Charges:
        """Add up the PaymentIntents that succeeded.

        Reads what is new: a succeeded PaymentIntent stays one (nothing here refunds), and localstripe
        takes 10 ms to list one.
        """
        more = True
        while more:
            page = self._page(self._intents[-1]["id"] if self._intents else None, PAGE)
            self._intents += page["data"]
            more = page["has_more"] and bool(page["data"])
        good = [intent for intent in self._intents if intent["status"] == "succeeded"]
        rows = Counter(str(intent["metadata"]["row_id"]) for intent in good)
        return Charges(len(good), sum(int(intent["amount"]) for intent in good), rows)

    def _page(self, after: str | None, limit: int) -> dict[str, Any]:
        asked: dict[str, str | int] = {"limit": limit}
        if after is not None:
            asked["starting_after"] = after
        reply = self._session.get(f"{self._url}/v1/payment_intents", params=asked, timeout=60)
        reply.raise_for_status()
        page: dict[str, Any] = reply.json()
        return page
