"""What a fork asks for, in processes that are really forked."""

import re
import subprocess
import sys

from tests.support.processes import REPOSITORY

FORKS = """
import logging, os, sys
logging.disable()
from luigi_spendguard.process_state import at_fork

steps = []

class Kept:
    def renew(self):
        steps.append("kept")

def fail():
    raise KeyboardInterrupt

at_fork(lambda: steps.append("first"), before=lambda: steps.append("before first"))
at_fork(fail, before=fail, in_parent=fail)
at_fork(
    lambda: steps.append("second"),
    before=lambda: steps.append("before second"),
    in_parent=lambda: steps.append("parent"),
)
kept, gone = Kept(), Kept()
at_fork(kept.renew)
at_fork(gone.renew)
del gone
if child := os.fork():
    assert os.waitpid(child, 0)[1] == 0
    assert steps == ["before second", "before first", "parent"], steps
else:
    print(*steps, sep=", ", flush=True)
    os._exit(0)
"""


def test_each_part_of_a_forked_process_is_made_anew_whatever_becomes_of_another():
    done = subprocess.run([sys.executable, "-c", FORKS], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip() == "before second, before first, first, second, kept"


def test_what_fails_is_said():
    program = FORKS.replace("logging.disable()", "logging.basicConfig(format='%(message)s')")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)
    assert done.stderr.count("What a fork asks for has failed") == 3


def test_no_other_module_asks_the_interpreter_itself():
    """Or what happens at a fork, and in which order, would follow from the order of imports again."""
    asking = [
        path.relative_to(REPOSITORY).as_posix()
        for package in ("luigi_spendguard", "scheduler_patch")
        for path in (REPOSITORY / package).rglob("*.py")
        if "register_at_fork" in path.read_text("utf-8")
    ]
    assert asking == ["luigi_spendguard/process_state.py"]


FORKS_MEANWHILE = """
import os, signal, threading
from luigi_spendguard import proxy
from luigi_spendguard.process_state import made_once

begun, enough = threading.Event(), threading.Event()

class Made:
    @made_once
    def value(self):
        if threading.current_thread() is not threading.main_thread():
            begun.set()
            enough.wait()
        return object()

class Held:
    def __enter__(self):
        begun.set()
        enough.wait()

    def __exit__(self, *args):
        pass

def join():
    proxy._mark = "of nobody"
    proxy.children.attempt_of = lambda mark: Held().__enter__()
    proxy.join()

one, other = Made(), Made()
assert one.value is one.value is not other.value
for act in (lambda: Made().value, join):
    begun.clear()
    enough.clear()
    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    begun.wait()
    if child := os.fork():
        assert os.waitpid(child, 0)[1] == 0
        enough.set()
        thread.join()
    else:
        signal.alarm(20)
        enough.set()
        act()
        os._exit(0)
"""


def test_a_child_waits_for_no_lock_that_another_thread_had_as_it_was_forked():
    done = subprocess.run([sys.executable, "-c", FORKS_MEANWHILE], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_no_property_has_a_lock_of_pythons_own():
    """A forked child would wait for it for ever (Python 3.10 and 3.11): it is `made_once`."""
    locked = [
        path.relative_to(REPOSITORY).as_posix()
        for package in ("luigi_spendguard", "scheduler_patch")
        for path in (REPOSITORY / package).rglob("*.py")
        if re.search(r"import .*\bcached_property|@.*\bcached_property", path.read_text("utf-8"))
    ]
    assert not locked
