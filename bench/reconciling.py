"""What it takes to compare a long ledger with a vendor's books: seconds and the most memory of a process.

    python -m bench.reconciling FOLDER PAYMENTS

Stripe's lists are made as they are asked for, so that they take no memory; nothing waits for a vendor's rate.
Of every hundred payments one of each kind differs; each has to be found.
"""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from luigi_spendguard.config import Settings
from luigi_spendguard.ledger import Ledger
from luigi_spendguard.ledger.database.engines import opened
from luigi_spendguard.reconcile import Reconciler
from luigi_spendguard.settings import VendorSettings
from luigi_spendguard.vendors import Reply, Request
from luigi_spendguard.vendors.own_books import Period
from luigi_spendguard.vendors.stripe.tags import tag_of
from tests.support.processes import REPOSITORY

_CENTS, _MICROS = 500, 5_000_000
#: What differs of a hundred payments, by the last two digits of their numbers.
_PLANTED = {
    1: "outside",
    2: "not_there",
    3: "unconfirmed",
    4: "cancelled",
    5: "amount",
    6: "made",
    7: "in_doubt",
    8: "refunded",
    9: "disputed",
    10: "currency",
}
#: Lists in which each payment has a line.
LISTS = ("payment_intents", "charges", "balance_transactions")


def kind_of(number: int) -> str:
    """Return what is planted at a payment, "" for nothing."""
    return _PLANTED.get(number % 100, "")


class MadeLists:
    """A transport that makes the lists of so many payments as it is asked for them, newest first."""

    def __init__(self, payments: int, now: int) -> None:
        self.payments, self.now, self.pages = payments, now, 0

    def send(self, request: Request, deadline: float, timeout_s: float, connect_s: float = 0) -> Reply:
        """Answer a GET of a list."""
        parts = urlsplit(request.url)
        query, kind = dict(parse_qsl(parts.query)), parts.path.removeprefix("/v1/")
        number = (
            int(query["starting_after"].rpartition("_")[2]) if "starting_after" in query else self.payments
        )
        self.pages += 1
        if kind.startswith("payment_intents/"):  # What no list has is not there.
            return Reply(404, {}, b"{}")
        page: list[dict[str, Any]] = []
        while number > 0 and len(page) < 100:
            number -= 1
            line = self._line(kind, number)
            if line is not None:
                page.append(line)
        return Reply(200, {}, json.dumps({"object": "list", "data": page, "has_more": number > 0}).encode())

    def _line(self, kind: str, number: int) -> dict[str, Any] | None:
        planted, intent = kind_of(number), f"pi_{number:08d}"
        facts: dict[str, Any] = {"created": self.now - number % 80_000, "currency": "usd"}
        if planted == "currency":
            facts["currency"] = "eur"
        about = {"payment_intent": intent, "charge": f"ch_{number:08d}", "status": "succeeded"}
        if kind == "refunds" and planted == "refunded":
            return {**facts, **about, "id": f"re_{number:08d}", "object": "refund", "amount": 100}
        if kind == "disputes" and planted == "disputed":
            named = {"id": f"dp_{number:08d}", "object": "dispute", "amount": _CENTS, "status": "lost"}
            return {**facts, **about, **named}
        if planted in ("not_there", "in_doubt"):
            return None
        moved = 0 if planted in ("unconfirmed", "cancelled") else _CENTS - 100 * (planted == "amount")
        if kind == "payment_intents":
            status = {"unconfirmed": "requires_payment_method", "cancelled": "canceled"}
            metadata = {"spendguard_call": tag_of(f"key-{number}")} if planted == "made" else {}
            named = {"id": intent, "object": "payment_intent", "amount": _CENTS, "metadata": metadata}
            return {
                **facts,
                **named,
                "amount_received": moved,
                "status": status.get(planted, "succeeded"),
                "latest_charge": about["charge"] if moved else None,
            }
        if not moved or kind not in LISTS:
            return None
        charge = {**facts, "id": about["charge"], "object": "charge", "amount": moved, "captured": True}
        charge |= {"amount_captured": moved, "status": "succeeded", "payment_intent": intent}
        if kind == "charges":
            return charge
        named = {"id": f"txn_{number:08d}", "type": "charge", "amount": moved, "fee": 44}
        return {**facts, **named, "object": "balance_transaction", "source": charge}


