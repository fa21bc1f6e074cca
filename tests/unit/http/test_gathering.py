"""Ends that travel with what is said next: what is taken along, what waits for it, and what is never lost."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import pytest

from luigi_spendguard.http import gathering
from luigi_spendguard.http.gathering import Gathered, Gathering, KeptEnd, LastWords
from luigi_spendguard.protocol import EndRequest
from luigi_spendguard.protocol.rpcs import FinishRequest

RETURNED = FinishRequest("claim", "returned")


def told(call_id: str, key: str = "key") -> KeptEnd:
    return KeptEnd(key, EndRequest("settle", call_id))


def ends(*call_ids: str) -> tuple[EndRequest, ...]:
    return tuple(told(call_id).end for call_id in call_ids)


class Sayer:
    """Hears what is said, and says so."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.said = threading.Event()

    def say(self, gathered: Gathered) -> None:
        self.heard += [one.end.call_id for one in gathered.ends]
        self.heard += [gathered.last.outcome] if gathered.last is not None else []
        self.said.set()


@pytest.fixture
def sayer() -> Sayer:
    return Sayer()


@pytest.fixture
def gathered(sayer: Sayer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gathering]:
    """A block that gathers, in which nothing is said but for a reason."""
    monkeypatch.setattr(gathering, "SOON_S", 600)
    made = Gathering(sayer.say)
    with made.block():
        yield made


def test_nothing_is_gathered_outside_a_block(sayer: Sayer) -> None:
    made = Gathering(sayer.say)
    assert not made.put(told("one"))
    with made.block():
        assert made.put(told("two"))
    assert sayer.heard == ["two"]
    assert not made.put(told("three"))


def test_what_is_said_next_takes_it_along(gathered: Gathering, sayer: Sayer) -> None:
    for call_id in ("one", "two"):
        gathered.begin()
        assert gathered.put(told(call_id))
    with gathered.taken() as taken:
        assert [one.end.call_id for one in taken.ends] == ["one", "two"]
    with gathered.taken() as taken:
        assert taken == Gathered()
    gathered.say_all()
    assert sayer.heard == []


def test_it_is_said_soon_where_nothing_else_is(sayer: Sayer) -> None:
    made = Gathering(sayer.say)
    with made.block():
        for call_id in ("one", "two"):
            assert made.put(told(call_id))
            assert sayer.said.wait(20)
            sayer.said.clear()
        assert sayer.heard == ["one", "two"]


def test_what_is_not_delivered_with_it_is_put_back(gathered: Gathering, sayer: Sayer) -> None:
    gathered.put(told("one"))

    def interrupted() -> None:
        with gathered.taken():
            gathered.put(told("two"))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    gathered.say_all()
    assert sayer.heard == ["one", "two"]


def test_what_is_asked_for_waits_until_ends_before_it_are_said(gathered: Gathering) -> None:
    gathered.put(told("one"))
    order: list[str] = []
    asks = threading.Event()

    def ask() -> None:
        asks.set()
        with gathered.taken() as taken:
            order.append(f"another, with {len(taken.ends)}")

    other = threading.Thread(target=ask)
    with gathered.taken() as taken:
        assert len(taken.ends) == 1
        other.start()
        assert asks.wait(20)
        order.append("the first")
    other.join(20)
    assert order == ["the first", "another, with 0"]


def test_calls_that_are_made_at_once_tell_their_ends_themselves(gathered: Gathering) -> None:
    for _ in range(2):
        gathered.begin()
    assert not gathered.put(told("one"))
    assert gathered.put(told("two"))
    assert gathered.put(told("one that was never granted"))


def test_it_is_said_before_a_child_is_forked_which_gathers_nothing(gathered: Gathering, sayer: Sayer) -> None:
    gathered.put(told("one"))
    pid = os.fork()
    if not pid:
        with gathered.taken() as taken:
            os._exit(0 if taken == Gathered() and not gathered.put(told("two")) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert sayer.heard == ["one"]


def test_a_task_that_has_another_process_says_each_end_at_once(sayer: Sayer) -> None:
    made = Gathering(sayer.say)
    with made.block():
        assert made.put(told("one"))
        made.share()
        assert sayer.heard == ["one"]
        with made.block():
            assert not made.put(told("two"))
    with made.block():
        assert made.put(told("three"))


def test_who_is_killed_leaves_what_it_has_not_said(sayer: Sayer) -> None:
    words, made = LastWords(), Gathering(sayer.say)
    assert words.read() == ((), "")
    pid = os.fork()
    if not pid:
        with made.block(words):
            made.put(told("one"))
            with made.taken():
                made.put(told("two", "another key"))
                os._exit(0)
    os.waitpid(pid, 0)
    assert words.read() == (ends("one", "two"), "")


def test_what_was_said_is_not_left(gathered: Gathering, sayer: Sayer) -> None:
    words = LastWords()
    with gathered.block(words):
        gathered.put(told("one"))
        assert words.read() == (ends("one"), "")
        with gathered.taken():
            gathered.put(told("two"))
        assert words.read() == (ends("two"), "")
    assert words.read() == ((), "")


def test_what_is_too_long_to_be_left_is_said_at_once(gathered: Gathering) -> None:
    words = LastWords()
    with gathered.block(words):
        gathered.put(told("one"))
        assert not gathered.put(KeptEnd("key", EndRequest("settle", "two", answer_body="x" * (1 << 18))))
        assert words.read() == (ends("one"), "")


def test_how_an_attempt_has_ended_is_left_behind_its_ends(gathered: Gathering, sayer: Sayer) -> None:
    words = LastWords()
    with gathered.block(words):
        gathered.put(told("one"))
        assert gathered.leave(RETURNED)
    gathered.flush()
    assert sayer.heard == []
    assert words.read() == (ends("one"), "returned")


def test_without_such_memory_it_is_not_left(gathered: Gathering, sayer: Sayer) -> None:
    gathered.put(told("one"))
    assert not gathered.leave(RETURNED)
    gathered.flush()
    assert sayer.heard == ["one"]


def test_what_other_processes_have_a_part_in_is_not_left(gathered: Gathering, sayer: Sayer) -> None:
    with gathered.block(LastWords()):
        gathered.share()
        assert not gathered.leave(RETURNED)
    assert sayer.heard == []


def test_a_process_that_goes_on_says_itself_how_its_attempt_has_ended(
    sayer: Sayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gathering, "LEFT_S", 0.01)
    words, made = LastWords(), Gathering(sayer.say)
    with made.block(words):
        made.put(told("one"))
        made.leave(RETURNED)
    assert sayer.said.wait(20)
    with made.taken():  # It has been said.
        assert words.read() == ((), "")
    assert sayer.heard == ["one", "returned"]


def test_it_is_said_before_a_child_is_forked(gathered: Gathering, sayer: Sayer) -> None:
    with gathered.block(LastWords()):
        gathered.leave(RETURNED)
    pid = os.fork()
    if not pid:
        with gathered.taken() as taken:
            os._exit(0 if taken == Gathered() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert sayer.heard == ["returned"]
