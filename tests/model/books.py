"""The ledger of the model, and all that there is in it.

Each function is one transaction, or a part of one, and names in its docstring (or beside a line of it) what
it mirrors. `Rules.broken` leaves one rule out, to show that it is needed.

The amount of the payment is 1, and so is the cap. Left out are prices that are looked up, turns at objects,
corrections, several budgets, keys that expire, and that overrun freezes a run.
"""

from __future__ import annotations

from typing import NamedTuple

CAP = 1
#: How often a process asks under one call: an SDK's own retry, or a grant that came too late.
ASKS = {"A": 2, "B": 1}

#: How often a call is taken over here: with answers that are lost it could go to and fro for ever.
ENOUGH = 3


class Rules(NamedTuple):
    """What is modelled: a vendor that honours idempotency keys, or none; and which rule is left out."""

    honours_keys: bool = True
    operator: str = "resolves"  # or: revokes
    broken: str = ""


class Row(NamedTuple):
    """A row of the ledger's `call`; `key`: how many keys were used up before its own, `tries`: and by it."""

    state: str = ""  # "": no row; denied, pending, in_doubt, settled, voided
    ask: int = 0
    sender: str = ""
    unknown: bool = False
    key: int = 0
    tries: int = 0
    fresh: bool = False  # granted less than 2 s ago


class Process(NamedTuple):
    """A process that makes the call. `call`, `ask`: its guard's; `fresh`: asked for less than 2 s ago."""

    phase: str = "idle"  # idle, asking, granted, sent, paid, gone
    call: str = ""
    ask: int = 0
    tries: int = 0
    fresh: bool = True
    unsure: bool = False
    key: int = 0
    claim: int = 1
    seen: str = ""  # what it has found at a vendor without keys: "", nothing, executed


class Message(NamedTuple):
    """What a process says to the ledger: reserve, void, doubt or settle, of which call and ask.

    `sender`: the process; as each makes one call, also the id that it has made for that.
    """

    kind: str
    sender: str
    call: str
    ask: int
    unsure: bool = False
    definite: bool = False
    seen: str = ""


class State(NamedTuple):
    """Everything. `marks`: what must never happen, and whether an operator was wrong."""

    rows: tuple[Row, Row] = (Row(), Row())
    processes: tuple[Process, Process] = (Process(call="A"), Process(call="B"))
    net: frozenset[Message] = frozenset()
    wire: frozenset[tuple[str, int, int]] = frozenset()  # requests on their way: whose, which ask, which key
    answered: tuple[str, ...] = ("", "", "")  # what the vendor has under each key: "", ok, declined
    moved: int = 0
    reserved: int = 0
    spent: int = 0
    overrun: int = 0
    other: bool = False
    claim: int = 1
    revoke: str = ""  # committed, waited (for 2 s), returned
    marks: frozenset[str] = frozenset()

    def row(self, call: str) -> Row:
        return self.rows["AB".index(call)]

    def process(self, name: str) -> Process:
        return self.processes["AB".index(name)]

    def with_row(self, call: str, row: Row) -> State:
        return self._replace(rows=(row, self.rows[1]) if call == "A" else (self.rows[0], row))

    def with_process(self, name: str, process: Process) -> State:
        both = self.processes
        return self._replace(processes=(process, both[1]) if name == "A" else (both[0], process))

    def says(self, message: Message) -> State:
        return self._replace(net=self.net | {message})

    def marked(self, mark: str) -> State:
        return self._replace(marks=self.marks | {mark})


#: An operator has said what is not so, or was not yet.
WRONG = "an operator was wrong"
#: Verdict, call, ask, key.
Answer = tuple[str, str, int, int]
NOTHING: Answer = ("denied", "", 0, 0)
OPEN = ("pending", "in_doubt")


