"""P9: without vendor tasks everything is as under stock Luigi, and luigid's flags are luigid's."""

from __future__ import annotations

import fcntl
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import urllib3

from tests.support.processes import free_port, listening, wait_until
from tests.support.site import FakeStripe, Site

PIPELINE = """
import os, luigi
from pathlib import Path
if os.environ.get("GUARDED"):
    import luigi_spendguard.tasks
    class NotNeeded(luigi_spendguard.tasks.VendorTask, luigi.Task):
        pass
OUT = Path(os.environ["OUT_DIR"])

class Output(luigi.Task):
    def output(self):
        return luigi.LocalTarget(str(OUT / self.task_id))
    def run(self):
        with (OUT / "order").open("a") as file:
            file.write(self.task_id + "\\n")
        with self.output().open("w") as file:
            file.write("done")

class Leaf(Output):
    number = luigi.IntParameter()
    @property
    def priority(self):
        return 50 - self.number

class Fails(Output):
    priority = 12
    def run(self):
        raise ValueError("on purpose")

class AfterFailure(Output):
    priority = 11
    def requires(self):
        return Fails()

class Dynamic(Output):
    priority = 10
    def run(self):
        yield Leaf(number=90)
        super().run()

class Batch(Output):
    part = luigi.Parameter(batch_method=",".join)
    @property
    def priority(self):
        return 9 - int(self.part[0])
    def complete(self):
        return all((OUT / f"part-{p}").exists() for p in self.part.split(","))
    def run(self):
        for part in self.part.split(","):
            (OUT / f"part-{part}").touch()

class Root(luigi.WrapperTask):
    def requires(self):
        return [*(Leaf(number=n) for n in range(5)), Dynamic(), AfterFailure(),
                *(Batch(part=str(n)) for n in range(3))]
"""
_http = urllib3.PoolManager(timeout=30, retries=False)


@pytest.fixture(scope="module")
def vendor_of_both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeStripe]:
    vendor = FakeStripe(tmp_path_factory.mktemp("vendor"))
    yield vendor
    vendor.process.end()


def ran(folder: Path, vendor: FakeStripe, luigid: str, workers: int, **env: str) -> dict[str, Any]:
    """Run the pipeline; return all that a user sees of it."""
    settings = {
        "worker": {"keep_alive": "false", "retry_count": 1},
        "scheduler": {"retry_delay": 900},  # What has failed is looked at before it may be tried again.
    }
    with Site(folder, stripe=vendor, start=False, **settings) as site:
        (folder / "plain.py").write_text(PIPELINE)
        site.start(luigid)
        code, out = site.luigi(
            "Root",
            "--workers",
            str(workers),
            "--retcode-task-failed",
            "30",
            module="plain",
            PYTHONHASHSEED="0",
            **env,
        )
        reply = _http.request("GET", f"{site.url}/api/task_list?data=%7B%22status%22%3A%22%22%7D")
        states = {name: task["status"] for name, task in json.loads(reply.data)["response"].items()}
        summary = out[out.index("===== Luigi Execution Summary =====") :]
        if workers > 1:  # Which of them share a batch is chance.
            states = {name: state for name, state in states.items() if not name.startswith("Batch")}
            summary = next(line for line in summary.splitlines() if line.startswith("This progress"))
        order = (folder / "out" / "order").read_text().splitlines()
        return {
            "code": code,
            "states": states,
            "ledger": site.ledger.exists(),
            "summary": re.sub(r"Worker\(.*?\)", "Worker", summary),
            "order": order if workers == 1 else sorted(order),
        }


@pytest.mark.parametrize("workers", [1, 3])
def test_a_plain_pipeline_ends_as_under_stock_luigi(
    tmp_path: Path, vendor_of_both: FakeStripe, workers: int
) -> None:
    stock = ran(tmp_path / "stock", vendor_of_both, "tests.support.stock_luigid", workers)
    ours = ran(tmp_path / "ours", vendor_of_both, "scheduler_patch", workers, GUARDED="1")
    assert "there were failed tasks" in stock["summary"]
    assert stock["code"] == 30
    assert len(stock["order"]) == 7
    assert ours == stock
    assert not ours["ledger"]


def test_a_guarded_worker_with_plain_tasks_works_with_a_stock_luigid(
    tmp_path: Path, vendor_of_both: FakeStripe
) -> None:
    stock = ran(tmp_path / "stock", vendor_of_both, "tests.support.stock_luigid", 1)
    ours = ran(tmp_path / "ours", vendor_of_both, "tests.support.stock_luigid", 1, GUARDED="1")
    assert ours == stock


