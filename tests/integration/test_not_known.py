"""A change of which nobody knows whether it was made: what answered was not luigid, or nothing did."""

from __future__ import annotations

import re
import socket
import threading
import uuid
from collections.abc import Iterator

import pytest

from tests.support.raw import Losing, RawVendor, Server, answer
from tests.support.site import Site


def page(status: int, body: bytes) -> bytes:
    return b"HTTP/1.1 %d X\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body)


#: What proxies say in place of luigid; nothing: the connection is cut.
INSTEAD = {
    "conflict": page(409, b'{"error": "conflict", "message": "no"}'),
    "forbidden": page(403, b'{"error": "forbidden", "message": "no"}'),
    "gateway time-out": page(504, b"<html>no</html>"),
    "page": page(200, b"<html>welcome</html>"),
    "another's answer": page(200, b'{"response": {}}'),
    "cut": b"",
}


class Proxy(Losing):
    """Passes on what is asked, and answers changes itself."""

    def serve(self, connection: socket.socket) -> None:
        with socket.create_connection(("127.0.0.1", self._port)) as there:
            back = threading.Thread(target=self._back, args=(there, connection), daemon=True)
            back.start()
            while data := connection.recv(65536):
                self.loses = not data.startswith(b"GET")
                there.sendall(data)
            there.shutdown(socket.SHUT_RDWR)
            back.join(5)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with Site(tmp_path_factory.mktemp("site")) as made:
        yield made


@pytest.fixture
def run_id(site: Site) -> str:
    name = f"r-{uuid.uuid4().hex}"
    run = {"name": name, "by_task_id": False, "root_family": "R", "root_task_id": "R_1", "budget_usd": "10"}
    assert site.call("POST", "/api/spend_open_run", run, token=None)[0] == 200
    return name


@pytest.mark.parametrize("instead", INSTEAD.values(), ids=INSTEAD)
@pytest.mark.parametrize("command", ["top-up", "revoke"])
def test_it_is_said_and_repeated_once(site: Site, run_id: str, command: str, instead: bytes) -> None:
    args = [command, run_id, "1"] if command == "top-up" else [command, run_id]
    with Proxy(site.port, instead) as proxy:
        code, out, err = site.cli("--url", proxy.url, *args)
    assert (code, "is revoked" in out, "has a cap" in out) == (3, False, False), (out, err)
    assert "It is not known whether the change was made: the same command" in err
    assert (site.run(run_id)["cap_usd"], site.run(run_id)["state"]) == (
        ("11.00", "active") if command == "top-up" else ("10.00", "revoked")
    )
    if command == "top-up":
        named = re.search(r"--request-id (\S+) makes it once", err)
        assert named is not None, err
        args += ["--request-id", named[1]]
    code, out, err = site.cli(*args)
    assert (code, err) == (0, "")
    assert site.run(run_id)["cap_usd"] == ("11.00" if command == "top-up" else "10.00")


def test_what_was_never_sent_is_not_said_to_be_open(site: Site, run_id: str) -> None:
    with Server() as gone:
        url = gone.url
    code, _, err = site.cli("--url", url, "top-up", run_id, "1")
    assert (code, "cannot be reached" in err, "not known" in err) == (3, True, False), err


def test_who_only_looks_is_not_told_so_either(site: Site) -> None:
    with Losing(site.port, INSTEAD["another's answer"]) as proxy:
        code, out, err = site.cli("--url", proxy.url, "runs")
    assert (code, out, "not known" in err) == (3, "", False), err
    assert "it is no luigid" in err


@pytest.mark.parametrize(("status", "is_open"), [(503, True), (500, True), (409, False)])
def test_luigids_own_error_leaves_it_open_and_its_refusal_does_not(
    site: Site, status: int, is_open: bool
) -> None:
    """An error may come behind what was committed."""
    said = answer(status, {"error": "any", "message": "it says why"}, b"X-Spendguard-Answered: 1\r\n")
    with RawVendor(lambda number, body: said) as luigid:
        code, _, err = site.cli("--url", luigid.url, "approve", "r", "--up-to", "5")
    assert (code, "it says why" in err, "not known" in err) == (3 if status == 503 else 1, True, is_open), err
