"""`luigid-spendguard`: Luigi's own daemon with budgets; every flag of `luigid` works.

How luigid, or a gateway alone, serves: with TLS, and until the calls in flight have ended.

SIGHUP: luigid reads luigi.cfg and the files of secrets again, while runs and keys go on.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import dataclasses
import errno
import logging
import signal
import ssl
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

import luigi.cmdline
import luigi.scheduler
import luigi.server
import tornado.httpserver
import tornado.netutil
from tornado.ioloop import IOLoop, PeriodicCallback

from luigi_spendguard import config, redaction
from luigi_spendguard.config import ConfigError, Settings
from luigi_spendguard.errors import LedgerError, LedgerUnavailable, PluginError
from luigi_spendguard.http.receiving import answer_half_closed
from luigi_spendguard.ledger.migrations import migrate
from luigi_spendguard.luigi_api import SCHEDULER, STATE, check_luigi
from scheduler_patch.api import lost, routes
from scheduler_patch.gateway import Gateway
from scheduler_patch.gateway.handler import relay_routes
from scheduler_patch.scheduler import BudgetScheduler, adopt
from scheduler_patch.service.late_prices import correct_prices
from scheduler_patch.service.ledger import SWEEP_S
from scheduler_patch.service.workers import LedgerService
from scheduler_patch.visualiser import page

logger = logging.getLogger(__name__)

#: Files and connections that are asked for.
MOST_FILES = 65_536
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


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


def tls(settings: Settings) -> ssl.SSLContext | None:
    """Return what `tls_cert` and `tls_key` say, None without them. Raises ConfigError."""
    if settings.tls_cert is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(settings.tls_cert, settings.tls_key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"[spendguard] tls_cert and tls_key cannot be used ({error.strerror or type(error).__name__}): "
            "they must be a PEM certificate and its PEM key, readable by this user"
        ) from None
    return context


def with_tls(context: ssl.SSLContext) -> None:
    """Let luigid's whole port speak TLS; `luigi.server.run` looks up what binds it (Luigi 3.8, server.py)."""

    def init_api(
        scheduler: Any,
        api_port: int | None = None,
        address: str | None = None,
        unix_socket: str | None = None,
    ) -> list[Any]:
        if unix_socket is not None:
            sockets = [tornado.netutil.bind_unix_socket(unix_socket)]
        else:
            sockets = tornado.netutil.bind_sockets(api_port or 0, address=address)
        server = tornado.httpserver.HTTPServer(
            luigi.server.app(scheduler), ssl_options=None if unix_socket is not None else context
        )
        server.add_sockets(sockets)
        return [one.getsockname() for one in sockets]

    luigi.server._init_api = init_api


def drain_with_luigid(gateway: Gateway) -> None:
    """Let the signals that end luigid wait for calls in flight, where it is luigid that runs the loop.

    Called when the loop runs: by then `luigi.server.run` has installed its own handlers (Luigi 3.8).
    Whoever serves our application otherwise, a test of Luigi's or a program with children of its own, keeps
    its signals: a handler of ours in a child that was just forked would swallow what is to end it.
    """
    handlers = (signal.getsignal(number) for number in _SIGNALS)
    if all(getattr(handler, "__module__", "") == luigi.server.__name__ for handler in handlers):
        drain_on_signals(gateway)


def drain_on_signals(gateway: Gateway) -> None:
    """Let SIGTERM and SIGINT wait for calls in flight before what they do now; a second one does not.

    What they do now, they do between two callbacks of the loop. In the midst of one, while a line is being
    logged, Luigi's handler would be lost: it logs, too, and streams refuse that (`reentrant call`).
    """
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    loop: asyncio.AbstractEventLoop = IOLoop.current().asyncio_loop  # type: ignore[attr-defined]  # tornado's own
    under_way: set[asyncio.Task[None]] = set()

    def end(number: signal.Signals) -> None:
        handler = before[number]
        if callable(handler):
            handler(number, None)
        else:
            raise SystemExit(0)

    async def finish(number: signal.Signals) -> None:
        await gateway.drain()
        end(number)

    def handle(number: signal.Signals) -> None:
        if gateway.draining or not gateway.in_flight:
            end(number)
        else:
            logger.info("Ends when %d vendor calls in flight have", gateway.in_flight)
            gateway.draining = True
            under_way.add(loop.create_task(finish(number)))

    for number in _SIGNALS:
        with contextlib.suppress(NotImplementedError):  # Windows keeps what it does now.
            loop.add_signal_handler(number, handle, number)


