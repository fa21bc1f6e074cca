"""A top-up above an amount waits for a second operator, who is another one; on one luigid and on two."""

from __future__ import annotations

import asyncio
import dataclasses
import random
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from luigi_spendguard.config import Settings
from luigi_spendguard.errors import Conflict, NotAllowed, NotFound
from luigi_spendguard.ledger.actions import ActionFilter, actions
from luigi_spendguard.ledger.audit.rights import wrongs
from luigi_spendguard.ledger.audit.sums import discrepancies
from luigi_spendguard.ledger.database import NOW
from luigi_spendguard.ledger.top_ups import RequestFilter
from luigi_spendguard.money import Micros
from luigi_spendguard.protocol.operators import ConfirmRequest, TopUpRequest
from luigi_spendguard.redaction import Secret
from luigi_spendguard.settings.operators import NamedOperator
from scheduler_patch.service import operators
from scheduler_patch.service.callers import ADMIN, Caller
from scheduler_patch.service.ledger import ACTOR
from tests.support.luigids import USD, Luigid

ALICE, BOB, CAROL, READER = (
    Caller("operate", "alice", address="10.0.0.1"),
    Caller("operate", "bob", address="10.0.0.2"),
    Caller("admin", "carol", address="10.0.0.3"),
    Caller("read", "reader", address="10.0.0.4"),
)
NOBODY = dataclasses.replace(ADMIN, address="10.0.0.9")


class Staffed(Luigid):
    """A luigid whose operators are named, above $50 two of them."""

    alone: int | None = 50
    limit: int | None = None
    names = (ALICE, BOB, CAROL, READER)
    tokens = {one.name: Secret(f"the-token-of-{one.name}") for one in (ALICE, BOB, CAROL, READER)}

    def settings(self) -> Settings:
        return dataclasses.replace(
            super().settings(),
            operators={
                one.name: NamedOperator(one.name, one.role, self.tokens.get(one.name)) for one in self.names
            },
            two_operators_above_usd=None if self.alone is None else Micros(self.alone * USD),
            operator_top_up_usd=None if self.limit is None else Micros(self.limit * USD),
        )

    def set(self, **more: Any) -> None:
        """Go by other settings, as after a reload."""
        for name, value in more.items():
            setattr(self, name, value)
        self.do(self.service.reload(self.settings()))

    def as_(self, caller: Caller, act: Coroutine[Any, Any, Any]) -> Any:
        async def acted() -> Any:
            ACTOR.set(caller.actor)
            return await act

        return self.do(acted())

    def top_up(self, caller: Caller, usd: int, request_id: str | None = None, **inside: Any) -> Any:
        request = TopUpRequest("r", str(usd), request_id=request_id, **inside)
        return self.as_(caller, operators.top_up(self.service, request, caller))

    def ask(self, caller: Caller, usd: int = 100, **more: Any) -> str:
        return str(self.top_up(caller, usd, **more)["waiting"]["id"])

    def confirm(self, caller: Caller, name: str, request_id: str | None = None) -> Any:
        request = ConfirmRequest(name, request_id)
        return self.as_(caller, operators.confirm(self.service, request, caller))

    def withdraw(self, caller: Caller, name: str) -> Any:
        return self.as_(caller, operators.withdraw(self.service, name))

    def waiting(self, **which: Any) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.do(operators.waiting(self.service, RequestFilter(**which)))
        return found

    @property
    def cap(self) -> int:
        """The run's cap, in USD."""
        sql = "SELECT cap_micros FROM budget WHERE scope = 'run' AND subject = 'r'"
        return int(self.do(self.service.read(lambda tx: tx.value(sql)))) // USD

    def journal(self) -> list[tuple[str, str, str]]:
        found = self.do(self.service.read(actions, ActionFilter(run_id="r")))
        return [(one["kind"], one["usd"], one["actor"]) for one in reversed(found)]


@pytest.fixture
def luigid(tmp_path: Path) -> Iterator[Staffed]:
    made = Staffed(tmp_path, day=Micros(1000 * USD), task_families={"V": Micros(5 * USD)})
    made.run()
    yield made
    assert made.do(made.service.read(lambda tx: [*wrongs(tx)])) == []
    made.end()


@pytest.fixture
def other(luigid: Staffed, tmp_path: Path) -> Iterator[Staffed]:
    """Another luigid on its ledger."""
    made = Staffed(tmp_path, **luigid.caps.__dict__)
    yield made
    made.end()


