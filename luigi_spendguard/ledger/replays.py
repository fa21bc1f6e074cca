"""Answer a call that repeats an earlier one: with its reply, by sending it again, or with what was found.

What the vendor would execute twice is never sent again: it is searched for there.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace

from luigi_spendguard.ledger.batches import go_on
from luigi_spendguard.ledger.budgets import event, journal, put_in_doubt
from luigi_spendguard.ledger.calls import (
    GRANT_MS,
    Decision,
    ReservationDenied,
    Scope,
    made_again,
    record,
)
from luigi_spendguard.ledger.corrections import last_resolution
from luigi_spendguard.ledger.database import NOW, SKEW_MS, Row, Tx, is_over
from luigi_spendguard.ledger.identity import Identity, asks_the_same
from luigi_spendguard.ledger.targets import check_whose
from luigi_spendguard.ledger.turns import forget_turns, take_turn, wait_for_turn
from luigi_spendguard.money import format_usd
from luigi_spendguard.protocol import ReserveReply, ReserveRequest, commands

#: An in-doubt call is sent again with its own key for so long; Stripe may forget keys after 24 h
#: (https://docs.stripe.com/api/idempotent_requests).
HOUR_MS = 3600 * 1000
RESEND_MS = 23 * HOUR_MS


def answer_repeated(
    tx: Tx, scope: Scope, ask: ReserveRequest, identity: Identity, match: Row, row: Row | None = None
) -> ReserveReply:
    """Answer a call that repeats `match`; `row` is its own when it was tried and voided before."""
    now = tx.now()
    check_whose(tx, scope.claim, identity, match)
    if not asks_the_same(match, ask):
        raise _mismatch(scope, ask, identity, match)
    if match["state"] == "settled":
        if scope.relayed and not match["relayed"] and last_resolution(tx, match["id"]) is None:
            raise ReservationDenied(
                "idempotency_mismatch",
                f"a worker says that it has made this call before (call {match['id']}), and a gateway "
                "answers nothing that a worker has said: fetch the object from the vendor, make what this "
                "task outputs by hand, or pass another idempotency key where it is another call",
                call_id=match["id"],
            )
        answer = replay(tx, ask, match)  # ReservationDenied where the answer is no longer kept.
        if row is None:
            row = record(tx, scope, ask, identity, now, Decision("replayed", replay_of=match["id"]))
        else:
            tx.run(
                "UPDATE call SET verdict = 'replayed', replay_of = ?, ordinal = ?, ask = ? WHERE id = ?",
                match["id"],
                identity.ordinal,
                ask.ask,
                row["id"],
            )
        journal(tx, event("replay", row))
        return answer
    _check_sender(scope, match)
    if match["state"] == "pending":
        if match["sender"] == ask.sender_id:
            return grant_again(tx, ask, renewed(tx, match, now))
        if not is_gone(match, now):
            return ReserveReply("wait", ask.call_id, ask.ask, message=match["id"])
    if row is None and match["sender"] == ask.sender_id:  # It comes late: its sender was let send that.
        return ReserveReply("stale", match["id"], match["ask"])
    if identity.key_id is not None:  # From now on it is this call that may be repeated.
        tx.run(
            "UPDATE call SET key_id = ?, number = ?, given_up = ? WHERE id = ?",
            identity.key_id,
            match["number"] if match["key_id"] == identity.key_id else 0,  # Its own comes with its grant.
            made_again(ask, identity, match),
            match["id"],
        )
        if match["key_id"] != identity.key_id:
            journal(tx, event("rekey", match))
    return resend(tx, scope, match, ask, match["ask"] + 1, now)


def _mismatch(scope: Scope, ask: ReserveRequest, identity: Identity, match: Row) -> ReservationDenied:
    """Return the refusal of a call that repeats `match` with something else; it names both calls."""
    asked = "" if ask.total_micros is None else f", for {format_usd(ask.total_micros)}"
    differs = "differs in amount, currency, operation, target or in its content."
    if identity.payments and match["base"] in identity.payments:
        text = (
            f"this payment (payment_key) was made by call {match['id']} of task {match['task_id']} in run "
            f"{match['run_id']}, for {format_usd(match['asked_micros'])} ({match['operation']}), and this "
            f"one (call {ask.call_id} of task {scope.claim['task_id']}{asked}) {differs} Nothing was sent. "
            "Put the amount back (and what else was changed): the task then completes at no cost. To correct "
            "what was paid, refund it, or charge the rest under a payment_key of its own; if this is another "
            "payment, let payment_key say so"
        )
    else:
        text = (
            f"call {match['id']} was for {format_usd(match['asked_micros'])} "
            f"({match['operation']}) and this one (call {ask.call_id}{asked}) {differs} "
            "If it is another call, "
        ) + (
            "use another idempotency key"
            if identity.base is None
            else "its idempotency key looks like one that an SDK has made up: let it say what the call "
            "is for, such as `order-17`"
            if identity.key_id is not None
            else "name whom it concerns (Stripe's `customer`), or give it an idempotency key of its own: "
            'the SDK\'s, or `with idempotency_key("…")`'
        )
    return ReservationDenied("idempotency_mismatch", text, call_id=match["id"])


def _check_sender(scope: Scope, match: Row) -> None:
    """Refuse to send again what another kind of sender has asked for: its body is not to be trusted."""
    if bool(match["relayed"]) == scope.relayed:
        return
    by, how = ("a gateway", "through the gateway") if match["relayed"] else ("a worker", "from there")
    raise ReservationDenied(
        "in_doubt",
        f"an earlier attempt of this very call ({match['id']}) was sent by {by} and has an unknown outcome: "
        f"send it {how} again, or look it up at the vendor, then {_resolve(match)}",
        call_id=match["id"],
    )


def _resolve(row: Row) -> str:
    """Return in words what ends a call of which the outcome is unknown."""
    return commands.resolve_text(row["id"], row["reserved_micros"], row["object_id"])


def replay(tx: Tx, ask: ReserveRequest, source: Row) -> ReserveReply:
    """Answer with the stored reply of `source`; nothing is sent."""
    stored = tx.one("SELECT * FROM exchange WHERE call_id = ?", source["id"])
    if stored is None or stored["status"] is None:
        word = last_resolution(tx, source["id"])
        if word is None:
            kept = (
                "was not kept: it was too long" if stored else "is no longer kept ([spendguard] replay_days)"
            )
            raise ReservationDenied(
                "idempotency_mismatch",
                f"this call was made before (call {source['id']}, vendor object "
                f"{source['object_id'] or 'unknown'}) and its answer {kept}: fetch the object from the "
                "vendor, or make what this task outputs by hand",
                call_id=source["id"],
                object_id=source["object_id"] or "",
            )
        if source["object_id"] is None:
            raise ReservationDenied(
                "idempotency_mismatch",
                f"call {source['id']} was made before, and an operator has resolved it ({word}) without its "
                "answer: name what it opened at the vendor with "
                f"{commands.correct(source['id'], source['settled_micros'] + source['corrected_micros'])}, "
                "and the next attempt gets that; or make what this task outputs by hand",
                call_id=source["id"],
            )
        # The guard fetches what the operator has named.
        return ReserveReply(
            "replayed",
            ask.call_id,
            ask.ask,
            object_id=source["object_id"],
            message=source["id"],
            first_at=source["ended_at"] or source["created_at"],
        )
    return ReserveReply(
        "replayed",
        ask.call_id,
        ask.ask,
        status=stored["status"],
        answer_headers=json.loads(stored["answer_headers"]),
        answer_body=stored["answer_body"],
        first_at=source["ended_at"] or source["created_at"],
    )


def unheard(tx: Tx, row: Row) -> None:
    """Take it that the answer of a replayed call has not reached its task, which was denied instead.

    When that makes the call again it is this one: it holds no place among equal calls.
    """
    tx.run(
        "UPDATE call SET replay_of = NULL,"
        " verdict = CASE WHEN state IS NULL THEN 'denied' ELSE 'allowed' END,"
        " reason = CASE WHEN state IS NULL THEN 'ledger_unavailable' ELSE reason END,"
        " message = 'its answer did not arrive' WHERE id = ?",
        row["id"],
    )
    journal(tx, event("unheard", row))


def resend(tx: Tx, scope: Scope, row: Row, ask: ReserveRequest, number: int, now: int) -> ReserveReply:
    """Let a sender send an in-doubt (or retried) call again, with its stored body and wire key."""
    is_others = row["sender"] != ask.sender_id
    unsure = row["state"] == "in_doubt" or row["unknown"] or is_others
    if not ask.repeatable and unsure:
        return _found(tx, scope, row, ask, number, now)
    if unsure and not is_fresh(row, now):
        return _found_by_tag(tx, scope, row, ask, number, now)
    if row["run_id"] != scope.run["run_id"] and tx.value(
        "SELECT 1 FROM run WHERE run_id = ? AND state = 'revoked'", row["run_id"]
    ):
        raise ReservationDenied(
            "in_doubt",
            f"an earlier attempt of this very call ({row['id']}) has an unknown outcome and belongs to run "
            f"{row['run_id']}, which is revoked and sends nothing any more: look it up at the vendor, then "
            f"{_resolve(row)}",
            call_id=row["id"],
        )
    if row["state"] == "pending" and is_others:
        put_in_doubt(tx, row, "its sender is gone")
    again = replace(ask, since=0)
    if wait := wait_for_turn(tx, scope, again, row["id"]):
        return wait
    take_turn(tx, scope, ask, row["id"])
    journal(tx, event("resend", row))
    return regrant(tx, scope, row["id"], ask, number, now)


def _found(tx: Tx, scope: Scope, row: Row, ask: ReserveRequest, number: int, now: int) -> ReserveReply:
    """Answer a call that the vendor would execute twice: an earlier send of it is searched for there.

    Of what the vendor shows, what no other call has opened is this one's, the oldest first; unless equal
    calls of which nobody knows what they have opened are as many: then it may be one of theirs.
    """
    if row["state"] == "pending":
        put_in_doubt(tx, row, "its sender is gone")
    if not ask.searched:
        return _search(tx, row)
    others = (row["vendor"], row["account"], row["id"])
    free = free_of(tx, row, ask.executed)
    equal = tx.value(
        "SELECT count(*) FROM call WHERE vendor = ? AND account = ? AND id <> ? AND object_id IS NULL"
        " AND fingerprint IN (?, ?, ?)"
        " AND (state IN ('pending','in_doubt') OR state = 'settled' AND EXISTS (SELECT 1"
        " FROM journal WHERE journal.call_id = call.id AND kind IN ('settle','resolve') AND journal.id >"
        " (SELECT min(id) FROM journal WHERE call_id = ?)))",
        *others,
        row["fingerprint"],
        ask.fingerprint,
        ask.fingerprint_before or ask.fingerprint,
        row["id"],
    )
    if len(free) > int(equal or 0):
        return _take_found(tx, row, regrant(tx, scope, row["id"], ask, number, now), free[0])
    shows = "does not show it (yet)" if not free else f"shows {free[0]}, which may be an equal call's"
    raise ReservationDenied(
        "in_doubt",
        f"an earlier attempt of this very call ({row['id']}) has an unknown outcome and is never sent twice: "
        f"the vendor {shows}. Look it up there, then {_resolve(row)}",
        call_id=row["id"],
    )


def _search(tx: Tx, row: Row) -> ReserveReply:
    """Let who asks for a call search for what an earlier send of it has made; with what was stored of it."""
    sent = tx.one("SELECT request_body, request_headers FROM exchange WHERE call_id = ?", row["id"])
    return ReserveReply(
        "search",
        row["id"],
        row["ask"],
        first_at=row["created_at"],
        body=sent["request_body"] if sent else "",
        headers=json.loads(sent["request_headers"]) if sent else {},
    )


def is_fresh(row: Row, now: int) -> bool:
    """Return whether a call may be sent again under its key: its vendor has not forgotten that."""
    # A clock that was set back by an hour makes it look so much younger; by more, nobody knows how old it is.
    return bool(-HOUR_MS <= now - row["created_at"] <= RESEND_MS)


def _found_by_tag(tx: Tx, scope: Scope, row: Row, ask: ReserveRequest, number: int, now: int) -> ReserveReply:
    """Answer a call that is too old to be sent again: what it has made is searched for by its tag.

    Only what is found ends it, where that is one object, and no other call's.
    """
    if row["state"] == "pending":
        put_in_doubt(tx, row, "its sender is gone")
    if not row["tagged"]:
        raise ReservationDenied(
            "in_doubt",
            f"an earlier attempt of this very call ({row['id']}) has an unknown outcome and is too old "
            f"to be sent again: look it up at the vendor, then {_resolve(row)}",
            call_id=row["id"],
        )
    if not ask.searched:
        return search_by_tag(tx, row)
    free = free_of(tx, row, ask.executed)
    if len(free) == 1:
        return _take_found(tx, row, regrant(tx, scope, row["id"], ask, number, now), free[0])
    shows = " ".join(ask.executed) or "nothing"
    why = "have its tag, and only one can be its own" if free else "is another call's"
    raise ReservationDenied(
        "in_doubt",
        f"an earlier attempt of this very call ({row['id']}) has an unknown outcome and is too old to be "
        f"sent again: the vendor shows {shows}, which {why}. Look it up there, then {_resolve(row)}",
        call_id=row["id"],
    )


def search_by_tag(tx: Tx, row: Row) -> ReserveReply:
    """Let who asks search for what a call has made by its tag, in the time of its sends."""
    last_at = max(row["created_at"], (row["granted_at"] or 0) + row["timeout_ms"])
    return replace(_search(tx, row), wire_key=row["wire_key"], tagged=True, last_at=last_at)


def take_found(tx: Tx, row: Row, object_id: str) -> None:
    """Let a call have made an object that was found at the vendor."""
    tx.run("UPDATE call SET object_id = ? WHERE id = ?", object_id, row["id"])
    journal(tx, event("found", row))


def _take_found(tx: Tx, row: Row, granted: ReserveReply, object_id: str) -> ReserveReply:
    """Let a call have made what was found; who asks says what that has come to."""
    take_found(tx, row, object_id)
    return _as_found(granted, {**row, "object_id": object_id})


def free_of(tx: Tx, row: Row, objects: Iterable[str]) -> list[str]:
    """Return those objects that no other call has opened, or acted on."""
    return [
        object_id
        for object_id in objects
        if not tx.value(
            "SELECT 1 FROM call WHERE vendor = ? AND account = ? AND id <> ? AND object_id = ?",
            row["vendor"],
            row["account"],
            row["id"],
            object_id,
        )
    ]


def is_gone(row: Row, now: int) -> bool:
    """Return whether the sender of a pending call must be gone."""
    return is_over(row["granted_at"], GRANT_MS + row["timeout_ms"], now)


def regrant(tx: Tx, scope: Scope, call_id: str, ask: ReserveRequest, number: int, now: int) -> ReserveReply:
    """Let who asks send a call that is known, under the grant of now, as its ask `number`."""
    tx.run(
        "UPDATE call SET state = 'pending', sender = ?, ask = ?, number = ?, granted_at = ?, claim_id = ?"
        " WHERE id = ?",
        ask.sender_id,
        number,
        ask.number,
        now,
        scope.claim["id"],
        call_id,
    )
    row = tx.one("SELECT * FROM call WHERE id = ?", call_id)
    assert row is not None
    go_on(tx, scope.claim, row)
    return grant(tx, row)


def renewed(tx: Tx, row: Row, now: int) -> Row:
    """Let a grant be one of now: who asks may be asking for the first time, and send for 2 s from then on."""
    tx.run("UPDATE call SET granted_at = ? WHERE id = ?", now, row["id"])
    return {**row, "granted_at": now}


def grant_again(tx: Tx, ask: ReserveRequest, row: Row) -> ReserveReply:
    """Answer who has asked for a pending call before, and got no answer: what was found is not to be sent."""
    if not row["unknown"] or (ask.repeatable and is_fresh(row, tx.now())):
        return grant(tx, row)
    if row["object_id"] is None or row["object_id"] not in ask.executed:
        return ReserveReply("stale", row["id"], row["ask"])
    return _as_found(grant(tx, row), row)


def _as_found(granted: ReserveReply, row: Row) -> ReserveReply:
    return replace(granted, verdict="found", object_id=row["object_id"], first_at=row["created_at"])


def grant(tx: Tx, row: Row) -> ReserveReply:
    """Return the grant of a pending call, with what was stored of its request."""
    stored = tx.one("SELECT * FROM exchange WHERE call_id = ?", row["id"])
    return ReserveReply(
        "allowed",
        row["id"],
        row["ask"],
        wire_key=row["wire_key"],
        resend=bool(row["unknown"]),
        asked_micros=row["asked_micros"] if row["unknown"] else 0,
        tagged=bool(row["tagged"]),
        body=stored["request_body"] if stored else "",
        headers=json.loads(stored["request_headers"]) if stored else {},
    )


def forget(tx: Tx, days: int) -> int:
    """Delete answers older than `days`; identity and amounts stay. In-doubt calls keep theirs.

    One from the future is as old as can be known: it begins to age now.
    """
    forget_turns(tx)
    tx.run(f"UPDATE exchange SET stored_at = {NOW} WHERE stored_at > {NOW} + {SKEW_MS}")
    return tx.run(
        f"DELETE FROM exchange WHERE stored_at < {NOW} - ? AND call_id NOT IN"
        " (SELECT id FROM call WHERE state IN ('pending','in_doubt'))",
        days * 86_400_000,
    )
