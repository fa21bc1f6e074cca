"""Ways to luigid, and what drives the guard: what the product does with threads, sockets and shared memory,
in virtual time.

As in `http/ledger_client.py`, `gathering.py`, `outbox.py` and `shared.py`: ends travel with what is said
next, what cannot be said is said later, in order, and what a killed process had under way is in doubt. And
as in `scheduler_patch/gateway`.
"""

from __future__ import annotations

import uuid
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from luigi_spendguard import backoff
from luigi_spendguard.errors import (
    GatewayUnreachable,
    LedgerError,
    LedgerUnavailable,
    SpendDenied,
    SpendguardError,
    VendorUnreachable,
    denial,
)
from luigi_spendguard.guard import Guard
from luigi_spendguard.guard.denials import DENIAL, error_of, refusal
from luigi_spendguard.guard.effects import Call, Effect, Finish, Life, NotSent, Reserve, Send, advance
from luigi_spendguard.http.ledger_client import GIVE_UP_S
from luigi_spendguard.http.lost_calls import asking, heard, left_ends, note
from luigi_spendguard.http.relay import ClientCall, UnderWay
from luigi_spendguard.http.shared import CallsUnderWay
from luigi_spendguard.protocol import OWN_KEY, EndRequest, ReserveReply, ReserveRequest, process_of
from luigi_spendguard.protocol.rpcs import AttemptRequest
from luigi_spendguard.proxy.attempts import Unanswered
from luigi_spendguard.proxy.gateway_client import NotMade, check_made
from luigi_spendguard.proxy.tries import Tries
from luigi_spendguard.vendors import Reply, Request
from luigi_spendguard.vendors.registry import VENDORS
from scheduler_patch import gateway
from scheduler_patch.gateway.replies import Room
from tests.simulation.vendors import whom_of
from tests.simulation.world import Broken, Pending, Process, patiently

#: Seconds for which a gateway's answer is waited for: longer than it waits for the vendor.
RELAYED_S = 35.0


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


class Shared:
    """What the processes of an attempt share, as `SharedTexts` in their memory."""

    path, is_full = "", False

    def __init__(self) -> None:
        self._texts: dict[str, list[str]] = {}

    @contextmanager
    def held(self) -> Iterator[dict[str, list[str]]]:
        yield self._texts


class Client:
    """A process's way to luigid."""

    def __init__(self, site: Any, process: Process, luigid: Any) -> None:
        self.site, self.world, self.process, self.luigid = site, site.world, process, luigid
        self.outbox: deque[tuple[Any, ...]] = deque()
        #: Clients of the processes that have forked this one: it asks behind what they have told.
        self.above: tuple[Client, ...] = ()
        self.key, self.shared = "", False
        self.under_way, self.unanswered = CallsUnderWay(), Unanswered()
        self.under_way._shared = self.unanswered._shared = Shared()  # type: ignore[assignment]
        self.gathered: list[EndRequest] = []
        self._tries = Tries(lambda: self.world.wall_ms() * 1_000_000)
        self._delivers = self._is_saying = False

    async def ask(self, method: str, *args: Any) -> Any:
        """Ask luigid until it answers. Raises LedgerUnavailable, SpendDenied."""

        def say() -> Awaitable[Any]:
            return self.world.ask(self.process, self.luigid, method, *args)

        ends = args[1:] if method == "end" else args[1].ends if method == "attempt" else ()
        try:
            answer = await patiently(self.world, say, backoff.growing(*backoff.SOON), GIVE_UP_S)
            heard(ends, self.under_way)
            return answer
        except OSError as error:
            raise LedgerUnavailable(f"luigid is away: {error!r}") from None
        except LedgerUnavailable:
            raise
        except SpendDenied:
            heard(ends, self.under_way)
            raise
        except SpendguardError as error:
            heard(ends, self.under_way)
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
        with asking(asked, self.under_way) as request:
            answer = await self._answered(request)
            note(request, answer, self.under_way)
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
            self._said(ends)

    async def end(self, end: EndRequest) -> None:
        if end.kind == "void":
            self.under_way.give_up(end)
        if self.shared:
            await self.tell("end", self.key, end)
        else:
            self.gathered.append(end)
            if end.is_made:
                self.process.background(self._say_soon())
            else:
                await self._say()
        if end.kind != "void":
            self.under_way.end(end.call_id)

    async def forward(self, vendor: str, request: Request, call: Call) -> Reply:
        """Let the gateway make a call, as `proxy/gateway_client.py` does. Raises what guarding would."""
        own = request.headers.get("idempotency-key") or f"{OWN_KEY}{uuid.uuid4()}"
        request = replace(request, headers={**request.headers, "idempotency-key": own})
        mark = Unanswered.of(request, urlsplit(request.url).path)
        told = self.unanswered.named(mark, own)
        process, number = process_of(call.call_id), self._tries.next()
        asked = ClientCall(VENDORS[vendor], request, told, process=process, number=number)

        def send() -> Awaitable[Reply]:
            drawn = self.world.chance(self.process.name, self.process.messages, "gateway")
            gateway = self.site.luigids[int(drawn * len(self.site.luigids))]  # A proxy has them all.
            return self.world.ask(self.process, gateway, "relay", self.key, asked, timeout_s=RELAYED_S)

        try:
            with self.unanswered.remembered(own, mark, told):
                waits = backoff.growing(*backoff.SOON)
                try:
                    reply = await patiently(self.world, send, waits, GIVE_UP_S, ConnectionRefusedError)
                except ConnectionRefusedError as error:
                    raise GatewayUnreachable("ledger_unavailable", f"nothing was sent: {error!r}") from None
                check_made(not_denied(reply))
        except NotMade:
            if reply.status == 402:
                self.site.judge.declined.add((process, number))
        return reply

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
        self.gathered, self._is_saying = self.gathered[len(ends) :], False


