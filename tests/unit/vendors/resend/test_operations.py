"""Every operation of Resend's SDK (resend-python 2.52.0) is of the kind that its table says."""

from __future__ import annotations

import re

from luigi_spendguard.vendors.resend.operations import kind_of
from tests.support.tables import each
from tests.unit import DATA

LINES = (DATA / "resend-operations.txt").read_text("utf-8").splitlines()
#: What has a rule of its own, or is taken more strictly than the table has it.
JUDGED = {
    "POST /broadcasts": "broadcast",
    "PATCH /emails/{email_id}": "move",
    "GET /webhooks/{webhook_id}/events": "credential",
    "GET /webhooks/{webhook_id}/events/{event_id}": "credential",
    "GET /webhooks/{webhook_id}/events/{event_id}/attempts": "credential",
}


def parsed(line: str) -> tuple[str, str, str]:
    """Return class, method and path of a line, with an id in every place for one."""
    expected, method, path = line.split(" ")
    return JUDGED.get(f"{method} {path}", expected), method, re.sub(r"\{\w+\}", "1" * 8, path)


def test_the_list_is_whole() -> None:
    assert sorted(LINES) == LINES
    assert len(set(LINES)) == len(LINES) == 147
    assert set(JUDGED) < {line.split(" ", 1)[1] for line in LINES}


@each(LINES)
def test_an_operation_is_of_its_kind(line: str) -> None:
    expected, method, path = parsed(line)
    assert kind_of(method, path) == expected


@each(line for line in LINES if not line.startswith(("read ", "free ")))
def test_what_is_restricted_is_so_in_any_letter_case(line: str) -> None:
    _, method, path = parsed(line)
    kind = kind_of(method, path)
    for one in (path.upper(), path.swapcase(), path.title(), f"{path}/"):
        assert kind_of(method, one) == kind
