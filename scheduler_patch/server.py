"""`luigid-spendguard`: Luigi's own daemon with budgets; every flag of `luigid` works."""

from __future__ import annotations

import atexit
import logging
import sys
from collections.abc import Sequence
from typing import Any

import luigi.cmdline
import luigi.scheduler
import luigi.server
from tornado.ioloop import PeriodicCallback

from luigi_spendguard import config
from luigi_spendguard.errors import LedgerError, PluginError
from luigi_spendguard.ledger.migrations import migrate
from luigi_spendguard.targets import SCHEDULER, STATE, check_luigi
from scheduler_patch.access import SWEEP_S
from scheduler_patch.api import lost, routes
from scheduler_patch.office import Office
from scheduler_patch.scheduler import BudgetScheduler, adopt

logger = logging.getLogger(__name__)

_stock_app = luigi.server.app


def app(scheduler: Any) -> Any:
    """Return Luigi's own application with our routes ahead of its own.

    A scheduler of Luigi's own making gets its gate here. Opens the ledger if its file exists. Raises
    ConfigError, LedgerUnavailable, PluginError.
    """
    check_luigi(luigi.scheduler.Scheduler, SCHEDULER)
    check_luigi(luigi.scheduler.SimpleTaskState, STATE)
    settings = config.load()
    office = Office(settings, adopt(scheduler))
    atexit.register(office.close)
    if settings.worker_token is not None and settings.caps.day is None:
        logger.warning(
            "[spendguard] worker_token is set without daily_cap_usd: whoever holds the token can open "
            "run after run. Set daily_cap_usd to bound them together"
        )
    if settings.worker_token is None:
        logger.info("Without [spendguard] worker_token only this machine's workers are served")
    logger.info("Budgets are kept in %s", settings.ledger_path)
    application = _stock_app(scheduler)
    application.add_handlers(r".*", [*routes(office), *lost()])
    PeriodicCallback(office.sweep, SWEEP_S * 1000).start()
    return application


def main(argv: Sequence[str] | None = None) -> None:
    """Run `luigid` with budgets; ends with status 2 and one line when it cannot start."""
    args = list(sys.argv[1:] if argv is None else argv)
    try:
        check_luigi(luigi.scheduler.Scheduler, SCHEDULER)
        settings = config.load()
        if settings.ledger_path.exists():
            migrate(settings.ledger_path)  # Before --background forks: errors are seen.
    except (config.ConfigError, LedgerError, PluginError) as error:
        sys.stderr.write(f"luigid-spendguard: {error}\n")
        raise SystemExit(2) from None
    luigi.server.Scheduler = BudgetScheduler
    luigi.server.app = app
    luigi.cmdline.luigid(args)


if __name__ == "__main__":
    main()
