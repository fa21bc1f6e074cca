"""Both engines answer alike whatever is read of the books: by routes, by commands, and by functions."""

from __future__ import annotations

import inspect
import itertools
import json
import secrets
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import quote, urlencode

import pytest
import stripe
import urllib3

from luigi_spendguard import cli
from luigi_spendguard.errors import LedgerError, SpendDenied
from luigi_spendguard.ledger import (
    actions,
    claims,
    corrections,
    denials,
    history,
    keys,
    overview,
    pruning,
    queries,
    reports,
    runs,
    snapshot,
    top_ups,
    totals,
)
from luigi_spendguard.ledger.actions import ActionFilter
from luigi_spendguard.ledger.audit import sums
from luigi_spendguard.ledger.copying import copy_books
from luigi_spendguard.ledger.database import Tx
from luigi_spendguard.ledger.database.engines import opened
from luigi_spendguard.ledger.overview import SORTS, Page
from luigi_spendguard.ledger.queries import CallFilter
from luigi_spendguard.ledger.reports.days import SPLITS, days
from luigi_spendguard.ledger.reports.denied import denied
from luigi_spendguard.ledger.reports.focus import focus
from luigi_spendguard.ledger.reports.forecasts import forecast
from luigi_spendguard.ledger.reports.period import DAY_MS, ReportPeriod
from luigi_spendguard.money import Micros
from luigi_spendguard.protocol import ACTIONS, EndRequest
from luigi_spendguard.redaction import Secret
from luigi_spendguard.vendors.model import FollowedUp
from luigi_spendguard.vendors.registry import VENDORS, flows
from scheduler_patch.api import ROUTES
from scheduler_patch.api.openapi import document
from tests.support.attempts import Pretender
from tests.support.books import Books
from tests.support.ledger_formats import USD, Maker
from tests.support.postgres import PostgresServer, database_url
from tests.support.site import Site
from tests.support.vendors import FakeStripe

ADMIN = "admin-token-of-both-sites"
CHARGE: dict[str, Any] = {
    **{"amount": 100, "currency": "usd", "customer": "cus_1"},
    **{"payment_method": "pm_card_visa", "confirm": True},
}
PAST, FUTURE = "2020-01-01T00:00:00Z", "2100-01-01T00:00:00Z"
LATER = 4_000_000_000_000
#: What each parameter of a route is asked with, where its description does not list all that it may be.
VALUES: dict[str, list[str]] = {
    "search": ["RO", "ended_", "%", "nowhere"],
    "since": [PAST, FUTURE],
    "until": [PAST, FUTURE],
    "limit": ["2"],
    "offset": ["1"],
    "run": ["run", "other", "nowhere"],
    "task": ["Charge_open", "nowhere"],
    "customer": ["cus_key", "cus_again", "nobody"],
    "usd": ["5", "1000000"],
    "family": ["Charge"],
    "total": ["true"],
    "by": [*reports.GROUPS, "tag:nobodys"],
    "after": ["3"],
}
#: What has to be said beside a parameter.
MORE = {"usd": {"vendor": "stripe"}, "compare": {"since": PAST, "until": FUTURE}}
#: Routes that read as an RPC, and what they are asked.
RPCS: dict[str, list[dict[str, Any]]] = {
    "/api/list_runs": [{}],
    "/api/task_costs": [{"task_ids": ["Charge_open", "Charge_again", "nowhere"]}],
    "/api/run_budget": [{"run_id": "run"}, {"run_id": "nowhere"}],
    "/api/list_vault_keys": [{}, {"run_id": "run"}],
}
_http = urllib3.PoolManager(timeout=30, retries=False)


def _asked_by_alice(tx: Tx, amount: Micros) -> None:
    tx.actor = "alice at 127.0.0.1"
    top_ups.ask(tx, top_ups.TopUp("run", None, amount, f"asked {amount}"), "alice")


