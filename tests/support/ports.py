"""For the SDKs' bindings: a ledger that answers as told, and a vendor's server that keeps what arrives."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from luigi_spendguard import config
from luigi_spendguard.errors import LedgerUnavailable
from luigi_spendguard.http.shared import CallsUnderWay
from luigi_spendguard.protocol import EndRequest, ReserveReply, ReserveRequest
from luigi_spendguard.proxy.attempts import Attempt
from luigi_spendguard.redaction import Secret

ACCOUNT = "AC" + "1" * 32
TWILIO_SECRET = "twilio_canary_0f1e2d3c4b5a69788796a5b4c3d2e1f0"
RESEND_SECRET = "re_canary_4eC39HqLyjWDarjtT1zdp7dc"


class StubLedger:
    """The worker's side of a ledger that grants everything, or says `answer` of everything."""

    url = None
    address = None
    authorization = ""

    def __init__(self) -> None:
        self.under_way = CallsUnderWay()
        self.answer: ReserveReply | None = None
        self.lost = False
        self.asked: list[ReserveRequest] = []
        self.ended: list[EndRequest] = []

    def reserve(self, key: str, ask: ReserveRequest) -> ReserveReply:
        """Grant, or answer as told."""
        self.asked.append(ask)
        if self.lost:
            raise LedgerUnavailable("the scheduler does not answer")
        return self.answer or ReserveReply(
            "allowed", ask.call_id, ask.ask, wire_key=f"wire-{len(self.asked)}"
        )

    def end(self, key: str, end: EndRequest) -> None:
        """Keep how a call ended."""
        self.ended.append(end)


class VendorServer:
    """A server on loopback that keeps requests and answers them as told."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.status, self.body = 200, {"id": "49a3999c", "sid": "SM" + "2" * 32, "status": "queued"}
        self.headers: Mapping[str, str] = {"Content-Type": "application/json"}
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                outer.requests.append(
                    {
                        "method": self.command,
                        "path": self.path,
                        "headers": {name.lower(): value for name, value in self.headers.items()},
                        "body": body,
                    }
                )
                if outer.status == 0:
                    self.close_connection = True
                    return
                said = json.dumps(outer.body).encode()
                self.send_response(outer.status)
                for name, value in outer.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(said)))
                self.end_headers()
                self.wfile.write(said)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer

            def log_message(self, *args: Any) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        """End the server."""
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def vendor_server() -> Iterator[VendorServer]:
    """Run a vendor's server for the block."""
    server = VendorServer()
    try:
        yield server
    finally:
        server.close()


def attempt(folder: Path, port: StubLedger, base_url: str = "http://127.0.0.1:9") -> Attempt:
    """Return an attempt with both vendors' secrets, whose calls go to `base_url`."""
    path = folder / "luigi.cfg"
    path.write_text(
        f"[spendguard]\n[spendguard_twilio]\nsecret = {TWILIO_SECRET}\naccount_sid = {ACCOUNT}\n"
        f"base_url = {base_url}\n[spendguard_resend]\nsecret = {RESEND_SECRET}\nbase_url = {base_url}\n"
    )
    key = Secret("vault_key_" + uuid.uuid4().hex + "k" * 11)
    made: Any = port
    return Attempt(
        claim_id=str(uuid.uuid4()),
        run_id="r",
        task_id="Send_1",
        family="Send",
        key=key,
        client=made,
        settings=config.load([path], environ={}),
    )
