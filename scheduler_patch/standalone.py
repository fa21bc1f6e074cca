"""`spendguard gateway`: the gateway alone, scaled and restarted apart from luigid, before the same ledger."""

from __future__ import annotations

import logging
import os

import tornado.httpserver
import tornado.netutil
from tornado.ioloop import IOLoop, PeriodicCallback
from tornado.web import Application

from luigi_spendguard import redaction
from luigi_spendguard.config import ConfigError, Settings
from luigi_spendguard.http.receiving import answer_half_closed
from scheduler_patch import tls
from scheduler_patch.api import routes
from scheduler_patch.gateway import Gateway
from scheduler_patch.gateway.handler import relay_routes
from scheduler_patch.scheduler import BudgetScheduler
from scheduler_patch.server import allow_connections
from scheduler_patch.service.late_prices import correct_prices
from scheduler_patch.service.ledger import SWEEP_S
from scheduler_patch.service.workers import LedgerService
from scheduler_patch.signals import drain_on_signals, on_hangup

logger = logging.getLogger(__name__)

#: Of our own routes, those that a gateway alone serves: the others need luigid's scheduler.
_ROUTES = (r"/status", r"/openapi.json")


def run(settings: Settings, address: str, port: int) -> None:
    """Serve until a signal ends it. Raises ConfigError, LedgerUnavailable."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s: %(message)s")
    redaction.install()
    allow_connections()
    service = LedgerService(settings, BudgetScheduler())
    if not service.relayed_vendors:
        raise ConfigError(
            "this luigi.cfg has no vendor's secret: set `secret` or `secret_file` in its section, "
            "such as [spendguard_stripe]"
        )
    gateway = Gateway(service)
    ours = [route for route in routes(service) if route[0] in _ROUTES]
    app = Application([*relay_routes(gateway), *ours])
    answer_half_closed(app)
    server = tornado.httpserver.HTTPServer(app, ssl_options=tls.context_of(settings))
    try:
        server.add_sockets(tornado.netutil.bind_sockets(port, address=address))
    except OSError as error:
        raise ConfigError(f"cannot listen on {address}:{port}: {os.strerror(error.errno or 0)}") from None
    PeriodicCallback(service.sweep, SWEEP_S * 1000).start()
    loop = IOLoop.current()
    loop.add_callback(drain_on_signals, gateway)
    loop.add_callback(correct_prices, service)
    on_hangup(service)
    logger.info(
        "The gateway for %s listens on %s:%d", ", ".join(sorted(service.relayed_vendors)), address, port
    )
    try:
        loop.start()
    except KeyboardInterrupt:
        pass
    finally:
        service.close()
