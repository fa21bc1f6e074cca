"""`luigid-spendguard`: Luigi's own daemon with budgets; every flag of `luigid` works."""

from __future__ import annotations

import errno
import gc
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import luigi.cmdline
import luigi.scheduler
import luigi.server

from luigi_spendguard import config
from luigi_spendguard.errors import LedgerError, LedgerUnreached, PluginError
from luigi_spendguard.luigi_api import SCHEDULER, check_luigi
from scheduler_patch import tls


def main(argv: Sequence[str] | None = None) -> None:
    """Run `luigid` with budgets; ends with status 2 and one line when it cannot start."""
    args = list(sys.argv[1:] if argv is None else argv)
    try:
        check_luigi(luigi.scheduler.Scheduler, SCHEDULER)
        settings = config.load(as_luigid=True)
        if settings.has_ledger:
            from luigi_spendguard.ledger.migrations import (
                migrate,  # Late, as all that is not for every start.
            )

            migrate(settings.ledger)  # Before --background forks: errors are seen.
        tls.context_of(settings)
    except (config.ConfigError, LedgerError, PluginError) as error:
        sys.stderr.write(f"luigid-spendguard: {error}\n")
        raise SystemExit(3 if isinstance(error, LedgerUnreached) else 2) from None
    luigi.server.run = partial(_run, luigi.server.run, settings)
    try:
        luigi.cmdline.luigid(args)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        sys.stderr.write(
            "luigid-spendguard: Address already in use: stop what listens there (a stock luigid perhaps), or "
            "name another --port\n"
        )
        raise SystemExit(2) from None


def _run(stock_run: Callable[..., None], settings: config.Settings, **options: Any) -> None:
    """Serve as `luigi.server.run` does, which `luigi.cmdline.luigid` calls with its options (Luigi 3.8)."""
    gc.disable()
    try:
        # Late: neither `--help` nor a setting that is wrong has to wait for what serves.
        from scheduler_patch import server
        from scheduler_patch.scheduler import BudgetScheduler
    finally:
        gc.enable()
    gc.freeze()  # What is there now stays: no later collection looks at it again.

    server.install(settings)
    luigi.server.Scheduler = BudgetScheduler
    with server.ending:
        stock_run(**options)
