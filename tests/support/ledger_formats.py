"""Makes a ledger file with something of everything, by the code beside it, and writes down its figures.

    python -m tests.support.ledger_formats tests/unit/ledger/formats

writes `format-N.db` and `format-N.json`, N being the code's format. Whoever has added a migration runs it
and commits both: `tests/unit/ledger/test_formats.py` wants files of every format. Those of the formats before
were made by their own code, the last of each format on the main branch, with this file put into it:

    git archive COMMIT | tar x -C FOLDER; cp tests/support/ledger_formats.py FOLDER/tests/support/

1: 00e97bd, 2: 9f6e078, 3: 4f09022, 4: 044928f, 5: 6f6c77c, 6: e3b7d2b, 7: e434fe2, 8: b8cc11f, 9: cdfc2ca,
10: 309a1b4, 11: eb28ac0, 12: 5237b80, 13: df36536, 14: f123277, 15: 68af2d3, 16: 7f81818,
17: 563074d, 18: 3181fdd, 19: 3ee651c.
What a format did not know yet is left out of its file, and modules are looked for under their names of then.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import itertools
import json
import secrets
import sqlite3
import sys
from pathlib import Path
from typing import Any

from luigi_spendguard.ledger import claims, runs
from luigi_spendguard.money import Micros
from tests.support.books import Books

USD = 1_000_000
AGE_MS = 1000 * 86_400_000

#: What is written down of a file: columns that every format has, in micro-dollars.
FIGURES = {
    "runs": "SELECT run.run_id, state, cap_micros, spent_micros, reserved_micros, overrun_micros FROM run"
    " JOIN budget ON budget.scope = 'run' AND budget.subject = run.run_id AND budget.part = ''"
    " ORDER BY run.id",
    "budgets": "SELECT scope, subject, part, cap_micros, spent_micros, reserved_micros, overrun_micros"
    " FROM budget ORDER BY id",
    "calls": "SELECT id, run_id, task_id, verdict, reason, state, asked_micros, reserved_micros,"
    " settled_micros, corrected_micros, overrun_micros, object_id, wire_key FROM call ORDER BY rowid",
    "claims": "SELECT id, run_id, task_id, key_hash, state, outcome FROM claim ORDER BY rowid",
    "approvals": "SELECT run_id, task_id, amount_micros FROM approval ORDER BY run_id, task_id",
    "objects": "SELECT vendor, account, object_id, run_id, call_id, counted_micros, worth_micros"
    " FROM vendor_object ORDER BY object_id",
    "tasks": "SELECT task_id, completions FROM task ORDER BY task_id",
    "journal": "SELECT kind, run_id, call_id, cap_micros, spent_micros, reserved_micros, overrun_micros, note"
    " FROM journal ORDER BY id",
}


def figures(path: Path) -> dict[str, list[list[Any]]]:
    """Return what is written down of the ledger at `path`."""
    db = sqlite3.connect(path)
    try:
        return {name: [list(row) for row in db.execute(sql)] for name, sql in FIGURES.items()}
    finally:
        db.close()


def _module(*names: str) -> Any:
    """Return the first of these modules that there is, None for none: an earlier format's code has others."""
    for name in names:
        try:
            return importlib.import_module(f"luigi_spendguard.{name}")
        except ModuleNotFoundError:
            continue
    return None


def _known(message: Any, **fields: Any) -> dict[str, Any]:
    """Return those of `fields` that a message has, a list as one text where it is one there."""
    known = {each.name: each.default for each in dataclasses.fields(message)}
    return {
        name: " ".join(value) if isinstance(value, tuple) and known[name] == "" else value
        for name, value in fields.items()
        if name in known
    }


