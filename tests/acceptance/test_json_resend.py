"""Whatever parser reads a mail's JSON: never more people at Resend than the ledger has."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from luigi_spendguard import spend_proxy
from tests.support.asking import ADMIN, WORKER
from tests.support.attempts import Pretender
from tests.support.forms import Made
from tests.support.json_bodies import JSON, ME, YOU, mails
from tests.support.judge import Judge, issued, judged
from tests.support.site import Site
from tests.support.vendors import FakeResendReadings

MAIL = {"from": ME, "to": [YOU], "subject": "Hi", "text": "Hello"}
TEXT = json.dumps(MAIL)


def _site(folder: Path, *, gateway: bool) -> Iterator[tuple[Site, FakeResendReadings]]:
    said = {"admin_token": ADMIN, "worker_token": WORKER, "default_cap_usd": 10_000_000}
    vendor = FakeResendReadings(folder / "vendor")
    price = {"email_price": "0.01"}
    with Site(folder, resend=vendor, gateway=gateway, spendguard=said, spendguard_resend=price) as site:
        try:
            yield site, vendor
        finally:
            vendor.process.end()


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Judge]:
    for site, vendor in _site(tmp_path_factory.mktemp("mails"), gateway=True):
        yield Judge(site, vendor, f"{site.url}/resend", issued(site, "resend"), agreed=True)


def _made(path: str, body: bytes, kind: str = JSON) -> Made:
    path, _, query = path.partition("?")
    return Made("POST", path, body, False, query.encode(), (("Content-Type", kind),))


@pytest.mark.parametrize(
    ("path", "text", "cents"),
    [
        ("/emails", TEXT, 1),
        ("/emails", json.dumps(MAIL | {"cc": ME, "bcc": ["c@c.example", "d@c.example"]}), 4),
        ("/emails/batch", f"[{TEXT}, {TEXT}]", 2),
        ("/broadcasts", json.dumps({"segment_id": "s", "from": ME, "subject": "Hi"}), 0),
    ],
)
def test_a_mail_passes_as_it_is_read(judge: Judge, path: str, text: str, cents: int) -> None:
    before = judge.moved, sum(judge.statuses.values()) - judge.statuses[200]
    judge.judge([_made(path, text.encode())])
    assert (judge.moved - cents, sum(judge.statuses.values()) - judge.statuses[200]) == before


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/emails", TEXT.replace("{", '{"to": ["c@c.example", "d@c.example"], ').encode()),
        ("/emails", TEXT.replace("}", ', "TO": ["c@c.example", "d@c.example"]}').encode()),
        ("/emails", TEXT.replace("}", ', "\\u0062cc": "c@c.example", "bcc": "d@c.example"}').encode()),
        ("/emails", TEXT.replace("}", ', "bcc\\u0000": "c@c.example"}').encode()),
        ("/broadcasts", b'{"segment_id": "s", "\xc5\xbfend": true}'),
        ("/broadcasts", b'{"segment_id": "s", "send": false, "Send": true}'),
        ("/emails", f"{TEXT}{TEXT}".encode()),
        ("/emails", f"{TEXT}\0".encode()),
        ("/emails", f"\ufeff{TEXT}".encode()),
        ("/emails", TEXT.encode("utf-16")),
        ("/emails", TEXT.encode("utf-16-le")),
        ("/emails", TEXT.replace("}", ', "text": 1e999}').encode()),
        ("/emails?to=c@c.example", TEXT.encode()),
        (
            "/emails",
            TEXT.replace("}", ', "bcc": ' + "[" * 2000 + '"c@c.example"' + "]" * 2000 + "}").encode(),
        ),
    ],
)
def test_what_was_read_in_two_ways_is_denied(judge: Judge, path: str, body: bytes) -> None:
    before = judge.moved
    judge.judge([_made(path, body)])
    assert judge.moved == before


def test_some_generated_mails(judge: Judge) -> None:
    judged(judge, mails(), 250)


@pytest.mark.figures
@pytest.mark.timeout(3600)
def test_many_generated_mails(judge: Judge, malformed: int) -> None:
    judged(judge, mails(), malformed)


def test_some_generated_mails_of_a_tasks_programs(tmp_path: Path) -> None:
    """The worker's own guard reads them, behind its listener."""
    for site, vendor in _site(tmp_path, gateway=False):
        pretender = Pretender(site, f"run-{uuid.uuid4().hex[:10]}", budget_usd="9000000")
        with pretender.attempt() as attempt, spend_proxy("resend") as url:
            judge = Judge(site, vendor, url, (attempt.key, pretender.run_id), agreed=True)
            judged(judge, mails(), 125)
