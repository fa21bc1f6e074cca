"""A gateway that answers what a test wants, in threads of the test's process; it shares no code with ours.

It keeps every request as it arrived. Unless told otherwise it answers a charge like Stripe does, and a
repeated idempotency key with the first answer.
"""

from __future__ import annotations

import json
import ssl
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

#: Of 127.0.0.1, self-signed, with a key that is no secret.
CERTIFICATE = Path(__file__).with_name("tls") / "loopback.pem"
Answer = tuple[int, dict[str, str], bytes]


@dataclass(frozen=True)
class Seen:
    """One request as it arrived; header names in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    peer: tuple[str, int] = field(compare=False, default=("", 0))


def denial(reason: str, status: int, message: str = "denied", **facts: str) -> Answer:
    """Return a denial in Stripe's format, with what it was."""
    said = json.dumps({"reason": reason, "message": message, "facts": facts})
    headers = {"X-Spendguard-Denial": said, "Stripe-Should-Retry": "false"}
    body = {"error": {"type": "invalid_request_error", "code": reason, "message": message}}
    return status, headers, json.dumps(body).encode()


class FakeGateway:
    """Listens on a free loopback port under `prefix`; `with` ends it.

    Attributes:
        script: answers to give first, each to one request: an answer, or "drop" to close the connection.
        latency: seconds before an answer.

    """

    def __init__(self, prefix: str = "", port: int = 0, *, tls: bool = False) -> None:
        self.seen: list[Seen] = []
        self.script: list[Answer | str] = []
        self.moved: dict[str, int] = {}
        self.latency, self._free = 0.0, threading.Event()
        self._free.set()
        self.answer: Callable[[Seen], Answer] = self.charge
        self._stored: dict[str, tuple[int, Answer]] = {}
        self._lock = threading.Lock()
        gateway = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1
            disable_nagle_algorithm = True

            def serve(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                headers = {name.lower(): value for name, value in self.headers.items()}
                seen = Seen(self.command, self.path, headers, self.rfile.read(length), self.client_address)
                answer = gateway._answer(seen, prefix)
                if isinstance(answer, str):
                    self.close_connection = True
                    return
                status, more, body = answer
                if status not in (401, 404, 405):  # Those are no gateway's.
                    more = {"X-Spendguard-Relayed": "1", **more}
                self.send_response(status)
                for name, value in {**more, "Content-Length": str(len(body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)
                self.wfile.flush()

            do_GET = do_POST = do_DELETE = serve

            def log_message(self, *args: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 256

        self._server = Server(("127.0.0.1", port), Handler)
        self.port = self._server.server_address[1]
        if tls:
            served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            served.load_cert_chain(CERTIFICATE, CERTIFICATE.with_suffix(".key"))
            self._server.socket = served.wrap_socket(self._server.socket, server_side=True)
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}{prefix}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def _answer(self, seen: Seen, prefix: str) -> Answer | str:
        with self._lock:
            self.seen.append(seen)
            scripted = self.script.pop(0) if self.script else None
        time.sleep(self.latency)
        self._free.wait()
        if scripted is not None:
            return scripted
        if not seen.path.startswith(f"{prefix}/stripe/"):
            return 404, {"Content-Type": "text/html"}, b"<html>404: Not Found</html>"
        key = seen.headers.get("idempotency-key")
        with self._lock:
            if key in self._stored:
                first_at, (status, headers, body) = self._stored[key]
                return status, {**headers, "X-Spendguard-Replayed": str(first_at)}, body
            answer = self.answer(seen)
            if key is not None:
                self._stored[key] = int(time.time() * 1000), answer
            return answer

    def charge(self, seen: Seen) -> Answer:
        """Answer like Stripe, and remember what has moved."""
        intent = {"id": f"pi_{uuid.uuid4().hex}", "object": "payment_intent", "status": "succeeded"}
        if seen.method == "POST":
            fields = dict(part.split("=") for part in seen.body.decode().split("&"))
            self.moved[fields.get("customer", "")] = int(fields.get("amount", "0"))
            intent["customer"] = fields.get("customer", "")
        headers = {"Content-Type": "application/json", "Request-Id": "req_1", "Stripe-Version": "2026"}
        return 200, headers, json.dumps(intent, indent=1).encode()

    @contextmanager
    def holding(self) -> Iterator[None]:
        """Let calls arrive in the block, and answer them after it."""
        self._free.clear()
        try:
            yield
        finally:
            self._free.set()

    def end(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self) -> FakeGateway:
        return self

    def __exit__(self, *args: object) -> None:
        self.end()
