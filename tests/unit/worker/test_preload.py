"""What is loaded in a worker for the children that it will fork, and what is not."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import stripe
from stripe._http_client import HTTPClient

from luigi_spendguard.proxy import stripe as binding
from luigi_spendguard.worker import preload
from tests.support.processes import environment

#: Prepares for a vendor task, in a process of its own; prints what that has changed.
PREPARE = """
import json, multiprocessing, os, sys, threading
import luigi
from luigi_spendguard import VendorTask
from luigi_spendguard.worker import preload

class Task(VendorTask, luigi.Task):
    vendors = {vendors}

def opened():
    folder = "/proc/self/fd"  # The listing itself is open as it is made, and not after.
    return sorted(fd for fd in os.listdir(folder) if os.path.exists(f"{{folder}}/{{fd}}"))

{imports}
if __name__ == "__main__":
    multiprocessing.set_start_method({method!r})
    modules, files = set(sys.modules), opened()
    forked = preload.prepare(Task())
    late = set(sys.modules) - modules
    preload.prepare(Task())
    print(json.dumps([forked, sorted(late), opened() == files, threading.active_count()]))
"""


def prepared(imports: str = "", *vendors: str, method: str = "fork") -> tuple[bool, set[str]]:
    """Return whether children are forked, and what is loaded for them by a pipeline with these `imports`."""
    code = PREPARE.format(imports=imports, vendors=vendors, method=method)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=environment()
    )
    assert done.returncode == 0, done.stderr
    forked, late, same_files, threads = json.loads(done.stdout)
    assert (same_files, threads) == (True, 1), "something was opened or started for children to inherit"
    return forked, {name for name in late if not name.startswith("_")}


@pytest.mark.parametrize(
    ("imports", "vendors"),
    [("import stripe", ()), ("", ("stripe",))],
    ids=["imported", "named"],
)
def test_what_the_sdk_of_a_pipeline_loads_late_is_loaded(imports: str, vendors: tuple[str, ...]) -> None:
    forked, late = prepared(imports, *vendors)
    assert forked
    assert {"stripe._api_requestor", "stripe._payment_intent", "httpcore"} <= late
    assert not {name for name in late if name.startswith("twilio")}


def test_an_sdk_that_no_pipeline_has_imported_is_not_loaded() -> None:
    assert prepared() == (True, set())


def test_twilios_is_known_by_its_clients() -> None:
    _, late = prepared("from twilio.rest import Client")
    assert {"twilio.rest.api.v2010.account.message", "luigi_spendguard.proxy.twilio_http"} <= late
    assert "stripe._payment_intent" not in late


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_nothing_is_loaded_for_children_that_would_not_have_it(method: str) -> None:
    assert prepared("import stripe", "stripe", method=method) == (False, set())


def test_what_a_child_has_loaded_of_sdks_is_loaded_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("stripe._product", "json.tool"):
        importlib.import_module(name)
    told = preload.loaded_since(sys.modules.keys() - {"stripe._product", "json.tool"})
    assert told == preload.Loaded(("stripe._product",))
    assert preload.loaded_since(set(sys.modules)) is None
    monkeypatch.delitem(sys.modules, "stripe._product")
    preload.take(preload.Loaded(("stripe._product", "stripe._no_such_part")))
    assert "stripe._product" in sys.modules


def test_what_cannot_be_known_or_loaded_is_tried_once_and_is_the_tasks_to_say(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried: list[str] = []

    def broken(named: Any = None) -> list[str]:
        tried.append("task" if named is not None else "stripe")
        raise ImportError("no")

    monkeypatch.setattr(preload.multiprocessing, "get_start_method", lambda: "fork")
    monkeypatch.setattr(preload, "_prepared", set())
    monkeypatch.setattr(preload, "_LATE", {"stripe": broken})
    monkeypatch.setattr(preload, "vendors_of", broken)
    monkeypatch.setattr(preload, "_is_imported", lambda name: True)
    assert [preload.prepare("task"), preload.prepare("task")] == [True, True]
    assert tried == ["task", "stripe", "task"]


#: Forks while another thread loads something; the child loads the same.
MEANWHILE = """
import importlib, multiprocessing, os, signal, sys, threading
import luigi.worker
from luigi_spendguard.worker import preload

sys.path.insert(0, {folder!r})
sys.loading, sys.enough = threading.Event(), threading.Event()
multiprocessing.set_start_method("fork")
preload._LATE = {{"stripe": lambda: importlib.import_module("slow")}}
preload._is_imported = lambda name: True
threading.Thread(target=lambda: {act}, daemon=True).start()
sys.loading.wait()
threading.Timer(0.2, sys.enough.set).start()
with luigi.worker.fork_lock:
    child = os.fork()
if not child:
    signal.alarm(10)
    importlib.import_module("slow")
    os._exit(0)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.parametrize("act", ["preload.prepare(luigi.Task())", "preload.take(preload.Loaded(('slow',)))"])
def test_no_worker_forks_a_child_while_that_of_another_thread_loads_something(
    tmp_path: Path, act: str
) -> None:
    (tmp_path / "slow.py").write_text("import sys\nsys.loading.set()\nsys.enough.wait()\n")
    code = MEANWHILE.format(folder=str(tmp_path), act=act)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=environment()
    )
    assert (done.returncode, done.stderr) == (0, "")


TOLD = {"verify_ssl_certs": True, "proxy": None}


@pytest.mark.parametrize(
    ("asked", "bundle", "is_ready"),
    [(TOLD, None, True), (TOLD | {"proxy": "http://proxy:3128"}, None, False), (TOLD, "/other.pem", False)],
    ids=["the same", "with a proxy", "with other certificates"],
)
def test_the_sdks_asynchronous_client_is_ready_once_for_who_would_make_the_same(
    monkeypatch: pytest.MonkeyPatch, asked: dict[str, Any], bundle: str | None, is_ready: bool
) -> None:
    requestor: Any = importlib.import_module("stripe._api_requestor")
    made: list[HTTPClient] = []

    def make(**_: Any) -> HTTPClient:
        made.append(HTTPClient())
        return made[-1]

    monkeypatch.setattr(requestor, "new_http_client_async_fallback", make)
    monkeypatch.setattr(stripe, "default_http_client", None)
    monkeypatch.setattr(binding, "_made_async", {})
    binding.preload()
    assert len(made) == 1
    if bundle is not None:
        monkeypatch.setattr(stripe, "ca_bundle_path", bundle)
    client = requestor.new_http_client_async_fallback(**asked)
    assert (client is made[0]) == is_ready
    assert requestor.new_http_client_async_fallback(**asked) not in (client, made[0])
