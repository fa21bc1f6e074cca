"""What a process of an attempt says of those that are gone, before it asks for a call of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from luigi_spendguard.errors import SpendguardError, denial
from luigi_spendguard.http.outbox import LATER
from luigi_spendguard.http.shared import CallsUnderWay
from luigi_spendguard.protocol import MAX_UNANSWERED, TOO_MANY_LOST, EndRequest, ReserveReply, ReserveRequest


def left_ends(under_way: CallsUnderWay) -> list[EndRequest]:
    """Return ends of the calls that processes of this attempt had under way when they were killed.

    What one has not heard the answer to it has not sent, and what that answered the task has not had.
    """
    note = "its process is gone"
    return [
        EndRequest("void", left.call_id, left.ask, sender=_other_than(left.call_id, left.asked_by), note=note)
        if left.asked_by
        else EndRequest("doubt", left.call_id, left.ask, note=note)
        for left in under_way.left()
    ]


def _other_than(call_id: str, sender: str) -> str:
    return "" if sender == call_id else sender


def naming_lost(request: ReserveRequest, under_way: CallsUnderWay) -> ReserveRequest:
    """Return a request that names the calls of which it may be one, made again. Raises SpendDenied."""
    if request.read or not (lost := under_way.lost()):
        return request
    named = (*request.unanswered, *lost)
    if len(" ".join(named)) > MAX_UNANSWERED:
        raise denial("in_doubt", TOO_MANY_LOST)
    return replace(request, unanswered=named)


@contextmanager
def asking(request: ReserveRequest, under_way: CallsUnderWay) -> Iterator[ReserveRequest]:
    """Give the request as it is to be made, and let the other processes know of it in the block.

    Raises SpendDenied, as `naming_lost`.
    """
    named = naming_lost(request, under_way)
    if named.read:
        yield named
        return
    with under_way.asking(named.call_id, named.ask, named.sender_id):
        yield named


def note(request: ReserveRequest, answer: ReserveReply, under_way: CallsUnderWay) -> None:
    """Take note of what an answer lets this process do; it goes on until the call is said to have ended."""
    if request.read:
        return
    if answer.verdict == "allowed":
        under_way.begin(answer.call_id, answer.ask)
    elif answer.is_read:
        under_way.reads(answer.call_id)


def heard(ends: Iterable[EndRequest], under_way: CallsUnderWay) -> None:
    """Take note that the ledger has heard of calls that were given up."""
    for end in ends:
        if end.kind == "void":
            under_way.end(end.call_id)


def saying(
    ends: Iterable[EndRequest], under_way: CallsUnderWay, say: Callable[[], object]
) -> Callable[[], None]:
    """Return what says ends, now or later, and takes note of those that were given up."""

    def said() -> None:
        try:
            say()
        except LATER:
            raise
        except SpendguardError:  # Refused, for good.
            heard(ends, under_way)
            raise
        heard(ends, under_way)

    return said
