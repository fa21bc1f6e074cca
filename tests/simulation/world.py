"""Virtual time: what happens when, which processes live, and what becomes of the messages between them.

Nothing here is left to chance: whatever varies is derived from the history's seed and from what it is about,
so that a history from which something is taken away goes on as before wherever it can.
"""

from __future__ import annotations

import heapq
import itertools
import zlib
from collections.abc import Awaitable, Callable, Coroutine, Generator
from datetime import datetime, timezone
from typing import Any

#: Seconds of virtual time after which an actor that has not ended waits for ever.
LIMIT_S = 4 * 3600.0
#: Milliseconds since the epoch when every history begins: 2026-11-29, 23:58 UTC, so that a day ends in it.
BEGIN_MS = int(datetime(2026, 11, 29, 23, 58, tzinfo=timezone.utc).timestamp() * 1000)


class Broken(AssertionError):
    """A promise was broken, or the machinery: ends a history."""


class PowerLoss(BaseException):
    """Ends whatever writes to the ledger at that moment, and everything else of the machine."""


class Pending:
    """What somebody waits for; also a `Future`, as far as the ledger's writer and the service need one."""

    def __init__(self, world: World) -> None:
        self._world, self._value, self._error = world, None, None
        self._waiting: list[Callable[[], None]] = []
        self.is_done = False

    def __await__(self) -> Generator[Pending, None, Any]:
        if not self.is_done:
            yield self
        return self.result()

    def done(self) -> bool:
        return self.is_done

    def result(self) -> Any:
        if self._error is not None:
            raise self._error
        return self._value

    def then(self, act: Callable[[], None]) -> None:
        if self.is_done:
            self._world.later(0, act)
        else:
            self._waiting.append(act)

    def set_result(self, value: Any = None) -> None:
        self._end(value, None)

    def set_exception(self, error: BaseException) -> None:
        self._end(None, error)

    def _end(self, value: Any, error: BaseException | None) -> None:
        if self.is_done:  # A time-out came first, or a message twice.
            return
        self.is_done, self._value, self._error = True, value, error
        for act in self._waiting:
            self._world.later(0, act)


class Process:
    """A process of the machine. A killed one does nothing any more: whatever it was in the midst of ends."""

    def __init__(self, world: World, name: str) -> None:
        self.world, self.name, self.alive = world, name, True
        self.steps = self.messages = 0
        #: By which others that hold something of its know it.
        self.pid = len(world.processes)
        world.processes.append(self)
        #: Killed before this step; so a plan kills it between any two.
        self.last_step = world.kills.pop(name, None)
        self.gone = Pending(world)

    def spawn(self, coroutine: Coroutine[Pending, None, Any]) -> Pending:
        """Run something in this process; what is returned is over when that is, or never."""
        ended = Pending(self.world)

        self.world.begun.append(coroutine)

        def step() -> None:
            if not self.alive:  # Nothing of it is tidied up: what it holds stays so.
                return
            self.steps += 1
            if self.last_step is not None and self.steps > self.last_step:
                self.world.say(f"{self.name} is killed before step {self.steps}")
                self.kill()
                return
            self.world.current = self
            try:
                waiting = coroutine.send(None)
            except StopIteration as stop:
                ended.set_result(stop.value)
            except Broken:
                raise
            except Exception as error:
                ended.set_exception(error)
            else:
                waiting.then(step)

        self.world.later(0, step)
        return ended

    def background(self, coroutine: Coroutine[Pending, None, Any]) -> None:
        """Run what has nobody who waits for it; what it raises ends the history."""
        ended = self.spawn(coroutine)
        ended.then(ended.result)

    def kill(self) -> None:
        if self.alive:
            self.alive = False
            self.gone.set_result()


