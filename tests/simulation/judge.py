"""Whether a history has kept what is promised: at every commit, send and movement, and at its end.

Money is judged by the vendors' books.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

from luigi_spendguard.errors import BudgetExceeded, KeyRevoked
from luigi_spendguard.http.relay import ClientCall
from luigi_spendguard.ledger import overview, queries, reports, snapshot, totals
from luigi_spendguard.ledger.audit.rights import wrongs
from luigi_spendguard.ledger.audit.sums import discrepancies
from luigi_spendguard.ledger.database import Row
from luigi_spendguard.ledger.reports.focus import focus
from luigi_spendguard.money import Micros, micros_of, parse_usd, plain_usd
from luigi_spendguard.protocol import EndRequest, ReserveReply, ReserveRequest
from luigi_spendguard.vendors.registry import VENDORS, flows
from scheduler_patch.dispatch import feed
from scheduler_patch.dispatch.state import DispatchState
from tests.simulation.vendors import Movement
from tests.simulation.world import Broken

_OF_CALL = (
    "SELECT call.*, claim.run_id AS claim_run FROM call JOIN claim ON claim.id = call.claim_id"
    " WHERE call.id = ?"
)
#: Faults by which what is said of a call may come when another process goes on with it.
_DELAYING = {"hold up", "delay", "double", "power", "clock", "kill", "disk full"}
_DELAYING |= {"lose request", "lose answer"}
WHOLE = reports.ReportPeriod()
#: Where texts stand that somebody has sent.
_TEXTS = {
    "call": ("message", "path", "wire_key", "target", "fingerprint"),
    "claim": ("key_hash", "params"),
    "journal": ("note",),
    "exchange": ("request_body", "request_headers", "answer_headers", "answer_body"),
}


def check(holds: object, promise: str, why: str) -> None:
    if not holds:
        raise Broken(f"{promise}: {why}")


def settled(row: Row) -> int:
    return int(row["settled_micros"] + row["corrected_micros"])


def held(row: Row, *states: str) -> int:
    """Return what a call has reserved, in these states."""
    return int(row["reserved_micros"]) if row["state"] in states else 0


class Judge:
    """Knows what was intended, and what operators were told."""

    def __init__(self, site: Any) -> None:
        self.site = site
        #: When a revoke of a run, or of a key, was answered.
        self.revoked: dict[str, float] = {}
        paying = (*site.plan["tasks"], *site.plan["holders"])
        self.intended = Counter[str](payment["whom"] for one in paying for payment in one["payments"])
        #: How often each has paid; what vendors have moved for a run, as far as it was quoted.
        self._paid, self._moved = Counter[str](), Counter[str]()
        self._voided: dict[tuple[str, str], int] = {}
        #: Tries of processes, by their numbers, that were declined, as these have heard.
        self.declined: set[tuple[str, int]] = set()
        #: Who was granted which call, under which number.
        self._granted: dict[tuple[str, int], str] = {}
        faults = {fault["fault"] for fault in site.plan["faults"]}
        self._lates, self._steps = bool(faults & _DELAYING), "clock" in faults

    # While it lasts.

    def after_commit(self) -> None:
        over = self.site.tx().one("SELECT * FROM budget WHERE spent_micros + reserved_micros > cap_micros")
        check(over is None, "P1", f"a budget is over its cap: {over}")

    def answered(self, ask: ReserveRequest, answer: ReserveReply) -> None:
        """Whatever is denied is on record; a grant is one sender's, and what was voided is granted never."""
        if answer.verdict == "denied":
            known = self.site.look("SELECT 1 FROM call WHERE id = ?", ask.call_id)
            check(known, "P8", f"call {ask.call_id} is denied, and in no row")
        if answer.verdict == "allowed" and answer.call_id == ask.call_id:
            late = answer.ask <= self._voided.get((ask.call_id, ask.sender_id), 0)
            check(not late, "P3", f"call {ask.call_id} is granted, ask {answer.ask}, after its own void")
        if answer.verdict == "allowed":
            sender = self._granted.setdefault((answer.call_id, answer.ask), ask.sender_id)
            alone = sender == ask.sender_id
            check(alone, "P2", f"call {answer.call_id} is granted to {sender}, and to {ask.sender_id}")

    def ended(self, end: EndRequest) -> None:
        """What was moved and said is settled, whatever became of its run."""
        if end.kind == "void":
            by = (end.call_id, end.sender_id)
            self._voided[by] = max(end.ask, self._voided.get(by, 0))
        if end.kind == "settle" and end.is_made:
            state = self.site.look("SELECT state FROM call WHERE id = ?", end.call_id)
            check(state == "settled", "P3", f"call {end.call_id} was settled, and is {state}")

    def relayed(self, asked: ClientCall) -> None:
        """What its caller knows to be declined is not made when it comes once more."""
        over = (asked.process, asked.number) in self.declined
        check(not over, "P4", f"try {asked.number} of {asked.process} was declined, and is sent")

    def first_byte(self, call_id: str, whom: str) -> None:
        row = self.site.tx().one(_OF_CALL, call_id)
        check(row, "P2", f"call {call_id} is sent, and is not in the ledger")
        # What comes late of an earlier send may have settled it; it counts then, and is sent once more.
        counts = ("pending", "in_doubt", *(("settled",) if self._lates else ()))
        has = held(row, *counts) > 0 or whom in self.site.misjudged
        check(has, "P2", f"call {call_id} is sent without a reservation: {row}")
        for name in (row["run_id"], row["claim_run"], row["claim_id"]):
            check(name not in self.revoked, "P5", f"call {call_id} is sent after {name} was revoked")
        until = self.site.look("SELECT expires_at FROM key_terms WHERE id = ?", row["claim_id"])
        late = until is not None and self.site.world.wall_ms() > until + 2000
        check(self._steps or not late, "P5", f"call {call_id} is sent under a key that had expired")

    def moved(self, made: Movement) -> None:
        self._paid[made.whom] += 1
        times, meant = self._paid[made.whom], self.intended[made.whom]
        right = times <= meant or made.whom in self.site.misjudged
        check(right, "P4", f"{made.whom} was to pay {meant} times, and has paid {times}")
        row = self.site.tx().one(_OF_CALL, made.call_id)
        check(row, "P2", f"{made} is in no row of the ledger")
        run_id = row["run_id"]
        self._moved[run_id] += min(made.micros, row["asked_micros"])
        cap = self.site.look("SELECT cap_micros FROM budget WHERE scope = 'run' AND subject = ?", run_id)
        within = self.site.misjudged or self._moved[run_id] <= cap
        check(within, "P1", f"run {run_id} has moved {self._moved[run_id]} of {cap}")

    # At the end.

    def at_the_end(self) -> None:
        calls = self.site.tx().all("SELECT rowid AS seq, * FROM call ORDER BY rowid")
        waiting = [row["id"] for row in calls if row["state"] == "pending"]
        check(not waiting, "P3", f"these are pending for ever: {waiting}")
        self._journal(calls)
        self._vendors_books(calls)
        self._gates()
        self._tasks()
        if self.site.world.seed % 3 == 0:  # What is written and read is alike in all of them.
            self._reads(calls)
            self._secrets()

    def _tasks(self) -> None:
        """What could be done is done, with all faults behind: but for money, and for what is in doubt."""
        for task in self.site.plan["tasks"] if self.site.plan["workers"] else ():
            if task["id"] in self.site.outputs:
                continue
            why = self.site.why.get(task["id"])
            texts = any(payment["vendor"] == "twilio" for payment in task["payments"])
            explained = why is None or isinstance(why, (BudgetExceeded, KeyRevoked)) or texts
            explained = explained or self._steps or self.site.misjudged
            check(explained, "P7", f"{task['id']} does not end, though nothing is in its way: {why!r}")
            # One that nobody has tried the gate holds, and rightly: of where it was submitted at last.
            luigid = self.site.luigids[self.site.plan["workers"][0]["luigid"]]
            known = luigid.tasks.get(task["id"])
            if why is None and known is not None and known.state == "pending":
                verdict = luigid.gate.verdict(task["id"])
                held = verdict.is_blocked or luigid.last_entry() > luigid.seen  # Freed since then.
                check(held, "P7", f"{task['id']} was not tried, and its verdict is {verdict!r}")

    def _journal(self, calls: list[Row]) -> None:
        """Each call, and each budget, is what the journal says."""
        wrong = discrepancies(self.site.tx())
        check(not wrong, "P3", f"the journal says otherwise: {wrong}")
        in_force = [*wrongs(self.site.tx())]
        check(not in_force, "P8", f"no entry says what is in force: {in_force}")
        sums: defaultdict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
        for entry in self.site.tx().all("SELECT * FROM journal WHERE call_id IS NOT NULL"):
            for place, name in enumerate(("spent", "reserved", "overrun")):
                sums[entry["call_id"]][place] += entry[f"{name}_micros"]
        for row in calls:
            has, says = (
                [settled(row), held(row, "pending", "in_doubt"), row["overrun_micros"]],
                sums[row["id"]],
            )
            check(has == says, "P3", f"call {row['id']}: {has}, journal {says}")

    def _vendors_books(self, calls: list[Row]) -> None:
        """What vendors have moved for somebody is settled to the cent, or in doubt."""
        # What a declined call has left open counts until it is cancelled.
        moved = Counter({whom: self.site.vendors.open_micros(whom) for whom in self.intended})
        spent, doubts = Counter[str](), Counter[str]()
        known = defaultdict[str, list[Row]](list)  # One counts for what answers all calls of its key.
        for row in calls:
            if row["asked_micros"] and row["verdict"] == "allowed":
                spent[row["target"]] += settled(row) + row["overrun_micros"]
                doubts[row["target"]] += held(row, "in_doubt")
            if row["object_id"] and row["verdict"] == "allowed":
                known[row["object_id"]].append(row)
        for made in self.site.vendors.moved:
            moved[made.whom] += made.micros
            rows = known[made.object_id]
            unclear = made.whom in self.site.misjudged or any(row["state"] == "in_doubt" for row in rows)
            if rows and not unclear:
                cost = sum(settled(row) + row["overrun_micros"] for row in rows)
                check(cost == made.micros, "P3", f"{made}, and call {rows[0]['id']} has cost {cost}")
        for whom in {*moved, *spent} - self.site.misjudged:
            said, real = spent[whom], moved[whom]
            most = said + doubts[whom] * (3 if whom.startswith("+") else 1)
            right = said == real or said < real <= most
            check(right, "P3", f"{whom} has moved {real}; {said} are spent, {doubts[whom]} in doubt")

    def _reads(self, calls: list[Row]) -> None:
        """What people read is what the books say."""
        tx = self.site.tx()
        shown = {one["id"]: one for one in queries.calls(tx)}
        check(set(shown) == {row["id"] for row in calls}, "reads", "`calls` shows others than there are")
        for row in calls:
            one = shown[row["id"]]
            right = one["spent_usd"] == plain_usd(Micros(settled(row)))
            check(right, "reads", f"`calls` shows {one}, the ledger has {row}")
        runs, total = overview.runs(tx, overview.Page())
        check(total == len(runs), "reads", f"{total} runs are counted, and {len(runs)} shown")
        of_all = totals.totals(tx, None, None)
        for name in ("spent_usd", "overrun_usd"):
            sums = sum(parse_usd(run[name]) for run in runs)
            check(parse_usd(of_all[name]) == sums, "reads", f"{name}: in all {of_all}, runs {sums}")
        for run in runs:
            self._run_read(run, [row for row in calls if row["run_id"] == run["run_id"]])
        self._reports(calls)

    def _reports(self, calls: list[Row]) -> None:
        """By whatever costs are grouped, and wherever a period is cut, nothing is left out or twice."""
        tx = self.site.tx()
        spent, overrun = sum(map(settled, calls)), sum(row["overrun_micros"] for row in calls)
        ends = tx.one("SELECT min(at) AS first, max(at) AS last FROM journal")
        assert ends is not None
        cut = min(tx.now(), (ends["first"] + ends["last"]) // 2)
        periods = [reports.ReportPeriod(until=cut), reports.ReportPeriod(since=cut)]
        for by in reports.GROUPS:
            parts = [reports.cost(tx, flows(), period, by) for period in periods]
            rows = [row for part in parts for row in part["rows"]]
            for name, real in (("spent_usd", spent), ("overrun_usd", overrun)):
                said = [
                    sum(micros_of(row[name]) for row in some) for some in (rows, [p["total"] for p in parts])
                ]
                check(said == [real] * 2, "reads", f"the report by {by} has {name} {said}, the calls {real}")
        own = Counter[str]()
        for row in calls:
            own[f"{row['vendor']} {row['operation']}"] += settled(row)
        said = {
            row["name"]: micros_of(row["spent_usd"])
            for row in reports.cost(tx, flows(), WHOLE, "operation")["rows"]
        }
        check(said.items() >= (+own).items(), "reads", f"the report by operation has {said}, the calls {own}")
        booked, after = 0, 0
        while after is not None:  # A page of three, so that there are several.
            page = focus(tx, flows(), VENDORS, WHOLE, after, 3)
            booked += sum(micros_of(row["BilledCost"]) for row in page["rows"])
            after = page["next"]
        check(
            booked == spent + overrun, "reads", f"FOCUS has billed {booked}, the calls {spent} and {overrun}"
        )

    def _run_read(self, run: dict[str, Any], calls: list[Row]) -> None:
        tx, run_id = self.site.tx(), run["run_id"]
        sums = {
            "spent": sum(settled(row) for row in calls),
            "reserved": sum(held(row, "pending", "in_doubt") for row in calls),
            "overrun": sum(row["overrun_micros"] for row in calls),
            "in_doubt": sum(held(row, "in_doubt") for row in calls),
        }
        one = queries.run(tx, run_id)
        for name, micros in sums.items():
            said = [shown[f"{name}_usd"] for shown in (run, one)]
            right = said == [plain_usd(Micros(micros))] * 2
            check(right, "reads", f"run {run_id}, {name}: {said}, {micros}")
        denied = sum(row["verdict"] == "denied" for row in calls)
        right = run["denied_calls"] == one["denied_calls"] == denied
        check(right, "reads", f"run {run_id}: {denied} denied")
        plotted = overview.spending(tx, run_id, "vendor")
        last = sum(parse_usd(series["until"][-1]) for series in plotted["spent_usd"])
        check(last == sums["spent"] + sums["overrun"], "reads", f"run {run_id} is plotted up to {last}")
        frozen = run["state"] != "active" or any(act["act"] == "top_up" for act in self.site.plan["acts"])
        check(not sums["overrun"] or frozen, "P1", f"run {run_id} has overrun, and goes on: {run}")
        left = parse_usd(run["cap_usd"]) - sum(sums[name] for name in ("spent", "reserved", "overrun"))
        right = parse_usd(run["remaining_usd"]) == max(0, left)
        check(right, "reads", f"run {run_id}: {run}, left {left}")

    def _gates(self) -> None:
        """What gates have counted is what one that begins now is told (P10)."""
        tx, anew = self.site.tx(), DispatchState()
        anew.rules = self.site.luigids[0].service.state.rules
        feed.begin(anew, snapshot.start(tx, self.site.settings.caps))
        for luigid in (one for one in self.site.luigids if one.process.alive):
            state = luigid.service.state
            feed.feed_changes(state, snapshot.changes(tx, luigid.service.seen))
            for run_id, run in anew.runs.items():
                here = state.runs.get(run_id)
                check(here is not None, "P10", f"{luigid.name} does not know run {run_id}")
                for key, budget in run.budgets.items():
                    mine = here.budgets.get(key)
                    same = mine is not None and (mine.cap, mine.remaining) == (budget.cap, budget.remaining)
                    check(same, "P10", f"{luigid.name} counts {mine} of {run_id}, and not {budget}")
                left = parse_usd(overview.named(tx, [run_id])[0]["remaining_usd"])
                own = here.own_budget.remaining
                check(own == left, "P10", f"{luigid.name} counts {own} of {run_id}, where {left} are left")
                check(here.state == run.state, "P10", f"{luigid.name}: {run_id} {here.state}, {run.state}")

    def _secrets(self) -> None:
        """No secret and no vault key stands in the ledger."""
        for table, columns in _TEXTS.items():
            shows = " OR ".join(f"instr({one}, ?1) OR instr({one}, 'vault_key_')" for one in columns)
            found = self.site.look(f"SELECT 1 FROM {table} WHERE {shows} LIMIT 1", self.site.secret)
            check(found is None, "P6", f"{table} shows a secret")
