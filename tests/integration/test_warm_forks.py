"""A child that a worker has forked for a vendor task loads nothing that the worker could have loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support import forked
from tests.support.site import Site
from tests.support.vendors import FakeResend, FakeTwilio


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the tasks of a pipeline have written down, by their call and number."""
    monkeypatch.setattr(forked, "is_on", False)  # What is loaded is the question.
    texts, mails = FakeTwilio(tmp_path / "twilio"), FakeResend(tmp_path / "resend")
    try:
        with Site(tmp_path / "site", twilio=texts, resend=mails) as site:
            code, out = site.luigi("LoadAll", "--workers", "2", module="tests.support.loading_pipeline")
            assert code == 0, out
            return {
                "_".join(file.name.split("_")[1:3]): json.loads(file.read_text())
                for file in (site.folder / "out").glob("Load_*")
            }
    finally:
        texts.process.end()
        mails.process.end()


def test_a_first_call_loads_nothing_and_a_rare_one_only_once(written: dict[str, Any]) -> None:
    late = {call: found["late"] for call, found in written.items()}
    assert late.keys() == {"stripe_0", "twilio_0", "resend_0", "rare_0", "rare_1"}
    assert "stripe._product_service" in late.pop("rare_0")
    assert late == {"stripe_0": [], "twilio_0": [], "resend_0": [], "rare_1": []}
    assert len({found["parent"] for found in written.values()}) == 1
    assert {found["threads"] for found in written.values()} == {1}