def reserve(s: State, m: Message, rules: Rules) -> tuple[State, Answer]:
    """`reservations._decide`: `_answer_known`, or `_answer_new`."""
    row = s.row(m.call)
    ended = (s.revoke and rules.broken != "a revoked key is worth something") or (
        s.process(m.sender).claim < s.claim
        and rules.broken != "the key of an earlier attempt is worth something"
    )  # `keys.ended`
    if row.state == "denied":
        if rules.broken != "a tombstone refuses nothing":
            return s, NOTHING
    elif row.state:
        is_senders = is_the_senders(m, row, rules)
        if is_senders and m.ask == row.ask:
            if ended and m.sender != m.call and rules.broken != "a sender's number stands for one request":
                return s, NOTHING
            return s, grant_again(m, m.call, row, rules) if row.state == "pending" else NOTHING
        if row.state == "settled":
            return s, ("replayed", m.call, m.ask, 0)
        if (is_senders and m.ask < row.ask) or ended:
            return s, NOTHING
        if not is_senders and (row.state == "pending" or m.ask <= row.ask):
            return s, ("wait", m.call, max(m.ask, row.ask + 1), 0) if row.ask < ENOUGH else NOTHING
        if m.unsure:
            row = row._replace(unknown=True)
            s = s.with_row(m.call, row)
        if row.state != "voided":
            return resend(s, m.call, m, m.ask, rules)
    if ended:
        return s, NOTHING
    other = "B" if m.call == "A" else "A"
    match = s.row(other)  # `identity.find_earlier`
    if match.state in (*OPEN, "settled"):
        return answer_repeated(s, m, other, rules)
    if not (taken := take(s, 1, rules)):
        return s.with_row(m.call, row._replace(state="denied", ask=m.ask)) if not row.state else s, NOTHING
    used = max(row.tries, match.tries)  # `identity.count_tries`
    if rules.broken == "a key that met a decline is used again":
        used = 0
    if used < max(row.tries, match.tries):
        taken = taken.marked("granted under a key that is used up")
    if row.state == "denied":
        taken = taken.marked("granted behind a tombstone")
    row = Row("pending", m.ask, m.sender, row.unknown, used, used, fresh=True)
    return granted(taken.with_row(m.call, row), m), ("allowed", m.call, m.ask, used)


def is_the_senders(m: Message, row: Row, rules: Rules) -> bool:
    """Return whether who says this is who was granted the call last."""
    return m.sender == row.sender or rules.broken == "two senders count alike"


def answer_repeated(s: State, m: Message, other: str, rules: Rules) -> tuple[State, Answer]:
    """`replays.answer_repeated`: by an earlier row (`other`) of the same identity."""
    match = s.row(other)
    if match.state == "settled":
        return s, ("replayed", other, m.ask, 0)
    if rules.broken == "what is in doubt answers":
        return s, ("replayed", other, m.ask, 0)
    own = s.row(m.call)
    if match.state == "pending":
        if match.sender == m.sender:
            return s, grant_again(m, other, match, rules)
        return s, ("wait", m.call, m.ask, 0)  # Until its sender must be gone: then it is in doubt.
    if not own.state and match.sender == m.sender:
        return s, NOTHING  # It comes late.
    return resend(s, other, m, match.ask + 1, rules) if match.ask < ENOUGH else (s, NOTHING)


def grant_again(m: Message, call: str, row: Row, rules: Rules) -> Answer:
    """`replays.grant_again`: the answer was lost, and the client asks once more."""
    if rules.honours_keys or not row.unknown or rules.broken == "what was found is granted":
        return "allowed", call, row.ask, row.key
    return ("found", call, row.ask, 0) if m.seen == "executed" else NOTHING


