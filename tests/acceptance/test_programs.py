"""Programs that an attempt starts, and that import this package: they belong to it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.test_install import HEAD, python
from tests.support.combinations import combined
from tests.support.processes import wait_until
from tests.support.site import SECRET, Site

#: A program of a vendor task's: the SDK as ever, with the key of its environment.
PROGRAM = """
import os, sys, stripe
import luigi_spendguard.tasks
stripe.api_key = stripe.api_key or os.environ.get("STRIPE_SECRET_KEY")
stripe.max_network_retries = 0
for number in range(int(sys.argv[1])):
    try:
        stripe.PaymentIntent.create(amount=100, currency="usd", customer=f"cus_{number}", confirm=True,
                                    payment_method="pm_card_visa")
        print("PAID", number)
    except Exception as error:
        print("DENIED", type(error).__name__, error)
        if "strict" in sys.argv: raise
"""
TASK = """
import subprocess, sys
from luigi_spendguard import VendorTask, spend_proxy
def start(*args, env=None):
    subprocess.run([sys.executable, "child.py", *args], check=True, env=env)
class Starts(VendorTask, Output):
    run_id = luigi.Parameter()
    budget_usd = "3"
    def run(self):
        start("5")
        if FAILS: raise RuntimeError("died after it had charged")
        self.write()
class ByProxy(Starts):
    def run(self):
        with spend_proxy():
            super().run()
"""


KINDS = ["gateway", "file", "variable", "local"]


@pytest.fixture
def kind(request: pytest.FixtureRequest) -> str:
    """Who has the secret: luigid, or the worker in a file that luigi.cfg names, or in its environment."""
    return str(request.param)


@pytest.fixture
def here(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp(kind)
    with Site(folder, gateway=kind == "gateway", start=kind != "local") as site:
        (folder / "child.py").write_text(PROGRAM)
        if kind == "file":
            (folder / "stripe").write_text(SECRET)
            (folder / "stripe").chmod(0o600)
            site.configure(spendguard_stripe={"secret": None, "secret_file": folder / "stripe"})
            site.secrets = {}
        yield site


def charged(site: Site) -> list[str]:
    """Return who has paid, by the vendor's own books."""
    return sorted(entry["customer"] for entry in site.stripe.books()["moved"])


def program(kind: str, root: str, *, fails: bool = False, workers: int = 1) -> str:
    how = f"local_scheduler={kind == 'local'}, workers={workers}"
    return f"FAILS = {fails}\n{TASK}\nluigi.build([{root}], {how})"


def build(site: Site, kind: str, root: str, **how: Any) -> str:
    code, said = python(site, program(kind, root, **how))
    assert code == 0, said
    return said


@combined(
    "kind root",
    KINDS,
    ["Starts", "ByProxy"],
    indirect=["kind"],
    chosen=[
        ("gateway", "Starts"),
        ("file", "Starts"),
        ("variable", "Starts"),
        ("variable", "ByProxy"),
        ("local", "Starts"),
        ("local", "ByProxy"),
    ],
)
def test_it_is_guarded_as_its_attempt_is(here: Site, kind: str, root: str) -> None:
    """By the gateway, by itself with a secret of its own, or by an open listener of its task's."""
    said = build(here, kind, f"{root}('one')", fails=True)
    if root == "Starts" and kind in ("variable", "local"):
        assert said.count("DENIED") == 5, said
        shown = said.count("spend_proxy()")
        assert shown == (6 if kind == "variable" else 5), "and in the summary, where the run is known"
        assert charged(here) == []
        return
    assert charged(here) == ["cus_0", "cus_1", "cus_2"], said
    assert said.count("DENIED StripeBudgetExceeded") == 2, said
    # Another attempt makes the same calls.
    build(here, kind, f"{root}('one')", workers=2)
    assert charged(here) == ["cus_0", "cus_1", "cus_2"]
    if kind != "local":
        assert here.run("one")["spent_usd"] == "3.00"
        calls = [call for call in here.calls("one") if call["verdict"] == "allowed"]
        tasks = [(call["task_id"].partition("_")[0], call["state"]) for call in calls]
        assert tasks == [(root, "settled")] * 3


