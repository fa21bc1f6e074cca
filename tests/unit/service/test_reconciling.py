"""At night luigid compares the day before with the vendors' books, and says what it has found."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from luigi_spendguard.config import Settings
from luigi_spendguard.ledger import reconciliations as nightly
from luigi_spendguard.ledger.reconciliations import DAY_MS
from luigi_spendguard.settings import VendorSettings
from luigi_spendguard.vendors import Reply
from scheduler_patch.service import reconciling
from scheduler_patch.service.reconciling import Nightly, due_until
from tests.support.vendor_books import PaperTransport
from tests.unit.reconcile.test_stripe import SECRET, Sides


class Service:
    """What a `Nightly` needs of luigid's service."""

    has_ledger = True

    def __init__(self, sides: Sides, tmp_path: Path) -> None:
        self.sides = sides
        place = sides.books.path
        stripe = VendorSettings("stripe", secret=SECRET)
        self.settings = Settings(
            place if isinstance(place, Path) else tmp_path / "none.db",
            ledger_server=None if isinstance(place, Path) else place,
            vendors={"stripe": stripe},
            reconcile=180,
        )

    async def record(self, operation: Any, *args: Any) -> Any:
        return self.sides.books.write(operation, *args)


@pytest.fixture
def sides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sides]:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    sides = Sides(tmp_path)
    monkeypatch.setattr(reconciling, "BlockingTransport", lambda: PaperTransport(sides.answer))
    yield sides
    sides.books.ledger.close()


def look(sides: Sides, service: Service, now: int) -> None:
    Nightly(service, asyncio.run, lambda _: None).look(now)  # type: ignore[arg-type]


def found(sides: Sides) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = sides.books.read(nightly.listed, None, 100)
    return rows


#: A moment of tomorrow, behind the hour at which today is compared.
TOMORROW = int(time.time() * 1000) // DAY_MS * DAY_MS + DAY_MS + 4 * 3_600_000


def test_the_day_before_is_due_from_its_hour_on() -> None:
    midnight = 100 * DAY_MS
    assert due_until(midnight + 179 * 60_000, 180) == midnight - DAY_MS
    assert due_until(midnight + 180 * 60_000, 180) == midnight
    assert due_until(midnight, 0) == midnight


def test_what_is_found_is_kept_and_said_once(
    sides: Sides, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    service = Service(sides, tmp_path)
    sides.paid()
    sides.stripe.intent(700)
    with caplog.at_level(logging.INFO):
        look(sides, service, TOMORROW)
        look(sides, service, TOMORROW)
    [warning] = [one for one in caplog.records if one.name == reconciling.__name__]
    assert warning.levelno == logging.WARNING
    assert "outside: 1" in warning.getMessage()
    assert "$7.00 there only" in warning.getMessage()
    assert "spendguard reconcile stripe --since" in warning.getMessage()
    [row] = found(sides)
    assert (row["account"], row["state"], row["payments"], row["differences"]) == (
        "stripe:test",
        "done",
        2,
        1,
    )
    assert not list((tmp_path / "state" / "luigi-spendguard" / "reconcile").iterdir())


def test_what_goes_wrong_is_said_and_tried_again(
    sides: Sides, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    service = Service(sides, tmp_path)
    sides.paid()
    plain = sides.answer
    sides.answer = lambda path, query, number: Reply(403, {}, SECRET.encode())
    look(sides, service, TOMORROW)
    [row] = found(sides)
    assert (row["state"], row["account"]) == ("failed", None)
    assert "HTTP 403" in row["note"]
    assert SECRET not in caplog.text + row["note"]
    look(sides, service, TOMORROW)
    assert [one["state"] for one in found(sides)] == ["failed"]
    sides.books.write(lambda tx: tx.run("UPDATE reconciliation SET at = at - ?", nightly.AGAIN_MS + 1))
    sides.answer = plain
    look(sides, service, TOMORROW)
    assert [(one["state"], one["payments"]) for one in found(sides)] == [("done", 1)]


def test_nothing_is_compared_without_the_setting_or_the_secret(sides: Sides, tmp_path: Path) -> None:
    service = Service(sides, tmp_path)
    whole = service.settings
    for settings in (replace(whole, reconcile=None), replace(whole, vendors={})):
        service.settings = settings
        look(sides, service, TOMORROW)
    assert found(sides) == []
