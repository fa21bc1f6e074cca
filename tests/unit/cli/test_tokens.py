"""Which token is shown at which address."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from luigi_spendguard.cli.tokens import leads_here, token_for
from luigi_spendguard.config import Settings
from luigi_spendguard.redaction import Secret

MADE, ADMIN, WORKER = "made-" + "a1" * 16, "admin-" + "b2" * 16, "worker-" + "c3" * 16
HERE, ELSEWHERE = "http://127.0.0.1:8082", "http://luigid.example.com:8082"


def settings(tmp_path: Path, *, made: bool = True, **tokens: str) -> Settings:
    own = Settings(tmp_path / "books.db", **{name: Secret(one) for name, one in tokens.items()})
    if made:
        own.token_file.write_text(f"{MADE}\n")
    return own


@pytest.mark.parametrize(
    ("tokens", "here", "elsewhere"),
    [
        ({}, MADE, None),
        ({"worker_token": WORKER}, MADE, WORKER),
        ({"admin_token": ADMIN}, ADMIN, ADMIN),
        ({"admin_token": ADMIN, "worker_token": WORKER}, ADMIN, ADMIN),
        ({"made": False}, None, None),
        ({"made": False, "worker_token": WORKER}, WORKER, WORKER),
    ],
)
def test_what_luigid_made_here_is_shown_here_alone(
    tmp_path: Path, tokens: Any, here: str | None, elsewhere: str | None
) -> None:
    own = settings(tmp_path, **tokens)
    assert token_for(own, HERE, None).value == here
    assert token_for(own, ELSEWHERE, None).value == elsewhere


def test_a_token_says_where_it_is_from_and_no_token_why(tmp_path: Path) -> None:
    own = settings(tmp_path)
    assert token_for(own, HERE, None).said == f"refused was the admin token of {own.token_file}"
    withheld = f"the one in {own.token_file} is for this machine's own luigid"
    assert withheld in token_for(own, ELSEWHERE, None).said
    assert "[spendguard] admin_token (or admin_token_file)" in token_for(own, ELSEWHERE, None).said
    worker = token_for(settings(tmp_path, worker_token=WORKER), ELSEWHERE, None)
    assert worker.said == "refused was the worker token of [spendguard] worker_token (or worker_token_file)"


def own_address() -> str:
    """Return an address of this machine's that is not loopback, where it has one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # Nothing is sent; no route, no address.
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])


@pytest.mark.parametrize(
    ("url", "here"),
    [
        ("http://localhost:8082", True),
        ("https://LOCALHOST", True),
        ("http://user:pass@127.0.0.1:8082/luigi", True),
        ("http://127.0.0.2:8082", True),
        ("http://[::1]:8082", True),
        ("http+unix://%2Frun%2Fluigid.sock", True),
        (f"http://{own_address()}:8082", True),
        ("http://192.0.2.1:8082", False),
        ("http://[2001:db8::1]:8082", False),
        ("http://0.0.0.0:8082", False),
        ("http://luigid.example.com:8082", False),
        ("http://localhost@192.0.2.1:8082", False),
        ("http://localhost.example.com", False),
        ("http://127.1:8082", False),  # Leads here, but as a name that is not this machine's.
        ("http://[127.0.0.1", False),
        ("", False),
    ],
)
def test_an_address_leads_here_or_elsewhere(url: str, here: bool) -> None:
    assert leads_here(url) is here


@pytest.mark.parametrize(
    ("addresses", "here"),
    [(["127.0.1.1"], True), (["127.0.1.1", "192.0.2.1"], False), (["192.0.2.1"], False), ([], False)],
)
def test_this_machines_name_counts_where_it_means_this_machine_alone(
    monkeypatch: pytest.MonkeyPatch, addresses: list[str], here: bool
) -> None:
    def found(host: str, port: None) -> list[Any]:
        if not addresses:
            raise socket.gaierror
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, 0)) for one in addresses]

    monkeypatch.setattr(socket, "gethostname", lambda: "Bills")
    monkeypatch.setattr(socket, "getfqdn", lambda: "bills.example.com")
    monkeypatch.setattr(socket, "getaddrinfo", found)
    assert leads_here("http://bills:8082") is here
    assert leads_here("http://bills.example.com:8082") is here
    assert not leads_here("http://other:8082")
