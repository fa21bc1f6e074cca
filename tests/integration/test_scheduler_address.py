"""luigid behind nginx with basic authentication, and on a Unix socket: workers, their gateway, the CLI."""

from __future__ import annotations

import base64
import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import pytest

from luigi_spendguard import redaction
from luigi_spendguard.errors import LedgerUnavailable
from luigi_spendguard.http import ledger_client
from luigi_spendguard.http.addresses import SchedulerAddress
from luigi_spendguard.http.ledger_client import HttpLedgerClient
from luigi_spendguard.protocol.rpcs import OpenRunRequest
from tests.support.asking import ADMIN, WORKER
from tests.support.attempts import Pretender
from tests.support.processes import REPOSITORY, Process, free_port, listening, wait_until
from tests.support.programs import program
from tests.support.site import Site

USER, PASSWORD = "we@b", "p@ss w%rd/#1"  # A colon would end it in nginx's file.
CONF = """
daemon off;
{user}
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{}}
http {{
    access_log {folder}/access.log;
    client_body_temp_path {folder}/t1; proxy_temp_path {folder}/t2; fastcgi_temp_path {folder}/t3;
    uwsgi_temp_path {folder}/t4; scgi_temp_path {folder}/t5;
    server {{
        listen 127.0.0.1:{port};
        location {prefix}/ {{
            auth_basic "luigid";
            auth_basic_user_file {folder}/users;
            proxy_pass http://127.0.0.1:{luigid}/;
            proxy_set_header X-Forwarded-For $remote_addr;
        }}
    }}
}}
"""


@contextmanager
def nginx(folder: Path, luigid: int, prefix: str = "") -> Iterator[int]:
    folder.mkdir()
    port = free_port()
    (folder / "users").write_text(f"{USER}:{{PLAIN}}{PASSWORD}\n")
    user = "user root root;" if os.getuid() == 0 else ""  # Nobody's workers could not read the test's files.
    conf = CONF.format(folder=folder, port=port, luigid=luigid, prefix=prefix, user=user)
    (folder / "nginx.conf").write_text(conf)
    args = ["-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")]
    process = Process(
        args,
        folder / "nginx.log",
        folder,
        {"PATH": "/usr/bin"},
        lambda: listening(port),
        program=program("nginx"),
    )
    try:
        yield port
    finally:
        process.end()


def address(port: int, user: str = USER, password: str = PASSWORD, prefix: str = "") -> str:
    return f"http://{quote(user, safe='')}:{quote(password, safe='')}@127.0.0.1:{port}{prefix}"


def in_cfg(url: str) -> str:
    """Return an address as Luigi wants it in luigi.cfg."""
    return url.replace("%", "%%")


@pytest.mark.parametrize("gateway", [False, True], ids=["own secret", "gateway"])
@pytest.mark.parametrize("prefix", ["", "/luigi"])
def test_behind_a_proxy_with_basic_authentication(tmp_path: Path, gateway: bool, prefix: str) -> None:
    said = {"admin_token": ADMIN, "worker_token": WORKER, "daily_cap_usd": 100}
    with (
        Site(tmp_path / "site", gateway=gateway, spendguard=said) as site,
        nginx(tmp_path / "nginx", site.port, prefix) as port,
    ):
        url = address(port, prefix=prefix)
        site.configure(core={"default_scheduler_url": in_cfg(url), "rpc-retry-attempts": 1})
        code, out = site.luigi("Billing", "--n", "2", "--run-id", "r", "--workers", "2")
        assert code == 0, out
        assert site.stripe.moved() == 200
        status, shown, err = site.cli("runs")
        assert (status, "r" in shown) == (0, True), err
        status, _, err = site.cli("top-up", "r", "5")
        assert status == 0, err
        assert site.run("r")["cap_usd"] == "105.00"
        assert site.cli("revoke", "r")[0] == 0
        passed = (tmp_path / "nginx" / "access.log").read_text()
        assert "/api/spend_claim" in passed
        assert ("/stripe/v1/payment_intents" in passed) is gateway
        # Luigi itself warns of every key of [core], with its value.
        own = "\n".join(line for line in out.splitlines() if "UnconsumedParameterWarning" not in line)
        for secret in (PASSWORD, quote(PASSWORD, safe="")):
            assert secret not in own + err + (site.luigid.text() if site.luigid else "")


