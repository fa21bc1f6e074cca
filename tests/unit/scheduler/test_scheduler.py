"""The dispatch gate, and the scheduler that asks it; in-process, without a server."""

from __future__ import annotations

import asyncio
import json
import pickle
import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import luigi.scheduler
import pytest

from luigi_spendguard.config import Settings
from luigi_spendguard.protocol.rpcs import BlockedRequest
from scheduler_patch import local
from scheduler_patch.dispatch import READY, WAIT, Gate, Verdict, endings, holds, workers
from scheduler_patch.dispatch.feed import pay
from scheduler_patch.dispatch.model import Announcement, Hold
from scheduler_patch.scheduler import BudgetScheduler
from scheduler_patch.scheduler.runs import Root, root_named, root_of
from scheduler_patch.scheduler.state import Look
from scheduler_patch.service.blocked import explain_blocked
from tests.support.gates import blocked, day, fed

RUN = {"run_id": "r1"}


@pytest.fixture
def scheduler() -> BudgetScheduler:
    made = BudgetScheduler()
    fed(made.gate, 1000)
    return made


def vendor(scheduler: BudgetScheduler, task_id: str = "v", **more: Any) -> None:
    said = {**RUN, "announcing": True}
    scheduler.add_task(task_id=task_id, worker="w", family="V", spendguard=said, **more)


def work(scheduler: Any, worker: str = "w") -> Any:
    return scheduler.get_work(worker=worker, host="h")["task_id"]


def status(scheduler: Any, task_id: str) -> str:
    return str(scheduler._state.get_task(task_id).status)


def test_a_blocked_vendor_task_stays_pending_while_a_plain_one_is_handed_out(
    scheduler: BudgetScheduler,
) -> None:
    vendor(scheduler, priority=9)
    scheduler.add_task(task_id="plain", worker="w", family="P")
    fed(scheduler.gate, 0)
    assert work(scheduler) == "plain"
    assert work(scheduler) is None
    assert status(scheduler, "v") == "PENDING"
    assert list(blocked(scheduler, "w")) == ["v"]


def test_a_hold_is_freed_exactly_when_what_was_asked_remains(scheduler: BudgetScheduler) -> None:
    vendor(scheduler)
    holds.hold(scheduler.gate.state, "v", "run", 1500)
    fed(scheduler.gate, 1499)
    assert work(scheduler) is None
    fed(scheduler.gate, 1500)
    assert work(scheduler) == "v"


def test_a_task_that_has_paid_is_dispatched_at_the_cap_and_in_a_frozen_run(
    scheduler: BudgetScheduler,
) -> None:
    vendor(scheduler, "paid")
    vendor(scheduler, "new", priority=9)
    pay(scheduler.gate.state, "paid")
    fed(scheduler.gate, 1000, state="frozen")
    assert scheduler.gate.verdict("new") is not READY
    assert scheduler.gate.verdict("paid") is READY
    fed(scheduler.gate, 0)
    assert work(scheduler) == "paid"
    assert work(scheduler) is None


def test_a_running_task_of_a_revoked_run_is_taken_back_when_issued_again(scheduler: BudgetScheduler) -> None:
    vendor(scheduler)
    assert work(scheduler) == "v"
    fed(scheduler.gate, 1000, state="revoked")
    reply = scheduler.get_work(worker="w", host="h", current_tasks=[])
    assert reply["task_id"] is None
    assert "task_family" not in reply
    assert status(scheduler, "v") == "PENDING"
    assert work(scheduler) is None


def test_the_day_budget_blocks_and_its_hold_ends_with_the_day(scheduler: BudgetScheduler) -> None:
    vendor(scheduler)
    day(scheduler.gate, 0)
    assert work(scheduler) is None
    holds.hold(scheduler.gate.state, "v", "day", 500)
    day(scheduler.gate, 499)
    assert work(scheduler) is None
    day(scheduler.gate, 500)
    assert work(scheduler) == "v"


def test_only_the_worker_that_runs_a_task_can_report_it_blocked(scheduler: BudgetScheduler) -> None:
    vendor(scheduler)
    assert work(scheduler) == "v"
    report: dict[str, Any] = {"task_id": "v", "status": "RUNNING", "spendguard_blocked": True}
    scheduler.add_task(worker="other", **report)
    assert status(scheduler, "v") == "RUNNING"
    scheduler.add_task(worker="w", **report)
    assert status(scheduler, "v") == "PENDING"
    assert work(scheduler) is None
    fed(scheduler.gate, 1001)
    assert work(scheduler) == "v"


