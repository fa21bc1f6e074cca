"""The look-alikes of vendors as processes, and their books."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import urllib3

from tests.support.processes import Process, environment

_http = urllib3.PoolManager(timeout=30, retries=False)


class FakeVendor:
    """A fake vendor's process and its books."""

    name: str

    def __init__(self, folder: Path, *args: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        port_file = folder / f"{self.name}.port"
        port_file.unlink(missing_ok=True)
        self.process = Process(
            ["-m", f"tests.support.fake_{self.name}", "--port-file", str(port_file), *args],
            folder / f"{self.name}.log",
            folder,
            environment(),
            port_file.exists,
        )
        self.url = f"http://127.0.0.1:{port_file.read_text()}"

    def books(self) -> dict[str, Any]:
        """Return all that it has noted."""
        return json.loads(_http.request("GET", f"{self.url}/_control").data)

    def posts(self) -> list[dict[str, Any]]:
        """Return the POST requests that arrived."""
        return [request for request in self.books()["requests"] if request["method"] == "POST"]

    def fault(self, fault: str, **more: Any) -> None:
        """Break the next matching request (`times`, `match`)."""
        self.control(faults=[{"fault": fault, **more}])

    def control(self, **said: Any) -> None:
        """Change options or add faults."""
        _http.request("POST", f"{self.url}/_control", body=json.dumps(said))

    @contextmanager
    def holding(self, *, reads: bool = True) -> Iterator[None]:
        """Let requests arrive in the block; what they ask for is done, and answered, after it.

        `reads`: so is what only reads; at Stripe it may be answered at once.
        """
        self.control(options={"held": reads or "writes"})
        try:
            yield
        finally:
            self.control(options={"held": False})

    def forget(self) -> None:
        """Begin with empty books."""
        _http.request("DELETE", f"{self.url}/_control")


class FakeStripe(FakeVendor):
    """Its books: requests, movements of money and objects."""

    name = "stripe"

    def moved(self) -> int:
        """Return what has moved in all, in minor units."""
        return sum(entry["amount"] for entry in self.books()["moved"])


class FakeReadings(FakeStripe):
    """A Stripe that reads forms as whatever server reads them worst; its books are in cents."""

    name = "readings"


class FakeTwilioReadings(FakeVendor):
    """A Twilio that reads forms as whatever server reads them worst; its books are in cents."""

    name = "twilio_readings"


class FakeResendReadings(FakeVendor):
    """A Resend that reads JSON as whatever parser reads it worst; its books are in cents."""

    name = "resend_readings"


class FakeTwilio(FakeVendor):
    """Its books: requests, what was sent at which price, and objects."""

    name = "twilio"

    def sent(self) -> list[dict[str, Any]]:
        """Return what was sent, called, verified, looked up or bought."""
        return self.books()["sent"]

    def billed(self) -> int:
        """Return what the vendor bills in all, in micro-dollars."""
        return sum(entry["micros"] for entry in self.sent())


class FakeResend(FakeVendor):
    """Its books: requests, the mails and their recipients, and objects."""

    name = "resend"

    def sent(self) -> list[dict[str, Any]]:
        """Return the mails, those that are scheduled or were cancelled too."""
        return self.books()["sent"]

    def mails(self) -> int:
        """Return how many recipients are mailed in all."""
        return sum(len(entry["recipients"]) for entry in self.sent() if not entry["cancelled"])


async def cancelled(call: Awaitable[Any], vendor: FakeVendor) -> None:
    """Make a call, and cancel it once the vendor has it."""
    made = asyncio.ensure_future(call)
    while not vendor.posts():
        await asyncio.sleep(0.01)
    made.cancel()
    await asyncio.wait([made])
    assert made.cancelled()
