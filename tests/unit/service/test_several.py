"""Several luigids on one ledger: one that has followed the others says the same as one that begins now."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from luigi_spendguard.money import Micros
from luigi_spendguard.protocol import EndRequest
from luigi_spendguard.protocol.operators import TopUpRequest
from scheduler_patch.dispatch import Verdict
from scheduler_patch.dispatch.model import Forecast
from scheduler_patch.dispatch.reasons import Reasons
from scheduler_patch.scheduler import runs
from scheduler_patch.service import operators
from tests.support.luigids import USD, Attempt, Luigid


class Site:
    """Luigids on one ledger, and what they say of run `r`."""

    def __init__(self, folder: Path, cap: int = 40, forecast: str = "hold") -> None:
        self.folder, self.cap, self.forecast = folder, cap, forecast
        self.luigids: list[Luigid] = []
        self.first, self.second = self.start(), self.start()
        self.first.run()
        self.refresh()

    def start(self) -> Luigid:
        made = Luigid(self.folder, forecast=self.forecast, default=Micros(self.cap * USD))
        self.luigids.append(made)
        return made

    def refresh(self) -> None:
        for luigid in self.luigids:
            luigid.do(luigid.service.refresh())

    def end(self) -> None:
        for luigid in self.luigids:
            luigid.end()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.end()


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Site]]:
    """Make them with another cap, or where no forecast is held."""
    made: list[Site] = []

    def make_one(cap: int = 40, forecast: str = "hold") -> Site:
        made.append(Site(tmp_path, cap, forecast))
        return made[-1]

    yield make_one
    for each in made:
        each.end()


def submit(luigid: Luigid, costs: Mapping[str, str | None], worker: str = "w", run_id: str = "r") -> None:
    """Submit the root with those tasks, all of them."""
    for task_id, cost in costs.items():
        luigid.add(task_id, run_id, worker, cost)
    luigid.scheduler.add_worker(worker, [("first_task", next(iter(costs), ""))])


def said(luigid: Luigid, tasks: Any, worker: str = "w") -> dict[str, Any]:
    """Return what a luigid says of run `r` and its tasks."""
    run, state = luigid.gate.state.run("r"), luigid.gate.state
    assert run is not None
    verdicts = luigid.gate.verdicts(tasks, worker)
    reasons = Reasons(luigid.gate, worker)
    for task_id, verdict in verdicts.items():
        reasons.add(task_id, verdict)
    own = run.own_budget
    return {
        "forecast": str(Forecast.of(run, (state.tasks[each] for each in run.tasks), state.averages)),
        "budget": (own.cap, own.spent, own.reserved, own.remaining, own.counted, own.running),
        "verdicts": {each: verdict.value for each, verdict in verdicts.items()},
        "needs": vars(reasons.short(run, ("run", ""))),
    }


def forecast(luigid: Luigid) -> str:
    run = luigid.gate.state.run("r")
    assert run is not None
    return str(run.forecast)


def reserved(luigid: Luigid, task_id: str, usd: int = 1, *, ask: int = 1) -> Any:
    """Have a task claimed that was dispatched and may spend so much, and its call under way."""
    attempt = luigid.claim(task_id, cost=usd)
    return attempt, luigid.reserve(attempt, ask, f"cus_{task_id}")


@pytest.mark.parametrize("how", ["under way", "in doubt", "paid, then failed", "paid, then killed"])
def test_calls_under_way_at_another_luigid_are_counted_once(site: Site, how: str) -> None:
    """A luigid is killed, and its root is submitted at the one that has heard of all its calls."""
    costs: dict[str, str | None] = {f"T{number:02}": "1" for number in range(38)}
    submit(site.first, costs)
    for _ in range(6):
        attempt, answer = reserved(site.first, str(site.first.work()))
        site.second.do(site.second.service.refresh())
        if how == "in doubt":
            site.first.finish(attempt, "died")
        elif how.startswith("paid"):
            site.first.settle(attempt, answer)
            if how.endswith("failed"):
                site.first.fail(attempt)
    site.second.do(site.second.service.refresh())
    submit(site.second, costs)
    assert forecast(site.second) == "$38.00"
    assert site.second.gate.verdict("T37", "w") is Verdict.READY
    fresh = site.start()
    submit(fresh, costs)
    assert said(site.second, costs) == said(fresh, costs)


def test_what_has_completed_at_another_luigid_needs_nothing_more_in_its_run(site: Site) -> None:
    for luigid in site.luigids:
        luigid.gate.state.rules.forecast = "warn"
    costs: dict[str, str | None] = {f"T{number:02}": "2" for number in range(30)}
    submit(site.first, costs)
    submit(site.second, costs, "w2")
    for _ in range(14):
        pay(site.first)
    site.refresh()
    assert said(site.second, costs, "w2")["needs"]["missing"] == 20 * USD
    for _ in range(14):  # They are done here, too: what the vendor has answered is answered again.
        assert repeat(site.second, "w2") == "replayed"
    for _ in range(6):
        pay(site.second, "w2")
    site.refresh()
    for luigid, worker in ((site.first, "w"), (site.second, "w2")):
        found = said(luigid, costs, worker)
        assert found["needs"]["missing"] == 20 * USD
        assert list(found["verdicts"].values()).count("cap") == 10


def test_in_another_run_it_pays_like_any_other(site: Site) -> None:
    submit(site.second, {"T": "2"}, "w2")
    submit(site.first, {"T": "2"})
    pay(site.first)
    site.second.run("other")
    site.second.add("T", "other", "w2", "2")
    site.refresh()
    assert site.second.gate.verdict("T", "w2") is Verdict.WAIT, (
        "what is repeated in its run pays for no other"
    )
    site.second.scheduler.add_worker("w2", [("first_task", "T")])
    attempt = site.second.claim(str(site.second.work("w2")), "w2", cost=2)
    assert (attempt.run_id, site.second.call(attempt, 2, "cus_T").verdict) == ("other", "allowed")


class TestWhoPays:
    """What another luigid has done frees or repeats a task within its run, and decides of no other's."""

    @pytest.mark.parametrize("heard", [False, True], ids=["unheard", "heard"])
    @pytest.mark.parametrize("begun", [False, True], ids=["followed", "begun"])
    def test_an_attempt_that_failed_elsewhere_leaves_it_to_who_needs_it(
        self, site: Site, heard: bool, begun: bool
    ) -> None:
        site.second.run("r2")
        submit(site.second, {"T": "2"}, "w2", "r2")
        submit(site.first, {"T": "2"})
        site.first.fail(site.first.claim(str(site.first.work()), cost=2))
        if heard:
            site.refresh()
        if begun:
            site.second.restart(pickle=False)
            submit(site.second, {"T": "2"}, "w2", "r2")
        attempt = site.second.claim(str(site.second.work("w2")), "w2", cost=2)
        assert site.second.call(attempt, 2).verdict == "allowed"
        assert [site.second.shown(each)["spent_usd"] for each in ("r", "r2")] == ["0.00", "2.00"]

    @pytest.mark.parametrize("worker", ["here", "gone", "asks first"])
    def test_a_later_run_pays_for_what_has_completed_elsewhere(
        self, make: Callable[..., Site], worker: str
    ) -> None:
        site = make(forecast="warn")
        submit(site.second, {"T": "9"}, "w1")
        submit(site.first, {"T": "9"})
        pay(site.first)
        site.refresh()
        if worker == "gone":
            site.second.scheduler._state.inactivate_workers(["w1"])
        site.second.run("r2")
        submit(site.second, {"T": "9"}, "w2", "r2")
        asks = "w1" if worker == "asks first" else "w2"
        attempt = site.second.claim(str(site.second.work(asks)), asks, cost=9)
        assert [site.second.call(attempt, 2, each).verdict for each in ("cus_T", "new")] == ["allowed"] * 2
        assert [site.second.shown(each)["spent_usd"] for each in ("r", "r2")] == ["2.00", "4.00"]

    def test_what_has_paid_elsewhere_is_repeated_by_a_run_that_is_full(
        self, make: Callable[..., Site]
    ) -> None:
        site = make(forecast="warn")
        site.second.run("r2")
        submit(site.second, {"U": "40"}, "w2", "r2")
        site.second.call(site.second.claim(str(site.second.work("w2")), "w2", cost=40), 40, "cus_U")
        submit(site.second, {"T": "40"}, "w2", "r2")
        submit(site.first, {"T": "40"})
        attempt = site.first.claim(str(site.first.work()), cost=40)
        site.first.call(attempt, 40, "cus_T")
        assert site.second.gate.verdict("T", "w2") is Verdict.CAP
        site.refresh()
        again = site.second.claim(str(site.second.work("w2")), "w2", cost=40)
        assert (again.run_id, site.second.call(again, 40, "cus_T").verdict) == ("r2", "replayed")