def write_calls(path: Path, payments: int, now: int) -> None:
    """Write the ledger's side of so many payments, at once: real operations would take minutes for it."""
    Ledger(path).close()
    calls, objects = [], []
    for number in range(payments):
        planted, call_id, intent = kind_of(number), f"call-{number:08d}", f"pi_{number:08d}"
        if planted in ("outside",):
            continue
        doubt = planted in ("made", "in_doubt")
        at = (now - number % 80_000) * 1000
        calls.append(
            (
                *(call_id, f"T{number}", f"cus_{number}", f"key-{number}", None if doubt else intent),
                *("in_doubt" if doubt else "settled", _MICROS, _MICROS, 0 if doubt else _MICROS, at, at),
            )
        )
        if not doubt:
            objects.append((intent, call_id, _MICROS, _MICROS))
    with sqlite3.connect(path) as db:
        db.executemany(
            "INSERT INTO call (id, run_id, claim_id, task_id, family, vendor, account, operation, method,"
            " path, target, wire_key, object_id, verdict, state, asked_micros, reserved_micros,"
            " settled_micros,"
            " created_at, ended_at, ordinal, epoch, fingerprint, currency, reason, message, corrected_micros,"
            " overrun_micros, sender, ask, unknown, relayed, timeout_ms, status, declined, formula, tries,"
            " tagged) VALUES (?,'run','c',?,'Charge','stripe','stripe:test','payment_intents.create','POST',"
            "'/v1/payment_intents',?,?,?,'allowed',?,?,?,?,?,?,0,0,'','usd','','',0,0,'',1,0,0,80000,200,0,0,0,1)",
            calls,
        )
        db.executemany(
            "INSERT INTO vendor_object (vendor, account, object_id, run_id, call_id, counted_micros,"
            " worth_micros, customer) VALUES ('stripe','stripe:test',?,'run',?,?,?,'')",
            objects,
        )


def _most_mb(*, anew: bool = False) -> float:
    """Return the most memory that this process had, in MB; `anew`: from now on."""
    if anew:
        Path("/proc/self/clear_refs").write_text("5")
    [line] = [one for one in Path("/proc/self/status").read_text().splitlines() if one.startswith("VmHWM")]
    return round(int(line.split()[1]) / 1024, 1)


def compare(folder: Path, payments: int) -> dict[str, Any]:
    """Compare so many payments; return seconds, lines, pages, MB, and what was found and planted."""
    now = int(time.time()) - 600
    write_calls(folder / "ledger.db", payments, now)
    transport = MadeLists(payments, now)
    secret = "sk_test_bench"
    stripe = VendorSettings("stripe", secret=secret)
    settings = Settings(folder / "ledger.db", vendors={"stripe": stripe}, fx={"eur": Decimal("1.12")})
    before = _most_mb(anew=True)
    begun = time.perf_counter()
    with opened(folder / "ledger.db", read_only=True) as ledger:
        one = Reconciler("stripe", settings, secret, ledger, transport, folder / "work", lambda seconds: None)
        period = Period((now - 86_400) * 1000, (now + 300) * 1000)
        done = one.reconcile("stripe:test", period)
    seconds = time.perf_counter() - begun
    lines = sum(count for _, count in done.file.counts().values())
    found = dict(Counter(difference.kind.value for difference in done.differences()))
    done.file.remove()
    return {
        "lines": lines,
        "pages": transport.pages,
        "s": round(seconds, 2),
        "lines_s": round(lines / seconds),
        "mb": _most_mb(),
        "before_mb": before,
        "found": found,
        "planted": dict(Counter(kind for number in range(payments) if (kind := kind_of(number)))),
    }


def measure_reconcile(folder: Path, sizes: tuple[int, ...]) -> dict[str, Any]:
    """Return the figures of ledgers of so many payments, each in a process of its own."""
    figures = {}
    for payments in sizes:
        (place := folder / str(payments)).mkdir(parents=True)
        command = [sys.executable, "-m", "bench.reconciling", str(place), str(payments)]
        done = subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.PIPE, check=True)
        figures[str(payments)] = json.loads(done.stdout)
        assert figures[str(payments)]["found"] == figures[str(payments)]["planted"]
    return figures


if __name__ == "__main__":
    print(json.dumps(compare(Path(sys.argv[1]), int(sys.argv[2]))))