def write_books(path: Path) -> None:
    """Write something of everything, and what `Maker` has not: it is pruned, corrected, lent or unknown."""
    first = Books(path, run_id="first", cap=100 * USD)
    key = first.claim("Charge_first")
    ask = first.ask(USD)
    first.reserve(key, ask)
    first.end(key, EndRequest("settle", ask.call_id, total_micros=USD, status=200))
    first.write(claims.finish, first.last_claim, "completed")
    first.write(runs.revoke, "first")
    assert first.write(pruning.prune, LATER).calls == 1
    first.ledger.close()
    Maker(path).write()
    books = Books(path, cap=100 * USD, daily=500 * USD)
    key = books.claim("Send_1", family="Send")
    for vendor, total in (("twilio", 2 * USD), ("resend", None)):
        ask = books.ask(USD, vendor=vendor, account=f"{vendor}:test", operation="messages.create")
        books.reserve(key, ask)
        said = EndRequest("settle", ask.call_id, total_micros=USD, status=200, object_id=f"SM_{vendor}")
        books.end(key, replace(said, price_due=True))
        books.write(corrections.correct, ask.call_id, FollowedUp(total, final=True, note="the price came"))
    books.end(key, EndRequest("void", books.ask(1).call_id, ask=1, note="nobody asked"))
    books.write(runs.open_run, runs.RunRequest("lent", False, "Lent", "Lent_1", Micros(USD)))
    books.caps = replace(books.caps, shadow=True)
    assert books.reserve(books.claim("Charge_lent", "lent"), books.ask(7 * USD)).verdict == "allowed"
    books.caps = replace(books.caps, shadow=False)
    [of_vault] = books.read(keys.keys, None, 10, None)[:1]
    books.write(keys.revoke_key, of_vault["id"])
    for usd in (60, 70):
        books.write(_asked_by_alice, Micros(usd * USD))
    books.write(pruning.forget_calls, books.read(pruning.calls_of, "cus_again"))
    assert books.audit() == []
    books.ledger.close()


