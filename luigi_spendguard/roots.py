"""What a root task says about its run: its name and the budget it asks for."""

from __future__ import annotations

import os
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from luigi_spendguard.money import BadAmount, parse_usd, plain_usd


@dataclass(frozen=True)
class Root:
    """A root task, as its run is opened for it.

    Attributes:
        name: the root's `run_id`, else SPENDGUARD_RUN_ID, else its task_id.
        by_task_id: whether the name is the task_id (the run then ends when the root completes).
        budget_usd: what the root asks for as a decimal string, None when it asks for nothing.

    """

    name: str
    by_task_id: bool
    family: str
    task_id: str
    budget_usd: str | None


def root_of(task: Any) -> Root:
    """Read `run_id` and `budget_usd` (attributes or parameters) of a root task.

    Raises BadAmount (a `ValueError`) when either is not usable; the message names the task.
    """
    run_id = getattr(task, "run_id", None)
    if run_id is not None and not isinstance(run_id, str):
        raise BadAmount(f"{task.task_family}.run_id must be a text, not {type(run_id).__name__}")
    name = (run_id or os.environ.get("SPENDGUARD_RUN_ID") or "").strip()
    if len(name) > 255 or not name.isprintable():
        raise BadAmount(f"{task.task_family}.run_id must have at most 255 printable characters")
    return Root(
        name=name or task.task_id,
        by_task_id=not name,
        family=task.task_family,
        task_id=task.task_id,
        budget_usd=amount_of(task, "budget_usd"),
    )


def vendors_of(task: Any) -> list[str]:
    """Return the vendors that a task says it calls."""
    said = getattr(task, "vendors", ())
    named = (said,) if isinstance(said, str) else said if isinstance(said, (tuple, list)) else ()
    return [vendor for vendor in named if isinstance(vendor, str)]


def amount_of(task: Any, name: str) -> str | None:
    """Return an amount that a task declares as a decimal text, None when it declares none.

    Raises BadAmount when it is none, and whatever a property of the task's raises.
    """
    asked = getattr(task, name, None)
    if asked is None or asked == "":
        return None
    # A Luigi FloatParameter arrives as a float: its shortest text is what the user wrote.
    text = repr(asked) if isinstance(asked, float) else asked
    try:
        if not isinstance(text, (str, int, Decimal)) or isinstance(text, bool):
            raise BadAmount(f"it is a {type(asked).__name__}")
        return plain_usd(parse_usd(text))
    except BadAmount as error:
        raise BadAmount(f"{task.task_family}.{name} is not usable: {error}") from None
