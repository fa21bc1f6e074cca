"""Which tasks have paid since they last completed: those are dispatched even at the cap, to be replayed."""

from __future__ import annotations

import json
from collections.abc import Sequence

from luigi_spendguard.ledger.engine import NOT_DECLINED, Tx

_COMPLETIONS = "coalesce((SELECT completions FROM task WHERE task.task_id = {}.task_id), 0)"


def have_paid(tx: Tx, call_ids: Sequence[str] | None = None) -> list[str]:
    """Return the tasks, and the members of batches, that have paid and not completed since.

    A call has paid when it costs something and is under way, settled or in doubt. `call_ids`: look at these
    calls only.
    """
    rows = tx.all(
        "WITH paying AS (SELECT task_id, claim_id, epoch FROM call WHERE (?1 IS NULL OR id IN"
        " (SELECT value FROM json_each(?1))) AND verdict = 'allowed'"
        f" AND asked_micros > 0 AND state IN ('pending','settled','in_doubt') AND {NOT_DECLINED})"
        f" SELECT task_id FROM paying WHERE task_id <> '' AND epoch = {_COMPLETIONS.format('paying')}"
        " UNION SELECT member.task_id FROM paying JOIN claim ON claim.id = paying.claim_id,"
        " json_each(claim.members) AS each JOIN member ON member.task_id = each.value"
        f" AND member.claim_id = claim.id AND member.epoch = {_COMPLETIONS.format('member')}",
        None if call_ids is None else json.dumps(list(call_ids)),
    )
    return [row["task_id"] for row in rows]
