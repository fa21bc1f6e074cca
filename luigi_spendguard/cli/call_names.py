"""How a call is named on the command line: its id, or a beginning that no other has."""

from __future__ import annotations

import re

import click

from luigi_spendguard.cli.api_client import Operator, OperatorError
from luigi_spendguard.cli.context import Stop
from luigi_spendguard.cli.tables import plain

#: An id as our clients make one: whole, whatever else begins so.
_WHOLE = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
#: Calls that are listed where a name means several.
_CANDIDATES = 20


def call_named(operator: Operator, name: str) -> str:
    """Return the id of the call that is meant; which one another name means is said on standard error.

    A name that no id begins with is returned as it is: luigid says that there is no such call. Raises Stop
    for a beginning of several ids, OperatorError.
    """
    name = name.strip()
    if not name:
        raise click.UsageError("a call's id must not be empty")
    if _WHOLE.fullmatch(name):
        return name
    try:
        found = operator.get("/calls", prefix=name, limit=str(_CANDIDATES))
    except OperatorError as error:
        if error.code != "bad_request":  # A luigid that takes whole ids alone.
            raise
        return name
    ids = [str(call["id"]) for call in found]
    if name in ids or not ids:
        return name
    if len(ids) == 1:
        click.echo(f"{plain(name)} is call {plain(ids[0])}.", err=True)
        return ids[0]
    total = operator.total("/calls", prefix=name, total="true") or len(ids)
    more = [f"and {total - len(ids)} more"] if total > len(ids) else []
    listed = [
        f"{plain(call['id'])}  {call['state'] or call['verdict']}  {plain(call['task_id'])}" for call in found
    ]
    lines = "\n  ".join([*listed, *more])
    raise Stop(f"{plain(name)} is how the ids of {total} calls begin. Say more of the id:\n  {lines}", 1)
