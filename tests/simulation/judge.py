"""Whether a history has kept what is promised: at every commit, send and movement, and at its end.

Money is judged by the vendors' books.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

from luigi_spendguard.errors import BudgetExceeded, KeyRevoked
from luigi_spendguard.ledger import overview, queries, snapshot, totals
from luigi_spendguard.ledger.database import Row
from luigi_spendguard.money import Micros, parse_usd, plain_usd
from luigi_spendguard.protocol import EndRequest, ReserveReply, ReserveRequest
from scheduler_patch.dispatch import feed
from scheduler_patch.dispatch.state import DispatchState
from tests.simulation.vendors import Movement
from tests.simulation.world import Broken
from tests.support.books import audit

_OF_CALL = (
    "SELECT call.*, claim.run_id AS claim_run FROM call JOIN claim ON claim.id = call.claim_id"
    " WHERE call.id = ?"
)
#: Faults by which what is said of a call may come when another process goes on with it.
_DELAYING = (
    "hold up",
    "delay",
    "double",
    "power",
    "clock",
    "kill",
    "disk full",
    "lose request",
    "lose answer",
)


class Judge:
    """Knows what was intended, and what operators were told."""

    def __init__(self, site: Any) -> None:
        self.site = site
        #: When a revoke of a run, or of a key, was answered.
        self.revoked: dict[str, float] = {}
        plan = site.plan
        self.intended = Counter[str]()
        for paying in (*plan["tasks"], *plan["holders"]):
            self.intended.update(payment["whom"] for payment in paying["payments"])
        self._paid = Counter[str]()
        self._voided: dict[str, int] = {}
        self._lates = any(fault["fault"] in _DELAYING for fault in plan["faults"])
        self._steps = any(fault["fault"] == "clock" for fault in plan["faults"])
        #: What vendors have moved for a run, as far as it was quoted.
        self._moved = Counter[str]()

    def _check(self, holds: bool, promise: str, why: str) -> None:
        if not holds:
            raise Broken(f"{promise}: {why}")

    # While it lasts.

    def after_commit(self) -> None:
        over = self.site.tx().one("SELECT * FROM budget WHERE spent_micros + reserved_micros > cap_micros")
        self._check(over is None, "P1", f"a budget is over its cap: {over}")

    def answered(self, ask: ReserveRequest, answer: ReserveReply) -> None:
        """Whatever is denied is on record, and what was voided is granted no more."""
        if answer.verdict == "denied":
            known = self.site.look("SELECT 1 FROM call WHERE id = ?", ask.call_id)
            self._check(known is not None, "P8", f"call {ask.call_id} is denied, and in no row")
        if answer.verdict == "allowed" and answer.call_id == ask.call_id:
            late = answer.ask <= self._voided.get(ask.call_id, 0)
            self._check(
                not late, "P3", f"call {ask.call_id} is granted, ask {answer.ask}, after its own void"
            )

    def ended(self, end: EndRequest) -> None:
        """What was moved and said is settled, whatever became of its run."""
        if end.kind == "void":
            self._voided[end.call_id] = max(end.ask, self._voided.get(end.call_id, 0))
        if end.kind == "settle" and end.is_made:
            state = self.site.look("SELECT state FROM call WHERE id = ?", end.call_id)
            self._check(state == "settled", "P3", f"call {end.call_id} was settled, and is {state}")

    def first_byte(self, call_id: str, whom: str) -> None:
        row = self.site.tx().one(_OF_CALL, call_id)
        self._check(row is not None, "P2", f"call {call_id} is sent, and is not in the ledger")
        assert row is not None
        # What comes late of an earlier send may have settled it; it counts then, and is sent once more.
        counts = row["state"] in ("pending", "in_doubt") or (self._lates and row["state"] == "settled")
        held = counts and row["reserved_micros"] > 0
        self._check(
            held or whom in self.site.misjudged, "P2", f"call {call_id} is sent without a reservation: {row}"
        )
        for name in (row["run_id"], row["claim_run"], row["claim_id"]):
            self._check(name not in self.revoked, "P5", f"call {call_id} is sent after {name} was revoked")
        until = self.site.look("SELECT expires_at FROM key_terms WHERE id = ?", row["claim_id"])
        late = until is not None and self.site.world.wall_ms() > until + 2000
        self._check(self._steps or not late, "P5", f"call {call_id} is sent under a key that had expired")

    def moved(self, made: Movement) -> None:
        self._paid[made.whom] += 1
        wrongly = made.whom in self.site.misjudged
        self._check(
            wrongly or self._paid[made.whom] <= self.intended[made.whom],
            "P4",
            f"{made.whom} was to pay {self.intended[made.whom]} times, and has paid {self._paid[made.whom]}",
        )
        row = self.site.tx().one(_OF_CALL, made.call_id)
        self._check(row is not None, "P2", f"{made} is in no row of the ledger")
        assert row is not None
        self._moved[row["run_id"]] += min(made.micros, row["asked_micros"])
        cap = self.site.look(
            "SELECT cap_micros FROM budget WHERE scope = 'run' AND subject = ?", row["run_id"]
        )
        self._check(
            bool(self.site.misjudged) or self._moved[row["run_id"]] <= cap,
            "P1",
            f"run {row['run_id']} has moved {self._moved[row['run_id']]} of {cap}",
        )

    # At the end.

    def at_the_end(self) -> None:
        calls = self.site.tx().all("SELECT rowid AS seq, * FROM call ORDER BY rowid")
        waiting = [row["id"] for row in calls if row["state"] == "pending"]
        self._check(not waiting, "P3", f"these are pending for ever: {waiting}")
        self._journal(calls)
        self._vendors_books(calls)
        self._reads(calls)
        self._gates()
        self._tasks()
        self._secrets()

    def _tasks(self) -> None:
        """What could be done is done, with all faults behind: but for money, and for what is in doubt."""
        steps = self._steps or self.site.misjudged
        for task in self.site.plan["tasks"] if self.site.plan["workers"] else ():
            if task["id"] in self.site.outputs:
                continue
            why = self.site.why.get(task["id"])
            texts = any(payment["vendor"] == "twilio" for payment in task["payments"])
            explained = why is None or isinstance(why, (BudgetExceeded, KeyRevoked)) or steps or texts
            self._check(explained, "P7", f"{task['id']} does not end, though nothing is in its way: {why!r}")
            if why is None:
                self._is_blocked(task["id"])

    def _is_blocked(self, task_id: str) -> None:
        """A task that nobody has tried is one that the gate holds, and rightly."""
        luigid = self.site.luigids[self.site.plan["workers"][0]["luigid"]]  # Where it was submitted at last.
        task = luigid.tasks.get(task_id)
        if task is not None and task.state == "pending":
            verdict = luigid.gate.verdict(task_id)
            self._check(verdict.is_blocked, "P7", f"{task_id} was not tried, and its verdict is {verdict!r}")

    def _journal(self, calls: list[Row]) -> None:
        """Each call, and each budget, is what the journal says."""
        wrong = audit(self.site.tx())
        self._check(not wrong, "P3", f"the journal says otherwise: {wrong}")
        of_call: defaultdict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
        for entry in self.site.tx().all("SELECT * FROM journal WHERE call_id IS NOT NULL"):
            for place, name in enumerate(("spent", "reserved", "overrun")):
                of_call[entry["call_id"]][place] += entry[f"{name}_micros"]
        for row in calls:
            spent = row["settled_micros"] + row["corrected_micros"]
            reserved = row["reserved_micros"] if row["state"] in ("pending", "in_doubt") else 0
            has = [spent, reserved, row["overrun_micros"]]
            self._check(
                has == of_call[row["id"]], "P3", f"call {row['id']}: {has}, journal {of_call[row['id']]}"
            )

    def _vendors_books(self, calls: list[Row]) -> None:
        """What vendors have moved for somebody is settled to the cent, or in doubt."""
        moved, settled, doubts = Counter[str](), Counter[str](), Counter[str]()
        for made in self.site.vendors.moved:
            moved[made.whom] += made.micros
        for whom in self.intended:  # What a declined call has left open counts until it is cancelled.
            moved[whom] += self.site.vendors.stripe.open_micros(whom)
        for row in calls:
            if row["asked_micros"] and row["verdict"] == "allowed":
                whom = row["target"]
                settled[whom] += row["settled_micros"] + row["corrected_micros"] + row["overrun_micros"]
                doubts[whom] += row["reserved_micros"] if row["state"] == "in_doubt" else 0
        for whom in {*moved, *settled} - self.site.misjudged:
            spent, real = settled[whom], moved[whom]
            self._check(
                spent == real or spent < real <= spent + doubts[whom] * (3 if whom.startswith("+") else 1),
                "P3",
                f"{whom} has moved {real}; {spent} are spent, {doubts[whom]} in doubt",
            )
        known = {row["object_id"]: row for row in calls if row["object_id"] and row["verdict"] == "allowed"}
        for made in self.site.vendors.moved:
            row = known.get(made.object_id)
            if row is not None and made.whom not in self.site.misjudged:
                cost = row["settled_micros"] + row["corrected_micros"] + row["overrun_micros"]
                in_doubt = row["state"] == "in_doubt"
                self._check(
                    cost == made.micros or in_doubt, "P3", f"{made}, and call {row['id']} has cost {cost}"
                )

    def _reads(self, calls: list[Row]) -> None:
        """What people read is what the books say."""
        tx = self.site.tx()
        shown = {one["id"]: one for one in queries.calls(tx)}
        self._check(
            set(shown) == {row["id"] for row in calls}, "reads", "`calls` shows others than there are"
        )
        for row in calls:
            one = shown[row["id"]]
            spent = plain_usd(Micros(row["settled_micros"] + row["corrected_micros"]))
            self._check(one["spent_usd"] == spent, "reads", f"`calls` shows {one}, the ledger has {row}")
        runs, total = overview.runs(tx, overview.Page())
        self._check(total == len(runs), "reads", f"{total} runs are counted, and {len(runs)} shown")
        of_all = totals.totals(tx, None, None)
        for name in ("spent", "overrun"):
            sums = sum(parse_usd(run[f"{name}_usd"]) for run in runs)
            self._check(
                parse_usd(of_all[f"{name}_usd"]) == sums, "reads", f"totals of {name}: {of_all}, runs {sums}"
            )
        for run in runs:
            self._run_read(run, [row for row in calls if row["run_id"] == run["run_id"]])

    def _run_read(self, run: dict[str, Any], calls: list[Row]) -> None:
        tx, run_id = self.site.tx(), run["run_id"]
        sums = {
            "spent": sum(row["settled_micros"] + row["corrected_micros"] for row in calls),
            "reserved": sum(
                row["reserved_micros"] for row in calls if row["state"] in ("pending", "in_doubt")
            ),
            "overrun": sum(row["overrun_micros"] for row in calls),
            "in_doubt": sum(row["reserved_micros"] for row in calls if row["state"] == "in_doubt"),
        }
        one = queries.run(tx, run_id)
        for name, micros in sums.items():
            said = [shown[f"{name}_usd"] for shown in (run, one)]
            self._check(
                said == [plain_usd(Micros(micros))] * 2, "reads", f"run {run_id}, {name}: {said}, {micros}"
            )
        denied = sum(row["verdict"] == "denied" for row in calls)
        self._check(
            run["denied_calls"] == one["denied_calls"] == denied, "reads", f"run {run_id}: {denied} denied"
        )
        plotted = overview.spending(tx, run_id, "vendor")
        last = sum(parse_usd(series["until"][-1]) for series in plotted["spent_usd"])
        self._check(last == sums["spent"] + sums["overrun"], "reads", f"run {run_id} is plotted up to {last}")
        frozen = run["state"] != "active" or any(act["act"] == "top_up" for act in self.site.plan["acts"])
        self._check(not sums["overrun"] or frozen, "P1", f"run {run_id} has overrun, and goes on: {run}")
        left = parse_usd(run["cap_usd"]) - sum(sums[name] for name in ("spent", "reserved", "overrun"))
        self._check(
            parse_usd(run["remaining_usd"]) == max(0, left), "reads", f"run {run_id}: {run}, left {left}"
        )

    def _gates(self) -> None:
        """What gates have counted is what one that begins now is told (P10)."""
        start = snapshot.start(self.site.tx(), self.site.settings.caps)
        anew = DispatchState()
        anew.rules = self.site.luigids[0].service.state.rules
        feed.begin(anew, start)
        for luigid in self.site.luigids:
            if not luigid.process.alive:
                continue
            state = luigid.service.state
            feed.feed_changes(state, snapshot.changes(self.site.tx(), luigid.service.seen))
            for run_id, run in anew.runs.items():
                here = state.runs.get(run_id)
                self._check(here is not None, "P10", f"{luigid.name} does not know run {run_id}")
                assert here is not None
                for key, budget in run.budgets.items():
                    mine = here.budgets.get(key)
                    same = mine is not None and (mine.cap, mine.remaining) == (budget.cap, budget.remaining)
                    self._check(same, "P10", f"{luigid.name} counts {mine} of {run_id}, and not {budget}")
                left = parse_usd(overview.named(self.site.tx(), [run_id])[0]["remaining_usd"])
                own = here.own_budget.remaining
                self._check(
                    own == left, "P10", f"{luigid.name} counts {own} of {run_id}, where {left} are left"
                )
                self._check(
                    here.state == run.state, "P10", f"{luigid.name}: {run_id} is {here.state}, {run.state}"
                )

    def _secrets(self) -> None:
        """No secret and no vault key stands in the ledger."""
        for table, columns in _TEXTS.items():
            for column in columns:
                shows = f"instr({column}, ?) OR instr({column}, 'vault_key_')"
                found = self.site.look(
                    f"SELECT {column} FROM {table} WHERE {shows} LIMIT 1", self.site.secret
                )
                self._check(found is None, "P6", f"{table}.{column} shows a secret")


#: Where texts stand that somebody has sent.
_TEXTS = {
    "call": ("message", "path", "wire_key", "target", "fingerprint"),
    "claim": ("key_hash", "params"),
    "journal": ("note",),
    "exchange": ("request_body", "request_headers", "answer_headers", "answer_body"),
}