def test_what_waits_raises_nothing_and_what_is_confirmed_is_both_operators(luigid: Staffed) -> None:
    name = luigid.ask(ALICE)
    assert luigid.cap == 10
    [shown] = luigid.waiting(state="waiting")
    assert (shown["usd"], shown["asked_by"], shown["confirmers"]) == (
        *("100.00", "alice at 10.0.0.1"),
        ["bob", "carol"],
    )
    done = luigid.confirm(BOB, name)
    assert (done["confirmed"]["state"], done["confirmed"]["ended_by"]) == ("confirmed", "bob at 10.0.0.2")
    assert luigid.cap == 110
    assert luigid.journal() == [
        ("ask_top_up", "100.00", "alice at 10.0.0.1"),
        ("top_up", "100.00", "alice at 10.0.0.1, confirmed by bob at 10.0.0.2"),
    ]
    assert luigid.do(luigid.service.read(discrepancies)) == []


def test_up_to_the_amount_one_is_enough(luigid: Staffed) -> None:
    luigid.top_up(ALICE, 50)
    assert (luigid.cap, luigid.waiting()) == (60, [])


def test_many_small_ones_of_one_operator_come_to_one(luigid: Staffed) -> None:
    """Until a second person has agreed: whatever budget of the run it is."""
    luigid.top_up(ALICE, 20)
    luigid.top_up(ALICE, 10, family="V")
    luigid.top_up(ALICE, 20, day=True)
    name = luigid.ask(ALICE, 1)
    luigid.top_up(BOB, 50)  # He is another person.
    assert luigid.cap == 80
    luigid.confirm(BOB, name)
    luigid.top_up(ALICE, 50)
    assert luigid.cap == 131
    luigid.ask(ALICE, 1)
    luigid.ask(BOB, 1)  # What he has confirmed was no top-up of his own, nor one that somebody confirmed him.


def test_who_is_called_as_another_one_begins_is_another_one(luigid: Staffed) -> None:
    ali = Caller("operate", "ali", address="10.0.0.5")
    luigid.set(names=(ALICE, BOB, ali))
    luigid.top_up(ALICE, 50)
    luigid.top_up(ali, 50)
    assert (luigid.cap, luigid.waiting()) == (110, [])


def test_the_admin_token_may_be_anybodys_and_is_half_of_nothing(luigid: Staffed) -> None:
    luigid.top_up(NOBODY, 30)
    luigid.ask(ALICE, 21)
    luigid.top_up(ALICE, 20)
    for usd in (1, 100):
        with pytest.raises(NotAllowed, match="the admin token names nobody"):
            luigid.top_up(NOBODY, usd)
    name = luigid.ask(ALICE)
    with pytest.raises(NotAllowed, match=r"the admin token names nobody.*bob or carol can"):
        luigid.confirm(NOBODY, name)
    assert luigid.cap == 60


def test_nobody_confirms_their_own(luigid: Staffed) -> None:
    name = luigid.ask(CAROL)
    with pytest.raises(NotAllowed, match="you are carol, who has asked for it; alice or bob can"):
        luigid.confirm(CAROL, name)
    assert luigid.cap == 10


def test_without_a_second_one_nothing_waits_for_ever(luigid: Staffed) -> None:
    luigid.set(names=(ALICE, READER))
    assert luigid.service.settings.lacks_operators(at_luigid=True)
    with pytest.raises(NotAllowed, match=r"nobody else in \[spendguard_operators\] may confirm it"):
        luigid.top_up(ALICE, 51)
    assert luigid.waiting() == []


def test_who_has_asked_and_is_gone_has_asked_for_nothing(luigid: Staffed) -> None:
    name = luigid.ask(ALICE)
    for names in ((BOB, CAROL), (BOB, CAROL, dataclasses.replace(ALICE, role="read"))):
        luigid.set(names=names)
        with pytest.raises(NotAllowed, match=r"alice has asked .* and may top up nothing any more"):
            luigid.confirm(BOB, name)
    luigid.withdraw(BOB, name)
    assert luigid.cap == 10


def test_a_second_one_may_top_up_that_much_too(luigid: Staffed) -> None:
    luigid.set(limit=99)
    with pytest.raises(NotAllowed, match=r"by \$99.00 in all"):
        luigid.top_up(ALICE, 100)
    name = luigid.ask(CAROL)
    with pytest.raises(NotAllowed, match=r"by \$99.00 in all"):
        luigid.confirm(BOB, name)
    luigid.ask(ALICE, 60)
    with pytest.raises(NotAllowed, match=r"have raised those of this one, or asked to, by \$60.00"):
        luigid.top_up(ALICE, 40)  # What waits is counted: all of it may be confirmed.
    assert luigid.cap == 10


