"""The steps of a call's life, as places in the code where a process can be made to fail: see `hooks`.

The code knows nothing of them; docs/crashes.md lists them, and a test holds both to this list.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

WORKER, CHILD, LUIGID, GATEWAY = "worker", "child", "luigid", "gateway"
#: A worker with a scheduler of its own, and its children: it passes steps of a worker's and of luigid's.
LOCAL = "local"
#: Who makes a call in the worker's own process, or in one that it has forked.
_CALLERS = (WORKER, CHILD)
_BOOKS = (LUIGID, GATEWAY)


@dataclass(frozen=True)
class Point:
    """A step: right before a function of a module, or right after it.

    Attributes:
        step: its name, as docs/crashes.md has it.
        who: whose step it is.
        where: `module:function`, the function as in `Class.method`.
        before: it is before the function; else after it.
        within: the function (as in `where`) that is being done meanwhile.
        having: the function that was done in it.
        of: takes the arguments, with the result behind them where it is after: whether it is this step.
        half: it is in the midst of a write to a socket.
        rare: it is passed only where something else has failed before.

    """

    step: str
    who: tuple[str, ...]
    where: str
    before: bool = False
    within: str = ""
    having: str = ""
    of: Callable[..., bool] | None = None
    half: bool = False
    rare: bool = False


def _writes(*args: Any) -> bool:
    return type(args[0]).__name__ == "Write"


def _reads(*args: Any) -> bool:
    return type(args[0]).__name__ == "Read"


def _named(*names: str) -> Callable[..., bool]:
    return lambda *args: type(args[-1]).__name__ in names


def _on(*rpcs: str) -> Callable[..., bool]:
    return lambda *args: args[0]._route.rpartition("/")[2] in rpcs


_CLIENT = "luigi_spendguard.http.ledger_client:HttpLedgerClient"
_POST = "luigi_spendguard.http.rpc_connections:RpcConnections.post"
_SPOOL = "luigi_spendguard.http.spool:Spool"
_THREADS = "luigi_spendguard.http.blocking"
_LOOP = "scheduler_patch.gateway.transport"
_GATE = "scheduler_patch.gateway:Gateway"
_API = "scheduler_patch.api.handler"
_TRIED = "luigi_spendguard.ledger:Writer._tried"
_RESERVE = "luigi_spendguard.ledger.reservations:reserve"
_END = "luigi_spendguard.ledger.settlement:end"
_CLAIM = "luigi_spendguard.ledger.claims:claim"
_ASKS, _ENDS = ("spend_reserve", "spend_attempt"), ("spend_finish", "spend_settle", "spend_ended")

POINTS = (
    # Who makes the call.
    Point("claim asked", _CALLERS, f"{_CLIENT}.claim", before=True),
    Point("claimed", _CALLERS, f"{_CLIENT}.claim"),
    Point("reserve asked", _CALLERS, f"{_CLIENT}.reserve", before=True),
    Point("reserve said", _CALLERS, f"{_POST}", within=f"{_CLIENT}.reserve", before=True),
    Point("granted", _CALLERS, f"{_CLIENT}.reserve"),
    Point("connecting", _CALLERS, f"{_THREADS}:_connected", before=True),
    Point("connected", _CALLERS, f"{_THREADS}:_connected"),
    Point("half sent", _CALLERS, f"{_THREADS}:_done", before=True, of=_writes, half=True),
    Point("sent", _CALLERS, f"{_THREADS}:_done", of=_writes),
    Point("answer begun", _CALLERS, f"{_THREADS}:_done", of=_reads),
    Point("answered", _CALLERS, f"{_THREADS}:BlockingTransport.send"),
    Point("outcome read", _CALLERS, "luigi_spendguard.guard:Guard._read"),
    Point("end asked", _CALLERS, f"{_CLIENT}.end", before=True),
    Point("end queued", _CALLERS, f"{_CLIENT}.end"),
    Point("finish asked", _CALLERS, f"{_CLIENT}.finish", before=True),
    Point("end said", (WORKER,), f"{_POST}", within=f"{_CLIENT}.finish", before=True),
    Point("end delivered", (WORKER,), f"{_POST}", within=f"{_CLIENT}.finish"),
    Point("finished", _CALLERS, f"{_CLIENT}.finish"),
    Point("close asked", (WORKER,), f"{_CLIENT}.close_run", before=True),
    Point("run closed", (WORKER,), f"{_CLIENT}.close_run"),
    Point("put on disk", (*_CALLERS, GATEWAY), f"{_SPOOL}.keep", before=True, rare=True),
    Point("on disk", (*_CALLERS, GATEWAY), f"{_SPOOL}.keep", rare=True),
    Point("said from disk", (*_CALLERS, GATEWAY), f"{_SPOOL}.said", before=True, rare=True),
    # luigid, and what a gateway does with the ledger itself.
    Point("claim read", (LUIGID,), f"{_API}:Endpoint.read", of=_named("ClaimRequest")),
    Point("claim written", (LUIGID,), _CLAIM),
    Point("claim committed", (LUIGID,), _TRIED, having=_CLAIM),
    Point("ask read", (LUIGID,), f"{_API}:Endpoint.read", of=_named("ReserveRequest", "AttemptRequest")),
    Point("deciding", _BOOKS, _RESERVE, before=True),
    Point("decided", _BOOKS, _RESERVE),
    Point("grant committed", _BOOKS, _TRIED, having=_RESERVE),
    Point("gate told", _BOOKS, "scheduler_patch.service.ledger:Books._told", of=_named("tuple")),
    Point("answer ahead", (LUIGID,), f"{_API}:ApiHandler._answer", before=True, of=_on(*_ASKS)),
    Point("answer written", (LUIGID,), f"{_API}:ApiHandler._answer", of=_on(*_ASKS)),
    Point("end read", (LUIGID,), f"{_API}:Endpoint.read", of=_named("FinishRequest", "EndRequest")),
    Point("ending", _BOOKS, _END, before=True),
    Point("ended", _BOOKS, _END),
    Point("end committed", _BOOKS, _TRIED, having=_END),
    Point("end's answer ahead", (LUIGID,), f"{_API}:ApiHandler._answer", before=True, of=_on(*_ENDS)),
    Point("end's answer written", (LUIGID,), f"{_API}:ApiHandler._answer", of=_on(*_ENDS)),
    # A gateway that stands apart from luigid.
    Point("call read", (GATEWAY,), f"{_GATE}.relay", before=True),
    Point("reserve asked", (GATEWAY,), "scheduler_patch.service:LedgerService.reserve", before=True),
    Point("granted", (GATEWAY,), "scheduler_patch.service:LedgerService.reserve"),
    Point("connecting", (GATEWAY,), f"{_LOOP}:LoopTransport._connected", before=True),
    Point("connected", (GATEWAY,), f"{_LOOP}:LoopTransport._connected"),
    Point("half sent", (GATEWAY,), f"{_LOOP}:_written", before=True, half=True),
    Point("sent", (GATEWAY,), f"{_LOOP}:_written"),
    Point("answer begun", (GATEWAY,), f"{_LOOP}:_bytes_read"),
    Point("answered", (GATEWAY,), f"{_LOOP}:LoopTransport.send"),
    Point("outcome read", (GATEWAY,), "luigi_spendguard.guard:Guard._read"),
    Point("end queued", (GATEWAY,), f"{_GATE}._end"),
    Point("reply ahead", (GATEWAY,), "scheduler_patch.gateway.handler:Relay.pass_on", before=True),
    Point("end told", (GATEWAY,), f"{_GATE}._told"),
)


def steps(who: str, *, gateway: bool, rare: bool = False) -> list[Point]:
    """Return whose steps these are, in their order; `gateway`: the secret is at a gateway."""
    if who == LOCAL:
        return [point for point in POINTS if point.step in _LOCAL and {WORKER, LUIGID} & {*point.who}]
    there = [point for point in POINTS if who in point.who and (rare or not point.rare)]
    if who == GATEWAY and not gateway:
        return []
    if gateway and who in _CALLERS:  # It forwards: a gateway asks the ledger, and sends.
        return [point for point in there if point.step not in _NOT_FORWARDED]
    if gateway and who == LUIGID:
        return [point for point in there if point.step not in _NOT_RELAYED]
    return there


_LOCAL = {"connecting", "connected", "half sent", "sent", "answer begun", "answered", "outcome read"} | {
    "claim written",
    "claim committed",
    "deciding",
    "decided",
    "grant committed",
    "ending",
    "ended",
    "end committed",
}
#: What a worker does not do whose calls a gateway makes; and what luigid then does not.
_NOT_FORWARDED = {"reserve asked", "reserve said", "granted", "outcome read", "end asked", "end queued"}
_NOT_RELAYED = {"ask read", "deciding", "decided", "grant committed", "answer ahead", "answer written"} | {
    "ending",
    "ended",
    "end committed",
}
