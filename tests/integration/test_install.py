"""The patched worker is there however a pipeline comes: late, twice, by a factory, in a class of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from urllib.parse import parse_qsl

import pytest

from tests.support.site import Site

#: A pipeline's own module: plain Luigi and the stripe SDK; each test adds its lines.
HEAD = """
import os, luigi, stripe
from pathlib import Path
stripe.enable_telemetry = False
OUT = Path(os.environ["OUT_DIR"])

class Output(luigi.Task):
    def output(self):
        return luigi.LocalTarget(str(OUT / self.task_id))
    def write(self):
        with self.output().open("w") as file:
            file.write("done")

def charge(customer):
    return stripe.PaymentIntent.create(amount=100, currency="usd", customer=customer,
                                       payment_method="pm_card_visa", confirm=True)
"""

CHARGE = """
class Charge(VendorTask, Output):
    customer = luigi.Parameter()
    def run(self):
        charge(self.customer)
        self.write()
"""


def python(site: Site, code: str, **env: str) -> tuple[int, str]:
    """Run a program in the site's folder; return its exit code and all it said."""
    path = site.folder / "program.py"
    path.write_text(HEAD + code)
    done = subprocess.run(
        [sys.executable, str(path)],
        cwd=site.folder,
        env=site.environment(**env),
        capture_output=True,
        text=True,
        timeout=90,
    )
    return done.returncode, done.stdout + done.stderr


def customers(site: Site) -> list[str]:
    """Return who was charged by the vendor's own books."""
    return sorted(dict(parse_qsl(post["body"]))["customer"] for post in site.stripe.posts())


@pytest.fixture(scope="module")
def module_site(tmp_path_factory: pytest.TempPathFactory):
    with Site(tmp_path_factory.mktemp("install")) as site:
        yield site


@pytest.fixture
def here(module_site: Site) -> Site:
    module_site.stripe.forget()
    return module_site


def test_installing_twice_is_installing_once(here: Site) -> None:
    code, said = python(
        here,
        """
import luigi.worker
from luigi_spendguard import install
install(); once = luigi.worker.Worker, stripe.APIRequestor if hasattr(stripe, "APIRequestor") else None
install(); install()
assert (luigi.worker.Worker, once[1]) == once
assert luigi.worker.Worker.__mro__[1].__name__ == "Worker"
assert luigi.worker.Worker.__mro__[1].__module__ == "luigi.worker"
""",
    )
    assert code == 0, said


@pytest.mark.parametrize("version", ["3.7.1", "4.0.0", "3.80.0"])
def test_another_luigi_is_refused_by_its_version(here: Site, version: str) -> None:
    code, said = python(here, f"luigi.__version__ = {version!r}\nimport luigi_spendguard.tasks\n")
    assert code == 1
    assert f"luigi {version} is not known to luigi_spendguard" in said
    assert "install luigi 3.8.x" in said


def test_a_luigi_without_a_seam_is_refused_by_its_name(here: Site) -> None:
    code, said = python(
        here, "import luigi.worker\ndel luigi.worker.Worker._keep_alive\nimport luigi_spendguard.tasks\n"
    )
    assert code == 1
    assert "has no Worker._keep_alive" in said


def test_luigi_build_is_guarded_by_the_import_alone(here: Site) -> None:
    code, said = python(
        here,
        "from luigi_spendguard import VendorTask\n"
        + CHARGE
        + """
assert luigi.build([Charge(customer="cus_build")], workers=2)
""",
    )
    assert code == 0, said
    assert customers(here) == ["cus_build"]
    assert here.run("Charge_cus_build_" + _hash(here, "Charge_cus_build_"))["spent_usd"] == "1.00"


def _hash(site: Site, prefix: str) -> str:
    names = [path.name for path in (site.folder / "out").iterdir() if path.name.startswith(prefix)]
    assert len(names) == 1, names
    return names[0].removeprefix(prefix)


def test_the_factory_guards_where_another_factory_is_named(here: Site) -> None:
    imports = "from luigi_spendguard import VendorTask, WorkerSchedulerFactory\n"
    code, said = python(
        here,
        imports
        + CHARGE
        + """
factory = WorkerSchedulerFactory()
assert luigi.build([Charge(customer="cus_factory")], worker_scheduler_factory=factory)
""",
    )
    assert code == 0, said
    assert customers(here) == ["cus_factory"]


OWN_WORKER = """
import luigi.worker
{early}
class Own({base}):
    pass
{late}
class Factory(luigi.interface._WorkerSchedulerFactory):
    def create_worker(self, scheduler, worker_processes, assistant=False):
        return Own(scheduler=scheduler, worker_processes=worker_processes, assistant=assistant)
"""


