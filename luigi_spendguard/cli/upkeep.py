"""`spendguard prune` and `forget`: what is deleted from the ledger."""

from __future__ import annotations

from collections import Counter
from typing import Any

import click

from luigi_spendguard.cli.context import Since, operator_of
from luigi_spendguard.money import Micros, format_usd, parse_usd

#: Why calls of runs that are over stay, as `POST /prune` names it.
_STAY = {
    "payment_key": "have a payment_key, which is not paid for again",
    "not_completed": "are of tasks that have not completed and may run again",
    "open": "may be asked for by a run or attempt that goes on, or be confused with a call in doubt",
    "newer": "are newer",
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
        f"{'Would be pruned' if dry_run else 'Pruned'}: {done['calls']} calls of {done['runs']} runs, which "
        f"had spent {format_usd(Micros(done['spent']))}, and {done['attempts']} attempts and keys."
    )
    for name, why in _STAY.items():
        if stay[name]:
            click.echo(f"{stay[name]} calls stay: they {why}.")
    kept = answer["runs_that_stay"]
    if kept.get("open"):
        click.echo(f"{kept['open']} runs stay: something of theirs is in doubt, awaits its price or goes on.")
    if kept.get("active"):
        click.echo(f"{kept['active']} runs opened before then have not ended: revoking one ends it.")
    if stay["open"] and answer["oldest_open_run"] is not None:
        click.echo(f"The oldest run that may go on is {answer['oldest_open_run']}.")


@click.command(epilog="Example:  spendguard forget --customer cus_17")
@click.option("--customer", required=True, help="A customer's id, a telephone number or a mail address.")
def forget(customer: str) -> None:
    """Delete what was sent and answered in a customer's calls; amounts and identities stay."""
    answer = operator_of().post("/forget", {"customer": customer})
    click.echo(f"Deleted: what was sent and answered in {answer['calls']} calls.")
    if answer["open_calls"]:
        click.echo(f"{answer['open_calls']} calls are open, and keep theirs until they have ended.")
