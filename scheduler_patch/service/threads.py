"""What luigid does by the clock in threads of its own asks the service for what is done in the loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from tornado.ioloop import IOLoop

#: Does something in the loop, for another thread; returns what that returns, or raises it.
Do = Callable[[Coroutine[Any, Any, Any]], Any]

#: Seconds for the service to do what is asked of it.
_PATIENCE_S = 60.0


def in_this_loop() -> Do:
    """Return what lets another thread do something in the loop that runs here."""
    loop: asyncio.AbstractEventLoop = IOLoop.current().asyncio_loop  # type: ignore[attr-defined]  # tornado's own

    def do(what: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(what, loop).result(_PATIENCE_S)

    return do
