"""What a fork asks for, in processes that are really forked."""

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
