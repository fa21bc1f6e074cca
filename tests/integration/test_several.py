"""Two luigids, two gateways and one PostgreSQL behind haproxy, by the files of config/several."""

from __future__ import annotations

import configparser
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.asking import send
from tests.support.postgres import PostgresServer, database_url, need_servers
from tests.support.processes import REPOSITORY, Process, environment, free_port, listening, wait_until
from tests.support.programs import program
from tests.support.site import SECRET, FakeStripe, Site

SEVERAL = REPOSITORY / "config" / "several"
PAGE = (REPOSITORY / "docs" / "deployment.md").read_text("utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load((SEVERAL / "compose.yaml").read_text("utf-8"))
SERVERS = {name: one for name, one in COMPOSE["services"].items() if one["image"] == "luigid-spendguard"}
MODULES = {"luigid-spendguard": "scheduler_patch", "spendguard": "luigi_spendguard"}
#: What the tests are given to change: their worker is in a hurry, and their vendor is on loopback.
HURRY = {
    "core": {"no_lock": "true", "rpc_retry_wait": "1"},
    "worker": {"wait_interval": "0.05", "wait_jitter": "0"},
    "scheduler": {"retry_delay": "1", "stable_done_cooldown_secs": "0"},
}


def of_container(instruction: str) -> list[str]:
    """Return the arguments of the image's ENTRYPOINT or CMD."""
    text = (REPOSITORY / "config" / "Containerfile").read_text("utf-8")
    found: list[str] = yaml.safe_load(re.findall(rf"^{instruction} (\[.*\])$", text, re.MULTILINE)[0])
    return found


class Several:
    """All of it on loopback, each server on a port of its own in place of its name."""

    def __init__(self, folder: Path, stripe: FakeStripe, books: str) -> None:
        self.folder, self.stripe = folder, stripe
        self.ports = {name: free_port() for name in SERVERS}
        self.front = {"8082": free_port(), "8083": free_port()}
        self.secrets = folder / "secrets"
        (folder / "out").mkdir(parents=True)
        self.secrets.mkdir(mode=0o700)
        self.common = self._config("luigi.cfg", HURRY)
        vendor = {"spendguard_stripe": {"base_url": stripe.url, "timeout_s": "2"}}
        text = (SEVERAL / "luigid.cfg").read_text("utf-8")
        assert "postgresql://luigi@postgres/spendguard" in text
        text = text.replace("postgresql://luigi@postgres/spendguard", books)
        self.own = self._config("luigid.cfg", vendor | HURRY, (self.common.read_text(), text))
        self.started: dict[str, Process] = {}

    def make_secrets(self) -> None:
        """Follow the page's steps, but for users that are not here, and for containers."""
        [script] = [one for one in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) if "docker compose" in one]
        steps = [line for line in script.splitlines() if not re.match(r"cd |chown |docker |mkdir ", line)]
        subprocess.run(
            ["sh", "-ec", "\n".join(steps)],
            cwd=self.folder,
            input=SECRET,
            text=True,
            check=True,
            timeout=60,
            env=environment(PATH=f"{Path(sys.executable).parent}:/usr/bin:/bin"),
        )
        named = {path["file"] for path in COMPOSE["secrets"].values()}
        assert {f"./secrets/{path.name}" for path in self.secrets.iterdir()} == named

    def _config(self, name: str, more: dict[str, Any], texts: tuple[str, ...] = ()) -> Path:
        """Return a file with what the files say together, as Luigi reads them, and `more`."""
        parser = configparser.RawConfigParser(strict=False)
        for text in texts or ((SEVERAL / name).read_text("utf-8"),):
            parser.read_string(re.sub(r"haproxy:(\d+)", lambda m: f"127.0.0.1:{self.front[m[1]]}", text))
        parser.read_dict(more)
        path = self.folder / name
        with path.open("w") as file:
            parser.write(file)
        return path

    def start(self, name: str) -> None:
        """Start a service of the compose file, as a process."""
        service, port = SERVERS[name], self.ports[name]
        command, *args = service.get("entrypoint", of_container("ENTRYPOINT"))
        args += service.get("command", of_container("CMD"))
        assert (args[args.index("--address") + 1], args[args.index("--port") + 1]) == (
            "0.0.0.0",
            "8083" if name.startswith("gateway") else "8082",
        )
        args[args.index("--address") + 1], args[args.index("--port") + 1] = "127.0.0.1", str(port)
        args = [arg.replace("/var/lib/luigi-server", str(self.folder / name)) for arg in args]
        (self.folder / name).mkdir(exist_ok=True)
        given = {
            key: value.replace("/run/secrets", str(self.secrets)).replace("/etc/luigi", str(self.folder))
            for key, value in service["environment"].items()
        }
        self.started[name] = Process(
            ["-m", MODULES[command], *args],
            self.folder / f"{name}.log",
            self.folder,
            environment(**given, XDG_STATE_HOME=str(self.folder / name)),
            lambda: listening(port),
        )

    def start_haproxy(self) -> None:
        """Start haproxy with the file, names of servers replaced by ports."""
        text = (SEVERAL / "haproxy.cfg").read_text("utf-8")
        named = set(re.findall(r"([\w-]+):808[23]\b", text))
        assert named == set(SERVERS)
        for name, port in self.ports.items():
            text = re.sub(rf"\b{name}:808[23]", f"127.0.0.1:{port}", text)
        for shown, port in self.front.items():
            assert f"bind :{shown}\n" in text
            text = text.replace(f"bind :{shown}\n", f"bind 127.0.0.1:{port}\n")
        file = self.folder / "haproxy.cfg"
        file.write_text(text)
        self.started["haproxy"] = Process(
            ["-db", "-f", str(file)],
            self.folder / "haproxy.log",
            self.folder,
            environment(),
            lambda: all(map(listening, self.front.values())),
            program("haproxy"),
        )

    def end(self) -> None:
        """End all of it."""
        for process in self.started.values():
            process.end()

    def submit(self, *args: str) -> subprocess.Popen[str]:
        """Start the pipeline, on a host that has the common file and a token."""
        env = environment(
            LUIGI_CONFIG_PATH=str(self.common),
            CREDENTIALS_DIRECTORY=str(self.secrets),
            XDG_STATE_HOME=str(self.folder / "worker"),
            OUT_DIR=str(self.folder / "out"),
        )
        command = [sys.executable, "-m", "luigi", "--module", "tests.support.pipelines", "Billing", *args]
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=env,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def ask(self, name: str, path: str) -> Any:
        """Ask a server, or haproxy, as an operator."""
        site = Site.__new__(Site)
        site.port = self.front["8082"] if name == "haproxy" else self.ports[name]
        site.ledger = self.folder / "none"
        return send(site, "GET", path, token=(self.secrets / "admin_token").read_text().strip())

    def spent_or_in_doubt(self) -> Decimal:
        """Return the run's dollars, but for what is only reserved."""
        [run] = self.ask("haproxy", "/runs").json
        return Decimal(run["spent_usd"]) + Decimal(run["in_doubt_usd"])

    def served(self, name: str) -> int:
        """Return how many of Luigi's RPCs a luigid has answered."""
        return len(re.findall(r" /api/(?:get_work|add_task|ping)", self.started[name].text()))