class Maker:
    """Writes into one ledger all that its format knows."""

    def __init__(self, path: Path) -> None:
        # Keys that nobody takes for a secret, in a file that stands in a repository.
        serial = itertools.count(1)
        secrets.token_urlsafe = lambda nbytes=None: f"of-a-test-ledger-{next(serial)}"
        messages = _module("protocol", "messages")
        self.end_request: Any = getattr(messages, "EndRequest", None) or messages.End
        self.books = Books(path, cap=100 * USD, daily=500 * USD)
        self.books.caps = dataclasses.replace(
            self.books.caps,
            task_families={"Charge": Micros(60 * USD)},
            vendors={"stripe": Micros(80 * USD)},
            default=Micros(10 * USD),
        )

    def ask(self, usd: int, **fields: Any) -> Any:
        """Return a request to reserve."""
        whole = self.books.ask(usd * USD)
        return dataclasses.replace(whole, **_known(whole, **fields))

    def reserved(self, key: str, usd: int, **fields: Any) -> str:
        """Reserve for a call and return its id."""
        ask = self.ask(usd, **fields)
        assert self.books.reserve(key, ask).verdict == "allowed"
        return str(ask.call_id)

    def end(self, key: str, call_id: str, kind: str, usd: int = 0, **fields: Any) -> None:
        """Say how a call ended."""
        fields = {"status": 200, "answer_body": '{"object": "payment_intent"}', **fields}
        known = _known(self.end_request, kind=kind, call_id=call_id, total_micros=usd * USD, **fields)
        self.books.end(key, self.end_request(**known))

    def resolve(self, call_id: str, usd: int) -> None:
        """Resolve a call in doubt as an operator does."""
        module = _module("ledger.corrections", "ledger.resolving", "ledger.ending")
        if not hasattr(module, "resolve"):
            module = _module("ledger.resolving", "ledger.ending")
        spent: Any = Micros(usd * USD)
        if hasattr(module, "Resolution"):
            spent = module.Resolution(spent)
        self.books.write(module.resolve, call_id, spent, f"resolve {call_id}")

    def open_run(self, name: str, cap: int, *, by_task_id: bool = False) -> None:
        """Open a run of `cap` dollars."""
        request = runs.RunRequest(name, by_task_id, "Root", name, Micros(cap * USD))
        self.books.write(runs.open_run, request)

    def write(self) -> None:
        """Write something of everything."""
        self._run()
        self._calls()
        self._batch()
        self._other_runs()
        self._key()
        self._payments()
        self._duplicates()
        assert self.books.audit() == []
        self.books.ledger.close()

    def _run(self) -> None:
        write = self.books.write
        write(runs.set_forecast, "run", Micros(20 * USD), Micros(5 * USD), 1)
        unknown: tuple[Any, ...] = (1,) if "unknown" in inspect.signature(runs.approve).parameters else ()
        if hasattr(runs, "Approved"):
            unknown = (runs.Approved(1, parts='{"families": {"Charge": [2, 20000000, 1]}, "tasks": null}'),)
        write(runs.approve, "run", "", Micros(20 * USD), "approve run", *unknown)
        write(runs.approve, "run", "Charge_dear", Micros(9 * USD), "approve task")
        write(runs.top_up, "run", Micros(7 * USD), "top up")
        if hasattr(runs, "Inside"):
            for scope, part, cap in (("family", "Charge", 60), ("vendor", "stripe", 80), ("day", "", 500)):
                inside = runs.Inside(scope, part, Micros(cap * USD))
                write(runs.top_up_inside, "run", inside, Micros(2 * USD), f"top up {scope}")

    def _calls(self) -> None:
        """Leave a call in each state, and the attempt that has made them open."""
        self.open_run("other", 5)
        key = self.books.claim("Charge_open", also=("other",), max_cost=Micros(50 * USD))
        self.end(key, self.reserved(key, 10), "settle", 7, object_id="pi_settled", worth_micros=8 * USD)
        self.end(key, self.reserved(key, 5), "doubt", status=0)
        doubtful = self.reserved(key, 6)
        self.end(key, doubtful, "doubt", status=0)
        self.resolve(doubtful, 4)
        self.end(key, self.reserved(key, 3), "void", status=0)
        self.reserved(key, 2, timeout_ms=600_000)
        assert self.books.reserve(key, self.ask(90)).verdict == "denied"
        self.end(key, self.reserved(key, 4), "settle", 4, object_id="pi_cancelled", worth_micros=4 * USD)
        cancel = self.reserved(
            key,
            0,
            operation="payment_intents.cancel",
            object_id="pi_cancelled",
            target="pi_cancelled",
            path="/v1/payment_intents/pi_cancelled/cancel",
        )
        self.end(key, cancel, "settle", 0, object_id="pi_cancelled")
        for _ in range(2):  # The second is answered with the first one's reply.
            again = self.books.claim("Charge_again")
            ask = self.ask(1, target="cus_again")
            if self.books.reserve(again, ask).verdict == "allowed":
                self.end(again, ask.call_id, "settle", 1, object_id="pi_again")
        self.end(key, self.reserved(key, 1), "settle", 1, object_id="pi_declined", status=402)
        late = self.reserved(key, 1, vendor="twilio", account="twilio:AC", operation="messages.create")
        self.end(key, late, "settle", 1, object_id="SM1", price_due=True, fees_micros=1000)
        alone = self.reserved(key, 1, acts_on=("sub_1", "in_1"), priced_by=("cus_1",))
        self.end(key, alone, "settle", 1, object_id="in_1", customer=("cus_1",))
        several = self.reserved(key, 1, targets=("00112233445566ab", "00112233445566cd"))
        self.end(key, several, "settle", 1, opened={"re_1": "400000", "re_2": "600000"})

    def _batch(self) -> None:
        key = self.books.claim("Mails_batch", family="Mails", members=("Mails_1", "Mails_2"))
        batch = self.books.last_claim
        self.end(key, self.reserved(key, 2), "settle", 2, object_id="batch_1")
        self.books.write(claims.finish, batch, "completed")

    def _other_runs(self) -> None:
        """Leave a run in each state."""
        self.open_run("frozen", 20)
        key = self.books.claim("Charge_dearer", "frozen")
        self.end(key, self.reserved(key, 1), "settle", 3, object_id="pi_overrun")
        self.open_run("Ended_0123456789", 20, by_task_id=True)
        key = self.books.claim("Charge_ended", "Ended_0123456789")
        self.end(key, self.reserved(key, 2), "settle", 2, object_id="pi_ended")
        self.books.write(claims.finish, self.books.last_claim, "completed")
        self.books.write(claims.close_run, "Ended_0123456789")
        self.open_run("revoked", 20)
        self.books.claim("Charge_revoked", "revoked")
        self.books.write(runs.revoke, "revoked")

    def _key(self) -> None:
        """Issue a key as over HTTP, and send a call under it."""
        if (keys := _module("ledger.keys")) is None:
            return
        terms = keys.Terms(
            "stripe",
            "luigi/run",
            run_cap=Micros(9 * USD),
            daily_cap=Micros(8 * USD),
            endpoints=("POST /v1/payment_intents",),
            customers=("cus_key",),
            ttl_ms=100 * 365 * 86_400_000,
        )
        _, key = self.books.write(keys.issue, terms, self.books.caps)
        call = self.reserved(key, 3, target="cus_key", customer=("cus_key",))
        self.end(key, call, "settle", 3, object_id="pi_key", customer=("cus_key",))

    def _payments(self) -> None:
        """Pay for something that has a name: alone, and in a batch."""
        if "payment_keys" not in {each.name for each in dataclasses.fields(claims.NewClaim)}:
            return
        key = self.books.claim("Charge_named", payment_keys=("2026-11-a",))
        self.end(key, self.reserved(key, 1, target="cus_a"), "settle", 1, object_id="pi_a")
        self.books.write(claims.finish, self.books.last_claim, "completed")
        members = ("Charge_b", "Charge_c")
        key = self.books.claim("Charge_both", members=members, payment_keys=("2026-11-b", "2026-11-c"))
        self.end(key, self.reserved(key, 1, target="cus_b"), "settle", 1, object_id="pi_b")

    def _duplicates(self) -> None:
        """Let a task pass beside another's call."""
        if (duplicates := _module("ledger.duplicates")) is None:
            return
        self.books.caps = dataclasses.replace(self.books.caps, suspects="hold")
        key = self.books.claim("Charge_27", family="Corrected")
        earlier = self.reserved(key, 2, target="cus_twice")
        self.end(key, earlier, "settle", 2, object_id="pi_twice")
        self.books.write(claims.finish, self.books.last_claim, "failed")
        key = self.books.claim("Charge_26", family="Corrected")
        assert self.books.reserve(key, self.ask(1, target="cus_twice")).verdict == "denied"
        approval = ("run", "Charge_26", earlier, Micros(1 * USD), "approve duplicate")
        self.books.write(duplicates.approve_duplicate, *approval)


