"""`import luigi_spendguard` alone guards where Luigi runs a pipeline, before `import luigi` and after it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.site import SECRET, Site

#: What imports the package, before Luigi and after it.
FORMS = {
    "bare first": "import luigi_spendguard\nimport luigi",
    "bare last": "import luigi\nimport luigi_spendguard",
    "error alone": "import luigi\nfrom luigi_spendguard.errors import SpendDenied",
    "VendorTask first": "from luigi_spendguard import VendorTask\nimport luigi",
    "VendorTask last": "import luigi\nfrom luigi_spendguard import VendorTask",
}
#: Plain tasks that charge, and a root that says what it finds when it is made.
PIPELINE = """
import os, stripe
from pathlib import Path
stripe.api_base, stripe.enable_telemetry = os.environ["STRIPE_BASE"], False
stripe.max_network_retries = 0
OUT = Path(os.environ["OUT_DIR"])

class Charge(luigi.Task):
    number = luigi.IntParameter()
    def output(self):
        return luigi.LocalTarget(str(OUT / self.task_id))
    def run(self):
        print("FOUND", os.environ["STRIPE_SECRET_KEY"], flush=True)
        stripe.api_key = os.environ["STRIPE_SECRET_KEY"]
        stripe.PaymentIntent.create(amount=100, currency="usd", customer=f"cus_{self.number}",
                                    payment_method="pm_card_visa", confirm=True)
        with self.output().open("w") as file:
            file.write("done")

class BP(luigi.WrapperTask):
    def requires(self):
        return [Charge(number=number) for number in range(3)]
"""


def run(site: Site, code: str, *args: str) -> tuple[int, str]:
    """Run `luigi --module mixed ARGS` by Luigi's own command; without them the module as a script."""
    (site.folder / "mixed.py").write_text(code)
    command = [str(Path(sys.executable).with_name("luigi")), "--module", "mixed", *args]
    return start(site, command if args else [sys.executable, "mixed.py"])


def start(site: Site, command: list[str]) -> tuple[int, str]:
    """Return its exit code and all it said."""
    own = {"STRIPE_BASE": site.stripe.url, "SCHEDULER": site.url, "PYTHONPATH": str(site.folder)}
    done = subprocess.run(
        command, cwd=site.folder, env=site.environment(**own), capture_output=True, text=True, timeout=90
    )
    return done.returncode, done.stdout + done.stderr


def is_denied(site: Site, said: str) -> bool:
    found = {line.split()[1] for line in said.splitlines() if line.startswith("FOUND")}
    assert found == {"no-secret-outside-vendor-tasks"}, said
    assert "outside a vendor task" in said or "VendorTask" in said, said
    return site.stripe.moved() == 0 and SECRET not in said


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("form", FORMS)
def test_plain_tasks_are_denied_under_luigis_own_command(here: Site, form: str, workers: int) -> None:
    _, said = run(here, FORMS[form] + PIPELINE, "BP", "--workers", str(workers))
    assert is_denied(here, said)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("form", FORMS)
def test_and_in_a_script_that_builds(here: Site, form: str, workers: int) -> None:
    _, said = run(here, FORMS[form] + PIPELINE + f"\nluigi.build([BP()], workers={workers})\n")
    assert is_denied(here, said)


def test_and_with_a_scheduler_of_its_own(here: Site) -> None:
    _, said = run(here, FORMS["bare first"] + PIPELINE, "BP", "--local-scheduler")
    assert is_denied(here, said)


def test_and_a_family_that_luigi_cfg_names_is_a_vendor_task(here: Site) -> None:
    here.configure(spendguard={"vendor_tasks": "Charge"})
    try:
        _, said = run(here, FORMS["bare first"] + PIPELINE, "BP", "--workers", "2")
    finally:
        here.configure(spendguard={"vendor_tasks": None})
    [spent] = [one["spent_usd"] for one in here.call("GET", "/runs")[1] if one["root_family"] == "BP"]
    assert (here.stripe.moved(), spent, SECRET in said) == (300, "3.00", False), said


OWN_WORKERS = """
import luigi.worker, luigi_spendguard
class Mine(luigi.worker.Worker): pass
from luigi.worker import Worker as Stock
from luigi.scheduler import Scheduler
for kind in (Mine, Stock):
    with kind(scheduler=Scheduler()) as worker:
        worker.add(BP())
        worker.run()
print("BACK", os.environ["STRIPE_SECRET_KEY"] == KEY)
"""