@pytest.fixture
def several(tmp_path: Path) -> Iterator[Several]:
    need_servers()
    program("haproxy")
    stripe = FakeStripe(tmp_path / "vendor", "--latency", "0.05")
    with PostgresServer() as server:
        made = Several(tmp_path / "several", stripe, database_url(server.url, tmp_path))
        try:
            yield made
        finally:
            made.end()
            stripe.process.end()


def test_a_pipeline_goes_on_when_a_luigid_and_a_gateway_die(several: Several) -> None:
    several.make_secrets()
    for name in SERVERS:
        several.start(name)
    several.start_haproxy()
    pipeline = ("--n", "16", "--run-id", "nightly", "--workers", "3")
    worker = several.submit(*pipeline)
    wait_until(lambda: several.stripe.moved() >= 500, what="some charges")
    assert several.served("luigid-one") > 0 == several.served("luigid-two"), "one serves"
    several.started["luigid-one"].kill()
    several.started["gateway-two"].kill()
    killed, paid = time.monotonic(), several.stripe.moved()
    codes = []
    for _ in range(20):
        out, _ = worker.communicate(timeout=60)
        codes.append(worker.returncode)
        if worker.returncode == 0:
            break
        worker = several.submit(*pipeline)
        if len(codes) == 1:
            wait_until(lambda: several.stripe.moved() > paid, what="work at the other")
            print(f"{time.monotonic() - killed:.1f} s from the kill to a charge at the other")
    assert len(codes) > 1, "nobody has to submit it again"
    assert codes[-1] == 0, out
    assert "This progress looks :)" in out
    assert several.stripe.moved() == 16_00
    by_customer = [entry["customer"] for entry in several.stripe.books()["moved"]]
    assert len(set(by_customer)) == len(by_customer) == 16
    # What the killed gateway had answered before the books knew of it is in doubt: one of each client.
    wait_until(lambda: several.spent_or_in_doubt() == 16, what="the books to know of all")
    [run] = several.ask("haproxy", "/runs").json
    assert (run["run_id"], Decimal(run["in_doubt_usd"]) <= 3) == ("nightly", True)
    # The first one is back, and stands by.
    before = several.served("luigid-one")
    several.start("luigid-one")
    assert several.ask("luigid-one", "/runs").json == [run]
    wait_until(lambda: "Server luigids/one is UP" in several.started["haproxy"].text(), what="its return")
    worker = several.submit("--n", "18", "--run-id", "nightly", "--workers", "1")
    out, _ = worker.communicate(timeout=60)
    assert (worker.returncode, several.stripe.moved()) == (0, 18_00), out
    assert several.served("luigid-one") == before


