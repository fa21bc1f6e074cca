"""Calls that clients have under way: which of them was given up is said by the call that is made again."""

from __future__ import annotations

from dataclasses import replace

from luigi_spendguard.guard.effects import What
from luigi_spendguard.http.relay import ClientCall, UnderWay
from luigi_spendguard.vendors import Request
from luigi_spendguard.vendors.registry import VENDORS


def asked(key: str, unanswered: str = "") -> ClientCall:
    return ClientCall(VENDORS["stripe"], Request("POST", "/", {"idempotency-key": key}, b""), unanswered)


def test_what_is_made_again_is_given_up_and_nothing_else() -> None:
    calls = UnderWay()
    with (
        calls.made("task", asked("one")) as one,
        calls.made("task", asked("two", "one")) as two,
        calls.made("another task", asked("one")) as others,
        calls.made("task", asked("four")) as four,
    ):
        assert [one.given_up, two.given_up, others.given_up, four.given_up] == [True, False, False, False]
        with calls.made("task", asked("one", "one two")) as again:
            assert (two.given_up, again.given_up) == (True, False)
    with calls.made("task", asked("five", "four")):
        assert not four.given_up


def test_nothing_is_kept_of_a_call_that_has_ended() -> None:
    calls = UnderWay()
    with calls.made("task", asked("one")), calls.made("task", asked("one")):
        pass
    assert calls._calls == {}


ONE, OTHER = ("a", "o", "cus_1"), ("a", "o", "cus_2")


def late(calls: UnderWay, key: str, unanswered: str = "", what: What = ONE, who: str = "task") -> bool:
    with calls.made(who, asked(key, unanswered)) as call:
        return call.comes_late(what)


def test_what_comes_after_its_repetition_is_late() -> None:
    calls = UnderWay()
    assert [late(calls, "two", "one"), late(calls, "three", "two"), late(calls, "four")] == [False] * 3
    assert [late(calls, "one"), late(calls, "two"), late(calls, "one", "zero")] == [True] * 3
    assert not late(calls, "three")
    assert not late(calls, "one", what=OTHER), "another call was made while it was lost"
    assert not late(calls, "one", who="another task")
    assert not late(calls, "")


def test_a_try_that_a_later_one_has_overtaken_is_late() -> None:
    calls = UnderWay()

    def overtaken(number: int, key: str = "one", who: str = "task") -> bool:
        with calls.made(who, replace(asked(key), number=number)) as call:
            return call.comes_late(ONE)

    assert [overtaken(n) for n in (2, 1, 3, 3, 2, 0)] == [False, True, False, False, True, False]
    assert not overtaken(1, "two")
    assert not overtaken(1, who="another task")
    with calls.made("task", replace(asked("five"), number=1)) as first:
        assert not overtaken(2, "five")
        assert first.comes_late(ONE), "it has still to be decided about"


def test_the_latest_are_remembered() -> None:
    calls = UnderWay()
    for number in range(10_001):
        with calls.made("task", replace(asked(f"key-{number}"), number=number + 1)):
            pass
    assert (len(calls._tries), calls._tries["task", "key-10000"]) == (10_000, 10_001)
    for number in range(1000):
        assert not late(calls, f"again-{number}", f"lost-{number}")
        assert not late(calls, "again", "lost", what=("a", "o", f"cus_{number}"))
        assert not late(calls, "again", "lost", who=f"task {number}")
        late(calls, "again", f"lost-{number}", what=OTHER)
        late(calls, "again", "lost", what=OTHER)
    assert (len(calls._again), len(calls._again["task"]), len(calls._again["task"][OTHER])) == (256, 512, 256)
    assert late(calls, "lost-999", what=OTHER)
    assert late(calls, "lost", who="task 999")
