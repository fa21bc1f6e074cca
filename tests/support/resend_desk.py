"""Guarded calls of one task to the fake Resend, on a real ledger file."""

from __future__ import annotations

import json
import time
from typing import Any

from luigi_spendguard.config import VendorSettings
from luigi_spendguard.guard import Guard
from luigi_spendguard.guard.effects import Call, Finish, Reserve, Send
from luigi_spendguard.http.blocking import BlockingTransport
from luigi_spendguard.ledger import queries
from luigi_spendguard.vendors import Reply, Request
from luigi_spendguard.vendors.resend import VENDOR
from tests.support.books import Books
from tests.support.lives import lived
from tests.support.vendors import FakeResend

SECRET = "re_canary_5f1b7c9d3e"


class ResendDesk:
    """One task's calls."""

    def __init__(self, books: Books, fake: FakeResend, **own: Any) -> None:
        self.books, self.fake = books, fake
        self.settings = VendorSettings("resend", SECRET, base_url=fake.url, timeout_s=5.0, own=own)
        self._transport = BlockingTransport()
        self._guard = Guard(VENDOR, self.settings, SECRET, {}, time.monotonic)
        self.again()

    def again(self, task_id: str = "Mail_1") -> None:
        """Begin a new attempt of a task."""
        self.key = self.books.claim(task_id, family="Mail")

    def mail(self, to: Any, subject: str = "Hello", **more: Any) -> Reply:
        """Send a mail."""
        return self.post("/emails", mail_to(to, subject, **more))

    def post(self, path: str, said: Any) -> Reply:
        """Make a call as the SDK does."""
        headers = {"authorization": f"Bearer {SECRET}", "content-type": "application/json"}
        request = Request("POST", f"https://api.resend.com{path}", headers, json.dumps(said).encode())
        return lived(self._guard.guarded(request, Call()), self._do)

    def _do(self, effect: Any) -> Any:
        if isinstance(effect, Reserve):
            return self.books.reserve(self.key, effect.ask)
        if isinstance(effect, Finish):
            return self.books.end(self.key, effect.end)
        assert isinstance(effect, Send), effect
        return self._transport.send(effect.request, effect.deadline, 5.0)

    def calls(self) -> list[dict[str, Any]]:
        """Return the calls, oldest first."""
        return list(reversed(self.books.read(queries.calls)))


def mail_to(to: Any, subject: str = "Hello", **more: Any) -> dict[str, Any]:
    """Return a mail."""
    return {"from": "Acme <a@example.com>", "to": to, "subject": subject, "html": "<p>Hi</p>", **more}
