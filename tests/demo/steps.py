"""The story, one function for each step. Every figure is checked against Stripe's own books."""

from __future__ import annotations

import difflib
import time
from dataclasses import dataclass
from pathlib import Path

from tests.demo.books import Books
from tests.demo.operator import Operator
from tests.demo.screen import Screen
from tests.demo.servers import DemoFailed, Process, Processes
from tests.demo.site import CAP_USD, Site

CUSTOMERS, COPIES, SAMPLE = 200, 10, 400
TOP_UP_USD = 50
Rows = list[tuple[str, str]]


@dataclass
class Demo:
    """What the steps share."""

    site: Site
    processes: Processes
    screen: Screen
    books: Books
    operator: Operator
    customers: list[str]

    def billing(self, run_id: str, rows: Path, name: str, on_blocked: str = "exit") -> Process:
        """Start the guarded pipeline, as a user would on the command line."""
        env = self.site.env(self.site.config(on_blocked), SPENDGUARD_RUN_ID=run_id)
        argv = ["--module", "tests.demo.billing_guarded", "BillingPipeline", "--customers", str(rows)]
        return self.processes.luigi(name, argv, env)

    def until_ended(self, worker: Process, most: int) -> None:
        """Show the charges while a worker is at work; it has to end by itself."""
        until_ended(self.screen, self.books, worker, most)

    def until_charges(self, worker: Process, wanted: int) -> None:
        """Show the charges until there are `wanted`; the worker has to stay."""
        before = self.books.count()

        def look() -> tuple[str, bool]:
            count = self.books.count()
            if not worker.running:
                raise DemoFailed(f"{worker.name} has ended with {count} charges at Stripe", worker.log)
            return charges_so_far(count, before), count >= wanted

        self.screen.watch(look, f"{wanted} charges", worker.log)


def until_ended(screen: Screen, books: Books, worker: Process, most: int) -> None:
    """Show the charges until a worker has ended; more than `most` in all end the demo."""
    before = books.count()

    def look() -> tuple[str, bool]:
        ended = not worker.running
        count = books.count()
        if count > most:
            raise DemoFailed(
                f"Stripe has {count} charges; there should never be more than {most}", worker.log
            )
        return charges_so_far(count, before), ended

    screen.watch(look, f"{worker.name} ends by itself", worker.log)


def charges_so_far(count: int, before: int) -> str:
    """Return what the live line says."""
    return (
        f"{count} charges at Stripe"
        if count > before
        else f"{count} charges at Stripe; Luigi reads its tasks"
    )


def accident(customers: list[str]) -> Rows:
    """Return the list after the bad join: each customer ten times, under ten row ids."""
    return [
        (f"mar-{number:03d}-{copy:02d}", customer)
        for number, customer in enumerate(customers, 1)
        for copy in range(1, COPIES + 1)
    ]