@pytest.mark.parametrize("reason", ["unknown_key", "expired", "scope", "ledger_unavailable", ""])
def test_what_no_budget_has_denied_is_a_failure(scheduler: BudgetScheduler, reason: str) -> None:
    vendor(scheduler)
    assert work(scheduler) == "v"
    said = {"reason": reason, "message": "a vault key is missing"}
    scheduler.add_task(worker="w", task_id="v", status="PENDING", spendguard_blocked=said)
    assert status(scheduler, "v") == "FAILED"
    assert json.loads(scheduler.fetch_error("v")["error"]) == "a vault key is missing"
    scheduler.forgive_failures(task_id="v")
    assert work(scheduler) == "v"


def test_blocked_tasks_and_what_waits_for_them_leave_the_counts(scheduler: BudgetScheduler) -> None:
    vendor(scheduler)
    scheduler.add_task(task_id="after", worker="w", family="P", deps=["v"])
    assert scheduler.count_pending(worker="w")["n_pending_tasks"] == 2
    assert scheduler.count_pending(worker="w")["n_pending_last_scheduled"] == 2
    fed(scheduler.gate, 0)
    counts = scheduler.count_pending(worker="w")
    assert (counts["n_pending_tasks"], counts["n_pending_last_scheduled"]) == (0, 0)


def test_prune_forgets_the_membership_of_tasks_that_are_gone(scheduler: BudgetScheduler) -> None:
    vendor(scheduler)
    vendor(scheduler, "kept")
    scheduler._state.inactivate_tasks(["v"])
    scheduler.prune()
    assert list(scheduler.gate.state.tasks) == ["kept"]


@pytest.mark.parametrize("seed", range(10))
def test_without_vendor_tasks_both_schedulers_answer_alike(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1_700_000_000.0]
    monkeypatch.setattr("luigi.scheduler.time.time", lambda: now[0])
    draw = random.Random(seed)
    both: list[Any] = [luigi.scheduler.Scheduler(), BudgetScheduler()]
    for _ in range(200):
        now[0] += draw.choice([0, 1, 30])
        what, worker = (
            draw.choice(["add_task", "get_work", "ping", "count_pending", "prune"]),
            draw.choice("ab"),
        )
        call: dict[str, Any] = {} if what == "prune" else {"worker": worker}
        if what == "add_task":
            call |= {"task_id": f"t{draw.randrange(9)}", "family": "F", "priority": draw.randrange(3)}
            call |= {"status": draw.choice(["PENDING", "DONE", "FAILED"]), "deps": [f"t{draw.randrange(9)}"]}
        elif what == "get_work":
            call |= {"host": "h"}
        stock, ours = (getattr(each, what)(**call) for each in both)
        assert stock == ours
    assert both[0].task_list() == both[1].task_list()


@pytest.mark.parametrize(
    ("writer", "reader"),
    [(BudgetScheduler, luigi.scheduler.Scheduler), (luigi.scheduler.Scheduler, BudgetScheduler)],
)
def test_the_state_file_is_read_by_either_scheduler(writer: Any, reader: Any, tmp_path: Path) -> None:
    path = tmp_path / "state.pickle"
    first = BudgetScheduler(state_path=str(path))
    vendor(first)
    first.dump()
    for kind in (writer, reader, BudgetScheduler):
        last = kind(state_path=str(path))
        last.load()
        assert status(last, "v") == "PENDING"
        last.dump()
        assert b"luigi_spendguard" not in path.read_bytes()
        assert b"scheduler_patch" not in path.read_bytes()
    assert last.gate.state.tasks["v"].runs == ["r1"]


class Counted(dict[str, Any]):
    """A dict that counts how often it is looked into."""

    looks = 0

    def get(self, *args: Any) -> Any:
        self.looks += 1
        return super().get(*args)

    def __iter__(self) -> Any:
        raise AssertionError("the gate walks over all tasks")

    items = values = keys = __iter__


@pytest.mark.parametrize("tasks", [10, 10_000])
def test_the_gate_looks_at_one_task_however_many_there_are(tasks: int) -> None:
    gate = Gate()
    fed(gate)
    for number in range(tasks):
        workers.join(gate.state, f"t{number}", "r1", "w", Announcement("V"))
        holds.hold(gate.state, f"t{number}", "run", 2000)
    entries = gate.state.tasks = Counted(gate.state.tasks)
    runs = gate.state.runs = Counted(gate.state.runs)
    runs["r1"].tasks = Counted(runs["r1"].tasks)
    assert gate.verdict("t5") is not READY
    assert (entries.looks, runs.looks, runs["r1"].tasks.looks) == (1, 1, 0)