@pytest.mark.parametrize("is_complete", [False, True], ids=["is run", "was run before"])
def test_nor_is_a_stock_luigid_told_how_a_plain_root_ends(
    tmp_path: Path, vendor_of_both: FakeStripe, is_complete: bool
) -> None:
    with Site(tmp_path, stripe=vendor_of_both, start=False) as site:
        (tmp_path / "plain.py").write_text(PIPELINE)
        site.start("tests.support.stock_luigid")
        for _ in range(1 + is_complete):
            code, out = site.luigi("Leaf", "--number", "1", module="plain", GUARDED="1")
        assert (code, "This progress looks :)" in out) == (0, True)
        assert "spend_" not in out
        assert not site.state_home.exists(), "something waits for a ledger that there is none of"


def test_no_configuration_of_ours_and_no_token_are_needed(tmp_path: Path, vendor_of_both: FakeStripe) -> None:
    with Site(tmp_path, stripe=vendor_of_both, start=False) as site:
        for section in ("spendguard", "spendguard_stripe"):
            del site.settings[section]
        site.configure()
        (tmp_path / "plain.py").write_text(PIPELINE)
        home = str(tmp_path / "xdg")  # Where a ledger is made by default: neither may make one.
        site.start(XDG_STATE_HOME=home)
        code, out = site.luigi("Leaf", "--number", "1", module="plain", GUARDED="1", XDG_STATE_HOME=home)
        assert code == 0
        assert "This progress looks :)" in out
        assert not (tmp_path / "xdg").exists()


def answers(port: int) -> bool:
    """Ask luigid for its runs; return whether it has answered within 2 seconds."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/runs")
        return connection.getresponse().read() == b"[]"
    except TimeoutError:
        return False
    finally:
        connection.close()


class TestFlags:
    def test_background_pidfile_logdir_and_state_path(
        self, tmp_path: Path, vendor_of_both: FakeStripe
    ) -> None:
        site = Site(tmp_path, stripe=vendor_of_both, start=False)
        pidfile, state = tmp_path / "pid", tmp_path / "given.state"
        args = [
            "--background",
            "--pidfile",
            str(pidfile),
            "--logdir",
            str(tmp_path / "logs"),
            "--state-path",
            str(state),
            "--address",
            "127.0.0.1",
            "--port",
            str(site.port),
        ]
        (tmp_path / "logs").mkdir()
        subprocess.run(
            [sys.executable, "-m", "scheduler_patch", *args],
            cwd=tmp_path,
            timeout=60,
            env=site.environment(),
            check=True,
            stdin=subprocess.DEVNULL,
        )
        wait_until(lambda: listening(site.port), what="luigid in the background")
        pid = int(pidfile.read_text())
        try:
            code, out = site.luigi("Charge", "--customer", "cus_background")
            assert code == 0, out
            run = site.call("GET", "/runs", token=None)[1][0]
            assert run["spent_usd"] == "1.00"
        finally:
            os.kill(pid, signal.SIGTERM)
            wait_until(lambda: not listening(site.port), what="the end of luigid")
        wait_until(state.exists, what="the scheduler's pickle")
        assert any((tmp_path / "logs").iterdir())

    def test_a_unix_socket(self, tmp_path: Path, vendor_of_both: FakeStripe) -> None:
        site = Site(tmp_path, stripe=vendor_of_both, start=False)
        path = tmp_path / "s"
        process = subprocess.Popen(
            [sys.executable, "-m", "scheduler_patch", "--unix-socket", str(path), "--port", str(free_port())],
            cwd=tmp_path,
            env=site.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            connection = http.client.HTTPConnection("localhost")
            connection.sock = socket.socket(socket.AF_UNIX)
            wait_until(lambda: connection.sock.connect_ex(str(path)) == 0, what="the socket")
            connection.request("GET", "/runs")
            reply = connection.getresponse()
            assert (reply.status, reply.read()) == (200, b"[]")
            connection.close()
        finally:
            process.terminate()
            process.wait(20)

    def test_a_signal_while_a_line_is_logged_ends_it(
        self, tmp_path: Path, vendor_of_both: FakeStripe
    ) -> None:
        """Luigi's handler logs, too: called in the midst of that it was lost (`reentrant call`)."""
        site = Site(tmp_path, stripe=vendor_of_both, start=False)
        process = subprocess.Popen(
            [sys.executable, "-m", "scheduler_patch", "--address", "127.0.0.1", "--port", str(site.port)],
            cwd=tmp_path,
            env=site.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        assert process.stderr is not None
        try:
            fcntl.fcntl(process.stderr, fcntl.F_SETPIPE_SZ, 4096)
            wait_until(lambda: listening(site.port), what="luigid")
            wait_until(lambda: not answers(site.port), what="a line that nobody reads")
            process.terminate()
            status = Path(f"/proc/{process.pid}/status")
            wait_until(lambda: not re.search(r"^S(ig|hd)Pnd:.*[1-9a-f]", status.read_text(), re.M), what="it")
            process.communicate(timeout=20)
            assert process.returncode == 0
        finally:
            process.kill()
            process.communicate()