@pytest.fixture(scope="module")
def books(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with something of everything, which nobody opens."""
    path = tmp_path_factory.mktemp("books") / "spendguard.db"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(secrets, "token_urlsafe", secrets.token_urlsafe)  # `Maker` puts another in its place.
        write_books(path)
    return path


def copied(books: Path, server: PostgresServer, folder: Path) -> tuple[Path, Secret]:
    """Return where the same books are in a file and at a server."""
    path, there = folder / "spendguard.db", Secret(database_url(server.url, folder))
    shutil.copy(books, path)
    copy_books(path, there)
    return path, there


@pytest.fixture(scope="module")
def sites(
    books: Path, server: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Site, Site]]:
    """A luigid for each engine."""
    vendor = FakeStripe(tmp_path_factory.mktemp("vendor"))
    path, there = copied(books, server, tmp_path_factory.mktemp("places"))
    made = [
        Site(
            tmp_path_factory.mktemp(name),
            stripe=vendor,
            spendguard={"ledger_url": url, "admin_token": ADMIN, "daily_cap_usd": 500},
            spendguard_stripe={"run_cap_usd": 80},
            spendguard_family_caps={"Charge": 60},
        )
        for name, url in (("file", f"sqlite:///{path}"), ("server", there))
    ]
    yield made[0], made[1]
    for site in made:
        site.end()
    vendor.process.end()


def asked(site: Site) -> Iterator[tuple[str, str, Any]]:
    """Yield each question that a reading route takes: method, address and body."""
    known = [run["run_id"] for run in got(site, "/runs")]
    assert len(known) > 5
    for path, described in document(dict(ROUTES))["paths"].items():
        if "get" not in described or path.endswith("/{path}"):  # A vendor's own, through the gateway.
            continue
        parameters = described["get"].get("parameters", ())
        names = [(one["name"], one["schema"]) for one in parameters if one["in"] == "query"]
        for run_id in (*known, "nowhere") if "{run_id}" in path else ("",):
            yield "GET", path.format(run_id=quote(run_id)), None
        address = path.format(run_id="run")
        for name, schema in names:
            for value in schema.get("enum") or _values(site, path, name):
                more = MORE.get(name, {})
                yield "GET", f"{address}?{urlencode({name: value} | more)}", None
    for path, bodies in RPCS.items():
        for body in bodies:
            yield "POST", path, body


def _values(site: Site, path: str, name: str) -> list[str]:
    if name == "before":
        rows = got(site, path.format(run_id="run"))
        column = {"/runs": "run_id", "/vault/keys": "id", "/top_ups": "id"}.get(path, "seq")
        return [str(rows[1][column])]
    if name == "since" and path.startswith("/reports/"):
        return [PAST] if path != "/reports/days" else []
    if name == "prefix":
        return ["r", "R"] if path == "/runs" else [got(site, "/calls")[0]["id"][:9]]
    return ["stripe"] if (path, name) == ("/runs/{run_id}/top_up", "vendor") else VALUES[name]


def answer(site: Site, method: str, address: str, body: Any) -> tuple[int, Any, dict[str, str | None]]:
    headers = {"Authorization": f"Bearer {ADMIN}", "Content-Type": "application/json"}
    sent = None if body is None else json.dumps(body)
    reply = _http.request(method, site.url + address, headers=headers, body=sent)
    shown = {name: reply.headers.get(name) for name in ("X-Total-Count", "X-Next-Before")}
    return reply.status, json.loads(reply.data), shown


def got(site: Site, address: str) -> Any:
    return answer(site, "GET", address, None)[1]


def test_every_reading_route_answers_alike(sites: tuple[Site, Site]) -> None:
    reads = {path for path, points in ROUTES for one in points.values() if _reads(path, points, one)}
    answered, different = set[str](), list[Any]()
    for question in asked(sites[0]):
        file, server = (answer(site, *question) for site in sites)
        if file != server or file[0] not in (200, 404, 409):
            different.append((question, file, server))
        if file[0] == 200:
            answered.update(route for route in reads if _is_of(route, question[1]))
    assert [one[0] for one in different] == [], different[:3]
    assert answered == reads, "each is asked"


def _reads(path: str, points: Any, one: Any) -> bool:
    return "GET" in points or one.who == "read" or path.rpartition("/")[2].startswith("list_")


def _is_of(route: str, address: str) -> bool:
    parts, asked_for = route.split("/"), address.partition("?")[0].split("/")
    return len(parts) == len(asked_for) and all(
        one == other or one.startswith("{") for one, other in zip(parts, asked_for, strict=True)
    )


#: Commands that read; what they ask for by their options, routes are asked for above.
COMMANDS: dict[str, list[list[str]]] = {
    "runs": [[], ["--format", "csv"]],
    "run": [["run", "--all"], ["frozen", "--format", "json"], ["nowhere"]],
    "calls": [["--run", "run", "--wide"]],
    "keys": [[]],
    "report": [
        *(["cost", "--by", by, "--format", "json"] for by in reports.GROUPS),
        *(["cost", "--since", "2026-01-01", "--by", "vendor", "--compare"], ["denied"], ["forecast"]),
    ],
    "top-ups": [["--wide"]],
    "ledger": [["check"]],
}
CHANGE = {"revoke", "top-up", "approve", "resolve", "issue-key", "revoke-key", "prune", "forget", "deliver"}
CHANGE |= {"confirm", "withdraw"}
#: They ask the books nothing but what routes and `ledger check` do, or what was sealed of either.
OTHERS = {"audit", "check", "gateway", "reconcile", "self-test", "backup", "restore", "whoami"}


def test_every_reading_command_says_the_same(sites: tuple[Site, Site]) -> None:
    named = {command.name for command in cli.COMMANDS}
    assert named == {*COMMANDS, *CHANGE, *OTHERS}
    for name, of_each in COMMANDS.items():
        for more in of_each:
            file, server = (site.cli(name, *more) for site in sites)
            assert file == server, (name, more)
            assert file[0] == (1 if "nowhere" in more else 0), (name, more, file)


_DAY, FLOWS = Micros(500 * USD), flows()
_RUNS = ["run", "other", "frozen", "lent", "first"]
#: Of each function that reads the books: what it is asked.
ASKED: dict[Callable[..., Any], list[tuple[Any, ...]]] = {
    queries.has_run: [("run",)],
    queries.run: [(one,) for one in _RUNS],
    queries.check_run: [("run",)],
    queries.day: [(None,), (_DAY,)],
    queries.sub_budgets: [("run",), ("other",)],
    queries.in_doubt: [(_RUNS,)],
    queries.lent: [(_RUNS,)],
    queries.calls: [(), (CallFilter(customer="cus_key", since=1, until=LATER, before=9),)],
    queries.count_calls: [(CallFilter(verdict="denied:cap"),)],
    queries.wanted: [(CallFilter(run_id="run"),)],
    totals.totals: [(None, None), (1, LATER), (LATER, None)],
    totals.pruned: [(0, LATER), (1, LATER)],
    reports.cost: [
        *((FLOWS, ReportPeriod(since=1, until=LATER), by) for by in (*reports.GROUPS, "tag:team")),
        *((FLOWS, ReportPeriod(run_id=one), "operation") for one in _RUNS),
    ],
    denied: [(ReportPeriod(),), (ReportPeriod(run_id="run"),)],
    forecast: [(ReportPeriod(),), (ReportPeriod(run_id="run"),)],
    focus: [(FLOWS, VENDORS, ReportPeriod(), after, 5) for after in (0, 9, 99)],
    days: [(ReportPeriod(since=1, until=DAY_MS * 9, run_id="run"), split, _DAY) for split in SPLITS],
    overview.families: [(2,), (99,)],
    overview.runs: [
        *((Page(sort=sort, descending=down),) for sort, down in itertools.product(SORTS, (True, False))),
        (Page(search="r", prefix="r", statuses=("active", "in_doubt"), among=("run",), without=("x",)),),
    ],
    overview.spending: [(run_id, by) for run_id in _RUNS for by in ("vendor", "family")],
    overview.costs: [(["Charge_open", "Charge_again"],)],
    overview.named: [(_RUNS,)],
    overview.run_named: [(name, "@last") for name in ("run", "fro", "f", "@last", "nowhere", "")],
    snapshot.of_run: [(one,) for one in _RUNS],
    snapshot.of_known: [*((one,) for one in _RUNS), ("nobody's",)],
    snapshot.of_call: [("run", "nowhere")],
    snapshot.task_left: [("run", "Charge_open"), ("run", "nowhere")],
    snapshot.averages: [()],
    snapshot.vendors_called: [()],
    snapshot.have_paid: [(), (["nowhere"],)],
    snapshot.changes: [(0,), (5,)],
    snapshot.start: [],  # It writes: luigid has begun with it.
    snapshot.today: [()],
    actions.actions: [(ActionFilter(kind=kind, since=1, until=LATER),) for kind in (None, *ACTIONS)],
    history.position: [()],
    history.news: [(history.Position(),), (history.Position(9, 2, frozenset({"run", "frozen"})),)],
    denials.unsolved: [(_RUNS,)],
    sums.discrepancies: [()],
}
_PARTS = ("days", "denied", "focus", "forecasts")
REPORTS = tuple(sys.modules[f"{reports.__name__}.{name}"] for name in _PARTS)
MODULES = (queries, totals, overview, snapshot, actions, history, denials, sums, reports, *REPORTS)


def _reading(module: ModuleType) -> Iterator[Callable[..., Any]]:
    for name, one in inspect.getmembers(module, inspect.isfunction):
        first = next(iter(inspect.signature(one).parameters), "")
        if one.__module__ == module.__name__ and not name.startswith("_") and first == "tx":
            yield one


def _comparable(answer: Any) -> Any:
    """Return figures with their budgets in an order: the gate asks for none.

    A claim's place is a column at a server alone.
    """
    if isinstance(answer, snapshot.Changes):
        claims = [{name: row[name] for name in row if name != "rowid"} for row in answer.claims]
        return replace(answer, claims=claims)
    if not isinstance(answer, snapshot.Figures):
        return answer
    return replace(answer, budgets=sorted(answer.budgets, key=lambda row: int(row["id"])))


def test_every_function_that_reads_returns_the_same(
    books: Path, server: PostgresServer, tmp_path: Path
) -> None:
    assert {one for module in MODULES for one in _reading(module)} == set(ASKED)
    different, (path, place) = list[Any](), copied(books, server, tmp_path)
    with opened(path) as file, opened(place) as there:
        for function, each in ((one, each) for one, of_each in ASKED.items() for each in of_each):
            shown = list[Any]()
            for database in (file, there):
                try:
                    with database.reading() as tx:
                        shown.append(_comparable(function(tx, *each)))
                except LedgerError as error:
                    shown.append(str(error))
            if shown[0] != shown[1]:
                different.append((function.__name__, each, *shown))
    assert [one[:2] for one in different] == [], different[:3]


@pytest.mark.parametrize("place", [0, 1], ids=["file", "server"])
def test_a_mistake_of_ours_is_no_outage_and_lets_no_call_pass(sites: tuple[Site, Site], place: int) -> None:
    site = sites[place]
    log, sending = site.folder / "luigid.log", Pretender(site, f"mistaken-{place}")
    with sending.attempt():
        with site.books(writes=True) as tx:
            tx.run("ALTER TABLE call RENAME COLUMN vendor TO taken_away")
        try:
            status, said, _ = answer(site, "GET", "/runs/run/spending", None)
            assert (status, said["error"]) == (500, "internal"), said
            assert "a mistake of ours" in said["message"]
            assert "ledger/overview.py" in log.read_text(), "a traceback"
            with pytest.raises(SpendDenied) as denied:
                stripe.PaymentIntent.create(**CHARGE)
            assert denied.value.reason == "ledger_unavailable"
            assert answer(site, "GET", "/day", None)[0] == 200
        finally:
            with site.books(writes=True) as tx:
                tx.run("ALTER TABLE call RENAME COLUMN taken_away TO vendor")
        assert site.stripe.moved() == 0
        stripe.PaymentIntent.create(**CHARGE)
        assert site.stripe.moved() == 100
    site.stripe.forget()
