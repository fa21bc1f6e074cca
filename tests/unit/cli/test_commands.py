"""The command has all of its commands, whatever else was imported."""

from __future__ import annotations

import re
import subprocess
import sys

from luigi_spendguard.cli import cli
from tests.support.processes import environment


def test_the_installed_command_has_the_commands_of_every_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "luigi_spendguard", "--help"],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    listed = re.findall(r"^  ([a-z][a-z-]*)  ", done.stdout.partition("Commands:")[2], re.MULTILINE)
    assert {"runs", "revoke", "issue-key", "self-test", "check", "gateway"} <= set(listed)
    assert sorted(listed) == sorted(cli.commands)
