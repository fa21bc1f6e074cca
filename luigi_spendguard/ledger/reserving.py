"""Reserve: decide about one call and take its money, in one transaction.

`reserve` is idempotent by (call id, ask): the same request again gets the same answer, a higher ask is
the SDK's own retry of the same call.
"""

from __future__ import annotations

import json
from dataclasses import replace

from luigi_spendguard.ledger.budgets import in_doubt
from luigi_spendguard.ledger.claims import hold
from luigi_spendguard.ledger.engine import Row, Tx
from luigi_spendguard.ledger.identity import Identity, earlier, identify
from luigi_spendguard.ledger.keys import check_terms, must_look_up
from luigi_spendguard.ledger.resolving import resolution
from luigi_spendguard.ledger.runs import revoked
from luigi_spendguard.ledger.senders import adopt, is_gateways, same_call
from luigi_spendguard.ledger.taking import Refused, Scope, link_budgets, object_of, record, reserve_money
from luigi_spendguard.messages import GRANT_SECONDS, Answer, Ask, command
from luigi_spendguard.money import format_usd, parse_usd

#: An in-doubt call is sent again with its own key for so long; Stripe may forget keys after 24 h
#: (https://docs.stripe.com/api/idempotent_requests).
RESEND_MS = 23 * 3600 * 1000
GRANT_MS = int(GRANT_SECONDS * 1000)


def reserve(tx: Tx, scope: Scope, ask: Ask) -> Answer:
    """Decide about `ask`; when it is allowed its money is reserved. Denials are put on record."""
    now = tx.now()
    row = tx.one("SELECT * FROM call WHERE id = ?", ask.call_id)
    if row is not None and not (scope.owns(row) and bool(row["relayed"]) == scope.relayed):
        return Answer("denied", ask.call_id, reason="scope", message="the call is another sender's")
    try:
        _check_objects(tx, scope, ask)
        if row is not None:
            return _again(tx, scope, ask, row, now)
        return _new(tx, scope, ask, now)
    except Refused as refused:
        denied = refused.denied
        if row is None:
            record(tx, scope, ask, Identity(None, 0, None, 0), now, verdict="denied",
                    reason=denied.reason, message=denied.message)  # fmt: skip
        if (asked := denied.facts.get("asked_usd")) is not None:
            hold(tx, scope.claim["id"], denied.facts["budget"], denied.facts["part"], parse_usd(asked))
        return Answer("denied", ask.call_id, ask.ask, reason=denied.reason,
                      message=denied.message, facts=denied.facts)  # fmt: skip


def _again(tx: Tx, scope: Scope, ask: Ask, row: Row, now: int) -> Answer:
    """Answer a request for a call that is known."""
    if row["verdict"] == "denied":
        return Answer("denied", row["id"], ask.ask, reason=row["reason"], message=row["message"])
    if not same_call(row, ask):
        raise Refused("scope", f"call {row['id']} was for something else: a call id is for one call")
    if row["verdict"] == "replayed":
        source = tx.one("SELECT * FROM call WHERE id = ?", row["replay_of"])
        assert source is not None
        return _replay(tx, ask, source)
    if ask.ask < row["ask"]:
        return Answer("stale", row["id"], row["ask"])
    if ask.ask == row["ask"]:
        if row["state"] == "pending":
            return _grant(tx, row)
        return Answer("stale", row["id"], row["ask"])
    if row["state"] == "settled":
        return _replay(tx, ask, row)
    _check_alive(scope)
    check_terms(tx, scope, ask)
    if ask.unsure:
        tx.run("UPDATE call SET unknown = 1 WHERE id = ?", row["id"])
    if row["state"] == "voided":
        return _revived(tx, scope, ask, row, now)
    return _resend(tx, scope, row, ask, ask.ask, now)