def test_who_has_no_token_there_is_no_second_one(luigid: Staffed) -> None:
    """luigid passes them over: nobody could come and confirm it."""
    luigid.set(tokens={name: luigid.tokens[name] for name in ("alice", "carol")})
    name = luigid.ask(CAROL)
    with pytest.raises(NotAllowed, match=r"who has asked for it; alice can"):
        luigid.confirm(CAROL, name)
    luigid.set(names=(ALICE, BOB))
    assert luigid.service.settings.lacks_operators(at_luigid=True)
    assert not luigid.service.settings.lacks_operators(at_luigid=False)
    with pytest.raises(NotAllowed, match=r"nobody else in \[spendguard_operators\] may confirm it"):
        luigid.top_up(ALICE, 51)


class TestOnce:
    def test_who_asks_again_by_the_same_id_has_asked_once(self, luigid: Staffed) -> None:
        one, again = (luigid.top_up(ALICE, 100, "id")["waiting"] for _ in range(2))
        assert (one, len(luigid.waiting())) == (again, 1)
        for other in ({"usd": 99}, {"usd": 100, "day": True}):
            with pytest.raises(Conflict, match="was used for another change"):
                luigid.top_up(ALICE, request_id="id", **other)
        luigid.confirm(BOB, one["id"])
        assert luigid.top_up(ALICE, 100, "id")["waiting"]["state"] == "confirmed"
        assert luigid.cap == 110

    def test_a_confirm_that_is_repeated_is_done_once_also_when_the_run_is_revoked(
        self, luigid: Staffed
    ) -> None:
        name = luigid.ask(ALICE)
        luigid.confirm(BOB, name, "c")
        assert luigid.confirm(BOB, name, "c")["repeated"] is True
        with pytest.raises(Conflict, match="waits no more: it is confirmed by bob at"):
            luigid.confirm(BOB, name)
        luigid.as_(BOB, operators.revoke(luigid.service, "r"))
        assert luigid.confirm(BOB, name, "c")["repeated"] is True
        assert luigid.cap == 110

    def test_the_id_of_another_change_confirms_nothing(self, luigid: Staffed) -> None:
        luigid.set(alone=100)
        luigid.top_up(BOB, 100, "used")
        luigid.set(alone=50)
        name = luigid.ask(ALICE)
        with pytest.raises(Conflict, match="was used for another change"):
            luigid.confirm(BOB, name, "used")
        assert (luigid.cap, luigid.waiting()[0]["state"]) == (110, "waiting")

    def test_what_is_withdrawn_is_not_confirmed_and_what_is_confirmed_not_withdrawn(
        self, luigid: Staffed
    ) -> None:
        gone, made = luigid.ask(ALICE), luigid.ask(ALICE)
        assert luigid.withdraw(ALICE, gone)["repeated"] is False
        assert luigid.withdraw(BOB, gone)["repeated"] is True
        with pytest.raises(Conflict, match="it is withdrawn by alice at"):
            luigid.confirm(BOB, gone)
        luigid.confirm(BOB, made)
        with pytest.raises(Conflict, match="it is confirmed by bob at"):
            luigid.withdraw(ALICE, made)
        assert [kind for kind, _, _ in luigid.journal()] == [
            *("ask_top_up", "ask_top_up", "withdraw_top_up", "top_up")
        ]

    def test_of_many_confirms_and_withdrawals_at_once_on_two_luigids_one_is_done(
        self, luigid: Staffed, other: Staffed
    ) -> None:
        for _ in range(5):
            name, before = luigid.ask(ALICE, 100), luigid.cap

            async def all_of(one: Staffed, name: str = name) -> list[Any]:
                asked = [
                    operators.confirm(one.service, ConfirmRequest(name), who) for who in (BOB, CAROL, BOB)
                ]
                return await asyncio.gather(
                    *asked, operators.withdraw(one.service, name), return_exceptions=True
                )

            racing = [asyncio.run_coroutine_threadsafe(all_of(one), one.loop) for one in (luigid, other)]
            results = [one for each in racing for one in each.result(20)]
            state = luigid.waiting()[0]["state"]
            confirmed = [one for one in results if isinstance(one, dict) and "confirmed" in one]
            assert len(confirmed) == (state == "confirmed")
            assert luigid.cap - before == (100 if state == "confirmed" else 0)
            assert all(isinstance(one, (dict, Conflict)) for one in results)
        assert luigid.do(luigid.service.read(discrepancies)) == []


def test_a_run_that_was_revoked_is_not_raised_by_what_waited(luigid: Staffed) -> None:
    name = luigid.ask(ALICE)
    luigid.as_(BOB, operators.revoke(luigid.service, "r"))
    with pytest.raises(Conflict, match="revoked for good"):
        luigid.confirm(BOB, name)
    assert (luigid.cap, luigid.waiting()[0]["state"]) == (10, "waiting")
    with pytest.raises(Conflict, match="revoked for good"):
        luigid.top_up(ALICE, 100)


