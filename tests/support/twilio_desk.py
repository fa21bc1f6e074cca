"""Guarded calls of one task to the fake Twilio, on a real ledger file, and the prices that come later."""

from __future__ import annotations

import base64
import time
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from luigi_spendguard.config import Settings, VendorSettings
from luigi_spendguard.guard import Guard
from luigi_spendguard.guard.effects import Call, Finish, Reserve, Send
from luigi_spendguard.http.blocking import BlockingTransport
from luigi_spendguard.late_prices import Corrector
from luigi_spendguard.ledger import corrections, queries
from luigi_spendguard.protocol import EndRequest
from luigi_spendguard.protocol.rpcs import (
    CorrectReply,
    CorrectRequest,
    DuePrice,
    DuePricesReply,
    DuePricesRequest,
)
from luigi_spendguard.proxy import environment
from luigi_spendguard.vendors import FollowedUp, Reply, Request
from luigi_spendguard.vendors.twilio import VENDOR
from tests.support.books import Books
from tests.support.lives import lived
from tests.support.vendors import FakeTwilio

SID = "AC" + "1" * 32
SECRET = "twilio_canary_5f1b7c9d3e"
#: Micro-dollars a segment; no fees, so that the vendor's books and ours are the same.
OWN = {"account_sid": SID, "sms_prices": {"1": 10_000}, "sms_fees": {"1": 0}, "failed_price": 0}


class TwilioDesk:
    """One task's calls; `lost`: the next reply does not arrive, and the process is gone."""

    def __init__(self, books: Books, fake: FakeTwilio, **own: Any) -> None:
        self.books, self.fake = books, fake
        self.settings = VendorSettings("twilio", SECRET, base_url=fake.url, timeout_s=5.0, own={**OWN, **own})
        self._transport = BlockingTransport()
        self._guard = Guard(VENDOR, self.settings, SECRET, {}, time.monotonic)
        whole = Settings(Path("/none"), vendors={"twilio": self.settings})
        self.corrector = Corrector(self, lambda: whole, environment.secret_of)
        self.again()

    def again(self, task_id: str = "Notify_1") -> None:
        """Begin a new attempt of a task."""
        self.key = self.books.claim(task_id)

    def message(self, body: str = "Hello", **more: str) -> Reply:
        """Send a message."""
        said = {"To": "+14155550100", "From": "+14155550199", "Body": body, **more}
        return self.post(f"/2010-04-01/Accounts/{SID}/Messages.json", said)

    def post(self, path: str, said: dict[str, str], host: str = "api.twilio.com") -> Reply:
        """Make a call as the SDK does."""
        user = base64.b64encode(f"{SID}:{SECRET}".encode()).decode()
        headers = {"authorization": f"Basic {user}", "content-type": "application/x-www-form-urlencoded"}
        return self.call(Request("POST", f"https://{host}{path}", headers, urlencode(said).encode()))

    def call(self, request: Request) -> Reply:
        """Live one call to its end."""
        return lived(self._guard.guarded(request, Call()), self._do)

    def _do(self, effect: Any) -> Any:
        if isinstance(effect, Reserve):
            return self.books.reserve(self.key, effect.ask)
        if isinstance(effect, Finish):
            return self.books.end(self.key, effect.end)
        assert isinstance(effect, Send), effect
        return self._transport.send(effect.request, effect.deadline, 5.0)

    def end(self, call_id: str, **said: Any) -> None:
        """Say how a call ended, as its sender would."""
        self.books.end(self.key, EndRequest(call_id=call_id, **said))

    def calls(self) -> list[dict[str, Any]]:
        """Return the calls that are not reads, oldest first."""
        shown = self.books.read(queries.calls)
        return [one for one in reversed(shown) if one["method"] != "GET"]

    def posts(self) -> int:
        """Return how many messages the vendor was asked to send."""
        return len(self.fake.posts())

    # The `PriceLedger`.

    def due_prices(self, request: DuePricesRequest) -> DuePricesReply:
        rows = self.books.write(lambda tx: corrections.due(tx, list(request.vendors), relayed_too=True))
        return DuePricesReply(tuple(map(DuePrice.from_json, rows)))

    def correct(self, request: CorrectRequest) -> CorrectReply:
        named = request.total_micros, request.final, request.note, request.whole, request.problem
        call = self.books.write(lambda tx: corrections.correct(tx, request.call_id, FollowedUp(*named)))
        return CorrectReply(call is not None)

    def prices_are_due(self) -> None:
        """Let the time pass until every price is asked for again."""
        self.books.write(lambda tx: tx.run("UPDATE price_due SET due_at = 0"))

    def with_rates(self, **rates: str) -> None:
        """Let luigi.cfg have rates from now on."""
        fx = {currency.lower(): Decimal(rate) for currency, rate in rates.items()}
        whole = Settings(Path("/none"), vendors={"twilio": self.settings}, fx=fx)
        self.corrector = Corrector(self, lambda: whole, environment.secret_of)

    def with_account(self, account: str) -> None:
        """Let luigi.cfg name another account from now on."""
        other = replace(self.settings, own={**self.settings.own, "account_sid": account})
        self.corrector = Corrector(
            self, lambda: Settings(Path("/none"), vendors={"twilio": other}), environment.secret_of
        )
