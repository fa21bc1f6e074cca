"""`spendguard check` says what bounds spending, and what does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from luigi_spendguard.checkup import findings
from luigi_spendguard.config import Settings
from luigi_spendguard.operator import OperatorError
from luigi_spendguard.policy import Caps


class Unreachable:
    url = "http://127.0.0.1:9"

    def get(self, path: str) -> Any:
        raise OperatorError("nobody answers")


def said(tmp_path: Path, subject: str, **settings: Any) -> str:
    found = findings(Settings(tmp_path / "books.db", Caps(), **settings), Unreachable())  # type: ignore[arg-type]  # it only gets
    return next(finding.text for finding in found if finding.subject == subject)


@pytest.mark.parametrize("forecast", ["warn", "hold"])
def test_nothing_bounds_what_a_family_spends_under_a_stock_worker(tmp_path: Path, forecast: str) -> None:
    text = said(tmp_path, "vendor_tasks", vendor_tasks=("Charge", "billing.*"), forecast=forecast)
    assert text.startswith("Charge, billing.*: under a worker without the plugin no call of theirs is seen")
    assert "bounded by a vault key of the gateway, else BY NOTHING" in text
    assert ("forecast = hold holds them for good" in text) is (forecast == "hold")


def test_a_blocked_task_needs_no_new_submission(tmp_path: Path) -> None:
    assert said(tmp_path, "blocked", on_blocked="exit").endswith(
        "exits; after a top-up any other worker that needs them, or an --assistant, takes them up"
    )
    assert said(tmp_path, "blocked", on_blocked="wait").endswith("waits, and goes on at once after a top-up")
