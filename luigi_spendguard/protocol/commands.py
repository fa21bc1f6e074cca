"""The `spendguard` commands that texts name, each complete: pasted into a shell it does what they say."""

from __future__ import annotations

from luigi_spendguard.money import Micros, plain_usd
from luigi_spendguard.protocol import command

#: The least that is worth a top-up: amounts are rounded up to it.
CENT = 10_000
#: The option by which a budget inside a run is topped up; the run's own has none.
OPTIONS = {"family": "--family", "vendor": "--vendor", "day": "--day", "beyond_day": "--day"}
#: Stand for what only the vendor's books say: an amount that no reservation names, and an object's id.
USD, OBJECT = "USD", "ID"
#: Said behind a command with `OBJECT` in it.
WHAT_IT_OPENED = f" ({OBJECT}: what it opened there, which the task's next attempt gets)"


def rounded(micros: int) -> int:
    """Return an amount rounded up to whole cents."""
    return -(-micros // CENT) * CENT


def top_up(run_id: str, amount: int, scope: str = "run", part: str = "") -> str:
    """Return the command that tops up a run, or a budget inside it, by micro-dollars."""
    option = [OPTIONS[scope], *([part] if scope in ("family", "vendor") else [])] if scope in OPTIONS else []
    return command("top-up", run_id, plain_usd(Micros(amount)), *option)


def approve_forecast(run_id: str, known: int, unknown: int) -> str:
    """Return what lets a run's forecast pass: `known` micro-dollars, and tasks of `unknown` cost."""
    more = ("--unknown-tasks", str(unknown)) if unknown else ()
    return command("approve", run_id, "--up-to", plain_usd(Micros(known)), *more)


def resolve(call_id: str, micros: int | None = None, object_id: str | None = None) -> tuple[str, str]:
    """Return what ends a call in doubt: where the vendor's books have it, and where they do not.

    `micros`: what is reserved for it, None where that is not known here. What the call opened is named unless
    it is known (`object_id`): else its task's next attempt is refused, as its answer cannot be fetched.
    """
    spent = USD if micros is None else plain_usd(Micros(micros))
    opened = () if object_id else ("--object", OBJECT)
    return (
        command("resolve", call_id, "--spent", spent, *opened),
        command("resolve", call_id, "--not-sent"),
    )


def resolve_text(call_id: str, micros: int | None = None, object_id: str | None = None) -> str:
    """Return in words what ends a call in doubt, after a look at the vendor's books."""
    spent, not_sent = resolve(call_id, micros, object_id)
    opened = "" if object_id else WHAT_IT_OPENED
    return f"{spent} if its books have it{opened}, {not_sent} if they do not"


def correct(call_id: str, micros: int | None = None) -> str:
    """Return what names the object of a call that was resolved as spent without it, or with another."""
    spent = USD if micros is None else plain_usd(Micros(micros))
    return command("resolve", call_id, "--spent", spent, "--object", OBJECT, "--correct")
