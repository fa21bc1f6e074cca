"""Reserve: decide about one call and take its money, in one transaction.

`reserve` is idempotent by (call id, ask): the same request again gets the same answer, a higher ask is
the SDK's own retry of the same call.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cache
from itertools import chain

from luigi_spendguard.ledger.batches import tasks_of
from luigi_spendguard.ledger.budgets import (
    JournalEntry,
    KeptBudget,
    beyond_day,
    event,
    fit_ahead,
    journal,
    key_budgets,
    last_entry,
    lend_money,
    run_budget,
    take_money,
)
from luigi_spendguard.ledger.calls import CALL, Decision, ReservationDenied, Scope, record, same_call
from luigi_spendguard.ledger.claims import hold, without_approval
from luigi_spendguard.ledger.database import Row, Tx
from luigi_spendguard.ledger.duplicates import check_duplicate
from luigi_spendguard.ledger.following import find_ahead, keep_budgets
from luigi_spendguard.ledger.identity import (
    FORMULA,
    Identity,
    count_tries,
    find_earlier,
    goes_tagged,
    identify,
    wire_key,
)
from luigi_spendguard.ledger.keys import check_operation, check_terms, ended, must_look_up
from luigi_spendguard.ledger.names import of_run
from luigi_spendguard.ledger.objects import (
    adopt,
    counted_for,
    is_gateways,
    object_of,
    reserve_object,
    uncontested,
    worth_of,
)
from luigi_spendguard.ledger.replays import (
    answer_repeated,
    grant_again,
    is_gone,
    regrant,
    renewed,
    replay,
    resend,
)
from luigi_spendguard.ledger.targets import check_mates, check_overlap, keep_targets
from luigi_spendguard.ledger.turns import take_turn, wait_for_turn
from luigi_spendguard.money import Micros, format_usd, parse_usd, plain_usd
from luigi_spendguard.protocol import DUPLICATE, ReserveReply, ReserveRequest, command
from luigi_spendguard.protocol.commands import rounded, top_up


def reserve(tx: Tx, scope: Scope, ask: ReserveRequest) -> ReserveReply:
    """Decide about `ask`; when it is allowed its money is reserved. Denials are put on record."""
    answer = _decide(tx, scope, ask)
    if ask.look_up and ask.read and answer.verdict == "allowed":
        # What it reads may be changed by what comes later.
        return replace(answer, entry=last_entry(tx))
    return answer


def _decide(tx: Tx, scope: Scope, ask: ReserveRequest) -> ReserveReply:
    now = scope.now
    tx.check(of_run(scope.run["run_id"]))
    row = tx.one(CALL, ask.call_id)
    if row is not None or ask.look_up or ask.searched:
        tx.check_alone("a call is known, or looked up")
    if row is not None and not (scope.owns(row) and bool(row["relayed"]) == scope.relayed):
        return ReserveReply("denied", ask.call_id, reason="scope", message="the call is another sender's")
    try:
        _check_objects(tx, scope, ask)
        if row is not None:
            return _answer_known(tx, scope, ask, row, now)
        return _answer_new(tx, scope, ask, now)
    except ReservationDenied as refused:
        denied = refused.denied
        if row is None and not (ask.look_up and denied.reason == "endpoint"):  # Its call will be.
            held = denied.facts.get("budget") == DUPLICATE  # To whoever asks it is a budget's denial.
            decision = Decision("denied", DUPLICATE if held else denied.reason, denied.message)
            journal(tx, event("deny", record(tx, scope, ask, Identity(), now, decision)))
        if (asked := denied.facts.get("asked_usd")) is not None:
            hold(tx, scope.claim["id"], denied.facts["budget"], denied.facts["part"], parse_usd(asked))
        return ReserveReply(
            "denied", ask.call_id, ask.ask, reason=denied.reason, message=denied.message, facts=denied.facts
        )


def _answer_known(tx: Tx, scope: Scope, ask: ReserveRequest, row: Row, now: int) -> ReserveReply:
    """Answer a request for a call that is known."""
    if row["verdict"] == "denied":
        reason = "cap" if row["reason"] == DUPLICATE else row["reason"]
        return ReserveReply("denied", row["id"], ask.ask, reason=reason, message=row["message"])
    if not same_call(row, ask):
        raise ReservationDenied(
            "scope", f"call {row['id']} was for something else: a call id is for one call"
        )
    if row["verdict"] == "replayed":
        source = tx.one("SELECT * FROM call WHERE id = ?", row["replay_of"])
        if source is None:
            raise ReservationDenied(
                "idempotency_mismatch", f"call {row['replay_of']}, which has answered this one, was pruned"
            )
        tx.run("UPDATE call SET ask = max(ask, ?) WHERE id = ?", ask.ask, row["id"])
        return replay(tx, ask, source)
    is_senders = row["sender"] == ask.sender_id
    if is_senders and ask.ask == row["ask"]:
        if row["state"] != "pending":
            return ReserveReply("stale", row["id"], row["ask"])
        if ask.sender:  # What it has asked under its own id may have come late, and have taken this number.
            if over_now := ended(scope, now):
                raise over_now
            row = renewed(tx, row, now)
        return grant_again(tx, ask, row)
    if row["state"] == "settled":
        return replay(tx, ask, row)
    if is_senders and ask.ask < row["ask"]:  # It comes late.
        return ReserveReply("stale", row["id"], row["ask"])
    if over_now := ended(scope, now):
        raise over_now
    is_taken = row["state"] == "pending" and not is_gone(row, now)
    if not is_senders and (is_taken or ask.ask <= row["ask"]):
        # Another has taken it over. Under a number of that one's each would be granted what the other is.
        return ReserveReply("wait", row["id"], max(ask.ask, row["ask"]), message=row["id"])
    check_terms(tx, scope, ask)
    if ask.unsure:
        tx.run("UPDATE call SET unknown = 1 WHERE id = ?", row["id"])
    if row["state"] == "voided":
        return _answer_voided(tx, scope, ask, row, now)
    return resend(tx, scope, row, ask, ask.ask, now)


def _answer_voided(tx: Tx, scope: Scope, ask: ReserveRequest, row: Row, now: int) -> ReserveReply:
    """Answer the retry of a call that ended with nothing spent: it is looked at as if it were new.

    Meanwhile an equal call of another thread may have taken its place.
    """
    identity = identify(tx, ask, scope.claim)
    if identity.is_late:
        return ReserveReply("stale", row["id"], row["ask"])
    match = None if ask.read else find_earlier(tx, identity, ask, scope.claim)
    if match is not None:
        return answer_repeated(tx, scope, ask, identity, match, row)
    check_overlap(tx, scope.claim, ask, identity)
    if not ask.read:
        check_duplicate(tx, scope, ask, identity)
    if wait := wait_for_turn(tx, scope, ask, row["id"]):
        return wait
    if ask.total_micros is None and not worth_of(tx, ask):
        return ReserveReply("look_up", row["id"], ask.ask)
    take_turn(tx, scope, ask, row["id"])
    used = count_tries(tx, identity)
    key = wire_key(ask, identity, used)
    tagged = goes_tagged(tx, ask, identity, key, row)
    taken = _take_money(tx, scope, ask)
    tx.run(
        "UPDATE call SET wire_key = ?, tagged = ?, ordinal = ?, base = ?, key_id = ?, epoch = ?, formula = ?,"
        " tries = ?, payment = ?, reserved_micros = ?, total_micros = ? WHERE id = ?",
        key,
        int(tagged),
        identity.ordinal,
        identity.base,
        identity.key_id,
        identity.epoch,
        FORMULA,
        used,
        scope.claim["payment"],
        taken.amount,
        taken.needs,
        row["id"],
    )
    if taken.lent:
        tx.run("UPDATE call SET reason = 'cap', message = ? WHERE id = ?", taken.lent, row["id"])
    if ask.read:
        journal(tx, event("resend", row))
    tx.run("DELETE FROM call_budget WHERE call_id = ?", row["id"])
    _keep_taken(tx, row, ask, taken)
    return regrant(tx, scope, row["id"], ask, ask.ask, now)


def _answer_new(tx: Tx, scope: Scope, ask: ReserveRequest, now: int) -> ReserveReply:
    """Decide about a call that is not known yet."""
    if over_now := ended(scope, now):
        raise over_now
    if ask.denied is not None:
        raise ReservationDenied(ask.denied, ask.message)
    check_operation(tx, scope, ask)
    if must_look_up(tx, scope, ask):
        return ReserveReply("look_up", ask.call_id, ask.ask)
    check_terms(tx, scope, ask)
    _look_ahead(tx, scope, ask)
    identity = identify(tx, ask, scope.claim)
    if identity.is_late:
        return ReserveReply("stale", ask.call_id, ask.ask)
    match = None if ask.read else find_earlier(tx, identity, ask, scope.claim)
    if match is not None:
        tx.check_alone("a call repeats another")
        return answer_repeated(tx, scope, ask, identity, match)
    check_overlap(tx, scope.claim, ask, identity)
    if identity.mates and identity.base is not None and ask.total_micros != 0:
        check_mates(tx, scope.claim, identity, ask)
    warning = "" if ask.read else check_duplicate(tx, scope, ask, identity)
    if wait := wait_for_turn(tx, scope, ask, ask.call_id):
        return wait
    if ask.total_micros is None and not worth_of(tx, ask):
        return ReserveReply("look_up", ask.call_id, ask.ask)
    used = 0 if ask.read else count_tries(tx, identity)
    key = wire_key(ask, identity, used)
    tagged = goes_tagged(tx, ask, identity, key)
    taken = _take_money(tx, scope, ask)
    reason, message = ("cap", taken.lent) if taken.lent else (DUPLICATE if warning else "", warning)
    why = Decision(
        "allowed",
        reason,
        message,
        wire_key=key,
        tries=used,
        reserved=taken.amount,
        total=taken.needs,
        tagged=tagged,
    )
    row = record(tx, scope, ask, identity, now, why)
    _keep_taken(tx, row, ask, taken)
    take_turn(tx, scope, ask, row["id"])
    keep_targets(tx, row["id"], ask)
    if not ask.read:
        tx.later(_KEEP_REQUEST, row["id"], ask.body, now, json.dumps(ask.headers))
    return ReserveReply("allowed", row["id"], ask.ask, wire_key=key, tagged=tagged, message=warning)


def _look_ahead(tx: Tx, scope: Scope, ask: ReserveRequest) -> None:
    """Let what is asked before money is taken go with the look for who the call is."""
    if kept := _budgets_for(scope, ask.vendor):
        find_ahead(tx, kept)
    elif ask.object_id is None and not ask.covers and ask.total_micros:
        fit_ahead(tx, [scope.run["budget_id"]], ask.total_micros)


def _check_objects(tx: Tx, scope: Scope, ask: ReserveRequest) -> None:
    """Keep what a gateway knows of an object, and what workers say of it, apart."""
    named = [ask.object_id, *ask.covers]
    if scope.relayed:
        adopt(tx, ask.vendor, ask.account, named)
    elif not ask.read and is_gateways(tx, ask.vendor, ask.account, named):
        objects = " ".join(filter(None, named))
        raise ReservationDenied("scope", f"{objects} was paid through a gateway: go on with it there")


#: Call, its request's body, now, its headers.
_KEEP_REQUEST = (
    "INSERT INTO exchange (call_id, request_body, stored_at, request_headers, answer_headers, answer_body)"
    " VALUES (?,?,?,?,'{}','')"
)


@dataclass(frozen=True)
class _Taken:
    """What a call has reserved.

    Attributes:
        amount: in micro-dollars, beyond what its object counts for already.
        total: what the object counts for in all, with what it covers.
        covered: what of that is counted by what it covers.
        budgets: those that it was taken from.
        lent: why a cap would have denied it that shadow mode lets through; "": none would have.

    """

    amount: Micros
    total: int
    budgets: list[int]
    lent: str = ""
    covered: int = 0

    @property
    def needs(self) -> int:
        """Return what the object itself has to count for."""
        return max(0, self.total - self.covered)


def _budgets_for(scope: Scope, vendor: str) -> list[KeptBudget]:
    """Return the budgets that a reservation is made in beside the run's own: they are today's."""
    caps, run_id, family = scope.caps, scope.run["run_id"], scope.claim["family"]
    budgets = []
    if caps.day is not None:
        budgets.append(KeptBudget("day", "", scope.today, caps.day))
    if family in caps.task_families:
        budgets.append(KeptBudget("family", run_id, family, caps.task_families[family]))
    if vendor in caps.vendors:
        budgets.append(KeptBudget("vendor", run_id, vendor, caps.vendors[vendor]))
    if scope.terms is not None:
        budgets += key_budgets(run_id, scope.terms, scope.today)
    if (task_cap := scope.claim["max_cost_micros"]) is not None:
        budgets.append(KeptBudget("task", run_id, scope.claim["task_id"], task_cap))
    return budgets


def _take_money(tx: Tx, scope: Scope, ask: ReserveRequest) -> _Taken:
    """Take what a call may cost beyond what its object already counts for. Raises ReservationDenied."""
    known = object_of(tx, ask)
    counted = known["counted_micros"] if known else 0
    total = ask.total_micros
    if total is None:
        total = known["worth_micros"] if known else 0
    covered = uncontested(tx, ask.vendor, ask.account, ask.covers, relayed=int(scope.relayed))
    beside = counted_for(tx, ask.vendor, ask.account, covered)
    counted += beside
    amount = Micros(max(0, total - counted))
    lent = _check_frozen(tx, scope, amount)
    budgets = [scope.run["budget_id"], *keep_budgets(tx, _budgets_for(scope, ask.vendor), amount)]
    if not amount:
        return _Taken(amount, total, budgets, covered=beside)
    budgets, full = _take(tx, scope, budgets, amount)
    if full is None:
        return _Taken(amount, total, budgets, lent, beside)
    tx.tells = True  # Other luigids hold back what waits there for the same money.
    denied = _refuse_cap(scope, full, amount)
    if not scope.caps.shadow:
        raise denied
    _check_threshold(tx, scope, amount)
    lend_money(tx, scope.run["run_id"], budgets, amount)
    return _Taken(amount, total, budgets, _let_through(denied), beside)


def _check_frozen(tx: Tx, scope: Scope, amount: Micros) -> str:
    """Refuse to reserve anything in a frozen run; return what is put on record where shadow mode does."""
    if not amount or scope.run["state"] != "frozen":
        return ""
    run_id = scope.run["run_id"]
    frozen = ReservationDenied(
        "cap",
        f"run {run_id} is frozen: the vendor billed more than was reserved. Look at "
        f"{command('calls', '--run', run_id)}, then {_enough(run_id, run_budget(tx, run_id), amount)}",
        run_id=run_id,
    )
    if not scope.caps.shadow:
        raise frozen
    return _let_through(frozen)


def _let_through(denied: ReservationDenied) -> str:
    """Return what is put on record of a denial that shadow mode lets through."""
    return f"let through in shadow mode: {denied}"


def _take(tx: Tx, scope: Scope, budgets: list[int], amount: Micros) -> tuple[list[int], Row | None]:
    """Take money from every budget; where the day's has no room, from what the run may spend beyond its cap.

    Return the budgets that it was taken from and None, or the first that had no room.
    """
    full = take_money(tx, budgets, amount)
    if full is None or full["scope"] != "day" or (beyond := beyond_day(tx, scope.run["run_id"])) is None:
        return budgets, full
    instead = [beyond["id"] if budget == full["id"] else budget for budget in budgets]
    fuller = take_money(tx, instead, amount)
    if fuller is None:
        return instead, None
    return budgets, full if fuller["id"] == beyond["id"] else fuller


@cache
def _linking(count: int) -> str:
    return f"INSERT INTO call_budget (call_id, budget_id) VALUES {','.join(['(?,?)'] * count)}"


def _keep_taken(tx: Tx, row: Row, ask: ReserveRequest, taken: _Taken) -> None:
    """Put on record what a call has reserved, and in which budgets."""
    links = [(row["id"], budget_id) for budget_id in taken.budgets]
    tx.later(_linking(len(links)), *chain.from_iterable(links))
    if taken.amount and ask.object_id is not None:
        reserve_object(tx, row, ask, taken.amount)
    if not ask.read:
        journal(tx, JournalEntry("reserve", run_id=row["run_id"], call_id=row["id"], reserved=taken.amount))


def _counted(budget: Row) -> int:
    """Return what counts against a budget."""
    return int(budget["spent_micros"] + budget["reserved_micros"] + budget["overrun_micros"])


def _enough(run_id: str, budget: Row, amount: Micros) -> str:
    """Return the top-up after which a budget has room for an amount."""
    short = _counted(budget) + amount - budget["cap_micros"]
    return top_up(run_id, rounded(max(1, short)), budget["scope"], budget["part"])


def _check_threshold(tx: Tx, scope: Scope, amount: Micros) -> None:
    """Refuse what takes a task above what it may spend without an approval: that is no cap to be lent."""
    run_id, task_id, single = scope.run["run_id"], scope.claim["task_id"], scope.caps.single
    own = tx.one(
        "SELECT spent_micros + reserved_micros + overrun_micros AS counted FROM budget"
        " WHERE scope = 'task' AND subject = ? AND part = ?",
        run_id,
        task_id,
    )
    if single is None or own is None:
        return
    allowed = without_approval(tx, run_id, tasks_of(scope.claim), single)
    wanted = Micros(own["counted"] + amount)
    if wanted > allowed:
        raise ReservationDenied(
            "cap",
            f"task {task_id} would spend {format_usd(wanted)}, and may spend {format_usd(allowed)} without "
            f"an approval (approve_above_usd): `spendguard approve {run_id} --task {task_id} --cost "
            f"{plain_usd(wanted)}` lets it pass",
            run_id=run_id,
            budget="approval",
            part=task_id,
            asked_usd=plain_usd(wanted),
        )


def _budget_name(scope: Scope, budget: Row, amount: Micros) -> tuple[str, str]:
    """Return what a budget is called, and what raises it so that it has room for an amount."""
    run_id, part = scope.run["run_id"], budget["part"]
    more = _enough(run_id, budget, amount)
    if budget["scope"] == "run":
        why_none = "" if budget["cap_micros"] else scope.run["note"]
        return f"of run {run_id}", why_none or f"{more} raises it"
    if budget["scope"] == "day":
        return (
            f"a day of all runs ({part})",
            f"it is [spendguard] daily_cap_usd; {more} lets this run pass it",
        )
    if budget["scope"] == "family":
        return f"of {part} in run {run_id}", f"it is set in [spendguard_family_caps]; {more} raises it"
    if budget["scope"] in ("key", "key_day"):
        what = "of the vault key" if budget["scope"] == "key" else "a day of the vault key"
        return f"{what} (run {run_id})", f"{more} raises it"
    if budget["scope"] == "vendor":
        return f"at {part} in run {run_id}", f"it is [spendguard_{part}] run_cap_usd; {more} raises it"
    if budget["cap_micros"] - budget["shadow_micros"] == scope.caps.single:
        wanted = Micros(_counted(budget) + amount)
        approve = command("approve", run_id, "--task", part, "--cost", plain_usd(wanted))
        return f"of a single task ({part})", f"{approve} raises it (approve_above_usd)"
    return f"of task {part}", "it is the task's max_cost_usd"


def _refuse_cap(scope: Scope, budget: Row, amount: Micros) -> ReservationDenied:
    run_id = scope.run["run_id"]
    what, advice = _budget_name(scope, budget, amount)
    cap = budget["cap_micros"] - budget["shadow_micros"]
    return ReservationDenied(
        "cap",
        f"the cap of {format_usd(cap)} {what} has no room for {format_usd(amount)}: "
        f"{format_usd(budget['spent_micros'])} spent, "
        f"{format_usd(budget['reserved_micros'])} reserved, "
        f"{format_usd(budget['remaining_micros'])} remaining; {advice}",
        run_id=run_id,
        budget=budget["scope"],
        part=budget["part"],
        cap_usd=plain_usd(cap),
        spent_usd=plain_usd(budget["spent_micros"]),
        reserved_usd=plain_usd(budget["reserved_micros"]),
        remaining_usd=plain_usd(budget["remaining_micros"]),
        asked_usd=plain_usd(amount),
    )
