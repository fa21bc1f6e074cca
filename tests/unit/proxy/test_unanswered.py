"""Which calls a request may be that the gateway has not answered."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import time
from pathlib import Path

import pytest

from luigi_spendguard.errors import OutcomeUnknown, SpendDenied, denial
from luigi_spendguard.http.shared import SharedTexts, is_gone
from luigi_spendguard.protocol import MAX_UNANSWERED, TOO_MANY_UNANSWERED
from luigi_spendguard.proxy.attempts import Mark, Unanswered
from luigi_spendguard.vendors import Request


def mark(body: bytes, target: str = "/emails", method: str = "POST") -> Mark:
    return Unanswered.of(Request(method, f"https://api.resend.com{target}", {}, body), target)


def lose(known: Unanswered, key: str, body: bytes, error: BaseException | None = None, **more: str) -> None:
    with pytest.raises((ConnectionError, OutcomeUnknown)), known.remembered(key, mark(body, **more)):
        raise error or ConnectionError


def answered(known: Unanswered, key: str, body: bytes, told: str | None = None) -> None:
    told = known.named(mark(body), key) if told is None else told
    with known.remembered(key, mark(body), told):
        pass


def test_an_equal_request_stands_first_and_other_paths_are_left_out() -> None:
    known = Unanswered()
    for key, body in (("k1", b"a"), ("k2", b"b"), ("k3", b"c")):
        lose(known, key, body)
    lose(known, "k4", b"b", target="/emails/batch")
    lose(known, "k5", b"b", method="PATCH")
    assert known.named(mark(b"c"), "new") == "k3 k1 k2"
    assert known.named(mark(b"c"), "k3") == "k1 k2"
    assert known.named(mark(b"x", "/other"), "new") == ""


def test_a_query_makes_it_another_request_on_the_same_path() -> None:
    known = Unanswered()
    lose(known, "k1", b"", target="/lookup?a=1")
    lose(known, "k2", b"", target="/lookup?a=2")
    assert known.named(mark(b"", "/lookup?a=2"), "new") == "k2 k1"


def test_what_is_answered_is_named_to_equal_calls_alone_whichever_key_it_came_under() -> None:
    """Of several that were lost the ledger knows which one was made again; here nobody does."""
    known = Unanswered()
    lose(known, "k1", b"a")
    lose(known, "k2", b"a")
    answered(known, "k9", b"a")
    assert (known.named(mark(b"a"), "new"), known.named(mark(b"b"), "new")) == ("k2 k1", "k2")
    assert known.was_sent("new", mark(b"a"), "k2 k1")
    answered(known, "k2", b"a")
    assert (known.named(mark(b"a"), "new"), known.named(mark(b"b"), "new")) == ("k1", "")
    assert not known.was_sent("new", mark(b"a"), "k1")


def test_an_answer_says_nothing_of_calls_that_the_gateway_was_not_told_of() -> None:
    """One that was lost while another thread's equal call was under way."""
    known = Unanswered()
    told = known.named(mark(b"a"), "k2")
    lose(known, "k1", b"a")
    answered(known, "k2", b"a", told)
    assert known.named(mark(b"a"), "new") == "k1"


def test_an_unknown_outcome_is_no_answer_and_a_denial_sends_nothing() -> None:
    known = Unanswered()
    lose(known, "k1", b"a", OutcomeUnknown("?", "c1"))
    with pytest.raises(SpendDenied), known.remembered("k2", mark(b"b")):
        raise denial("cap", "no")
    assert known.named(mark(b"z"), "new") == "k1"


def deny(known: Unanswered, key: str, body: bytes) -> None:
    told = known.named(mark(body), key)
    with pytest.raises(SpendDenied), known.remembered(key, mark(body), told):
        raise denial("ledger_unavailable", "no")


def test_what_was_denied_is_given_up_by_an_equal_call_alone_and_was_not_sent() -> None:
    known = Unanswered()
    deny(known, "k1", b"a")
    lose(known, "k2", b"b")
    deny(known, "k3", b"a")
    told = known.named(mark(b"a"), "k4")
    assert (told, known.named(mark(b"c"), "k4"), known.named(mark(b"a"), "k3")) == ("k2 k1 k3", "k2", "k2 k1")
    assert not known.was_sent("k1", mark(b"a"), told)
    answered(known, "k4", b"a", told)
    assert (known.named(mark(b"a"), "k5"), known.named(mark(b"c"), "k5")) == ("k2 k1 k3", "k2")


def test_a_try_that_is_lost_after_one_that_was_denied_is_lost() -> None:
    known = Unanswered()
    deny(known, "k1", b"a")
    lose(known, "k1", b"a")
    assert known.named(mark(b"c"), "k2") == "k1"
    assert known.was_sent("k1", mark(b"a"))
    deny(known, "k1", b"a")
    assert known.named(mark(b"c"), "k2") == "k1", "a denial says nothing of the try before"


def test_many_that_were_denied_are_in_nobodys_way() -> None:
    known = Unanswered()
    for number in range(1000):
        deny(known, f"spendguard-call-{number:020}", b"%d" % number)
    for number in range(300):
        deny(known, f"spendguard-again-{number:020}", b"a")
    assert known.named(mark(b"new"), "new") == ""
    named = known.named(mark(b"a"), "new").split()
    assert named[-1] == f"spendguard-again-{299:020}"
    assert 50 <= len(named) <= 100


