"""Bad input and a broken surrounding: one clear error that says what to do; nothing is sent or lost."""

from __future__ import annotations

import json
import os
import resource
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import quote

import pytest

from luigi_spendguard.ledger import Ledger, claims, runs
from luigi_spendguard.ledger.migrations import migrate
from luigi_spendguard.ledger.runs import RunRequest
from luigi_spendguard.money import Micros
from tests.support.processes import free_port, listening, wait_until
from tests.support.shapes import run_build
from tests.support.site import Site


@pytest.fixture
def still(unstarted: Site) -> Site:
    return unstarted


def start_refused(site: Site) -> str:
    """Return what luigid-spendguard says when it does not start."""
    done = subprocess.run(
        [sys.executable, "-m", "scheduler_patch", "--address", "127.0.0.1", "--port", str(site.port)],
        cwd=site.folder,
        env=site.environment(),
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    return done.stderr


def test_a_bad_cap_in_luigi_cfg_stops_the_start(still: Site) -> None:
    for cap in ("-5", "nan", "lots", "1e9", "99999999999"):
        still.configure(spendguard={"default_cap_usd": cap})
        assert f"{still.config}: [spendguard] default_cap_usd:" in start_refused(still), cap


def test_a_bad_budget_of_a_root_refuses_its_vendor_tasks(site: Site) -> None:
    report = site.folder / "out" / "Report__99914b932b"
    for cap in ("-5", "nan", "lots", "99999999999"):
        _, out = site.luigi("Billing", "--n", "1", f"--budget-usd={cap}")
        assert site.stripe.posts() == [], out
        assert "Billing.budget_usd is not usable" in out
        assert "such as 300" in out or "largest amount" in out
        report.unlink()  # It was written; so will the next one's be.


def test_asking_for_more_than_the_limit_gets_the_limit_and_is_said(site: Site) -> None:
    site.configure(spendguard={"default_cap_usd": 100})
    _, out = site.luigi("Billing", "--n", "1", "--budget-usd", "500", "--run-id", "r")
    assert "$500.00 was asked, $100.00 granted" in out
    assert site.run("r")["cap_usd"] == "100.00"
    assert "$500.00 was asked" in site.run("r")["note"]


def test_an_unknown_vendor_is_refused_by_name(still: Site) -> None:
    still.configure(spendguard_paypal={"secret": "x" * 20})
    assert "[spendguard_paypal] is no section of luigi_spendguard" in start_refused(still)


def test_a_ledger_that_cannot_be_written_stops_the_start(still: Site) -> None:
    if os.geteuid() == 0:
        still.configure(spendguard={"ledger_url": "sqlite:////proc/spendguard/x.db"})
        Path("/proc/version").read_text()
    else:
        locked = still.folder / "locked"
        locked.mkdir(mode=0o500)
        still.configure(spendguard={"ledger_url": f"sqlite:///{locked}/x/y.db"})
    still.start()
    _, out = still.luigi("Charge", "--customer", "c")
    assert still.stripe.posts() == []
    assert "cannot be written" in out
    assert "ledger_url" in out


@pytest.mark.parametrize("what", ["newer", "foreign", "garbage"])
def test_a_ledger_file_that_is_not_ours_stops_the_start(still: Site, what: str) -> None:
    if what == "newer":
        migrate(still.ledger)
        with sqlite3.connect(still.ledger) as db:
            db.execute("INSERT INTO migration (number, applied_at) VALUES (99, 0)")
        db.close()
        says = "was written by a newer version"
    else:
        still.ledger.parent.mkdir()
        if what == "foreign":
            with sqlite3.connect(still.ledger) as db:
                db.execute("CREATE TABLE customers (id)")
            db.close()
        else:
            still.ledger.write_bytes(b"this is no database, whatever its name is" * 100)
        says = {"foreign": "is a database of something else", "garbage": "spendguard.db is not a ledger"}[
            what
        ]
    before = still.ledger.read_bytes()
    assert says in start_refused(still)
    assert still.ledger.read_bytes() == before


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_local_ledger_that_is_not_ours_leaves_plain_tasks(still: Site, workers: str) -> None:
    still.ledger.parent.mkdir(exist_ok=True)
    still.ledger.write_bytes(b"something else" * 500)
    _, said = still.luigi("Billing", "--n", "2", "--local-scheduler", "--workers", workers)
    refused = f"the ledger cannot be used now: {still.ledger} is not a ledger"
    assert f"Vendor tasks are refused before run(): {refused}" in said
    assert "Uncaught" not in said
    assert list((still.folder / "out").glob("Report*"))
    assert still.stripe.posts() == []


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_run_that_a_local_ledger_refuses_leaves_plain_tasks(still: Site, workers: str) -> None:
    migrate(still.ledger)
    ledger = Ledger(still.ledger)
    for _ in range(2):  # The second run of that root has the name that somebody gives his run then.
        ledger.write(claims.close_run, "Nightly").result()
        ledger.write(runs.open_run, RunRequest("Nightly", True, "Nightly", "Nightly", Micros(0))).result()
    ledger.close()
    _, said = still.luigi(
        "Billing", "--n", "2", "--local-scheduler", "--workers", workers, SPENDGUARD_RUN_ID="Nightly~2"
    )
    assert "the name Nightly~2 is taken by a run of another root: choose a run_id" in said
    assert "Traceback" not in said
    assert list((still.folder / "out").glob("Report*"))
    assert still.stripe.posts() == []


LOSES = """
import luigi, os
from pathlib import Path
from tests.support.pipelines import Charge, Output, charge

class Loses(Charge):
    def run(self):
        charge("cus_lost")
        for path in Path(os.environ["LEDGER"]).parent.iterdir():
            path.unlink()
        self.write()

class After(Output):
    def requires(self):
        return Loses("lost")
    def run(self):
        self.write()

class Root(luigi.WrapperTask):
    def requires(self):
        return [After(), Charge("later")]
"""


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_local_ledger_that_is_lost_meanwhile_leaves_plain_tasks(still: Site, workers: str) -> None:
    (still.folder / "loses.py").write_text(LOSES)
    env = {"LEDGER": str(still.ledger), "IMPATIENT": "1"}
    _, said = still.luigi("Root", "--local-scheduler", "--workers", workers, module="loses", **env)
    assert "Uncaught" not in said
    assert list((still.folder / "out").glob("After*")), said


def test_a_locked_ledger_denies_and_goes_on_when_it_is_free(site: Site) -> None:
    site.luigi("Charge", "--customer", "first", "--workers", "1")
    lock = sqlite3.connect(site.ledger, isolation_level=None)
    lock.execute("BEGIN IMMEDIATE")
    _, out = site.luigi("Charge", "--customer", "second", timeout=60)
    assert site.stripe.moved() == 100
    assert "locked" in out
    lock.execute("ROLLBACK")
    lock.close()
    code, out = site.luigi("Charge", "--customer", "second")
    assert (code, site.stripe.moved()) == (0, 200), out


def test_a_full_disk_denies_and_says_so(still: Site) -> None:
    """The disk is full for luigid alone: its files may not grow beyond a limit (RLIMIT_FSIZE)."""
    still.start()
    assert still.luigid is not None
    still.luigi("Charge", "--customer", "first", "--workers", "1")
    size = still.ledger.with_name(still.ledger.name + "-wal").stat().st_size
    resource.prlimit(still.luigid.popen.pid, resource.RLIMIT_FSIZE, (size, size))
    _, out = still.luigi("Charge", "--customer", "second", timeout=60)
    assert still.stripe.moved() == 100, out
    assert "ledger" in out
    assert "disk" in out
    still.luigid.kill()
    still.start()
    code, out = still.luigi("Charge", "--customer", "second")
    assert (code, still.stripe.moved()) == (0, 200), out


def test_an_unreachable_scheduler_denies_within_seconds(site: Site) -> None:
    """The worker has its task; luigid goes away before the call."""
    site.configure(core={"rpc_retry_attempts": 1, "rpc_retry_wait": 1})
    worker = site.worker("Spender", "--name", "a", "--race", "x", "--workers", "1", IMPATIENT="1")
    wait_until((site.folder / "out" / "ready-x-a").exists, what="its task")
    assert site.luigid is not None
    site.luigid.end()
    started = time.monotonic()
    (site.folder / "out" / "go-x").touch()
    out, _ = worker.communicate(timeout=100)
    assert time.monotonic() - started < 60
    assert site.stripe.posts() == []
    assert "cannot be reached" in out
    assert "start luigid-spendguard" in out


def test_a_stock_luigid_on_the_other_end_is_named(still: Site) -> None:
    still.configure(core={"rpc_retry_attempts": 1, "rpc_retry_wait": 1})
    stock = "from luigi.cmdline import luigid; luigid()"
    script = still.folder / "stock_luigid.py"
    script.write_text(stock)
    still.luigid = None
    process = subprocess.Popen(
        [sys.executable, str(script), "--address", "127.0.0.1", "--port", str(still.port)],
        cwd=still.folder,
        env=still.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until(lambda: listening(still.port), what="stock luigid")
        code, out = still.luigi("Billing", "--n", "1", timeout=60)
        assert still.stripe.posts() == []
        assert "luigid-spendguard" in out
        assert "keeps no budgets: run luigid-spendguard there instead of luigid" in out
        assert (still.folder / "out").joinpath("Report__99914b932b").exists()
        code, _, err = still.cli("runs")
        assert (code, "stock luigid" in err) == (3, True)
    finally:
        process.terminate()
        process.wait(10)


@pytest.mark.parametrize("given", ["w" * 20, None])
def test_a_wrong_or_missing_worker_token_is_named(still: Site, given: str | None) -> None:
    still.configure(spendguard={"worker_token": "v" * 20})
    still.start()
    still.configure(spendguard={"worker_token": given})
    _, out = still.luigi("Charge", "--customer", "c")
    assert still.stripe.posts() == []
    assert f"the worker token {'is wrong' if given else 'is missing'}" in out
    assert "v" * 20 not in out
    assert "w" * 20 not in out
    still.configure(spendguard={"worker_token": "v" * 20})
    code, out = still.luigi("Charge", "--customer", "c")
    assert (code, still.stripe.moved()) == (0, 100), out


def test_no_secret_anywhere_is_a_clear_error(site: Site) -> None:
    site.configure(spendguard_stripe={"secret": None})
    _, out = site.luigi("Charge", "--customer", "c", STRIPE_SECRET_KEY="")
    assert site.stripe.posts() == []
    assert "there is no secret for stripe: set [spendguard_stripe] secret" in out


def test_the_secret_may_live_in_its_usual_variable(site: Site) -> None:
    site.configure(spendguard_stripe={"secret": None})
    code, out = site.luigi("Charge", "--customer", "c", STRIPE_SECRET_KEY="sk_test_of_the_environment")
    assert (code, site.stripe.moved()) == (0, 100), out
    assert {r["authorization"] for r in site.stripe.posts()} == {"Bearer sk_test_of_the_environment"}


def test_a_broken_luigi_cfg_refuses_vendor_tasks_and_leaves_plain_ones(site: Site) -> None:
    site.configure(spendguard={"defualt_cap_usd": 5})
    _, out = site.luigi("Billing", "--n", "1")
    assert site.stripe.posts() == []
    assert "defualt_cap_usd: there is no such setting: did you mean default_cap_usd?" in out
    assert (site.folder / "out").joinpath("Report__99914b932b").exists()


def test_a_port_that_is_taken_is_said_plainly(site: Site) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "scheduler_patch", "--address", "127.0.0.1", "--port", str(site.port)],
        cwd=site.folder,
        env=site.environment(),
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode != 0
    assert "Address already in use" in done.stderr


def test_the_command_line_says_when_nothing_answers(still: Site) -> None:
    code, out, err = still.cli("--url", f"http://127.0.0.1:{free_port()}", "runs")
    assert (code, out) == (3, "")
    assert "cannot be reached" in err
    assert "Traceback" not in err


def test_a_worker_token_that_no_daily_cap_bounds_is_warned_of(still: Site) -> None:
    still.configure(spendguard={"worker_token": "a-token-of-the-workers-0123"})
    still.start()
    assert still.luigid is not None
    assert "worker_token is set without daily_cap_usd" in still.luigid.text()
    still.luigid.end()
    still.configure(spendguard={"daily_cap_usd": 500})
    before = len(still.luigid.text())
    still.start()
    assert "daily_cap_usd" not in still.luigid.text()[before:]


@pytest.mark.parametrize("local", [False, True], ids=["remote", "local"])
def test_what_only_serves_display_refuses_no_task(site: Site, local: bool) -> None:
    """A parameter of 200,000 ids, and one that no database takes: cut and escaped."""
    code = """
class Wide(VendorTask, luigi.Task):
    ids = luigi.ListParameter()
    note = luigi.Parameter(significant=False)
    done = False
    def complete(self):
        return self.done
    def run(self):
        charge("cus_wide")
        Wide.done = True
build(Wide(ids=list(range(200_000)), note="half \\udcff and \\0"))
"""
    if local:
        code = code.replace('\\0"))', '\\0"), local_scheduler=True)')
    done = run_build(site.folder, site.environment(), code)
    assert site.stripe.moved() == 100, done.stdout[-2000:] + done.stderr[-2000:]
    (call,) = site.call("GET", "/calls", token=None)[1]
    assert call["params"]["ids"].endswith("characters)")
    assert len(call["params"]["ids"]) < 400
    assert call["params"]["note"] == "half \\udcff and \\x00"


def test_what_is_no_family_is_refused_of_a_vendor_task_and_harms_nobody(site: Site) -> None:
    site.luigi("Billing", "--n", "1", "--run-id", "r")
    for family, answer in (({"a": 1}, 400), ("V", 200)):
        ours = {"run_id": "r", "announcing": True}
        said = {"worker": "w", "task_id": "t", "family": family, "spendguard": ours}
        status, reply = site.call("GET", f"/api/add_task?data={quote(json.dumps(said), safe='')}", token=None)
        assert status == answer, reply
        if status == 400:
            assert reply == {"error": "bad_request", "message": "'family' of a vendor task must be a text"}
        for route in ("/runs", "/runs/r", "/runs/r/calls"):
            assert site.call("GET", route)[0] == 200, (family, route)
        assert site.call("POST", "/runs/r/top_up", {"usd": "5"})[0] == 200, family
