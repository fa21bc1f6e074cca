"""HTTP routes: who may call them, what they take, what they refuse; nothing secret leaves."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import urllib3

from luigi_spendguard import proxy
from tests.support.attempts import Pretender
from tests.support.pipelines import charge
from tests.support.site import SECRET, FakeStripe, Site

ADMIN, WORKER = "admin-canary-token-0123456789", "worker-canary-token-0123456789"
_http = urllib3.PoolManager(timeout=30, retries=False)

READS = [("GET", "/runs"), ("GET", "/runs/r"), ("GET", "/runs/r/calls"), ("GET", "/calls"),
         ("POST", "/api/list_runs"), ("POST", "/api/run_budget")]  # fmt: skip
CHANGES = [("DELETE", "/runs/r"), ("POST", "/runs/r/top_up"), ("POST", "/calls/c/resolve"),
           ("POST", "/api/revoke_run"), ("POST", "/api/top_up_run")]  # fmt: skip
WORKERS = [("POST", f"/api/spend_{name}") for name in ("open_run", "claim", "finish", "close_run", "blocked")]
KEYS = [("POST", f"/api/spend_{name}") for name in ("reserve", "settle", "void", "doubt")]


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site with both tokens, which anonymous people may not read."""
    tokens = {"admin_token": ADMIN, "worker_token": WORKER, "anonymous_read": "false", "daily_cap_usd": 500}
    with Site(tmp_path_factory.mktemp("guarded"), spendguard=tokens) as site:
        yield site


def status(site: Site, method: str, path: str, token: str | None, **headers: str) -> int:
    body = {} if method == "POST" else None
    return site.call(method, path, body, token=token, **headers)[0]


@pytest.mark.parametrize(("method", "path"), CHANGES)
def test_only_the_admin_token_changes_anything(guarded: Site, method: str, path: str) -> None:
    assert [status(guarded, method, path, token) for token in (None, "wrong", WORKER)] == [401] * 3
    assert status(guarded, method, path, ADMIN) in (400, 404)


@pytest.mark.parametrize(("method", "path"), WORKERS)
def test_only_a_worker_opens_and_claims(guarded: Site, method: str, path: str) -> None:
    assert [status(guarded, method, path, token) for token in (None, "wrong", WORKER[:-1])] == [401] * 3
    assert status(guarded, method, path, WORKER) == 400


@pytest.mark.parametrize(("method", "path"), KEYS)
def test_only_a_known_vault_key_reserves(guarded: Site, method: str, path: str) -> None:
    message: dict[str, Any] = {"call_id": "c"}
    if path.endswith("reserve"):
        message |= {"vendor": "stripe", "account": "", "operation": "", "method": "POST", "path": "/"}
    for token in (None, "vault_key_wrong", WORKER, ADMIN):
        code, said = guarded.call(method, path, message, token=token)
        assert (code, said["error"]) == (401, "unknown_key")


@pytest.mark.parametrize(("method", "path"), READS)
def test_reading_can_be_closed_to_anonymous_people(guarded: Site, method: str, path: str) -> None:
    assert [status(guarded, method, path, token) for token in (None, "wrong")] == [401] * 2
    assert [status(guarded, method, path, token) in (200, 400, 404) for token in (WORKER, ADMIN)] == [
        True
    ] * 2


@pytest.mark.parametrize(("method", "path"), READS)
def test_reading_is_open_as_luigis_own_page(shared_site: Site, method: str, path: str) -> None:
    assert status(shared_site, method, path, None) in (200, 400, 404)


@pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded", "X-Real-Ip"])
def test_without_a_token_a_peer_behind_a_proxy_is_not_served(
    pretender: Pretender, shared_site: Site, header: str
) -> None:
    named = {header: "127.0.0.1"}
    code, said = shared_site.call("POST", "/api/spend_open_run", {}, token=None, **named)
    assert code == 403
    assert "worker_token" in said["message"]
    assert shared_site.call("GET", "/runs", token=None, **named)[0] == 403
    assert shared_site.call("GET", "/runs", **named)[0] == 200


@pytest.mark.parametrize(("method", "path"), [*CHANGES, *WORKERS, *KEYS])
@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:1"])
def test_another_pages_requests_are_refused(guarded: Site, method: str, path: str, origin: str) -> None:
    code, said = guarded.call(method, path, {}, token=ADMIN, Origin=origin)
    assert (code, said["error"]) == (403, "forbidden")


@pytest.mark.parametrize("path", sorted({path for _, path in [*CHANGES, *WORKERS, *KEYS]}))
@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH"])
def test_a_route_takes_its_own_method_alone(guarded: Site, method: str, path: str) -> None:
    if (method, path) == ("GET", "/runs/r"):
        return  # That one is another route.
    assert status(guarded, method, path, ADMIN) == 405


