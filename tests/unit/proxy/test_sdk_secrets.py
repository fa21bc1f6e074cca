"""A task finds the vault key in the secrets' places, and no exception of an SDK's call shows a secret."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
import threading
import traceback
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import resend
from twilio.rest import Client

from luigi_spendguard import proxy
from luigi_spendguard.protocol import ReserveReply
from luigi_spendguard.proxy.attempts import Attempt
from tests.integration.test_tracebacks import raised, seen_from
from tests.support.ports import (
    ACCOUNT,
    RESEND_SECRET,
    TWILIO_SECRET,
    StubLedger,
    VendorServer,
    attempt,
)
from tests.support.processes import REPOSITORY
from tests.support.sdks import MAILS, TEXTS, text

FORMS = [
    form
    for secret in (TWILIO_SECRET, RESEND_SECRET)
    for form in (secret, quote(secret), base64.b64encode(f"{secret}:".encode()).decode().rstrip("="))
] + [base64.b64encode(f"{ACCOUNT}:{TWILIO_SECRET}".encode()).decode().rstrip("=")]
ENVIRONMENT = {
    "TWILIO_ACCOUNT_SID": ACCOUNT,
    "TWILIO_AUTH_TOKEN": TWILIO_SECRET,
    "RESEND_API_KEY": RESEND_SECRET,
}


@pytest.fixture
def task(tmp_path: Path, port: StubLedger, server: VendorServer, monkeypatch: pytest.MonkeyPatch) -> Attempt:
    """An attempt in a process that has the secrets, and has imported the SDKs with them."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(resend, "api_key", RESEND_SECRET)
    return attempt(tmp_path, port, server.url)


@pytest.mark.filterwarnings("ignore:.* is deprecated. Use account:DeprecationWarning")  # All is looked at.
@pytest.mark.parametrize("way", ["sync", "async"])
@pytest.mark.parametrize("fault", ["denied", "drop", "refused", "error", "page", "echo"])
def test_no_exception_of_a_call_shows_a_secret(
    task: Attempt, port: StubLedger, server: VendorServer, fault: str, way: str
) -> None:
    if fault == "denied":
        port.answer = ReserveReply("denied", "c", reason="cap", message="no money left")
    elif fault == "drop":
        server.status = 0
    elif fault == "refused":
        server.close()
    elif fault == "error":
        server.status = 500
    elif fault == "page":
        server.status, server.headers = 502, {"Content-Type": "text/html"}
    else:
        server.body |= {"token": TWILIO_SECRET, "key": RESEND_SECRET}
    with proxy.attempt_running(task):
        errors = [raised(calls[way]) for calls in (TEXTS, MAILS)]
    for error in errors:
        said = seen_from(error)
        for form in FORMS:
            assert form not in said, said[max(0, said.index(form) - 1500) : said.index(form) + 100]


@pytest.mark.parametrize("fault", ["denied", "drop"])
def test_a_traceback_with_its_variables_does_not_show_the_secret_of_a_client_made_before(
    task: Attempt, port: StubLedger, server: VendorServer, fault: str
) -> None:
    client = Client()
    assert client.password == TWILIO_SECRET
    if fault == "denied":
        port.answer = ReserveReply("denied", "c", reason="cap", message="no money left")
    server.status = 0

    def act() -> None:
        with proxy.attempt_running(task):
            client.messages.create(to="+15551234567", from_="+15557654321", body="hello")

    error = raised(act)
    said = "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())
    assert "test_sdk_secrets" in said
    assert [form for form in FORMS if form in said] == []


def test_a_task_and_its_children_find_the_vault_key_and_the_process_its_secrets_afterwards(
    task: Attempt,
) -> None:
    code = "import resend, twilio.rest; print(resend.api_key, *twilio.rest.Client().auth)"
    with proxy.attempt_running(task):
        assert resend.api_key == task.key
        assert Client().auth == (ACCOUNT, task.key)
        out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
        assert out.split() == [task.key, ACCOUNT, task.key]
        resend.api_key = os.environ["RESEND_API_KEY"]  # As many a task does.
    assert resend.api_key == RESEND_SECRET
    assert Client().auth == (ACCOUNT, TWILIO_SECRET)


@pytest.mark.parametrize("before", [None, "re_another_account"])
def test_a_key_that_the_process_had_is_there_again(
    task: Attempt, before: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RESEND_API_KEY")
    monkeypatch.setattr(resend, "api_key", before)
    with proxy.attempt_running(task):
        assert resend.api_key == (before or task.key)
    assert resend.api_key == before


def test_two_attempts_in_one_process_leave_what_was_there(
    task: Attempt, tmp_path: Path, port: StubLedger, server: VendorServer
) -> None:
    other, seen = attempt(tmp_path, port, server.url), []
    begun, ended = threading.Event(), threading.Event()

    def second() -> None:
        with proxy.attempt_running(other):
            begun.set()
            ended.wait(30)
            seen.extend([resend.api_key, text()])

    thread = threading.Thread(target=second)
    with proxy.attempt_running(task):
        thread.start()
        begun.wait(30)
        assert resend.api_key == other.key
    ended.set()
    thread.join()
    assert seen == [other.key, "SM" + "2" * 32]
    assert resend.api_key == RESEND_SECRET


LATE = """
import asyncio, os, sys
from pathlib import Path
import luigi_spendguard.tasks
from luigi_spendguard import proxy
from tests.support.ports import StubLedger, attempt, vendor_server

with vendor_server() as server:
    made = attempt(Path(sys.argv[1]), StubLedger(), server.url)
    with proxy.attempt_running(made):
        assert not {"twilio", "resend"} & set(sys.modules)
        from tests.support.sdks import mail, mail_async, resend, text, text_async
        print(text(), text_async(), mail(), mail_async(), resend.api_key == made.key)
    print(len(server.requests), resend.api_key == os.environ["RESEND_API_KEY"])
    proxy.unbind()
    print(type(resend).__name__, resend.Request.make_request.__module__)
"""


def test_an_sdk_that_is_imported_inside_run_is_guarded(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LATE, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **ENVIRONMENT, "LUIGI_CONFIG_PATH": str(tmp_path / "none.cfg")},
        cwd=REPOSITORY,
    )
    assert done.returncode == 0, done.stderr
    sid = "SM" + "2" * 32
    assert done.stdout.splitlines() == [
        f"{sid} {sid} 49a3999c 49a3999c True",
        "4 True",
        "module resend.request",
    ]
