"""What a worker's client says to luigid of the ends of its calls: when, in what order, and with what."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from luigi_spendguard.errors import (
    LedgerFailed,
    LedgerUnavailable,
    PluginError,
    SpendDenied,
    SpendguardError,
    denial,
)
from luigi_spendguard.http import gathering, ledger_client
from luigi_spendguard.http.gathering import LastWords
from luigi_spendguard.http.ledger_client import HttpLedgerClient
from luigi_spendguard.http.outbox import is_for_good
from luigi_spendguard.http.rpc_answers import read_answer
from luigi_spendguard.http.spool import Kept, Spool, backlog
from luigi_spendguard.http.unreached import NotThere
from luigi_spendguard.protocol import EndReply, EndRequest, ReserveReply, ReserveRequest, key_hash, rpcs
from luigi_spendguard.protocol.rpcs import (
    AttemptReply,
    AttemptRequest,
    ClaimReply,
    ClaimRequest,
    EndedCall,
    EndedReply,
    EndedRequest,
    FinishReply,
    OpenRunRequest,
)
from luigi_spendguard.protocol.rpcs import FinishRequest as Finish


class Client(HttpLedgerClient):
    """Answers itself what it asks, and keeps what that was."""

    together = True
    refused = ""
    is_away = False

    def __init__(self) -> None:
        super().__init__("http://127.0.0.1:1", "worker")
        self.said: list[str] = []

    def _ask(self, rpc: Any, request: Any, key: str | None = None, patience_s: float = 0) -> Any:
        if self.is_away:
            raise LedgerUnavailable("away")
        if rpc is rpcs.CLAIM:
            return ClaimReply("run", "key", "claim", (), together=self.together)
        self.said.append(f"{rpc.name.removeprefix('spend_')} {_of(request)} by {key}")
        if rpc is rpcs.ATTEMPT:
            ended = tuple(EndedCall(end.call_id, "settled", refused=self.refused) for end in request.ends)
            return AttemptReply(ended, None if request.ask is None else _granted(request.ask))
        if rpc is rpcs.RESERVE:
            return _granted(request)
        return FinishReply(True) if rpc is rpcs.FINISH else EndReply(request.call_id, "settled")

    def call(self, call_id: str, key: str = "key") -> None:
        self.reserve(key, ReserveRequest(call_id, "stripe", "a", "o", "POST", "/"))


def _granted(ask: ReserveRequest) -> ReserveReply:
    return ReserveReply("allowed", ask.call_id, ask.ask)


def _of(request: Any) -> str:
    said = [end.call_id for end in getattr(request, "ends", ())]
    if isinstance(request, AttemptRequest):
        said += [] if request.ask is None else [request.ask.call_id]
    else:
        said.append(getattr(request, "call_id", "") or request.outcome)
    return "+".join(said)


def settled(call_id: str, body: str = "") -> EndRequest:
    return EndRequest("settle", call_id, answer_body=body)


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    """In an attempt, in which nothing is said but for a reason."""
    monkeypatch.setattr(gathering, "SOON_S", 600)
    made = Client()
    made.claim(ClaimRequest("claim", "task", "V", "w"))
    with made.gathering():
        yield made


def test_an_end_goes_with_what_the_attempt_says_next(client: Client) -> None:
    client.call("one")
    client.end("key", settled("one"))
    client.call("two")
    client.end("key", settled("two"))
    client.finish(Finish("claim", "returned"), "key")
    assert client.said == ["reserve one by key", "attempt one+two by key", "finish two+returned by None"]


def test_ends_of_calls_that_were_made_at_once_are_said_by_themselves(client: Client) -> None:
    for call_id in ("one", "two"):
        client.call(call_id)
    client.end("key", settled("one"))
    assert client.said[2:] == ["settle one by key"]


def test_how_another_attempt_ended_comes_behind_them(client: Client) -> None:
    client.call("one")
    client.end("key", settled("one"))
    client.finish(Finish("another claim", "returned"), "another")
    assert client.said[1:] == ["settle one by key", "finish returned by None"]


def test_what_is_asked_under_another_key_comes_behind_them(client: Client) -> None:
    client.call("one")
    client.end("key", settled("one"))
    client.call("two", "another")
    assert client.said[1:] == ["settle one by key", "reserve two by another"]


def test_those_that_are_long_together_go_one_by_one(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_client, "_MOST_AT_ONCE", 10)
    for call_id in ("one", "two"):
        client.end("key", settled(call_id, "x" * 6))
    assert client.flush(1)
    assert client.said == ["settle one by key", "settle two by key"]


def test_one_that_is_refused_is_said(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    client.end("key", settled("one"))
    client.refused = "it is another task's"
    client.call("two")
    assert "The end of call one was refused: it is another task's" in caplog.text


def test_those_that_could_not_be_said_with_a_question_are_said_once(client: Client) -> None:
    client.end("key", settled("one"))
    client.is_away = True
    with pytest.raises(LedgerUnavailable):
        client.call("two")
    client.is_away = False
    assert client.flush(20)
    client.call("three")
    assert client.said == ["attempt one by key", "reserve three by key"]


@pytest.mark.parametrize("ends", [(), ("one",)])
def test_what_is_late_is_said_before_anything_is_asked(client: Client, ends: tuple[str, ...]) -> None:
    def late() -> None:
        time.sleep(0.05)
        client.said.append("late")

    for call_id in ends:
        client.end("key", settled(call_id))
    client._outbox.tell_later("late", late)
    client.call("two")
    assert client.said == ["late", "attempt one+two by key" if ends else "reserve two by key"]


def test_behind_what_a_child_calls_nothing_is_gathered(client: Client) -> None:
    client.call("one")
    client.for_child()
    client.end("key", settled("one"))
    assert client.said[1:] == ["settle one by key"]


def test_how_the_attempt_ended_is_left_to_its_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SOON_S", "LEFT_S"):
        monkeypatch.setattr(gathering, name, 600)
    client, words = Client(), LastWords()
    client.claim(ClaimRequest("claim", "task", "V", "w"))
    with client.gathering(words):
        client.call("one")
        client.end("key", settled("one"))
        client.finish(Finish("claim", "returned"), "key")
    assert client.said == ["reserve one by key"]
    assert words.read() == ((settled("one"),), "returned")
    with client.gathering(words):  # It goes on, and ends the thread that would have said so.
        client._gathering.say_all()
    assert client.said[1:] == ["settle one by key", "finish returned by None"]


def test_an_older_luigid_is_told_each_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Client, "together", False)
    client = Client()
    client.claim(ClaimRequest("claim", "task", "V", "w"))
    with client.gathering():
        client.call("one")
        client.end("key", settled("one"))
        assert client.said == ["reserve one by key", "settle one by key"]


# What others have left.


class Answers(Client):
    """Answers as luigid does, or refuses."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[Any, ...]] = []
        self.error: Exception | None = None
        self.errors: dict[str, Exception] = {}

    def _ask(self, rpc: Any, request: Any, key: str | None = None, patience_s: float = 0) -> Any:
        self.asked.append((rpc.name, request, key))
        if (error := self.errors.get(rpc.name, self.error)) is not None:
            raise error
        ended = tuple(EndedCall(end.call_id, "settled", refused=self.refused) for end in request.ends)
        return EndedReply(ended) if rpc is rpcs.ENDED else FinishReply(True, ended)