def not_denied(reply: Reply) -> Reply:
    """Return a gateway's reply. Raises what it says that there is in place of a vendor's."""
    if DENIAL not in reply.headers:
        return reply
    error = error_of(reply.headers[DENIAL])
    raise NotSent(str(error)) if isinstance(error, VendorUnreachable) else error


class Gateway(gateway.Gateway):
    """The product's, in luigid's process, driven in virtual time."""

    def __init__(self, site: Any, service: Any) -> None:
        self.site, self.service, self.process = site, service, service.process
        self._under_way = UnderWay()
        self._untold: dict[str, list[Pending]] = {}

    async def relayed(self, key: str, asked: ClientCall) -> Reply:
        """Relay a call under a vault key, lived to its end whoever waits for it."""
        try:
            await self.admit(asked.vendor, asked.request.method, urlsplit(asked.request.url).path, key)
        except SpendDenied as denied:
            return refusal(asked.vendor, denied)
        return await self._answered(asked, key, Room.__new__(Room))

    async def _guarded(self, asked: ClientCall, call: Call, key: str, room: Room) -> Reply:
        site, vendor = self.site, asked.vendor
        guard = Guard(vendor, site.settings.vendor(vendor.name), site.secret, {}, site.world.clock)
        life = guard.guarded(asked.request, call, asked.refuse)

        def act(effect: Effect) -> Awaitable[Any]:
            if isinstance(effect, Send) and whom_of(effect.request):
                site.judge.relayed(asked)
            return self._act(effect, call, key, vendor.name)

        return await driven(life, act)

    async def _act(self, effect: Effect, call: Call, key: str, vendor: str) -> Any:
        if isinstance(effect, Reserve):
            limit = self.site.world.now + GIVE_UP_S
            while any(not one.is_done for one in self._untold.get(key, ())):
                if self.site.world.now >= limit:
                    raise LedgerUnavailable("the ledger could not be told yet how an earlier call has ended")
                await self.site.world.sleep(0.1)
            return await self.service.reserve(key, effect.ask, relayed=True)
        if isinstance(effect, Send):
            return await self.site.send(self.process, vendor, effect, call.call_id)
        if isinstance(effect, Finish):
            told = self.process.spawn(self._say(key, effect.end))
            return None if effect.end.is_made else await told
        return await self.site.world.sleep(effect.seconds)

    async def _say(self, key: str, end: EndRequest) -> None:
        if not await self._is_told(key, end):
            self._untold.setdefault(key, []).append(self.process.spawn(self._say_later(key, end)))

    async def _say_later(self, key: str, end: EndRequest) -> None:
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
