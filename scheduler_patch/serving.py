"""How luigid, or a gateway alone, serves: with TLS, and until the calls in flight have ended."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import ssl
from typing import Any

import luigi.server
import tornado.httpserver
import tornado.netutil
from tornado.ioloop import IOLoop

from luigi_spendguard.config import ConfigError, Settings
from scheduler_patch.gateway import Gateway

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