def _revived(tx: Tx, scope: Scope, ask: Ask, row: Row, now: int) -> Answer:
    """Answer the retry of a call that ended with nothing spent: it is looked at as if it were new.

    Meanwhile an equal call of another thread may have taken its place.
    """
    identity = identify(tx, ask, scope.claim)
    match = None if ask.read else earlier(tx, identity, scope.run["run_id"])
    if match is not None:
        return _matched(tx, scope, ask, identity, match, now, row)
    wire_key = f"spendguard-{row['id']}-{ask.ask}"
    tx.run("UPDATE call SET wire_key = ?, ordinal = ? WHERE id = ?", wire_key, identity.ordinal, row["id"])
    link_budgets(tx, scope, row["id"], ask.vendor)
    reserve_money(tx, scope, ask, row, now)
    return _regrant(tx, scope, row["id"], ask.call_id, ask.ask, now)


def _new(tx: Tx, scope: Scope, ask: Ask, now: int) -> Answer:
    """Decide about a call that is not known yet."""
    _check_alive(scope)
    if ask.denied is not None:
        raise Refused(ask.denied, ask.message)
    if must_look_up(tx, scope, ask):
        return Answer("look_up", ask.call_id, ask.ask)
    check_terms(tx, scope, ask)
    identity = identify(tx, ask, scope.claim)
    match = None if ask.read else earlier(tx, identity, scope.run["run_id"])
    if match is not None:
        return _matched(tx, scope, ask, identity, match, now)
    if scope.claim["mixed"] and identity.base is not None and ask.total_micros != 0:
        raise Refused(
            "idempotency_mismatch",
            f"{scope.claim['mixed']} has paid for a part of this batch, and Luigi has made another batch of "
            "it: whether this call repeats one of those cannot be known. Pass an idempotency key of your "
            "own, or mark what was paid as complete",
        )
    if ask.total_micros is None and object_of(tx, ask) is None:
        return Answer("look_up", ask.call_id, ask.ask)
    wire_key = ask.key or ("" if ask.read else f"spendguard-{ask.call_id}")
    if ask.key and tx.value("SELECT 1 FROM call WHERE wire_key = ? AND state = 'voided' LIMIT 1", ask.key):
        # Stripe answers a key that met a decline with that decline again.
        wire_key = f"{ask.key[:200]}-{ask.call_id}"
    with tx.savepoint():
        row = record(tx, scope, ask, identity, now, verdict="allowed", wire_key=wire_key)
        link_budgets(tx, scope, row["id"], ask.vendor)
        reserve_money(tx, scope, ask, row, now)
    if not ask.read:
        tx.insert("exchange", call_id=row["id"], request_body=ask.body, stored_at=now,
                  request_headers=json.dumps(ask.headers), answer_headers="{}",
                  answer_body="")  # fmt: skip
    return Answer("allowed", row["id"], ask.ask, wire_key=wire_key)


def _check_objects(tx: Tx, scope: Scope, ask: Ask) -> None:
    """Keep what a gateway knows of an object, and what workers say of it, apart."""
    named = f"{ask.object_id or ''} {ask.covers}"
    if scope.relayed:
        adopt(tx, ask.vendor, ask.account, named)
    elif not ask.read and is_gateways(tx, ask.vendor, ask.account, named):
        raise Refused("scope", f"{named.strip()} was paid through a gateway: go on with it there")


def _check_alive(scope: Scope) -> None:
    """Refuse when the run or the key may not spend any more."""
    run, claim = scope.run, scope.claim
    if run["state"] == "revoked":
        error = revoked(run["run_id"], bool(run["by_task_id"]))
        raise Refused("revoked", error.message, run_id=run["run_id"])
    if claim["state"] == "revoked":
        raise Refused("revoked", "the vault key is revoked", run_id=run["run_id"])
    if claim["state"] == "ended":
        raise Refused("expired", "the attempt this vault key was made for is over: a later attempt "
                       "has the task, or the task has ended", run_id=run["run_id"])  # fmt: skip


