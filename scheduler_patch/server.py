"""`luigid-spendguard`: Luigi's own daemon with budgets; every flag of `luigid` works."""

from __future__ import annotations

import atexit
import errno
import logging
import sys
from collections.abc import Sequence
from typing import Any

import luigi.cmdline
import luigi.scheduler
import luigi.server
from tornado.ioloop import IOLoop, PeriodicCallback

from luigi_spendguard import config, discretion
from luigi_spendguard.errors import LedgerError, PluginError
from luigi_spendguard.half_closed import answer_half_closed
from luigi_spendguard.ledger.migrations import migrate
from luigi_spendguard.targets import SCHEDULER, STATE, check_luigi
from scheduler_patch import page
from scheduler_patch.access import SWEEP_S
from scheduler_patch.api import lost, routes
from scheduler_patch.gateway import Gateway
from scheduler_patch.office import Office
from scheduler_patch.prices import correct_prices
from scheduler_patch.relay import relay_routes
from scheduler_patch.reload import on_hangup
from scheduler_patch.scheduler import BudgetScheduler, adopt
from scheduler_patch.serving import allow_connections, drain_with_luigid, tls, with_tls

logger = logging.getLogger(__name__)

_stock_app = luigi.server.app


def app(scheduler: Any) -> Any:
    """Return Luigi's own application with our routes ahead of its own.

    A scheduler of Luigi's own making gets its gate here. Opens the ledger if its file exists. Raises
    ConfigError, LedgerUnavailable, PluginError.
    """
    check_luigi(luigi.scheduler.Scheduler, SCHEDULER)
    check_luigi(luigi.scheduler.SimpleTaskState, STATE)
    discretion.install()
    settings = config.load(as_luigid=True)
    for text in settings.passed_over:
        logger.warning("%s", text)
    allow_connections()
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
    answer_half_closed(application)
    gateway = Gateway(office)
    application.add_handlers(r".*", [*relay_routes(gateway), *routes(office), *lost(), *page.routes()])
    if office.relayed_vendors:
        logger.info(
            "This is the gateway for %s: it has the secret", ", ".join(sorted(office.relayed_vendors))
        )
    IOLoop.current().add_callback(drain_with_luigid, gateway)
    IOLoop.current().add_callback(correct_prices, office)
    on_hangup(office)
    PeriodicCallback(office.sweep, SWEEP_S * 1000).start()
    return application


def install(settings: config.Settings) -> None:
    """Let `luigi.server.run` serve our application, over TLS where luigi.cfg says so. Raises ConfigError."""
    luigi.server.app = app
    context = tls(settings)
    if context is not None:
        with_tls(context)


def main(argv: Sequence[str] | None = None) -> None:
    """Run `luigid` with budgets; ends with status 2 and one line when it cannot start."""
    args = list(sys.argv[1:] if argv is None else argv)
    try:
        check_luigi(luigi.scheduler.Scheduler, SCHEDULER)
        settings = config.load(as_luigid=True)
        if settings.ledger_path.exists():
            migrate(settings.ledger_path)  # Before --background forks: errors are seen.
        tls(settings)
    except (config.ConfigError, LedgerError, PluginError) as error:
        sys.stderr.write(f"luigid-spendguard: {error}\n")
        raise SystemExit(2) from None
    install(settings)
    luigi.server.Scheduler = BudgetScheduler
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


if __name__ == "__main__":
    main()
