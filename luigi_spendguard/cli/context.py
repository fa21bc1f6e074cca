"""What the commands share: types of arguments, luigid's client and settings, and how one ends."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any, TypeVar

import click

from luigi_spendguard.cli.api_client import Operator
from luigi_spendguard.config import Settings
from luigi_spendguard.money import BadAmount, Micros, parse_usd
from luigi_spendguard.settings.policy import BadPeriod, check_period, expiry_ms, moment, ttl_ms

T = TypeVar("T")


class Usd(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.5
    """An amount of USD on the command line."""

    name = "usd"

    def convert(self, value: Any, param: Any, ctx: Any) -> Micros:
        """Return the amount in micro-dollars; bad usage when it is none."""
        try:
            return parse_usd(value)
        except BadAmount as error:
            self.fail(str(error), param, ctx)


class Since(click.ParamType):  # type: ignore[type-arg]  # as above
    """A moment on the command line, or how long ago it was."""

    name = "time"

    def convert(self, value: Any, param: Any, ctx: Any) -> str:
        """Return the moment with its zone, in seconds; bad usage when it is none."""
        try:
            if re.fullmatch(r"[0-9]+[smhd]", value):
                return str(moment(int(time.time() * 1000) - ttl_ms(value)))
            day = re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", value)
            return str(moment(expiry_ms(f"{value}T00:00:00Z" if day else value)))
        except ValueError:
            self.fail(
                "must be a time such as 30m, 4h or 7d, a UTC day such as 2026-11-26, or a moment such as "
                "2026-11-26T18:00:00Z"
            )


FORMAT = click.option(
    "--format", "form", type=click.Choice(["table", "json"]), default="table", show_default=True
)


def ends_of(
    since: str | None, until: str | None = None, *, over: bool = False
) -> tuple[int | None, int | None]:
    """Return both ends of a period (of `Since`) in milliseconds since the epoch; None: without that end.

    Ends with bad usage where that is none, or is to be `over` and is not.
    """
    begins, ends = (None if end is None else expiry_ms(end) for end in (since, until))
    try:
        check_period(begins, ends, int(time.time() + 1) * 1000, over=over)  # Its second goes on.
    except BadPeriod as error:
        raise click.UsageError(str(error)) from None
    return begins, ends


class Stop(click.ClickException):
    """Ends a command with a message and an exit code."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]  # click reads it from the instance


def answered(ask: Callable[[], T]) -> T:
    """Return what is answered in a terminal, before anything is changed. Raises Stop where nothing is."""
    try:
        return ask()
    except click.Abort:  # Ctrl-C, or the end of what is typed.
        click.echo(err=True)
        raise Stop("not answered: nothing was changed", 1) from None


def operator_of() -> Operator:
    """Return the client of the command that is run."""
    operator: Operator = click.get_current_context().obj[1]
    return operator


def settings_of() -> Settings:
    """Return the settings that the command is run under."""
    settings: Settings = click.get_current_context().obj[0]
    return settings


def operator_name() -> str | None:
    """Return which operator of luigi.cfg the command is run as, None where that is not said."""
    context = click.get_current_context(silent=True)
    name: str | None = context.find_root().params.get("name") if context is not None else None
    return name