@pytest.mark.parametrize("fast", [False, True])
def test_without_vendor_tasks_nothing_of_ours_looks_at_a_task(
    scheduler: BudgetScheduler, monkeypatch: pytest.MonkeyPatch, fast: bool
) -> None:
    scheduler.fast_dispatch = fast
    for task_id in ("a", "b"):
        params = {"x": task_id}
        scheduler.add_task(task_id=task_id, family="P", worker="w", params=params, batchable=True)
    scheduler.add_task_batcher(worker="w", task_family="P", batched_args=["x"])
    for kind, name in ((BudgetScheduler, "_scan"), (Look, "admits"), (Look, "choose"), (Gate, "verdict")):
        monkeypatch.setattr(kind, name, None)
    assert scheduler.count_pending("w")["n_pending_tasks"] == 2
    assert scheduler.get_work(worker="w", host="h")["batch_task_ids"] == ["a", "b"]


def test_what_a_worker_says_of_a_denial_holds_where_the_gate_has_not_heard_of_it(
    scheduler: BudgetScheduler,
) -> None:
    vendor(scheduler)
    assert work(scheduler) == "v"
    denial = {"reason": "cap", "budget": "family", "part": "V", "asked_usd": "0.5"}
    scheduler.add_task(task_id="v", worker="w", status="PENDING", spendguard_blocked=denial)
    assert scheduler.gate.state.tasks["v"].hold == Hold("family", "V", 500_000, runs=("r1",))


def test_what_an_unguarded_worker_says_is_shown_without_vault_keys(scheduler: BudgetScheduler) -> None:
    key = "vault_key_" + "k" * 43
    scheduler.add_task(task_id="p", family="P", worker="w")
    work(scheduler)
    scheduler.set_task_status_message("p", f"sent with {key}")
    scheduler.add_task(
        task_id="p",
        worker="w",
        status="FAILED",
        expl=json.dumps(f"Bearer {key}"),
        tracking_url=f"http://x/{key}",
    )
    scheduler.announce_scheduling_failure("p", "P", {}, f"with {key}", [], worker="w")
    shown = json.dumps([scheduler.fetch_error("p"), scheduler.task_list("FAILED", "")])
    assert "[redacted]" in shown
    assert key not in shown


@pytest.mark.parametrize("remaining", [0, 1_000_000])
@pytest.mark.parametrize("fast", [False, True])
def test_a_look_judges_each_pending_task_once(
    scheduler: BudgetScheduler, monkeypatch: pytest.MonkeyPatch, remaining: int, fast: bool
) -> None:
    """With the index one of those that are alike."""
    scheduler.fast_dispatch = fast
    fed(scheduler.gate, remaining)
    for task_id in "abc":
        vendor(scheduler, task_id)
    scheduler.add_task(task_id="plain", family="P", worker="w", deps=["a"])
    judged: Counter[str] = Counter()
    verdict = scheduler.gate.verdict

    def counting(task_id: str, worker: str | None = None) -> Verdict:
        judged[task_id] += 1
        return verdict(task_id, worker)

    monkeypatch.setattr(scheduler.gate, "verdict", counting)
    looks: list[Callable[[], object]] = [
        lambda: scheduler.count_pending(worker="w"),
        lambda: scheduler.verdicts_of("w"),
        lambda: scheduler.get_work(worker="w", host="h"),
    ]
    for look in looks:
        judged.clear()
        look()
        assert set(judged.values()) == {1}, judged
        # One stands for those that are alike; what is handed out is judged itself.
        assert len(judged) <= 2 if fast else judged.keys() == set("abc")


def test_a_blocked_batch_leaves_no_combined_task_behind(scheduler: BudgetScheduler) -> None:
    scheduler.add_task_batcher(worker="w", task_family="V", batched_args=["a"], max_batch_size=2)
    for number in "12":
        vendor(scheduler, number, params={"a": number}, batchable=True)
    reply = scheduler.get_work(worker="w", host="h")
    assert sorted(reply["batch_task_ids"]) == ["1", "2"]
    batch = {"task_id": "vb", "worker": "w", "family": "V", "batch_id": reply["batch_id"]}
    scheduler.add_task(**batch, params={"a": "1,2"}, status="RUNNING", spendguard=RUN)
    assert status(scheduler, "vb") == "RUNNING"
    scheduler.add_task(**batch, status="RUNNING", spendguard_blocked=True)
    assert not scheduler._state.has_task("vb")
    assert [status(scheduler, number) for number in "12"] == ["PENDING", "PENDING"]


