"""`Gateway`: relays vendor calls made under vault keys; the secret is put on the wire here.

It drives the same guard as a worker's proxy, asynchronously, with a ledger in its own process. A call is
lived to its end whether or not its client waits for it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

from luigi_spendguard import backoff
from luigi_spendguard.counted import counted
from luigi_spendguard.errors import (
    LedgerError,
    LedgerFailed,
    LedgerUnavailable,
    OutcomeUnknown,
    SpendDenied,
    VendorUnreachable,
    denial,
)
from luigi_spendguard.guard import Guard, denials
from luigi_spendguard.guard.effects import Call, Finish, Life, Reserve, Send, advance
from luigi_spendguard.http.ledger_client import GIVE_UP_S
from luigi_spendguard.http.relay import ClientCall, UnderWay
from luigi_spendguard.http.spool import Kept
from luigi_spendguard.protocol import EndRequest, ReserveReply, ReserveRequest, key_hash
from luigi_spendguard.redaction import redact_url
from luigi_spendguard.vendors import Reply, Vendor
from scheduler_patch.gateway.replies import Replies, Room
from scheduler_patch.gateway.transport import CONNECTIONS, LoopTransport
from scheduler_patch.service import LedgerService
from scheduler_patch.service.shares import Shares, TooMany

logger = logging.getLogger(__name__)
T = TypeVar("T")

#: Calls of one vault key that are under way at once, and of all; each has one connection at the most.
CALLS_OF_A_KEY, CALLS = 32, CONNECTIONS - 16
#: Threads in which long requests and replies are read; a key has one of them.
THREADS = 8
#: A longer reply, in bytes, is searched in such a thread.
LONG_REPLY = 1 << 16
#: Why a call is not made.
ENDING = "this gateway is ending and takes no new calls"
_GONE = "its client ended the connection while the call waited for its turn; nothing was sent"
_QUEUED = "this gateway has too many calls of this vault key waiting already; nothing was sent"

#: Seconds for which a disk is waited for.
DISK_S = 5.0
#: Seconds beyond the vendors' longest time-out for which a gateway that ends waits for calls in flight.
GRACE_S = 5.0


async def _at_disk(act: Callable[..., T], *args: Any) -> T:
    """Do something with a disk, which may hang: then asyncio.TimeoutError is raised, and all else goes on."""
    return await asyncio.wait_for(asyncio.to_thread(act, *args), DISK_S)


class _Owed:
    """Ends of a key's calls that the ledger could not hear; `hurry`: somebody waits for them."""

    def __init__(self) -> None:
        self.ends: set[asyncio.Task[None]] = set()
        self.hurry = asyncio.Event()


