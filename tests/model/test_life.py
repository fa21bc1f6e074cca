"""The model is searched whole; each of its rules is needed, and each function that it mirrors is there."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import minicheck
import pytest

from tests.model import books, life, promises
from tests.model.books import Rules, State

#: How many states there are. With another number it is another model: think over what it shows then.
STATES = {
    (True, "revokes"): 55840,
    (True, "resolves"): 77374,
    (False, "revokes"): 17187,
    (False, "resolves"): 29748,
}
#: Of each rule that is left out: what does not hold then, with which vendor and operator.
NEEDED = {
    "no cap is looked at": ("no cap is passed", True, "resolves"),
    "a void counts again": ("what is reserved is what is open", True, "resolves"),
    "a settle counts again": ("a settle again changes nothing", True, "revokes"),
    "what was found is granted": ("nobody is paid twice", False, "revokes"),
    "what has no key is sent again": ("nobody is paid twice", False, "revokes"),
    "a time-out voids": ("what has moved is counted", True, "revokes"),
    "a void is read ahead of what it has put in doubt": ("what has moved is counted", True, "revokes"),
    "a void ends what is in doubt": ("never voided by nobody's word", True, "resolves"),
    "an old grant is used": ("nothing is overrun but by an operator's mistake", True, "resolves"),
    "a revoked key is worth something": ("never granted after a revoke", True, "revokes"),
    "the key of an earlier attempt is worth something": (
        "never granted to an earlier attempt",
        True,
        "revokes",
    ),
    "a key that met a decline is used again": ("never granted under a key that is used up", True, "revokes"),
    "a tombstone refuses nothing": ("never granted behind a tombstone", True, "revokes"),
    "a revoke waits for pending calls alone": ("never sent after a revoke", True, "revokes"),
    "a sender's number stands for one request": ("never sent after a revoke", True, "revokes"),
    "two senders count alike": ("never sent with nothing reserved", True, "resolves"),
    "a late settle is dropped": ("never a reply was dropped", True, "resolves"),
    "what is in doubt answers": ("never told that it is paid", True, "revokes"),
}


def protocol(rules: Rules, names: list[str], *, whole: bool = True) -> minicheck.Protocol:
    """Return the model as minicheck takes it; not `whole`: it ends where something does not hold."""
    found: list[str] = []
    last: tuple[dict[str, Any], State] = ({}, State())

    def read(fields: dict[str, Any]) -> State:
        nonlocal last
        if fields is not last[0]:  # Each invariant is asked about the same state.
            last = fields, State(**fields)
        return last[1]

    def holds(name: str) -> Any:
        promise = promises.INVARIANTS[name]

        def holds_in(fields: dict[str, Any]) -> bool:
            if promise(read(fields)):
                return True
            found.append(name)
            return False

        return holds_in

    return minicheck.Protocol(
        name="a reservation's life",
        candidate=False,
        fields=State._fields,
        initial=State(),
        transitions=lambda state: life.steps(state, rules) if whole or not found else [],
        invariants={name: holds(name) for name in names},
        goal=lambda fields: promises.is_over(State(**fields)),
    )


def way(found: dict[str, Any]) -> list[str]:
    """Return what has led to a state in which something does not hold."""
    return [step["label"] for step in found["counterexample"] or []]


@pytest.mark.parametrize(("honours_keys", "operator"), STATES)
def test_every_promise_holds_in_every_state(honours_keys: bool, operator: str) -> None:
    found = minicheck.check_safety(protocol(Rules(honours_keys, operator), [*promises.INVARIANTS]))
    assert {name: way(one) for name, one in found["properties"].items() if one["holds"] is not True} == {}
    assert (found["exhaustive"], found["reachable_states"]) == (True, STATES[honours_keys, operator])


@pytest.mark.parametrize("broken", NEEDED)
def test_each_rule_is_needed(broken: str) -> None:
    promise, honours_keys, operator = NEEDED[broken]
    rules = Rules(honours_keys, operator, broken)
    found = minicheck.check_safety(protocol(rules, [promise], whole=False))["properties"][promise]
    assert found["holds"] is False
    assert len(way(found)) > 3


def test_each_promise_is_broken_by_a_rule_that_is_left_out() -> None:
    assert {promise for promise, _, _ in NEEDED.values()} == {*promises.INVARIANTS}
    assert len(promises.INVARIANTS) >= 10
    code = "".join(Path(module.__file__ or "").read_text("utf-8") for module in (books, life))
    assert {*re.findall(r'broken [!=]= "([^"]+)"', code)} == {*NEEDED, "nobody sweeps"}


def test_nothing_waits_for_ever() -> None:
    """From every state one is reached in which nothing is under way."""
    found = minicheck.check_liveness(protocol(Rules(honours_keys=False, operator="revokes"), []))
    assert (found["holds"], found["reachable_states"]) == (True, STATES[False, "revokes"])


def test_but_it_would_where_nobody_sweeps() -> None:
    found = minicheck.check_liveness(protocol(Rules(False, "revokes", "nobody sweeps"), []))
    assert found["holds"] is False
    assert found["counterexample"][-1]["state"]["rows"][0].state == "pending"


#: Where the model's names of modules lead.
MODULES = {
    "bookings": "scheduler_patch.service.bookings",
    "operators": "scheduler_patch.service.operators",
    "Guard": "luigi_spendguard.guard",
    "LookUps": "luigi_spendguard.guard.lookups",
}


def test_what_it_mirrors_is_there() -> None:
    named = set()
    for module in (books, life):
        named |= set(re.findall(r"`(\w+)\.(\w+)`", Path(module.__file__ or "").read_text("utf-8")))
    named -= {("Rules", "broken")}
    assert len(named) > 20
    for module, name in named:
        there: Any = importlib.import_module(MODULES.get(module, f"luigi_spendguard.ledger.{module}"))
        assert hasattr(getattr(there, module) if module in ("Guard", "LookUps") else there, name), (
            module,
            name,
        )
