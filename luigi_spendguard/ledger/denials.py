"""Calls that were denied and that no operator's decision lets pass: for those who ask how a run is.

What a budget, an approval or a revoke keeps from running is the gate's to say, with what lets it pass. All
else fails its task, and is to be mended where the call is made.
"""

from __future__ import annotations

import json

from luigi_spendguard.ledger.budgets import REMAINING
from luigi_spendguard.ledger.database import TODAY, Row, Tx
from luigi_spendguard.protocol import DUPLICATE

#: Denials that block a task: the gate says what holds it. Of a vault key's call nobody else does.
BLOCKING = ("cap", DUPLICATE, "revoked")
#: The newest denied calls of a run that are looked at: one that is tried again and again has very many.
_NEWEST = 500
#: A task (`each.value`) has completed, alone or in a batch, since the attempt `claim`.
_COMPLETED = """
    (EXISTS (SELECT 1 FROM claim AS done WHERE done.task_id = each.value AND done.task_id <> ''
             AND done.outcome = 'completed' AND done.rowid > claim.rowid)
     OR EXISTS (SELECT 1 FROM member JOIN claim AS done ON done.id = member.claim_id
                WHERE member.task_id = each.value AND done.outcome = 'completed'
                AND done.rowid > claim.rowid))
"""
#: A budget that has no room for what a vault key's last call was denied: the run's, the key's own, or, if
#: that was the one that denied it, a vendor's or today's with what the run may spend beyond it.
_LACKS = f"""
    (SELECT 1 FROM budget WHERE {REMAINING} < {{amount}} AND (
        (scope = 'run' AND subject = call.run_id)
        OR (scope IN ('key','key_day') AND subject = call.run_id
            AND part IN (terms.budget, terms.budget || ' ' || {TODAY}))
        OR (scope = 'vendor' AND claim.held_scope = scope AND subject = call.run_id AND part = call.vendor)
        OR (scope = 'day' AND claim.held_scope = scope AND part = {TODAY}
            AND NOT EXISTS (SELECT 1 FROM budget WHERE scope = 'beyond_day' AND subject = call.run_id
                            AND part = {TODAY} AND {REMAINING} >= {{amount}}))))
"""
#: What it asked for, without what its object counted for already.
ASKED = (
    "CASE WHEN claim.held_micros BETWEEN 1 AND call.asked_micros"
    " THEN claim.held_micros ELSE call.asked_micros END"
)
_UNSOLVED = f"""
    SELECT call.rowid AS seq, call.id, call.run_id, call.task_id, call.vendor, call.operation, call.reason,
           call.message, claim.members, run.state AS run_state
    FROM call JOIN claim ON claim.id = call.claim_id JOIN run ON run.run_id = call.run_id
    LEFT JOIN key_terms AS terms ON terms.id = claim.id
    WHERE call.rowid IN (SELECT rowid FROM call WHERE verdict = 'denied' AND run_id = ?1
                         ORDER BY rowid DESC LIMIT {_NEWEST})
      AND reason <> 'revoked' AND (call.task_id = '' OR reason NOT IN (SELECT value FROM json_each(?2)))
      AND (reason <> 'cap' OR run.state <> 'active' OR EXISTS {_LACKS.format(amount=ASKED)})
      AND coalesce(claim.outcome, '') <> 'completed'
      AND NOT EXISTS (SELECT 1 FROM call AS later WHERE later.task_id = call.task_id
                      AND later.run_id = call.run_id AND later.rowid > call.rowid)
      AND NOT EXISTS (SELECT 1 FROM call AS later WHERE later.task_id = call.task_id AND later.task_id <> ''
                      AND later.verdict <> 'denied' AND later.rowid > call.rowid)
      AND NOT EXISTS (SELECT 1 FROM call AS later WHERE later.payment = call.payment AND later.payment <> ''
                      AND later.verdict <> 'denied' AND later.rowid > call.rowid)
      AND EXISTS (SELECT 1 FROM json_each(CASE claim.members WHEN '[]' THEN json_array(call.task_id)
                                          ELSE claim.members END) AS each WHERE NOT {_COMPLETED})
    ORDER BY call.rowid DESC
"""


def unsolved(tx: Tx, run_ids: list[str]) -> list[Row]:
    """Return the denied calls of these runs that are their tasks' last word, newest first.

    Of tasks that have completed since, or have made another call, there is none, in whichever run a call was
    let pass; nor where another task's call for the same payment was, as the amount was put back. Of calls
    under a vault key alone the run's last one is looked at; where a cap has denied it, none any more once
    its amount fits.
    """
    blocking = json.dumps(BLOCKING)
    return [row for run_id in run_ids for row in tx.all(_UNSOLVED, run_id, blocking)]