ENDLESS = """
import os, time, stripe
import luigi_spendguard.tasks
stripe.max_network_retries = 0
number = 0
while True:
    stripe.PaymentIntent.create(amount=1, currency="usd", customer=f"cus_{number}", confirm=True,
                                payment_method="pm_card_visa")
    number += 1
"""


@combined(
    "kind workers",
    KINDS[:3],
    [1, 2],
    indirect=["kind"],
    chosen=[("gateway", 2), ("file", 1), ("variable", 2)],
)
def test_revoke_ends_it(here: Site, kind: str, workers: int) -> None:
    (here.folder / "child.py").write_text(ENDLESS)
    path = here.folder / "endless.py"
    path.write_text(
        HEAD
        + program(kind, "ByProxy('endless')" if kind == "variable" else "Starts('endless')", workers=workers)
    )
    with subprocess.Popen(
        [sys.executable, str(path)],
        cwd=here.folder,
        env=here.environment(),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as worker:
        try:
            wait_until(lambda: len(charged(here)) > 2, seconds=60, what="some charges")
            assert here.call("DELETE", "/runs/endless")[0] == 200
            after = here.stripe.moved()
            said, _ = worker.communicate(timeout=110)
        finally:
            worker.kill()
    assert "revoked" in said
    assert here.stripe.moved() == after
    assert here.run("endless")["reserved_usd"] == "0.00"


KILLS = """
import subprocess, sys, time, urllib.request
from luigi_spendguard import VendorTask, spend_proxy
def posts():
    with urllib.request.urlopen(os.environ["STRIPE_BASE"] + "/_control") as books:
        return b'"POST"' in books.read()
class Kills(VendorTask, Output):
    run_id = "kills"
    def run(self):
        with spend_proxy():
            child = subprocess.Popen([sys.executable, "child.py", "1"])
            while not posts(): time.sleep(0.05)
            child.kill()
            child.wait()
        self.write()
assert luigi.build([Kills()])
"""


@pytest.mark.parametrize("kind", ["gateway", "file", "variable"], indirect=True)
def test_one_that_is_killed_leaves_nothing_pending(here: Site) -> None:
    """Who has sent its call lives, and books it."""
    here.stripe.control(options={"latency": 2})
    code, said = python(here, KILLS, STRIPE_BASE=here.stripe.url)
    assert code == 0, said
    assert charged(here) == ["cus_0"]
    wait_until(lambda: [call["state"] for call in here.calls("kills")] == ["settled"], what="the call's end")
    assert here.run("kills")["spent_usd"] == "1.00"


LEFT = """
import subprocess, sys
from luigi_spendguard import VendorTask, spend_proxy
class Leaves(VendorTask, Output):
    run_id = "leaves"
    def run(self):
        global child
        child = subprocess.Popen([sys.executable, "child.py", "1"], stdin=subprocess.PIPE)
        self.write()
class LeavesBlock(VendorTask, Output):
    run_id = "leaves"
    def run(self):
        with spend_proxy():
            Leaves.run(self)
class Next(VendorTask, Output):
    run_id = "next"
    def run(self):
        child.communicate(b"go")
        self.write()
class Plain(Output):
    def run(self):
        subprocess.run([sys.executable, "child.py", "1"], input=b"go")
        self.write()
assert luigi.build([FIRST()]) and luigi.build([Next(), Plain()])
"""


@combined(
    "kind first",
    KINDS[:2],
    ["Leaves", "LeavesBlock"],
    indirect=["kind"],
    chosen=[("gateway", "Leaves"), ("file", "LeavesBlock")],
)
def test_one_that_outlives_its_attempt_or_has_none_spends_nothing(here: Site, first: str) -> None:
    (here.folder / "child.py").write_text("import sys\nsys.stdin.read()\n" + PROGRAM)
    code, said = python(here, LEFT.replace("FIRST", first))
    assert code == 0, said
    assert said.count("DENIED") == 2, said
    assert ("its block has ended" in said) == (first == "LeavesBlock"), said
    assert charged(here) == []
