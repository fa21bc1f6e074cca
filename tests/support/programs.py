"""What a test needs and a machine may lack: without it the test is skipped, and fails in CI."""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator
from typing import NoReturn, TypeVar

import pytest

_Report = TypeVar("_Report", pytest.TestReport, pytest.CollectReport)


def lacking(reason: str) -> NoReturn:
    """Skip a test for what is missing here; fail it in continuous integration, where nothing may be."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Let no test be skipped, or expected to fail, in continuous integration."""
    return _judged((yield))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Nor a module."""
    return _judged((yield))


def _judged(report: _Report) -> _Report:
    if report.skipped and os.environ.get("CI"):
        report.outcome = "failed"
        report.longrepr = f"skipped, or expected to fail, where nothing may be: {report.longrepr}"
    return report


def program(name: str) -> str:
    """Return the path of a program of this machine."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
    if found is None:
        lacking(f"{name} is not installed")
    return found