def test_and_by_workers_that_a_script_makes_itself(here: Site) -> None:
    code, said = run(here, f"import luigi{PIPELINE}KEY = os.environ['STRIPE_SECRET_KEY']{OWN_WORKERS}")
    assert is_denied(here, said)
    assert "BACK True" in said, said
    assert code == 0, said


LATE = """
class Late(luigi.WrapperTask):
    def requires(self):
        import luigi_spendguard
        return BP()
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_and_where_a_task_of_the_worker_imports_it(here: Site, workers: int) -> None:
    _, said = run(here, f"import luigi{PIPELINE}{LATE}", "Late", "--workers", str(workers))
    assert is_denied(here, said)


AT_ONCE = """
import threading
both, first = threading.Barrier(2), set()
class Root(luigi.WrapperTask):
    number = luigi.IntParameter()
    def requires(self):
        import luigi_spendguard
        if self.number not in first:
            first.add(self.number)
            both.wait(60)
        return Charge(number=self.number)
def build(number):
    luigi.build([Root(number=number)], no_lock=True)
threads = [threading.Thread(target=build, args=(number,)) for number in range(2)]
for thread in threads: thread.start()
for thread in threads: thread.join(60)
"""


def test_and_where_two_threads_have_the_plugin_installed_at_once(here: Site) -> None:
    """The second one waits for the first, and has a guarded worker then, too."""
    here.configure(spendguard={"vendor_tasks": "Charge"}, worker={"no_install_shutdown_handler": "true"})
    try:
        _, said = run(here, f"import luigi{PIPELINE}{AT_ONCE}")
    finally:
        here.configure(spendguard={"vendor_tasks": None}, worker={"no_install_shutdown_handler": None})
    assert "not guarded" not in said, said
    assert (here.stripe.moved(), SECRET in said) == (200, False), said


ASSISTANT = """
import os, sys, luigi
from luigi.rpc import RemoteScheduler
from luigi.task import task_id_str
from luigi.worker import Worker
scheduler, params = RemoteScheduler(os.environ["SCHEDULER"]), {"number": "7"}
scheduler.add_task(worker="gone", task_id=task_id_str("Charge", params), family="Charge", module="mixed",
                   params=params)
scheduler.add_worker("gone", [])
with Worker(scheduler=scheduler, assistant=True) as worker:
    worker.run()
assert "mixed" in sys.modules
"""


def test_and_in_an_assistant_that_loads_it_with_its_task(here: Site) -> None:
    (here.folder / "mixed.py").write_text(FORMS["bare last"] + PIPELINE)
    (here.folder / "assistant.py").write_text(ASSISTANT)
    _, said = start(here, [sys.executable, "assistant.py"])
    assert is_denied(here, said)


REFUSED = """
from luigi_spendguard.errors import PluginError
luigi.__version__ = "4.0.0"
for _ in range(2):
    try: luigi.build([BP()])
    except PluginError as error: print("REFUSED", error)
"""


def test_a_pipeline_that_cannot_be_guarded_is_refused_each_time(here: Site) -> None:
    _, said = run(here, FORMS["bare last"] + PIPELINE + REFUSED)
    assert said.count("REFUSED luigi 4.0.0 is not known") == 2, said
    assert here.stripe.moved() == 0


def test_beside_a_vault_key_task_it_does_not_and_says_so(here: Site) -> None:
    """That is for workers without the plugin."""
    code, said = run(here, f"from luigi_spendguard import VaultKeyTask\nimport luigi{PIPELINE}", "BP")
    assert code == 0, said
    assert said.count("VaultKeyTask is imported, VendorTask is not: this worker is not guarded") == 1, said
    assert here.stripe.moved() == 300


def test_a_process_that_runs_no_pipeline_is_left_as_it_was(here: Site) -> None:
    code, said = run(
        here,
        """
import luigi.interface, luigi.worker, sys
before = luigi.interface._run, luigi.worker.Worker.__init__
sys.argv = ["spendguard", "runs"]
from luigi_spendguard.__main__ import main
try: main()
except SystemExit as ended: assert not ended.code, ended.code
assert (luigi.interface._run, luigi.worker.Worker.__init__) == before
assert "luigi_spendguard.worker" not in sys.modules
assert "stripe" not in sys.modules
""",
    )
    assert code == 0, said
