"""A small model of a reservation's life: every order of what can happen to one payment, searched whole.

Two processes make the same call, `A` first and then `B`: of a later attempt, or of the same one. Each is a
worker's or a gateway's; it may be killed, or give up waiting for the ledger or for the vendor. A message,
once said, may arrive at any time, in any order, again and again, or never; a request that has left may reach
the vendor at any time, or never. luigid's death is an answer that is lost: what it had committed is there
when it is back. An operator revokes the run, or resolves what is in doubt, rightly or wrongly; luigid
finds what a call in doubt has made, however young that is; another call of the run wants the same money.

`books` is the ledger, `promises` what holds; `test_life` searches, and breaks each rule once.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from tests.model.books import (
    ASKS,
    OPEN,
    WRONG,
    Answer,
    Message,
    Process,
    Row,
    Rules,
    State,
    closed,
    end,
    reserve,
    take,
)

# The processes: the guard's generator, and what drives it.

Step = tuple[str, State]


def ask(s: State, name: str, p: Process, seen: str = "") -> State:
    """`Guard._lived`: it counts up, and asks."""
    p = p._replace(phase="asking", ask=p.ask + 1, fresh=True, seen=seen)
    return s.with_process(name, p).says(Message("reserve", name, p.call, p.ask, p.unsure, seen=seen))


def again(s: State, name: str, p: Process) -> Iterator[State]:
    """`proxy/stripe.py` `request`: the SDK gives up, or sends the same call once more."""
    yield s.with_process(name, p._replace(phase="gone"))
    if p.tries + 1 < ASKS[name]:
        yield ask(s, name, p._replace(tries=p.tries + 1))


def hear(s: State, name: str, answer: Answer) -> State:
    """`Guard._lived`: what the ledger has answered."""
    p, (verdict, call, number, key) = s.process(name), answer
    if verdict == "allowed":
        return s.with_process(name, p._replace(phase="granted", call=call, ask=number, key=key))
    if verdict == "found":  # `Guard._end_as_executed`
        return s.with_process(name, p._replace(phase="paid")).says(Message("settle", name, call, number))
    if verdict == "replayed":
        told = s if s.moved or WRONG in s.marks else s.marked("told that it is paid")
        return told.with_process(name, p._replace(phase="paid"))
    if verdict == "search":  # `LookUps.executed`
        return ask(s, name, p, "executed" if s.moved else "nothing")
    if verdict == "wait" and number > p.ask:
        return ask(s, name, p._replace(ask=number - 1))
    if verdict == "wait":  # It asks again: the same message comes once more.
        return s.with_process(name, p._replace(fresh=True))
    return s.with_process(name, p._replace(phase="gone"))


def acts(s: State, name: str, rules: Rules) -> Iterator[Step]:
    """`proxy/call.py` `drive`, and the gateway's `_drive`: what a process does next."""
    p = s.process(name)
    if p.phase == "idle" and name == "A":
        yield "A asks", ask(s, "A", p)
    elif p.phase == "idle":
        claimed = s._replace(claim=2)  # `claims.claim`
        yield "B asks in the next attempt", ask(claimed, "B", p._replace(claim=2))
        if s.process("A").phase not in ("idle", "paid"):
            yield "B asks in the same attempt", ask(s, "B", p)
    if p.phase not in ("asking", "granted", "sent"):
        return
    yield f"{name} is killed", s.with_process(name, p._replace(phase="gone"))
    void = s.says(Message("void", name, p.call, p.ask))
    if p.phase == "asking":  # `Guard._reserve`: LedgerUnavailable
        yield f"{name} gets no grant", void.with_process(name, p._replace(phase="gone"))
    if p.phase == "granted":  # `Guard._sent`: NotSent, Late
        for after in again(void, name, p):
            yield f"{name} does not send", after
        if p.fresh or rules.broken == "an old grant is used":  # `http/transport.py` `sending`
            yield f"{name} sends", sent(s, name, p)
    if p.phase == "sent":  # `Guard._unanswered`
        for after in again(s.says(Message("doubt", name, p.call, p.ask)), name, p._replace(unsure=True)):
            yield f"{name} gets no reply", after


def sent(s: State, name: str, p: Process) -> State:
    """`Guard._send`."""
    if s.revoke == "returned":
        s = s.marked("sent after a revoke")
    if s.row(p.call).state not in (*OPEN, "settled"):
        s = s.marked("sent with nothing reserved")
    return s._replace(wire=s.wire | {(name, p.ask, p.key)}).with_process(name, p._replace(phase="sent"))


def vendor(s: State, rules: Rules) -> Iterator[Step]:
    """`tests/support/fake_stripe.py`: a request arrives, and its reply reaches who has sent it, or nobody."""
    for request in sorted(s.wire):
        name, number, key = request
        base, p = s._replace(wire=s.wire - {request}), s.process(name)
        known = s.answered[key] if rules.honours_keys else ""
        for reply in [known] if known else ["ok", "declined", "refused"]:
            after = base
            if not known and reply == "ok":
                after = after._replace(moved=after.moved + 1)
            if not known and reply != "refused" and rules.honours_keys:
                answered = (*s.answered[:key], reply, *s.answered[key + 1 :])
                after = after._replace(answered=answered)
            heard = (p.phase, p.ask) == ("sent", number)
            yield f"the vendor: {reply}", replied(after, name, p, reply) if heard else after


