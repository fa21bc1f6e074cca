"""Who is in a pipeline: every thread and child of a process with a worker, whatever the worker's class."""

from __future__ import annotations

import luigi
import pytest

from tests.integration.test_install import HEAD, customers, python
from tests.support.site import Site

#: A base class of somebody else's: its run() charges in threads, with a key of its own.
TASKS = """
import threading
stripe.api_base = os.environ["STRIPE_BASE"]
stripe.api_key = os.environ["OWN_KEY"]
stripe.max_network_retries = 0

class Elsewhere(Output):
    customer = luigi.Parameter()
    def run(self):
        threads = [threading.Thread(target=charge, args=(f"{self.customer}_{n}",)) for n in range(3)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        self.write()
"""
VENDOR = """
from luigi_spendguard import VendorTask
class Inherits(VendorTask, Elsewhere):
    pass
class Owns(VendorTask, Elsewhere):
    def run(self):
        super().run()
"""
OWN = {
    "a subclass": "class Own(luigi.worker.Worker):\n    pass\n",
    "its old name": "from luigi.worker import Worker as Own\n",
    "a copy": "Own = type('Own', (), dict(vars(luigi.worker.Worker)))\n",
}
USE = """
def ran(task, workers):
    url = luigi.configuration.get_config().get("core", "default_scheduler_url")
    scheduler = luigi.rpc.RemoteScheduler(url)
    with Own(scheduler=scheduler, worker_processes=workers) as worker:
        worker.add(task)
        return worker.run()
"""


def run(site: Site, code: str, **env: str) -> tuple[int, str]:
    own = site.secrets["STRIPE_SECRET_KEY"]
    return python(site, code, STRIPE_BASE=site.stripe.url, OWN_KEY=own, **env)


@pytest.mark.parametrize("family", ["Inherits", "Owns"])
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("own", sorted(OWN))
def test_a_worker_that_cannot_be_guarded_runs_no_vendor_task(
    here: Site, own: str, workers: int, family: str
) -> None:
    code, said = run(
        here,
        f"""
import luigi.worker, luigi.rpc
{OWN[own]}{TASKS}{VENDOR}{USE}
assert not ran({family}(customer="cus"), {workers})
""",
    )
    assert code == 0, said
    assert f"{family} was refused before run(): this Luigi worker is not guarded" in said
    assert "Import luigi_spendguard before" in said
    assert "WorkerSchedulerFactory" in said
    assert customers(here) == []


def test_so_it_is_for_a_family_that_the_configuration_names(here: Site) -> None:
    here.configure(spendguard={"vendor_tasks": "Elsewhere"})
    try:
        code, said = run(
            here,
            f"""
import luigi.worker, luigi.rpc
{OWN["a subclass"]}{TASKS}{USE}
from luigi_spendguard import install
install()
assert not ran(Elsewhere(customer="cus"), 1)
""",
        )
    finally:
        here.configure(spendguard={"vendor_tasks": None})
    assert code == 0, said
    assert "Elsewhere was refused before run(): this Luigi worker is not guarded" in said
    assert customers(here) == []


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("own", [*sorted(OWN), "guarded"])
def test_no_thread_of_a_plain_task_spends_under_any_worker(here: Site, own: str, workers: int) -> None:
    made = OWN.get(own, "import luigi_spendguard.tasks\nOwn = luigi.worker.Worker\n")
    code, said = run(
        here,
        f"""
import luigi.worker, luigi.rpc
{made}{TASKS}{VENDOR}{USE}
ran(Elsewhere(customer="cus"), {workers})
""",
    )
    assert code == 0, said
    assert "outside any vendor task" in said
    assert customers(here) == []


def test_a_worker_of_ones_own_runs_plain_tasks_as_ever(here: Site) -> None:
    code, said = run(
        here,
        f"""
import luigi.worker, luigi.rpc
{OWN["a subclass"]}{TASKS}{VENDOR}{USE}
class Plain(Output):
    def run(self):
        self.write()
assert ran(Plain(), 2)
""",
    )
    assert code == 0, said


