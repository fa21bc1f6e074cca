"""What is served: luigid's application with budgets, our routes ahead of Luigi's own; or a gateway alone."""

from __future__ import annotations

import atexit
import contextlib
import gc
import logging
import os
from collections.abc import Callable
from typing import Any

import luigi.scheduler
import luigi.server
import tornado.httpserver
import tornado.netutil
from tornado.ioloop import IOLoop, PeriodicCallback
from tornado.web import Application

from luigi_spendguard import config, redaction
from luigi_spendguard.http.receiving import answer_half_closed
from luigi_spendguard.ledger.database import Row
from luigi_spendguard.luigi_api import SCHEDULED_WORKER, SCHEDULER, STATE, check_luigi
from luigi_spendguard.settings.operators import OPERATORS, name_of
from scheduler_patch import access_log, tls, visualiser
from scheduler_patch.api import lost, routes
from scheduler_patch.api.luigis import luigi_routes
from scheduler_patch.gateway import Gateway
from scheduler_patch.gateway.handler import Nowhere, Unknown, nowhere, relay_routes
from scheduler_patch.scheduler import BudgetScheduler, adopt
from scheduler_patch.service import LedgerService
from scheduler_patch.service.doubts import look_up_doubts
from scheduler_patch.service.late_prices import correct_prices
from scheduler_patch.service.ledger import HEAR_S, SWEEP_S
from scheduler_patch.service.news import LOOK_S, News
from scheduler_patch.service.reconciling import reconcile_nightly
from scheduler_patch.service.remarks import say_mode, say_problems
from scheduler_patch.service.sealing import Sealing
from scheduler_patch.service.spooled import take_over
from scheduler_patch.signals import drain_on_signals, drain_with_luigid, on_hangup

logger = logging.getLogger(__name__)

#: Files and connections that are asked for.
MOST_FILES = 65_536
#: Of our own routes, those that a gateway alone serves: the others need luigid's scheduler.
_ROUTES = (r"/settings", r"/status", r"/openapi.json")

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


def collect_seldom() -> None:
    """Let garbage be looked for less often: a call leaves little, and a look costs it a part of its time."""
    gc.set_threshold(10_000, *gc.get_threshold()[1:])


#: What ends with luigid. As an interpreter ends it waits for pools' threads before what `atexit` has: one
#: that asks a server which stands still would be waited for, and nobody gives it up.
ending = contextlib.ExitStack()
atexit.register(ending.close)


def app(scheduler: Any) -> Any:
    """Return Luigi's own application with our routes ahead of its own.

    A scheduler of Luigi's own making gets its gate here. Opens the ledger if its file exists. Raises
    ConfigError, LedgerUnavailable, PluginError.
    """
    check_luigi(luigi.scheduler.Scheduler, SCHEDULER)
    check_luigi(luigi.scheduler.SimpleTaskState, STATE)
    check_luigi(luigi.scheduler.Worker, SCHEDULED_WORKER)
    redaction.install()
    settings = config.load(as_luigid=True)
    for text in settings.passed_over:
        logger.warning("%s", text)
    allow_connections()
    collect_seldom()
    service = LedgerService(settings, adopt(scheduler))
    news, sealing = News(service), Sealing(service)
    for end in (service.close, sealing.finish, news.finish):
        ending.callback(end)  # What was added last is done first.
    if settings.worker_token is not None and settings.caps.day is None:
        logger.warning(
            "[spendguard] worker_token is set without daily_cap_usd: whoever holds the token can open "
            "run after run. Set daily_cap_usd to bound them together"
        )
    if settings.worker_token is None:
        logger.info("Without [spendguard] worker_token only this machine's workers are served")
    logger.info("Budgets are kept in %s", settings.ledger_name)
    application = _stock_app(scheduler)
    answer_half_closed(application)
    access_log.install(application)
    application.settings["default_handler_class"] = Unknown
    gateway = Gateway(service)
    application.add_handlers(
        r".*",
        [
            *luigi_routes(scheduler),
            *relay_routes(gateway),
            *routes(service),
            *lost(),
            *nowhere(),
            *visualiser.routes(),
        ],
    )
    if service.relayed_vendors:
        logger.info(
            "This is the gateway for %s: it has the secret", ", ".join(sorted(service.relayed_vendors))
        )
    _say_unset(settings)
    say_mode(settings)
    say_problems(settings)
    _begin(service, gateway, news, drain_with_luigid)
    IOLoop.current().add_callback(sealing.start)
    return application