def test_the_members_of_a_denied_batch_are_held_as_the_batch_was(scheduler: BudgetScheduler) -> None:
    scheduler.add_task_batcher(worker="w", task_family="V", batched_args=["a"], max_batch_size=2)
    for number in "12":
        vendor(scheduler, number, params={"a": number}, batchable=True)
    reply = scheduler.get_work(worker="w", host="h")
    batch = {"task_id": "vb", "worker": "w", "family": "V", "batch_id": reply["batch_id"]}
    scheduler.add_task(**batch, params={"a": "1,2"}, status="RUNNING", spendguard=RUN)
    holds.hold(scheduler.gate.state, "vb", "run", 1500)
    scheduler.add_task(**batch, status="RUNNING", spendguard_blocked=True)
    assert scheduler.get_work(worker="w", host="h")["task_id"] is None
    assert sorted(blocked(scheduler, "w")) == ["1", "2"]
    assert "vb" not in scheduler.gate.state.tasks
    fed(scheduler.gate, 1500)
    assert sorted(scheduler.get_work(worker="w", host="h")["batch_task_ids"]) == ["1", "2"]


def test_a_revoked_run_dispatches_nothing_whatever_it_paid_or_has_left(scheduler: BudgetScheduler) -> None:
    vendor(scheduler)
    pay(scheduler.gate.state, "v")
    fed(scheduler.gate, 1000, state="revoked")
    assert work(scheduler) is None
    assert list(blocked(scheduler, "w")) == ["v"]


def test_a_completed_task_is_held_by_nothing(scheduler: BudgetScheduler) -> None:
    vendor(scheduler)
    holds.hold(scheduler.gate.state, "v", "run", 1500)
    scheduler.add_task(task_id="v", worker="w", status="DONE")
    assert scheduler.gate.state.tasks == {}


class TestStockWorkers:
    """Workers without the plugin: families of `vendor_tasks`, runs by the roots that need them."""

    @pytest.fixture
    def scheduler(self, scheduler: BudgetScheduler) -> BudgetScheduler:
        scheduler.gate.state.rules.vendor_tasks = ("V", "billing.*")
        fed(scheduler.gate, run_id="root")
        return scheduler

    def submit(
        self, scheduler: BudgetScheduler, worker: str = "w", root: str = "root", **root_params: str
    ) -> None:
        add = {"worker": worker, "status": "PENDING", "runnable": True}
        scheduler.add_task(task_id=root, family="Root", deps=["middle", "v1"], params=root_params, **add)
        scheduler.add_task(task_id="v1", family="V", **add)
        scheduler.add_task(task_id="middle", family="M", deps=["v2"], **add)
        scheduler.add_task(task_id="v2", family="billing.Charge", **add)
        scheduler.add_worker("w", [("first_task", "root")])

    def test_membership_is_that_of_the_root_which_leads_there(self, scheduler: BudgetScheduler) -> None:
        self.submit(scheduler)
        assert {t: e.runs for t, e in scheduler.gate.state.tasks.items()} == {"v1": ["root"], "v2": ["root"]}
        fed(scheduler.gate, 0, run_id="root")
        assert work(scheduler) is None
        assert sorted(blocked(scheduler, "w")) == ["v1", "v2"]
        fed(scheduler.gate, 1, run_id="root")
        assert work(scheduler) == "v1"

    def test_a_run_id_of_the_root_names_the_run(self, scheduler: BudgetScheduler) -> None:
        self.submit(scheduler, run_id="r1")
        assert scheduler.gate.state.tasks["v2"].runs == ["r1"]

    def test_two_roots_of_one_worker_have_their_own_and_share(self, scheduler: BudgetScheduler) -> None:
        add = {"worker": "w", "status": "PENDING", "runnable": True}
        scheduler.add_task(task_id="other", family="Root", deps=["v2", "v3"], **add)
        scheduler.add_task(task_id="v3", family="V", **add)
        self.submit(scheduler)
        runs = {task_id: sorted(entry.runs) for task_id, entry in scheduler.gate.state.tasks.items()}
        assert runs == {"v1": ["root"], "v2": ["other", "root"], "v3": ["other"]}

    def test_yielded_tasks_inherit_the_run(self, scheduler: BudgetScheduler) -> None:
        self.submit(scheduler)
        assert work(scheduler) == "v1"
        scheduler.add_task(task_id="v9", worker="w", family="V", status="PENDING")
        scheduler.add_task(task_id="v1", worker="w", family="V", status="PENDING", new_deps=["v9"])
        assert scheduler.gate.state.tasks["v9"].runs == ["root"]

    def test_what_a_plain_task_yields_belongs_to_its_roots_run(self, scheduler: BudgetScheduler) -> None:
        scheduler.gate.state.rules.forecast = "hold"
        self.submit(scheduler)
        add = {"worker": "w", "status": "PENDING"}
        scheduler.add_task(task_id="v9", family="V", **add)
        scheduler.add_task(task_id="middle", family="M", new_deps=["v9"], **add)
        assert scheduler.gate.state.tasks["v9"].runs == ["root"]
        assert scheduler.gate.verdict("v9") is READY

    def test_hold_waits_until_all_is_scheduled(self, scheduler: BudgetScheduler) -> None:
        scheduler.gate.state.rules.forecast = "hold"
        add = {"worker": "w", "status": "PENDING", "runnable": True}
        scheduler.add_task(task_id="v1", family="V", **add)
        assert work(scheduler) is None
        scheduler.add_task(task_id="root", family="Root", deps=["v1"], **add)
        scheduler.add_worker("w", [("first_task", "root")])
        assert work(scheduler) == "v1"

    def test_plain_families_are_left_alone(self, scheduler: BudgetScheduler) -> None:
        self.submit(scheduler)
        assert set(scheduler.gate.state.tasks) == {"v1", "v2"}