@pytest.mark.parametrize("cost", ["2", None])
@pytest.mark.parametrize("how", ["was pending", "was running", "begins"])
def test_what_has_completed_elsewhere_is_repeated_at_the_cap(
    make: Callable[..., Site], cost: str | None, how: str
) -> None:
    site, usd = make(2), None if cost is None else int(cost)
    submit(site.second, {"T": cost}, "w2")
    submit(site.first, {"T": cost})
    if how == "was running":
        begun = site.second.claim(str(site.second.work("w2")), "w2", cost=usd)
    attempt = site.first.claim(str(site.first.work()), cost=usd)
    site.first.call(attempt, 2, "cus_T")
    site.first.finish(attempt, "completed")
    site.refresh()
    if how == "was running":
        assert site.second.call(begun, 2, "cus_T").verdict == "denied", "a later attempt has the task"
        site.second.fail(begun, "w2")
        site.second.scheduler.prune()
    if how == "begins":
        site.second.restart(pickle=False)
        submit(site.second, {"T": cost}, "w2")
        assert forecast(site.second) == "$2.00"
    again = site.second.claim(str(site.second.work("w2")), "w2", cost=usd)
    assert (again.run_id, site.second.call(again, 2, "cus_T").verdict) == ("r", "replayed")


def test_a_task_that_luigi_knows_is_followed_though_its_workers_are_gone(make: Callable[..., Site]) -> None:
    site = make(3, "warn")
    submit(site.second, {"T": "2"}, "w2")
    site.second.scheduler._state.inactivate_workers(["w2"])
    submit(site.first, {"T": "2", "U": "2"})
    attempt, answer = reserved(site.first, str(site.first.work()), 2)
    site.refresh()
    site.first.fail(attempt)
    site.first.do(
        site.first.service.end(attempt.key, EndRequest("void", answer.call_id, answer.ask, status=402))
    )
    site.first.scheduler._state.inactivate_tasks(["T"])
    pay(site.first)
    site.refresh()
    # What it has asked for may have been paid: an assistant looks, once.
    again = site.second.claim(str(site.second.work("w3", assistant=True)), "w3", cost=2)
    assert (again.run_id, site.second.call(again, 2, "cus_T").reason) == ("r", "cap")
    site.second.finish(again, "blocked")
    site.second.scheduler.add_task(task_id="T", worker="w3", spendguard_blocked={"reason": "cap"})
    assert site.second.work("w3", assistant=True) is None
    assert site.second.gate.verdict("T") is Verdict.CAP