def _say_unset(settings: config.Settings) -> None:
    """Say what is not done here because an environment variable is not set, as on a worker it may be."""
    not_set = "its environment variable is not set here"
    for setting in settings.unset:
        section, _, key = setting.strip("[").partition("] ")
        vendor = settings.vendors.get(section.removeprefix("spendguard_"))
        if vendor is not None and key in ("secret", "secret_file") and vendor.secret is None:
            text = "This is no gateway for %s, whose workers need the secret: %s is passed over, as %s"
            logger.info(text, vendor.name, setting, not_set)
        elif section == OPERATORS:
            logger.warning(
                "%s may not change anything: %s is passed over, as %s", name_of(key), setting, not_set
            )
        elif key.startswith("worker_token") and settings.worker_token is None:
            logger.info("%s is passed over, as %s", setting, not_set)


def _begin(service: LedgerService, gateway: Gateway, news: News, drain: Callable[[Gateway], object]) -> None:
    """Do from now on what is done by the clock and by signals."""
    IOLoop.current().add_callback(drain, gateway)
    IOLoop.current().add_callback(correct_prices, service)
    IOLoop.current().add_callback(reconcile_nightly, service)
    IOLoop.current().add_callback(look_up_doubts, service)
    on_hangup(service)
    IOLoop.current().add_callback(take_over, service)
    PeriodicCallback(service.sweep, SWEEP_S * 1000).start()
    PeriodicCallback(news.tell, LOOK_S * 1000).start()
    if service.settings.ledger_server is not None:
        IOLoop.current().add_callback(service.listen)
        PeriodicCallback(service.hear, HEAR_S * 1000).start()


def install(settings: config.Settings) -> None:
    """Let `luigi.server.run` serve our application, over TLS where luigi.cfg says so. Raises ConfigError."""
    luigi.server.app = app
    context = tls.context_of(settings)
    if context is not None:
        tls.serve_luigid(context)


def serve_gateway(settings: config.Settings, address: str, port: int) -> None:
    """Serve the gateway alone, apart from luigid and before the same ledger, until a signal ends it.

    Raises ConfigError, LedgerUnavailable.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s: %(message)s")
    redaction.install()
    allow_connections()
    collect_seldom()
    service = LedgerService(settings, BudgetScheduler())
    if not service.relayed_vendors:
        raise config.ConfigError(
            "this luigi.cfg has no vendor's secret: set `secret` or `secret_file` in its section, "
            "such as [spendguard_stripe] (a variable such as STRIPE_SECRET_KEY alone is the workers')"
        )
    _say_unset(settings)
    say_mode(settings)
    say_problems(settings)
    gateway = Gateway(service)
    ours = [route for route in routes(service) if route[0] in _ROUTES]
    application = Application([*relay_routes(gateway), *ours], default_handler_class=Nowhere)
    answer_half_closed(application)
    access_log.install(application)
    server = tornado.httpserver.HTTPServer(application, ssl_options=tls.context_of(settings))
    try:
        server.add_sockets(tornado.netutil.bind_sockets(port, address=address))
    except OSError as error:
        raise config.ConfigError(
            f"cannot listen on {address}:{port}: {os.strerror(error.errno or 0)}"
        ) from None
    news = News(service, _is_relayed)
    _begin(service, gateway, news, drain_on_signals)
    logger.info(
        "The gateway for %s listens on %s:%d", ", ".join(sorted(service.relayed_vendors)), address, port
    )
    try:
        IOLoop.current().start()
    except KeyboardInterrupt:
        pass
    finally:
        news.finish()
        service.close()


def _is_relayed(row: Row) -> bool:
    """Return whether a gateway has made the call that something is said of: luigid's log has the rest."""
    return bool(row.get("relayed"))
