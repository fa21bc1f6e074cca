"""Which earlier call a new one repeats, and the key under which it goes out.

The caller's own idempotency key decides; else (account, task, operation, target, ordinal). Ordinal =
the lowest number that no equal call of this attempt holds open or with success and has answered. One that
another process holds open, and that asks for the same in all, holds none: it may be lost or declined, and be
known to the task as that before the ledger has heard of it. How it ends is waited for.

Where tasks say what they pay for (`payment_key`), that takes the task_id's place: what `claims.payment_of`
makes of it is the same for another task of the family, in every run, and after the task has completed, too.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, replace
from functools import cache
from json.encoder import encode_basestring_ascii
from typing import NamedTuple

from luigi_spendguard.ledger.batches import BEGUN, is_others, may_repeat, tasks_of
from luigi_spendguard.ledger.database import NOT_DECLINED, Row, Tx
from luigi_spendguard.ledger.names import of_charges, of_key, of_payer
from luigi_spendguard.ledger.overtaken import is_overtaken
from luigi_spendguard.protocol import ReserveRequest, process_of

#: The version of the formula by which the digests are made; it is kept with each call. Whoever changes
#: what goes into a digest (or how a vendor names a target) adds a version, and the old one goes on matching.
FORMULA = 2
#: The form of a key that is derived here: a caller's that looks so is none of its own.
DERIVED = re.compile(r"spendguard-[0-9a-f]{64}")


class Alike(NamedTuple):
    """What may be known of an identity.

    Attributes:
        calls: calls that one of its digests stands for.
        charges: what the task's family has charged the same target.

    """

    calls: bool
    charges: bool


MAY_BE_KNOWN, UNKNOWN = Alike(True, True), Alike(False, False)


@dataclass(frozen=True)
class Identity:
    """What makes a call the same call: `key_id` when it came with a key, `base` and `ordinal`.

    Attributes:
        bases: `base`, and what older formulas, earlier batches of its tasks and its payments have for it.
        keys_before: those that older formulas have for its key.
        epoch: how often the task had completed; `due`: that and, of a batch, how often its members had.
        payments: the digests of what it pays for, by whichever tasks.
        paid_for: what it pays for, itself and in batches: such calls count whatever has completed.
        mates: other tasks and payments that this attempt may repeat a part of.
        known: what may be known of it.
        is_late: it was made again before it has come.

    """

    base: str | None = None
    ordinal: int = 0
    key_id: str | None = None
    epoch: int = 0
    due: int = 0
    bases: tuple[str, ...] = ()
    keys_before: tuple[str, ...] = ()
    payments: tuple[str, ...] = ()
    paid_for: tuple[str, ...] = ()
    mates: tuple[str, ...] = ()
    known: Alike = MAY_BE_KNOWN
    is_late: bool = False


def digest(*parts: str | int | None) -> str:
    """Return the SHA-256 that stands for these parts; it says nothing of any of them."""
    # As `json.dumps` writes them, in a third of the time.
    written = [
        encode_basestring_ascii(part) if isinstance(part, str) else "null" if part is None else str(part)
        for part in parts
    ]
    return hashlib.sha256(f"[{', '.join(written)}]".encode()).hexdigest()


def payee(vendor: str, account: str, formula: int = FORMULA) -> str:
    """Return who is paid, as a formula has it.

    1: the account alone. 2: with the vendor's name, so that what a worker says of a vendor that no gateway
    serves answers no call of one's.
    """
    return account if formula == 1 else f"{vendor} {account}"


def call_digest(ask: ReserveRequest, payer: str, formula: int = FORMULA) -> str:
    """Return what stands for the calls of a task, or for a payment, of one operation for one target."""
    return digest("call", payee(ask.vendor, ask.account, formula), payer, ask.operation, ask.target)


def key_digest(ask: ReserveRequest, key: str, formula: int = FORMULA) -> str:
    """Return what stands for a caller's key at a vendor account."""
    return digest("key", payee(ask.vendor, ask.account, formula), key)


def wire_digest(ask: ReserveRequest, run_id: str, formula: int = FORMULA) -> str:
    """Return what stands for a key on the wire of nobody knows which task: it holds within the run."""
    return digest("wire", run_id, payee(ask.vendor, ask.account, formula), ask.key)


_OLDER = range(1, FORMULA)


