"""How a run is named on the command line: its id, a beginning that no other id has, or `@last`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.shell_completion import CompletionItem

from luigi_spendguard import config
from luigi_spendguard.cli.api_client import Operator, OperatorError, scheduler_url
from luigi_spendguard.cli.context import Stop, operator_of
from luigi_spendguard.cli.tables import money_of, plain
from luigi_spendguard.cli.tokens import token_for

if TYPE_CHECKING:
    from luigi_spendguard.ledger.database import Tx

T = TypeVar("T")

#: Stands for the run that was opened last.
LAST = "@last"
#: Runs that are listed where a name means several, and that a shell is offered.
_CANDIDATES, _OFFERED = 20, 50
#: Seconds that somebody who presses TAB waits at the most.
_PATIENCE_S = 1.0


class RunName(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.5
    """The name of a run; `on_run` says which run is meant."""

    name = "run"

    def convert(self, value: Any, param: Any, ctx: Any) -> str:
        """Return the name; an empty one, as of a variable that is not set, would be every run's beginning."""
        if not str(value).strip():
            self.fail("must not be empty: name a run", param, ctx)
        return str(value)

    def shell_complete(self, ctx: click.Context, param: Any, incomplete: str) -> list[CompletionItem]:
        """Return runs whose id begins so, the newest first; none where luigid does not say so at once."""
        try:
            settings = config.load()
            said = ctx.find_root().params
            url = said.get("url") or scheduler_url()
            operator = Operator(url, token_for(settings, url, said.get("name")), _PATIENCE_S)
            begun = {"prefix": incomplete} if incomplete else {}
            runs = operator.get("/runs", limit=str(_OFFERED), **begun)
            found = [CompletionItem(run["run_id"], help=_short(run)) for run in runs]
        except Exception:  # Whoever types a command is not told what is wrong with another.
            found = []
        return [*found, *([CompletionItem(LAST)] if incomplete and LAST.startswith(incomplete) else [])]


def _short(run: dict[str, Any]) -> str:
    return f"{run['status']}, {money_of('spent')(run)} of {money_of('cap')(run)}"


def on_run(name: str, act: Callable[[str], T]) -> tuple[str, T]:
    """Do `act` with the run of that name; return its id, and what `act` has returned.

    The name is taken for a whole id first, so that nothing stands between an id and its revoke; `@last`,
    which hardly is one, is looked up, so that luigid logs no request for a run that is not there. `act`
    changes and prints nothing where there is no such run. Which run another name means is said on standard
    error.

    Raises Stop for a beginning of several ids, OperatorError.
    """
    if name.strip() == LAST and (run_id := _find(name)) is not None:
        return _do(name, run_id, act)
    try:
        return name, act(name)
    except OperatorError as error:
        if error.code != "not_found" or (run_id := _find(name)) is None:
            raise
    return _do(name, run_id, act)


def run_in(tx: Tx, name: str) -> str:
    """Return the id of the run of that name in the ledger itself, for a command that reads that.

    Which run another name means is said on standard error. Raises NotFound.
    """
    from luigi_spendguard.ledger.overview import run_named  # Late, as all that not each command needs.

    run_id = run_named(tx, name.strip(), LAST)
    if run_id != name:
        click.echo(f"{plain(name)} is run {plain(run_id)}.", err=True)
    return run_id


def _do(name: str, run_id: str, act: Callable[[str], T]) -> tuple[str, T]:
    click.echo(f"{plain(name)} is run {plain(run_id)}.", err=True)
    return run_id, act(run_id)


def _find(name: str) -> str | None:
    """Return the only run whose id begins so, or the last one; None where there is no other than `name`."""
    operator, name = operator_of(), name.strip()
    if name == LAST:
        named = operator.get("/runs", prefix=LAST, sort="run_id", limit="1")
        if named and named[0]["run_id"] == LAST:
            return None  # Somebody has given a run that very name.
        newest = operator.get("/runs", limit="1")
        return str(newest[0]["run_id"]) if newest else None
    # A whole id sorts before those that begin with it.
    first = [run["run_id"] for run in operator.get("/runs", prefix=name, sort="run_id", limit="2")]
    if not first or first[0] == name:
        return None
    if len(first) > 1:
        raise Stop(_ambiguous(operator, name), 1)
    return str(first[0])


def _ambiguous(operator: Operator, name: str) -> str:
    runs = operator.get("/runs", prefix=name, limit=str(_CANDIDATES))
    total = operator.total("/runs", prefix=name) or len(runs)
    more = [f"and {total - len(runs)} more"] if total > len(runs) else []
    listed = "\n  ".join([*(plain(run["run_id"]) for run in runs), *more])
    return f"{plain(name)} is how the ids of {total} runs begin. Say more of the id:\n  {listed}"
