"""luigid's application with budgets: Luigi's own routes, and ours ahead of them."""

from __future__ import annotations

import atexit
import contextlib
import logging
from typing import Any

import luigi.scheduler
import luigi.server
from tornado.ioloop import IOLoop, PeriodicCallback

from luigi_spendguard import config, redaction
from luigi_spendguard.http.receiving import answer_half_closed
from luigi_spendguard.luigi_api import SCHEDULER, STATE, check_luigi
from scheduler_patch import tls
from scheduler_patch.api import lost, routes
from scheduler_patch.gateway import Gateway
from scheduler_patch.gateway.handler import relay_routes
from scheduler_patch.scheduler import adopt
from scheduler_patch.service.late_prices import correct_prices
from scheduler_patch.service.ledger import SWEEP_S
from scheduler_patch.service.workers import LedgerService
from scheduler_patch.signals import drain_with_luigid, on_hangup
from scheduler_patch.visualiser import page

logger = logging.getLogger(__name__)

#: Files and connections that are asked for.
MOST_FILES = 65_536

_stock_app = luigi.server.app


def allow_connections() -> None:
    """Let this process have as many files and connections open as the system lets it ask for: the usual 1,024
    are used up by one client's waiting calls, and then nobody else is let in.
    """
    try:
        import resource
    except ImportError:  # Not on Windows.
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def app(scheduler: Any) -> Any:
    """Return Luigi's own application with our routes ahead of its own.

    A scheduler of Luigi's own making gets its gate here. Opens the ledger if its file exists. Raises
    ConfigError, LedgerUnavailable, PluginError.
    """
    check_luigi(luigi.scheduler.Scheduler, SCHEDULER)
    check_luigi(luigi.scheduler.SimpleTaskState, STATE)
    redaction.install()
    settings = config.load(as_luigid=True)
    for text in settings.passed_over:
        logger.warning("%s", text)
    allow_connections()
    service = LedgerService(settings, adopt(scheduler))
    atexit.register(service.close)
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
    gateway = Gateway(service)
    application.add_handlers(r".*", [*relay_routes(gateway), *routes(service), *lost(), *page.routes()])
    if service.relayed_vendors:
        logger.info(
            "This is the gateway for %s: it has the secret", ", ".join(sorted(service.relayed_vendors))
        )
    IOLoop.current().add_callback(drain_with_luigid, gateway)
    IOLoop.current().add_callback(correct_prices, service)
    on_hangup(service)
    PeriodicCallback(service.sweep, SWEEP_S * 1000).start()
    return application


def install(settings: config.Settings) -> None:
    """Let `luigi.server.run` serve our application, over TLS where luigi.cfg says so. Raises ConfigError."""
    luigi.server.app = app
    context = tls.context_of(settings)
    if context is not None:
        tls.serve_luigid(context)