@pytest.mark.parametrize("begun", [False, True], ids=["followed", "begun"])
def test_a_batch_that_has_paid_elsewhere_comes_back_with_its_members(site: Site, begun: bool) -> None:
    def submit_all(luigid: Luigid, worker: str, *tasks: str) -> None:
        luigid.scheduler.add_task_batcher(worker, "V", ["n"], 10)
        for task_id in tasks:
            luigid.add(task_id, "r", worker, "1", batchable=True, params={"n": task_id})
        luigid.scheduler.add_worker(worker, [("first_task", tasks[0])])

    def attempt(luigid: Luigid, worker: str) -> Attempt:
        reply = luigid.scheduler.get_work(worker=worker, host="h")
        more = {"batch_id": reply["batch_id"], "family": "V", "params": {}}
        together = "-".join(reply["batch_task_ids"])
        luigid.scheduler.add_task(task_id=together, worker=worker, status="RUNNING", **more)
        return luigid.claim(together, worker, cost=3)

    members = ("a", "b", "c")
    submit_all(site.second, "w2", "new", *members)
    submit_all(site.first, "w", *members)
    paying = attempt(site.first, "w")
    assert site.first.call(paying, 3, "").verdict == "allowed"
    site.first.finish(paying, "died")
    site.refresh()
    if begun:
        site.second.restart(pickle=True)
        submit_all(site.second, "w2", "new", *members)
    assert site.second.work("w2") == "new"
    again = attempt(site.second, "w2")
    assert (again.task_id, site.second.call(again, 3, "").verdict) == ("a-b-c", "replayed")


