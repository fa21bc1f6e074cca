"""What `pip install .` installs: both packages with the page's scripts, and nothing of the tests."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


def test_the_wheel_has_the_budgets_tab_and_no_tests(tmp_path: Path) -> None:
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, tmp_path)
    for name in ("luigi_spendguard", "scheduler_patch", "tests"):
        shutil.copytree(REPOSITORY / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "--quiet",
            "--no-deps",
            "--no-build-isolation",
            "--no-index",
            "--wheel-dir",
            str(tmp_path / "out"),
            str(tmp_path),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (wheel,) = (tmp_path / "out").iterdir()
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    ours = REPOSITORY / "scheduler_patch" / "visualiser" / "static"
    files = {
        f"scheduler_patch/visualiser/static/{path.relative_to(ours)}"
        for path in ours.rglob("*")
        if path.is_file()
    }
    assert len(files) > 10
    assert files <= names
    lists = {f"luigi_spendguard/vendors/{name}/parameters.txt" for name in ("stripe", "twilio", "resend")}
    assert {
        "scheduler_patch/visualiser/static/uplot/LICENSE.txt",
        "luigi_spendguard/py.typed",
        *lists,
    } <= names
    modules = {
        str(path.relative_to(REPOSITORY))
        for package in ("luigi_spendguard", "scheduler_patch")
        for path in (REPOSITORY / package).rglob("*.py")
    }
    assert modules <= names
    assert [name for name in names if name.startswith(("tests/", "bench/"))] == []
