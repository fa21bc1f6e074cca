"""Claims and their vault keys: one attempt of one vendor task, or of a batch of them.

Each function is one operation inside a transaction and idempotent by what the caller names.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from luigi_spendguard.errors import Conflict, KeyRevoked, denial
from luigi_spendguard.ledger.batches import OF_TASKS, payers, tasks_of
from luigi_spendguard.ledger.budgets import JournalEntry, journal, put_in_doubt
from luigi_spendguard.ledger.database import NOW, Row, Tx
from luigi_spendguard.ledger.following import count_earlier, keep_budget
from luigi_spendguard.ledger.names import of_payer, of_run
from luigi_spendguard.ledger.runs import check_remembered, revoked, run_row
from luigi_spendguard.money import Micros, format_usd, plain_usd
from luigi_spendguard.protocol import KEY_PREFIX, command, key_hash


def payment_of(family: str, *keys: str) -> str:
    """Return what stands for a payment in place of a task_id: of one, or of all that a batch pays for.

    No task_id is a JSON list.
    """
    if len(keys) == 1:
        return json.dumps([family, keys[0]])
    return json.dumps([family, len(keys), hashlib.sha256(json.dumps(sorted(keys)).encode()).hexdigest()])


def payment_keys_in(payment: str, members: Sequence[str] = ()) -> list[str]:
    """Return the keys that `payment_of` was made of; of a batch `members` are its payments one by one."""
    paid = [json.loads(one) for one in (members or [payment]) if one]
    return sorted(each[1] for each in paid if len(each) == 2)


@dataclass(frozen=True)
class NewClaim:
    """One attempt of a vendor task, as the worker that runs it names it.

    Attributes:
        members: the tasks of a batch, in the batch's order; empty for a single task.
        payment_keys: what the task, or each member, says that it pays for; empty: nothing.
        also: the other runs that the task belongs to.
        max_cost: what the task says its calls may spend in all, in micro-dollars; None: it does not say.
        single: what a task may spend without an approval, in micro-dollars; None: whatever it says.

    """

    claim_id: str
    run_id: str
    task_id: str
    family: str
    params: Mapping[str, str]
    worker: str
    members: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    max_cost: Micros | None = None
    single: Micros | None = None
    payment_keys: tuple[str, ...] = ()

    @property
    def payment(self) -> str:
        """What stands for its payment in place of the task_id, "" where nothing does."""
        return payment_of(self.family, *self.payment_keys) if self.payment_keys else ""


def claim(tx: Tx, request: NewClaim) -> tuple[Row, str]:
    """Claim a task for an attempt: end earlier claims of the task, return (claim row, vault key).

    The same claim asked again (its answer was lost) gets a new key and the old one is void; once that was
    used its answer was not lost, and what asks again has come late.
    Raises KeyRevoked when the run is revoked, BudgetExceeded when the task needs an approval first,
    NotFound, Conflict.
    """
    tx.check(of_run(request.run_id), of_payer(request.task_id))
    if request.members or tx.value("SELECT 1 FROM member WHERE task_id = ?", request.task_id):
        tx.check_alone("a batch is claimed, or what was a part of one")
    run = run_row(tx, request.run_id)
    if run["state"] == "revoked":
        raise revoked(run["run_id"], bool(run["by_task_id"]))
    if tx.value(
        "SELECT 1 FROM claim WHERE run_id = ? AND task_id = ? AND state = 'revoked'",
        request.run_id,
        request.task_id,
    ):
        raise KeyRevoked(
            "revoked",
            f"the vault key of task {request.task_id} was revoked: the task spends nothing more in run "
            f"{request.run_id}",
            {"run_id": request.run_id},
        )
    key = KEY_PREFIX + secrets.token_urlsafe(32)
    known = tx.one("SELECT rowid AS seq, claim.* FROM claim WHERE id = ?", request.claim_id)
    if known is not None:
        tx.check_alone("a claim is known")
        if known["state"] != "open" or known["task_id"] != request.task_id:
            raise Conflict(f"claim {request.claim_id} is over: a later attempt has the task")
        if tx.value("SELECT 1 FROM call WHERE claim_id = ? LIMIT 1", request.claim_id):
            raise Conflict(f"claim {request.claim_id} is in use already: this request for it came late")
        tx.run("UPDATE claim SET key_hash = ? WHERE id = ?", key_hash(key), request.claim_id)
        return known, key
    if request.payment_keys and len({*request.payment_keys}) != max(1, len(request.members)):
        raise Conflict(f"task {request.task_id} must name one payment_key for each of its tasks")
    check_remembered(tx, run)
    max_cost = _max_cost(tx, request)
    tasks = json.dumps([request.task_id, *request.members])
    tx.run(
        f"UPDATE claim SET {_ENDED}, outcome = 'superseded', ended_at = {NOW}"
        f" WHERE ended_at IS NULL AND id IN ({OF_TASKS})",
        tasks,
    )
    if max_cost is not None:
        keep_budget(tx, "task", request.run_id, request.task_id, max_cost)
        if tx.value(_UNLIMITED, request.run_id, request.task_id):
            count_earlier(tx, "task", request.run_id, request.task_id)
    tx.run(
        "INSERT INTO claim (id, run_id, task_id, family, params, worker, also, members, mixed, payment,"
        " max_cost_micros, held_scope, held_part, held_micros, key_hash, state, claimed_at)"
        f" VALUES (?,?,?,?,?,?,?,?,?,?,?,'','',0,?,'open',{NOW})",
        request.claim_id,
        request.run_id,
        request.task_id,
        request.family,
        json.dumps(dict(request.params), ensure_ascii=False),
        request.worker,
        json.dumps(list(request.also)),
        json.dumps(list(request.members)),
        _mixed_with(tx, request, tasks),
        request.payment,
        max_cost,
        key_hash(key),
    )
    for member in request.members:
        tx.insert("member", task_id=member, claim_id=request.claim_id, epoch=completions(tx, member))
    if request.members and request.payment:
        tx.run(
            "INSERT OR IGNORE INTO batch_payment (payment, batch) SELECT value, ? FROM json_each(?)",
            request.payment,
            json.dumps([payment_of(request.family, key) for key in request.payment_keys]),
        )
    row = tx.one("SELECT rowid AS seq, claim.* FROM claim WHERE id = ?", request.claim_id)
    assert row is not None
    return row, key


#: Tasks of a batch that are named one by one.
_NAMED = 3
#: A claim whose attempt is over; that of a revoked run stays revoked.
_ENDED = "state = CASE state WHEN 'open' THEN 'ended' ELSE state END"

#: A claim of a task (?2) in run ?1 under which it had no budget of its own.
_UNLIMITED = (
    "SELECT 1 FROM claim WHERE run_id || '' = ?1 AND task_id = ?2 AND max_cost_micros IS NULL LIMIT 1"
)


def completions(tx: Tx, task_id: str) -> int:
    """Return how often a task has completed."""
    return int(tx.value("SELECT completions FROM task WHERE task_id = ?", task_id) or 0)


def _max_cost(tx: Tx, request: NewClaim) -> Micros | None:
    """Return what the task may spend: what it says, else what a task may without an approval.

    Raises BudgetExceeded (of the budget `approval`) when it says more than it may without one; what it
    says may be known only now. Each member of a batch may spend as much as it might alone.
    """
    if request.single is None:
        return request.max_cost
    tasks = request.members or (request.task_id,)
    allowed = without_approval(tx, request.run_id, tasks, request.single)
    if request.max_cost is None or request.max_cost <= allowed:
        return allowed if request.max_cost is None else request.max_cost
    share = plain_usd(Micros(-(-request.max_cost // len(tasks))))
    approved = [
        command("approve", request.run_id, "--task", task, "--cost", share) for task in tasks[:_NAMED]
    ]
    advice = f"{' and '.join(approved)} lets it pass"
    if len(tasks) > _NAMED:
        advice = f"{approved[0]}, and so for each of its {len(tasks)} tasks, lets it pass"
    raise denial(
        "cap",
        f"{request.task_id} may cost {format_usd(request.max_cost)}, and only {format_usd(allowed)} without "
        f"an approval (approve_above_usd); {advice}",
        {"run_id": request.run_id, "budget": "approval", "asked_usd": plain_usd(request.max_cost)},
    )


def _mixed_with(tx: Tx, request: NewClaim, tasks: str) -> str:
    """Return the earlier tasks that have paid for some of these under another id, as a JSON list.

    A batch whose member is complete by now comes back smaller, and the members then name its calls: see
    `identity`. What had completed before the run was opened was another matter. "" for none.
    """
    if not request.members and not tx.value("SELECT 1 FROM member WHERE task_id = ?", request.task_id):
        return ""
    found = payers(tx, tasks, request.payment or request.task_id, request.run_id)
    return json.dumps(found) if found else ""


def without_approval(tx: Tx, run_id: str, tasks: Sequence[str], single: Micros) -> Micros:
    """Return what tasks may spend together: each `single`, or what an operator has let pass for it."""
    sql = "SELECT amount_micros FROM approval WHERE run_id = ? AND task_id = ?"
    return Micros(sum(max(single, tx.value(sql, run_id, task) or 0) for task in tasks))


def finish(tx: Tx, claim_id: str, outcome: str) -> Row | None:
    """End a claim and its key; `completed` counts a completion of the task, once.

    `died`: the process is gone for certain, so its pending calls are in doubt now. Returns the claim
    row, None for an unknown claim (it was never made).
    """
    row = tx.one("SELECT * FROM claim WHERE id = ?", claim_id)
    if row is None:
        return None
    tx.check(
        of_run(row["run_id"]), *map(of_payer, filter(None, [row["task_id"], *json.loads(row["members"])]))
    )
    if row["ended_at"] is None or (outcome == "completed" and row["outcome"] != "completed"):
        tx.run(
            f"UPDATE claim SET {_ENDED}, outcome = ?, ended_at = coalesce(ended_at, {NOW}) WHERE id = ?",
            outcome,
            claim_id,
        )
        if outcome == "completed":
            for task_id in dict.fromkeys([row["task_id"], *json.loads(row["members"])]):
                if task_id:  # A key that was asked for over HTTP has none.
                    count_completion(tx, task_id)
        journal(tx, JournalEntry("finish", run_id=row["run_id"], note=claim_id))
    if outcome == "died":
        for call in tx.all("SELECT * FROM call WHERE claim_id = ? AND state = 'pending'", claim_id):
            put_in_doubt(tx, call, "its sender died")
    return row


def lose(tx: Tx, workers: Sequence[str]) -> None:
    """End the attempts of workers that are gone, as far as they can spend nothing any more.

    Those of a run that is not revoked stay open: a worker that was presumed dead may live.
    """
    tx.run(
        f"UPDATE claim SET outcome = 'died', ended_at = {NOW} WHERE ended_at IS NULL AND state = 'revoked'"
        " AND worker IN (SELECT value FROM json_each(?))",
        json.dumps(list(workers)),
    )


def share(tx: Tx, task_id: str, run_ids: Sequence[str]) -> None:
    """Let an open claim of a task, or of a batch with it, be shown in the other runs that need it."""
    for row in tx.all(
        f"SELECT id, run_id, also FROM claim WHERE ended_at IS NULL AND id IN ({OF_TASKS})",
        json.dumps([task_id]),
    ):
        also = {*json.loads(row["also"]), *run_ids} - {row["run_id"]}
        tx.run("UPDATE claim SET also = ? WHERE id = ?", json.dumps(sorted(also)), row["id"])


def hold(tx: Tx, claim_id: str, scope: str, part: str, asked: Micros) -> None:
    """Remember which budget denied a call of this attempt, and what was asked of it."""
    tx.run(
        "UPDATE claim SET held_scope = ?, held_part = ?, held_micros = ? WHERE id = ?",
        scope,
        part,
        asked,
        claim_id,
    )


def count_completion(tx: Tx, task_id: str) -> None:
    """Count that a task completed: the next run of another name pays for its calls again."""
    tx.check(of_payer(task_id))
    tx.run(
        "INSERT INTO task (task_id, completions) VALUES (?, 1)"
        " ON CONFLICT (task_id) DO UPDATE SET completions = task.completions + 1",
        task_id,
    )
    tx.run(
        "INSERT INTO completion (task_id, number, entry)"
        " SELECT task_id, completions, (SELECT coalesce(max(id), 0) + 1 FROM journal) FROM task"
        " WHERE task_id = ?",
        task_id,
    )
    tx.run(
        "DELETE FROM call_target WHERE call_id IN (SELECT id FROM call WHERE task_id = ? AND payment = '')",
        task_id,
    )


def unfinished(tx: Tx, name: str, run_id: str | None = None) -> list[str]:
    """Return the tasks of a run to be closed, members of batches too, that are not known to be complete."""
    row = _to_close(tx, name, run_id)
    attempts = [] if row is None else _unfinished(tx, row["run_id"])
    return sorted({task_id for each in attempts for task_id in tasks_of(each)})


def _last_run(tx: Tx, name: str, run_id: str | None) -> Row | None:
    """Return the last run of that name, or the one that is named."""
    return tx.one(
        "SELECT * FROM run WHERE name = ? AND run_id = coalesce(?, run_id) ORDER BY seq DESC LIMIT 1",
        name,
        run_id,
    )


def _to_close(tx: Tx, name: str, run_id: str | None) -> Row | None:
    """Return the run of that name (its current one, or the one that is named), if it may be closed."""
    row = _last_run(tx, name, run_id)
    return row if row and row["by_task_id"] and row["state"] in ("active", "frozen") else None


def _unfinished(tx: Tx, run_id: str) -> list[Row]:
    """Return the attempts of a run's tasks of which nobody has said that they have completed.

    One that goes on after another attempt of its task has completed in the run is another scheduler's.
    """
    return tx.all(
        "SELECT * FROM claim WHERE run_id = ?1 AND task_id <> '' AND coalesce(outcome, '') <> 'completed'"
        " AND NOT (ended_at IS NULL AND EXISTS (SELECT 1 FROM claim done WHERE done.run_id = ?1"
        " AND done.task_id = claim.task_id AND done.outcome = 'completed')) ORDER BY rowid",
        run_id,
    )


def close_run(
    tx: Tx,
    name: str,
    run_id: str | None = None,
    done: Collection[str] = (),
    unknown: Collection[str] = (),
    request_id: str | None = None,
) -> Row | None:
    """End the current run of that name (or `run_id`) if it was named by task_id: its root has completed.

    Those of its tasks that are `done` at the root's scheduler have completed, though nobody has said so; so
    have those that it does not know (`unknown`) and whose `run()` has returned. No attempt is ended: it may
    be another scheduler's, and what it repeats must stay a repetition. Keys that were asked for over HTTP end
    with their run. Once for each `request_id`. Returns the run row, or None.
    """
    row = _to_close(tx, name, run_id)
    if row is None or (request_id and tx.value("SELECT 1 FROM journal WHERE request_id = ?", request_id)):
        return _last_run(tx, name, run_id)
    tx.run(f"UPDATE run SET state = 'ended', ended_at = {NOW} WHERE id = ?", row["id"])
    tx.run(
        f"UPDATE claim SET state = 'ended', ended_at = {NOW}"
        " WHERE run_id = ? AND task_id = '' AND state = 'open'",
        row["run_id"],
    )
    for each in _unfinished(tx, row["run_id"]):
        tasks = tasks_of(each)
        complete = [t for t in tasks if t in done or (t in unknown and each["outcome"] == "returned")]
        last = [task_id for task_id in complete if _is_last(tx, each, task_id)]
        for task_id in last:
            count_completion(tx, task_id)
        if complete == tasks and last:  # Of an earlier attempt another one has made good what it failed.
            if each["task_id"] not in tasks:
                count_completion(tx, each["task_id"])
            tx.run("UPDATE claim SET outcome = 'completed' WHERE id = ?", each["id"])
            journal(tx, JournalEntry("finish", run_id=row["run_id"], note=each["id"]))
    journal(tx, JournalEntry("close", run_id=row["run_id"], request_id=request_id))
    return run_row(tx, row["run_id"])


def _is_last(tx: Tx, claimed: Row, task_id: str) -> bool:
    """Return whether no later attempt has that task: a later one says itself how it ended."""
    last = tx.value(
        f"SELECT id FROM claim WHERE id IN ({OF_TASKS}) ORDER BY rowid DESC LIMIT 1", json.dumps([task_id])
    )
    return bool(last == claimed["id"])
