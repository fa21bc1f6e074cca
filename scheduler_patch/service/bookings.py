"""What workers' messages do to the ledger, each in one transaction, and what the gate hears of it."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from luigi_spendguard.errors import LedgerUnavailable, NotFound, SpendDenied, SpendguardError, denial
from luigi_spendguard.ledger import (
    calls,
    claims,
    corrections,
    doubts,
    keys,
    queries,
    reservations,
    runs,
    settlement,
    snapshot,
)
from luigi_spendguard.ledger.budgets import last_entry
from luigi_spendguard.ledger.database import Names, Row, Tx
from luigi_spendguard.ledger.foreseen import Foreseen, naming
from luigi_spendguard.money import parse_usd, plain_usd
from luigi_spendguard.protocol import EndReply, EndRequest, ReserveReply, ReserveRequest, key_hash
from luigi_spendguard.protocol.rpcs import (
    AttemptReply,
    AttemptRequest,
    CloseRunReply,
    CloseRunRequest,
    CorrectRequest,
    DuePrice,
    EndedCall,
    EndedReply,
    EndedRequest,
    FinishReply,
    FinishRequest,
)
from luigi_spendguard.settings.policy import Caps
from luigi_spendguard.vendors import FollowedUp
from scheduler_patch.dispatch import endings, feed, holds
from scheduler_patch.dispatch.state import DispatchState
from scheduler_patch.service.ledger import Booked


def due(tx: Tx, vendors: tuple[str, ...], relayed_too: bool) -> tuple[DuePrice, ...]:
    """Return calls of these vendors whose price is to be asked for now."""
    rows = corrections.due(tx, list(vendors), relayed_too=relayed_too)
    return tuple(DuePrice(row["call_id"], row["vendor"], row["account"], row["object_id"]) for row in rows)


def correct(tx: Tx, request: CorrectRequest, relayed_too: bool) -> Booked[Row | None]:
    """Take what a vendor says that a call has cost; return the call, None: it is unknown."""
    price = FollowedUp(request.total_micros, request.final, request.note, request.whole, request.problem)
    call = corrections.correct(tx, request.call_id, price, relayed_too=relayed_too)
    return Booked(call, None if call is None else snapshot.of_call(tx, call["run_id"], request.call_id))


def end_found(tx: Tx, call_id: str, ends: Mapping[str, EndRequest]) -> Booked[Row | None]:
    """End a call by what was found of it at the vendor; return it, None: it stays as it is."""
    call = doubts.end_found(tx, call_id, ends)
    return Booked(call, None if call is None else snapshot.of_call(tx, call["run_id"], call_id))


def open_run(tx: Tx, request: runs.RunRequest, asked_at: float) -> Booked[Row]:
    """Open a run, or find it, for who has asked then (the monotonic clock's seconds); return its row."""
    waited_ms = int(1000 * (time.monotonic() - asked_at))
    row = runs.open_run(tx, replace(request, looked_ms=request.looked_ms + waited_ms))
    figures, today = snapshot.of_run(tx, row["run_id"]), snapshot.today(tx)
    # Right after midnight, yesterday's is no reason to block.
    return Booked(row, figures, lambda state: feed.feed_day(state, today, figures.seen, is_today=True))


@naming(lambda foreseen, request: foreseen.claim(request))
def claim(tx: Tx, request: claims.NewClaim) -> Booked[tuple[Row, str]]:
    """Claim a task for an attempt; return the claim's row and its vault key."""
    row, key = claims.claim(tx, request)
    own = snapshot.task_left(tx, request.run_id, request.task_id)

    def tell(state: DispatchState) -> None:
        feed.claimed(state, request.task_id, request.run_id, request.worker, request.family, own)
        feed.own(state, request.task_id, row)

    return Booked((row, key), snapshot.of_run(tx, request.run_id), tell)


@naming(lambda foreseen, request: foreseen.finish(request.claim_id, request.ends))
def finish(tx: Tx, request: FinishRequest) -> Booked[FinishReply]:
    """End a claim, behind the calls of it that have ended."""
    scope = calls.scope_of(tx, request.claim_id, Caps()) if request.ends else None
    booked, ended = _ended(tx, scope, request.ends)
    row = claims.finish(tx, request.claim_id, request.outcome)

    def tell(state: DispatchState) -> None:
        for one in booked:
            one.hear(state)
        if row is not None and row["ended_at"] is None:
            endings.stopped(state, row["task_id"])
        if row is not None and request.outcome == "completed":
            endings.completed(state, [row["task_id"], *json.loads(row["members"])], row["run_id"])
            holds.free(state, row["task_id"])

    return Booked(FinishReply(row is not None, ended), None, tell)


def close_run(tx: Tx, request: CloseRunRequest, done: list[str], unknown: list[str]) -> Booked[CloseRunReply]:
    """End the run of a root that has completed; say whether it has ended, and what of it is in doubt."""
    row = claims.close_run(tx, request.name, request.run_id, done, unknown, request.request_id)
    if row is None:
        return Booked(CloseRunReply(False), None)
    ended: str = row["run_id"]
    reply = CloseRunReply(row["state"] == "ended")
    for doubt in queries.in_doubt(tx, [ended]):
        reply = replace(
            reply, run_id=ended, in_doubt_calls=doubt["calls"], in_doubt_usd=plain_usd(doubt["micros"])
        )
    if not reply.closed:
        return Booked(reply, None)
    seen = last_entry(tx)
    return Booked(reply, None, lambda state: feed.end_run(state, ended, done, seen))


def known_key(tx: Tx, key: str) -> tuple[str, SpendDenied | None] | None:
    """Return a key's claim, and why it is worth nothing any more; None: it is unknown."""
    scope = calls.find_scope(tx, key, Caps())
    if scope is None:
        return None
    ended = keys.ended(scope, tx.now())
    return scope.claim["id"], None if ended is None else ended.denied


def _scope(tx: Tx, key: str, caps: Caps, relayed: bool, call_id: str | None = None) -> calls.Scope:
    scope = calls.find_scope(tx, key, caps, relayed=relayed, call_id=call_id)
    if scope is None:
        raise calls.unknown_key()
    if not scope.claim["task_id"] and not relayed:
        raise denial(
            "scope", "a key that was asked for over HTTP is for the gateway: send vendor calls there"
        )
    return scope


@naming(lambda foreseen, key, ask, *_: foreseen.reserve(key_hash(key), ask))
def reserve(
    tx: Tx, key: str, ask: ReserveRequest, caps: Caps, relayed: bool, ahead: str
) -> Booked[tuple[ReserveReply, str]]:
    """Decide about a call; the answer comes with the run that it is a call of."""
    scope = replace(_scope(tx, key, caps, relayed, ask.call_id), ahead=ahead)
    answer = reservations.reserve(tx, scope, ask)
    run_id, task_id = scope.run["run_id"], scope.claim["task_id"]
    figures = snapshot.of_call(tx, run_id, answer.call_id or ask.call_id)
    return Booked((answer, run_id), figures, lambda state: _tell_answer(state, task_id, ask, answer))


def _tell_answer(state: DispatchState, task_id: str, ask: ReserveRequest, answer: ReserveReply) -> None:
    """Let a task be blocked that a cap has denied a call, and remember one that pays."""
    if answer.verdict == "denied" and answer.reason == "cap" and "asked_usd" in answer.facts:
        scope, part = answer.facts["budget"], answer.facts["part"]
        asked = parse_usd(answer.facts["asked_usd"])
        if scope == "approval":
            holds.declare(state, task_id, asked)
        else:
            holds.hold(state, task_id, scope, asked, part, answer.facts.get("of_task", ""))
    elif answer.verdict == "allowed" and ask.total_micros != 0 and not ask.read:
        feed.pay(state, task_id)


@naming(lambda foreseen, key, end, *_: foreseen.ends(key_hash(key), [end]))
def end(tx: Tx, key: str, end: EndRequest, relayed: bool) -> Booked[Row | None]:
    """Apply the end of a call of this key's; return the call, None: it was never asked for."""
    return _end_under(tx, _scope(tx, key, Caps(), relayed, end.call_id), end)


def _end_under(tx: Tx, scope: calls.Scope, end: EndRequest) -> Booked[Row | None]:
    call = settlement.end(tx, scope, end)
    run_id = call["run_id"] if call is not None else scope.run["run_id"]
    return Booked(call, snapshot.of_call(tx, run_id, end.call_id))


def end_reply(end: EndRequest, call: Row | None) -> EndReply:
    """Return what is answered to the end of a call."""
    if call is None or call["state"] is None:  # Nothing is reserved for it.
        return EndReply(end.call_id, "voided")
    return EndReply(call["id"], call["state"], plain_usd(call["overrun_micros"]))


def _ended(
    tx: Tx, scope: calls.Scope | None, ends: tuple[EndRequest, ...]
) -> tuple[list[Booked[Any]], tuple[EndedCall, ...]]:
    """Apply ends of calls under one claim, each by itself; `scope`: None where there is no such claim."""
    booked: list[Booked[Any]] = []
    ended = []
    for end in ends:
        try:
            with tx.savepoint():
                applied = _end_under(tx, _known(scope), end)
        except LedgerUnavailable:
            raise
        except SpendguardError as error:
            ended.append(EndedCall(end.call_id, refused=str(error)))
        else:
            booked.append(applied)
            reply = end_reply(end, applied.answer)
            ended.append(EndedCall(reply.call_id, reply.state, reply.overrun_usd))
    return booked, tuple(ended)


@naming(lambda foreseen, request, *_: foreseen.ends(request.key_hash, request.ends))
def ended(tx: Tx, request: EndedRequest, relayed: bool) -> Booked[EndedReply]:
    """Apply ends of calls of a vault key's, each by itself, for who does not have the key any more.

    Of calls that a gateway sends only where it says so itself (`relayed`).
    """
    scope = calls.scope_of_hash(tx, request.key_hash, Caps(), relayed=relayed)
    if scope is not None and not scope.claim["task_id"] and not relayed:
        scope = None  # A key that was asked for over HTTP is for the gateway: see `_scope`.
    booked, ends = _ended(tx, scope, request.ends)
    return Booked(EndedReply(ends), None, partial(_tell_each, booked))


def _known(scope: calls.Scope | None) -> calls.Scope:
    if scope is None:
        raise NotFound("there is no such claim")
    return scope


def _touched(foreseen: Foreseen, key: str, request: AttemptRequest, *_: Any) -> Names:
    """Return what an attempt's message touches."""
    hashed, ask = key_hash(key), request.ask
    ended = foreseen.ends(hashed, request.ends)
    asked = frozenset() if ask is None else foreseen.reserve(hashed, ask)
    return None if ended is None or asked is None else ended | asked


@naming(_touched)
def attempt(
    tx: Tx, key: str, request: AttemptRequest, caps: Caps, ahead: str
) -> Booked[tuple[AttemptReply, str]]:
    """Apply what an attempt says at once; the answer comes with its run."""
    booked, ended = _ended(tx, _scope(tx, key, caps, False), request.ends)
    answer, run_id = None, ""
    if request.ask is not None:
        asked = reserve(tx, key, request.ask, caps, False, ahead)
        answer, run_id = asked.answer
        booked.append(asked)
    return Booked((AttemptReply(ended, answer), run_id), None, partial(_tell_each, booked))


def _tell_each(booked: list[Booked[Any]], state: DispatchState) -> None:
    for one in booked:
        one.hear(state)
