"""A loopback forwarder in front of a look-alike that knows neither vendors' hosts nor lax bodies."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import urllib3

_KEPT = ("accept", "authorization", "content-type", "idempotency-key", "x-batch-validation")


class Forwarder:
    """Passes on what it gets on a free loopback port; `with` ends it.

    With `hosts` the path's first part is a vendor's host and stripped. A body that is an empty JSON object
    is dropped: Resend's SDK sends one where the document has none.
    """

    def __init__(self, target: str, *, hosts: bool = False) -> None:
        pool = urllib3.PoolManager(timeout=30, retries=False)

        class Handler(BaseHTTPRequestHandler):
            wbufsize = -1
            disable_nagle_algorithm = True

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                kept = {name: value for name in _KEPT if (value := self.headers.get(name)) is not None}
                if body == b"{}":
                    body = b""
                    kept.pop("content-type", None)
                path = "/" + self.path.split("/", 2)[2] if hosts else self.path
                reply = pool.request(self.command, target + path, body=body or None, headers=kept)
                self.send_response(reply.status)
                self.send_header("Content-Type", reply.headers.get("Content-Type", "text/plain"))
                self.send_header("Content-Length", str(len(reply.data)))
                if "X-Total-Count" in reply.headers:
                    self.send_header("X-Total-Count", reply.headers["X-Total-Count"])
                self.end_headers()
                self.wfile.write(reply.data)

            do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = answer

            def log_message(self, *args: object) -> None:
                pass

        self._pool = pool
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Forwarder:
        return self

    def __exit__(self, *args: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self._pool.clear()
