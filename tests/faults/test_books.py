"""The judge of a round says each thing that can be wrong, and of books that are right nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from tests.faults.books import Seen, judge, sent_after, uncounted

CAPS, DONE = {"main_": 400, "+1": 200}, ["main_0", "main_1", "+15550001"]


def call(target: str, state: str) -> dict[str, str]:
    return {"target": target, "state": state}


def run(spent: str, reserved: str = "0.00", overrun: str = "0.00") -> dict[str, str]:
    return {"spent_usd": spent, "reserved_usd": reserved, "overrun_usd": overrun}


#: Two have paid, a text was sent, one is in doubt and has paid, one is in doubt and has not.
RIGHT = Seen(
    {"main_0": 100, "main_1": 100, "+15550001": 100, "main_2": 100},
    [
        call("main_0", "settled"),
        call("main_1", "settled"),
        call("main_9", "voided"),
        call("main_2", "in_doubt"),
        call("alone_3", "in_doubt"),
        call("+15550001", "settled"),
    ],
    [run("2.00", "1.00"), run("1.00"), run("0.00", "1.00")],
)


def but(**changed: Any) -> Seen:
    return replace(RIGHT, **changed)


def moved(**more: int) -> Mapping[str, int]:
    return {**RIGHT.paid, **more}


def called(*calls: dict[str, str], without: str = "") -> list[Mapping[str, Any]]:
    return [one for one in RIGHT.calls if one["target"] != without] + list(calls)


#: What is seen, and all that the judge says of it.
WRONG = {
    "nothing": (RIGHT, []),
    "twice": (but(paid=moved(main_1=200)), ["main_1 has paid 200 cents"]),
    "too little": (but(paid=moved(main_1=99)), ["main_1 has paid 99 cents"]),
    "a doubtful one twice": (but(paid=moved(main_2=200)), ["main_2 has paid 200 cents"]),
    "not at all": (
        but(paid={one: cents for one, cents in RIGHT.paid.items() if one != "main_1"}),
        ["main_1 has not paid, and its task is complete", "main_1 is settled, and has not paid"],
    ),
    "complete, and never called": (
        but(
            paid={one: cents for one, cents in RIGHT.paid.items() if one != "main_1"},
            calls=called(without="main_1"),
            runs=[run("1.00", "1.00"), *RIGHT.runs[1:]],
        ),
        ["main_1 has not paid, and its task is complete"],
    ),
    "over a cap": (
        but(
            paid=moved(main_5=100, main_6=100),
            calls=called(call("main_5", "settled"), call("main_6", "settled")),
            runs=[*RIGHT.runs, run("2.00")],
        ),
        ["main_: 500 cents were moved under a cap of 400"],
    ),
    "too many texts": (
        but(
            paid=RIGHT.paid | {"+15550002": 100, "+15550003": 100},
            calls=called(call("+15550002", "settled"), call("+15550003", "settled")),
            runs=[*RIGHT.runs, run("2.00")],
        ),
        ["+1: 300 cents were moved under a cap of 200"],
    ),
    "pending": (
        but(calls=called(call("main_9", "pending")), runs=[*RIGHT.runs, run("0.00", "1.00")]),
        ["main_9 is pending for ever"],
    ),
    "settled twice": (
        but(calls=called(call("main_0", "settled")), runs=[*RIGHT.runs, run("1.00")]),
        ["main_0 is settled 2 times"],
    ),
    "settled for nothing": (
        but(calls=called(call("main_9", "settled")), runs=[*RIGHT.runs, run("1.00")]),
        ["main_9 is settled, and has not paid"],
    ),
    "free": (
        but(
            calls=called(call("main_1", "voided"), without="main_1"),
            runs=[run("1.00", "1.00"), *RIGHT.runs[1:]],
        ),
        ["main_1 has paid, and is not counted"],
    ),
    "unknown": (
        but(calls=called(without="main_2"), runs=[run("2.00"), *RIGHT.runs[1:]]),
        ["main_2 has paid, and is not counted"],
    ),
    "spent more": (but(runs=[*RIGHT.runs, run("1.00")]), ["spent is 4, and its calls come to 3"]),
    "spent less": (
        but(runs=RIGHT.runs[1:]),
        [
            "spent is 1, and its calls come to 3",
            "reserved is 1, and its calls come to 2",
        ],
    ),
    "reserved": (but(runs=[*RIGHT.runs, run("0", "1.00")]), ["reserved is 3, and its calls come to 2"]),
    "overrun": (but(runs=[*RIGHT.runs, run("0", "0", "1.00")]), ["overrun is 1, and its calls come to 0"]),
    "a sum": (but(discrepancies=["run main: ..."]), ["run main: ..."]),
    "an end that waits": (but(waiting=1), ["on disk 1 waits, 0 were refused"]),
    "an end that was refused": (but(refused=2), ["on disk 0 waits, 2 were refused"]),
}


@pytest.mark.parametrize("what", WRONG)
def test_it_says_what_is_wrong_and_no_more(what: str) -> None:
    seen, said = WRONG[what]
    assert judge(seen, CAPS, DONE) == said


def test_who_has_paid_is_counted_at_any_time() -> None:
    calls = [call("a", "pending"), call("b", "in_doubt"), call("c", "settled"), call("d", "voided")]
    assert uncounted(["a", "b", "c"], calls) == []
    assert uncounted(["d", "e"], calls) == [
        "d has paid, and is not counted",
        "e has paid, and is not counted",
    ]


def test_what_is_sent_after_a_revoke_is_named() -> None:
    posts = [
        {"body": "amount=100&customer=stop_1&confirm=true", "time": 9.0},
        {"body": "amount=100&customer=main_1&confirm=true", "time": 11.0},
    ]
    assert sent_after(posts, "stop_", 10.0) == []
    late = {"body": "amount=100&customer=stop_2&confirm=true", "time": 10.01}
    assert sent_after([*posts, late], "stop_", 10.0) == [f"{late['body']} was sent after the revoke"]
