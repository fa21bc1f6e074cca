"""Luigi's own RPCs are answered as a stock luigid answers them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import luigi.configuration
import luigi.scheduler
import luigi.server
import pytest
from luigi.scheduler import RPC_METHODS
from tornado.httpclient import AsyncHTTPClient
from tornado.httpserver import HTTPServer
from tornado.ioloop import IOLoop
from tornado.testing import bind_unused_port
from tornado.web import Application

from scheduler_patch.api.luigis import luigi_routes

ORIGIN = {"Origin": "https://example.org"}
REQUESTS: list[tuple[str, str, dict[str, str]]] = [
    ("GET", "/api/ping?data=" + '{"worker":"w"}', {}),
    ("POST", "/api/count_pending", {}),
    ("POST", "/api/add_task", ORIGIN),
    ("GET", "/api/is_paused", ORIGIN),
    ("GET", "/api/is_paused", {"Origin": "null"}),
    ("OPTIONS", "/api/is_paused", ORIGIN),
    ("OPTIONS", "/api/add_task", {}),
    ("PUT", "/api/is_paused", {}),
    ("GET", "/api/no_such_rpc", {}),
    ("GET", "/api/get_work?data=" + '{"worker":"w","host":"h"}', {}),
]


def applications() -> Iterator[Application]:
    for with_ours in (False, True):
        scheduler = luigi.scheduler.Scheduler()
        app = luigi.server.app(scheduler)
        if with_ours:
            app.add_handlers(r".*", luigi_routes(scheduler))
        yield app


async def answers(app: Application) -> list[Any]:
    socket, port = bind_unused_port()
    server, client = HTTPServer(app), AsyncHTTPClient()
    server.add_sockets([socket])
    found = []
    try:
        for method, path, headers in REQUESTS:
            body = 'data={"worker":"w","task_id":"T"}' if "add_task" in path else 'data={"worker":"w"}'
            reply = await client.fetch(
                f"http://127.0.0.1:{port}{path}",
                method=method,
                headers=headers,
                body=body if method in ("POST", "PUT") else None,
                raise_error=False,
            )
            shown = {name: value for name, value in reply.headers.get_all() if name != "Date"}
            found.append((method, path, reply.code, shown, reply.body))
    finally:
        server.stop()
        await server.close_all_connections()
    return found


@pytest.mark.parametrize("cors", [{}, {"enabled": "true", "allowed_origins": json.dumps([ORIGIN["Origin"]])}])
def test_answers_are_those_of_a_stock_luigid(cors: dict[str, str]) -> None:
    """Luigi reads its settings at each request."""
    config = luigi.configuration.get_config()
    made = list(applications())
    for name, value in cors.items():
        config.set("cors", name, value)
    try:
        stock, ours = [IOLoop().run_sync(lambda app=app: answers(app)) for app in made]
    finally:
        config.remove_section("cors")
    assert ours == stock
    assert any("Access-Control-Allow-Origin" in reply[3] for reply in ours) is bool(cors)


def test_each_of_luigis_rpcs_is_found_first() -> None:
    [(route, _, _)] = luigi_routes(None)
    assert RPC_METHODS.keys() <= {name for name in RPC_METHODS if re.fullmatch(route, f"/api/{name}")}
