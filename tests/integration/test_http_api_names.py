"""Runs and calls over HTTP: odd names in paths, what does not exist, and repeated changes."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest

from tests.support.asking import ADMIN, WORKER, Case, books, guarded_site, send
from tests.support.attempts import Pretender
from tests.support.site import Site


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, shared_site: Site) -> Iterator[Site]:
    with guarded_site(tmp_path_factory.mktemp("guarded"), shared_site.stripe) as site:
        yield site


class TestNames:
    @pytest.mark.parametrize(
        "name",
        [
            "a/b",
            "a b",
            " edges ",
            "100%",
            "%2F",
            "a+b",
            "a?b=c&d#e",
            "Gebühr 日本 🚀",
            "x~2",
            "q\"'<b>",
            "a;b\\c",
            "a\nb",
        ],
    )
    def test_a_run_is_found_by_its_percent_encoded_name(self, guarded: Site, name: str) -> None:
        case = Case(guarded, f"{name}{uuid.uuid4().hex}{name}")
        call_id, path = case.doubted(), f"/runs/{quote(case.run_id, safe='')}"
        assert send(guarded, "GET", path, token=WORKER).json["run_id"] == case.run_id
        assert [call["id"] for call in send(guarded, "GET", f"{path}/calls", token=ADMIN).json] == [call_id]
        query = f"/calls?run={quote(case.run_id, safe='')}"
        assert [call["id"] for call in send(guarded, "GET", query, token=ADMIN).json] == [call_id]
        assert case.top_up({"usd": "1.50"}).json["cap_usd"] == "101.50"
        assert send(guarded, "DELETE", path, token=ADMIN).json["run_id"] == case.run_id

    def test_a_second_run_of_a_root_is_another_run(self, guarded: Site) -> None:
        name = f"Root_{uuid.uuid4().hex}"
        Pretender(guarded, name, by_task_id=True)
        send(guarded, "POST", "/api/spend_close_run", {"name": name}, WORKER)
        assert Pretender(guarded, name, by_task_id=True).run_id == f"{name}~2"
        for encoded in ("~2", "%7E2"):
            reply = send(guarded, "POST", f"/runs/{name}{encoded}/top_up", {"usd": "5"}, ADMIN)
            assert reply.json["run_id"] == f"{name}~2"
        assert send(guarded, "GET", f"/runs/{name}~2", token=ADMIN).json["cap_usd"] == "110.00"
        first = send(guarded, "GET", f"/runs/{name}", token=ADMIN).json
        assert (first["state"], first["cap_usd"]) == ("ended", "100.00")

    def test_a_path_that_is_not_utf8_is_a_bad_request(self, guarded: Site) -> None:
        assert send(guarded, "GET", "/runs/%ff", token=ADMIN).is_error(400, "bad_request")

    @pytest.mark.parametrize(
        ("method", "path", "body"),
        [
            ("GET", "/runs/nope", None),
            ("GET", "/runs/nope/calls", None),
            ("GET", "/calls?run=nope", None),
            ("DELETE", "/runs/nope", None),
            ("POST", "/runs/nope/top_up", {"usd": "5"}),
            ("POST", "/calls/nope/resolve", {"not_sent": True}),
            ("POST", "/api/run_budget", {"run_id": "nope"}),
            ("POST", "/api/top_up_run", {"run_id": "nope", "usd": "5"}),
            ("POST", "/api/revoke_run", {"run_id": "nope"}),
        ],
    )
    def test_what_does_not_exist_is_404(self, guarded: Site, method: str, path: str, body: Any) -> None:
        Case(guarded)
        before = books(guarded)
        reply = send(guarded, method, path, body, ADMIN)
        assert reply.is_error(404, "not_found")
        assert "nope" in reply.json["message"]
        assert books(guarded) == before

    def test_a_claim_of_an_unknown_run_and_an_end_of_an_unknown_call_are_404(self, guarded: Site) -> None:
        case = Case(guarded)
        _, path, body = case.request("claim")
        assert send(guarded, "POST", path, body | {"run_id": "nope"}, WORKER).is_error(404, "not_found")
        reply = send(guarded, "POST", "/api/spend_settle", {"call_id": "nope"}, case.key)
        assert reply.is_error(404, "not_found")


class TestRepeats:
    def test_a_top_up_counts_once_for_each_request_id(self, guarded: Site) -> None:
        case, request_id = Case(guarded), uuid.uuid4().hex
        for _ in range(3):
            assert case.top_up({"usd": "5", "request_id": request_id}).json["cap_usd"] == "105.00"
        same = {"run_id": case.run_id, "usd": "5.00", "request_id": request_id}
        reply = send(guarded, "POST", "/api/top_up_run", same, ADMIN)
        assert reply.json["response"]["cap_usd"] == "105.00"
        assert case.top_up({"usd": "5"}).json["cap_usd"] == "110.00"

    def test_a_request_id_is_good_for_one_change_only(self, guarded: Site) -> None:
        case, other, request_id = Case(guarded), Case(guarded), uuid.uuid4().hex
        call_id = case.doubted()
        case.top_up({"usd": "5", "request_id": request_id})
        before = books(guarded)
        assert case.top_up({"usd": "6", "request_id": request_id}).is_error(409, "conflict")
        assert other.top_up({"usd": "5", "request_id": request_id}).is_error(409, "conflict")
        said = {"not_sent": True, "request_id": request_id}
        assert send(guarded, "POST", f"/calls/{call_id}/resolve", said, ADMIN).is_error(409, "conflict")
        assert books(guarded) == before

    def test_a_call_is_resolved_once_and_never_otherwise(self, guarded: Site) -> None:
        case = Case(guarded)
        path = f"/calls/{case.doubted()}/resolve"
        said = {"spent_usd": "2", "request_id": uuid.uuid4().hex}
        for _ in range(2):
            assert send(guarded, "POST", path, said, ADMIN).json["spent_usd"] == "2.00"
        before = books(guarded)
        for wrong in (said | {"spent_usd": "1"}, {"not_sent": True}, {"spent_usd": "2"}):
            assert send(guarded, "POST", path, wrong, ADMIN).is_error(409, "conflict")
        assert books(guarded) == before
        assert send(guarded, "GET", f"/runs/{case.run_id}", token=ADMIN).json["spent_usd"] == "2.00"