@pytest.mark.parametrize("how", ["known", "forgotten", "begun"])
def test_a_cost_that_has_been_raised_is_forecast_and_needed(make: Callable[..., Site], how: str) -> None:
    site = make(4)
    submit(site.first, {"T": "2"})
    attempt = site.first.claim(str(site.first.work()), cost=2)
    site.first.call(attempt, 2)
    site.first.fail(attempt)
    if how == "begun":
        site.first.restart(pickle=False)
    elif how == "forgotten":
        site.first.scheduler._state.inactivate_tasks(["T"])
    submit(site.first, {"T": "5"})
    assert forecast(site.first) == "$5.00"
    assert site.first.gate.verdict("T", "w") is Verdict.FORECAST


def test_what_another_luigid_runs_is_set_aside_until_it_has_ended(site: Site) -> None:
    submit(site.first, {"T": "2"})
    attempt, answer = reserved(site.first, str(site.first.work()), 2, ask=1)
    site.refresh()
    assert site.second.counted() == 1 * USD
    site.first.settle(attempt, answer)
    site.first.fail(attempt)
    site.refresh()
    assert site.second.counted() == 0
    fresh = site.start()
    for luigid in (site.second, fresh):
        submit(luigid, {"U": "1"})
    assert said(site.second, ["U"]) == said(fresh, ["U"])
    assert forecast(fresh) == "$2.00", "nobody has submitted the other one here"


def test_a_luigids_own_attempts_are_not_followed(site: Site) -> None:
    """Luigi knows that the task is done before its worker has said how the attempt has ended."""
    submit(site.first, {"T": "2"})
    reserved(site.first, str(site.first.work()), 2, ask=0)
    site.first.scheduler.add_task(task_id="T", worker="w", status="DONE")
    site.refresh()
    assert (site.first.counted(), list(site.first.gate.state.tasks)) == (0, [])


def test_what_has_paid_and_was_pruned_since_is_counted_once(site: Site) -> None:
    costs: dict[str, str | None] = {"T": "2", "U": "1"}
    submit(site.first, costs)
    attempt, answer = reserved(site.first, str(site.first.work()), 2, ask=2)
    site.first.settle(attempt, answer, 2)
    site.first.fail(attempt)
    site.refresh()
    site.first.scheduler._state.inactivate_tasks(["T"])
    assert "T" not in site.first.gate.state.tasks
    fresh = site.start()
    for luigid in (site.first, fresh):
        submit(luigid, costs)
    assert said(site.first, costs) == said(fresh, costs)
    assert forecast(site.first) == "$3.00"


def pay(luigid: Luigid, worker: str = "w") -> None:
    """Let the next task pay and complete."""
    assert repeat(luigid, worker) == "allowed"


def repeat(luigid: Luigid, worker: str) -> str:
    """Let the next task make its call and complete; return what was decided of the call."""
    task_id = luigid.work(worker)
    assert task_id is not None
    attempt = luigid.claim(task_id, worker, cost=2)
    verdict: str = luigid.call(attempt, 2, f"cus_{task_id}").verdict
    luigid.finish(attempt, "completed")
    luigid.scheduler.add_task(task_id=task_id, worker=worker, status="DONE")
    return verdict