class Gateway:
    """Relays calls to the vendors whose secret is in its luigi.cfg."""

    def __init__(self, service: LedgerService) -> None:
        self.service = service
        #: No new call is taken any more.
        self.draining = False
        self.calls = Shares(CALLS_OF_A_KEY, CALLS)
        self._replies = Replies()
        self._thinking = Shares(1, THREADS)
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="spendguard-gateway")
        self._transport: LoopTransport | None = None
        self._lives: set[asyncio.Task[Reply]] = set()
        self._under_way = UnderWay()
        self._ends: set[asyncio.Task[None]] = set()
        self._owed: dict[str, _Owed] = {}
        #: Of those ends, which are on disk.
        self._kept: set[int] = set()
        self._unkept = ""

    @property
    def in_flight(self) -> int:
        """How many calls, and ends of calls, are under way."""
        return len(self._lives) + len(self._ends)

    @property
    def grace_s(self) -> float:
        """The longest that a call in flight may take, in seconds."""
        return GRACE_S + self.service.settings.longest_timeout_s

    async def relay(self, asked: ClientCall, key: str, room: Room) -> Reply:
        """Guard and send one call under a vault key; return the vendor's reply, or a denial in its format.

        `room`: from `Gateway.room`, to be closed when the client has the reply.
        """
        who = key_hash(key)
        try:
            await self.calls.take(who)
        except TooMany:
            return denials.unreachable(asked.vendor, VendorUnreachable(_QUEUED))
        if self.draining or asked.is_gone():
            self.calls.give_back(who)
            why = ENDING if self.draining else _GONE
            return denials.refusal(asked.vendor, denial("ledger_unavailable", why))
        life = asyncio.ensure_future(self._lived(asked, key, room))
        self._lives.add(life)
        life.add_done_callback(self._lives.discard)
        life.add_done_callback(lambda _: self.calls.give_back(who))
        return await asyncio.shield(life)

    def room(self, key: str, cut: Callable[[], None]) -> Room:
        """Return room for the reply to a call of a key; `cut` cuts off its client, where it is slow."""
        return Room(self._replies, key_hash(key), cut)

    async def in_thread(self, key: str, act: Callable[..., T], *args: Any) -> T:
        """Do what takes long in a thread; a key does one such thing at a time."""
        async with self._thinking.share(key_hash(key)):
            return await asyncio.get_running_loop().run_in_executor(self._threads, act, *args)

    async def _lived(self, asked: ClientCall, key: str, room: Room) -> Reply:
        """Live a call to its end; only then its reply may wait for room."""
        try:
            reply = await self._answered(asked, key, room)
            await room.keep(len(reply.body))
            return reply
        except BaseException:
            room.end()
            raise

    async def _answered(self, asked: ClientCall, key: str, room: Room) -> Reply:
        with self._under_way.made(key_hash(key), asked) as call:
            return await self._answered_as(asked, call, key, room)

    async def _answered_as(self, asked: ClientCall, call: Call, key: str, room: Room) -> Reply:
        vendor = asked.vendor
        try:
            return await self._guarded(asked, call, key, room)
        except SpendDenied as denied:
            return denials.refusal(vendor, denied)
        except OutcomeUnknown as unknown:
            return denials.refusal(vendor, unknown)
        except VendorUnreachable as error:
            logger.warning("%s cannot be reached: %s", vendor.name, error)
            return denials.unreachable(vendor, error)
        except OSError as error:
            known = bool(asked.request.headers.get("idempotency-key"))
            return denials.unanswered(vendor, error, call.call_id if call.unsure else "", known=known)

    async def _guarded(self, asked: ClientCall, call: Call, key: str, room: Room) -> Reply:
        vendor, refuse = asked.vendor, asked.refuse
        settings = self.service.settings.vendor(vendor.name)
        if settings.secret is None:
            where = f"set [spendguard_{vendor.name}] secret in its luigi.cfg"
            refuse = denial("scope", f"this gateway has no secret for {vendor.name}: {where}")
        guard = Guard(vendor, settings, settings.secret or "", self.service.settings.fx, time.monotonic)
        life = guard.guarded(asked.request, call, refuse)
        slow = vendor.is_slow(asked.request)
        return await self._drive(life, key, settings.timeout_s, room, slow=slow)

    async def admit(self, vendor: Vendor, method: str, path: str, key: str) -> None:
        """Refuse a key that is worth nothing before its request is read, and put that on record.

        What a request costs to be read is its sender's to choose. Raises SpendDenied.
        """
        try:
            ended = await self.service.check_key(key)
        except LedgerUnavailable as error:
            if isinstance(error, LedgerFailed):
                logger.exception("A vault key could not be looked up")
            raise denial("ledger_unavailable", f"denied, nothing was sent: {error}") from None
        if ended is None:
            return
        path = redact_url(path)[:300]
        line = f"{method} {path}"
        ask = ReserveRequest(
            Call().call_id, vendor.name, "", line, method, path, denied=ended.reason, message=ended.message
        )
        try:
            answer = await self.service.reserve(key, ask, relayed=True)
        except LedgerUnavailable as error:
            raise denial("ledger_unavailable", f"denied, nothing was sent: {error}") from None
        raise denial(answer.reason, answer.message, {**answer.facts, "call_id": answer.call_id})

    async def _drive(self, life: Life, key: str, timeout_s: float, room: Room, *, slow: bool) -> Reply:
        """Do what the guard asks for; whatever comes of it is told to the guard.

        `slow`: the guard thinks in a thread of the pool, while luigid's only thread serves Luigi.
        """
        value: Any = None
        error: BaseException | None = None
        while True:
            if isinstance(value, Reply) and len(value.body) > LONG_REPLY:
                effect = await self.in_thread(key, advance, life, value, error)
            elif not slow:
                effect = advance(life, value, error)
            elif isinstance(value, ReserveReply):  # A grant is used at once, or it is too old.
                effect = await asyncio.to_thread(advance, life, value, error)
            else:
                effect = await self.in_thread(key, advance, life, value, error)
            if isinstance(effect, Reply):
                return effect
            value, error = None, None
            try:
                if isinstance(effect, Reserve):
                    await self._behind_owed(key)
                    value = await self.service.reserve(key, effect.ask, relayed=True)
                elif isinstance(effect, Send):
                    value = await self._send(effect, timeout_s, room)
                elif isinstance(effect, Finish):
                    ending = self._end(key, effect.end)
                    if not effect.end.is_made:  # Else an equal call that comes in elsewhere would be another.
                        await asyncio.wait([ending])
                else:
                    await asyncio.sleep(effect.seconds)
            except BaseException as caught:
                error = caught

    async def _send(self, effect: Send, timeout_s: float, room: Room) -> Reply:
        if self._transport is None:
            self._transport = LoopTransport()
        return await self._transport.send(effect.request, effect.deadline, timeout_s, room)

    def _end(self, key: str, end: EndRequest) -> asyncio.Task[None]:
        """Let the ledger be told how a call ended; return what tries that first.

        It is on its way before the reply is: whatever is asked of the ledger after that comes behind it.
        """
        return self._ending(self._told(key, end))

    def _ending(self, telling: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        ending = asyncio.ensure_future(telling)
        self._ends.add(ending)
        ending.add_done_callback(self._ends.discard)
        return ending

    async def _told(self, key: str, end: EndRequest) -> None:
        """Tell the ledger how a call ended; one that it cannot hear now it is told later."""
        try:
            await self.service.end(key, end, relayed=True)
        except LedgerUnavailable as error:
            logger.error(
                "%s of call %s is not booked yet and will be tried again: %s", end.kind, end.call_id, error
            )
            self._owe(key, end)
        except (LedgerError, SpendDenied) as error:
            logger.error("%s of call %s was refused: %s", end.kind, end.call_id, error)
        except Exception:  # A mistake of ours: what was paid is not lost by that.
            logger.exception("%s of call %s has failed, and will be tried again", end.kind, end.call_id)
            self._owe(key, end)

    async def _told_later(self, key: str, end: EndRequest, hurry: asyncio.Event) -> None:
        """Tell the ledger when it can hear it; until then it is on disk, too, for whoever comes after us."""
        spool, number = self.service.spool, 0
        with suppress(asyncio.TimeoutError):
            number = await _at_disk(self._keep, Kept.ended(key, (end,), relayed=True))
        for wait_s in backoff.growing(*backoff.LATER):
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(hurry.wait(), wait_s)
            try:
                await self.service.end(key, end, relayed=True)
                break
            except LedgerUnavailable:
                continue
            except Exception as error:  # Refused, or a mistake of ours: its repr may show what was said.
                logger.error("%s of call %s was refused: %s", end.kind, end.call_id, error)
                with suppress(asyncio.TimeoutError):
                    await _at_disk(spool.refused, number, str(error))
                break
        self._kept.discard(number)
        with suppress(asyncio.TimeoutError):
            await _at_disk(spool.said, [number])

    def _keep(self, kept: Kept) -> int:
        """Put an end on disk; return its number there, 0 where that cannot be."""
        try:
            [number] = self.service.spool.keep([kept])
        except OSError as error:
            level = logging.DEBUG if str(error) == self._unkept else logging.ERROR
            logger.log(level, "What waits for the ledger is not put on disk, but in memory alone: %s", error)
            self._unkept = str(error)
            return 0
        self._kept.add(number)
        return number

    def _owe(self, key: str, end: EndRequest) -> None:
        """Let the calls of a key wait for an end of another one."""
        who = key_hash(key)
        owed = self._owed.setdefault(who, _Owed())
        ending = self._ending(self._told_later(key, end, owed.hurry))
        owed.ends.add(ending)

        def paid(_: object) -> None:
            owed.ends.discard(ending)
            if not owed.ends:
                del self._owed[who]

        ending.add_done_callback(paid)

    async def _behind_owed(self, key: str) -> None:
        """Wait until the ends of a key's calls are booked: the next one is decided behind them.

        Raises LedgerUnavailable.
        """
        if not self._owed or (owed := self._owed.get(key_hash(key))) is None:
            return
        if (away := self.service.away) is not None:
            raise away
        limit = time.monotonic() + GIVE_UP_S
        for wait_s in backoff.growing(*backoff.SOON):
            owed.hurry.set()  # Each time: it wakes those that wait now, and none that is just being told.
            owed.hurry.clear()
            _, late = await asyncio.wait(owed.ends, timeout=min(wait_s, limit - time.monotonic()))
            if not late:
                return
            if time.monotonic() >= limit:
                text = "the ledger could not be told yet how an earlier call has ended"
                raise self.service.away or LedgerUnavailable(text)

    async def drain(self) -> None:
        """Take no new call, and wait until those in flight have ended, for `grace_s` at the most."""
        self.draining = True
        limit = time.monotonic() + self.grace_s
        while self.in_flight and time.monotonic() < limit:
            await asyncio.sleep(0.05)
        if kept := len(self._kept):
            logger.warning(
                "The ends of %s wait in %s, for who comes next",
                counted(kept, "call"),
                self.service.spool.folder,
            )
        if lost := self.in_flight - kept:
            logger.error("Not ended, and in doubt from now on: %s", counted(lost, "call"))

    async def close(self) -> None:
        """Close the connections to vendors, and end the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        if self._transport is not None:
            await self._transport.close()