def test_what_has_waited_too_long_waits_no_more(luigid: Staffed) -> None:
    name, day = luigid.ask(ALICE), luigid.ask(ALICE, 60, day=True)
    by = {one["id"]: one["expires_at"] - one["asked_at"] for one in luigid.waiting()}
    assert by[name] == 7 * 86_400_000
    assert by[day] <= 86_400_000  # It is for today.
    luigid.do(luigid.service.record(lambda tx: tx.run(f"UPDATE top_up_request SET expires_at = {NOW}")))
    assert {one["state"] for one in luigid.waiting()} == {"expired"}
    with pytest.raises(Conflict, match="it is expired"):
        luigid.confirm(BOB, name)
    with pytest.raises(Conflict, match="it is expired"):
        luigid.withdraw(BOB, name)
    assert luigid.cap == 10


def test_what_could_not_be_made_is_not_asked_for(luigid: Staffed) -> None:
    for usd, inside in ((100, {"family": "Other"}), (100, {"vendor": "stripe"}), (1_000_000_000, {})):
        with pytest.raises(Conflict):
            luigid.top_up(ALICE, usd, **inside)
    with pytest.raises(NotFound):
        luigid.confirm(BOB, "tu_nothing")
    assert luigid.waiting() == []


@pytest.mark.parametrize("inside", [{}, {"family": "V"}])
def test_a_confirmed_one_frees_tasks_at_each_luigid_as_any_does(
    luigid: Staffed, other: Staffed, inside: dict[str, Any]
) -> None:
    for one in (luigid, other):
        one.add("T", cost="60", family="V" if inside else "W")
        one.scheduler.add_worker("w", [("first_task", "T")])
        one.do(one.service.refresh())
    if inside:
        luigid.top_up(BOB, 50)
    name = luigid.ask(ALICE, 60, **inside)
    if inside:
        luigid.set(alone=None)
        luigid.top_up(CAROL, 50)
        luigid.set(alone=50)
    assert (luigid.work(), other.work()) == (None, None)
    done = luigid.confirm(BOB, name)
    assert done["top_up"]["frees"] == 1
    other.do(other.service.refresh())
    assert other.work() == "T"


def test_pages_of_what_waits_are_whole(luigid: Staffed) -> None:
    names = [luigid.ask(ALICE, 51 + number) for number in range(5)]
    first = luigid.waiting(limit=2)
    rest = luigid.waiting(before=first[-1]["id"])
    assert {one["id"] for one in first + rest} == {*names}
    assert len(first + rest) == 5
    assert luigid.waiting(run_id="another") == []


@pytest.mark.parametrize("seed", range(4))
def test_no_order_of_top_ups_lets_one_alone_raise_more(luigid: Staffed, other: Staffed, seed: int) -> None:
    """Beside a plain model: what each has raised alone since a second one last agreed with them."""
    draw, cap, everybody = random.Random(seed), luigid.cap, 0
    alone = {"alice": 0, "bob": 0, "carol": 0}
    waits: dict[str, tuple[str, int]] = {}
    unnamed_since = dict(alone)
    for _ in range(60):
        one, who = draw.choice((luigid, other)), draw.choice((ALICE, BOB, CAROL, NOBODY))
        if waits and draw.random() < 0.4:
            name = draw.choice(sorted(waits))
            asker, usd = waits[name]
            if who.name in ("", asker):
                with pytest.raises(NotAllowed):
                    one.confirm(who, name)
            elif draw.random() < 0.3:
                one.withdraw(who, name)
                del waits[name]
            else:
                one.confirm(who, name)
                cap += usd
                alone[asker] = unnamed_since[asker] = 0
                del waits[name]
        else:
            usd, inside = draw.randint(1, 40), draw.choice(({}, {"day": True}, {"family": "V"}))
            mine = alone[who.name] + unnamed_since[who.name] if who.name else everybody
            if mine + usd <= 50:
                assert "waiting" not in one.top_up(who, usd, **inside)
                everybody += usd
                cap += 0 if inside else usd
                if who.name:
                    alone[who.name] += usd
                else:
                    unnamed_since = {name: done + usd for name, done in unnamed_since.items()}
            elif who.name:
                # Those of the run alone: what the model adds to the cap is its.
                waits[one.ask(who, usd)] = who.name, usd
            else:
                with pytest.raises(NotAllowed):
                    one.top_up(who, usd, **inside)
    assert luigid.cap == cap
    assert {one["id"] for one in luigid.waiting(state="waiting")} == {*waits}
    assert luigid.do(luigid.service.read(discrepancies)) == []