def stock(site: Site, processes: Processes, screen: Screen) -> None:
    """Show what plain Luigi does with the list; on a Stripe of its own."""
    url = processes.localstripe("localstripe-stock")
    books = Books(url, site.secret)
    work = site.folder / "stock"
    work.mkdir()
    rows = accident(books.new_customers(SAMPLE // COPIES))
    path = site.write_list("march-sample", rows)
    env = site.env(site.write_stock_config(work), STRIPE_API_BASE=url, STRIPE_SECRET_KEY=site.secret)
    screen.say(f"A sample of {SAMPLE} of the 2,000 rows: {SAMPLE // COPIES} customers, ten times each.")
    argv = ["--module", "tests.demo.billing_stock", "BillingPipeline", "--customers", str(path)]
    worker = processes.luigi("stock-luigi", [*argv, "--local-scheduler"], env)
    until_ended(screen, books, worker, SAMPLE)
    charges = books.charges()
    screen.check(
        f"charged to {SAMPLE // COPIES} customers who owed $1.00 each", charges.usd, "$400.00", worker.log
    )
    screen.say("Nothing stops it at $300; the whole list would come to $2,000.00 instead of $200.00.")


def difference() -> list[str]:
    """Return how the guarded pipeline differs from the stock one."""
    folder = Path(__file__).parent
    old, new = (
        (folder / f"billing_{kind}.py").read_text("utf-8").splitlines() for kind in ("stock", "guarded")
    )
    lines = difflib.unified_diff(old, new, n=0, lineterm="")
    changed = [line for line in lines if line[:1] in "+-" and line[:3] not in ("+++", "---")]
    return [line for line in changed if line[1:].strip() and '"""' not in line]


def capped(demo: Demo) -> None:
    """Run all 2,000 rows under the cap; the worker ends by itself."""
    screen = demo.screen
    screen.say("The same pipeline with luigi_spendguard; what changes in its code:")
    screen.code(difference())
    screen.say(f"and in luigi.cfg: [spendguard_caps] BillingPipeline = {CAP_USD}")
    rows = demo.site.write_list("march", accident(demo.customers))
    worker = demo.billing("march", rows, "march")
    demo.until_ended(worker, CAP_USD)
    charges = demo.books.charges()
    screen.check("charged under a cap of $300", charges.usd, "$300.00", worker.log)
    screen.check("rows charged more than once", len(charges.twice()), 0, worker.log)
    report = demo.site.work / "reports" / "march.txt"
    found = report.read_text("utf-8").strip() if report.exists() else "not written"
    screen.check("the report, another task of the pipeline", found, "2000 rows", worker.log)
    done = len(list(demo.site.receipts.glob("mar-*")))
    screen.check("receipts", done, CAP_USD, worker.log)
    screen.say(
        "The worker did not hang: it ended by itself; "
        f"{CUSTOMERS * COPIES - done:,} tasks stay blocked by the cap."
    )


def topped_up(demo: Demo) -> Process:
    """Raise the cap while a worker waits: it goes on by itself. Return that worker."""
    screen = demo.screen
    screen.say("The list again, by a worker told to wait for money ([spendguard] on_blocked = wait).")
    worker = demo.billing("march", demo.site.folder / "march.csv", "march-waiting", "wait")
    _until_waiting(demo, worker)
    screen.check("charged by submitting it again", demo.books.charges().usd, "$300.00", worker.log)
    screen.say(f"$ spendguard top-up march {TOP_UP_USD}")
    demo.operator.command("top-up", "march", str(TOP_UP_USD))
    demo.until_charges(worker, CAP_USD + TOP_UP_USD)
    _settle(demo, worker)
    charges = demo.books.charges()
    screen.check("charged after a top-up of $50", charges.usd, "$350.00", worker.log)
    screen.check("rows charged more than once", len(charges.twice()), 0, worker.log)
    screen.say("Nobody submitted anything: the waiting worker went on, and waits again.")
    return worker


def _until_waiting(demo: Demo, worker: Process) -> None:
    """Wait until a worker has scheduled its tasks and asks in vain for one that may run."""

    def look() -> tuple[str, bool]:
        if not worker.running:
            raise DemoFailed("the worker that should wait has ended", worker.log)
        log = worker.log.read_text("utf-8", "replace")
        asked = log.rpartition("Running Worker with")[2].count("Asking scheduler for work")
        return "scheduling 2,000 tasks" if not asked else "the worker waits at the cap", asked > 10

    demo.screen.watch(look, "a worker waits at the cap", worker.log)


def _settle(demo: Demo, worker: Process) -> None:
    """Give a worker the time to do something wrong."""
    time.sleep(2)  # Nothing is to happen: there is no event to wait for.
    if not worker.running:
        raise DemoFailed(f"{worker.name} ended instead of waiting", worker.log)


def revoked(demo: Demo) -> None:
    """Revoke a run in the middle of it."""
    screen = demo.screen
    before = demo.books.count()
    numbered = enumerate(demo.customers, 1)
    rows = demo.site.write_list("april", [(f"apr-{number:03d}", customer) for number, customer in numbered])
    worker = demo.billing("april", rows, "april")
    demo.until_charges(worker, before + 40)
    screen.say("DELETE /runs/april")
    asked = time.monotonic()
    answer = demo.operator.revoke("april")
    took, made = time.monotonic() - asked, demo.books.count() - before
    screen.say(
        f"Answered after {took * 1000:.0f} ms; {answer['calls_under_way']} calls were under way and "
        f"have ended; by then Stripe had {made} of {CUSTOMERS} charges."
    )
    screen.note(f"charges when the revoke was answered, of {CUSTOMERS}", made)
    if made >= CUSTOMERS:
        raise DemoFailed("the run was over before it could be revoked", worker.log)
    demo.until_ended(worker, before + CUSTOMERS)
    time.sleep(3)  # Longer than any grant lives.
    screen.check(
        "charges of the run after the revoke", demo.books.charges().of("apr-").count - made, 0, worker.log
    )


def repeated(demo: Demo) -> None:
    """Charge, lose what was known about it, and submit again: nobody pays twice."""
    screen, site = demo.screen, demo.site
    people = [(f"may-{number:03d}", customer) for number, customer in enumerate(demo.customers, 1)]
    listed = site.write_list("may", people[:60])
    screen.say("60 rows, and the disk for the receipts is not there: every task charges, then dies.")
    site.take_disk_away()
    worker = _submit(demo, "may", listed, "may-1-no-disk")
    screen.check("charged by tasks that died", demo.books.charges().of("may-").usd, "$60.00", worker.log)
    screen.check("receipts on the disk", len(list(site.receipts.glob("may-*"))), 0, worker.log)
    site.bring_disk_back()

    screen.say("The disk is back, and the list is corrected: 50 of these rows, 10 new ones. Another run.")
    corrected = site.write_list("may-corrected", people[10:70])
    worker = _submit(demo, "may-corrected", corrected, "may-2-corrected")
    screen.check(
        "charged so far: only the 10 new ones were", demo.books.charges().of("may-").usd, "$70.00", worker.log
    )

    screen.say("The first list once more, with 25 finished receipts deleted.")
    for receipt in sorted(site.receipts.glob("may-*"))[:25]:
        receipt.unlink()
    worker = _submit(demo, "may", listed, "may-3-again")
    charges = demo.books.charges().of("may-")
    screen.check("charged after all that", charges.usd, "$70.00", worker.log)
    screen.check("rows charged more than once", len(charges.twice()), 0, worker.log)
    screen.check("receipts, one for each row", len(list(site.receipts.glob("may-*"))), 70, worker.log)
    screen.say("This Stripe ignores idempotency keys: it would have charged every repetition.")


def _submit(demo: Demo, run_id: str, rows: Path, name: str) -> Process:
    worker = demo.billing(run_id, rows, name)
    demo.until_ended(worker, demo.books.count() + 200)
    return worker
