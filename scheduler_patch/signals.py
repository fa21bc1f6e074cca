"""What signals do to luigid, or to a gateway alone.

SIGTERM and SIGINT end it, when the calls in flight have ended. At SIGHUP it reads luigi.cfg and the files of
secrets again, while runs and keys go on.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import signal
from functools import partial

import luigi.server
from tornado.ioloop import IOLoop

from luigi_spendguard import config
from luigi_spendguard.config import ConfigError, Settings
from luigi_spendguard.errors import LedgerUnavailable
from luigi_spendguard.settings.files import PREFIX
from luigi_spendguard.settings.given import changes
from luigi_spendguard.settings.operators import ROLES_SECTION
from scheduler_patch.gateway import Gateway
from scheduler_patch.service import LedgerService
from scheduler_patch.service.remarks import say_mode, say_problems

logger = logging.getLogger(__name__)

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
#: What is used when luigid starts and never again: a change takes effect with the next start.
AT_START = {
    "ledger_path": "ledger_url",
    "ledger_server": "ledger_url",
    "metrics_collector": "metrics_collector",
    "tls_cert": "tls_cert",
    "tls_key": "tls_key",
}


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
            except Exception as error:
                logger.exception("luigi.cfg was not reloaded, the settings stay as they were")
                service.reload_refused(f"{type(error).__name__}: its log has more")

    def begin() -> None:
        task = loop.create_task(reload_now())
        under_way.add(task)
        task.add_done_callback(under_way.discard)

    try:
        # Called by the loop between two of its callbacks, not in the midst of one.
        loop.add_signal_handler(signal.SIGHUP, begin)
    except (RuntimeError, ValueError, NotImplementedError):  # No main thread, no loop, or Windows.
        logger.info("SIGHUP does not reload luigi.cfg here: luigid does not run in the main thread")


async def reload(service: LedgerService) -> bool:
    """Take over what luigi.cfg says now; return whether it could be: else everything stays as it was."""
    before = service.settings
    try:
        settings = await asyncio.to_thread(partial(config.load, complete=True))
        _check_complete(before, settings)
    except ConfigError as error:
        logger.error("luigi.cfg was not reloaded, the settings stay as they were: %s", error)
        service.reload_refused(str(error))
        return False
    kept = {
        name: getattr(before, name) for name in AT_START if getattr(before, name) != getattr(settings, name)
    }
    for key in dict.fromkeys(AT_START[name] for name in kept):
        logger.warning("[spendguard] %s has changed: it takes effect when luigid is started again", key)
    settings = dataclasses.replace(settings, **kept)
    changed = _changes(before, settings)
    try:
        await service.reload(settings)
    except LedgerUnavailable as error:
        logger.error("luigi.cfg is reloaded, but budgets keep their caps until the next start: %s", error)
    nothing = "nothing else has changed" if kept else "nothing has changed"
    logger.info("luigi.cfg was reloaded: %s", "; ".join(changed) or nothing)
    say_mode(settings, before)
    say_problems(settings)
    return True


def _check_complete(before: Settings, settings: Settings) -> None:
    """Refuse settings in which anything is missing that was there: absence never weakens the guard.

    A file may be being replaced, or have been cut off while it was written. Raises ConfigError.
    """
    for text in settings.passed_over:
        if text not in before.passed_over:
            raise ConfigError(text)
    files = [str(path) for path in before.files if path not in settings.files]
    missing = before.set_here - settings.set_here
    # Who is no operator any more has no role either.
    missing -= {f"[{ROLES_SECTION}] {name}" for name in before.operators.keys() - settings.operators.keys()}
    # With a list or table its entries are gone.
    gone = files or sorted(name for name in missing if name.partition(": ")[0] not in missing - {name})
    if gone:
        was, it = ("was there and is", "it is") if len(gone) == 1 else ("were there and are", "they are")
        raise ConfigError(f"{', '.join(gone)} {was} gone; restart luigid if {it} to stay away")


def _changes(before: Settings, settings: Settings) -> list[str]:
    """Return what has changed and is in force now, by name."""
    waiting = [f"[{PREFIX}] {key}" for key in AT_START.values()]
    named = {name: one for name, one in settings.given.items() if name not in waiting}
    was = {name: one for name, one in before.given.items() if name not in waiting}
    files = ["other files are read"] if before.files != settings.files else []
    return [*files, *changes(was, named)]
