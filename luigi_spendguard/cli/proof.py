"""`spendguard self-test`: proves that the cap bites."""

from __future__ import annotations

import signal

import click

from luigi_spendguard.cli.context import Stop, Usd, settings_of
from luigi_spendguard.config import ConfigError
from luigi_spendguard.money import Micros
from luigi_spendguard.redaction import redact
from luigi_spendguard.selftest.race import judge, race
from luigi_spendguard.selftest.sandbox import ProcessFailed, SelfTestError


def _end(number: int, frame: object) -> None:
    raise KeyboardInterrupt  # As Ctrl-C: nothing is left behind.


@click.command(name="self-test", epilog="Example:  spendguard self-test --workers 8")
@click.option(
    "--workers",
    type=click.IntRange(2, 64),
    default=4,
    show_default=True,
    help="Processes that ask at once, each for the whole cap.",
)
@click.option("--cap", type=Usd(), default="10", show_default=True, help="The run's cap in USD.")
@click.option(
    "--timeout",
    "timeout_s",
    type=click.IntRange(5, 3600),
    default=120,
    show_default=True,
    help="Seconds until it is given up.",
)
def self_test(workers: int, cap: Micros, timeout_s: int) -> None:
    """Prove that the cap bites: real workers, your luigi.cfg, a fake vendor.

    Everything runs on this machine, with a luigid, a ledger and a vendor of its own; nothing of yours is
    touched, and no vendor is called.
    """
    settings = settings_of()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    try:
        facts = race(settings, workers, cap, timeout_s)
    except ProcessFailed as error:
        click.echo(error.log_end, err=True)
        raise Stop(str(error), 1) from None
    except (ConfigError, SelfTestError) as error:
        raise Stop(str(error), 2) from None
    good, line = judge(facts)
    click.echo(redact(line))
    if not good:
        if not facts.shadow:
            click.echo(facts.logs, err=True)
        raise SystemExit(1)
