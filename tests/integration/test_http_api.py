"""The HTTP routes and RPCs of a real luigid-spendguard: who may, foreign pages, methods, Luigi's own."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.asking import ADMIN, ASK, ROUTES, WORKER, WRONG, Case, admin, books, guarded_site, send
from tests.support.processes import Process, free_port, listening
from tests.support.site import SECRET, Site

PROXIED = ["X-Forwarded-For", "Forwarded", "X-Real-IP", "x-forwarded-for"]
CHANGING = [name for name, route in ROUTES.items() if route[2] != "read" and route[0] != "GET"]
MAY = {"read": {"worker", "admin"}, "admin": {"admin"}, "worker": {"worker", "admin"}, "key": {"key"}}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, shared_site: Site) -> Iterator[Site]:
    with guarded_site(tmp_path_factory.mktemp("guarded"), shared_site.stripe) as site:
        yield site


class TestWhoMay:
    @pytest.mark.parametrize("who", ["nobody", "wrong", "worker", "admin", "key"])
    @pytest.mark.parametrize("route", ROUTES)
    def test_a_route_serves_those_it_names_and_tells_others_401(
        self, guarded: Site, route: str, who: str
    ) -> None:
        case = Case(guarded)
        token = {"nobody": None, "wrong": WRONG, "worker": WORKER, "admin": ADMIN, "key": case.key}[who]
        method, path, body = case.request(route)
        before = books(guarded)
        reply = send(guarded, method, path, body, token)
        kind = ROUTES[route][2]
        if who in MAY[kind]:
            assert reply.status in (200, 201), reply
            assert reply.headers["cache-control"] == "no-store"
        else:
            assert reply.is_error(401, "unknown_key" if kind == "key" else "unauthorized")
            assert books(guarded) == before

    @pytest.mark.parametrize("scheme", ["Basic", "Token", ""])
    def test_a_token_counts_as_a_bearer_token_only(self, guarded: Site, scheme: str) -> None:
        reply = send(guarded, "GET", "/runs", Authorization=f"{scheme} {ADMIN}".strip())
        assert reply.is_error(401, "unauthorized")

    def test_without_a_worker_token_the_own_machine_may_read_and_claim_but_not_change(
        self, shared_site: Site
    ) -> None:
        case = Case(shared_site)  # opened, dispatched and claimed without a token
        assert send(shared_site, "GET", f"/runs/{case.run_id}").json["run_id"] == case.run_id
        assert send(shared_site, "GET", "/runs", token=WRONG).status == 200
        for route in ("top_up", "revoke", "resolve", "top_up_run", "revoke_run"):
            method, path, body = case.request(route)
            assert send(shared_site, method, path, body).is_error(401, "unauthorized")
        run = send(shared_site, "GET", f"/runs/{case.run_id}").json
        assert (run["cap_usd"], run["state"]) == ("100.00", "active")

    @pytest.mark.parametrize("header", PROXIED)
    @pytest.mark.parametrize("route", ["runs", "open_run", "claim", "finish", "reserve", "list_runs"])
    def test_without_a_worker_token_a_proxy_is_never_taken_for_the_own_machine(
        self, shared_site: Site, route: str, header: str
    ) -> None:
        case = Case(shared_site)
        method, path, body = case.request(route)
        token = case.key if ROUTES[route][2] == "key" else None
        before = books(shared_site)
        reply = send(shared_site, method, path, body, token, **{header: "127.0.0.1"})
        assert reply.is_error(403, "forbidden")
        assert "worker_token" in reply.json["message"]
        assert books(shared_site) == before

    @pytest.mark.parametrize("header", PROXIED)
    def test_the_admin_token_is_good_through_a_proxy(self, shared_site: Site, header: str) -> None:
        case = Case(shared_site)
        via = {header: "203.0.113.7"}
        assert send(shared_site, "GET", "/runs", token=admin(shared_site), **via).status == 200
        assert case.top_up({"usd": "5"}, **via).json["cap_usd"] == "105.00"

    def test_with_a_worker_token_a_proxied_worker_is_served_by_it(self, guarded: Site) -> None:
        via = {"X-Forwarded-For": "203.0.113.7"}
        _, path, body = Case(guarded).request("open_run")
        assert send(guarded, "POST", path, body, WORKER, **via).status == 200
        assert send(guarded, "POST", path, body, **via).is_error(401, "unauthorized")

    def test_with_a_worker_token_alone_anybody_reads_and_only_workers_work(
        self, tmp_path: Path, shared_site: Site
    ) -> None:
        said = {"worker_token": WORKER, "daily_cap_usd": 10000}
        with Site(tmp_path / "tokened", stripe=shared_site.stripe, spendguard=said) as site:
            case, via = Case(site), {"X-Forwarded-For": "203.0.113.7"}
            for token in (None, WRONG, WORKER):
                assert send(site, "GET", f"/runs/{case.run_id}", token=token, **via).status == 200
            _, path, body = case.request("open_run")
            assert send(site, "POST", path, body).is_error(401, "unauthorized")
            assert send(site, "POST", path, body, WORKER, **via).status == 200
            assert case.top_up({"usd": "5"}, WORKER).is_error(401, "unauthorized")

    def test_luigids_log_holds_no_token_and_no_key(self, guarded: Site) -> None:
        case = Case(guarded)
        case.top_up({"usd": "5"}, WRONG)
        for token in (case.key, WRONG):
            send(guarded, "POST", "/api/spend_reserve", ASK | {"call_id": "x", "path": "\ud800"}, token)
            send(guarded, "DELETE", "/runs/logged", token=token)
        assert guarded.luigid is not None
        log = guarded.luigid.text()
        assert "401 DELETE /runs/…" in log
        assert f"401 POST /runs/{case.run_id}/top_up" in log
        assert not [one for one in (ADMIN, WORKER, WRONG, SECRET, case.key) if one in log]

    def test_a_key_ends_no_call_of_another_task(self, guarded: Site) -> None:
        victim, thief = Case(guarded), Case(guarded)
        call_id = victim.reserved()
        before = books(guarded)
        for kind in ("settle", "void", "doubt"):
            reply = send(guarded, "POST", f"/api/spend_{kind}", {"call_id": call_id}, thief.key)
            assert 400 <= reply.status < 500, reply
        assert books(guarded) == before

    def test_a_task_that_was_not_dispatched_to_the_worker_is_403(self, guarded: Site) -> None:
        case = Case(guarded)
        _, path, body = case.request("claim")
        for wrong in ({"worker": "another"}, {"task_id": "Another_1"}):
            assert send(guarded, "POST", path, body | wrong, WORKER).is_error(403, "scope")

    def test_a_revoked_run_yields_no_key_and_grants_nothing(self, guarded: Site) -> None:
        case = Case(guarded)
        assert send(guarded, "DELETE", f"/runs/{case.run_id}", token=ADMIN).json["state"] == "revoked"
        _, path, body = case.request("claim")
        assert send(guarded, "POST", path, body, WORKER).is_error(401, "revoked", "facts")
        ask = send(guarded, "POST", "/api/spend_reserve", ASK | {"call_id": "late"}, case.key)
        assert ask.status == 401 or ask.json["response"]["reason"] == "revoked", ask
        assert case.top_up({"usd": "5"}).is_error(409, "conflict")


class TestOriginsAndMethods:
    @pytest.mark.parametrize("route", CHANGING)
    def test_a_foreign_web_page_changes_nothing_even_with_the_right_token(
        self, guarded: Site, route: str
    ) -> None:
        case = Case(guarded)
        method, path, body = case.request(route)
        token = {"admin": ADMIN, "worker": WORKER, "key": case.key}[ROUTES[route][2]]
        before = books(guarded)
        for origin in ("http://evil.example", "null", "http://127.0.0.1:1", "http://localhost"):
            reply = send(guarded, method, path, body, token, Origin=origin)
            assert reply.is_error(403, "forbidden")
            assert "access-control-allow-origin" not in reply.headers
        assert books(guarded) == before

    def test_what_it_reads_a_browser_keeps_from_it(self, guarded: Site) -> None:
        reply = send(guarded, "GET", "/runs", None, ADMIN, Origin="http://evil.example")
        assert reply.status == 200
        assert not any(name.lower().startswith("access-control-") for name in reply.headers)

    def test_luigis_own_page_may(self, guarded: Site) -> None:
        assert Case(guarded).top_up({"usd": "5"}, Origin=guarded.url).json["cap_usd"] == "105.00"

    def test_an_origin_that_is_no_address_is_403(self, guarded: Site) -> None:
        assert Case(guarded).top_up({"usd": "5"}, Origin="http://[::1").is_error(403, "forbidden")

    @pytest.mark.parametrize("route", [name for name in CHANGING if name not in ("revoke", "issue a key")])
    def test_other_methods_are_405_and_change_nothing(self, guarded: Site, route: str) -> None:
        case = Case(guarded)
        _, path, body = case.request(route)
        before = books(guarded)
        reads = ["GET"] if route == "top_up" else []  # What it would free.
        for method in {"GET", "PUT", "DELETE"} - {*reads}:
            reply = send(guarded, method, path, body, ADMIN)
            assert reply.is_error(405, "method_not_allowed")
            assert {name.strip() for name in reply.headers["allow"].split(",")} == {"POST", *reads}
        assert send(guarded, "HEAD", path, token=ADMIN).status == 405
        assert books(guarded) == before

    def test_allow_names_every_method_of_a_run(self, guarded: Site) -> None:
        reply = send(guarded, "PUT", f"/runs/{Case(guarded).run_id}", {}, ADMIN)
        assert reply.is_error(405, "method_not_allowed")
        assert {name.strip() for name in reply.headers["allow"].split(",")} == {"GET", "DELETE"}


class TestLuigi:
    def test_luigis_own_routes_are_served_as_by_a_stock_luigid(self, site: Site) -> None:
        """No ledger is made for it; what we have not, Luigi answers; origins are its own affair."""
        stock = Site.__new__(Site)
        stock.port, stock.ledger = free_port(), site.ledger
        args = [
            "-c",
            "from luigi.cmdline import luigid; luigid()",
            "--address",
            "127.0.0.1",
            "--port",
            str(stock.port),
        ]
        process = Process(
            args,
            site.folder / "stock.log",
            site.folder,
            site.environment() | {"LUIGI_CONFIG_PATH": str(site.folder / "none.cfg")},
            lambda: listening(stock.port),
        )
        try:
            for method, path, body in [
                ("GET", "/", None),
                ("GET", "/static/visualiser/index.html", None),
                ("GET", "/static/visualiser/js/visualiserApp.js", None),
                ("GET", "/static/nope.js", None),
                ("GET", "/api/task_list?data=%7B%7D", None),
                ("GET", "/api/worker_list", None),
                ("GET", "/api/no_such_rpc", None),
                ("GET", "/api/spend_nothing", None),
                ("POST", "/api/graph", {}),
                ("GET", "/metrics", None),
                ("GET", "/nothing", None),
                ("DELETE", "/api/graph", None),
            ]:
                ours, theirs = (
                    send(each, method, path, body, Origin="http://evil.example") for each in (site, stock)
                )
                if path.endswith("index.html"):  # The Budgets tab is all that differs.
                    added = re.search(r"<link[^>]*spendguard/.*?</script>", ours.text)
                    assert added is not None
                    ours = ours._replace(text=ours.text.replace(added[0], ""))
                    assert ours.text == theirs.text
                    continue
                for reply in (ours, theirs):
                    reply.headers.pop("content-security-policy", None)
                    reply.headers.pop("date", None)
                    reply.headers.pop("last-modified", None)
                assert ours == theirs, path
        finally:
            process.end()
        assert send(site, "GET", "/runs").json == []
        assert send(site, "GET", "/runs/nope").is_error(404, "not_found")
        assert send(site, "POST", "/runs/nope/top_up", {"usd": "5"}).is_error(401, "unauthorized")
        assert not site.ledger.exists()