def resend(s: State, call: str, m: Message, ask: int, rules: Rules) -> tuple[State, Answer]:
    """`replays.resend`; for what the vendor would execute twice, `replays._found`."""
    row = s.row(call)
    found = not rules.honours_keys and (row.state == "in_doubt" or row.unknown or row.sender != m.sender)
    if found and rules.broken != "what has no key is sent again":
        row = row._replace(state="in_doubt", unknown=True)
        s = s.with_row(call, row)
        if m.seen != "executed":
            return s, ("search" if not m.seen else "denied", call, m.ask, 0)
        row = row._replace(state="pending", ask=ask, sender=m.sender, fresh=True)
        return s.with_row(call, row), ("found", call, ask, 0)
    unknown = row.unknown or (row.state == "pending" and row.sender != m.sender)  # `put_in_doubt`
    row = row._replace(state="pending", ask=ask, sender=m.sender, unknown=unknown, fresh=True)  # `regrant`
    return granted(s.with_row(call, row), m), ("allowed", call, ask, row.key)


def granted(s: State, m: Message) -> State:
    """Mark a new grant that was not to be made."""
    s = s.marked("granted after a revoke") if s.revoke else s
    return s.marked("granted to an earlier attempt") if s.process(m.sender).claim < s.claim else s


def take(s: State, amount: int, rules: Rules) -> State | None:
    """`budgets.take_money`."""
    if s.spent + s.reserved + s.overrun + amount > CAP and rules.broken != "no cap is looked at":
        return None
    return s._replace(reserved=s.reserved + amount)


def end(s: State, m: Message, rules: Rules) -> State:
    """`settlement.end`."""
    row = s.row(m.call)
    if not row.state:
        if m.kind != "void":
            return s  # NotFound
        return let_go(s, m).with_row(m.call, Row("denied", m.ask))
    if row.state == "denied":
        return s
    if m.kind == "void" and row.state == "pending" and not is_the_senders(m, row, rules):
        return s
    if m.kind == "void" and m.ask > row.ask:
        s = let_go(s, m)
        if rules.broken != "a void is read ahead of what it has put in doubt":
            row = s.row(m.call)
        row = row._replace(ask=m.ask)
        s = s.with_row(m.call, row)
    if m.kind == "settle":
        return settle(s, m, rules)
    if row.state == "voided" and m.kind == "void" and rules.broken == "a void counts again":
        return closed(s, m.call, row, 0, "sender")
    if m.ask < row.ask or row.state not in OPEN:
        return s
    if m.kind == "doubt":
        if rules.broken == "a time-out voids":
            return closed(s, m.call, row._replace(state="voided"), 0, "sender")
        return s.with_row(m.call, row._replace(state="in_doubt", unknown=True))
    if row.unknown and not m.definite and rules.broken != "a void ends what is in doubt":  # `_void`
        return s.with_row(m.call, row._replace(state="in_doubt"))
    row = row._replace(state="voided", tries=row.tries + m.definite)
    return closed(s, m.call, row, 0, "vendor" if m.definite else "sender")


def let_go(s: State, m: Message) -> State:
    """`settlement._let_go`: what this sender was let send again, and has not heard so."""
    for call in "AB":
        row = s.row(call)
        if row.state == "pending" and row.sender == m.sender:
            s = s.with_row(call, row._replace(state="in_doubt", unknown=True))
    return s


def settle(s: State, m: Message, rules: Rules) -> State:
    """`settlement._settle`."""
    row = s.row(m.call)
    settled = row._replace(state="settled")
    if row.state in OPEN:
        return closed(s, m.call, settled, 1, "vendor")
    if row.state == "voided" and rules.broken != "a late settle is dropped":
        return s._replace(overrun=s.overrun + 1).with_row(m.call, settled)
    if row.state == "settled" and rules.broken == "a settle counts again":
        return s._replace(spent=s.spent + 1)
    return s if row.state == "settled" else s.marked("a reply was dropped")


def closed(s: State, call: str, row: Row, spent: int, word: str) -> State:
    """`budgets.move_money`: from reserved to spent, or back to what is free, by somebody's word."""
    if s.row(call).unknown and row.state == "voided" and word == "sender":
        s = s.marked("voided by nobody's word")
    return s._replace(reserved=s.reserved - 1, spent=s.spent + spent).with_row(call, row)