def test_what_a_forked_process_was_denied_the_others_give_up() -> None:
    known = Unanswered()
    pid = os.fork()
    if not pid:
        deny(known, "in-child", b"a")
        os._exit(0)
    os.waitpid(pid, 0)
    assert known.named(mark(b"a"), "new") == "in-child"


def test_more_than_fit_are_named_where_one_is_equal_and_refused_where_none_is() -> None:
    known = Unanswered()
    for number in range(400):
        lose(known, f"spendguard-call-{number:020}", b"%d" % number)
    named = known.named(mark(b"399"), "new")
    assert len(named) <= MAX_UNANSWERED
    assert named.split()[0] == f"spendguard-call-{399:020}"
    assert all(len(key) == 36 for key in named.split()), "none is cut"
    assert known.named(mark(b"new"), "new") == TOO_MANY_UNANSWERED


def test_what_another_process_names_is_named_beside_ones_own() -> None:
    known = Unanswered()
    lose(known, "k1", b"a")
    lose(known, "k2", b"b")
    assert known.named(mark(b"b"), "new", "p1 k1") == "p1 k1 k2"
    assert known.named(mark(b"b"), "new", "p" * MAX_UNANSWERED) == TOO_MANY_UNANSWERED


def test_reads_are_not_remembered() -> None:
    known = Unanswered()
    with pytest.raises(ConnectionError), known.remembered("k1", None):
        raise ConnectionError
    assert known.named(mark(b""), "new") == ""


def test_what_a_forked_process_has_lost_the_others_name() -> None:
    """A pool's process makes again what the task, or another of its processes, has lost."""
    known = Unanswered()
    lose(known, "before", b"a")
    here, there = multiprocessing.Pipe()
    pid = os.fork()
    if not pid:
        there.send(known.named(mark(b"a"), "own"))
        there.recv()
        there.send(known.named(mark(b"a"), "own"))
        lose(known, "in-child", b"a")
        answered(known, "before", b"a")
        os._exit(0)
    assert here.recv() == "before"
    lose(known, "after", b"a")
    here.send(None)
    assert here.recv() == "before after"
    os.waitpid(pid, 0)
    assert known.named(mark(b"a"), "own") == "after in-child"
    with pytest.raises(OSError, match="lost"), known.remembered("x" * 64, Mark("y" * (1 << 17), "z")):
        raise OSError("lost")
    assert known.named(mark(b"a"), "own") == TOO_MANY_UNANSWERED


def test_what_was_under_way_before_the_first_fork_the_others_name_when_its_process_is_gone() -> None:
    """A task starts another process in one thread, while another one is in mid-call; then it is killed."""
    here, there = multiprocessing.Pipe()
    pid = os.fork()
    if not pid:
        known, killed = Unanswered(), os.getpid()
        with known.remembered("one", mark(b"a")):
            if os.fork():
                os.kill(killed, signal.SIGKILL)
            while not is_gone(killed):
                time.sleep(0.001)
            there.send(known.named(mark(b"a"), "two"))
            os._exit(0)
    os.waitpid(pid, 0)
    assert here.recv() == "one"


def test_what_a_spawned_process_has_lost_the_others_name() -> None:
    known = Unanswered()
    lose(known, "before", b"a")
    sent = pickle.loads(pickle.dumps(known))
    assert sent.named(mark(b"a"), "own") == "before"
    lose(known, "after", b"a")
    lose(sent, "in-child", b"a")
    answered(sent, "before", b"a")
    assert known.named(mark(b"a"), "own") == sent.named(mark(b"a"), "own") == "after in-child"


def test_whose_parent_is_gone_tells_nothing_apart() -> None:
    known = Unanswered()
    sent = pickle.dumps(known)
    del known
    assert pickle.loads(sent).named(mark(b"a"), "own") == TOO_MANY_UNANSWERED


def test_who_is_killed_as_it_changes_what_is_shared_leaves_what_there_was() -> None:
    texts = SharedTexts({"one": ["1"]})
    pid = os.fork()
    if not pid:
        with texts.held() as held:
            held["two"] = ["2"]
            os._exit(0)
    os.waitpid(pid, 0)
    with texts.held() as held:
        assert held == {"one": ["1"]}
        held["three"] = ["3"]
    with texts.held() as held:
        assert held == {"one": ["1"], "three": ["3"]}


def test_a_file_that_has_taken_the_place_of_what_was_shared_is_left_alone(tmp_path: Path) -> None:
    """A program that has taken this one's place opens other files by the same numbers."""
    path = SharedTexts({}).path
    with (tmp_path / "other").open("w+b") as other:
        other.truncate(1 << 20)
        mark = path.partition(" ")[2]
        taken = f"/proc/{os.getpid()}/fd/{other.fileno()} {mark}"
        assert Unanswered(taken).named(Mark("POST /", ""), "own") == TOO_MANY_UNANSWERED
        assert other.read() == bytes(1 << 20)
    assert SharedTexts.concerns(taken)
    assert not SharedTexts.concerns(f"/proc/0/fd/1 {mark}")


def test_a_call_that_is_lost_stands_there_at_every_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that is killed between two of its steps leaves what another one of the task must know."""
    unanswered, seen = Unanswered(), list[bool]()
    unanswered.share()
    write = SharedTexts._write

    def watched(self: SharedTexts, texts: dict[str, list[str]]) -> None:
        seen.append("one" in texts)
        write(self, texts)

    monkeypatch.setattr(SharedTexts, "_write", watched)
    lose(unanswered, "one", b"a=1")
    assert seen == [True] * len(seen)
    assert len(seen) > 1
    assert unanswered.named(mark(b"a=1"), "two") == "one"
