"""Which tasks have paid since they last completed: those are dispatched even at the cap, to be replayed."""

from __future__ import annotations

from luigi_spendguard.ledger.engine import Tx

_COMPLETIONS = "coalesce((SELECT completions FROM task WHERE task.task_id = {}.task_id), 0)"


def have_paid(tx: Tx, after: int = 0) -> list[str]:
    """Return the tasks, and the members of batches, that have paid and not completed since.

    A call has paid when it costs something and is under way, settled or in doubt. `after`: only calls with
    a higher rowid.
    """
    rows = tx.all(
        "WITH paying AS (SELECT task_id, claim_id, epoch FROM call WHERE rowid > ? AND verdict = 'allowed'"
        " AND asked_micros > 0 AND state IN ('pending','settled','in_doubt'))"
        f" SELECT task_id FROM paying WHERE epoch = {_COMPLETIONS.format('paying')}"
        " UNION SELECT member.task_id FROM paying JOIN claim ON claim.id = paying.claim_id,"
        " json_each(claim.members) AS each JOIN member ON member.task_id = each.value"
        f" AND member.claim_id = claim.id AND member.epoch = {_COMPLETIONS.format('member')}",
        after,
    )
    return [row["task_id"] for row in rows]
