"""A round: a whole site at work for 16 workers while its processes, connections and database fail."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import urllib3

from tests.faults import books, hooks
from tests.faults.plans import FULL, OWN, TWO, Fault, Plan
from tests.faults.points import LOCAL, WORKER
from tests.faults.site import FaultySite, Keeper
from tests.faults.stage import Stage
from tests.support.processes import wait_until

T = TypeVar("T")

PIPELINE = "tests.faults.pipeline"
#: The cap is so many dollars short of what the customers are to pay, until all else is over.
SHORT = 5
#: How often a pipeline is run until it must have ended.
TRIES = 12
#: Seconds in which luigid must have answered: some of what it waits for may hang one after the other.
ANSWERS_S = 60
#: How many customers pay from the same run elsewhere; how many texts are sent, and to which numbers.
ELSEWHERE, TEXTED, NUMBERS = 16, 16, "+1415555"
#: Seconds for which one that is revoked is looked at, and how often it is to be told so meanwhile.
INSISTS_S, TOLD = 20, 12


class Round:
    """What one plan does to a site in a folder; `play` returns what is wrong then."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        self.plan, self.folder = plan, folder
        self.elsewhere = ELSEWHERE if plan.kind in (OWN, TWO) else 0
        #: When a revoke had answered (`time.monotonic`), and how often who insists was told so after that.
        self.revoked_at, self.told = 0.0, 0
        #: What the workers have said last, by pipeline.
        self.said: dict[str, str] = {}
        #: Faults that have not happened.
        self.unpassed: list[str] = []
        self.deaths: dict[str, int] = {}
        self.wrong: list[str] = []
        #: How many connections were harmed, by kind.
        self.harmed: Counter[str] = Counter()
        self.lacking = ""

    def play(self) -> list[str]:
        """Do it all; return what is wrong, one line each."""
        with contextlib.ExitStack() as stack:
            self.stage = Stage(self.plan, self.folder, stack)
            self.site, self.lacking = self.stage.site, self.stage.lacking
            self.stage.start()
            keeper = stack.enter_context(Keeper(self.stage.sites, self.stage.acts))
            try:
                self._work()
            finally:
                self.deaths = keeper.deaths
                for one in self.stage.wires:
                    self.harmed.update(one.harmed)
            return self._judge()

    # The work.

    def _work(self) -> None:
        site, customers = self.site, self.plan.customers
        alone = [fault for fault in self.plan.faults if fault.who == WORKER]
        for fault in self.plan.faults:
            if fault.who != WORKER and not (fault.action == FULL and self.lacking):
                site.arm(fault)
        failed: list[BaseException] = []

        def beside(act: Callable[[], None]) -> threading.Thread:
            def acted() -> None:
                try:
                    act()
                except BaseException as error:
                    failed.append(error)

            thread = threading.Thread(target=acted)
            thread.start()
            return thread

        threads = [beside(self._revoked), beside(lambda: self._alone(alone)), beside(self._elsewhere)]
        threads += [beside(self._text)] if self.stage.twilio is not None else []
        for _ in range(TRIES):
            done = self._run("main", customers, 16, budget=self._all() - SHORT)
            if (done and not self.elsewhere) or (not site.armed() and self._is_at_cap()):
                break
        for thread in threads:
            thread.join()
        if sum(name.startswith("main_") for name in self.stage.paid()) > self._all() - SHORT:
            self.wrong.append("the cap was no cap")
        self.wrong += self._asked(lambda: books.uncounted(self.stage.paid(), books.calls_of(site)))
        self._top_up()
        self._until_done("main", customers, 16)
        self.unpassed = site.armed()
        site.disarm()
        self.stage.calm()
        self._until(self._pay_elsewhere, "what is paid elsewhere")
        # One more, so that a worker of this host says what others have left.
        self._until_done("alone", 2 * len(alone) + 1, 2)
        if self.stage.second is not None:
            self._until(self._end_elsewhere, "the end elsewhere")
        if self.stage.twilio is not None:
            self._until(self._texted, "the texts")
        if failed:
            raise failed[0]

    def _all(self) -> int:
        """Return how many are to pay from the run `main`."""
        return self.plan.customers + self.elsewhere

    def _is_at_cap(self) -> bool:
        return sum(name.startswith("main_") for name in self.stage.paid()) >= self._all() - SHORT

    def _run(self, name: str, n: int, workers: int, *, budget: int = 0, first: int = 0) -> bool:
        """Run a pipeline once; return whether it has completed."""
        run_id = "" if name == "alone" else name
        # One that is named by its task is closed when it has completed.
        args = ("PayAll", "--of", name, "--run-id", run_id, "--first", str(first), "--n", str(n))
        if budget:
            args += ("--budget-usd", str(budget))
        self._luigi(name, *args, "--workers", str(workers))
        return all(self._is_complete(f"{name}_{number}") for number in range(first, first + n))

    def _luigi(self, said: str, *args: str, site: FaultySite | None = None, **env: str) -> str:
        """Run a pipeline, at a site; all tasks have their output in one folder."""
        env["OUT_DIR"] = str(self.site.folder / "out")
        _, out = (site or self.site).luigi(*args, module=PIPELINE, timeout=180, **env)
        self.said[said] = out
        return out

    def _is_complete(self, whose: str) -> bool:
        """Return whether a customer's task has its output: Luigi's own summary knows of tasks no more."""
        return any((self.site.folder / "out").glob(f"*_{whose}_*"))

    def _until_done(self, name: str, n: int, workers: int) -> None:
        self._until(lambda: self._run(name, n, workers), name)

    def _until(self, run: Callable[[], bool], what: str) -> None:
        for _ in range(TRIES):
            if run():
                return
            time.sleep(1)  # What has failed is tried again after `retry_delay`.
        raise AssertionError(f"{what}: not done after {TRIES} tries:\n{list(self.said.values())[-1][-3000:]}")

    def _alone(self, faults: list[Fault]) -> None:
        """Let tasks that run in a worker's own process fail, one step after the other."""
        for number, fault in enumerate(faults):
            self.site.arm(fault)
            for _ in range(1 if fault.point.rare else TRIES):  # What else fails may keep it from there.
                self._run("alone", 2, 1, first=2 * number)
                if not any(name.startswith(f"{WORKER}.") for name in self.site.armed()):
                    break

    # Beside the rest.

    def _elsewhere(self) -> None:
        """Let others pay from the run `main`, elsewhere, until its cap is reached."""
        for _ in range(TRIES):
            if self._pay_elsewhere() or self._is_at_cap():
                return

    def _pay_elsewhere(self) -> bool:
        """Let who has a scheduler of its own, or another luigid, pay; return whether all have."""
        if not self.elsewhere:
            return True
        n, first = self.elsewhere, self.plan.customers
        args = ("PayAll", "--of", "main", "--run-id", "main", "--first", str(first), "--n", str(n))
        args += ("--workers", "4", "--budget-usd", str(self._all() - SHORT))
        env: dict[str, str] = {}
        if self.plan.kind == OWN:
            args, env = (*args, "--local-scheduler"), {hooks.OF: LOCAL}
        self._luigi("elsewhere", *args, site=self.stage.second, **env)
        return all(self._is_complete(f"main_{number}") for number in range(first, first + n))

    def _end_elsewhere(self) -> bool:
        """Let a worker of the second's host say what others have left there."""
        self._luigi("end", "Pay", "--customer", "end_0", site=self.stage.second)
        return self._is_complete("end_0")

    def _text(self) -> None:
        """Let texts be sent; who knows nothing of one that may have been sent does not send it again."""
        for _ in range(3):
            if self._send_texts():
                return

    def _send_texts(self) -> bool:
        args = ("TextAll", "--to", NUMBERS, "--n", str(TEXTED), "--run-id", "texts", "--workers", "4")
        self._luigi("texts", *args)
        return all(self._is_complete(f"_{number[1:]}") for number in self._numbers())

    def _texted(self) -> bool:
        """Do what an operator does: say of each text in doubt what the vendor's books have of it."""
        assert self.stage.twilio is not None
        books.settle_down(self.site)
        sent = {entry["to"]: entry["sid"] for entry in self.stage.twilio.sent()}
        for call in books.calls_of(self.site):
            if call["vendor"] == "twilio" and call["state"] == "in_doubt":
                sid = sent.get(call["target"])
                body = {"spent_usd": f"{books.PRICE / 100}", "object_id": sid} if sid else {"not_sent": True}
                status, said = self.site.call("POST", f"/calls/{call['id']}/resolve", body)
                assert status == 200, said
        return self._send_texts() and set(self._numbers()) <= set(self.stage.paid())

    def _numbers(self) -> list[str]:
        return (
            [f"{NUMBERS}{1000 + number}" for number in range(TEXTED)] if self.stage.twilio is not None else []
        )

    # A revoke.

    def _revoked(self) -> None:
        """Let a run of its own begin, and revoke it, at the second luigid where there is one."""
        enough, told = self.site.folder / "out" / "enough", self.site.folder / "out" / "told"

        def work() -> None:
            while not self.revoked_at:  # luigid forgets it where it is killed.
                self._run("stop", 80, 4)

        def insist() -> None:  # In its worker's own process: a child would be ended.
            while not enough.exists():
                self._luigi("insist", "Insist", "--of", "stop", "--run-id", "stop", FAULTS_OF="bystander")

        working = [threading.Thread(target=act) for act in (work, insist)]
        for one in working:
            one.start()
        try:
            wait_until(self._is_begun, 300, "calls to stop")
            self._revoke("stop")
        finally:
            self.revoked_at = time.monotonic()
            before = told.read_text().count("\n") if told.exists() else 0
            with contextlib.suppress(AssertionError):
                wait_until(lambda: told.exists() and told.read_text().count("\n") >= before + TOLD, INSISTS_S)
            self.told = (told.read_text().count("\n") if told.exists() else 0) - before
            enough.touch()
            for one in working:
                one.join()

    def _is_begun(self) -> bool:
        """Return whether some of the tasks to stop have paid, and so has who insists."""
        paid = sum(name.startswith("stop_") and not name[5].isdigit() for name in self.stage.paid())
        return len(list((self.site.folder / "out").glob("Pay_stop_*"))) > 2 and paid > 2

    def _revoke(self, run_id: str) -> None:
        """Revoke a run, and ask again until that is answered."""

        def revoked() -> bool:
            status, said = (self.stage.second or self.site).call("DELETE", f"/runs/{run_id}")
            return status == 200 and said["state"] == "revoked"

        wait_until(lambda: self._asked(revoked), ANSWERS_S, "a revoke")

    def _asked(self, ask: Callable[[], T]) -> T:
        """Ask luigid something until it answers: it may be killed meanwhile."""
        limit = time.monotonic() + ANSWERS_S
        while True:
            try:
                return ask()
            except (urllib3.exceptions.HTTPError, ValueError, AssertionError):
                if time.monotonic() > limit:
                    raise
                time.sleep(0.1)

    def _top_up(self) -> None:
        """Let the rest be paid, too; the same top-up counts once, however often it is asked for."""
        body = {"usd": str(SHORT), "request_id": f"top-up-{self.plan.seed}"}

        def topped_up() -> bool:
            return self.site.call("POST", "/runs/main/top_up", body)[0] == 200

        wait_until(lambda: self._asked(topped_up), ANSWERS_S, "a top-up")

    def _judge(self) -> list[str]:
        alone = sum(fault.who == WORKER for fault in self.plan.faults)
        done = [f"main_{number}" for number in range(self._all())]
        done += [f"alone_{number}" for number in range(2 * alone + 1)] + self._numbers()
        seen = books.look(self.stage.sites, self.stage.paid())
        wrong = books.judge(seen, {"main_": self._all() * books.PRICE}, done)
        # What was delayed on its way had been sent before.
        late = self.revoked_at + (2.0 if self.stage.wires else 0.0)
        wrong += books.sent_after(self.stage.stripe.posts(), "stop_", late)
        if self.told < TOLD:
            wrong.append(f"who insists was told of the revoke {self.told} times: that was not tried")
        if self.wrong or wrong:
            self._keep_books()
        return self.wrong + wrong

    def _keep_books(self) -> None:
        """Leave what the books say: they are gone with their servers."""
        all_calls = self.site.call("GET", "/calls?limit=10000", token=None)[1]
        for name, rows in {"calls": all_calls, "posts": self.stage.stripe.posts()}.items():
            (self.folder / f"{name}.json").write_text(json.dumps(rows, indent=1))