@pytest.mark.parametrize("marked", [True, False])
def test_an_older_luigid_is_asked_for_a_run_without_what_it_does_not_know(marked: bool) -> None:
    class Older(HttpLedgerClient):
        def _said(self, rpc: Any, request: Any, key: str | None = None, patience_s: float = 0) -> Any:
            said = self._known(request() if callable(request) else request).to_json()
            if not set(said) <= {"name", "by_task_id", "root_family", "root_task_id"}:
                unknown = next(name for name in ("budget_usd", "looked_ms", "tags") if name in said)
                body = {"error": "bad_request", "message": f"unknown field {unknown!r}"}
                return read_answer(rpc, "luigid", 400, json.dumps(body).encode(), marked)
            return said

    client, run = Older("http://127.0.0.1:1", "worker"), ("r", True, "Root", "Root_1")
    opened: Any = client.open_run(OpenRunRequest(*run, looked_ms=5))
    assert opened == OpenRunRequest(*run).to_json()
    opened = client.open_run(OpenRunRequest(*run, looked_ms=5, tags={"team": "billing"}))
    assert opened == OpenRunRequest(*run).to_json(), "what an older luigid does not take is left out"
    with pytest.raises(SpendguardError, match="unknown field 'budget_usd'"):
        client.open_run(OpenRunRequest(*run, budget_usd="1", looked_ms=5))


