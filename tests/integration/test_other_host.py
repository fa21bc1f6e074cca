"""docs/how-to/gateway-on-another-host.md as it stands: openssl, tokens, luigid, nginx, both `check`s."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qsl

import pytest

from tests.support.paper import Paper
from tests.support.processes import REPOSITORY, Process, environment, free_port, listening, wait_until
from tests.support.programs import program
from tests.support.site import SECRET, Site

PAGE = "how-to/gateway-on-another-host.md"


@contextmanager
def serving(conf: str, folder: Path, port: int) -> Iterator[None]:
    """Run nginx with the page's server."""
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = " ".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)
    file = folder / "nginx.conf"
    file.write_text(
        f"daemon off; pid {folder}/nginx.pid; error_log stderr; events {{}}\n"
        f"http {{ access_log off; {temporary}\n{conf}\n}}\n"
    )
    args = ["-e", "stderr", "-c", str(file)]
    nginx = Process(
        args, folder / "nginx.log", folder, environment(), lambda: listening(port), program("nginx")
    )
    try:
        yield
    finally:
        nginx.end()


@contextmanager
def ending(pidfile: Path, port: int) -> Iterator[None]:
    """End the luigid whose pid is in a file."""
    wait_until(lambda: listening(port), what="luigid")
    try:
        yield
    finally:
        os.kill(int(pidfile.read_text()), signal.SIGTERM)
        wait_until(lambda: not listening(port), what="luigid's end")


@pytest.fixture
def far(tmp_path: Path) -> Iterator[Site]:
    """luigid's machine."""
    program("openssl")
    with Site(tmp_path / "far", start=False) as site:
        site.settings["spendguard"] = {}
        yield site


@pytest.fixture
def near(far: Site, tmp_path: Path) -> Site:
    """A worker's machine: nothing of luigid's is there."""
    site = Site(tmp_path / "near", stripe=far.stripe, start=False)
    site.secrets = {}
    site.settings["spendguard"] = {}
    del site.settings["spendguard_stripe"]
    site.configure()
    return site


def test_from_the_certificate_to_the_first_call(far: Site, near: Site, tmp_path: Path) -> None:
    port, etc, state = free_port(), tmp_path / "etc", tmp_path / "state"
    etc.mkdir()
    state.mkdir()
    far.secrets = {}
    places = {
        "/etc/luigi": str(etc),
        "/var/lib/luigi-server": str(state),
        "https://luigid.example.com": f"https://localhost:{port}",
        "luigid.example.com": "localhost",
        "listen 443 ssl": f"listen 127.0.0.1:{port} ssl",
        "127.0.0.1:8082": f"127.0.0.1:{far.port}",
        "--port 8082": f"--port {far.port}",
    }
    paper = Paper(PAGE, far, places)
    paper.command()
    paper.command(stdin=SECRET + "\n")
    paper.configure()
    paper.command()
    [conf] = paper.blocks("nginx")
    with ending(state / "luigid.pid", far.port), serving(conf, tmp_path, port):
        said = paper.command()
        assert "MISSING" not in said
        assert "ok      stripe: luigid is the gateway: workers need no secret" in said
        # The worker's machine.
        paper.site = near
        paper.write_files()
        paper.configure()
        path = {"PYTHONPATH": f"{near.folder}:{REPOSITORY}"}
        code, out, _ = near.cli("check")
        assert (code, "its certificate is not trusted" in out) == (1, True), out
        said = paper.command()
        assert "MISSING" not in said
        assert f"decided by luigid at https://localhost:{port}/luigi" in said
        assert "ok      stripe: luigid is the gateway: workers need no secret" in said
        paper.command(**path)
        # A key, and a client without the plugin.
        paper.site = far
        paper.command()
        (far.folder / "key").rename(near.folder / "key")
        paper.site = near
        paper.command(**path)
        trouble(near, port, etc)
    paper.check()
    posts = [dict(parse_qsl(post["body"])) for post in far.stripe.posts()]
    assert sorted(post["customer"] for post in posts) == ["cus_ann", "cus_bob"]
    assert {post["authorization"] for post in far.stripe.posts()} == {f"Bearer {SECRET}"}
    for place in (near.folder, etc):
        found = [one for one in place.rglob("*") if one.is_file() and SECRET in one.read_text("latin-1")]
        assert found == ([] if place is near.folder else [etc / "stripe"])


def trouble(near: Site, port: int, etc: Path) -> None:
    """What the page says of what goes wrong is what is said."""
    trusted = {"REQUESTS_CA_BUNDLE": str(etc / "bundle.pem")}
    for url, said in {
        f"https://localhost:{port}": "it is no luigid",
        f"https://127.0.0.1:{port}/luigi": "its certificate is another host's",
        f"https://localhost:{near.port}": "cannot be reached",
    }.items():
        code, _, err = near.cli("--url", url, "runs", **trusted)
        assert (code, said in err) == (3, True), err
    near.configure(spendguard={"worker_token_file": None})
    code, out, _ = near.cli("check", **trusted)
    assert (code, "MISSING worker token: the worker token is missing" in out) == (1, True), out