class World:
    """The machine, by the clock `now` (seconds, never steps) and the one that people set (`wall_ms`)."""

    def __init__(self, seed: int, faults: list[dict[str, Any]], trace: list[str] | None = None) -> None:
        self.seed, self.now, self.step_ms = seed, 0.0, 0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = itertools.count()
        self.trace = trace
        self.begun: list[Coroutine[Pending, None, Any]] = []
        self.processes: list[Process] = []
        #: Which of them does something now.
        self.current: Process | None = None
        self.kills = {fault["who"]: fault["step"] for fault in faults if fault["fault"] == "kill"}
        #: What goes wrong with the next message of a process, or at the vendors: by time.
        self.faults = sorted((fault for fault in faults if fault["fault"] != "kill"), key=lambda f: f["at"])
        #: A network that holds up what a process says, and lets it go in whatever order.
        self.held = [fault for fault in self.faults if fault["fault"] == "hold up"]
        #: Actors that have not ended, by name.
        self.actors: dict[str, Pending] = {}

    def say(self, text: str) -> None:
        if self.trace is not None:
            self.trace.append(f"{self.now:9.3f} {text}")

    def clock(self) -> float:
        return self.now

    def wall_ms(self) -> int:
        return BEGIN_MS + int(self.now * 1000) + self.step_ms

    def chance(self, *what: object) -> float:
        """Return a number from 0 to 1 that is always the same for the same thing."""
        return zlib.crc32(repr((self.seed, *what)).encode()) / 2**32

    def fault(self, kind: str, who: str = "", number: int = 0) -> dict[str, Any] | None:
        """Return what is to go wrong now: of this kind, for this process. `number`: of its message.

        Once; or, `after` so many of its messages, so many `times`.
        """
        for fault in self.faults:
            if fault["at"] > self.now:
                return None
            meant = "times" not in fault or 0 < number - fault["after"] <= fault["times"]
            if fault["fault"] == kind and who.startswith(fault.get("who", "")) and meant:
                if "times" not in fault:
                    self.faults.remove(fault)
                self.say(f"fault: {fault}")
                return fault
        return None

    # Time.

    def later(self, seconds: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now + seconds, next(self._count), act))

    def sleep(self, seconds: float) -> Pending:
        slept = Pending(self)
        self.later(seconds, slept.set_result)
        return slept

    async def within(self, seconds: float, waiting: Pending) -> Any:
        """Return what is waited for. Raises TimeoutError."""
        either = Pending(self)
        waiting.then(either.set_result)
        self.later(seconds, either.set_result)
        await either
        if not waiting.is_done:
            raise TimeoutError
        return waiting.result()

    def actor(self, name: str, process: Process, coroutine: Coroutine[Pending, None, Any]) -> None:
        """Begin what must end in bounded time, or be killed."""
        ended = self.actors[name] = process.spawn(coroutine)

        def over() -> None:
            if self.actors.get(name) is ended:
                del self.actors[name]
            if process.alive:
                ended.result()  # Raises what nobody has expected.

        ended.then(over)
        process.gone.then(over)

    def run(self, goes_on: Callable[[], bool]) -> None:
        """Let everything happen. Raises Broken."""
        while self._events and goes_on():
            when, _, act = heapq.heappop(self._events)
            self.now = max(self.now, when)
            if self.now > LIMIT_S:
                raise Broken(f"P3: these wait for ever: {sorted(self.actors)}")
            act()

    def close(self) -> None:
        """Leave nothing that was begun."""
        for coroutine in self.begun:
            coroutine.close()

    # Messages.

    async def ask(
        self, sender: Process, receiver: Any, method: str, *args: Any, timeout_s: float = 2.0
    ) -> Any:
        """Send a request once and return its answer. Raises OSError where none comes, or what that is."""
        sender.messages += 1
        label = (sender.name, sender.messages)
        answered = Pending(self)
        delays = [0.0005 + 0.004 * self.chance(*label, "there")]
        if fault := self.fault("delay", *label):
            is_one = "times" not in fault
            delays = [fault["for"] * (1 if is_one else 2 * self.chance(*label, "for"))]
            if self.chance(*label, "given up") < (0.5 if is_one else 0.9):
                broken_s = self.chance(*label, "broken")
                self.later(broken_s, lambda: answered.set_exception(ConnectionResetError()))
        if held := [
            one
            for one in self.held
            if one["at"] <= self.now < one["at"] + one["for"] and sender.name.startswith(one["who"])
        ]:
            until = max(one["at"] + one["for"] for one in held)
            delays = [max(0.0, until - self.now) + 0.5 * self.chance(*label, "held up")]
        if self.fault("lose request", *label):
            delays = []
        if self.fault("double", *label):
            delays = [*delays, 0.001 + 3 * self.chance(*label, "again") ** 2]
        loses_answer = self.fault("lose answer", *label) is not None
        back_s = 0.0005 + 0.003 * self.chance(*label, "back")

        def arrive() -> None:
            process = receiver.process
            if not process.alive:
                self.later(back_s, lambda: answered.set_exception(ConnectionRefusedError()))
                return
            self.say(f"{sender.name} -> {process.name}: {method}")
            serving = process.spawn(receiver.serve(method, *args))
            if loses_answer and self.chance(*label, "cut") < 0.5:  # Else nobody tells who waits.
                cut_s = self.chance(*label, "cut after")
                self.later(cut_s, lambda: answered.set_exception(ConnectionResetError()))

            def served() -> None:
                if not (loses_answer or serving.is_done):
                    self.later(back_s, lambda: answered.set_exception(ConnectionResetError()))
                elif not loses_answer:
                    self.later(back_s, lambda: _take_over(answered, serving))

            serving.then(served)
            process.gone.then(served)

        for delay_s in delays:
            self.later(delay_s, arrive)
        return await self.within(timeout_s, answered)


def _take_over(answered: Pending, serving: Pending) -> None:
    try:
        answered.set_result(serving.result())
    except Broken:
        raise
    except Exception as error:
        answered.set_exception(error)


async def patiently(
    world: World,
    say: Callable[[], Awaitable[Any]],
    waits: Generator[float, None, None] | Any,
    limit_s: float,
    tried_again: type[OSError] = OSError,
) -> Any:
    """Say something until it is answered, for `limit_s` seconds. Raises OSError of the last try."""
    limit = world.now + limit_s
    while True:
        try:
            return await say()
        except tried_again:
            wait_s = next(waits)
            if world.now + wait_s > limit:
                raise
            await world.sleep(wait_s)
