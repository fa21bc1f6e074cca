"""Ways to luigid, and what drives the guard: what the product does with threads, sockets and shared memory,
in virtual time.

As in `http/ledger_client.py`, `gathering.py`, `outbox.py` and `shared.py`: ends travel with what is said
next, what cannot be said is said later, in order, and what a killed process had under way is in doubt. And
as in `scheduler_patch/gateway`.
"""

from __future__ import annotations

import uuid
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from luigi_spendguard import backoff
from luigi_spendguard.errors import LedgerError, LedgerUnavailable, SpendDenied, SpendguardError, denial
from luigi_spendguard.guard import Guard
from luigi_spendguard.guard.effects import Call, Effect, Finish, Life, Reserve, Send, advance, new_call_id
from luigi_spendguard.http.ledger_client import GIVE_UP_S
from luigi_spendguard.http.lost_calls import left_ends, naming_lost
from luigi_spendguard.http.shared import LeftCall
from luigi_spendguard.protocol import EndRequest, ReserveReply, ReserveRequest
from luigi_spendguard.protocol.rpcs import AttemptRequest
from luigi_spendguard.vendors import Reply, Request
from luigi_spendguard.vendors.registry import VENDORS
from tests.simulation.world import Broken, Pending, Process, patiently


async def driven(life: Life, act: Callable[[Effect], Awaitable[Any]]) -> Reply:
    """Live a guarded call to its end by what is done for each of its effects. Raises what it raises."""
    value, error = None, None
    while True:
        effect = advance(life, value, error)
        if isinstance(effect, Reply):
            return effect
        value, error = None, None
        try:
            value = await act(effect)
        except Broken:
            raise
        except Exception as caught:
            error = caught


class UnderWay:
    """As `CallsUnderWay`: of what the processes of an attempt have under way its ask, process and sender."""

    def __init__(self) -> None:
        self._calls: dict[str, tuple[int, Process | None, str]] = {}

    def ask(self, request: ReserveRequest, process: Process) -> None:
        self._calls.setdefault(request.call_id, (request.ask, process, request.sender_id))

    def begin(self, call_id: str, ask: int, process: Process) -> None:
        self._calls[call_id] = ask, process, ""

    def end(self, call_id: str) -> None:
        self._calls.pop(call_id, None)

    def answered(self, call_id: str) -> None:
        if self._calls.get(call_id, (0, None, ""))[2]:
            del self._calls[call_id]

    def left(self) -> list[LeftCall]:
        gone = {one: made for one, made in self._calls.items() if made[1] and not made[1].alive}
        for one, (ask, _, sender) in gone.items():
            self._calls[one] = ask, None, ""
            if sender:
                del self._calls[one]
        return [LeftCall(one, ask, sender) for one, (ask, _, sender) in gone.items()]

    def lost(self) -> list[str]:
        return [one for one, (_, process, _) in self._calls.items() if process is None]


class Client:
    """A process's way to luigid."""

    def __init__(self, site: Any, process: Process, luigid: Any) -> None:
        self.site, self.world, self.process, self.luigid = site, site.world, process, luigid
        self.outbox: deque[tuple[Any, ...]] = deque()
        #: Clients of the processes that have forked this one: it asks behind what they have told.
        self.above: tuple[Client, ...] = ()
        self.key, self.shared = "", False
        self.under_way: Any = UnderWay()
        self.gathered: list[EndRequest] = []
        self._delivers = self._is_saying = False

    async def ask(self, method: str, *args: Any) -> Any:
        """Ask luigid until it answers. Raises LedgerUnavailable, SpendDenied."""

        def say() -> Awaitable[Any]:
            return self.world.ask(self.process, self.luigid, method, *args)

        try:
            return await patiently(self.world, say, backoff.growing(*backoff.SOON), GIVE_UP_S)
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
        for end in left_ends(self.under_way):
            await self.tell("end", self.key, end)
        request = naming_lost(asked, self.under_way)
        if not request.read:
            self.under_way.ask(request, self.process)
        try:
            answer = await self._answered(request)
        except SpendDenied:
            self.under_way.answered(request.call_id)
            raise
        if answer.verdict == "allowed" and not request.read:
            self.under_way.begin(answer.call_id, answer.ask, self.process)
        self.under_way.answered(request.call_id)
        return answer

    async def _answered(self, request: ReserveRequest) -> ReserveReply:
        await self.delivered(GIVE_UP_S)
        ends, self._is_saying = tuple(self.gathered), True
        try:
            if not ends:
                return await self.ask("reserve", self.key, request)
            return (await self.ask("attempt", self.key, AttemptRequest(ends, request))).answer
        except Exception:
            if ends:
                self._tell_later(("attempt", self.key, AttemptRequest(ends)))
            raise
        finally:
            if self.process.alive:
                self._said(ends)

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
        # Not of a process that is killed: what it has not said stays, for its worker to say.
        self.gathered, self._is_saying = self.gathered[len(ends) :], False


class Gateway:
    """Relays what is called under vault keys, in luigid's process."""

    def __init__(self, site: Any, service: Any) -> None:
        self.site, self.service, self.process = site, service, service.process
        self._owed: dict[str, list[Pending]] = {}

    async def relay(self, key: str, request: Request) -> Reply:
        """Relay a call under a vault key, lived to its end whoever waits for it."""
        site = self.site
        if ended := await self.service.check_key(key):
            raise ended
        settings = site.settings.vendor("stripe")
        guard = Guard(VENDORS["stripe"], settings, site.secret, {}, site.world.clock)
        call = Call(new_call_id(uuid.uuid4().hex[:8]))
        return await driven(guard.guarded(request, call), lambda effect: self._act(effect, call, key))

    async def _act(self, effect: Effect, call: Call, key: str) -> Any:
        if isinstance(effect, Reserve):
            limit = self.site.world.now + GIVE_UP_S
            while any(not one.is_done for one in self._owed.get(key, ())):
                if self.site.world.now >= limit:
                    raise LedgerUnavailable("the ledger could not be told yet how an earlier call has ended")
                await self.site.world.sleep(0.1)
            return await self.service.reserve(key, effect.ask, relayed=True)
        if isinstance(effect, Send):
            return await self.site.send(self.process, "stripe", effect, call.call_id)
        if isinstance(effect, Finish):
            told = self.process.spawn(self._tell(key, effect.end))
            return None if effect.end.is_made else await told
        return await self.site.world.sleep(effect.seconds)

    async def _tell(self, key: str, end: EndRequest) -> None:
        if not await self._is_told(key, end):
            self._owed.setdefault(key, []).append(self.process.spawn(self._tell_later(key, end)))

    async def _tell_later(self, key: str, end: EndRequest) -> None:
        for wait_s in backoff.growing(*backoff.LATER):
            await self.site.world.sleep(wait_s)
            if await self._is_told(key, end):
                return

    async def _is_told(self, key: str, end: EndRequest) -> bool:
        try:
            await self.service.end(key, end, relayed=True)
        except LedgerUnavailable:
            return False
        except (LedgerError, SpendDenied):
            pass
        return True
