"""Sends a request to the vendor from a thread, and knows for certain whether a byte of it has left."""

from __future__ import annotations

import inspect
import socket
import time
from collections.abc import Generator
from typing import Any

from luigi_spendguard.errors import bare
from luigi_spendguard.guard.effects import advance
from luigi_spendguard.http.connections import Connect, Idle, Operation, Undo, Write
from luigi_spendguard.http.transport import CONNECT_S, Limits, sending
from luigi_spendguard.vendors import Reply, Request


class BlockingTransport:
    """A process's connections; any thread sends by them.

    `straight`: never through a proxy.
    """

    def __init__(self, *, straight: bool = False) -> None:
        self._straight, self._idle = straight, Idle()

    def send(
        self,
        request: Request,
        deadline: float,
        timeout_s: float,
        connect_s: float = CONNECT_S,
        proxy: str = "",
    ) -> Reply:
        """Send and return the reply; raises as `transport.sending`.

        `proxy`: the URL of one that takes the place of the environment's.
        """
        try:
            limits = Limits(deadline, timeout_s, connect_s)
            return _driven(sending(request, self._idle, limits, straight=self._straight, proxy=proxy))
        except BaseException as error:
            raised = bare(error)  # Its frames have the request's bytes, and so the secret.
        raise raised


def _driven(steps: Generator[Operation, Any, Reply]) -> Reply:
    value: Any = None
    error: BaseException | None = None
    while True:
        try:
            step = advance(steps, value, error)
            if isinstance(step, Reply):
                return step
            value, error = _done(step), None
        except BaseException as caught:  # It closes the connection, and knows what was sent.
            if inspect.getgeneratorstate(steps) == inspect.GEN_CLOSED:
                raise
            value, error = None, caught


def _done(step: Operation) -> Any:
    if isinstance(step, Connect):
        return _connected(step)
    if isinstance(step, Undo):
        return step.act()
    step.socket.settimeout(_left(step.by))
    if isinstance(step, Write):
        return step.socket.sendall(step.data)
    return step.socket.recv(1 << 16)


def _left(by: float) -> float:
    left = by - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _connected(step: Connect) -> socket.socket:
    """Try each address of the host, the first ones for a part of the time."""
    if step.host.startswith("/"):
        addresses: list[Any] = [(socket.AF_UNIX, socket.SOCK_STREAM, 0, "", step.host)]
    else:
        addresses = socket.getaddrinfo(step.host, step.port, type=socket.SOCK_STREAM)
    last: OSError = TimeoutError()
    for number, (family, kind, protocol, _, address) in enumerate(addresses):
        made = socket.socket(family, kind, protocol)
        try:
            made.settimeout(_left(step.by) / (len(addresses) - number))
            made.connect(address)
            if family != socket.AF_UNIX:
                made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return made
        except BaseException as error:
            made.close()
            if not isinstance(error, OSError):
                raise
            last = error
    raise last