def _matched(
    tx: Tx, scope: Scope, ask: Ask, identity: Identity, match: Row, now: int, row: Row | None = None
) -> Answer:
    """Answer a call that repeats `match`; `row` is its own when it was tried and voided before."""
    if match["fingerprint"] != ask.fingerprint:
        raise Refused(
            "idempotency_mismatch",
            f"call {match['id']} was for {format_usd(match['asked_micros'])} "
            f"({match['operation']}) and this one differs in amount, currency, operation, target or, "
            "where nothing names a target, in its body. If it is another call, "
            + (
                "use another idempotency key"
                if identity.base is None
                else "pass `customer` or an idempotency key of your own"
            ),
            call_id=match["id"],
        )
    if match["state"] == "settled":
        if scope.relayed and not match["relayed"] and resolution(tx, match["id"]) is None:
            raise Refused(
                "idempotency_mismatch",
                f"a worker says that it has made this call before (call {match['id']}), and a gateway "
                "answers nothing that a worker has said: fetch the object from the vendor, make what this "
                "task outputs by hand, or pass another idempotency key where it is another call",
                call_id=match["id"],
            )
        answer = _replay(tx, ask, match)  # Refused where the answer is no longer kept.
        if row is None:
            record(tx, scope, ask, identity, now, verdict="replayed", replay_of=match["id"])
        else:
            tx.run("UPDATE call SET verdict = 'replayed', replay_of = ?, ordinal = ? WHERE id = ?",
                   match["id"], identity.ordinal, row["id"])  # fmt: skip
        return answer
    _check_sender(scope, match)
    if match["state"] == "pending":
        if match["sender"] == ask.call_id:
            return _grant(tx, match)
        if match["granted_at"] + GRANT_MS + match["timeout_ms"] > now:
            return Answer("wait", ask.call_id, ask.ask)
    if identity.key_id is not None:  # From now on it is this call that may be repeated.
        tx.run("UPDATE call SET key_id = ? WHERE id = ?", identity.key_id, match["id"])
    return _resend(tx, scope, match, ask, match["ask"] + 1, now)


def _check_sender(scope: Scope, match: Row) -> None:
    """Refuse to send again what another kind of sender has asked for: its body is not to be trusted."""
    if bool(match["relayed"]) == scope.relayed:
        return
    by, how = ("a gateway", "through the gateway") if match["relayed"] else ("a worker", "from there")
    raise Refused(
        "in_doubt",
        f"an earlier attempt of this very call ({match['id']}) was sent by {by} and has an unknown outcome: "
        f"send it {how} again, or {command('resolve', match['id'])}",
        call_id=match["id"],
    )


def _replay(tx: Tx, ask: Ask, source: Row) -> Answer:
    """Answer with the stored reply of `source`; nothing is sent."""
    stored = tx.one("SELECT * FROM exchange WHERE call_id = ?", source["id"])
    if stored is None or stored["status"] is None:
        said = resolution(tx, source["id"])
        if said is None:
            kept = (
                "was not kept: it was too long" if stored else "is no longer kept ([spendguard] replay_days)"
            )
            raise Refused(
                "idempotency_mismatch",
                f"this call was made before (call {source['id']}, vendor object "
                f"{source['object_id'] or 'unknown'}) and its answer {kept}: fetch the object from the "
                "vendor, or make what this task outputs by hand",
                call_id=source["id"],
                object_id=source["object_id"] or "",
            )
        if source["object_id"] is None:
            raise Refused(
                "idempotency_mismatch",
                f"call {source['id']} was made before, and an operator has resolved it ({said}) without its "
                "answer: name what it opened at the vendor with `spendguard resolve "
                f"{source['id']} --spent USD --object ID --correct`, and the next attempt gets that; or make "
                "what this task outputs by hand",
                call_id=source["id"],
            )
        # The guard fetches what the operator has named.
        return Answer("replayed", ask.call_id, ask.ask, object_id=source["object_id"],
                      first_at=source["ended_at"] or source["created_at"])  # fmt: skip
    return Answer(
        "replayed",
        ask.call_id,
        ask.ask,
        status=stored["status"],
        answer_headers=json.loads(stored["answer_headers"]),
        answer_body=stored["answer_body"],
        first_at=source["ended_at"] or source["created_at"],
    )


