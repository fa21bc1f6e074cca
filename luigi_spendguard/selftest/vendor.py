"""The self-test's vendor: a Stripe of one operation, in a process of its own, that counts what it is sent.

    python -m luigi_spendguard.selftest.vendor PORT_FILE

It takes any credential and counts every charge, so that a call that went around the guard is counted, too;
`GET /books` says what was charged, and under which credentials. It shares no code with the guard.
"""

from __future__ import annotations

import http.server
import json
import os
import sys
import threading
import time
import uuid
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from luigi_spendguard.selftest.sandbox import end_with_parent

#: Seconds that a charge takes, so that those of several workers overlap.
_TAKES_S = 0.02


class VendorBooks:
    """What was charged."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._answers: dict[str, dict[str, Any]] = {}
        self._amounts: list[int] = []
        self._credentials: set[str] = set()

    def charge(self, form: dict[str, list[str]], idempotency_key: str, credential: str) -> dict[str, Any]:
        """Book a charge and return its PaymentIntent; a repeated idempotency key is answered as before."""
        with self._lock:
            self._credentials.add(credential)
            if idempotency_key in self._answers:
                return self._answers[idempotency_key]
            amount = int(form["amount"][0])
            self._amounts.append(amount)
            intent = {
                "id": f"pi_{uuid.uuid4().hex[:24]}",
                "object": "payment_intent",
                "amount": amount,
                "amount_received": amount,
                "amount_capturable": 0,
                "currency": form["currency"][0],
                "customer": form["customer"][0],
                "status": "succeeded",
                "livemode": False,
            }
            if idempotency_key:
                self._answers[idempotency_key] = intent
            return intent

    def shown(self) -> dict[str, Any]:
        """Return the number of charges, their sum in cents, and the credentials they came with."""
        with self._lock:
            return {
                "charges": len(self._amounts),
                "cents": sum(self._amounts),
                "credentials": sorted(self._credentials),
            }


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers `POST /v1/payment_intents` and `GET /books`."""

    protocol_version = "HTTP/1.1"
    books = VendorBooks()

    def do_POST(self) -> None:
        """Charge."""
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        if self.path != "/v1/payment_intents":
            self._answer(404, {"error": {"type": "invalid_request_error", "message": "no such operation"}})
            return
        time.sleep(_TAKES_S)
        credential = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        key = self.headers.get("Idempotency-Key") or ""
        self._answer(200, self.books.charge(parse_qs(body), key, credential))

    def do_GET(self) -> None:
        """Show the books."""
        if self.path == "/books":
            self._answer(200, self.books.shown())
        else:
            self._answer(404, {"error": {"type": "invalid_request_error", "message": "no such object"}})

    def _answer(self, status: int, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        """Say nothing: what counts is in the books."""


def main() -> None:
    """Serve on a free port of 127.0.0.1, which is written to the file that is named."""
    end_with_parent()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    port_file = Path(sys.argv[1])
    port_file.with_suffix(".new").write_text(str(server.server_port))
    os.replace(port_file.with_suffix(".new"), port_file)
    server.serve_forever()


if __name__ == "__main__":
    main()
