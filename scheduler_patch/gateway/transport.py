"""Sends a request to the vendor in luigid's loop, and knows for certain whether a byte of it has left."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from luigi_spendguard.errors import bare
from luigi_spendguard.guard.effects import advance
from luigi_spendguard.http.connections import FRESH_S, Connect, Idle, Operation, Read, Undo, Write
from luigi_spendguard.http.transport import Limits, sending
from luigi_spendguard.vendors import Reply, Request
from scheduler_patch.gateway.replies import Room

#: Connections to all vendors together; further calls wait for one.
CONNECTIONS = 256
#: Names that are resolved at once.
RESOLVERS = 8


class LoopTransport:
    """The gateway's connections to vendors; made in the loop that uses it."""

    def __init__(self) -> None:
        self._idle = Idle()
        self._free = asyncio.Semaphore(CONNECTIONS)
        self._pruning: asyncio.TimerHandle | None = None
        # Not the loop's own threads: there the guard thinks about long requests.
        self._resolvers = ThreadPoolExecutor(RESOLVERS, thread_name_prefix="spendguard-names")

    async def send(self, request: Request, deadline: float, timeout_s: float, room: Room) -> Reply:
        """Send and return the whole reply, which is held in `room`; raises as `transport.sending`."""
        async with self._free:
            try:
                return await self._driven(sending(request, self._idle, Limits(deadline, timeout_s)), room)
            except BaseException as error:
                raised = bare(error)  # Its frames have the request's bytes, and so the secret.
            finally:
                self._prune_later()
        raise raised

    def _prune_later(self) -> None:
        """Close connections that nobody has used again, rather than hold their ends open."""
        if self._pruning is None:
            self._pruning = asyncio.get_running_loop().call_later(FRESH_S + 1, self._prune)

    def _prune(self) -> None:
        self._pruning = None
        if self._idle.prune():
            self._prune_later()

    async def _driven(self, steps: Generator[Operation, Any, Reply], room: Room) -> Reply:
        value: Any = None
        error: BaseException | None = None
        has_written = False
        while True:
            step = advance(steps, value, error)
            if isinstance(step, Reply):
                return step
            value, error = None, None
            try:
                if isinstance(step, Read):
                    value = await _bytes_read(step, room, at_once=not has_written)
                else:
                    value = await self._done(step, room)
                has_written = isinstance(step, Write)
            except BaseException as caught:  # It closes the connection, whatever ends this.
                error = caught

    async def close(self) -> None:
        """Close all connections."""
        if self._pruning is not None:
            self._pruning.cancel()
        self._idle.close()
        self._resolvers.shutdown(wait=False, cancel_futures=True)

    async def _done(self, step: Connect | Write | Undo, room: Room) -> Any:
        if isinstance(step, Connect):
            return await self._connected(step)
        if isinstance(step, Write):
            return await _written(step)
        await room.hold_most(step.by)
        return await asyncio.to_thread(step.act)

    async def _connected(self, step: Connect) -> socket.socket:
        """Try each address of the host, the first ones for a part of the time."""
        addresses = await self._addresses(step)
        last: OSError = TimeoutError()
        for number, (family, kind, protocol, _, address) in enumerate(addresses):
            made = socket.socket(family, kind, protocol)
            try:
                made.setblocking(False)
                made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                now = asyncio.get_running_loop().time()
                by = now + (step.by - now) / (len(addresses) - number)
                try:
                    made.connect(address)
                except (BlockingIOError, InterruptedError):
                    await _ready(made, by, writable=True)
                    if code := made.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                        raise OSError(code, os.strerror(code)) from None
                return made
            except BaseException as error:
                made.close()
                if not isinstance(error, OSError):
                    raise
                last = error
        raise last

    async def _addresses(self, step: Connect) -> list[Any]:
        loop = asyncio.get_running_loop()
        try:  # A number needs nobody to be asked.
            return socket.getaddrinfo(
                step.host, step.port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST
            )
        except socket.gaierror:
            pass
        resolving = loop.run_in_executor(
            self._resolvers, lambda: socket.getaddrinfo(step.host, step.port, type=socket.SOCK_STREAM)
        )
        try:
            return await asyncio.wait_for(resolving, step.by - loop.time())
        except asyncio.TimeoutError:
            raise TimeoutError from None


async def _bytes_read(step: Read, room: Room, *, at_once: bool) -> bytes:
    """Read some bytes; not `at_once`: what was written a moment ago is not answered yet."""
    waits = not at_once
    while True:
        if waits:
            await _ready(step.socket, step.by, writable=False)
        try:
            data = step.socket.recv(1 << 16)
            break
        except (BlockingIOError, InterruptedError):
            waits = True
    await room.read(len(data), step.by)
    if not waits:
        await asyncio.sleep(0)  # A vendor that is fast, or talks in crumbs, does not keep the loop.
    if asyncio.get_running_loop().time() >= step.by:
        raise TimeoutError
    return data


async def _written(step: Write) -> None:
    left = memoryview(step.data)
    while left:
        try:
            left = left[step.socket.send(left) :]
        except (BlockingIOError, InterruptedError):
            await _ready(step.socket, step.by, writable=True)


async def _ready(sock: socket.socket, by: float, *, writable: bool) -> None:
    """Wait until a socket can be used. Raises TimeoutError at `by`, of the loop's clock: `time.monotonic`."""
    loop = asyncio.get_running_loop()
    waiting: asyncio.Future[None] = loop.create_future()
    add, remove = (loop.add_writer, loop.remove_writer) if writable else (loop.add_reader, loop.remove_reader)
    number = sock.fileno()  # A socket that no loop knows yet would be described in an error, each time.

    def over(error: Exception | None) -> None:
        if not waiting.done():
            waiting.set_exception(error) if error else waiting.set_result(None)

    add(number, over, None)
    timer = loop.call_at(by, over, TimeoutError())
    try:
        await waiting
    finally:
        timer.cancel()
        remove(number)