def test_an_older_luigid_hears_of_calls_without_what_it_does_not_know() -> None:
    """In a list of ends, too; a task's parameter of such a name is another thing."""
    asks: list[Any] = []

    class Older(HttpLedgerClient):
        def _said(self, rpc: Any, request: Any, key: str | None = None, patience_s: float = 0) -> Any:
            said = self._known(request).to_json()
            asks.append(said)
            for one in (said, said.get("ask", {}), *said.get("ends", ())):
                for name in ("tag", "taggable", "vendor_request"):
                    if name in one:
                        body = {"error": "bad_request", "message": f"unknown field {name!r}: it takes others"}
                        return read_answer(rpc, "luigid", 400, json.dumps(body).encode(), True)
            return said

    client = Older("http://127.0.0.1:1", "worker")
    end = EndRequest("settle", "call", vendor_request="req_1")
    ask = ReserveRequest("call", "stripe", "a", "o", "POST", "/", tag=True, taggable=True)
    said: Any = client._ask(rpcs.ATTEMPT, rpcs.AttemptRequest((end, end), ask), "key")
    assert len(asks) == 4
    plain = replace(end, vendor_request=""), replace(ask, tag=False, taggable=False)
    assert said == rpcs.AttemptRequest((plain[0], plain[0]), plain[1]).to_json()
    client._ask(rpcs.ENDS["settle"], end, "key")
    assert len(asks) == 5, "it is known now"
    params = {"tag": "a", "vendor_request": "b"}
    claimed: Any = client._ask(rpcs.CLAIM, rpcs.ClaimRequest("c", "t", "f", "w", "r", params))
    assert claimed["params"] == params