class TestFields:
    """One clear error, and nothing is changed."""

    @pytest.mark.parametrize(
        "body",
        [{}, {"usd": 50}, {"usd": "-5"}, {"usd": "NaN"}, {"usd": "1e3"}, {"usd": "99999999999"}, {"usd": ""},
         {"usd": "0.0000001"}, {"usd": None}, {"usd": ["5"]}, {"usd": "5", "cap": "5"}, {"usd": "Infinity"},
         {"usd": "5", "request_id": 7}, {"usd": "5", "request_id": ""}],
    )  # fmt: skip
    def test_a_bad_top_up(self, pretender: Pretender, body: Any) -> None:
        site = pretender.site
        code, said = site.call("POST", f"/runs/{pretender.run_id}/top_up", body)
        assert (code, said["error"]) == (400, "bad_request"), said
        assert said["message"]
        assert site.run(pretender.run_id)["cap_usd"] == "100.00"

    @pytest.mark.parametrize(
        ("content", "kind", "code"),
        [(b"{", "application/json", 400), (b"[]", "application/json", 400),
         (b"\xff", "application/json", 400), (b"null", "application/json", 400),
         (b"usd=5", "application/x-www-form-urlencoded", 415),
         (b'{"usd": "' + b"5" * (5 << 20) + b'"}', "application/json", 413)],
    )  # fmt: skip
    def test_a_body_that_is_none(self, pretender: Pretender, content: bytes, kind: str, code: int) -> None:
        site = pretender.site
        headers = {"Authorization": f"Bearer {site.token()}", "Content-Type": kind}
        url = f"{site.url}/runs/{pretender.run_id}/top_up"
        reply = _http.request("POST", url, body=content, headers=headers)
        assert reply.status == code
        assert json.loads(reply.data)["message"]
        assert site.run(pretender.run_id)["cap_usd"] == "100.00"

    @pytest.mark.parametrize(
        "body", [{}, {"spent_usd": "2", "not_sent": True}, {"not_sent": False}, {"not_sent": "yes"},
                 {"spent_usd": 2}, {"spent_usd": "-1"}]
    )  # fmt: skip
    def test_a_bad_resolve(self, shared_site: Site, body: Any) -> None:
        assert shared_site.call("POST", "/calls/none/resolve", body)[0] == 400

    @pytest.mark.parametrize("query", ["limit=0", "limit=x", "limit=99999", "before=-1", "verdict=%ff"])
    def test_a_bad_query(self, pretender: Pretender, query: str) -> None:
        assert pretender.site.call("GET", f"/runs/{pretender.run_id}/calls?{query}")[0] == 400

    def test_what_there_is_not_is_404(self, shared_site: Site) -> None:
        for method, path, body in [
            ("GET", "/runs/none", None), ("DELETE", "/runs/none", None),
            ("POST", "/runs/none/top_up", {"usd": "5"}), ("POST", "/calls/none/resolve", {"not_sent": True}),
        ]:  # fmt: skip
            code, said = shared_site.call(method, path, body)
            assert code == 404, path
            assert "there is no" in said["message"]


def test_a_top_up_with_one_request_id_counts_once(pretender: Pretender) -> None:
    path = f"/runs/{pretender.run_id}/top_up"
    said = [pretender.site.call("POST", path, {"usd": "5", "request_id": "i1" + path}) for _ in range(3)]
    assert [code for code, _ in said] == [200] * 3
    assert pretender.site.run(pretender.run_id)["cap_usd"] == "105.00"
    assert pretender.site.call("POST", path, {"usd": "6", "request_id": "i1" + path})[0] == 409
    assert pretender.site.run(pretender.run_id)["cap_usd"] == "105.00"


@pytest.mark.parametrize("name", ["a/b", "a b", "50%", "über", "a~2x", "?x=1", "a+b", "%2F"])
def test_a_run_id_in_a_path_is_percent_encoded(shared_site: Site, name: str) -> None:
    run_id = Pretender(shared_site, name).run_id
    assert shared_site.run(run_id)["run_id"] == name
    path = f"/runs/{quote(run_id, safe='')}"
    assert shared_site.call("GET", f"{path}/calls") == (200, [])
    assert shared_site.call("POST", f"{path}/top_up", {"usd": "1"})[1]["cap_usd"] == "101.00"
    assert shared_site.call("DELETE", path)[1]["state"] == "revoked"


def test_nothing_secret_is_in_any_answer(pretender: Pretender, vendor: FakeStripe) -> None:
    site = pretender.site
    with pretender.attempt() as attempt:
        proxy.bind()
        charge("cus_1")
        key = attempt.key
    said = ""
    for path in ("/runs", f"/runs/{pretender.run_id}", f"/runs/{pretender.run_id}/calls", "/calls",
                 "/api/task_list?data=%7B%7D", "/api/worker_list"):  # fmt: skip
        reply = _http.request("GET", site.url + path)
        assert reply.status == 200, path
        said += reply.data.decode()
    assert "cus_1" in said
    for secret in (SECRET, key, site.token()):
        assert secret not in said
    assert "vault_key" not in said
    assert vendor.moved() == 100


def test_luigis_own_routes_are_as_ever(guarded: Site, tmp_path: Path) -> None:
    assert _http.request("GET", f"{guarded.url}/static/visualiser/index.html").status == 200
    assert _http.request("GET", f"{guarded.url}/api/graph?data=%7B%7D").status == 200
    assert _http.request("GET", f"{guarded.url}/nowhere").status == 404