def test_a_worker_class_of_ones_own_that_is_not_guarded_runs_no_vendor_task(here: Site) -> None:
    own = OWN_WORKER.format(
        early="", base="luigi.worker.Worker", late="from luigi_spendguard import VendorTask"
    )
    code, said = python(
        here,
        own
        + CHARGE
        + """
assert not luigi.build([Charge(customer="cus_own")], worker_scheduler_factory=Factory())
""",
    )
    assert code == 0, said
    assert "Charge was refused before run(): this Luigi worker is not guarded" in said
    assert "WorkerSchedulerFactory" in said
    assert customers(here) == []


def test_a_worker_class_that_derives_from_ours_is_guarded(here: Site) -> None:
    own = OWN_WORKER.format(
        early="from luigi_spendguard import VendorTask\nfrom luigi_spendguard.worker import GuardedWorker",
        base="GuardedWorker",
        late="",
    )
    code, said = python(
        here,
        own
        + CHARGE
        + """
assert luigi.build([Charge(customer="cus_own")], worker_scheduler_factory=Factory())
""",
    )
    assert code == 0, said
    assert customers(here) == ["cus_own"]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_mixin_imported_as_late_as_in_requires_is_guarded_in_place(here: Site, workers: int) -> None:
    (here.folder / "late_tasks.py").write_text(HEAD + "from luigi_spendguard import VendorTask\n" + CHARGE)
    code, said = python(
        here,
        f"""
class Root(luigi.WrapperTask):
    def requires(self):
        import late_tasks
        return [late_tasks.Charge(customer=f"cus_late_{workers}_{{n}}") for n in range(2)]
assert luigi.build([Root()], workers={workers})
""",
    )
    assert code == 0, said
    assert customers(here) == [f"cus_late_{workers}_{n}" for n in range(2)]
    assert all(row["verdict"] == "allowed" for row in here.call("GET", "/calls", token=None)[1][:2])


def test_two_roots_of_one_build_are_two_runs_with_a_cap_each(here: Site) -> None:
    code, said = python(
        here,
        "from luigi_spendguard import VendorTask\n"
        + CHARGE
        + """
class Root(luigi.WrapperTask):
    run_id = luigi.Parameter()
    budget_usd = "2"
    def requires(self):
        return [Charge(customer=f"cus_{self.run_id}_{n}") for n in range(3)]
luigi.build([Root(run_id="one"), Root(run_id="two")], workers=3)
""",
    )
    assert code == 0, said
    for run_id in ("one", "two"):
        assert sum(f"cus_{run_id}_" in name for name in customers(here)) == 2
        assert here.run(run_id)["spent_usd"] == "2.00"


def test_a_batch_of_vendor_tasks_pays_for_each_member_once(here: Site) -> None:
    code, said = python(
        here,
        "from luigi_spendguard import VendorTask\n"
        + """
class Batch(VendorTask, luigi.Task):
    customer = luigi.Parameter(batch_method=",".join)
    max_batch_size = 10
    def output(self):
        return [luigi.LocalTarget(str(OUT / f"batch-{c}")) for c in self.customer.split(",")]
    def run(self):
        for one, target in zip(self.customer.split(","), self.output()):
            charge(one)
            with target.open("w") as file:
                file.write("done")
class Root(luigi.WrapperTask):
    run_id = "batches"
    def requires(self):
        return [Batch(customer=f"cus_b{n}") for n in range(4)]
assert luigi.build([Root()])
""",
    )
    assert code == 0, said
    assert customers(here) == [f"cus_b{n}" for n in range(4)]
    assert here.run("batches")["spent_usd"] == "4.00"


def test_a_denial_that_the_task_wraps_still_blocks_it(here: Site) -> None:
    code, said = python(
        here,
        "from luigi_spendguard import BudgetExceeded, VendorTask\n"
        + """
class Wrapped(VendorTask, Output):
    run_id, budget_usd = "wrapped", "0.50"
    def run(self):
        try:
            charge("cus_wrapped")
        except BudgetExceeded as error:
            raise RuntimeError("billing failed") from error
found = luigi.build([Wrapped()], detailed_summary=True)
print(found.summary_text)
""",
    )
    assert code == 0, said
    assert customers(here) == []
    assert "1 failed" not in said
    assert "Vendor tasks are blocked:" in said


@pytest.mark.parametrize("call", ["charge('cus_module')", "stripe.Customer.create(email='a@b.c')"])
def test_a_call_while_no_worker_runs_is_left_alone(here: Site, call: str) -> None:
    code, said = python(
        here,
        f"""
from luigi_spendguard import VendorTask
stripe.api_base, stripe.api_key = {here.stripe.url!r}, "sk_test_of_a_web_application"
{call}
""",
    )
    assert code == 0, said
    assert len(here.stripe.posts()) == 1


def test_importing_the_package_alone_loads_neither_worker_nor_sdk(tmp_path: Path) -> None:
    code = "import sys, luigi_spendguard; print(sorted({'stripe', 'luigi.worker'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.strip() == "[]"
