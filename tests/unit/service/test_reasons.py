"""All that holds a run is said at once: whoever does all that is advised has freed every blocked task."""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luigi_spendguard.money import Micros
from luigi_spendguard.protocol.operators import ApproveRequest, TopUpRequest
from scheduler_patch.api import runs
from scheduler_patch.dispatch.trial import Target
from scheduler_patch.service import operators, top_ups
from tests.support.luigids import USD, Luigid

FAMILIES, VENDORS = ("A", "B"), ("stripe", "twilio")


@dataclass
class Job:
    """A vendor task: what it calls, and what that costs in dollars; `says`: it declares that."""

    task_id: str
    family: str
    vendor: str
    usd: int
    says: bool = True
    #: Whether it names its vendor.
    names: bool = True
    #: What the vendor bills where it is not what was asked.
    billed: int | None = None


@dataclass
class Played:
    """A luigid, and one worker of one run."""

    luigid: Luigid
    jobs: dict[str, Job]
    done: set[str] = field(default_factory=set)

    def submit(self) -> None:
        self.luigid.run()
        for job in self.jobs.values():
            if job.task_id not in self.done:
                cost = str(job.usd) if job.says else None
                self.luigid.add(
                    job.task_id, cost=cost, vendors=(job.vendor,) if job.names else (), family=job.family
                )
        self.luigid.scheduler.add_worker("w", [("first_task", next(iter(self.jobs)))])
        self.luigid.do(self.luigid.service.record(lambda tx: None))  # The forecast is kept.

    def work(self) -> None:
        """Work until nothing is handed out any more."""
        while (task_id := self.luigid.work()) is not None:
            job = self.jobs[task_id]
            cost = job.usd if job.says else None
            attempt = self.luigid.claim(task_id, cost=cost, family=job.family)
            reply = self.luigid.call(attempt, job.usd, task_id, job.vendor, job.billed)
            if reply.verdict == "allowed":
                self.luigid.finish(attempt, "completed")
                self.luigid.scheduler.add_task(task_id=task_id, worker="w", status="DONE")
                self.done.add(task_id)
            else:
                self.luigid.finish(attempt, "blocked")
                said = {**reply.facts, "reason": reply.reason}
                self.luigid.scheduler.add_task(task_id=task_id, worker="w", spendguard_blocked=said)

    @property
    def left(self) -> set[str]:
        return self.jobs.keys() - self.done

    def shown(self) -> dict[str, Any]:
        """Return the run as the API shows it."""
        found: dict[str, Any] = self.luigid.do(runs.changed_run(self.luigid.service, "r"))
        return found

    def advised(self) -> list[str]:
        """Return the commands that are said, each once."""
        said = dict.fromkeys(each for why in self.shown()["reasons"] for each in why["commands"])
        return [each for each in said if not each.startswith("spendguard calls ")]

    def do(self, command: str) -> Any:
        """Do what a command does."""
        program, verb, run_id, *words = shlex.split(command)
        assert (program, run_id) == ("spendguard", "r")
        service = self.luigid.service
        said = dict(zip(words[0::2], words[1::2], strict=False)) if verb == "approve" else {}
        if verb == "approve":
            unknown, task_id = int(said.get("--unknown-tasks", 0)), said.get("--task")
            amount = said["--up-to"] if task_id is None else said["--cost"]
            asked = ApproveRequest(run_id, amount, unknown, up_to=task_id is None, task_id=task_id)
            return self.luigid.do(operators.approve(service, asked))
        assert verb == "top-up"
        usd, *inside = words
        which: dict[str, Any] = {"day": True} if inside == ["--day"] else {}
        if len(inside) == 2:
            which = {inside[0].strip("-"): inside[1]}
        return self.luigid.do(operators.top_up(service, TopUpRequest(run_id, usd, **which)))


@contextmanager
def played(jobs: list[Job], **caps: Any) -> Iterator[Played]:
    with tempfile.TemporaryDirectory(prefix="spendguard-test-") as folder:
        luigid = Luigid(Path(folder), **caps)
        try:
            yield Played(luigid, {job.task_id: job for job in jobs})
        finally:
            luigid.end()


def usd(amount: int) -> Micros:
    return Micros(amount * USD)


