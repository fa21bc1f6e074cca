"""A real ledger file, and the operations on it as luigid does them."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

from luigi_spendguard.ledger import Ledger, calls, claims, reservations, runs, settlement
from luigi_spendguard.ledger.audit import rows
from luigi_spendguard.ledger.audit.rights import wrongs
from luigi_spendguard.ledger.audit.sums import discrepancies
from luigi_spendguard.ledger.budgets import last_entry
from luigi_spendguard.ledger.database import Row
from luigi_spendguard.ledger.foreseen import naming
from luigi_spendguard.money import Micros
from luigi_spendguard.protocol import EndRequest, ReserveReply, ReserveRequest, key_hash
from luigi_spendguard.settings.policy import Caps
from tests.support.postgres import place_of


class Books:
    """The ledger at `path`, with one run.

    Attributes:
        checked: whether it is looked after each operation for changes that no entry tells of: all calls are
            read, too long for a measurement.

    """

    checked = True

    def __init__(self, path: Path, cap: int = 100, run_id: str = "run", daily: int | None = None) -> None:
        self.path, self.run_id = place_of(path), run_id
        self.caps = Caps(day=None if daily is None else Micros(daily))
        self.ledger = Ledger(self.path)
        self.write(runs.open_run, runs.RunRequest(run_id, False, "Root", "Root_1", Micros(cap)))

    def write(self, operation: Any, *args: Any) -> Any:
        """Run one operation and wait until it is durable.

        What is sealed of a call changes with an entry about it alone: else it would look tampered with.
        """
        is_own = operation.__module__.startswith("tests.") and operation.__name__ != "booked"
        if is_own or not self.checked:  # A test's own statements, or a measurement.
            return self.ledger.write(operation, *args).result(20)
        last, before = self.read(_sealable)
        result = self.ledger.write(operation, *args).result(20)
        for name, row in self.read(_sealable)[1].items():
            then = before.get(name)
            if row != then:  # Most calls are as they were, and are not looked at further.
                self._check(name, then and rows.call_object(then), rows.call_object(row), last)
        return result

    def _check(self, name: str, then: dict[str, Any] | None, now: dict[str, Any], last: int) -> None:
        """Check that an entry behind `last` tells of what has changed of a call."""
        if then is not None:
            assert {each: now[each] for each in rows.FIXED} == {each: then[each] for each in rows.FIXED}
            if (rows.differing(then, now) or rows.let_go(then, now)) is None:
                return
        elif not now["wire_key"] and now["state"] == "pending":  # A read has begun.
            return
        assert self.read(_has_entry, name, last), f"call {name} has changed, and no entry says so"

    def read(self, operation: Any, *args: Any) -> Any:
        """Run one reading operation."""
        return self.ledger.read(operation, *args).result(20)

    def claim(self, task_id: str, run_id: str | None = None, **more: Any) -> str:
        """Begin an attempt of a task; return its vault key."""
        claim_id = str(uuid.uuid4())
        request = claims.NewClaim(
            claim_id,
            run_id or self.run_id,
            task_id,
            more.pop("family", "Charge"),
            {},
            more.pop("worker", "worker"),
            **more,
        )
        self.last_claim = claim_id
        return self.write(claims.claim, request)[1]

    def ask(self, amount: int, process: str = "00000001", **more: Any) -> ReserveRequest:
        """Return a request to reserve `amount` micro-dollars for a customer. `process`: whose."""
        return ReserveRequest(
            **{
                "call_id": f"{process}{str(uuid.uuid4())[8:]}",
                "vendor": "stripe",
                "account": "stripe:test",
                "operation": "payment_intents.create",
                "method": "POST",
                "path": "/v1/payment_intents",
                "target": f"cus_{uuid.uuid4().hex}",
                "fingerprint": str(amount),
                "total_micros": amount,
                "body": "amount=1",
                "repeatable": True,
                **more,
            }
        )

    def reserve(self, key: str, ask: ReserveRequest) -> ReserveReply:
        """Ask under a vault key."""

        @naming(lambda foreseen: foreseen.reserve(key_hash(key), ask))
        def booked(tx: Any) -> ReserveReply:
            scope = calls.find_scope(tx, key, self.caps, call_id=ask.call_id)
            assert scope is not None
            return reservations.reserve(tx, scope, ask)

        return self.write(booked)

    def end(self, key: str, end: EndRequest) -> Any:
        """End a call under a vault key."""

        @naming(lambda foreseen: foreseen.ends(key_hash(key), [end]))
        def booked(tx: Any) -> Any:
            scope = calls.find_scope(tx, key, self.caps, call_id=end.call_id)
            assert scope is not None
            return settlement.end(tx, scope, end)

        return self.write(booked)

    def run(self) -> dict[str, Any]:
        """Return the run's row with its budget."""
        return self.read(runs.run_row, self.run_id)

    def figures(self) -> tuple[int, int, int]:
        """Return (spent, reserved, overrun) of the run in micro-dollars."""
        run = self.run()
        return run["spent_micros"], run["reserved_micros"], run["overrun_micros"]

    def audit(self) -> list[str]:
        """Return what does not add up, or is in force and no entry says so."""
        return [*self.read(discrepancies), *self.read(_not_said)]

    def restart(self) -> None:
        """Close the file and open it again."""
        self.ledger.close()
        self.ledger = Ledger(self.path)


def _sealable(tx: Any) -> tuple[int, dict[str, Row]]:
    """Return the journal's last entry, and the row of what is sealed of each call, by its id."""
    return last_entry(tx), {row["id"]: row for row in tx.all(f"SELECT {rows.SEALED} {rows.FROM_CALLS}")}


def _not_said(tx: Any) -> list[str]:
    return [*wrongs(tx)]


def _has_entry(tx: Any, call_id: str, since: int) -> bool:
    return bool(tx.value("SELECT 1 FROM journal WHERE call_id = ? AND id > ?", call_id, since))