def test_a_thread_that_outlives_its_pipeline_spends_nothing(here: Site) -> None:
    _, said = run(
        here,
        f"""
from luigi_spendguard import VendorTask
{TASKS}
over, left = threading.Event(), []
def leave(customer):
    left.append(threading.Thread(target=later, args=(customer,)))
    left[-1].start()
def later(customer):
    over.wait()
    thread = threading.Thread(target=charge, args=(customer,))
    thread.start()
    thread.join()
class Leaves(VendorTask, Output):
    def run(self):
        leave("cus_left")
        self.write()
class PlainLeaves(Output):
    def run(self):
        leave("cus_plain")
        self.write()
assert luigi.build([Leaves(), PlainLeaves()])
over.set()
for thread in left:  # From Python 3.12 on none begins while the interpreter ends.
    thread.join()
""",
    )
    assert said.count("outside any vendor task") >= 2, said
    assert customers(here) == []


def test_what_a_web_application_calls_after_its_build_is_left_alone(here: Site) -> None:
    code, said = run(
        here,
        f"""
from concurrent.futures import ThreadPoolExecutor
pool = ThreadPoolExecutor(1)
pool.submit(int).result()
{TASKS}{VENDOR}
assert luigi.build([Owns(customer="cus_task")])
charge("cus_app")
pool.submit(charge, "cus_pool").result()
assert "SPENDGUARD_PIPELINE" not in os.environ
""",
    )
    assert code == 0, said
    assert customers(here) == ["cus_app", "cus_pool", "cus_task_0", "cus_task_1", "cus_task_2"]


CHILD = """
import os, stripe
{imports}
stripe.api_base, stripe.api_key = os.environ["STRIPE_BASE"], os.environ["OWN_KEY"]
stripe.max_network_retries = 0
stripe.PaymentIntent.create(amount=100, currency="usd", customer="cus_child", payment_method="pm_card_visa",
                            confirm=True)
"""


def test_a_program_that_a_task_starts_is_in_the_pipeline(here: Site) -> None:
    (here.folder / "child.py").write_text(CHILD.format(imports="import luigi_spendguard.tasks"))
    code, said = run(
        here,
        """
from luigi_spendguard import VendorTask
import subprocess, sys
class Starts(Output):
    def run(self):
        subprocess.run([sys.executable, "child.py"], check=True)
assert subprocess.run([sys.executable, "child.py"]).returncode == 0, "none runs yet"
luigi.build([Starts()])
""",
    )
    assert code == 0, said
    assert "outside any vendor task" in said
    assert customers(here) == ["cus_child"]


@pytest.mark.parametrize("when", ["module", "root"])
def test_luigis_command_is_a_pipeline_from_its_first_line(here: Site, when: str) -> None:
    (here.folder / "early.py").write_text(
        HEAD
        + TASKS
        + VENDOR
        + f"""
class Root(luigi.WrapperTask):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if {when!r} == "root": charge("cus_root")
if {when!r} == "module": threading.Thread(target=charge, args=("cus_module",)).start()
"""
    )
    _, said = here.luigi(
        "Root", module="early", STRIPE_BASE=here.stripe.url, OWN_KEY=here.secrets["STRIPE_SECRET_KEY"]
    )
    assert "outside any vendor task" in said
    assert customers(here) == []


def test_children_that_are_older_than_the_pipeline_are_in_it(here: Site) -> None:
    """A pool is often made at the top of a program; what it calls between two builds is its own affair."""
    code, said = run(
        here,
        f"""
import multiprocessing
from luigi_spendguard import VendorTask
{TASKS}
pool = multiprocessing.get_context("fork").Pool(1)
def said(customer):
    try: return pool.apply(charge, (customer,)).id
    except Exception as error: return str(error)
class Pooled(VendorTask, Output):
    def run(self):
        self.write()
        print("FIRST", said("cus_task"))
class PlainPooled(Output):
    def run(self):
        self.write()
        print("SECOND", said("cus_plain"))
assert said("cus_before").startswith("pi_")
assert luigi.build([Pooled(), PlainPooled()])
assert said("cus_after").startswith("pi_")
pool.terminate()
""",
    )
    assert code == 0, said
    for name in ("FIRST", "SECOND"):
        (line,) = [line for line in said.splitlines() if line.startswith(name)]
        assert "outside any vendor task" in line
    assert customers(here) == ["cus_after", "cus_before"]


