"""Which token the command line shows to whoever answers at the address that it is pointed at."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from luigi_spendguard.protocol import ANSWERED
from tests.support.asking import ADMIN, WORKER
from tests.support.site import Site

MADE = "made-" + "f6" * 16


class Recorder(ThreadingHTTPServer):
    """Keeps what it is shown, and refuses it."""

    def __init__(self) -> None:
        self.heads: list[str] = []
        super().__init__(("127.0.0.1", 0), Recording)

    @property
    def elsewhere(self) -> str:
        """Its address by a name that is none of this machine's, which leads here all the same."""
        return f"http://127.1:{self.server_port}"


class Recording(BaseHTTPRequestHandler):
    server: Recorder

    def _refuse(self) -> None:
        self.server.heads.append(str(self.headers))
        body = json.dumps({"error": "unauthorized", "message": "this is not for you"}).encode()
        self.send_response(401)
        self.send_header(ANSWERED, "1")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_DELETE = _refuse

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    with Recorder() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


COMMANDS = [
    ("runs",),
    ("top-up", "r", "1"),
    ("revoke", "r"),
    ("approve", "r", "--up-to", "5"),
    ("resolve", "c", "--not-sent"),
    ("issue-key", "--run", "r"),
    ("check",),
    ("prune", "--before", "2026-01-01"),
]


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Site]:
    """A machine with a ledger of its own, and a luigid that is not started."""
    with Site(tmp_path / "site", start=False) as site:
        site.ledger.parent.mkdir()
        site.ledger.with_name(site.ledger.name + ".admin-token").write_text(f"{MADE}\n")
        yield site


@pytest.mark.parametrize("command", COMMANDS, ids=lambda one: one[0])
def test_the_token_of_this_machines_luigid_is_sent_nowhere_else(
    own: Site, recorder: Recorder, command: tuple[str, ...]
) -> None:
    code, out, err = own.cli(*command, "--url", recorder.elsewhere)
    assert recorder.heads
    assert MADE not in "".join(recorder.heads)
    assert code == (1 if command == ("check",) else 4)
    assert f"no token was shown: the one in {own.ledger}.admin-token is for this machine's own" in out + err
    assert MADE not in out + err


def test_nor_by_the_configured_address_nor_to_a_gateway_apart(own: Site, recorder: Recorder) -> None:
    own.configure(core={"default_scheduler_url": recorder.elsewhere})
    assert own.cli("runs")[0] == 4
    assert "Authorization" not in "".join(recorder.heads)
    own.configure(core={"default_scheduler_url": own.url}, spendguard={"gateway_url": recorder.elsewhere})
    before = len(recorder.heads)
    own.cli("check")
    assert len(recorder.heads) > before
    assert MADE not in "".join(recorder.heads)


def test_what_is_configured_is_sent_and_named(own: Site, recorder: Recorder) -> None:
    own.configure(spendguard={"worker_token": WORKER})
    code, _, err = own.cli("runs", "--url", recorder.elsewhere)
    assert (code, f"Bearer {WORKER}" in recorder.heads[-1]) == (4, True)
    assert "refused was the worker token of [spendguard] worker_token (or worker_token_file)" in err
    own.configure(spendguard={"admin_token": ADMIN})
    _, _, err = own.cli("runs", "--url", recorder.elsewhere)
    assert f"Bearer {ADMIN}" in recorder.heads[-1]
    assert "refused was the admin token of [spendguard] admin_token (or admin_token_file)" in err


def test_this_machines_luigid_is_shown_its_own(own: Site, recorder: Recorder) -> None:
    code, _, err = own.cli("runs", "--url", f"http://localhost:{recorder.server_port}")
    assert (code, f"Bearer {MADE}" in recorder.heads[-1]) == (4, True)
    assert f"refused was the admin token of {own.ledger}.admin-token" in err


def test_a_worker_reads_with_its_own_token_and_a_wrong_one_is_called_wrong(tmp_path: Path) -> None:
    tokens = {"admin_token": ADMIN, "worker_token": WORKER}
    private = {**tokens, "anonymous_read": "false", "daily_cap_usd": 5}
    with Site(tmp_path / "site", spendguard=private) as site:
        site.configure(spendguard={"admin_token": None})
        assert site.cli("runs")[:2] == (0, "No run was opened yet.\n")
        code, _, err = site.cli("revoke-key", "key_" + "0" * 32)
        assert (code, "this is not the admin token" in err, "refused was the worker" in err) == (
            4,
            True,
            True,
        )
        site.configure(spendguard={"worker_token": "wrong-" + "d4" * 16})
        code, _, err = site.cli("runs")
        assert (code, "anonymous_read is off, and this token is wrong" in err) == (4, True)
        assert "admin_token (admin_token_file) or worker_token (worker_token_file)" in err
        site.configure(spendguard={"worker_token": None})
        code, _, err = site.cli("runs")
        assert (code, "anonymous_read is off: send luigid's admin_token" in err) == (4, True)
