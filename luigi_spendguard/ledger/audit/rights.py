"""What is in force beside the calls, compared with what the journal says of it.

What has been revoked, frozen, approved, raised and asked for stands in tables of its own, which are not
sealed; the entries about it are. Whoever changes a row there alone says something that no entry says.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from luigi_spendguard.ledger.database import Tx
from luigi_spendguard.ledger.keys import terms_note
from luigi_spendguard.ledger.top_ups import amount_of
from luigi_spendguard.money import Micros, format_usd


class _Wanted(NamedTuple):
    """What is looked for: rows with a `name`, and the sentence that is said of one."""

    text: str
    sql: str


_OF_RUN = "scope = 'run' AND subject = run.run_id AND part = ''"
_SAID = "SELECT run_id, note FROM journal WHERE kind = 'approve'"
_APPROVED = (
    "approval.task_id || ' ' || approval.amount_micros ||"
    " CASE WHEN approval.unknown_tasks > 0 THEN ' ' || approval.unknown_tasks ELSE '' END"
)
_ASKED = (
    "amount_micros || CASE scope WHEN 'run' THEN '' WHEN 'day' THEN ' day' ELSE ' ' || scope || ' ' || part"
    " END || ' (' || id || ')'"
)
_LOOKS = (
    _Wanted(
        "run {} was revoked, and is not any more",
        "SELECT run_id AS name FROM run WHERE state <> 'revoked'"
        " AND run_id IN (SELECT run_id FROM journal WHERE kind = 'revoke' AND note = '')",
    ),
    _Wanted(
        "run {} was frozen by what a vendor billed above a reservation, and is active without a top-up since",
        f"SELECT run_id AS name FROM run JOIN budget ON {_OF_RUN} AND overrun_micros > 0"
        " WHERE state = 'active' AND (SELECT max(id) FROM journal WHERE journal.run_id = run.run_id"
        " AND journal.overrun_micros > 0 AND kind <> 'prune') > coalesce((SELECT max(id) FROM journal"
        " WHERE journal.run_id = run.run_id AND kind = 'top_up' AND journal.budget_id = budget.id), 0)",
    ),
    _Wanted(
        "vault key {} was revoked, or its run, and is in force",
        "SELECT id AS name FROM claim WHERE state = 'open' AND (id IN"
        " (SELECT note FROM journal WHERE kind = 'revoke') OR run_id IN"
        " (SELECT run_id FROM journal WHERE kind = 'revoke' AND note = ''))",
    ),
    _Wanted(
        "vault key {} was issued by nobody: no entry says so",
        "SELECT id AS name FROM key_terms WHERE id NOT IN (SELECT note FROM journal WHERE kind = 'issue')",
    ),
    _Wanted(
        "what was approved of {} is not what an operator has approved",
        "SELECT 'run ' || run_id || CASE task_id WHEN '' THEN '' ELSE ', task ' || task_id END AS name"
        f" FROM approval WHERE (run_id, {_APPROVED}) NOT IN ({_SAID})"
        f" AND (run_id, {_APPROVED} || ' up to') NOT IN ({_SAID})",
    ),
    _Wanted(
        "what was approved of {} is not what an operator has approved",
        "SELECT 'task ' || task_id || ' beside call ' || call_id AS name FROM duplicate_approval WHERE"
        f" (run_id, task_id || ' ' || amount_micros || ' duplicate of ' || call_id) NOT IN ({_SAID})",
    ),
    _Wanted(
        "top-up {} is not what was asked for, or not by whom",
        "SELECT id AS name FROM top_up_request WHERE substr(asked_from, 1, length(asked_by) + 4) <>"
        f" asked_by || ' at ' OR (request_id, run_id, {_ASKED}, asked_from) NOT IN"
        " (SELECT request_id, run_id, note, actor FROM journal WHERE kind = 'ask_top_up')",
    ),
    _Wanted(
        "top-up {} waits, and was withdrawn",
        "SELECT id AS name FROM top_up_request WHERE state = 'waiting' AND"
        f" (run_id, {_ASKED}) IN (SELECT run_id, note FROM journal WHERE kind = 'withdraw_top_up')",
    ),
    _Wanted(
        "budget {} lends what it has not got",
        "SELECT rtrim(scope || ' ' || subject || ' ' || part) AS name FROM budget WHERE shadow_micros < 0",
    ),
)
#: By how much luigi.cfg's caps are raised, and each top-up of those.
_RAISED = (
    "SELECT id, scope || ' ' || subject || ' ' || part AS name, raised_micros FROM budget"
    " WHERE raised_micros <> 0 ORDER BY id"
)
_TOP_UPS = (
    "SELECT budget_id, note FROM journal WHERE kind = 'top_up'"
    " AND budget_id IN (SELECT id FROM budget WHERE raised_micros <> 0)"
)
#: Keys with what was said of their terms (before that was said, there is none), some at a time.
_TERMS = (
    "SELECT journal.id AS entry, journal.note AS said, claim.key_hash, key_terms.* FROM journal"
    " JOIN key_terms ON key_terms.id = substr(journal.note, 1, instr(journal.note, ' ') - 1)"
    " JOIN claim ON claim.id = key_terms.id WHERE kind = 'terms' AND journal.id > ?"
    " ORDER BY journal.id LIMIT 500"
)


def wrongs(tx: Tx) -> Iterator[str]:
    """Yield, a sentence each, what is in force and no entry of the journal says."""
    for text, sql in _LOOKS:
        for row in tx.all(f"{sql} ORDER BY name LIMIT 1"):
            yield text.format(row["name"])
    raised = Counter[int]()
    rows = tx.all(_RAISED)
    for said in tx.all(_TOP_UPS) if rows else ():
        raised[said["budget_id"]] += amount_of(said["note"])
    for row in rows:
        if row["raised_micros"] > raised[row["id"]]:
            more = format_usd(Micros(row["raised_micros"] - raised[row["id"]]))
            yield f"budget {row['name']} is raised by {more} more than its top-ups come to"
    entry = 0
    while some := tx.all(_TERMS, entry):
        for row in some:
            if terms_note(row) != row["said"]:
                yield f"the terms of vault key {row['id']} are not those that it was issued on"
        entry = some[-1]["entry"]