def main(folder: Path) -> None:
    """Make the file of the format that the code beside this one writes."""
    path = folder / "new.db"
    Maker(path).write()
    db = sqlite3.connect(path)
    number = db.execute("SELECT max(number) FROM migration").fetchone()[0]
    # As if made long ago: nothing in it may be from the future, whatever clock it is opened by. The journal
    # says when keys expire.
    columns = db.execute(
        "SELECT m.name, c.name FROM sqlite_master m JOIN pragma_table_info(m.name) c"
        " WHERE m.type = 'table' AND m.name NOT IN ('journal', 'key_terms')"
        " AND c.name LIKE '%\\_at' ESCAPE '\\'"
    ).fetchall()
    for table, column in columns:
        db.execute(f"UPDATE {table} SET {column} = {column} - {AGE_MS}")
    db.commit()
    for statement in ("PRAGMA journal_mode = delete", "PRAGMA page_size = 512", "VACUUM"):
        db.execute(statement)
    db.close()
    path = path.rename(folder / f"format-{number}.db")
    text = ",\n".join(
        f'"{name}": [\n' + ",\n".join(json.dumps(row) for row in rows) + "\n]"
        for name, rows in figures(path).items()
    )
    path.with_suffix(".json").write_text(f"{{\n{text}\n}}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
