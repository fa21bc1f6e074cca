"""Verdicts are what they were as strings: on the wire, in lists of counts, and in texts."""

from __future__ import annotations

import json

import pytest

from scheduler_patch.dispatch import READY, WAIT, Verdict, blocked


def test_a_verdict_is_its_text_wherever_it_is_shown() -> None:
    assert json.dumps({Verdict.CAP: Verdict.DAY}) == '{"cap": "day"}'
    assert (f"{Verdict.CAP}", str(Verdict.CAP), Verdict("cap")) == ("cap", "cap", Verdict.CAP)


@pytest.mark.parametrize("verdict", Verdict)
def test_what_is_neither_ready_nor_waiting_is_blocked(verdict: Verdict) -> None:
    assert verdict.is_blocked is (verdict not in (READY, WAIT))
    assert blocked({"task": verdict}) == (["task"] if verdict.is_blocked else [])
    assert not (verdict.is_final and verdict.is_held)
    assert verdict.is_blocked or not (verdict.is_final or verdict.is_held)