def replied(s: State, name: str, p: Process, reply: str) -> State:
    """`Guard._ended`, with what the vendor's `outcome` reads."""
    if reply == "ok":
        return s.with_process(name, p._replace(phase="paid")).says(Message("settle", name, p.call, p.ask))
    void = Message("void", name, p.call, p.ask, definite=reply == "declined")
    return s.with_process(name, p._replace(phase="gone")).says(void)


# What comes from outside.


def arrives(s: State, rules: Rules) -> Iterator[Step]:
    """`bookings.attempt` and `bookings.reserve`: a message reaches luigid; its answer may be lost."""
    for m in sorted(s.net):
        if m.kind != "reserve":
            yield f"{m.kind} {m.call}{m.ask} of {m.sender} arrives", end(s, m, rules)
            continue
        if WRONG in s.marks:  # What is asked for then is the operator's doing.
            continue
        after, answer = reserve(s, m, rules)
        yield f"{m.kind} {m.call}{m.ask} of {m.sender} arrives (its answer is lost)", after
        p = s.process(m.sender)
        if (p.phase, p.call, p.ask) == ("asking", m.call, m.ask):
            yield f"{m.kind} {m.call}{m.ask} of {m.sender} arrives", hear(after, m.sender, answer)


def time(s: State, rules: Rules) -> Iterator[Step]:
    """`settlement.sweep`; that a child has died its worker says sooner (`claims.finish`)."""
    processes = tuple(p._replace(fresh=False) for p in s.processes)
    rows = tuple(r._replace(fresh=False) for r in s.rows)
    revoke = "waited" if s.revoke == "committed" else s.revoke
    s = s._replace(processes=processes, rows=rows, revoke=revoke)
    yield "2 s pass", s
    swept = (r._replace(state="in_doubt", unknown=True) if r.state == "pending" else r for r in s.rows)
    if rules.broken != "nobody sweeps":
        yield "the time-out passes", s._replace(rows=tuple(swept))


def operator(s: State, rules: Rules) -> Iterator[Step]:
    """`runs.revoke`, `operators.in_force`, `corrections.resolve`; and `other`, another call of the run."""
    if not s.revoke and rules.operator == "revokes":
        yield "revoke", s._replace(revoke="committed")
    sendable = [row for row in s.rows if row.state == "pending" or (row.unknown and row.fresh)]
    if rules.broken == "a revoke waits for pending calls alone":
        sendable = [row for row in s.rows if row.state == "pending"]
    if s.revoke == "waited" or (s.revoke == "committed" and not sendable):
        yield "revoke returns", s._replace(revoke="returned")
    if rules.operator == "revokes":
        return
    if not s.other and (taken := take(s, 1, rules)):
        yield (
            "another call is paid",
            taken._replace(other=True, reserved=taken.reserved - 1, spent=taken.spent + 1),
        )
    for call in "AB":
        row = s.row(call)
        if row.state != "in_doubt":
            continue
        spent, not_sent = row._replace(state="settled"), row._replace(state="voided")
        said = s if s.moved else s.marked(WRONG)
        yield f"resolved: {call} was spent", closed(said, call, spent, 1, "operator")
        said = s.marked(WRONG) if s.moved or s.wire else s
        yield f"resolved: {call} was not sent", closed(said, call, not_sent, 0, "operator")


def looks(s: State, rules: Rules) -> Iterator[Step]:
    """`doubts.end_found`: luigid finds by its tag what a call has made that is in doubt."""
    if not rules.honours_keys:
        return
    for call in "AB":
        row = s.row(call)
        if row.state == "in_doubt" and s.answered[row.key] == "ok":
            found = row._replace(state="settled")
            yield f"luigid finds what {call} has made", closed(s, call, found, 1, "vendor")


def steps(s: State, rules: Rules) -> list[Step]:
    """Return all that can happen next."""
    found = [*acts(s, "A", rules), *acts(s, "B", rules), *vendor(s, rules)]
    found += [*arrives(s, rules), *time(s, rules), *operator(s, rules), *looks(s, rules)]
    return [(label, same) for label, after in found if (same := forget(after, rules)) != s]


def forget(s: State, rules: Rules) -> State:
    """Leave out what can change nothing any more, so that states that go on alike are one."""
    first, second = s.processes
    net = s.net if "void" in rules.broken else frozenset([m for m in s.net if matters(m, s, rules)])
    kept = rules.operator == "revokes" and s.revoke != "returned"  # A revoke alone looks at that.
    rows = s.rows
    if rows[0].fresh or rows[1].fresh:
        rows = (_row_kept(rows[0], kept), _row_kept(rows[1], kept))
    return s._replace(processes=(_process_kept(first), _process_kept(second)), rows=rows, net=net)


@cache
def _process_kept(p: Process) -> Process:
    if p.phase in ("paid", "gone"):
        return Process(p.phase, claim=p.claim)
    return p._replace(fresh=True) if p.phase == "sent" else p


@cache
def _row_kept(row: Row, kept: bool) -> Row:
    return row._replace(fresh=kept and row.fresh and row.unknown)


def matters(m: Message, s: State, rules: Rules) -> bool:
    """Whether a message may still change something: asks count up, and what is denied or settled stays so."""
    row, p = s.row(m.call), s.process(m.sender)
    if m.kind == "settle" or not row.state or (p.phase, p.call, p.ask) == ("asking", m.call, m.ask):
        return True
    if row.state == "denied" and rules.broken == "a tombstone refuses nothing":
        return True
    if row.state in ("denied", "settled") or m.ask < row.ask:
        return False
    return m.ask > row.ask or (row.state == "pending" and m.kind != "reserve") or m.definite
