"""What drives the guard: a worker's process, and a gateway, as `scheduler_patch/gateway` does."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from typing import Any

from luigi_spendguard import backoff
from luigi_spendguard.errors import LedgerError, LedgerUnavailable, SpendDenied
from luigi_spendguard.guard import Guard
from luigi_spendguard.guard.effects import Call, Effect, Finish, Life, Reserve, Send, advance, new_call_id
from luigi_spendguard.http.ledger_client import GIVE_UP_S
from luigi_spendguard.protocol import EndRequest
from luigi_spendguard.vendors import Reply, Request
from luigi_spendguard.vendors.registry import VENDORS
from tests.simulation.service import Service
from tests.simulation.world import Broken, Pending


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


class Gateway:
    """Relays what is called under vault keys, in luigid's process."""

    def __init__(self, site: Any, service: Service) -> None:
        self.site, self.service, self.process = site, service, service.process
        self._owed: dict[str, list[Pending]] = {}

    async def relay(self, key: str, request: Request) -> Reply:
        """Relay a call under a vault key, lived to its end whoever waits for it."""
        if ended := await self.service.check_key(key):
            raise ended
        guard = Guard(
            VENDORS["stripe"],
            self.site.settings.vendor("stripe"),
            self.site.secret,
            {},
            self.site.world.clock,
        )
        call = Call(new_call_id(uuid.uuid4().hex[:8]))
        return await driven(guard.guarded(request, call), lambda effect: self._act(effect, call, key))

    async def _act(self, effect: Effect, call: Call, key: str) -> Any:
        """Do what the guard asks for, as `Gateway` does."""
        if isinstance(effect, Reserve):
            await self._behind_owed(key)
            return await self.service.reserve(key, effect.ask, relayed=True)
        if isinstance(effect, Send):
            return await self.site.send(self.process, "stripe", effect, call.call_id)
        if isinstance(effect, Finish):
            told = self.process.spawn(self._tell(key, effect.end))
            if not effect.end.is_made:
                await told
            return None
        await self.site.world.sleep(effect.seconds)

    async def _tell(self, key: str, end: EndRequest) -> None:
        try:
            await self.service.end(key, end, relayed=True)
        except LedgerUnavailable:
            self._owed.setdefault(key, []).append(self.process.spawn(self._tell_later(key, end)))
        except (LedgerError, SpendDenied):
            pass

    async def _tell_later(self, key: str, end: EndRequest) -> None:
        for wait_s in backoff.growing(*backoff.LATER):
            await self.site.world.sleep(wait_s)
            try:
                await self.service.end(key, end, relayed=True)
                return
            except LedgerUnavailable:
                continue
            except (LedgerError, SpendDenied):
                return

    async def _behind_owed(self, key: str) -> None:
        limit = self.site.world.now + GIVE_UP_S
        while any(not one.is_done for one in self._owed.get(key, ())):
            if self.site.world.now >= limit:
                raise LedgerUnavailable("the ledger could not be told yet how an earlier call has ended")
            await self.site.world.sleep(0.1)
