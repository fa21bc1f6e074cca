"""Two luigids of one ledger with another `daily_cap_usd` each: the smaller holds, and both say so."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from luigi_spendguard.config import Settings
from luigi_spendguard.ledger import queries
from luigi_spendguard.money import Micros
from luigi_spendguard.settings.policy import Caps
from scheduler_patch.service import LedgerService
from tests.support.luigids import USD, Luigid
from tests.support.postgres import settings_of

Start = Callable[[int | None], Luigid]


class Beside(Luigid):
    """One of several at one ledger, on whatever engine."""

    def settings(self) -> Settings:
        return settings_of(self.folder / "books.db", self.caps)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a luigid with a `daily_cap_usd`."""
    started: list[Luigid] = []

    def begin(day: int | None) -> Luigid:
        started.append(Beside(tmp_path, day=None if day is None else Micros(day * USD)))
        started[-1].do(started[-1].service.ledger())
        return started[-1]

    yield begin
    for luigid in started:
        luigid.end()


def pays(luigid: Luigid, usd: int) -> bool:
    """Return whether a new task of its own may spend that much."""
    name = f"{id(luigid)}-{usd}"
    luigid.run(name)
    luigid.add(name, name)
    return luigid.work() == name and luigid.call(luigid.claim(name), usd, target=name).verdict == "allowed"


def look(luigid: Luigid) -> None:
    luigid.do(luigid.service.refresh())


def day(luigid: Luigid) -> tuple[str, str, str]:
    shown = luigid.do(luigid.service.read(queries.day, luigid.service.settings.caps.day))
    return shown["cap_usd"], shown["spent_usd"], shown["remaining_usd"]


def test_the_smaller_holds_for_both(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    large, small = start(9), start(4)
    assert pays(large, 1)
    look(small)
    assert "daily_cap_usd is $4.00 here and $9.00 at another luigid" in caplog.text
    assert day(large) == day(small) == ("4.00", "1.00", "3.00")
    assert not pays(large, 5)
    caplog.clear()
    look(large)
    look(large)
    assert caplog.text.count("daily_cap_usd is $9.00 here and $4.00 at another luigid") == 1
    assert pays(small, 3)
    assert not pays(large, 2)
    assert day(large) == ("4.00", "4.00", "0.00")


def test_one_that_begins_beside_another_says_what_it_finds(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    small = start(4)
    assert pays(small, 1)
    assert "daily_cap_usd" not in caplog.text
    large = start(9)
    assert "had a cap of $4.00, by luigi.cfg of before, or by another luigid" in caplog.text
    assert "daily_cap_usd is $9.00 from now on" in caplog.text
    assert day(large) == ("9.00", "1.00", "8.00")
    look(small)
    assert day(large) == ("4.00", "1.00", "3.00")
    start(None)
    assert "daily_cap_usd is not set here, so what is let through here is not counted there" in caplog.text


def test_who_reads_another_cap_of_its_own_is_not_told_of_another_luigid(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor where more is counted than it allows, and less a moment later."""
    luigid = start(9)
    assert pays(luigid, 5)
    smaller = Caps(default=Micros(10 * USD), day=Micros(4 * USD))
    luigid.caps = smaller
    luigid.do(LedgerService.reload(luigid.service, luigid.settings()))
    assert not pays(luigid, 1)
    look(luigid)
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
    assert day(luigid) == ("4.00", "5.00", "0.00")
