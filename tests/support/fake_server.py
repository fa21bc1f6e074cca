"""What the look-alikes of Twilio and Resend have in common: books, scripted faults, and `/_control`.

One process is one vendor, so the books are this module's own. GET /_control shows them, POST adds
`faults` and changes `options`, DELETE forgets everything. Nothing of luigi_spendguard is used here.

A fault is `{"fault": KIND, "match": "POST /path", "times": 1, …}`; `match` is the beginning of the
request's line and may hold `*`. The kinds: drop_before, status (both before anything is executed), hang
(`seconds`, then execute), drop_after, status_after, not_json, truncate, change, echo_secret. `headers` are
those of a status. `put` of a POST are objects that somebody has made, as they are to be shown.
"""

from __future__ import annotations

import argparse
import asyncio
import copy
import fnmatch
import json
import os
import time
from collections.abc import Callable
from typing import Any

import tornado.httpserver
import tornado.netutil
import tornado.web

REQUESTS: list[dict[str, Any]] = []
SENT: list[dict[str, Any]] = []
OBJECTS: dict[str, dict[str, Any]] = {}
FAULTS: list[dict[str, Any]] = []
OPTIONS: dict[str, Any] = {}
#: What the vendor knows and does not show.
HIDDEN: dict[str, Any] = {}
STARTED: dict[str, Any] = {}


class Problem(Exception):
    """Answer with an error."""

    def __init__(self, status: int, body: dict[str, Any]) -> None:
        super().__init__(str(body))
        self.status = status
        self.body = body


class Vendor(tornado.web.RequestHandler):
    """Every request but /_control; a subclass knows the vendor."""

    def refused(self) -> Problem | None:
        """Return why the credentials are not accepted."""
        raise NotImplementedError  # Each vendor's own.

    def execute(self) -> tuple[int, Any]:
        """Do what is asked; return status and body."""
        raise NotImplementedError  # As above.

    def scripted(self, status: int) -> dict[str, Any]:
        """Return an error body in the vendor's shape."""
        raise NotImplementedError  # As above.

    def secrets(self) -> dict[str, str]:
        """Return what `echo_secret` gives away."""
        raise NotImplementedError  # As above.

    def address(self) -> dict[str, str]:
        """Return what the books say of the address asked for."""
        return {"path": self.request.path}

    async def once(self, fault: dict[str, Any]) -> tuple[int, Any]:
        """Execute; a vendor with idempotency answers what it has stored instead."""
        return await self.executed(fault)

    async def executed(self, fault: dict[str, Any]) -> tuple[int, Any]:
        """Execute, later if the fault says so, and return a copy of the answer."""
        if fault["fault"] == "hang":
            await asyncio.sleep(fault["seconds"])
        while OPTIONS["held"]:  # Until the test lets them go.
            await asyncio.sleep(0.01)
        try:
            status, body = self.execute()
        except Problem as problem:
            status, body = problem.status, problem.body
        return status, copy.deepcopy(body)

    async def _serve(self) -> None:
        request = self.request
        REQUESTS.append(
            {
                "request_id": self._headers.get("Twilio-Request-Id"),
                "method": request.method,
                **self.address(),
                "query": request.query,
                "authorization": request.headers.get("Authorization"),
                "key": request.headers.get("Idempotency-Key"),
                "body": request.body.decode("utf-8", "surrogateescape"),
                "time": time.monotonic(),
            }
        )
        refused = self.refused()
        if refused is not None:
            await self._reply(refused.status, refused.body)
            return
        fault = self._fault()
        if fault["fault"] == "drop_before":
            self.detach().close()
            return
        if OPTIONS["latency"]:
            await asyncio.sleep(OPTIONS["latency"])
        if fault["fault"] == "status":
            for name, value in fault.get("headers", {}).items():
                self.set_header(name, value)
            await self._reply(fault["status"], fault.get("body") or self.scripted(fault["status"]))
            return
        status, body = await self.once(fault)
        await self._broken(fault, status, body)

    get = post = put = patch = delete = _serve

    def _fault(self) -> dict[str, Any]:
        line = f"{self.request.method} {self.request.path}"
        for fault in FAULTS:
            if fault["times"] and fnmatch.fnmatchcase(line, fault["match"] + "*"):
                fault["times"] -= 1
                return fault
        return {"fault": "none"}

    async def _broken(self, fault: dict[str, Any], status: int, body: Any) -> None:
        kind = fault["fault"]
        if kind == "drop_after":
            self.detach().close()
        elif kind == "status_after":
            await self._reply(fault["status"], fault.get("body") or self.scripted(fault["status"]))
        elif kind == "not_json":
            await self._reply(fault.get("status", 200), "<html>a proxy's page</html>")
        elif kind == "truncate":
            text = json.dumps(body)
            stream = self.detach()
            head = f"HTTP/1.1 {status} OK\r\nContent-Type: application/json\r\nContent-Length: {len(text)}"
            await stream.write((head + "\r\n\r\n" + text[: len(text) // 2]).encode())
            stream.close()
        elif kind == "change":
            await self._reply(fault.get("status", status), (body or {}) | fault["change"])
        elif kind == "echo_secret":
            await self._reply(200 if body is None else status, (body or {}) | self.secrets())
        else:
            await self._reply(status, body)

    async def _reply(self, status: int, body: Any) -> None:
        self.set_status(status)
        if body is None:
            await self.finish()
            return
        page = isinstance(body, str)
        self.set_header("Content-Type", "text/html" if page else "application/json; charset=utf-8")
        await self.finish(body if page else json.dumps(body))


class Control(tornado.web.RequestHandler):
    """/_control: read the books, script faults, change options, forget everything."""

    def initialize(self, settle: Callable[[], None]) -> None:
        """Note what brings the books up to now."""
        self.settle = settle

    def get(self) -> None:
        self.settle()
        self.finish(json.dumps({"requests": REQUESTS, "sent": SENT, "objects": OBJECTS, "options": OPTIONS}))

    def post(self) -> None:
        said = json.loads(self.request.body)
        FAULTS.extend({"times": 1, "match": "POST /", **fault} for fault in said.get("faults", []))
        OBJECTS.update({thing.get("sid") or thing["id"]: thing for thing in said.get("put", [])})
        OPTIONS.update(said.get("options", {}))

    def delete(self) -> None:
        for kept in (REQUESTS, SENT, FAULTS):
            kept.clear()
        for known in (OBJECTS, HIDDEN, OPTIONS):
            known.clear()
        OPTIONS.update(copy.deepcopy(STARTED))


def arguments() -> argparse.ArgumentParser:
    """Return a parser of what every look-alike takes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port-file", required=True)
    parser.add_argument("--latency", type=float, default=0.0)
    return parser


async def serve(
    vendor: type[Vendor], options: dict[str, Any], port_file: str, settle: Callable[[], None]
) -> None:
    """Serve on a free loopback port, which the port file names, until the process is ended."""
    STARTED.update(copy.deepcopy(options), held=False)
    OPTIONS.update(copy.deepcopy(STARTED))
    routes = [(r"/_control", Control, {"settle": settle}), (r"/.*", vendor)]
    app = tornado.web.Application(routes, log_function=lambda _: None)
    sockets = tornado.netutil.bind_sockets(0, "127.0.0.1", backlog=512)
    tornado.httpserver.HTTPServer(app).add_sockets(sockets)
    with open(port_file + ".new", "w", encoding="ascii") as file:
        file.write(str(sockets[0].getsockname()[1]))
    os.rename(port_file + ".new", port_file)
    await asyncio.Event().wait()
