"""SIGHUP: luigid reads luigi.cfg and the files of secrets again, while runs and keys go on."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import signal
from functools import partial

from tornado.ioloop import IOLoop

from luigi_spendguard import config
from luigi_spendguard.config import Settings
from luigi_spendguard.errors import LedgerUnavailable
from scheduler_patch.office import Office

logger = logging.getLogger(__name__)

#: What is used when luigid starts and never again: a change takes effect with the next start.
AT_START = {
    "ledger_path": "ledger_url",
    "metrics_collector": "metrics_collector",
    "tls_cert": "tls_cert",
    "tls_key": "tls_key",
}


def on_hangup(office: Office) -> None:
    """Let SIGHUP reload the settings of `office`; called in the thread that will run tornado's loop."""
    if not hasattr(signal, "SIGHUP"):
        return  # Windows.
    loop: asyncio.AbstractEventLoop = IOLoop.current().asyncio_loop  # type: ignore[attr-defined]  # tornado's own
    one_at_a_time = asyncio.Lock()
    under_way: set[asyncio.Task[None]] = set()

    async def reload_now() -> None:
        async with one_at_a_time:
            try:
                await reload(office)
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


async def reload(office: Office) -> bool:
    """Take over what luigi.cfg says now; return whether it could be: else everything stays as it was."""
    before = office.settings
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
        await office.reload(settings)
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
