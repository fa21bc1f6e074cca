"""Promises broken on purpose: small patches of the product, each of which the simulator has to find.

python -m tests.simulation.mutants            all of them, each in a copy of its own
python -m tests.simulation.mutants NAME …     some
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
#: Histories within which each must be found.
WITHIN = 4000
GUARD, LEDGER, SERVICE = "luigi_spendguard/guard", "luigi_spendguard/ledger", "scheduler_patch/service"


@dataclass(frozen=True)
class Mutant:
    """`edits`: of which file what is replaced by what, each found there once."""

    name: str
    promise: str
    edits: tuple[tuple[str, str, str], ...]


def _one(name: str, promise: str, file: str, before: str, after: str) -> Mutant:
    return Mutant(name, promise, ((file, before, after),))


MUTANTS = (
    Mutant(
        "reserve without the cap",
        "P1",
        (
            (f"{LEDGER}/budgets.py", '+ ?1 <= cap_micros - shadow_micros"', '+ ?1 <= 9 * cap_micros"'),
            (f"{LEDGER}/schema.py", "spent_micros + reserved_micros <= cap_micros", "cap_micros >= 0"),
        ),
    ),
    _one(
        "reserve half of what is asked",
        "P1",
        f"{LEDGER}/reservations.py",
        "amount = Micros(max(0, total - counted))",
        "amount = Micros(max(0, total - counted) // 2)",
    ),
    _one(
        "overrun not booked",
        "P1",
        f"{LEDGER}/corrections.py",
        "more, taken = max(0, overrun), max(0, spent - held)",
        "more, overrun, taken = 0, 0, max(0, spent - held)",
    ),
    _one(
        "overrun freezes nothing",
        "P1",
        f"{LEDGER}/corrections.py",
        "    if overrun > 0:\n        freeze",
        "    if False:\n        freeze",
    ),
    _one(
        "top up twice",
        "P1",
        f"{LEDGER}/budgets.py",
        "    if done is None:\n        return False",
        "    return False",
    ),
    _one(
        "send without the ledger's answer",
        "P2",
        f"{GUARD}/__init__.py",
        "            # The request may have arrived and only its answer be lost: nobody will send under it.",
        '            return ReserveReply("allowed", call.call_id, call.ask, wire_key=f"x-{call.call_id}")',
    ),
    _one(
        "a commit that power loss undoes",
        "P2",
        f"{LEDGER}/database.py",
        '"synchronous": "full"',
        '"synchronous": "normal"',
    ),
    _one(
        "void what has an unknown outcome",
        "P3",
        f"{LEDGER}/settlement.py",
        'if row["unknown"] and not message.definite:',
        "if False:",
    ),
    _one(
        "a time-out voids",
        "P3",
        f"{GUARD}/__init__.py",
        'yield Finish(EndRequest("doubt" if call.unsure else "settle"',
        'yield Finish(EndRequest("void" if call.unsure else "settle"',
    ),
    _one(
        "a 5xx voids",
        "P3",
        "luigi_spendguard/vendors/bodies.py",
        'Outcome("doubt", note=note)',
        'Outcome("void", note=note)',
    ),
    _one(
        "settle twice",
        "P3",
        f"{LEDGER}/settlement.py",
        'if late or row["state"] in ("pending", "in_doubt"):',
        'if late or row["state"] in ("pending", "in_doubt", "settled"):',
    ),
    _one(
        "nobody looks for senders that are gone",
        "P3",
        f"{LEDGER}/settlement.py",
        '        put_in_doubt(tx, row, "its sender is gone")',
        "        pass",
    ),
    _one(
        "no tombstone",
        "P3",
        f"{LEDGER}/settlement.py",
        "            tombstone(tx, scope, message.call_id, message.ask)",
        "            pass",
    ),
    _one(
        "void without the journal",
        "P3",
        f"{LEDGER}/budgets.py",
        '    journal(tx, entry._replace(run_id=call["run_id"], call_id=call["id"]))',
        '    entry.kind == "void" or journal(tx, entry._replace(run_id=call["run_id"], call_id=call["id"]))',
    ),
    _one(
        "settle at what was reserved",
        "P3",
        f"{LEDGER}/settlement.py",
        'spent = min(actual, row["reserved_micros"])',
        'spent = row["reserved_micros"]',
    ),
    _one(
        "duplicate not found",
        "P4",
        f"{LEDGER}/identity.py",
        "    if not identity.known.calls:\n        return None\n    if identity.key_id is not None:",
        "    if identity is not None:\n        return None\n    if identity.key_id is not None:",
    ),
    _one(
        "what is in doubt is made anew",
        "P4",
        f"{LEDGER}/identity.py",
        "verdict = 'allowed' AND state IN ('pending','settled','in_doubt')",
        "verdict = 'allowed' AND state IN ('pending','settled')",
    ),
    _one(
        "each attempt is another payer",
        "P4",
        f"{LEDGER}/identity.py",
        "    base = call_digest(ask, payment or task_id)",
        '    base, task_id = call_digest(ask, claim["id"]), claim["id"]',
    ),
    _one(
        "what has no key is sent again",
        "P4",
        f"{LEDGER}/replays.py",
        "    if not ask.repeatable and (",
        "    if False and (",
    ),
    _one(
        "pending is not waited for",
        "P4",
        f"{LEDGER}/replays.py",
        "        if not is_over(match",
        "        if False and not is_over(match",
    ),
    _one(
        "another process's call is another call",
        "P4",
        f"{LEDGER}/identity.py",
        'return bool(row["state"] == "pending" and lost and asks_the_same(row, ask))',
        "return False",
    ),
    Mutant(
        "revoke ignored",
        "P5",
        (
            (f"{LEDGER}/keys.py", 'if run["state"] == "revoked":\n        error', "if False:\n        error"),
            (f"{LEDGER}/keys.py", 'if claim["state"] == "revoked":', "if False:"),
        ),
    ),
    _one(
        "revoke answers at once",
        "P5",
        f"{SERVICE}/operators.py",
        "    while left and time.monotonic() < limit:",
        "    while False and time.monotonic() < limit:",
    ),
    _one(
        "a grant for a minute",
        "P5",
        f"{GUARD}/__init__.py",
        "call, asked_at + GRANT_SECONDS, unused)",
        "call, asked_at + 60, unused)",
    ),
    _one(
        "keys never expire",
        "P5",
        f"{LEDGER}/keys.py",
        'if terms is not None and is_over(claim["claimed_at"]',
        'if False and is_over(claim["claimed_at"]',
    ),
    _one(
        "what ends after a revoke is dropped",
        "P5",
        f"{LEDGER}/settlement.py",
        '    if row["verdict"] != "allowed":\n        return row',
        '    if row["verdict"] != "allowed" or scope.run["state"] == "revoked":\n        return row',
    ),
    _one(
        "vault keys are kept as they are",
        "P6",
        f"{LEDGER}/claims.py",
        "    return hashlib.sha256(key.encode()).hexdigest()\n\n\ndef payment_of",
        "    return key\n\n\ndef payment_of",
    ),
    _one(
        "the gate is told that nothing is left",
        "P7",
        f"{LEDGER}/snapshot.py",
        'f"{WITH_REMAINING} WHERE subject = ? AND {OF_GATE}", run_id)',
        "f\"{WITH_REMAINING.replace('*,', '*, 0 *')} WHERE subject = ? AND {OF_GATE}\", run_id)",
    ),
    _one(
        "a denied call has no row",
        "P8",
        f"{LEDGER}/reservations.py",
        "            record(tx, scope, ask, Identity(), now, decision)",
        "            pass",
    ),
    _one(
        "the gate hears nothing of other luigids",
        "P10",
        f"{LEDGER}/snapshot.py",
        ' (SELECT budget_id FROM fresh UNION SELECT call_budget.budget_id FROM fresh"\n'
        '        " JOIN call_budget ON call_budget.call_id = fresh.call_id WHERE fresh.budget_id IS NULL)"',
        ' (SELECT budget_id FROM fresh)"',
    ),
    _one(
        "the gate is told too much is left",
        "P10",
        f"{LEDGER}/snapshot.py",
        'f" {REMAINING} AS remaining_micros FROM run LEFT JOIN',
        'f" cap_micros - spent_micros AS remaining_micros FROM run LEFT JOIN',
    ),
    _one(
        "`calls` shows no corrections",
        "reads",
        f"{LEDGER}/queries.py",
        'plain_usd(row["settled_micros"] + row["corrected_micros"])',
        'plain_usd(row["settled_micros"])',
    ),
    _one(
        "the page plots no overrun",
        "reads",
        f"{LEDGER}/overview.py",
        "sum(j.spent_micros + j.overrun_micros) AS micros",
        "sum(j.spent_micros) AS micros",
    ),
)


def copied(mutant: Mutant, folder: Path) -> None:
    """Put the product, mutated, and the simulator into a folder."""
    for name in ("luigi_spendguard", "scheduler_patch"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "tests/simulation", folder / "tests/simulation")
    for name in ("__init__.py", "support"):
        (folder / "tests" / name).symlink_to(ROOT / "tests" / name)
    for file, text in edited(mutant).items():
        (folder / file).write_text(text, "utf-8")


def edited(mutant: Mutant) -> dict[str, str]:
    """Return what files a mutant changes, and to what. Raises LookupError where the product has changed."""
    texts: dict[str, str] = {}
    for file, before, after in mutant.edits:
        text = texts.get(file) or (ROOT / file).read_text("utf-8")
        if text.count(before) != 1:
            raise LookupError(f"{mutant.name}: {before!r} stands {text.count(before)} times in {file}")
        texts[file] = text.replace(before, after)
    return texts


def found(mutant: Mutant, within: int = WITHIN, jobs: int = 0) -> str:
    """Return what the simulator says of a mutant, "" where it finds nothing."""
    with tempfile.TemporaryDirectory(prefix="simulation-") as name:
        folder = Path(name)
        copied(mutant, folder)
        command = [sys.executable, "-m", "tests.simulation", "--histories", str(within), "--quiet"]
        command += ["--jobs", str(jobs or os.cpu_count() or 1)]
        environment = {**os.environ, "PYTHONPATH": str(folder)}
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        if done.returncode not in (0, 1) or "histories in" not in done.stdout:
            raise RuntimeError(f"{mutant.name}: {done.stdout}{done.stderr}")
        return done.stdout.strip() if done.returncode else ""


def main() -> int:
    wanted = [one for one in MUTANTS if not sys.argv[1:] or one.name in sys.argv[1:]]
    missed = []
    for mutant in wanted:
        begun = time.monotonic()
        said = found(mutant)
        if not said:
            missed.append(mutant.name)
        text = " ".join(said.split())[:150] or "NOT FOUND"
        print(f"{mutant.promise:6}{mutant.name} ({time.monotonic() - begun:.0f} s): {text}", flush=True)
    print(f"{len(wanted) - len(missed)} of {len(wanted)} mutants were found")
    return int(bool(missed))


if __name__ == "__main__":
    raise SystemExit(main())
