"""What the HTTP routes and RPCs of a real luigid-spendguard take: anything else is one 4xx and no change."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.asking import ADMIN, ROUTES, WORKER, Case, admin, books, guarded_site, send
from tests.support.site import Site


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, shared_site: Site) -> Iterator[Site]:
    with guarded_site(tmp_path_factory.mktemp("guarded"), shared_site.stripe) as site:
        yield site


class TestStrictFields:
    """Each bad request is one 4xx in JSON; the books are as before."""

    @pytest.mark.parametrize(
        ("raw", "status"),
        [
            (b'{"usd": "5", "dollars": "5"}', 400),
            (b'{"usd": "5", "run_id": "other"}', 400),
            (b"{}", 400),
            (b"", 400),
            (b'{"usd": null}', 400),
            (b'{"usd": 5}', 400),
            (b'{"usd": true}', 400),
            (b'{"usd": ["5"]}', 400),
            (b'{"usd": NaN}', 400),
            (b'{"usd": "NaN"}', 400),
            (b'{"usd": "Infinity"}', 400),
            (b'{"usd": "-5"}', 400),
            (b'{"usd": "+5"}', 400),
            (b'{"usd": "1e3"}', 400),
            (b'{"usd": "1,000"}', 400),
            (b'{"usd": "0.0000001"}', 400),
            ('{"usd": "\u0665"}'.encode(), 400),
            (b'{"usd": "0"}', 409),
            (b'{"usd": "1000000000"}', 409),
            (b'{"usd": "1000000001"}', 400),
            (b'{"usd": "99999999999999999999"}', 400),
            (b'{"usd": "5", "request_id": 7}', 400),
            (b'{"usd": "5", "request_id": ""}', 400),
            (b'{"usd": "5", "request_id": "' + b"x" * 1001 + b'"}', 400),
            (b'["usd", "5"]', 400),
            (b'"5"', 400),
            (b"null", 400),
            (b"usd=5", 400),
            (b'{"usd": "5"', 400),
            (b'{"usd": "\xff"}', 400),
            (b'{"usd": "5", "request_id": "' + b"x" * (4 << 20) + b'"}', 413),
            (b'{"usd": ' + b"[" * 99_999 + b"]" * 99_999 + b"}", 400),
            (b'{"usd": "5", "request_id": "\\ud800"}', 400),
            (b'{"usd": "1", "usd": "5"}', 400),
            (b'{"usd": "1", "\\u0075sd": "5"}', 400),
            ('{"usd": "5"}'.encode("utf-16"), 400),
            (b'\xef\xbb\xbf{"usd": "5"}', 400),
        ],
        ids=lambda value: repr(value)[:50],
    )
    def test_a_bad_top_up_is_refused(self, guarded: Site, raw: bytes, status: int) -> None:
        case = Case(guarded)
        before = books(guarded)
        code = {400: "bad_request", 409: "conflict", 413: "too_large"}[status]
        assert case.top_up(raw).is_error(status, code)
        assert books(guarded) == before

    @pytest.mark.parametrize(
        "kind",
        [
            "utf-16",
            "utf-16le",
            "iso-8859-1",
            "utf8",
            "utf-7",
            '"utf-16"',
            "utf-8; charset=utf-16",
            "",
            "utf-8; version=1",
            "utf-8,application/json",
            "'utf-8'",
            "utf-8;",
        ],
    )
    def test_a_body_that_says_of_itself_that_it_is_no_utf_8_is_415(self, guarded: Site, kind: str) -> None:
        case = Case(guarded)
        before = books(guarded)
        for name in ("charset", "Charset"):
            said = {"Content-Type": f"application/json; {name}={kind}"}
            assert case.top_up({"usd": "5"}, **said).is_error(415, "unsupported_media_type")
            issues = send(guarded, "POST", "/vault/keys", {"vendor": "stripe"}, WORKER, **said)
            assert issues.is_error(415, "unsupported_media_type")
        assert books(guarded) == before

    @pytest.mark.parametrize(
        "kind",
        [
            "application/json",
            "application/json; charset=utf-8",
            'Application/JSON;charset="UTF-8"',
            "application/json ; Charset=UTF-8 ",
        ],
    )
    def test_json_in_utf_8_is_read(self, guarded: Site, kind: str) -> None:
        case = Case(guarded)
        assert case.top_up({"usd": "5"}, **{"Content-Type": kind}).status == 200
        assert send(guarded, "GET", f"/runs/{case.run_id}", token=admin(guarded)).json["cap_usd"] == "105.00"

    @pytest.mark.parametrize(
        "kind",
        [
            "text/plain",
            "application/x-www-form-urlencoded",
            "",
            "application/json5",
            "text/json",
            "application/vnd.api+json",
            "application/json, application/json",
            "application/json text/plain",
        ],
    )
    def test_a_body_that_a_foreign_form_could_send_is_415(self, guarded: Site, kind: str) -> None:
        reply = Case(guarded).top_up({"usd": "5"}, **{"Content-Type": kind})
        assert reply.is_error(415, "unsupported_media_type")

    def test_a_form_with_files_is_no_json(self, guarded: Site) -> None:
        reply = Case(guarded).top_up({"usd": "5"}, **{"Content-Type": "multipart/form-data; boundary=x"})
        assert reply.is_error(415, "unsupported_media_type")

    @pytest.mark.parametrize(
        "raw",
        [
            {},
            {"not_sent": False},
            {"spent_usd": "2", "not_sent": True},
            {"spent_usd": 2},
            {"spent_usd": "-2"},
            {"spent_usd": "1000000001"},
            {"not_sent": "yes"},
            {"not_sent": 1},
            {"spent_usd": "2", "why": "x"},
            {"spent_usd": 0, "not_sent": True},
        ],
        ids=str,
    )
    def test_a_bad_resolve_leaves_the_call_in_doubt(self, guarded: Site, raw: Any) -> None:
        case = Case(guarded)
        _, path, _ = case.request("resolve")
        before = books(guarded)
        assert send(guarded, "POST", path, raw, ADMIN).is_error(400, "bad_request")
        assert books(guarded) == before

    @pytest.mark.parametrize(
        ("route", "wrong"),
        [
            ("open_run", {"cap": "5"}),
            ("open_run", {"name": ""}),
            ("open_run", {"name": "n" * 256}),
            ("open_run", {"name": 5}),
            ("open_run", {"by_task_id": 1}),
            ("open_run", {"budget_usd": "-5"}),
            ("open_run", {"budget_usd": float("nan")}),
            ("open_run", {"budget_usd": 5}),
            ("claim", {"vault_key": "x"}),
            ("claim", {"params": {"a": 1}}),
            ("claim", {"params": "a"}),
            ("finish", {"outcome": "lost"}),
            ("close_run", {"name": None}),
            ("reserve", {"cap": 5}),
            ("reserve", {"total_micros": -1}),
            ("reserve", {"total_micros": 10**16}),
            ("reserve", {"total_micros": 1.5}),
            ("reserve", {"total_micros": float("nan")}),
            ("reserve", {"total_micros": True}),
            ("reserve", {"read": "no"}),
            ("reserve", {"headers": {"a": 1}}),
            ("reserve", {"path": "p" * 5000}),
            ("reserve", {"call_id": None}),
            ("reserve", {"ask": 2**53}),
            ("settle", {"total_micros": -1}),
            ("settle", {"status": "200"}),
            ("settle", {"more": 1}),
            ("open_run", {"name": "\ud800"}),
            ("run_budget", {"run_id": "\ud800"}),
            ("claim", {"claim_id": "new", "params": {"a": "\ud800"}}),
            ("claim", {"params": []}),
            ("reserve", {"path": "\ud800"}),
            ("reserve", {"call_id": ""}),
            ("reserve", {"ask": -5}),
            ("reserve", {"timeout_ms": -1}),
            ("reserve", {"timeout_ms": 10**15}),
            ("reserve", {"denied": "whim"}),
            ("settle", {"kind": "void"}),
            ("revoke_run", {"dry_run": True}),
            ("list_runs", {"state": "active"}),
        ],
        ids=lambda value: repr(value)[:40],
    )
    def test_a_bad_rpc_is_400(self, guarded: Site, route: str, wrong: Any) -> None:
        case = Case(guarded)
        _, path, body = case.request(route)
        before = books(guarded)
        token = case.key if ROUTES[route][2] == "key" else ADMIN
        assert send(guarded, "POST", path, body | wrong, token).is_error(400, "bad_request")
        assert books(guarded) == before

    def test_a_revoke_with_a_field_it_does_not_know_is_refused(self, guarded: Site) -> None:
        run_id = Case(guarded).run_id
        reply = send(guarded, "DELETE", f"/runs/{run_id}", {"dry_run": True}, ADMIN)
        assert reply.is_error(400, "bad_request")

    @pytest.mark.parametrize(
        "route", [name for name, said in ROUTES.items() if said[0] == "POST" and said[3]]
    )
    def test_each_field_that_a_route_needs_is_asked_for(self, guarded: Site, route: str) -> None:
        optional = {"target", "total_micros", "params", "run_usd_cap"}
        optional |= {"run_id"} if route == "claim" else set()
        case = Case(guarded)
        _, path, body = case.request(route)
        token = case.key if ROUTES[route][2] == "key" else ADMIN
        before = books(guarded)
        for name in set(body) - optional:
            rest = {other: value for other, value in body.items() if other != name}
            assert send(guarded, "POST", path, rest, token).is_error(400, "bad_request"), name
        assert books(guarded) == before

    @pytest.mark.parametrize(
        "query",
        [
            "limit=0",
            "limit=10001",
            "limit=-1",
            "limit=ten",
            "before=x",
            "before=" + "9" * 16,
            "task=%ff",
            "limit=" + "9" * 5000,
        ],
        ids=lambda query: query[:20],
    )
    def test_a_bad_query_is_400(self, guarded: Site, query: str) -> None:
        for path in ("/calls", f"/runs/{Case(guarded).run_id}/calls"):
            assert send(guarded, "GET", f"{path}?{query}", token=ADMIN).is_error(400, "bad_request")