def identify(tx: Tx, ask: ReserveRequest, claim: Row) -> Identity:
    """Return the identity of `ask` within the attempt `claim`."""
    task_id = claim["task_id"]
    if not task_id:
        # Without a key each call is a new one.
        if ask.read or not ask.key:
            return Identity(known=UNKNOWN)
        wired = wire_digest(ask, claim["run_id"])
        older = tuple(wire_digest(ask, claim["run_id"], formula) for formula in _OLDER)
        tx.check(of_key(wired))
        known = _look_up(tx, (), (wired, *older), ask, claim)
        return Identity(key_id=wired, keys_before=older, known=known)
    epoch = claim["completions"]
    if ask.read:
        return Identity(epoch=epoch, known=UNKNOWN)
    key = ask.key or ""
    key_id = key_digest(ask, key) if key else None
    keys_before = tuple(key_digest(ask, key, formula) for formula in _OLDER) if key else ()
    payment = claim["payment"]
    shared = _sharing(tx, payment) if payment else []
    tx.check(*([of_key(key_id)] if key_id else []))
    tx.check(*map(of_payer, filter(None, [task_id, *tasks_of(claim), payment, *shared])))
    paid_for = (payment, *shared) if payment else ()
    keys = (key_id, *keys_before) if key_id else ()
    if key_id and ask.key_is_callers and not DERIVED.fullmatch(key):
        known = _look_up(tx, (), keys, ask, claim)
        is_late = known.calls and is_overtaken(tx.all(_KEYED, claim["id"], key_id), ask, key_id)
        return Identity(
            key_id=key_id,
            epoch=epoch,
            keys_before=keys_before,
            paid_for=paid_for,
            known=known,
            is_late=is_late,
        )
    base = call_digest(ask, payment or task_id)
    mates, earlier = _mates_of(claim), _earlier_payments(tx, claim)
    tx.check(*map(of_payer, [*mates, *earlier]))
    named = [replace(ask, target=None if one == "-" else one) for one in ask.targets_before]
    alike = [ask, *named]
    before = _digests(alike, [task_id, *earlier])
    payments = _digests(alike, [payment]) if payment else []
    if ask.target is not None:
        before += _digests([ask], mates)
        payments += _digests([ask], shared)
    bases = tuple(dict.fromkeys((base, *before, *payments)))
    known = _look_up(tx, bases, keys, ask, claim)
    ordinal, is_late = _place(tx, ask, claim, bases, keys) if known.calls else (1, False)
    return Identity(
        base,
        ordinal,
        key_id,
        epoch,
        epoch + _completions_of_members(tx, claim),
        bases,
        keys_before,
        tuple(payments),
        paid_for,
        (*mates, *shared),
        known,
        is_late,
    )


def _completions_of_members(tx: Tx, claim: Row) -> int:
    """Return how often the members of a batch had completed when it was claimed, 0 for a single task."""
    if claim["members"] == "[]":
        return 0
    return int(
        tx.value(
            "SELECT sum(member.epoch) FROM json_each(?1) AS each JOIN member ON member.task_id = each.value"
            " AND member.claim_id = ?2",
            claim["members"],
            claim["id"],
        )
        or 0
    )


#: An operator has said that a call was made: its task has had no answer, and what repeats it is that one.
RESOLVED = (
    "(state = 'settled' AND status = 0"
    " AND EXISTS (SELECT 1 FROM journal WHERE journal.call_id = call.id AND kind = 'operator'))"
)

_CALLS = (
    "SELECT id, ordinal, key_id, state, sender, unknown, fingerprint, number, given_up, declined,"
    f" (coalesce(state, '') IN ('pending','settled') AND {NOT_DECLINED} AND NOT {RESOLVED}"
    " OR verdict = 'replayed') AS holds FROM call WHERE claim_id = ?"
)
#: All equal calls of an attempt, also those of others that it has gone on with; one that `holds` its place
#: among them is another call than the next.
_EQUAL = f"{_CALLS} AND base IN (SELECT value FROM json_each(?))"
#: Those under a key of their caller's.
_KEYED = f"{_CALLS} AND key_id = ?"


def _place(
    tx: Tx, ask: ReserveRequest, claim: Row, bases: tuple[str, ...], keys: tuple[str, ...]
) -> tuple[int, bool]:
    """Return the lowest number that no equal call of this attempt holds, and whether `ask` comes too late.

    What was asked for under its own key (`keys`, in all forms) is this request: it has that one's, whose
    answer did not arrive.
    """
    unanswered = {key_digest(ask, one, f) for one in ask.unanswered for f in (*_OLDER, FORMULA)}
    lost = set(ask.unanswered)
    equal = tx.all(_EQUAL, claim["id"], json.dumps(bases))
    if keys and is_overtaken(equal, ask, keys[0]):
        return 1, True
    rows = [row for row in equal if row["holds"]]
    if own := [int(row["ordinal"]) for row in rows if row["key_id"] in keys]:
        return min(own), False
    held = {
        row["ordinal"]
        for row in rows
        if not (row["key_id"] in unanswered or row["id"] in lost or _may_be_lost(row, ask))
    }
    return next(n for n in range(1, len(held) + 2) if n not in held), False