@pytest.mark.parametrize(("slow", "times"), [(0, 1), (2, 3), (9, 4)])
def test_what_was_long_on_its_way_is_said_again(
    slow: int, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For how long a worker has looked is known where it leaves; a loop may be blocked where it arrives."""
    said, now = list[int](), [0.0]
    monkeypatch.setattr(ledger_client, "time", SimpleNamespace(monotonic=lambda: now[0]))

    class Slow(HttpLedgerClient):
        def _ask(self, rpc: Any, request: Any, key: str | None = None, patience_s: float = 0) -> Any:
            said.append(request().looked_ms)
            now[0] += 2 if len(said) <= slow else 0

    Slow("http://127.0.0.1:1", "worker").open_run(OpenRunRequest("r", True, "Root", "Root_1", looked_ms=5))
    assert said == [5, 2005, 4005, 6005][:times]


@pytest.fixture
def heir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Answers:
    """A worker of a host on which another one was killed while two messages waited."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    gone = Spool("http://127.0.0.1:1")
    finished = Kept.of("finish", rpcs.FINISH, Finish("claim", "returned"))
    gone.keep([Kept.ended("vault_key_gone", [settled("one")]), finished])
    gone._renew()
    return Answers()


def waits(client: HttpLedgerClient) -> tuple[int, int]:
    assert client._spool.folder is not None
    found = backlog(client._spool.folder)
    return sum(count for count, _ in found.waiting.values()), found.refused


def test_what_a_killed_worker_has_left_is_said_under_the_workers_token(heir: Answers) -> None:
    for _ in range(2):
        heir.take_over()
    request = EndedRequest(key_hash("vault_key_gone"), (settled("one"),))
    assert heir.asked == [
        ("spend_ended", request, None),
        ("spend_finish", Finish("claim", "returned"), None),
    ]
    assert waits(heir) == (0, 0)


@pytest.mark.parametrize(
    "error",
    [
        LedgerUnavailable("it is away"),
        PluginError("spend_ended is new: upgrade luigid"),
        denial("scope", "the scheduler refused the worker", {"http_status": 403}),
    ],
    ids=["away", "older", "token"],
)
def test_what_may_be_mended_goes_on_waiting_and_is_not_asked_for_all_the_time(
    heir: Answers, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, ledger_client.__name__)  # An earlier test may have lowered it.
    heir.error = error
    heir.take_over()
    heir.take_over()
    heir.take_over(at_once=True)
    assert (len(heir.asked), waits(heir)) == (2, (2, 0))
    assert caplog.text.count("is not said yet") == 1
    heir.error = None
    heir.take_over(at_once=True)
    assert waits(heir) == (0, 0)


@pytest.mark.parametrize("error", [LedgerFailed("answered HTTP 500"), RuntimeError("a mistake of ours")])
def test_what_always_fails_holds_up_nothing_that_waits_behind_it(heir: Answers, error: Exception) -> None:
    heir.errors = {"spend_ended": error}
    heir.take_over()
    heir.take_over()
    assert ([name for name, *_ in heir.asked], waits(heir)) == (["spend_ended", "spend_finish"], (1, 0))
    heir.errors = {}
    heir.take_over(at_once=True)
    assert waits(heir) == (0, 0)


@pytest.mark.parametrize(("code", "alone"), [("", True), ("internal", True), ("ledger_unavailable", False)])
def test_whether_others_fail_too_is_told_by_what_it_answers(code: str, alone: bool) -> None:
    with pytest.raises(LedgerUnavailable) as failed:
        read_answer(rpcs.ENDED, "luigid", 500, json.dumps({"error": code}).encode(), True)
    assert isinstance(failed.value, LedgerFailed) is alone


@pytest.mark.parametrize(
    ("status", "code"),
    [
        *((400, "bad_request"), (401, "revoked"), (403, "forbidden"), (404, "not_found"), (409, "conflict")),
        *((413, "too_large"), (429, "cap"), (500, "ledger_unavailable"), (503, "ledger_unavailable")),
    ],
)
def test_what_has_luigids_names_and_not_its_mark_decides_nothing(status: int, code: str) -> None:
    said = json.dumps({"error": code, "message": "no"}).encode()
    with pytest.raises((LedgerUnavailable, NotThere)) as failed:
        read_answer(rpcs.ENDED, "luigid", status, said)
    if status not in (401, 503):
        assert isinstance(failed.value, LedgerFailed)
        assert r"let it pass on what is said to /api/spend_*" in str(failed.value)
        assert "Where that is an older luigid (no), both ends are" in str(failed.value)


def test_what_is_refused_for_good_is_put_aside(heir: Answers, caplog: pytest.LogCaptureFixture) -> None:
    heir.error = denial("scope", "it does not fit", {"http_status": 409})
    heir.take_over()
    assert (len(heir.asked), waits(heir)) == (2, (0, 2))
    assert caplog.text.count("is put aside in") == 2


def test_so_is_an_end_that_is_refused_by_itself(heir: Answers) -> None:
    heir.refused = "it is another task's"
    heir.take_over()
    assert waits(heir) == (0, 1)


@pytest.mark.parametrize(
    ("status", "body", "mended"), [(409, {"error": "conflict"}, False), (403, {"error": "forbidden"}, True)]
)
def test_a_refusal_has_the_status_that_tells_whether_it_may_be_mended(
    status: int, body: dict[str, Any], mended: bool
) -> None:
    with pytest.raises(SpendDenied) as denied:
        read_answer(rpcs.ENDED, "luigid", status, json.dumps(body).encode(), True)
    assert is_for_good(denied.value) is not mended
