"""The product's service, as luigid has it, on a ledger that is committed in virtual time."""

from __future__ import annotations

from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

from luigi_spendguard.ledger import snapshot
from luigi_spendguard.protocol import EndReply, EndRequest, ReserveReply, ReserveRequest
from luigi_spendguard.protocol.rpcs import (
    AttemptReply,
    AttemptRequest,
    EndedCall,
    FinishReply,
    FinishRequest,
)
from scheduler_patch.dispatch import Gate, feed
from scheduler_patch.service import LedgerService
from scheduler_patch.service.known_keys import KnownKeys
from scheduler_patch.service.shares import TurnQueue
from tests.simulation.world import Pending


@dataclass
class Task:
    """A task as Luigi's scheduler knows it."""

    state: str = "pending"
    worker: str = ""
    failures: int = 0
    since: float = 0.0
    workers: set[str] = field(default_factory=set)


class Scheduler:
    """What the service needs of Luigi's scheduler."""

    fast_dispatch = True

    def __init__(self) -> None:
        self.gate, self.tasks = Gate(), dict[str, Task]()

    def is_running(self, task_id: str, worker: str) -> bool:
        task = self.tasks.get(task_id)
        return task is not None and task.state == "running" and task.worker == worker

    def done_and_unknown(self, tasks: list[str]) -> tuple[list[str], list[str]]:
        done = [one for one in tasks if one in self.tasks and self.tasks[one].state == "done"]
        return done, [one for one in tasks if one not in self.tasks]


class _Passing:
    @staticmethod
    def expect(pending: Any) -> Any:
        return pending


class Service(LedgerService):
    """The product's, with a ledger that is committed in virtual time."""

    def __init__(self, luigid: Any) -> None:
        super().__init__(luigid.site.settings, Scheduler())  # type: ignore[arg-type]
        clock = luigid.site.world.clock
        self.process, self._deliveries, self._ledger = luigid.process, _Passing(), luigid.ledger
        self._turns, self.known_keys = TurnQueue(clock), KnownKeys(clock)
        self.judge = luigid.site.judge
        start = luigid.ledger.at_once(snapshot.start, self.settings.caps)
        feed.begin(self.state, start)
        self.seen = start.seen

    async def _ended(self) -> None:
        if self._ending is not None and not self._ending.done():
            either = Pending(self.process.world)
            self._ending.then(either.set_result)
            await either

    async def reserve(self, key: str, ask: ReserveRequest, *, relayed: bool = False) -> ReserveReply:
        answer = await super().reserve(key, ask, relayed=relayed)
        self.judge.answered(ask, answer)
        return answer

    async def end(self, key: str, end: EndRequest, *, relayed: bool = False) -> EndReply:
        reply = await super().end(key, end, relayed=relayed)
        self.judge.ended(end)
        return reply

    async def attempt(self, key: str, request: AttemptRequest) -> AttemptReply:
        reply = await super().attempt(key, request)
        self._told_of(request.ends, reply.ends)
        if request.ask is not None and reply.answer is not None:
            self.judge.answered(request.ask, reply.answer)
        return reply

    async def finish(self, request: FinishRequest) -> FinishReply:
        reply = await super().finish(request)
        self._told_of(request.ends, reply.ends)
        return reply

    def _told_of(self, ends: tuple[EndRequest, ...], replies: tuple[EndedCall, ...]) -> None:
        for end, reply in zip(ends, replies, strict=True):
            if not reply.refused:
                self.judge.ended(end)

    def _spawn(self, saving: Coroutine[Any, Any, None]) -> None:
        self.process.background(saving)
