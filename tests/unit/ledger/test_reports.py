"""Reports close with the books, whatever they are grouped by, and a day that is over keeps its report."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luigi_spendguard.errors import NotFound
from luigi_spendguard.ledger import claims, corrections, pruning, queries, reports, runs
from luigi_spendguard.ledger.corrections import Resolution
from luigi_spendguard.ledger.reports.days import days
from luigi_spendguard.ledger.reports.denied import denied
from luigi_spendguard.ledger.reports.forecasts import forecast
from luigi_spendguard.ledger.reports.period import DAY_MS, ReportPeriod, day_of
from luigi_spendguard.money import Micros, micros_of
from luigi_spendguard.protocol import EndRequest
from luigi_spendguard.protocol.messages import BadMessage
from luigi_spendguard.vendors.model import Flows, FollowedUp
from tests.support.books import Books

USD = 1_000_000
FLOWS = Flows(inflow=("stripe topups.create",), outflow=("stripe refunds.create",))
OPERATIONS = ("payment_intents.create", "refunds.create", "topups.create")
ALL = ReportPeriod()
#: Everything was over before then.
LATER = 4_000_000_000_000


@pytest.fixture
def books(tmp_path: Path) -> Iterator[Books]:
    with opened(tmp_path) as books:
        yield books


@contextmanager
def opened(folder: Path) -> Iterator[Books]:
    books = Books(folder / "spendguard.db", cap=1000 * USD)
    try:
        yield books
    finally:
        books.ledger.close()


def run(books: Books, run_id: str, family: str = "Root", tags: dict[str, str] | None = None) -> None:
    asked = runs.RunRequest(run_id, False, family, f"{run_id}_task", Micros(1000 * USD), tags=tags or {})
    books.write(runs.open_run, asked)


def pay(books: Books, run_id: str, micros: int, task: str = "Pay_1", **more: Any) -> str:
    key = books.claim(task, run_id, family=more.pop("family", "Pay"))
    ask = books.ask(micros, **more)
    assert books.reserve(key, ask).verdict == "allowed"
    books.end(key, EndRequest("settle", ask.call_id, total_micros=micros, status=200))
    return ask.call_id


def cost(books: Books, by: str, period: ReportPeriod = ALL, **more: Any) -> dict[str, Any]:
    return dict(books.read(lambda tx: reports.cost(tx, FLOWS, period, by, **more)))


def spent(report: dict[str, Any]) -> dict[str, str]:
    return {row["name"]: row["spent_usd"] for row in report["rows"]}


def now(books: Books) -> int:
    return int(books.read(lambda tx: tx.now()))


def test_each_group_says_what_calls_came_to(books: Books) -> None:
    run(books, "monday", "Billing", {"team": "billing", "cost_centre": "4711"})
    pay(books, "run", 5 * USD, target="cus_1")
    pay(books, "monday", 2 * USD, "Pay_2", target="cus_1", operation="refunds.create")
    pay(books, "monday", 3 * USD, "Text_1", vendor="twilio", operation="messages.create", family="Text")
    today = day_of(now(books) // DAY_MS)
    assert spent(cost(books, "run")) == {"run": "5.00", "monday": "5.00"}
    assert spent(cost(books, "root")) == {"Root": "5.00", "Billing": "5.00"}
    assert spent(cost(books, "task")) == {"Pay": "7.00", "Text": "3.00"}
    assert spent(cost(books, "vendor")) == {"stripe": "7.00", "twilio": "3.00"}
    assert next(iter(spent(cost(books, "operation")).items())) == ("stripe payment_intents.create", "5.00")
    assert spent(cost(books, "customer"))["cus_1"] == "7.00"
    assert spent(cost(books, "day")) == {today: "10.00"}
    assert spent(cost(books, "tag:team")) == {"": "5.00", "billing": "5.00"}
    found = cost(books, "vendor", ReportPeriod(run_id="monday"))
    assert spent(found) == {"stripe": "2.00", "twilio": "3.00"}
    assert (found["total"]["outflow_usd"], found["total"]["inflow_usd"]) == ("2.00", "0.00")
    few = cost(books, "vendor", limit=1)
    assert (spent(few), few["others"]["spent_usd"]) == ({"stripe": "7.00"}, "3.00")


_STEPS = st.lists(
    st.tuples(
        st.sampled_from(["settle", "less", "more", "void", "doubt", "resolve", "late", "deny"]),
        st.sampled_from(["run", "two", "three"]),
        st.sampled_from(OPERATIONS),
        st.integers(1, 9),
    ),
    max_size=8,
)


@given(steps=_STEPS)
def test_the_total_of_each_grouping_is_what_the_runs_have_spent(
    steps: list[tuple[str, str, str, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    with opened(tmp_path_factory.mktemp("books")) as books:
        run(books, "two", "Other", {"team": "a"})
        run(books, "three", "Other", {"team": "b", "x": "1"})
        for number, step in enumerate(steps):
            _step(books, number, *step)
        figures = [books.read(runs.run_row, one) for one in ("run", "two", "three")]
        total = sum(row["spent_micros"] for row in figures)
        overrun = sum(row["overrun_micros"] for row in figures)
        for by in (*reports.GROUPS, "tag:team") if any(figures) else ():
            found = cost(books, by)
            rows = [*found["rows"], found["total"]]
            assert sum(micros_of(row["spent_usd"]) for row in rows[:-1]) == total, by
            assert (micros_of(rows[-1]["spent_usd"]), micros_of(rows[-1]["overrun_usd"])) == (total, overrun)
            assert sum(micros_of(row["overrun_usd"]) for row in rows[:-1]) == overrun
        for row in figures:
            shown = books.read(lambda tx, name=row["run_id"]: queries.run(tx, name, flows=FLOWS))
            found = cost(books, "operation", ReportPeriod(run_id=row["run_id"]))["total"]
            assert shown["spent_usd"] == found["spent_usd"]
            assert (shown["inflow_usd"], shown["outflow_usd"]) == (found["inflow_usd"], found["outflow_usd"])


def _step(books: Books, number: int, kind: str, run_id: str, operation: str, usd: int) -> None:
    key = books.claim(f"Pay_{number}", run_id)
    micros = usd * USD
    ask = books.ask(micros * (1000 if kind == "deny" else 1), operation=operation)
    if books.reserve(key, ask).verdict != "allowed":
        return
    end = {"void": "void", "doubt": "doubt", "resolve": "doubt"}.get(kind, "settle")
    came_to = {"less": micros // 2, "more": micros + 1}.get(kind, micros)
    late: dict[str, Any] = {"object_id": f"SM{number}", "price_due": True} if kind == "late" else {}
    settled: dict[str, Any] = {"total_micros": came_to, "status": 200, **late} if end == "settle" else {}
    books.end(key, EndRequest(end, ask.call_id, **settled))
    if kind == "resolve":
        books.write(corrections.resolve, ask.call_id, Resolution(Micros(micros // 3)), f"r{number}")
    if kind == "late":
        told = FollowedUp(micros // 2 if usd % 2 else micros * 2, final=True, whole=True)
        books.write(lambda tx: corrections.correct(tx, ask.call_id, told, relayed_too=True))


def test_a_correction_counts_when_it_is_made(books: Books) -> None:
    key = books.claim("Text_1", "run")
    ask = books.ask(4 * USD)
    books.reserve(key, ask)
    books.end(
        key,
        EndRequest("settle", ask.call_id, total_micros=4 * USD, status=200, object_id="SM1", price_due=True),
    )
    closed = now(books) + 1
    before = cost(books, "vendor", ReportPeriod(until=closed))
    while now(books) <= closed:
        pass
    told = FollowedUp(1 * USD, final=True, whole=True)
    books.write(lambda tx: corrections.correct(tx, ask.call_id, told, relayed_too=True))
    assert cost(books, "vendor", ReportPeriod(until=closed)) == before, "it is over"
    later = cost(books, "vendor", ReportPeriod(since=closed))
    assert spent(later) == {"stripe": "-3.00"}
    assert (later["total"]["corrections_usd"], later["total"]["calls"]) == ("-3.00", 0)
    assert cost(books, "vendor")["total"]["spent_usd"] == "1.00"


def test_what_is_compared_is_as_long_or_the_run_before(books: Books) -> None:
    pay(books, "run", 4 * USD)
    run(books, "second")
    pay(books, "second", 5 * USD, "Pay_2")
    run(books, "other", "Other")
    pay(books, "other", 1 * USD, "Pay_3")
    rows = {row["name"]: row for row in cost(books, "run", compare=True)["rows"]}
    assert [rows["second"][f"{one}"] for one in ("before_usd", "change_usd", "change_percent")] == [
        *("4.00", "1.00", "25.0")
    ]
    assert (rows["other"]["before_usd"], rows["other"]["change_percent"]) == (None, None)
    (row,) = cost(books, "vendor", ReportPeriod(run_id="second"), compare=True)["rows"]
    assert (row["name"], row["before_usd"], row["change_percent"]) == ("stripe", "4.00", "25.0")
    split = now(books) + 1
    while now(books) <= split:
        pass
    found = cost(books, "root", ReportPeriod(since=split), compare=True)
    assert found["before"]["until"] == split
    assert {row["name"]: row["change_usd"] for row in found["rows"]} in (
        {},
        {"Root": "-9.00", "Other": "-1.00"},
        {"Root": "-5.00", "Other": "-1.00"},
        {"Other": "-1.00"},
    ), "as much as there was in as long before"


def test_what_no_report_can_be_of_is_said_in_a_sentence(books: Books) -> None:
    at = now(books)
    for period, words in (
        (ReportPeriod(since=at + DAY_MS), "the period begins in the future "),
        (ReportPeriod(since=at - 5, until=at - 10), "the period is empty: it begins at "),
    ):
        for look in (cost, lambda b, _, p: b.read(denied, p), lambda b, _, p: b.read(forecast, p)):
            with pytest.raises(BadMessage, match=words):
                look(books, "run", period)
    with pytest.raises(BadMessage, match=r"'by' must be one of run, root, task, .*, or tag:NAME, not 'week'"):
        cost(books, "week")
    with pytest.raises(BadMessage, match="'by' must be one of"):
        cost(books, "tag:Team!")
    with pytest.raises(NotFound, match="no run has a tag team: a root's spend_tags"):
        cost(books, "tag:team")
    with pytest.raises(NotFound, match="there is no run nobody"):
        cost(books, "vendor", ReportPeriod(run_id="nobody"))
    with pytest.raises(BadMessage, match="compare with what"):
        cost(books, "vendor", compare=True)
    with pytest.raises(BadMessage, match="days at the most"):
        books.read(days, ReportPeriod(since=1), "vendor", None)


def test_a_denied_call_counts_once_however_often_it_was_tried(books: Books) -> None:
    key = books.claim("Pay_1", "run")
    for _ in range(3):
        again = books.ask(2000 * USD, target="cus_1")
        assert books.reserve(key, again).verdict == "denied"
    books.reserve(books.claim("Pay_2", "run"), books.ask(3000 * USD, target="cus_2"))
    assert books.read(denied, ALL)["rows"] == [
        {
            **{"reason": "cap", "budget": "run", "part": "", "calls": 2, "tries": 4, "made": 0},
            **{"would_have_cost_usd": "5000.00", "made_usd": "0.00"},
        }
    ]
    books.write(runs.top_up, "run", Micros(5000 * USD), "a")
    pay(books, "run", 2000 * USD, target="cus_1")
    assert books.read(denied, ALL)["total"] == {
        **{"calls": 2, "tries": 4, "made": 1, "would_have_cost_usd": "5000.00", "made_usd": "2000.00"}
    }


def test_a_forecast_stands_beside_what_the_run_came_to(books: Books) -> None:
    books.write(runs.set_forecast, "run", Micros(8 * USD), Micros(2 * USD), 1)
    pay(books, "run", 10 * USD)
    run(books, "unforeseen")
    found = books.read(forecast, ALL)
    assert [(row["run_id"], row["difference_usd"], row["difference_percent"]) for row in found["rows"]] == [
        ("unforeseen", None, None),
        ("run", "2.00", "25.0"),
    ]
    assert found["total"] == {
        **{"runs": 1, "forecast_usd": "8.00", "actual_usd": "10.00"},
        **{"difference_usd": "2.00", "difference_percent": "25.0"},
    }


def test_it_is_what_was_foreseen_before_the_run_had_spent_anything(books: Books) -> None:
    """A submission of the root again foresees what was spent meanwhile, which is no forecast of it."""
    books.write(runs.set_forecast, "run", Micros(8 * USD), Micros(2 * USD), 1)
    pay(books, "run", 10 * USD)
    books.write(runs.set_forecast, "run", Micros(10 * USD), Micros(0), 0)
    [row] = books.read(forecast, ALL)["rows"]
    said = ("forecast_usd", "last_forecast_usd", "estimated_usd", "unknown_tasks", "difference_usd")
    assert [row[name] for name in said] == ["8.00", "10.00", "2.00", 1, "2.00"]


def test_days_have_their_cap_and_their_denials(books: Books) -> None:
    books.caps = type(books.caps)(day=Micros(50 * USD))
    pay(books, "run", 10 * USD)
    books.reserve(books.claim("Pay_2", "run"), books.ask(45 * USD))
    at = now(books)
    found = books.read(days, ReportPeriod(since=at - 3 * DAY_MS), "vendor", Micros(60 * USD))
    assert found["days"] == [day_of(at // DAY_MS)]
    assert found["series"] == [{"name": "stripe", "spent_usd": ["10.00"]}]
    assert (found["total_usd"], found["cap_usd"], found["denied_calls"]) == (["10.00"], ["50.00"], [1])


def test_what_was_pruned_is_said_apart(books: Books) -> None:
    books.write(runs.open_run, runs.RunRequest("old", True, "Root", "old", Micros(50 * USD)))
    pay(books, "old", 7 * USD, "Pay_old")
    books.write(claims.finish, books.last_claim, "completed")
    pay(books, "run", 3 * USD)
    books.write(runs.revoke, "run")
    books.write(claims.close_run, "old")
    books.write(pruning.prune, LATER)
    found = cost(books, "run")
    assert (spent(found), found["pruned_usd"]) == ({"run": "3.00"}, "7.00")


def test_tags_are_those_of_the_opening(books: Books) -> None:
    run(books, "tagged", tags={"team": "a"})
    run(books, "tagged", tags={"team": "b", "more": "c"})
    assert books.read(queries.run, "tagged")["tags"] == {"team": "a"}
    pay(books, "tagged", USD)
    (call,) = books.read(queries.calls, queries.CallFilter(run_id="tagged"))
    assert call["tags"] == {"team": "a"}