def test_the_lost_reply_of_a_batch_of_a_revoked_run_leaves_no_ghost(scheduler: BudgetScheduler) -> None:
    scheduler.add_task_batcher(worker="w", task_family="V", batched_args=["a"], max_batch_size=2)
    for number in "12":
        vendor(scheduler, number, params={"a": number}, batchable=True)
    reply = scheduler.get_work(worker="w", host="h")
    batch = {"task_id": "vb", "worker": "w", "family": "V", "batch_id": reply["batch_id"]}
    scheduler.add_task(**batch, params={"a": "1,2"}, status="RUNNING")
    fed(scheduler.gate, state="revoked")
    assert scheduler.get_work(worker="w", host="h", current_tasks=[])["task_id"] is None
    assert not scheduler._state.has_task("vb")
    assert [status(scheduler, number) for number in "12"] == ["PENDING", "PENDING"]


def test_what_is_blocked_is_not_pruned_for_a_week(
    scheduler: BudgetScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1_700_000_000.0]
    monkeypatch.setattr("luigi.scheduler.time.time", lambda: now[0])
    vendor(scheduler)
    scheduler.add_task(task_id="after", worker="w", family="P", deps=["v"])
    scheduler.add_task(task_id="plain", worker="w", family="P")
    fed(scheduler.gate, 0)
    for _ in range(30):
        now[0] += 3600
        scheduler.prune()
    assert sorted(scheduler._state._tasks) == ["after", "v"]
    now[0] += 7 * 86_400
    for _ in range(3):
        now[0] += 3600
        scheduler.prune()
    assert scheduler._state._tasks == {}
    assert scheduler.gate.state.tasks == {}