def test_a_luigid_that_is_restarted_behind_a_proxy_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_client, "GIVE_UP_S", 60)  # However long it takes to start.
    said = {"admin_token": ADMIN, "worker_token": WORKER, "daily_cap_usd": 100}
    with Site(tmp_path / "site", spendguard=said) as site, nginx(tmp_path / "nginx", site.port) as port:
        pretender = Pretender(site, "r")
        client = HttpLedgerClient(address(port), WORKER)
        assert site.luigid is not None
        site.luigid.end()
        log = tmp_path / "nginx" / "access.log"

        def start() -> None:
            wait_until(lambda: " 502 " in log.read_text(), what="a refusal")
            site.start()

        starter = threading.Thread(target=start)
        starter.start()
        try:
            assert client.open_run(OpenRunRequest("r", False, "Root", "r")).run_id == pretender.run_id
        finally:
            starter.join()


def test_one_that_stays_away_is_said_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_client, "GIVE_UP_S", 0.5)
    with nginx(tmp_path / "nginx", free_port()) as port:
        client = HttpLedgerClient(address(port), None)
        with pytest.raises(LedgerUnavailable, match="HTTP 502 of what stands before it"):
            client.open_run(OpenRunRequest("r", False, "Root", "r"))


def test_a_wrong_password_is_said_as_what_it_is(tmp_path: Path) -> None:
    said = {"admin_token": ADMIN, "worker_token": WORKER, "daily_cap_usd": 100}
    with Site(tmp_path / "site", spendguard=said) as site, nginx(tmp_path / "nginx", site.port) as port:
        url = address(port, password="not this one")
        status, _, err = site.cli("--url", url, "runs")
        assert (status, "lets nobody in (HTTP 401)" in err) == (3, True), err
        assert "not this one" not in err
        assert quote("not this one") not in err


def test_on_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "l.sock"
    url = f"http+unix://{quote(str(path), safe='')}"
    said = {"admin_token": ADMIN, "worker_token": WORKER, "daily_cap_usd": 100}
    site = Site(tmp_path / "site", gateway=True, start=False, spendguard=said)
    site.configure(core={"default_scheduler_url": in_cfg(url)})

    def ready() -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(path)) == 0

    luigid = Process(
        ["-m", "scheduler_patch", "--unix-socket", str(path)],
        site.folder / "luigid.log",
        site.folder,
        site._environment(**site.secrets),
        ready,
    )
    paths = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "tests" / "support" / "unixsocket")])
    try:
        code, out = site.luigi("Billing", "--n", "2", "--run-id", "r", PYTHONPATH=paths)
        assert code == 0, out
        assert site.stripe.moved() == 200
        status, shown, err = site.cli("calls", "--run", "r", "--format", "json")
        assert status == 0, err
        assert len(json.loads(shown)) == 2
        status, shown, err = site.cli("--url", url, "runs")
        assert (status, "r" in shown) == (0, True), err
    finally:
        luigid.end()
        site.end()
    assert site.cli("runs")[0] == 3


@pytest.mark.parametrize(
    ("given", "base", "url"),
    [
        ("http://localhost:8082/", "http://localhost:8082", "http://localhost:8082"),
        ("https://a:b@luigid.example.com/x/", "https://luigid.example.com/x", "https://luigid.example.com/x"),
        ("http://[::1]:8082", "http://[::1]:8082", "http://[::1]:8082"),
        ("http+unix://%2Frun%2Fluigid.sock/x", "http://localhost/x", "http+unix://%2Frun%2Fluigid.sock/x"),
    ],
)
def test_an_address_is_taken_apart(given: str, base: str, url: str) -> None:
    found = SchedulerAddress.of(given)
    assert (found.base, found.url) == (base, url)


@pytest.mark.parametrize(
    "given",
    [
        "ftp://u:secret-password@a",
        "http://",
        "luigid:8082",
        "http://u:secret-password@a:b",
        "",
        "http://[::1",
    ],
)
def test_an_address_that_cannot_be_is_refused_without_its_password(given: str) -> None:
    with pytest.raises(ValueError, match="scheduler's address") as error:
        SchedulerAddress.of(given)
    assert "secret-password" not in str(error.value)


def test_credentials_stand_beside_each_other_and_show_themselves_nowhere() -> None:
    found = SchedulerAddress.of(address(1))
    said = found.credentials("token-of-a-worker")
    basic = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    assert said == {"Authorization": basic, "x-spendguard-token": "token-of-a-worker"}
    assert "token-of" not in repr(said)
    assert PASSWORD not in f"{found!r}"
    assert redaction.redact(f"cannot reach {address(1)}").count("p@ss") == 0
    assert redaction.redact(f"cannot reach {address(1)}").count("p%40ss") == 0
    assert SchedulerAddress.of("http://localhost").credentials("t") == {"Authorization": "Bearer t"}
    assert SchedulerAddress.of("http://localhost").credentials(None) == {}
