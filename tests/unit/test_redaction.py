"""Secrets do not show themselves, and are taken out of every text in every form."""

from __future__ import annotations

import base64
import html
import io
import json
import logging
import pickle
import re
import sys
import time
import types
from collections.abc import Iterator
from urllib.parse import quote, quote_plus, unquote

import luigi
import luigi.notifications
import luigi.scheduler
import luigi.worker
import pytest
from hypothesis import given
from hypothesis import strategies as st

from luigi_spendguard import redaction
from luigi_spendguard.redaction import REDACTED, Secret, redact, redacted, shows
from luigi_spendguard.worker import GuardedWorker
from luigi_spendguard.worker.process import GuardedTaskProcess

CANARY = "sk_test_c@n/ry+4eC39&Hq\"Ly'jW\\Darj"
KEY = "vault_key_" + "AbC-_9" * 7
#: Texts whose secret bytes are gone may keep this many of its edge characters in base64.
EDGE = 3


@pytest.fixture(autouse=True)
def known() -> Iterator[None]:
    before = dict(redaction._values)
    redaction.learn(CANARY)
    yield
    redaction.forget()
    redaction.learn(*before)


def forms(value: str) -> dict[str, str]:
    return {
        "plain": value,
        "in a URL": quote(value, safe=""),
        "in a path": quote(value),
        "in a form": quote_plus(value),
        "in JSON": json.dumps({"key": value}),
        "in JSON twice": json.dumps(json.dumps(value)),
        "in a repr": repr({"key": value}),
        "in HTML": html.escape(value),
        "Basic auth": base64.b64encode(f"{value}:".encode()).decode(),
        "Basic auth with a user": base64.b64encode(f"ACxyz:{value}".encode()).decode(),
        "base64 of a line": base64.b64encode(f"x={value}\n".encode()).decode(),
        "URL-safe base64": base64.urlsafe_b64encode(f"{value}:".encode()).decode(),
    }


@pytest.mark.parametrize("value", [CANARY, KEY, "sk_test_canary_4eC39HqLyjWDarjtT1zdp7dc"])
@pytest.mark.parametrize("form", sorted(forms("x")))
def test_a_secret_is_found_in_every_form(value: str, form: str) -> None:
    redaction.learn(value if value != KEY else None)
    text = f"before {forms(value)[form]} after"
    assert shows(text), text
    found = redact(text)
    assert REDACTED in found
    assert found.startswith("before ")
    assert found.endswith(" after")
    for part in (value[4:-4], quote(value, safe="")[4:-4]):
        assert part not in found
    left = re.sub(r"[^A-Za-z0-9+/_-]", "", found.removeprefix("before ").removesuffix(" after"))
    for start in range(0, len(value) - 8):
        for offset in range(3):
            part = base64.b64encode(b"x" * offset + value[start : start + 8].encode()).decode()[4:-4]
            assert part not in left, (start, left)


@given(st.binary(max_size=40), st.binary(max_size=40))
def test_its_base64_is_found_wherever_it_stands(before: bytes, after: bytes) -> None:
    text = base64.b64encode(before + CANARY.encode() + after).decode()
    assert shows(text)


