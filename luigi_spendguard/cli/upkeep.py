"""`spendguard prune` and `forget`: what is deleted from the ledger."""

from __future__ import annotations

from collections import Counter
from typing import Any

import click

from luigi_spendguard.cli.context import Since, ends_of, operator_of
from luigi_spendguard.counted import counted
from luigi_spendguard.money import Micros, format_usd, parse_usd

#: Why calls of runs that are over stay, as `POST /prune` names it.
_STAY = {
    "payment_key": "a payment_key is not paid for again",
    "not_completed": "tasks that have not completed may run again",
    "open": "a run or attempt that goes on may ask for them, or a call in doubt be confused with them",
    "unsealed": "the audit has not sealed all that is said of them",
    "newer": "they are newer",
}


@click.command(epilog="Example:  spendguard prune --before 2026-09-01 --dry-run")
@click.option(
    "--before",
    required=True,
    type=Since(),
    help="What was over then: a UTC day such as 2026-09-01, a moment, or 90d (ago).",
)
@click.option("--dry-run", is_flag=True, help="Only say what would be pruned.")
def prune(before: str, dry_run: bool) -> None:
    """Delete the calls of runs that are over; their totals stay, and what is not to be paid for twice."""
    ends_of(None, before, over=True)
    done: Counter[str] = Counter()
    stay: Counter[str] = Counter()
    answer: dict[str, Any] = {"next": 0}
    while answer["next"] is not None:
        body = {"before": before, "dry_run": dry_run, "after": answer["next"]}
        answer = operator_of().post("/prune", body)
        done.update({name: answer[name] for name in ("runs", "calls", "attempts")})
        done["spent"] += parse_usd(answer["spent_usd"])
        stay.update(answer["stay"])
    click.echo(
        f"{'Would be pruned' if dry_run else 'Pruned'}: {counted(done['calls'], 'call')} of "
        f"{counted(done['runs'], 'run')}, which had spent {format_usd(Micros(done['spent']))}, and "
        f"{counted(done['attempts'], 'attempt or key', 'attempts and keys')}."
    )
    for name, why in _STAY.items():
        if stay[name]:
            click.echo(f"{counted(stay[name], 'call stays', 'calls stay')}, as {why}.")
    kept = answer["runs_that_stay"]
    if kept.get("open"):
        click.echo(
            f"{counted(kept['open'], 'run stays', 'runs stay')}: something there is in doubt, awaits its "
            "price or goes on."
        )
    if kept.get("active"):
        those = counted(kept["active"], "run opened before then has", "runs opened before then have")
        click.echo(f"{those} not ended: revoking one ends it.")
    if stay["open"] and answer["oldest_open_run"] is not None:
        click.echo(f"The oldest run that may go on is {answer['oldest_open_run']}.")


@click.command("prune", epilog="Example:  spendguard audit prune --before 2026-09-01 --dry-run")
@click.option(
    "--before",
    required=True,
    type=Since(),
    help="What was sealed before then: a UTC day such as 2026-09-01, a moment, or 90d (ago).",
)
@click.option("--dry-run", is_flag=True, help="Only say what would be pruned.")
def prune_audit(before: str, dry_run: bool) -> None:
    """Delete the audit's oldest blocks; a sealed entry vouches for them, so that the rest still verifies.

    What they have sealed is then no longer shown to be as it was: export it before.
    """
    ends_of(None, before, over=True)
    blocks = rows = 0
    answer: dict[str, Any] = {"more": True}
    last: dict[str, Any] = {"block": None}
    while answer["more"]:
        answer = operator_of().post("/audit/prune", {"before": before, "dry_run": dry_run})
        blocks, rows = blocks + answer["blocks"], rows + answer["rows"]
        last = answer if answer["block"] is not None else last
    if last["block"] is None:
        click.echo("Nothing to prune: no block of the audit was sealed before then.")
    elif dry_run:
        click.echo(f"Would be pruned: {counted(rows, 'row')} up to block {last['block']} ({last['hash']}).")
    else:
        click.echo(
            f"Pruned: {counted(rows, 'row')} of {counted(blocks, 'block')}, up to block {last['block']} "
            f"({last['hash']}). A sealed entry of the journal says so."
        )


@click.command(epilog="Example:  spendguard forget --customer cus_17")
@click.option("--customer", required=True, help="A customer's id, a telephone number or a mail address.")
def forget(customer: str) -> None:
    """Delete what was sent and answered in a customer's calls; amounts and identities stay."""
    answer = operator_of().post("/forget", {"customer": customer})
    click.echo(f"Deleted: what was sent and answered in {counted(answer['calls'], 'call')}.")
    if answer["open_calls"]:
        click.echo(f"Open, and kept until it has ended: {counted(answer['open_calls'], 'call')}.")
