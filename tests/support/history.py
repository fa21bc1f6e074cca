"""A ledger with a long history, written at once: real operations would take minutes for it."""

from __future__ import annotations

import sqlite3
import time
import uuid
from pathlib import Path

from luigi_spendguard.ledger import Ledger

USD = 1_000_000


def write_history(path: Path, runs: int, calls: int) -> None:
    """Write so many runs; a tenth of the calls are the newest run's, the others share the rest."""
    Ledger(path).close()
    now = int(time.time() * 1000)
    with sqlite3.connect(path) as db:
        for number in range(runs):
            run_id = f"run-{number:04}"
            own = calls // 10 if number == runs - 1 else calls * 9 // 10 // max(1, runs - 1)
            begun = now - (runs - number) * 60_000
            cap = (own + 50) * USD
            db.execute(
                "INSERT INTO run (run_id, name, seq, by_task_id, root_family, root_task_id, label, state,"
                " note, estimated_micros, unknown_tasks, opened_at)"
                " VALUES (?,?,1,0,?,?,'','active','',0,0,?)",
                (run_id, run_id, f"Root{number % 7}", f"Root_{number}", begun),
            )
            budget = db.execute(
                "INSERT INTO budget (scope, subject, part, cap_micros, spent_micros, reserved_micros,"
                " overrun_micros, shadow_micros) VALUES ('run',?,'',?,?,0,0,0)",
                (run_id, cap, own * USD),
            ).lastrowid
            journal = [(begun, "open", run_id, None, budget, cap, 0, 0)]
            rows = []
            for one in range(own):
                call_id, at = str(uuid.uuid4()), begun + one * 50
                vendor = ("stripe", "twilio", "resend")[one % 3]
                rows.append(
                    (
                        call_id,
                        run_id,
                        "c",
                        f"T_{number}_{one}",
                        f"Family{one % 4}",
                        vendor,
                        vendor,
                        "op",
                        "POST",
                        "/v1/op",
                        f"cus_{one}",
                        "allowed",
                        "settled",
                        USD,
                        USD,
                        USD,
                        at,
                        at + 40,
                    )
                )
                journal += [
                    (at, "reserve", run_id, call_id, None, 0, 0, USD),
                    (at + 40, "settle", run_id, call_id, None, 0, USD, -USD),
                ]
            db.executemany(
                "INSERT INTO call (id, run_id, claim_id, task_id, family, vendor, account, operation, method,"
                " path, target, verdict, state, asked_micros, reserved_micros, settled_micros, created_at,"
                " ended_at, ordinal, epoch, fingerprint, wire_key, currency, reason, message,"
                " corrected_micros, overrun_micros, sender, ask, unknown, relayed, timeout_ms, status,"
                " declined, formula, tries) VALUES"
                " (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,0,0,'','','usd','','',0,0,'',1,0,0,80000,200,0,0,0)",
                rows,
            )
            db.executemany("INSERT INTO call_budget VALUES (?,?)", [(row[0], budget) for row in rows])
            db.executemany(
                "INSERT INTO journal (at, kind, run_id, call_id, budget_id, cap_micros, spent_micros,"
                " reserved_micros, overrun_micros, note) VALUES (?,?,?,?,?,?,?,?,0,'')",
                journal,
            )
    db.close()
