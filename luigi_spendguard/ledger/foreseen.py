"""What a reservation, or the end of a call, will touch, as far as that can be known before it begins.

It is a guess, in words of `names`: what is read here may be otherwise a moment later. Each operation looks
itself whether what it touches is held.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Generic, NamedTuple, TypeVar, cast

from luigi_spendguard.ledger.batches import tasks_of
from luigi_spendguard.ledger.calls import Scope, scope_of, scope_of_hash
from luigi_spendguard.ledger.claims import NewClaim
from luigi_spendguard.ledger.database import Database, Names, Tx
from luigi_spendguard.ledger.identity import key_digest, payers_of, wire_digest
from luigi_spendguard.ledger.names import of_charges, of_key, of_object, of_payer, of_run
from luigi_spendguard.protocol import EndRequest, ReserveRequest
from luigi_spendguard.settings.policy import Caps

#: So many of the last senders, and calls, are remembered.
MOST_KNOWN = 4096
T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


class _Sender(NamedTuple):
    """Whose a vault key is: `payers` are the tasks and payments whose calls its own may repeat."""

    claim_id: str
    run_id: str
    task_id: str
    family: str
    payers: tuple[str, ...]


class _Call(NamedTuple):
    """Where a call is made, and the names of what it touches."""

    vendor: str
    account: str
    names: frozenset[str]


class _Last(Generic[T]):
    """The last of what was looked up."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, T] = OrderedDict()

    def get(self, key: str, look: Callable[[], T | None]) -> T | None:
        """Return what is known, else what `look` finds."""
        if (known := self._known.get(key)) is None and (known := look()) is not None:
            self.put(key, known)
        return known

    def put(self, key: str, value: T) -> None:
        """Remember it, and forget what is oldest."""
        self._known[key] = value
        if len(self._known) > MOST_KNOWN:
            self._known.popitem(last=False)

    def clear(self) -> None:
        """Forget all."""
        self._known.clear()


class Foreseen:
    """Foresees what operations touch, for the one thread that uses the database."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._senders: _Last[_Sender] = _Last()
        self._calls: _Last[_Call] = _Last()

    def forget(self) -> None:
        """Forget what was looked up: it is otherwise."""
        self._senders.clear()
        self._calls.clear()

    def reserve(self, hashed: str, ask: ReserveRequest) -> Names:
        """Return what `ask` touches under the vault key of that hash; None: that is not known."""
        if (
            ask.look_up
            or ask.searched
            or (sender := self._senders.get(hashed, lambda: self._read(hashed))) is None
        ):
            return None
        names = _of_sender(sender)
        if ask.key and not ask.read:
            names.add(of_key(key_digest(ask, ask.key) if sender.task_id else wire_digest(ask, sender.run_id)))
        if sender.task_id and ask.target is not None:
            names.add(of_charges(sender.family, ask.target))
        names |= _objects(ask.vendor, ask.account, [ask.object_id, *ask.covers, *ask.acts_on, *ask.priced_by])
        found = frozenset(names)
        self._calls.put(ask.call_id, _Call(ask.vendor, ask.account, found))
        return found

    def ends(self, hashed: str, ends: Iterable[EndRequest]) -> Names:
        """Return what ends of calls touch under the vault key of that hash; None: that is not known."""
        return self._ends(self._senders.get(hashed, lambda: self._read(hashed)), ends)

    def claim(self, request: NewClaim) -> Names:
        """Return what a claim touches; None: that is not known."""
        return None if request.members else frozenset({of_run(request.run_id), of_payer(request.task_id)})

    def finish(self, claim_id: str, ends: Iterable[EndRequest]) -> Names:
        """Return what the end of an attempt touches, behind ends of its calls; None: that is not known."""
        sender = self._senders.get(_of_claim(claim_id), lambda: self._read_claim(claim_id))
        return self._ends(sender, ends)

    def _ends(self, sender: _Sender | None, ends: Iterable[EndRequest]) -> Names:
        if sender is None:
            return None
        names = _of_sender(sender)
        for end in ends:
            call = self._calls.get(end.call_id, partial(self._read_call, end.call_id))
            if call is not None:
                objects = [end.object_id, *end.covers, *end.opened]
                names |= call.names | _objects(call.vendor, call.account, objects)
        return frozenset(names)

    def _read(self, hashed: str) -> _Sender | None:
        with self._db.reading() as tx:
            sender = _sender_of(tx, scope_of_hash(tx, hashed, Caps()))
        if sender is not None:
            self._senders.put(_of_claim(sender.claim_id), sender)
        return sender

    def _read_claim(self, claim_id: str) -> _Sender | None:
        with self._db.reading() as tx:
            return _sender_of(tx, scope_of(tx, claim_id, Caps()))

    def _read_call(self, call_id: str) -> _Call | None:
        """Look up a call that another process has reserved."""
        with self._db.reading() as tx:
            row = tx.one("SELECT vendor, account, object_id FROM call WHERE id = ?", call_id)
        if row is None:
            return None
        return _Call(
            row["vendor"],
            row["account"],
            frozenset(_objects(row["vendor"], row["account"], [row["object_id"]])),
        )


def _of_claim(claim_id: str) -> str:
    return f"claim {claim_id}"  # No hash has a blank in it.


def _sender_of(tx: Tx, scope: Scope | None) -> _Sender | None:
    if scope is None:
        return None
    claim = scope.claim
    payers = (*payers_of(tx, claim), *filter(None, tasks_of(claim)))
    return _Sender(claim["id"], claim["run_id"], claim["task_id"], claim["family"], payers)


def _of_sender(sender: _Sender) -> set[str]:
    return {of_run(sender.run_id), *map(of_payer, sender.payers)}


def _objects(vendor: str, account: str, object_ids: Iterable[str | None]) -> set[str]:
    return {of_object(vendor, account, one) for one in object_ids if one is not None}


def naming(names: Callable[..., Names]) -> Callable[[F], F]:
    """Let an operation say what it touches: `names` of a `Foreseen` and of what it is done with."""

    def named(operation: F) -> F:
        cast(Any, operation).names = names
        return operation

    return named


def names_of(operation: Callable[..., Any], *args: Any, **kwargs: Any) -> Callable[[Foreseen], Names] | None:
    """Return how to foresee what an operation touches, None where it does not say it."""
    names = getattr(operation, "names", None)
    return None if names is None else lambda foreseen: names(foreseen, *args, **kwargs)
