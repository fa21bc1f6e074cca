"""A test's process that is a fork has of ours what an executed one has, and nothing before it asks for it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import environment, python

BEGIN = """
import json, sys
NAMES = "luigi", "scheduler_patch", "stripe", "twilio", "resend"
def ours():
    return sorted(name for name in sys.modules if name.startswith(NAMES))
"""
AS_A_FORK = """
import importlib
from tests.support.forked import LIBRARIES, Loaded
for name in LIBRARIES:
    importlib.import_module(name)
sys.meta_path.insert(0, Loaded())
"""
END = """
before = ours()
import {start}
import luigi_spendguard
bound = lambda name: getattr(luigi_spendguard, name.rpartition(".")[2], None) is sys.modules[name]
parts = [name for name in ours() if name.startswith("luigi_spendguard.") and name.count(".") == 1]
finders = sorted(type(one).__name__ for one in sys.meta_path)
print(json.dumps([before, ours(), [name for name in parts if not bound(name)], finders]))
"""
STARTS = ["luigi_spendguard.cli", "luigi_spendguard.tasks", "scheduler_patch.server"]


def loaded(code: str) -> list[list[str]]:
    """Return what is loaded before a start, after it, what of it is no attribute, and who finds more."""
    done = subprocess.run(
        [sys.executable, "-c", BEGIN + code], env=environment(), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return list(json.loads(done.stdout))


@pytest.mark.parametrize("start", STARTS)
def test_a_fork_has_loaded_what_a_program_has(start: str) -> None:
    fork, program = loaded(AS_A_FORK + END.format(start=start)), loaded(END.format(start=start))
    before, after, unbound, _ = program
    assert (before, unbound) == ([], [])
    assert len(after) > 50
    assert fork == program


def test_a_folder_that_python_is_to_look_into_first_is_as_a_program_has_it(tmp_path: Path) -> None:
    hook, here = tmp_path / "hook", tmp_path / "here"
    for folder in (hook, here):
        folder.mkdir()
    (hook / "sitecustomize.py").write_text("import os; os.environ['HOOKED'] = str(os.getpid())")
    tell = "import json, os, sys; print(json.dumps([sys.path, os.environ['HOOKED'] == str(os.getpid())]))"
    (here / "tell.py").write_text(tell)
    env = environment()
    env["PYTHONPATH"] = f"{hook}:{env['PYTHONPATH']}"
    fork = python("-m", "tell", env=env, cwd=here, stdout=subprocess.PIPE, text=True)
    program = [sys.executable, "-m", "tell"]
    told = subprocess.run(program, env=env, cwd=here, stdout=subprocess.PIPE, text=True, timeout=60).stdout
    assert type(fork) is not subprocess.Popen
    assert json.loads(fork.communicate(timeout=60)[0]) == json.loads(told)
    path, hooked = json.loads(told)
    assert (path[:2], hooked) == ([str(here), str(hook)], True)