def test_what_waits_for_a_plain_task_that_luigi_has_disabled_is_pruned_as_by_stock_luigi(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [1_700_000_000.0]
    monkeypatch.setattr("luigi.scheduler.time.time", lambda: now[0])
    left = []
    for kind in (luigi.scheduler.Scheduler, BudgetScheduler):
        scheduler: Any = kind(remove_delay=600, worker_disconnect_delay=60, retry_count=1)
        if kind is BudgetScheduler:
            vendor(scheduler)
        for worker in ("w1", "w2"):
            scheduler.add_task(task_id="disabled", worker=worker, family="P")
        scheduler.add_task(task_id="after", worker="w1", family="P", deps=["disabled"])
        scheduler.get_work(worker="w1", host="h")
        scheduler.add_task(task_id="disabled", worker="w1", status="FAILED", expl='""')
        for _ in range(30):
            now[0] += 50
            for worker in ("w2", "w"):
                scheduler.ping(worker=worker)
            scheduler.prune()
        left.append([task_id for task_id in scheduler._state._tasks if task_id != "v"])
    assert left == [["disabled"], ["disabled"]]


def test_a_scheduler_can_be_sent_to_a_child_as_luigis_own() -> None:
    """Luigi puts it on the queue of a running task's messages, and spawned workers are sent it."""
    scheduler = BudgetScheduler()
    scheduler.add_task(worker="w", task_id="t", family="T", spendguard={"run_id": "r"})
    copy = pickle.loads(pickle.dumps(scheduler))
    assert copy._state.gate is copy.gate
    assert copy.gate.state.tasks["t"].runs == ["r"]
    fed(copy.gate, 0, run_id="r")
    assert blocked(copy, "w").keys() == {"t"}


def test_a_local_scheduler_with_vendor_tasks_can_be_sent_too(tmp_path: Path) -> None:
    scheduler = BudgetScheduler()
    local.client(scheduler, Settings(tmp_path / "books.db"))
    assert pickle.loads(pickle.dumps(scheduler)).refresh is None


class TestWhoseTaskItIs:
    """What nobody has said is found in the graph; how a task ended says nothing of it."""

    def submit(self, scheduler: BudgetScheduler, worker: str = "owner", **root: Any) -> None:
        """Let a worker schedule Root -> middle, both plain."""
        add = {"worker": worker, "runnable": True}
        scheduler.add_task(task_id="root", family="Root", deps=["middle"], **add, **root)
        scheduler.add_task(task_id="middle", family="M", **add)
        scheduler.add_worker(worker, [("first_task", "root")])

    def assist(self, scheduler: BudgetScheduler) -> None:
        """Let an assistant with a root and a run of its own run what it finds."""
        scheduler.add_task(task_id="own", family="Other", worker="w")
        scheduler.add_task(
            task_id="v", family="V", worker="w", spendguard=RUN, status="PENDING", deps=["own"]
        )
        reply = scheduler.get_work(worker="w", host="h", assistant=True)
        assert reply["task_id"] in ("own", "middle")
        assert scheduler.get_work(worker="w", host="h", assistant=True)["task_id"] in ("own", "middle")

    def test_what_an_assistants_plain_task_yields_belongs_to_the_root_above(
        self, scheduler: BudgetScheduler
    ) -> None:
        self.submit(scheduler)
        self.assist(scheduler)
        said = {"yielded_by": "middle", "announcing": True}
        scheduler.add_task(task_id="v2", family="V", worker="w", spendguard=said, deps=["v3"])
        scheduler.add_task(task_id="v3", family="V", worker="w", spendguard=said)
        assert scheduler.gate.verdict("v3", "w") == WAIT, "what leads there is not known yet"
        scheduler.add_task(task_id="middle", family="M", worker="w", new_deps=["v2"], assistant=True)
        assert [scheduler.gate.state.tasks[t].runs for t in ("v2", "v3")] == [["root"], ["root"]]

    def test_a_root_may_have_said_how_its_run_is_called(self, scheduler: BudgetScheduler) -> None:
        said = {"name": "monday", "budget_usd": "2.50", "tags": {"team": "billing"}}
        self.submit(scheduler, spendguard_root=said)
        self.assist(scheduler)
        scheduler.add_task(task_id="v2", family="V", worker="w", spendguard={"yielded_by": "middle"})
        scheduler.add_task(task_id="middle", family="M", worker="w", new_deps=["v2"], assistant=True)
        assert scheduler.gate.state.tasks["v2"].runs == ["monday"]
        root = root_named(scheduler, "v2", "monday")
        assert root == Root("monday", False, "Root", "root", "2.50", {"team": "billing"})
        assert root_named(scheduler, "v2", "tuesday") is None

    @pytest.mark.parametrize(
        ("said", "root"),
        [
            ({}, ("root", True, None)),
            ({"run_id": " monday "}, ("monday", False, None)),
            ({"run_id": "mon\nday", "budget_usd": "lots"}, ("root", True, "0")),
            ({"budget_usd": "5"}, ("root", True, "5")),
            ({"tags": "team"}, ("root", True, None)),
        ],
    )
    def test_a_stock_workers_root_has_its_parameters(
        self, scheduler: BudgetScheduler, said: dict[str, str], root: tuple[str, bool, str | None]
    ) -> None:
        self.submit(scheduler, params=said)
        found = root_of(scheduler._state.get_task("root"))
        assert (found.name, found.by_task_id, found.budget_usd) == root

    def test_a_yield_below_a_vendor_task_is_its_runs(self, scheduler: BudgetScheduler) -> None:
        vendor(scheduler, "v", deps=["middle"])
        scheduler.add_task(task_id="middle", family="M", worker="w")
        assert work(scheduler) == "middle"
        scheduler.add_task(task_id="v2", family="V", worker="w", spendguard={"yielded_by": "middle"})
        scheduler.add_task(task_id="middle", family="M", worker="w", new_deps=["v2"])
        assert scheduler.gate.state.tasks["v2"].runs == ["r1"]

    def test_where_the_owner_is_gone_its_roots_are_what_nothing_requires(
        self, scheduler: BudgetScheduler
    ) -> None:
        self.submit(scheduler)
        self.assist(scheduler)
        scheduler._state.inactivate_workers(["owner"])
        scheduler.add_task(task_id="v2", family="V", worker="w", spendguard={"yielded_by": "middle"})
        scheduler.add_task(task_id="middle", family="M", worker="w", new_deps=["v2"], assistant=True)
        assert scheduler.gate.state.tasks["v2"].runs == ["root"]

    def test_a_report_joins_no_other_run(self, scheduler: BudgetScheduler) -> None:
        fed(scheduler.gate, run_id="r2")
        vendor(scheduler)
        assert work(scheduler) == "v"
        scheduler.add_task(task_id="v", worker="w", status="FAILED", expl="", spendguard={"run_id": "r2"})
        assert scheduler.gate.state.tasks["v"].runs == ["r1"]

    def test_but_it_says_what_luigid_has_lost(self, scheduler: BudgetScheduler) -> None:
        scheduler.add_task(task_id="v", family="V", worker="w", status="FAILED", expl="", spendguard=RUN)
        assert scheduler.gate.state.tasks["v"].runs == ["r1"]


@pytest.mark.parametrize(
    ("said", "known"),
    [
        (["stripe"], ("stripe",)),
        ("stripe", ()),
        (["a b", 1, None, "x", "x"], ("x",)),
        ([f"v{n}" for n in range(99)], tuple(f"v{n}" for n in range(8))),
        ({}, ()),
    ],
)
def test_a_tasks_vendors_are_read_strictly(
    scheduler: BudgetScheduler, said: Any, known: tuple[str, ...]
) -> None:
    scheduler.add_task(task_id="v", worker="w", family="V", spendguard={**RUN, "vendors": said})
    assert scheduler.gate.state.tasks["v"].vendors == known


def test_a_worker_that_is_used_twice_schedules_twice(scheduler: BudgetScheduler) -> None:
    scheduler.gate.state.rules.forecast = "hold"
    fed(scheduler.gate, run_id="r2")
    vendor(scheduler, "a")
    scheduler.add_worker("w", [("first_task", "a")])
    assert work(scheduler) == "a"
    said = {"run_id": "r2", "announcing": True}
    scheduler.add_task(task_id="b", worker="w", family="V", spendguard=said)
    assert scheduler.gate.verdict("b") == WAIT
    scheduler.add_worker("w", [("first_task", "a")])
    assert work(scheduler) == "b"


def test_what_is_added_again_while_a_worker_runs_does_not_make_its_run_wait(
    scheduler: BudgetScheduler,
) -> None:
    scheduler.gate.state.rules.forecast = "hold"
    vendor(scheduler)
    scheduler.add_worker("w", [("first_task", "v")])
    vendor(scheduler)  # Luigi adds what a task misses once more; its worker then says that it is through.
    scheduler.add_worker("w", [("first_task", "v")])
    assert work(scheduler) == "v"


class TestAttemptedBatches:
    """A batch that was attempted comes back with the members it had, or not as a batch."""

    @pytest.fixture
    def scheduler(self, scheduler: BudgetScheduler) -> BudgetScheduler:
        scheduler._config.retry_delay = 0.0
        for worker in ("w", "w2"):
            scheduler.add_task_batcher(worker=worker, task_family="V", batched_args=["a"], max_batch_size=2)
        for number in "12":
            vendor(scheduler, number, params={"a": number}, batchable=True)
        reply = scheduler.get_work(worker="w", host="h")
        batch = {"task_id": "vb", "worker": "w", "family": "V", "batch_id": reply["batch_id"]}
        scheduler.add_task(**batch, params={"a": "1,2"}, status="RUNNING")
        for task_id in "12":
            pay(scheduler.gate.state, task_id)
        scheduler.add_task(**batch, status="FAILED", expl="")
        assert [status(scheduler, number) for number in "12"] == ["FAILED", "FAILED"]
        return scheduler

    def test_one_that_is_submitted_again_waits_for_the_other(self, scheduler: BudgetScheduler) -> None:
        vendor(scheduler, "1", params={"a": "1"}, batchable=True)
        assert work(scheduler) is None
        why = scheduler.why("1")
        assert why is not None
        assert why.code == "batch"
        assert scheduler.count_pending(worker="w")["n_pending_tasks"] == 2, "batch and mate, failed"
        vendor(scheduler, "2", params={"a": "2"}, batchable=True)
        assert scheduler.get_work(worker="w", host="h")["batch_task_ids"] == ["1", "2"]

    def test_also_for_one_that_another_worker_alone_may_run(self, scheduler: BudgetScheduler) -> None:
        for number in "12":
            vendor(scheduler, number, params={"a": number}, batchable=True)
        scheduler.add_task(task_id="1", worker="w2", family="V", params={"a": "1"}, batchable=True)
        assert work(scheduler, "w2") is None
        assert scheduler.get_work(worker="w2", host="h", assistant=True)["batch_task_ids"] == ["1", "2"]

    @pytest.mark.parametrize("how", ["done", "gone", "disabled"])
    def test_until_the_other_cannot_come_back(self, scheduler: BudgetScheduler, how: str) -> None:
        vendor(scheduler, "1", params={"a": "1"}, batchable=True)
        scheduler.add_worker("w", [("first_task", "1")])
        assert work(scheduler) is None
        if how == "done":
            scheduler.mark_as_done(task_id="2")
        elif how == "gone":
            scheduler._state.inactivate_tasks(["2"])
        else:
            scheduler._state.set_status(scheduler._state.get_task("2"), "DISABLED")
        assert work(scheduler) == "1"

    def test_one_that_luigid_has_lost_may_be_about_to_be_submitted(self, scheduler: BudgetScheduler) -> None:
        scheduler._state.inactivate_tasks(["1", "2"])
        vendor(scheduler, "1", params={"a": "1"}, batchable=True)
        assert work(scheduler) is None
        vendor(scheduler, "2", params={"a": "2"}, batchable=True)
        scheduler.add_worker("w", [("first_task", "1")])
        assert scheduler.get_work(worker="w", host="h")["batch_task_ids"] == ["1", "2"]


class TestStockWorkersWithoutARun:
    """Nobody opens a run for them in this version: the day's budget, and hold, are all there is."""

    @pytest.fixture
    def scheduler(self) -> BudgetScheduler:
        made = BudgetScheduler()
        made.gate.state.rules.vendor_tasks = ("V",)
        made.add_task_batcher(worker="w", task_family="V", batched_args=["a"], max_batch_size=9)
        for number in "12":
            made.add_task(task_id=number, worker="w", family="V", params={"a": number}, batchable=True)
        made.add_task(task_id="root", worker="w", family="Root", deps=["1", "2"])
        made.add_worker("w", [("first_task", "root")])
        return made

    def test_they_are_batched_as_before(self, scheduler: BudgetScheduler) -> None:
        assert scheduler.get_work(worker="w", host="h")["batch_task_ids"] == ["1", "2"]

    def test_the_day_bounds_their_dispatch(self, scheduler: BudgetScheduler) -> None:
        day(scheduler.gate, 0)
        assert work(scheduler) is None
        assert {why.code for why in blocked(scheduler, "w").values()} == {"day"}

    def test_hold_holds_them(self, scheduler: BudgetScheduler) -> None:
        scheduler.gate.state.rules.forecast = "hold"
        assert work(scheduler) is None
        assert {why.code for why in blocked(scheduler, "w").values()} == {"forecast"}
        assert scheduler.count_pending(worker="w")["n_pending_tasks"] == 0


def test_nobody_waits_for_a_task_whose_key_is_revoked(scheduler: BudgetScheduler) -> None:
    vendor(scheduler)
    scheduler.gate.started("v", "r1")
    holds.hold(scheduler.gate.state, "v", "key", 0)
    endings.stopped(scheduler.gate.state, "v")
    assert scheduler.gate.verdict("v") == "key"
    service: Any = SimpleNamespace(state=scheduler.gate.state, scheduler=scheduler, told={})
    since = time.monotonic()
    reply = asyncio.run(explain_blocked(service, BlockedRequest("w", 30)))
    assert (reply.blocked, [why.code for why in reply.why]) == (0, ["key"])
    assert time.monotonic() - since < 20
