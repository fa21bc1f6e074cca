"""A process's way to luigid: what the product does with threads, sockets and shared memory, in virtual time.

As in `http/ledger_client.py`, `gathering.py`, `outbox.py` and `shared.py`: ends travel with what is said
next, what cannot be said is said later, in order, and what a killed process had under way is in doubt.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from luigi_spendguard import backoff
from luigi_spendguard.errors import LedgerUnavailable, SpendDenied, SpendguardError, denial
from luigi_spendguard.http.ledger_client import GIVE_UP_S, in_doubt, naming_lost
from luigi_spendguard.protocol import EndRequest, ReserveReply, ReserveRequest
from luigi_spendguard.protocol.rpcs import AttemptRequest
from tests.simulation.world import Process, patiently


class UnderWay:
    """As `CallsUnderWay`: what the processes of an attempt have under way."""

    def __init__(self) -> None:
        self._calls: dict[str, tuple[int, Process | None]] = {}

    def begin(self, call_id: str, ask: int, process: Process) -> None:
        self._calls[call_id] = ask, process

    def end(self, call_id: str) -> None:
        self._calls.pop(call_id, None)

    def left(self) -> list[tuple[str, int]]:
        left = [(one, ask) for one, (ask, process) in self._calls.items() if process and not process.alive]
        self._calls.update({one: (ask, None) for one, ask in left})
        return left

    def lost(self) -> list[str]:
        return [one for one, (_, process) in self._calls.items() if process is None]


class Client:
    """A process's way to luigid."""

    def __init__(self, site: Any, process: Process, luigid: Any) -> None:
        self.site, self.world, self.process, self.luigid = site, site.world, process, luigid
        self.outbox: deque[tuple[Any, ...]] = deque()
        #: Clients of the processes that have forked this one: it asks behind what they have told.
        self.above: tuple[Client, ...] = ()
        self.key, self.under_way, self.shared = "", UnderWay(), False
        self.gathered: list[EndRequest] = []
        self._delivers = self._is_saying = False

    async def ask(self, method: str, *args: Any) -> Any:
        """Ask luigid until it answers. Raises LedgerUnavailable, SpendDenied."""
        try:
            return await patiently(
                self.world,
                lambda: self.world.ask(self.process, self.luigid, method, *args),
                backoff.growing(*backoff.SOON),
                GIVE_UP_S,
            )
        except OSError as error:
            raise LedgerUnavailable(f"luigid is away: {error!r}") from None
        except (SpendDenied, LedgerUnavailable):
            raise
        except SpendguardError as error:
            raise denial("scope", f"luigid refused {method}: {error}") from None

    async def tell(self, *message: Any) -> None:
        """Say something now or later."""
        if not self.outbox:
            try:
                await self.ask(*message)
                return
            except LedgerUnavailable:
                pass
            except SpendguardError:
                return
        self._tell_later(message)

    def _tell_later(self, message: tuple[Any, ...]) -> None:
        self.outbox.append(message)
        if not self._delivers:
            self._delivers = True
            self.process.background(self._deliver())

    async def _deliver(self) -> None:
        waits = backoff.growing(0.2, 1.0)
        while self.outbox:
            try:
                await self.ask(*self.outbox[0])
            except LedgerUnavailable:
                await self.world.sleep(next(waits))
                continue
            except SpendguardError:
                pass
            self.outbox.popleft()
        self._delivers = False

    async def delivered(self, limit_s: float) -> None:
        """Wait until what the attempt has told is delivered. Raises LedgerUnavailable."""
        limit = self.world.now + limit_s
        while self.outbox or any(one.outbox and one.process.alive for one in self.above):
            if self.world.now >= limit:
                raise LedgerUnavailable("what was said before is not delivered yet")
            await self.world.sleep(0.05)

    async def reserve(self, asked: ReserveRequest) -> ReserveReply:
        for end in in_doubt(self.under_way):  # type: ignore[arg-type]  # it looks like one
            await self.tell("end", self.key, end)
        request = naming_lost(asked, self.under_way)  # type: ignore[arg-type]
        await self.delivered(GIVE_UP_S)
        ends, self._is_saying = tuple(self.gathered), True
        try:
            if ends:
                reply = await self.ask("attempt", self.key, AttemptRequest(ends, request))
                answer = reply.answer
            else:
                answer = await self.ask("reserve", self.key, request)
        except Exception:
            if ends:
                self._tell_later(("attempt", self.key, AttemptRequest(ends)))
            self._said(ends)
            raise
        self._said(ends)
        if answer.verdict == "allowed" and not request.read:
            self.under_way.begin(answer.call_id, answer.ask, self.process)
        return answer

    async def end(self, end: EndRequest) -> None:
        self.under_way.end(end.call_id)
        if self.shared:
            await self.tell("end", self.key, end)
            return
        self.gathered.append(end)
        if end.is_made:
            self.process.background(self._say_soon())
        else:
            await self._say()

    async def _say_soon(self) -> None:
        await self.world.sleep(0.01)
        if not self._is_saying:
            await self._say()

    async def _say(self) -> None:
        ends, self._is_saying = tuple(self.gathered), True
        if ends:
            await self.tell("attempt", self.key, AttemptRequest(ends))
        self._said(ends)

    def _said(self, ends: tuple[EndRequest, ...]) -> None:
        # Not in a `finally`: what a process that is killed has not said stays, for its worker to say.
        self.gathered, self._is_saying = self.gathered[len(ends) :], False
