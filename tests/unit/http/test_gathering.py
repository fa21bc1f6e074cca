"""Ends that travel with what is said next: what is taken along, what waits for it, and what is never lost."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import pytest

from luigi_spendguard.http import gathering
from luigi_spendguard.http.gathering import Gathering, KeptEnd, LastWords
from luigi_spendguard.protocol import EndRequest


def told(call_id: str, key: str = "key") -> KeptEnd:
    return KeptEnd(key, EndRequest("settle", call_id))


class Sayer:
    """Hears what is said, and says so."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.said = threading.Event()

    def say(self, ends: tuple[KeptEnd, ...]) -> None:
        self.heard += [one.end.call_id for one in ends]
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
    with gathered.taken() as ends:
        assert [one.end.call_id for one in ends] == ["one", "two"]
    with gathered.taken() as ends:
        assert ends == ()
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
        with gathered.taken() as ends:
            order.append(f"another, with {len(ends)}")

    other = threading.Thread(target=ask)
    with gathered.taken() as ends:
        assert len(ends) == 1
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
        with gathered.taken() as ends:
            os._exit(0 if not ends and not gathered.put(told("two")) else 1)
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
    assert words.read() == []
    pid = os.fork()
    if not pid:
        with made.block(words):
            made.put(told("one"))
            with made.taken():
                made.put(told("two", "another key"))
                os._exit(0)
    os.waitpid(pid, 0)
    assert words.read() == [told("one"), told("two", "another key")]


def test_what_was_said_is_not_left(gathered: Gathering, sayer: Sayer) -> None:
    words = LastWords()
    with gathered.block(words):
        gathered.put(told("one"))
        assert words.read() == [told("one")]
        with gathered.taken():
            gathered.put(told("two"))
        assert words.read() == [told("two")]
    assert words.read() == []


def test_what_is_too_long_to_be_left_is_said_at_once(gathered: Gathering) -> None:
    words = LastWords()
    with gathered.block(words):
        gathered.put(told("one"))
        assert not gathered.put(KeptEnd("key", EndRequest("settle", "two", answer_body="x" * (1 << 18))))
        assert words.read() == [told("one")]