def _may_be_lost(row: Row, ask: ReserveRequest) -> bool:
    """Return whether `ask` may be a call made again, of which nobody has said yet how it ended.

    A process waits by itself until its own ends are known here, and may make several equal calls at once. One
    that was in doubt before is again what the next equal call may be: whether somebody sends it once more
    cannot be told, as what asked for that may have come late, behind its own end.
    """
    lost = row["unknown"] or process_of(row["sender"]) != process_of(ask.sender_id)
    return bool(row["state"] == "pending" and lost and asks_the_same(row, ask))


def asks_the_same(row: Row, ask: ReserveRequest) -> bool:
    """Return whether `ask` asks for what `row` did, as the version says that has kept it."""
    before = ask.fingerprint_before or ask.fingerprint
    return row["fingerprint"] in (ask.fingerprint, before)


def _look_up(tx: Tx, bases: tuple[str, ...], keys: tuple[str, ...], ask: ReserveRequest, claim: Row) -> Alike:
    """Return whether there are calls of these digests, and charges of the same target."""
    if claim["task_id"] and ask.target is not None:
        tx.check(of_charges(claim["family"], ask.target))
    if len(bases) + len(keys) > _MOST_MARKS:
        return MAY_BE_KNOWN
    found = tx.values(_alike(len(bases), len(keys)), claim["family"], ask.target, *bases, *keys)
    assert found is not None
    return Alike(*found)


#: More digests than that are not looked for at once.
_MOST_MARKS = 100


@cache
def _alike(bases: int, keys: int) -> str:
    """Return the query whether there are calls of these digests, and charges of a family's for a target."""
    marks = [f"?{number}" for number in range(3, 3 + bases + keys)]
    among = {"base": ",".join(marks[:bases]), "key_id": ",".join(marks[bases:])}
    known = [f"EXISTS (SELECT 1 FROM call WHERE {name} IN ({of}))" for name, of in among.items() if of]
    return (
        f"SELECT {' OR '.join(known)}, EXISTS (SELECT 1 FROM call WHERE family = ?1 AND target = ?2"
        " AND base IS NOT NULL AND asked_micros > 0)"
    )


def _digests(asks: list[ReserveRequest], payers: list[str]) -> list[str]:
    return [
        call_digest(ask, payer, formula) for payer in payers for ask in asks for formula in (*_OLDER, FORMULA)
    ]


def payers_of(tx: Tx, claim: Row) -> list[str]:
    """Return the tasks and payments whose calls those of an attempt may repeat, its own included."""
    payment = claim["payment"]
    shared = _sharing(tx, payment) if payment else []
    payers = [claim["task_id"], payment, *_mates_of(claim), *_earlier_payments(tx, claim), *shared]
    return list(dict.fromkeys(filter(None, payers)))


def _mates_of(claim: Row) -> list[str]:
    """Return the earlier batches (or single tasks) that have paid for some of this attempt's tasks."""
    mixed = claim["mixed"]
    if not mixed.startswith("["):  # As it was written before there could be several.
        return [mixed] if mixed else []
    mates: list[str] = json.loads(mixed)
    return mates


def _earlier_payments(tx: Tx, claim: Row) -> list[str]:
    """Return what earlier attempts of the same task have said that they pay for, where this one says nothing.

    (What one that said nothing has paid is found by its task_id.)
    """
    if claim["payment"] or not claim["has_paid_for"]:
        return []
    rows = tx.all(
        "SELECT DISTINCT payment FROM claim WHERE task_id = ? AND payment <> ''",
        claim["task_id"],
    )
    return [row["payment"] for row in rows]


def _sharing(tx: Tx, payment: str) -> list[str]:
    """Return what else calls for (some of) these payments are kept under: batches, and each by itself."""
    members = [row["payment"] for row in tx.all("SELECT payment FROM batch_payment WHERE batch = ?", payment)]
    batches = tx.all(
        "SELECT DISTINCT batch FROM batch_payment WHERE payment IN (SELECT value FROM json_each(?))"
        " AND batch <> ? ORDER BY batch",
        json.dumps(members or [payment]),
        payment,
    )
    return [*members, *(row["batch"] for row in batches)]