NESTED = """
class Inner({bases}Output):
    customer = luigi.Parameter()
    def run(self):
        errors = []
        def work(n):
            try: charge(f"{{self.customer}}_{{n}}")
            except Exception as error: errors.append(error)
        threads = [threading.Thread(target=work, args=(n,)) for n in range(2)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        if errors: raise errors[0]
        self.write()
class Outer(VendorTask, Output):
    run_id = "outer_{name}"
    def run(self):
        go, done = threading.Event(), threading.Event()
        def own():
            go.wait()
            charge("cus_outer_thread")
            done.set()
        threading.Thread(target=own).start()
        inner = luigi.build([Inner(customer="cus_inner")])
        go.set(); done.wait()
        charge("cus_outer")
        assert inner is {succeeds}
        self.write()
assert luigi.build([Outer()])
"""


def test_the_threads_of_a_nested_build_belong_to_its_own_tasks(here: Site) -> None:
    nested = NESTED.format(bases="VendorTask, ", name="vendor", succeeds=True)
    code, said = run(here, f"from luigi_spendguard import VendorTask\n{TASKS}{nested}")
    assert code == 0, said
    assert customers(here) == ["cus_inner_0", "cus_inner_1", "cus_outer", "cus_outer_thread"]
    assert here.run("outer_vendor")["spent_usd"] == "2.00"


def test_those_of_a_nested_plain_task_spend_nothing(here: Site) -> None:
    nested = NESTED.format(bases="", name="plain", succeeds=True).replace("assert inner is True", "")
    code, said = run(here, f"from luigi_spendguard import VendorTask\n{TASKS}{nested}")
    assert code == 0, said
    assert customers(here) == ["cus_outer", "cus_outer_thread"]


TWO = """
import stripe, threading
from luigi_spendguard import VendorTask
first_in, first_over, second_in = threading.Event(), threading.Event(), threading.Event()
class First(VendorTask, Output):
    def run(self):
        first_in.set()
        second_in.wait(60)
        charge("cus_first")
        self.write()
class Second(VendorTask, Output):
    def run(self):
        second_in.set()
        first_over.wait(60)
        charge("cus_second")
        threads = [threading.Thread(target=charge, args=(f"cus_second_{n}",)) for n in range(2)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        self.write()
def build(task):
    assert luigi.build([task], no_install_shutdown_handler=True)
def first():
    build(First())
    first_over.set()
def second():
    first_in.wait(60)
    build(Second())
threads = [threading.Thread(target=first), threading.Thread(target=second)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert stripe.api_key is None
"""


def test_the_first_of_two_builds_to_end_takes_nothing_from_the_other(here: Site) -> None:
    here.configure(worker={"no_install_shutdown_handler": "true"})  # Luigi's signals are the main thread's.
    code, said = python(here, TWO.replace(", no_install_shutdown_handler=True", ""))
    assert code == 0, said
    assert customers(here) == ["cus_first", "cus_second", "cus_second_0", "cus_second_1"], said


