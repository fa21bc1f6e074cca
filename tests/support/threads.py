"""Threads that other code begins."""

from __future__ import annotations

import threading
import time


def begun(before: set[threading.Thread]) -> threading.Thread:
    """Wait for the one thread that has begun since `before` (`threading.enumerate`), and return it."""
    while not (since := {one for one in threading.enumerate() if one.is_alive()} - before):
        time.sleep(0.001)
    (thread,) = since
    return thread
