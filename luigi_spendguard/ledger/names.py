"""What transactions have for themselves at a server, by name: what two of them must not change at once.

Nobody else changes what a name stands for until the transaction that has it ends; what has all of the books
(it says no names) waits for every other one. `foreseen` says which operations name what; each function that
touches something checks its name (`Tx.check`), and where that is not held nothing is decided: the transaction
is done again with all of the books. So a name that was forgotten there costs time alone.

| what is read or written | name |
| --- | --- |
| `budget` of a run, its families, vendors, tasks and keys; `call`, `claim` and `journal` of it | run |
| `call` by `base`, `task_id` or `payment`, its `tries`; `call_target`; `claim` and `task` of a task | payer |
| `call` by `key_id` | key |
| `call` by family and target (suspect duplicates) | charges |
| `vendor_object`, `turn`, `call` by `object_id` | object |
| `budget` of the day | its row, at the end (`database.late`); near its cap from when it is read |
| `audit_block`, `audit_row` | audit |

Everything else that a reservation or an end of a call, or the claim or the end of an attempt reads is written
by what has all of the books: batches and their payments, approvals, keys and their terms, runs and their
states. What is known only once it was read is not shared either: a call that is known or repeats another, a
look-up, a search, an overrun, an object that covers others, the day's budget where it is not there yet, money
that shadow mode lends, another run's call, a batch's claim, or two calls of one id.

One thing is read of what has another's name: whether the tasks of earlier charges of a target have completed
or go on, and how their calls stand (`duplicates`). Each query sees one state of that; and what makes it, an
end of a call or of an attempt, reads nothing of what decides by it: it comes after, or before. And whether
what went out under a caller's own key was tagged: where another run's call under it is made at the same time,
both go by luigi.cfg.
"""

from __future__ import annotations


def of_run(run_id: str) -> str:
    """Return the name of a run: its money, and its calls."""
    return f"run {run_id}"


def of_payer(payer: str) -> str:
    """Return the name of the calls, in all runs, of a task or for a payment."""
    return f"payer {payer}"


def of_key(key_id: str) -> str:
    """Return the name of the calls with a caller's key, which a digest stands for."""
    return f"key {key_id}"


def of_charges(family: str, target: str) -> str:
    """Return the name of what a family's tasks have charged a target."""
    return f"charges {len(family)} {family} {target}"


def of_object(vendor: str, account: str, object_id: str) -> str:
    """Return the name of a vendor's object: what it counts for, whose turn it is there, calls on it."""
    return f"object {len(vendor)} {vendor} {len(account)} {account} {object_id}"