def _resend(tx: Tx, scope: Scope, row: Row, ask: Ask, number: int, now: int) -> Answer:
    """Let a sender send an in-doubt (or retried) call again, with its stored body and wire key."""
    if not ask.repeatable and (row["state"] == "in_doubt" or row["unknown"] or row["sender"] != ask.call_id):
        return _found(tx, scope, row, ask, number, now)
    if now - row["created_at"] > RESEND_MS and row["state"] == "in_doubt":
        raise Refused(
            "in_doubt",
            f"an earlier attempt of this very call ({row['id']}) has an unknown outcome and is too old "
            f"to be sent again: look it up at the vendor, then {command('resolve', row['id'])}",
            call_id=row["id"],
        )
    if row["run_id"] != scope.run["run_id"] and tx.value(
        "SELECT 1 FROM run WHERE run_id = ? AND state = 'revoked'", row["run_id"]
    ):
        raise Refused(
            "in_doubt",
            f"an earlier attempt of this very call ({row['id']}) has an unknown outcome and belongs to run "
            f"{row['run_id']}, which is revoked and sends nothing any more: look it up at the vendor, then "
            f"{command('resolve', row['id'])}",
            call_id=row["id"],
        )
    if row["state"] == "pending" and row["sender"] != ask.call_id:
        in_doubt(tx, row, "its sender is gone")
    return _regrant(tx, scope, row["id"], ask.call_id, number, now)


def _found(tx: Tx, scope: Scope, row: Row, ask: Ask, number: int, now: int) -> Answer:
    """Answer a call that the vendor would execute twice: an earlier send of it is searched for there.

    Of what the vendor shows, what no other call has opened is this one's, the oldest first; unless equal
    calls of which nobody knows what they have opened are as many: then it may be one of theirs.
    """
    if row["state"] == "pending":
        in_doubt(tx, row, "its sender is gone")
    if not ask.searched:
        sent = tx.one("SELECT request_body, request_headers FROM exchange WHERE call_id = ?", row["id"])
        return Answer("search", row["id"], row["ask"], first_at=row["created_at"],
                      body=sent["request_body"] if sent else "",
                      headers=json.loads(sent["request_headers"]) if sent else {})  # fmt: skip
    others = (row["vendor"], row["account"], row["id"])
    free = [
        object_id
        for object_id in ask.executed.split()
        if not tx.value("SELECT 1 FROM call WHERE vendor = ? AND account = ? AND id <> ? AND object_id = ?",
                        *others, object_id)
    ]  # fmt: skip
    equal = tx.value(
        "SELECT count(*) FROM call WHERE vendor = ? AND account = ? AND id <> ? AND object_id IS NULL"
        " AND fingerprint = ? AND (state IN ('pending','in_doubt') OR state = 'settled' AND ended_at >= ?)",
        *others, row["fingerprint"], row["created_at"],
    )  # fmt: skip
    if len(free) > int(equal or 0):
        granted = _regrant(tx, scope, row["id"], ask.call_id, number, now)
        tx.run("UPDATE call SET object_id = ? WHERE id = ?", free[0], row["id"])
        return replace(granted, verdict="found", object_id=free[0], first_at=row["created_at"])
    shows = "does not show it (yet)" if not free else f"shows {free[0]}, which may be an equal call's"
    raise Refused(
        "in_doubt",
        f"an earlier attempt of this very call ({row['id']}) has an unknown outcome and is never sent twice: "
        f"the vendor {shows}. Look it up there, then "
        f"{command('resolve', row['id'])}",
        call_id=row["id"],
    )


def _regrant(tx: Tx, scope: Scope, call_id: str, sender: str, ask: int, now: int) -> Answer:
    tx.run(
        "UPDATE call SET state = 'pending', sender = ?, ask = ?, granted_at = ?, claim_id = ? WHERE id = ?",
        sender,
        ask,
        now,
        scope.claim["id"],
        call_id,
    )
    row = tx.one("SELECT * FROM call WHERE id = ?", call_id)
    assert row is not None
    return _grant(tx, row)


def _grant(tx: Tx, row: Row) -> Answer:
    stored = tx.one("SELECT * FROM exchange WHERE call_id = ?", row["id"])
    return Answer(
        "allowed",
        row["id"],
        row["ask"],
        wire_key=row["wire_key"],
        resend=bool(row["unknown"]),
        body=stored["request_body"] if stored else "",
        headers=json.loads(stored["request_headers"]) if stored else {},
    )
