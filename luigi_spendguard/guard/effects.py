"""What a guarded call asks of its driver, and how it is told what came of it.

A driver has the I/O: the worker's is synchronous (`proxy/call.py`), the gateway's is not
(`scheduler_patch/gateway/__init__.py`). The decisions are the guard's.
"""

from __future__ import annotations

import uuid
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from luigi_spendguard.errors import VendorUnreachable
from luigi_spendguard.process_state import at_fork
from luigi_spendguard.protocol import EndRequest, ReserveRequest, process_of
from luigi_spendguard.vendors import Reply, Request

#: What the ids of this process's calls begin with (`protocol.process_of`).
_process = ""


def _begin_anew() -> None:
    global _process
    _process = uuid.uuid4().hex[:8]


_begin_anew()
at_fork(_begin_anew)


def new_call_id(process: str = "") -> str:
    """Return the id of a new call of this process, or of another one that it is made for."""
    return f"{process or _process}{str(uuid.uuid4())[8:]}"


@dataclass
class Call:
    """One logical call over the SDK's own retries: they share `call_id` and count up `ask`."""

    call_id: str = field(default_factory=new_call_id)
    ask: int = 0
    #: An earlier send of it has an unknown outcome (the ledger may not have heard of it yet).
    unsure: bool = False
    #: The guard's own, to price another call or to take back what a declined one has left open.
    look_up: bool = False
    look_up_for: str = ""
    #: As `ReserveRequest`'s, blank between, as a header has them.
    unanswered: str = ""
    #: As `ReserveRequest`'s, of the client that it is made for.
    number: int = 0
    #: As the `ReserveReply`'s that granted it.
    entry: int = 0
    #: Whoever makes it has given it up, and makes it again: it is not to be another call.
    given_up: bool = False

    def __post_init__(self) -> None:
        self._own_id = self.call_id

    def begin_anew(self) -> None:
        """Be asked for under another id when the SDK tries again: this one is over."""
        self.call_id = self._own_id = new_call_id(process_of(self.call_id))
        self.ask = self.entry = 0

    @property
    def sender(self) -> str:
        """The id that was made for it, where it goes on with an earlier call; else ""."""
        return "" if self.call_id == self._own_id else self._own_id


class NotSent(VendorUnreachable):
    """Thrown in by a driver: no byte has left (refused connection, bad name). The call is voided.

    Attributes:
        interrupt: what ended the sending where that is no `Exception` (Ctrl-C); it is raised in its place.
        is_told: its text says what mends it.
        lasts: trying again in a second will not help.

    """

    interrupt: BaseException | None = None
    is_told = lasts = False


class Late(NotSent):
    """Thrown in by a driver: the grant was too old before the first byte. It is asked for again."""


@dataclass(frozen=True)
class Reserve:
    """Ask the ledger. Sent back: a `ReserveReply`; thrown in: LedgerUnavailable."""

    ask: ReserveRequest


@dataclass(frozen=True)
class Send:
    """Send to the vendor, the first byte before `deadline` (the clock's seconds).

    Sent back: a `Reply`; thrown in: NotSent, Late, or whatever broke the exchange after that.
    """

    request: Request
    deadline: float


@dataclass(frozen=True)
class Finish:
    """Tell the ledger how the call ended; the driver delivers it now or later, and never raises."""

    end: EndRequest


@dataclass(frozen=True)
class Pause:
    """Wait for `seconds`: an identical call is pending."""

    seconds: float


Effect = Reserve | Send | Finish | Pause
Life = Generator[Effect, Any, Reply]
Step = TypeVar("Step")


def advance(life: Generator[Step, Any, Reply], value: Any, error: BaseException | None) -> Step | Reply:
    """Tell a life what came of its last step; return its next one, or at its end the reply.

    So a send is driven, too (`http/transport.py`). Raises what the life raises.
    """
    try:
        return life.send(value) if error is None else life.throw(error)
    except StopIteration as stop:
        reply: Reply = stop.value
        return reply
