"""Nothing is skipped in continuous integration: what looked well there was tested."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import REPOSITORY, environment

LACKING = """
import pytest

@pytest.mark.skip(reason="mark")
def test_mark(): pass

@pytest.mark.skipif(True, reason="condition")
def test_condition(): pass

@pytest.mark.xfail(reason="known")
def test_known(): assert False

def test_within(): pytest.skip("within")

@pytest.fixture
def lacking(): pytest.skip("fixture")

def test_fixture(lacking): pass

def test_fine(): pass
"""


@pytest.mark.parametrize(
    ("ci", "ends"), [("", "1 passed, 5 skipped, 1 xfailed"), ("true", "2 failed, 1 passed, 4 errors")]
)
def test_in_ci_what_is_skipped_has_failed(tmp_path: Path, ci: str, ends: str) -> None:
    (tmp_path / "test_lacking.py").write_text(LACKING)
    (tmp_path / "test_module.py").write_text("import pytest\npytest.importorskip('no_such_module')\n")
    plugins = ("-p", "tests.support.programs", "-p", "no:cacheprovider")
    args = ("-c", "/dev/null", "--continue-on-collection-errors", *plugins, str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *args],
        cwd=REPOSITORY,
        env=environment(CI=ci),
        capture_output=True,
        text=True,
        timeout=60,
    )
    said = re.findall(r"\d+ (?:passed|skipped|xfailed|failed|errors?)", done.stdout.splitlines()[-1])
    assert sorted(said) == sorted(ends.split(", ")), done.stdout