class History:
    """What happens before two luigids that hear of each other, while one more begins at the end."""

    def __init__(self, site: Site, seed: int) -> None:
        self.site, self.random = site, random.Random(seed)
        draw = self.random
        costs = ["1", "2", "3", "5"] if draw.random() < 0.7 else ["1", "2", None]
        self.costs = {f"T{number}": draw.choice(costs) for number in range(draw.randint(3, 14))}
        self.going: dict[tuple[Luigid, str, str], tuple[Any, Any, int]] = {}
        self.asked: dict[str, int] = {}
        self.complete: set[str] = set()
        how = draw.choice(["submitted at both", "in halves", "submitted later"])
        self.both_act = how == "in halves"
        mine = {task_id: cost for task_id, cost in self.costs.items() if int(task_id[1:]) % 2}
        submit(site.first, mine if self.both_act else self.costs)
        if how != "submitted later":
            others = {task_id: cost for task_id, cost in self.costs.items() if task_id not in mine}
            submit(site.second, others if self.both_act else self.costs, "w2")

    def live(self) -> None:
        for _ in range(self.random.randint(1, 25)):
            self.random.choice([self.begin, self.begin, self.end, self.end, self.raise_cap, self.hear])()
        self.hear()

    def hear(self) -> None:
        self.site.refresh()

    def raise_cap(self) -> None:
        if self.random.random() < 0.3:
            self.site.first.do(operators.top_up(self.site.first.service, TopUpRequest("r", "2")))

    def begin(self) -> None:
        draw = self.random
        luigid, worker = self.site.first, "w"
        if self.both_act and draw.random() < 0.5:
            luigid, worker = self.site.second, "w2"
        task_id = luigid.work(worker)
        if task_id is None:
            return
        cost = self.costs[task_id]
        attempt = luigid.claim(task_id, worker, cost=None if cost is None else int(cost))
        usd = self.asked.setdefault(task_id, draw.randint(1, int(cost or 30)))
        answer = luigid.reserve(attempt, usd, f"cus_{task_id}")
        if answer.verdict == "denied":
            luigid.finish(attempt, "blocked")
            luigid.scheduler.add_task(task_id=task_id, worker=worker, spendguard_blocked={"reason": "cap"})
        else:
            self.going[luigid, worker, task_id] = attempt, answer, usd

    def end(self) -> None:
        draw = self.random
        if not self.going:
            return
        luigid, worker, task_id = draw.choice(list(self.going))
        attempt, answer, usd = self.going.pop((luigid, worker, task_id))
        how = draw.choice(["completed", "completed", "failed", "died", "killed"])
        if answer.verdict == "allowed" and how != "died" and (how != "killed" or draw.random() < 0.5):
            luigid.settle(attempt, answer, usd)
        if how == "completed":
            self.complete.add(task_id)
        if how != "killed":
            luigid.finish(attempt, how)
            status = "DONE" if how == "completed" else "FAILED"
            luigid.scheduler.add_task(task_id=task_id, worker=worker, status=status)

    def compare(self) -> None:
        fresh, second = self.site.start(), self.site.second
        left = self.costs  # What is complete is to be repeated, for its output is at the other host.
        for luigid in (fresh, second):
            luigid.run()
            submit(luigid, left, "w2")
        expected, found = said(fresh, left, "w2"), said(second, left, "w2")
        assert found == expected
        # Workers that nobody has heard of for long enough run nothing.
        for luigid in (fresh, second):
            for task in luigid.gate.state.tasks.values():
                task.resumed_at = min(task.resumed_at, 1.0)
            luigid.scheduler.begun = 0.0
            runs.forget_lost_workers(luigid.scheduler)
        assert said(second, left, "w2") == said(fresh, left, "w2")


@pytest.mark.parametrize("part", range(2))
def test_whatever_has_happened_one_that_followed_it_says_what_one_that_begins_says(
    part: int, tmp_path: Path
) -> None:
    for seed in range(6 * part, 6 * part + 6):
        draw = random.Random(seed)
        site = Site(tmp_path / str(seed), draw.choice([8, 15, 40]), draw.choice(["warn", "hold"]))
        try:
            history = History(site, seed)
            history.live()
            history.compare()
        except AssertionError as error:
            raise AssertionError(f"seed {seed}") from error
        finally:
            site.end()
