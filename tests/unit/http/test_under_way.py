"""Calls that clients have under way: which of them was given up is said by the call that is made again."""

from __future__ import annotations

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