logger = logging.getLogger(__name__)

#: What is used when luigid starts and never again: a change takes effect with the next start.
AT_START = {
    "ledger_path": "ledger_url",
    "metrics_collector": "metrics_collector",
    "tls_cert": "tls_cert",
    "tls_key": "tls_key",
}


def on_hangup(service: LedgerService) -> None:
    """Let SIGHUP reload the settings of `service`; called in the thread that will run tornado's loop."""
    if not hasattr(signal, "SIGHUP"):
        return  # Windows.
    loop: asyncio.AbstractEventLoop = IOLoop.current().asyncio_loop  # type: ignore[attr-defined]  # tornado's own
    one_at_a_time = asyncio.Lock()
    under_way: set[asyncio.Task[None]] = set()

    async def reload_now() -> None:
        async with one_at_a_time:
            try:
                await reload(service)
            except Exception:
                logger.exception("luigi.cfg was not reloaded, the settings stay as they were")

    def begin() -> None:
        task = loop.create_task(reload_now())
        under_way.add(task)
        task.add_done_callback(under_way.discard)

    try:
        # Called by the loop between two of its callbacks, not in the midst of one.
        loop.add_signal_handler(signal.SIGHUP, begin)
    except (RuntimeError, ValueError, NotImplementedError):
        logger.info("SIGHUP does not reload luigi.cfg here: luigid does not run in the main thread")


async def reload(service: LedgerService) -> bool:
    """Take over what luigi.cfg says now; return whether it could be: else everything stays as it was."""
    before = service.settings
    try:
        settings = await asyncio.to_thread(partial(config.load, whole=True))
        _check_complete(before, settings)
    except config.ConfigError as error:
        logger.error("luigi.cfg was not reloaded, the settings stay as they were: %s", error)
        return False
    kept = {
        name: getattr(before, name) for name in AT_START if getattr(before, name) != getattr(settings, name)
    }
    for name in kept:
        logger.warning(
            "[spendguard] %s has changed: it takes effect when luigid is started again", AT_START[name]
        )
    settings = dataclasses.replace(settings, **kept)
    changed = _changes(before, settings)
    try:
        await service.reload(settings)
    except LedgerUnavailable as error:
        logger.error("luigi.cfg is reloaded, but budgets keep their caps until the next start: %s", error)
    logger.info(
        "luigi.cfg was reloaded: %s", f"{', '.join(changed)} changed" if changed else "nothing has changed"
    )
    return True


def _check_complete(before: Settings, settings: Settings) -> None:
    """Refuse settings in which anything is missing that was there: absence never weakens the guard.

    A file may be being replaced, or have been cut off while it was written. Raises ConfigError.
    """
    for text in settings.passed_over:
        if text not in before.passed_over:
            raise config.ConfigError(text)
    files = [str(path) for path in before.files if path not in settings.files]
    gone = files or sorted(before.set_here - settings.set_here)
    if gone:
        more = f" (and {len(gone) - 1} more)" if len(gone) > 1 else ""
        raise config.ConfigError(
            f"{gone[0]}{more} was there and is gone; restart luigid if it is to stay away"
        )


def _changes(before: Settings, settings: Settings) -> list[str]:
    """Return what has changed, by name and never by value."""
    names = [
        field.name
        for field in dataclasses.fields(Settings)
        if field.name not in ("vendors", "passed_over", "set_here")
        and getattr(before, field.name) != getattr(settings, field.name)
    ]
    for vendor, own in settings.vendors.items():
        was = before.vendor(vendor)
        names += [
            f"{field.name} of {vendor}"
            for field in dataclasses.fields(own)
            if getattr(was, field.name) != getattr(own, field.name)
        ]
    return names


logger = logging.getLogger(__name__)

_stock_app = luigi.server.app


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