@pytest.mark.parametrize(
    "text",
    ["", "vault_key_revoked", "code vault_key_expired", "vault_key_", "$1", "dmF1bHRfa2V5X3Jldm9rZWQ="],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redact(text) == text


def test_short_values_are_not_looked_for() -> None:
    redaction.learn("", None, "run", "short12")
    assert redact("run short12") == "run short12"


def test_a_secret_with_the_other_as_its_beginning_is_taken_out_whole() -> None:
    redaction.learn("sk_test_abc", "sk_test_abcdef")
    assert redact("sk_test_abcdef.") == f"{REDACTED}."


def test_only_the_latest_values_are_kept() -> None:
    for number in range(200):
        redaction.learn(f"secret-number-{number:04}")
    assert shows("secret-number-0199")
    assert len(redaction._values) <= 64


def test_a_value_that_is_no_text_in_utf_8_is_found_too() -> None:
    redaction.learn("sk_\udcff_half_a_byte")
    assert shows("x sk_\udcff_half_a_byte x")


def test_containers_keep_their_shape() -> None:
    value = {"a": [CANARY, 1, None], CANARY: (f"x{KEY}",)}
    assert redacted(value) == {"a": [REDACTED, 1, None], REDACTED: (f"x{REDACTED}",)}
    assert redacted(5) == 5


def test_a_secret_is_a_text_that_does_not_show_itself() -> None:
    secret = Secret(CANARY)
    assert secret == CANARY
    assert hash(secret) == hash(CANARY)
    assert (f"{secret}", str(secret), "%s" % secret) == (CANARY,) * 3  # noqa: UP031  # each way to make a text
    assert (repr(secret), f"{secret!r}", repr({"a": [secret]})) == (
        REDACTED,
        REDACTED,
        f"{{'a': [{REDACTED}]}}",
    )
    assert pickle.loads(pickle.dumps(secret)) == CANARY
    assert json.dumps(secret) == json.dumps(CANARY)


def test_a_line_is_searched_in_microseconds() -> None:
    redaction.learn("w" * 32, "a" * 32)
    line = "[pid 4711] Worker Worker(salt=1, workers=2) running   Charge(customer=cus_1, amount=100) " * 2
    best = min(_seconds(line) for _ in range(50))
    assert best < 0.001  # About 20 µs; a slip into backtracking would cost far more.


def _seconds(line: str) -> float:
    start = time.perf_counter()
    redact(line)
    return time.perf_counter() - start


# Log records.


class Catcher(logging.Handler):
    """Keeps what a handler sees, formatted and raw."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def text(self) -> str:
        formatter = logging.Formatter("%(message)s")
        return "\n".join(formatter.format(record) + repr(vars(record)) for record in self.records)


@pytest.fixture
def log() -> Iterator[tuple[logging.Logger, Catcher]]:
    logger, catcher = logging.getLogger("luigi-interface.test-of-redaction"), Catcher()
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    logger.addHandler(catcher)
    redaction.install()
    yield logger, catcher
    logger.removeHandler(catcher)


def test_messages_and_arguments_are_redacted(log) -> None:
    logger, catcher = log
    logger.info("key %s", CANARY)
    logger.info("key " + KEY)
    logger.info("%(key)s", {"key": f"Bearer {CANARY}"})
    logger.info(ValueError(CANARY))
    assert len(catcher.records) == 4
    assert not shows(catcher.text())
    assert catcher.text().count(REDACTED) >= 4


def test_tracebacks_and_stacks_are_redacted(log) -> None:
    logger, catcher = log
    try:
        try:
            raise KeyError(CANARY)
        except KeyError as error:
            raise RuntimeError("failed") from error
    except RuntimeError:
        logger.exception("it broke", stack_info=True)
    said = catcher.text()
    assert not shows(said)
    assert "RuntimeError: failed" in said
    assert re.search(r"KeyError: .*\[redacted\]", said)
    assert "test_tracebacks_and_stacks_are_redacted" in said


def test_a_record_without_a_secret_stays_as_it_is(log) -> None:
    logger, catcher = log
    try:
        raise RuntimeError("plain")
    except RuntimeError:
        logger.exception("task %s of %d", "T", 5)
    record = catcher.records[0]
    assert (record.msg, record.args) == ("task %s of %d", ("T", 5))
    assert record.exc_info is not None


def test_arguments_that_do_not_fit_are_redacted_before_logging_complains(log) -> None:
    bad, harmless = (
        log[0].makeRecord("n", logging.INFO, "p", 1, "%d", (value,), None) for value in (CANARY, "harmless")
    )
    assert (bad.getMessage(), bad.args) == (f"%d ('{REDACTED}',)", ())
    assert (harmless.msg, harmless.args) == ("%d", ("harmless",))


class _Broken:
    def __str__(self) -> str:
        raise ZeroDivisionError(CANARY)

    __repr__ = __str__


def test_a_record_that_cannot_be_searched_is_left_out_and_said(log) -> None:
    logger, catcher = log
    logger.info("%s", _Broken())
    assert catcher.records[0].getMessage() == redaction.UNSEARCHED.format("ZeroDivisionError")
    assert catcher.records[0].args == ()


def test_when_redaction_itself_fails_nothing_gets_through(log, monkeypatch: pytest.MonkeyPatch) -> None:
    logger, catcher = log

    def broken(text: str) -> bool:
        raise MemoryError

    monkeypatch.setattr(redaction, "shows", broken)
    try:
        raise RuntimeError(CANARY)
    except RuntimeError:
        logger.exception("key %s", CANARY, stack_info=True)
    monkeypatch.undo()
    assert not shows(catcher.text())
    assert "left out: MemoryError" in catcher.text()


def test_a_factory_that_was_there_is_still_asked() -> None:
    before = logging.getLogRecordFactory()
    redaction.uninstall()

    def own(*args: object, **kwargs: object) -> logging.LogRecord:
        record = logging.LogRecord(*args, **kwargs)
        record.own = True
        return record

    stock = logging.getLogRecordFactory()
    try:
        logging.setLogRecordFactory(own)
        redaction.install()
        redaction.install()
        record = logging.getLogRecordFactory()("n", logging.INFO, "p", 1, "%s", (CANARY,), None)
        assert (record.own, record.getMessage()) == (True, REDACTED)
        redaction.uninstall()
        assert logging.getLogRecordFactory() is own
    finally:
        logging.setLogRecordFactory(stock)
        if before is not stock:
            redaction.install()


# What a worker reports.


class Indiscreet(luigi.Task):
    def run(self) -> None:
        raise RuntimeError(f"{CANARY} {KEY}")


def test_what_goes_to_the_scheduler_and_into_mails_is_redacted(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[object] = []
    scheduler = luigi.scheduler.Scheduler()
    for name in ("announce_scheduling_failure", "add_task"):
        monkeypatch.setattr(scheduler, name, lambda **fields: told.append(fields))
    monkeypatch.setattr(luigi.notifications, "send_error_email", lambda *said: told.append(said))
    worker, task = GuardedWorker(scheduler=scheduler), Indiscreet()
    worker._announce_scheduling_failure(task, f"{CANARY} {KEY}")
    worker._email_error(task, f"{CANARY} {KEY}", subject="{task}", headline="{task}")
    worker._add_task(
        worker="w", task_id=task.task_id, status="FAILED", runnable=None, expl=json.dumps(f"{CANARY} {KEY}")
    )
    worker._handle_task_load_error(ImportError(f"{CANARY} {KEY}"), ["T_1"])
    assert len(told) == 5
    for fields in told:
        assert "[redacted] [redacted]" in str(fields)
        assert not shows(str(fields))


def test_a_task_process_says_no_secret_of_why_its_task_failed() -> None:
    results: list[tuple[object, ...]] = []
    queue = types.SimpleNamespace(put=results.append)
    reporter = luigi.worker.TaskStatusReporter(None, "T_1", "w", None)
    process = GuardedTaskProcess(None, Indiscreet(), "w", queue, reporter)
    process.run()
    ((_, status, said, *_),) = results
    assert status == "FAILED"
    assert f"RuntimeError: {REDACTED} {REDACTED}" in said


@pytest.mark.parametrize(
    "key", ["sk_live_51Habcdefgh", "rk_test_51Habcdefgh", "whsec_" + "a1" * 12, "SK" + "0f" * 16]
)
@pytest.mark.parametrize("text", ["/runs/{}", "/a%2f{}?b=1", "no route {}, it says", "{}"])
def test_what_looks_like_anybodys_key_is_hidden(text: str, key: str) -> None:
    assert redaction.hide(text.format(key)) == text.format(REDACTED)
    assert key not in unquote(redaction.redact_url(text.format(key.replace("_", "%5F"))))


@pytest.mark.parametrize(
    "name", ["re_3Q0001AbCdEfGhIjKlMnOp", "core_Abcdefgh_0123456789abcdefgh", "SKIP", "sk_live_", "pi_1"]
)
def test_what_is_no_key_is_not(name: str) -> None:
    assert redaction.hide(f"/v1/refunds/{name}") == f"/v1/refunds/{name}"


# Standard streams.


def test_what_is_printed_is_redacted_and_the_streams_are_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    out, err = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    with redaction.streams():
        with redaction.streams():
            print("key", CANARY)
            print(KEY, file=sys.stderr)
            sys.stdout.writelines([f"{CANARY}\n", "plain\n"])
        print(CANARY)
        assert sys.stdout.getvalue() == f"key {REDACTED}\n{REDACTED}\nplain\n{REDACTED}\n"
    assert (sys.stdout, sys.stderr) == (out, err)
    assert err.getvalue() == f"{REDACTED}\n"


def test_a_stream_that_the_task_replaced_is_left_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    own = io.StringIO()
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    with redaction.streams():
        sys.stdout = own
    assert sys.stdout is own


def test_a_process_without_streams_stays_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    with redaction.streams():
        print(CANARY)
    assert sys.stdout is None


def test_what_is_in_force_is_not_crowded_out_by_what_was_rotated() -> None:
    """luigi.cfg is read again at each reload, all of it, and one of its 40 tokens is another each time."""
    lasting = [f"lasting-token-{number:04}" for number in range(40)]
    for turn in range(60):
        redaction.learn(f"rotated-token-{turn:04}", *lasting)
    assert [one for one in (*lasting, "rotated-token-0059") if one in redaction.redact(one)] == []
