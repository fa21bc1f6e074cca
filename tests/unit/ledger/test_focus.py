"""Rows of FOCUS 1.2 keep to its own table of columns, to its rules about null, and close with the books."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from luigi_spendguard.ledger import corrections, runs
from luigi_spendguard.ledger.database import Tx
from luigi_spendguard.ledger.reports.focus import COLUMNS, focus
from luigi_spendguard.ledger.reports.period import ReportPeriod
from luigi_spendguard.money import Micros, micros_of
from luigi_spendguard.protocol import EndRequest
from luigi_spendguard.vendors import FollowedUp
from luigi_spendguard.vendors.registry import VENDORS, flows
from tests.support.books import Books

USD = 1_000_000
_TABLE = Path(__file__).parent / "data" / "focus-1.2.txt"


class Spec(NamedTuple):
    level: str
    nullable: bool
    type: str


SPEC = {
    name: Spec(level, nullable == "True", kind)
    for name, level, nullable, kind in map(
        str.split, (line for line in _TABLE.read_text().splitlines() if line[0] != "#")
    )
}
#: What a value of each type looks like.
LOOKS = {
    "Decimal": r"-?\d+\.\d+",
    "Date/Time": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ",
    "String": r"(?s).+",
}
ALLOWED = {
    "ChargeCategory": {"Usage", "Purchase", "Tax", "Credit", "Adjustment"},
    "ChargeClass": {"Correction"},
    "ChargeFrequency": {"One-Time", "Recurring", "Usage-Based"},
    "PricingCategory": {"Standard", "Dynamic", "Committed", "Other"},
    "ServiceCategory": {"Business Applications", "Integration", "Other"},
}


@pytest.fixture
def books(tmp_path: Path) -> Iterator[Books]:
    books = Books(tmp_path / "spendguard.db", cap=1000 * USD)
    yield books
    books.ledger.close()


def pay(books: Books, micros: int, *, run_id: str = "run", **more: Any) -> str:
    key = books.claim(f"Pay_{micros}", run_id)
    ask = books.ask(micros, **more)
    assert books.reserve(key, ask).verdict == "allowed"
    made = {"object_id": f"ob_{micros}", "price_due": True}
    books.end(key, EndRequest("settle", ask.call_id, total_micros=micros, status=200, **made))
    return str(ask.call_id)


def rows(books: Books, period: ReportPeriod | None = None, limit: int = 1000) -> list[dict[str, Any]]:
    found, after = list[dict[str, Any]](), 0
    while True:
        page = books.read(focus, flows(), VENDORS, period or ReportPeriod(), after, limit)
        found += page["rows"]
        if page["next"] is None:
            return found
        after = page["next"]


def written(books: Books) -> list[dict[str, Any]]:
    """Write something of everything: spending of each kind of vendor, flows, corrections of both months."""
    tags = {"team": "billing"}
    books.write(
        runs.open_run, runs.RunRequest("tagged", False, "Billing", "Billing_1", Micros(USD * 100), tags=tags)
    )
    pay(books, 3 * USD)
    pay(books, 4 * USD, operation="refunds.create", run_id="tagged")
    text = pay(books, 2 * USD, vendor="twilio", account="twilio:AC1", operation="messages.create")
    mail = pay(books, 1 * USD, vendor="resend", account="", operation="emails.send")
    unknown = pay(books, 5 * USD, vendor="gone_vendor", account="gone", operation="things.make")
    assert unknown

    def correct(tx: Tx, call_id: str, micros: int) -> None:
        told = FollowedUp(micros, final=True, whole=True)
        corrections.correct(tx, call_id, told, relayed_too=True)

    books.write(correct, text, 2 * USD - 500)
    books.write(correct, mail, 9 * USD)
    return rows(books)


def test_our_columns_are_those_of_the_specification() -> None:
    own = {column.name: column for column in COLUMNS}
    assert {name for name, spec in SPEC.items() if spec.level == "Mandatory"} - set(own) == set()
    for name, column in own.items():
        if name.startswith("x_"):
            continue
        assert (column.type, column.nullable or not SPEC[name].nullable) == (SPEC[name].type, True), name
        assert SPEC[name].nullable or not column.nullable, name
    assert [name for name in own if name not in SPEC] == ["x_CallId", "x_Flow"]


def test_each_value_is_of_its_type_and_null_only_where_that_may_be(books: Books) -> None:
    found = written(books)
    assert len(found) == 7
    for row in found:
        assert list(row) == [column.name for column in COLUMNS]
        for column in COLUMNS:
            value = row[column.name]
            if value is None:
                assert column.nullable, column.name
            elif column.type == "JSON":
                assert all(isinstance(one, str) for one in value.values())
            else:
                assert re.fullmatch(LOOKS[column.type], value), (column.name, value)
        for name, allowed in ALLOWED.items():
            assert row[name] is None or row[name] in allowed, (name, row[name])


def test_what_depends_on_another_column_keeps_to_its_rules(books: Books) -> None:
    """The sentences of `specification/columns` that say when a column is (not) null, or equals another."""
    for row in written(books):
        priced = row["ChargeCategory"] in ("Usage", "Purchase") and row["ChargeClass"] is None
        for name in ("PricingQuantity", "PricingCategory", "SkuId", "SkuPriceId", "ListUnitPrice"):
            assert row[name] is not None or not priced, name
        assert (row["PricingUnit"] is None) == (row["PricingQuantity"] is None)
        assert (row["ConsumedUnit"] is None) == (row["ConsumedQuantity"] is None)
        assert row["ConsumedQuantity"] is None or row["ChargeCategory"] == "Usage"
        assert (row["ResourceType"] is None) == (row["ResourceId"] is None)
        assert (
            (row["SubAccountId"] is None)
            == (row["SubAccountName"] is None)
            == (row["SubAccountType"] is None)
        )
        assert row["ChargeFrequency"] != "Usage-Based" or row["ChargeCategory"] != "Purchase"
        assert row["ServiceSubcategory"] == f"Other ({row['ServiceCategory']})"
        cost = micros_of(row["BilledCost"])
        assert cost == micros_of(row["ListCost"]) == micros_of(row["EffectiveCost"])
        if row["ListUnitPrice"] is not None:
            price, quantity = micros_of(row["ListUnitPrice"]), float(row["PricingQuantity"])
            assert price >= 0
            assert price * quantity == cost
        assert row["BillingPeriodStart"] < row["BillingPeriodEnd"]
        assert row["ChargePeriodStart"] < row["ChargePeriodEnd"]


def test_the_rows_close_with_the_books_page_by_page(books: Books) -> None:
    found = written(books)
    spent = [books.read(runs.run_row, one) for one in ("run", "tagged")]
    total = sum(row["spent_micros"] + row["overrun_micros"] for row in spent)
    assert sum(micros_of(row["BilledCost"]) for row in found) == total
    assert rows(books, limit=2) == found
    of_one = rows(books, ReportPeriod(run_id="tagged"))
    (refund,) = of_one
    assert (refund["ChargeCategory"], refund["x_Flow"], refund["BilledCost"]) == (
        "Adjustment",
        "outflow",
        "4.00",
    )
    assert refund["Tags"] == {
        "team": "billing",
        **{"spendguard/run": "tagged", "spendguard/root": "Billing", "spendguard/task": "Charge"},
    }


def test_a_correction_of_an_earlier_month_is_of_that_class(books: Books) -> None:
    """Within the month it is of none, as nothing was invoiced yet."""
    written(books)
    page = books.read(focus, flows(), VENDORS, ReportPeriod(), 0, 1000)
    assert {row["ChargeClass"] for row in page["rows"]} == {None}
    corrected = [row for row in page["rows"] if row["ChargeDescription"].startswith("Correction of ")]
    assert [row["BilledCost"] for row in corrected] == ["-0.0005", "8.00"]
    assert corrected[0]["PricingQuantity"] == "-1.0"

    class Earlier:
        """The books, in which everything was settled 40 days before it was corrected."""

        def __init__(self, tx: Tx) -> None:
            self.now, self._tx = tx.now, tx

        def all(self, sql: str, *values: Any) -> list[dict[str, Any]]:
            return [
                row | ({} if row["kind"] == "settle" else {"settled_at": row["at"] - 40 * 86_400_000})
                for row in self._tx.all(sql, *values)
            ]

    def look(tx: Tx) -> dict[str, Any]:
        earlier: Any = Earlier(tx)
        return focus(earlier, flows(), VENDORS, ReportPeriod(), 0, 1000)

    old = books.read(look)
    assert [row["ChargeClass"] for row in old["rows"]].count("Correction") == 2