def test_the_compose_file_names_what_there_is() -> None:
    assert set(COMPOSE["services"]) == {*SERVERS, "postgres", "haproxy"}
    for name, service in COMPOSE["services"].items():
        assert set(service.get("secrets", [])) <= set(COMPOSE["secrets"]), name
        for volume in service.get("volumes", []):
            source = volume.partition(":")[0]
            assert source in COMPOSE["volumes"] or (SEVERAL / source).exists(), volume
        needed = re.findall(r"/run/secrets/(\w+)", str(service.get("environment", {})))
        assert set(needed) <= set(service.get("secrets", [])), name
        assert set(service.get("depends_on", [])) <= set(COMPOSE["services"])
        if name.startswith("luigid"):
            build = SERVERS[name]["build"]
            assert (SEVERAL / build["context"] / build["dockerfile"]).resolve() == (
                REPOSITORY / "config" / "Containerfile"
            )
            assert "stripe" not in service["secrets"]


def test_systemd_finds_nothing_wrong_with_the_drop_ins(tmp_path: Path) -> None:
    shown = re.findall(r"config/several/(\w+\.conf) /etc/systemd/system/(\S+)/several\.conf", PAGE)
    assert len(shown) == 2
    for conf, folder in shown:
        (tmp_path / folder).mkdir()
        unit = REPOSITORY / "config" / "systemd" / folder.removesuffix(".d")
        for source, target in (
            (unit, tmp_path / unit.name),
            (SEVERAL / conf, tmp_path / folder / "several.conf"),
        ):  # Where no program is installed in /opt, that is all it would find.
            target.write_text(source.read_text("utf-8").replace("/opt/luigi/bin/", "/bin/true "))
    done = subprocess.run(
        [program("systemd-analyze"), "verify", *(str(path) for path in tmp_path.glob("*.service"))],
        env={**os.environ, "SYSTEMD_UNIT_PATH": f"{tmp_path}:"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert [line for line in (done.stdout + done.stderr).splitlines() if str(tmp_path) in line] == []


@pytest.mark.parametrize("unit", ["luigid", "gateway"])
def test_a_drop_in_starts_what_compose_does(unit: str) -> None:
    lines = (SEVERAL / f"{unit}.conf").read_text("utf-8").splitlines()
    given = [line.partition("=") for line in lines if "=" in line and not line.startswith("#")]
    [command] = [value for key, _, value in given if key == "ExecStart" and value]
    entry, *args = shlex.split(command)
    service = SERVERS[f"{unit}-one"]
    assert [Path(entry).name, *args] == [
        *service.get("entrypoint", of_container("ENTRYPOINT")),
        *service.get("command", of_container("CMD")),
    ]
    loaded = {value.partition(":")[0] for key, _, value in given if key == "LoadCredential" and value}
    if unit == "luigid":
        assert loaded == set(service["secrets"])
        assert ("UnsetEnvironment", "=", "STRIPE_SECRET_KEY_FILE") in given
    assert ("Environment", "=", "PGPASSFILE=%d/pgpass") in given
    [shown] = re.findall(rf"config/several/{unit}\.conf (\S+)\.d/several\.conf", PAGE)
    assert (REPOSITORY / "config" / "systemd" / Path(shown).name).exists()