JOBS = st.lists(
    st.tuples(st.sampled_from(FAMILIES), st.sampled_from(VENDORS), st.integers(1, 5)), min_size=1, max_size=9
).map(lambda drawn: [Job(f"T{number}", *one) for number, one in enumerate(drawn)])
CAPS = st.fixed_dictionaries(
    {"default": st.integers(0, 12).map(usd), "forecast": st.sampled_from(["warn", "hold"])},
    optional={
        "day": st.integers(0, 12).map(usd),
        "single": st.integers(2, 4).map(usd),
        "task_families": st.dictionaries(st.sampled_from(FAMILIES), st.integers(0, 9).map(usd)),
        "vendors": st.dictionaries(st.sampled_from(VENDORS), st.integers(0, 9).map(usd)),
    },
)


@pytest.mark.of_files  # Hypothesis wants each example to be run in one way.
class TestAllThatIsAdvised:
    @given(jobs=JOBS, caps=CAPS, bills_more=st.booleans())
    def test_frees_all(self, jobs: list[Job], caps: dict[str, Any], bills_more: bool) -> None:
        """Also a run that is held, or frozen: all tasks pay once all commands are done."""
        jobs[0].billed = jobs[0].usd + 1 if bills_more else None
        with played(jobs, **caps) as it:
            it.submit()
            it.work()
            if any(job.billed for job in jobs) and "T0" in it.left:
                jobs[0].billed = None  # It would freeze the run only afterwards.
            commands = it.advised()
            assert commands or not it.left
            for command in commands:
                it.do(command)
            shown = it.shown()
            assert (shown["reasons"], shown["to_come"], shown["blocked"]) == ([], [], [])
            it.work()
            assert it.left == set()

    @given(jobs=JOBS, caps=CAPS)
    def test_frees_all_that_do_not_say_what_they_cost_after_some_tries(
        self, jobs: list[Job], caps: dict[str, Any]
    ) -> None:
        """Nobody knows what they ask for before they have; what they have asked for is advised."""
        for job in jobs[::2]:
            job.says = False
        with played(jobs, **caps) as it:
            it.submit()
            it.work()
            for _ in range(len(jobs) + 2):
                if not it.left:
                    break
                for command in it.advised():
                    it.do(command)
                it.work()
            assert it.left == set()

    @given(jobs=JOBS, caps=CAPS, usd=st.integers(1, 9))
    def test_what_a_top_up_frees_may_pay(self, jobs: list[Job], caps: dict[str, Any], usd: int) -> None:
        """Beside each other, that is, and no less than it says."""
        with played(jobs, **caps) as it:
            it.submit()
            it.work()
            weighed = it.luigid.do(top_ups.weigh(it.luigid.service, "r", Target(), usd * USD)).to_json()
            before = len(it.left)
            said = it.do(f"spendguard top-up r {usd}")
            assert (said["frees"], said["still_blocked"]) == (weighed["frees"], weighed["still_blocked"])
            assert sum(it.shown()["blocked_tasks"].values()) == said["still_blocked"]
            it.work()
            assert before - len(it.left) >= said["frees"] - 1
            if said["frees"] == said["blocked"] and not said["behind"]:
                assert it.left == set()

    def test_lets_a_task_ask_for_more_than_one_may_without_an_approval(self) -> None:
        """With what it has spent already: that is its budget then."""
        with played([Job("T0", "V", "stripe", 2, says=False)], single=usd(3), default=usd(4)) as it:
            it.submit()
            assert it.luigid.work() == "T0"
            attempt = it.luigid.claim("T0")
            assert it.luigid.call(attempt, 2, "first").verdict == "allowed"
            denied = it.luigid.call(attempt, 2, "second")
            it.luigid.finish(attempt, "blocked")
            said = {**denied.facts, "reason": denied.reason}
            it.luigid.scheduler.add_task(task_id="T0", worker="w", spendguard_blocked=said)
            assert it.advised() == ["spendguard approve r --task T0 --cost 4.00"]
            it.do(it.advised()[0])
            it.work()
            assert it.left == set()

    def test_names_the_vendor_that_others_of_their_family_have_called(self) -> None:
        jobs = [Job(f"T{number}", "V", "stripe", 2, names=False) for number in range(4)]
        with played(jobs, default=usd(3), vendors={"stripe": usd(2), "twilio": usd(1)}) as it:
            it.submit()
            it.work()
            commands = ["spendguard top-up r 5.00", "spendguard top-up r 6.00 --vendor stripe"]
            assert (len(it.left), it.advised()) == (3, commands)
            for command in commands:
                it.do(command)
            it.work()
            assert it.left == set()