BESIDE = """
import threading
from luigi_spendguard import VendorTask
runs, over = threading.Event(), threading.Event()
class Beside(VendorTask, Output):
    run_id = "beside_{name}"
    def run(self):
        runs.set()
        over.wait(60)
        charge("cus_beside")
        self.write()
def tried(who):
    try: charge("cus_" + who)
    except Exception as error: print("DENIED", who, error)
class Own({bases}Output):
    def requires(self):
        tried("requires")
        return []
    def complete(self):
        tried("complete")
        return super().complete()
    def run(self):
        if {fails}: raise RuntimeError("as it should")
        self.write()
    def on_success(self):
        tried("on_success")
    def on_failure(self, error):
        tried("on_failure")
        return "failed"
for event in (luigi.Event.START, luigi.Event.SUCCESS, luigi.Event.FAILURE, luigi.Event.PROCESSING_TIME):
    Own.event_handler(event)(lambda task, *more, event=event: tried(event))
first = threading.Thread(target=lambda: luigi.build([Beside()]))
first.start()
runs.wait(60)
luigi.build([Own()])
over.set()
first.join()
"""


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("bases", ["VendorTask, ", ""])
def test_what_a_worker_calls_around_run_is_not_paid_by_another_builds_task(
    here: Site, bases: str, fails: bool
) -> None:
    """In a process with several builds at once, one of which runs its only vendor task."""
    here.configure(worker={"no_install_shutdown_handler": "true"})  # Luigi's signals are the main thread's.
    code, said = python(here, BESIDE.format(bases=bases, fails=fails, name=f"{bases}{fails}"))
    assert code == 0, said
    denied = {line.split()[1] for line in said.splitlines() if line.startswith("DENIED")}
    expected = {"requires", "complete", "on_failure" if fails else "on_success", luigi.Event.START}
    assert expected <= denied, said
    assert customers(here) == ["cus_beside"]


LEFT = """
import threading
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.pool import ThreadPool
from luigi_spendguard import VendorTask
go = threading.Event()
def later():
    go.wait(60)
    try: charge("cus_left")
    except Exception as error: print("DENIED", error)
left = threading.Thread(target=later)
pools = []
class Leaves(VendorTask, Output):
    run_id = "left_{name}"
    def run(self):
        left.start()
        pools.extend([ThreadPoolExecutor(1), ThreadPool(1)])
        pools[0].submit(int).result()
        self.write()
class Next(VendorTask, Output):
    run_id = "next_{name}"
    def run(self):
        go.set()
        left.join()
        pools[0].submit(charge, "cus_pool").result()
        pools[1].apply(charge, ("cus_other_pool",))
        self.write()
assert luigi.build([Leaves(), Next()])
"""


def test_a_thread_that_an_attempt_has_left_spends_nothing_of_the_next_one(here: Site) -> None:
    """Its run may be revoked by now. A pool that a task has made is the next one's who uses it."""
    code, said = python(here, LEFT.format(name="a"))
    assert code == 0, said
    assert "DENIED" in said
    assert customers(here) == ["cus_other_pool", "cus_pool"]
    assert here.run("next_a")["spent_usd"] == "2.00"


SHARED = """
import threading
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.pool import ThreadPool
from luigi_spendguard import VendorTask
pools, made, over = [], threading.Event(), threading.Event()
class Makes(VendorTask, Output):
    run_id = "makes"
    def run(self):
        pools.extend([ThreadPoolExecutor(1), ThreadPool(1)])
        pools[0].submit(int).result()
        made.set()
        over.wait(60)
        self.write()
class Uses(VendorTask, Output):
    run_id = "uses"
    def run(self):
        pools[0].submit(charge, "cus_0").result()
        list(pools[0].map(charge, ["cus_1"]))
        pools[1].apply(charge, ("cus_2",))
        pools[1].map(charge, ["cus_3"])
        list(pools[1].imap(charge, ["cus_4"]))
        self.write()
def left(pool):
    try: pool.submit(charge, "cus_plain").result()
    except Exception as error: print("DENIED", error)
class Plain(Output):
    def run(self):
        left(pools[0])
        self.write()
first = threading.Thread(target=lambda: luigi.build([Makes()]))
first.start()
made.wait(60)
assert luigi.build([Uses(), Plain()])
over.set()
first.join()
"""


def test_what_a_pool_is_given_is_paid_by_who_gives_it(here: Site) -> None:
    """Its threads were begun by another task, which still runs."""
    here.configure(worker={"no_install_shutdown_handler": "true"})  # Luigi's signals are the main thread's.
    code, said = python(here, SHARED)
    assert code == 0, said
    assert "DENIED" in said
    assert customers(here) == [f"cus_{n}" for n in range(5)]
    assert here.run("makes")["spent_usd"] == "0.00"
    assert here.run("uses")["spent_usd"] == "5.00"
