"""Calls that clients have under way: which of them was given up is said by the call that is made again."""

from __future__ import annotations

from luigi_spendguard.http.relay import ClientCall, UnderWay
from luigi_spendguard.protocol import MAX_UNANSWERED
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


def test_what_comes_after_its_repetition_names_that() -> None:
    calls = UnderWay()
    for key, unanswered in (("two", "one"), ("three", "one two"), ("four", "")):
        with calls.made("task", asked(key, unanswered)) as call:
            assert call.unanswered == unanswered
    for who, key, named in (("task", "one", "two three"), ("task", "two", "three"), ("another", "one", "")):
        with calls.made(who, asked(key)) as late:
            assert (late.unanswered, late.given_up) == (named, False)


def test_one_that_may_have_been_made_again_too_often_is_given_up() -> None:
    calls = UnderWay()
    for number in range(1000):
        with calls.made("task", asked(f"sdk-{number}", "lost other")) as call:
            assert not call.given_up
    with calls.made("task", asked("lost")) as late:
        assert late.given_up
    assert len(calls._again["task"]["lost"]) < 2 * MAX_UNANSWERED


def test_the_latest_are_remembered() -> None:
    calls = UnderWay()
    for number in range(1000):
        with calls.made("task", asked(f"again-{number}", f"lost-{number}")):
            pass
        with calls.made(f"task {number}", asked("again", "lost")):
            pass
    assert list(calls._again)[-1] == "task 999"
    assert len(calls._again) < 300
    with calls.made("task 999", asked("lost")) as late:
        assert late.unanswered == "again"
