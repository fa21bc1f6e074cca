"""What workers and luigid say to each other for a task of one call: messages, their bytes, connections."""

from __future__ import annotations

import re
import socket
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.pipeline import RUN, Ground, Side
from tests.support.vendors import FakeStripe

_FIRST_LINE = re.compile(rb"(?:GET|POST) (/\S*) HTTP/1\.1\r\n")


class Counted:
    """Passes connections on to luigid at `port`, and counts what goes through; `with` ends it.

    A worker sends a request when it has read the answer to the one before.

    Attributes:
        connections: how many were made.
        messages, up, down: requests by their route, and bytes of these and of their answers.

    """

    def __init__(self, port: int) -> None:
        self.connections = 0
        self.messages, self.up, self.down = Counter[str](), Counter[str](), Counter[str]()
        self._port, self._lock = port, threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # It is over.
                return
            self.connections += 1
            server = socket.create_connection(("127.0.0.1", self._port))
            route = [""]
            for source, sink, count in ((client, server, self.up), (server, client, self.down)):
                threading.Thread(target=self._pass_on, args=(source, sink, count, route), daemon=True).start()

    def _pass_on(
        self, source: socket.socket, sink: socket.socket, count: Counter[str], route: list[str]
    ) -> None:
        try:
            while data := source.recv(1 << 16):
                with self._lock:
                    if count is self.up and (begun := _FIRST_LINE.match(data)):
                        route[0] = begun[1].decode().partition("?")[0]
                        self.messages[route[0]] += 1
                    count[route[0]] += len(data)
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:  # The other side has gone.
            source.close()

    def __enter__(self) -> Counted:
        return self

    def __exit__(self, *args: object) -> None:
        self._listener.close()


def measure_messages(folder: Path, chosen: Sequence[Side], tasks: int) -> dict[str, Any]:
    """Run every side's pipeline once; return what was said for each task, pings left out."""
    found: dict[str, Any] = {"tasks": tasks}
    vendor = FakeStripe(folder / "vendor")
    try:
        for side in chosen:
            vendor.forget()
            found[side.name] = _counted(folder / side.name, side, vendor, tasks)
    finally:
        vendor.process.end()
    return found


def _counted(folder: Path, side: Side, vendor: FakeStripe, tasks: int) -> dict[str, Any]:
    ground = Ground(folder, side, vendor)
    ground.start()
    try:
        with Counted(ground.site.port) as counted:
            ground.site.configure(core={"default_scheduler_url": counted.url})
            args = ("--n", str(tasks), "--workers", "2", "--run-id", RUN)
            done = ground.worker("worker", side.root, *args).ended()
    finally:
        ground.site.end()
    assert done.code == 0, done.output[-3000:]
    assert vendor.moved() == tasks, "the vendor counted other calls than were made"
    routes = [route for route, _ in counted.messages.most_common() if route != "/api/ping"]
    return {
        "connections": round(counted.connections / tasks, 2),
        "messages": {route: round(counted.messages[route] / tasks, 2) for route in routes},
        "bytes": round(sum(counted.up[route] + counted.down[route] for route in routes) / tasks),
    }