#: Calls that count as earlier ones: of this run, of a task that had not completed since when it was opened
#: (nor, of a batch, all of its members), or those for the same payment.
_EARLIER = (
    f"verdict = 'allowed' AND state IN ('pending','settled','in_doubt') AND {NOT_DECLINED}"
    " AND vendor = ?3 AND account = ?4"
    f" AND (run_id = ?1 OR {may_repeat(BEGUN.format('?1'))}"
    " OR payment IN (SELECT value FROM json_each(?5))) ORDER BY rowid DESC"
)


def find_earlier(tx: Tx, identity: Identity, ask: ReserveRequest, claim: Row) -> Row | None:
    """Return the earlier call that this one repeats, or None. A voided or declined call is no earlier one."""
    run_id = claim["run_id"]
    if not identity.known.calls:
        return None
    if identity.key_id is not None:
        keys = json.dumps([identity.key_id, *identity.keys_before])
        row = tx.one(
            f"SELECT * FROM call WHERE key_id IN (SELECT value FROM json_each(?2)) AND {_EARLIER} LIMIT 1",
            run_id,
            keys,
            ask.vendor,
            ask.account,
            json.dumps(identity.paid_for),
        )
        if row is not None:
            return row
    if identity.base is None:
        return None
    rows = tx.all(
        f"SELECT * FROM call WHERE base IN (SELECT value FROM json_each(?2)) AND ordinal = ?6 AND {_EARLIER}",
        run_id,
        json.dumps(identity.bases),
        ask.vendor,
        ask.account,
        json.dumps(identity.paid_for),
        identity.ordinal,
    )
    for row in rows:
        # What has its own digest would go out under the same key on the wire.
        if row["base"] == identity.base or not (identity.mates and is_others(tx, claim, row)):
            return row
    return None


def count_tries(tx: Tx, identity: Identity) -> int:
    """Return how many of the keys that are derived from an identity a vendor's answers have used up."""
    if not identity.known.calls:
        return 0
    if identity.base is None:
        return int(
            tx.value(
                "SELECT max(tries) FROM call WHERE key_id = ? AND epoch = ?", identity.key_id, identity.epoch
            )
            or 0
        )
    return int(
        tx.value(
            "SELECT max(tries) FROM call WHERE base = ? AND ordinal = ? AND (epoch = ? OR ? = 1)",
            identity.base,
            identity.ordinal,
            identity.epoch,
            int(bool(identity.payments)),
        )
        or 0
    )


#: Whether what went out last under a key on the wire was tagged: a derived key, by what it stands for; or one
#: of a caller's own, whoever has sent it.
_TAGGED = "SELECT tagged FROM call WHERE {} AND vendor = ? AND account = ? AND wire_key = ?"
_BY_BASE = f"{_TAGGED.format('base = ? AND ordinal = ?')} ORDER BY rowid DESC LIMIT 1"
_BY_KEY = f"{_TAGGED.format('base IS NULL AND key_id IS NOT NULL')} ORDER BY rowid DESC LIMIT 1"


def goes_tagged(tx: Tx, ask: ReserveRequest, identity: Identity, key: str, row: Row | None = None) -> bool:
    """Return whether a call goes out with its tag: as all that went out under its wire `key`.

    The vendor refuses a key with another body. So what luigi.cfg says now is for new keys alone; `row` is the
    call's own where it was voided before.
    """
    if not ask.taggable:
        return False
    before: int | None = None
    if row is not None and row["wire_key"] == key:
        before = row["tagged"]
    elif identity.base is not None and identity.known.calls:
        before = tx.value(_BY_BASE, identity.base, identity.ordinal, ask.vendor, ask.account, key)
    elif identity.base is None and identity.key_id is not None:
        before = tx.value(_BY_KEY, ask.vendor, ask.account, key)
    return ask.tag if before is None else bool(before)


def wire_key(ask: ReserveRequest, identity: Identity, used: int) -> str:
    """Return the key that a call goes out under, "" for what has none; `used`: see `count_tries`.

    The same for the same call after a ledger was lost or restored, so that the vendor knows it again;
    another one once the task has completed (a payment's stays), or once the vendor answers the last one with
    a decline for ever. A key of the caller's own goes out as it is.
    """
    if ask.read:
        return ""
    if identity.base is not None:
        due = 0 if identity.payments else identity.due
        return "spendguard-" + digest("out", identity.base, identity.ordinal, due, used)
    if identity.key_id is None:
        return f"spendguard-{ask.call_id}"
    key = ask.key or ""
    if not used and not DERIVED.fullmatch(key):
        return key
    # Of the key alone: without a task a run that follows sends the same.
    return f"{key[:200]}-{digest('out', key_digest(ask, key), identity.epoch, used)[:32]}"
