"""The units and the container file of config/: what they run starts, with the settings that the docs show."""

from __future__ import annotations

import configparser
import json
import os
import re
import secrets
import shlex
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from luigi_spendguard.ledger import Ledger
from tests.support.asking import send
from tests.support.processes import Process, environment, free_port, listening
from tests.support.programs import program as installed_program
from tests.support.site import SECRET, FakeStripe, Site

REPOSITORY = Path(__file__).resolve().parents[2]
UNITS = sorted((REPOSITORY / "config" / "systemd").iterdir())
PAGE = (REPOSITORY / "docs" / "deployment.md").read_text("utf-8")
CONTAINER = (REPOSITORY / "config" / "Containerfile").read_text("utf-8")
SERVERS = ["luigid-spendguard.service", "spendguard-gateway.service"]


def unit(name: str) -> dict[str, list[str]]:
    """Return what a unit says, by key."""
    found: dict[str, list[str]] = {}
    for line in (REPOSITORY / "config" / "systemd" / name).read_text("utf-8").splitlines():
        if line and not line.startswith(("#", "[")):
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


def scripts() -> set[str]:
    setup = configparser.RawConfigParser()
    setup.read(REPOSITORY / "setup.cfg")
    ours = setup["options.entry_points"]["console_scripts"].strip().splitlines()
    return {line.split("=")[0].strip() for line in ours} | {"luigi"}


def instruction(name: str) -> list[list[str]]:
    """Return the arguments of an instruction of the container file, each time it is given in JSON."""
    whole = CONTAINER.replace("\\\n", " ")
    return [
        json.loads(found)
        for found in re.findall(rf"^(?:HEALTHCHECK .*)?{name} (\[.*\])$", whole, re.MULTILINE)
    ]


def test_every_service_runs_a_command_that_is_installed() -> None:
    services = [path for path in UNITS if path.suffix == ".service"]
    assert len(services) == 3
    for path in services:
        (command,) = unit(path.name)["ExecStart"]
        assert Path(shlex.split(command)[0]).name in scripts(), path.name
        assert unit(path.name)["User"] != ["root"]
        for given in unit(path.name)["LoadCredential"]:
            name, _, file = given.partition(":")
            assert file == f"/etc/luigi/secrets/{name}"
            assert file in PAGE
    assert instruction("ENTRYPOINT") == [["luigid-spendguard"]]
    assert re.findall(r"^USER (\w+)$", CONTAINER, re.MULTILINE) == ["10001"]


def test_systemd_finds_nothing_wrong_with_the_units(tmp_path: Path) -> None:
    for path in UNITS:  # Where no program is installed in /opt, that is all it would find.
        (tmp_path / path.name).write_text(path.read_text("utf-8").replace("/opt/luigi/bin/", "/bin/true "))
    units = [str(tmp_path / path.name) for path in UNITS]
    done = subprocess.run(
        [installed_program("systemd-analyze"), "verify", *units], capture_output=True, text=True, timeout=60
    )
    said = (done.stdout + done.stderr).splitlines()
    assert [line for line in said if any(path.stem in line for path in UNITS)] == []


def test_the_backup_that_the_docs_show_is_whole_and_for_nobody_else(tmp_path: Path) -> None:
    [script] = re.findall(r"```sh\n(spendguard backup .*?)```", PAGE, re.DOTALL)
    config = tmp_path / "luigi.cfg"
    config.write_text(f"[spendguard]\nledger_url = sqlite:///{tmp_path}/spendguard.db\n")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    backups = tmp_path / "backups"
    backups.mkdir()
    script = script.replace("/var/lib/luigi-server", str(tmp_path)).replace("/var/backups", str(backups))
    ledger = Ledger(tmp_path / "spendguard.db")
    try:
        ledger.write(lambda tx: tx.run("CREATE TABLE committed_last (x)")).result()
        own = environment(LUIGI_CONFIG_PATH=str(config), PATH=path)
        subprocess.run(["sh", "-ec", script], check=True, timeout=60, env=own)
    finally:
        ledger.close()
    copy = backups / "spendguard-monday.db"
    assert copy.stat().st_mode & 0o077 == 0
    found = sqlite3.connect(copy)
    assert found.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert found.execute("SELECT count(*) FROM committed_last").fetchone() == (0,)
    found.close()


def test_the_container_has_what_the_wheel_is_made_of() -> None:
    copied = set(" ".join(re.findall(r"^COPY (?!--)(.*) \S+$", CONTAINER, re.MULTILINE)).split())
    assert {
        "setup.cfg",
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "luigi_spendguard",
        "scheduler_patch",
    } == copied


class Installed:
    """The folders of an installation below a test's own, with the settings that the docs show."""

    def __init__(self, folder: Path, stripe: FakeStripe) -> None:
        self.folder, self.port = folder, free_port()
        self.state, self.secrets = folder / "state", folder / "secrets"
        self.state.mkdir()
        self.secrets.mkdir(mode=0o700)
        for name in ("stripe", "admin_token", "worker_token"):
            path = self.secrets / name
            path.touch(0o600)
            path.write_text(SECRET if name == "stripe" else secrets.token_urlsafe(32))
        common, own = re.findall(r"```ini\n(.*?)```", PAGE, re.DOTALL)
        self.common = self.write("luigi.cfg", common)
        self.own = self.write("luigid.cfg", common + own.replace("[spendguard]", "[spendguard]", 1))
        # What only a test needs: a vendor of its own.
        self.own.write_text(_merged(self.own.read_text(), f"base_url = {stripe.url}"))

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.write_text(self.here(text))
        return path

    def here(self, text: str) -> str:
        return text.replace("/var/lib/luigi-server", str(self.state))

    def start(self, program: str, args: list[str], **given: str) -> Process:
        """Start a server as its unit or container does, on a free port."""
        args = [self.here(arg) for arg in args]
        args[args.index("--port") + 1] = str(self.port)
        args[args.index("--address") + 1] = "127.0.0.1"
        module = "scheduler_patch" if program == "luigid-spendguard" else "luigi_spendguard"
        env = environment(LUIGI_CONFIG_PATH=str(self.own), CREDENTIALS_DIRECTORY=str(self.secrets), **given)
        return Process(
            ["-m", module, *args],
            self.folder / f"{program}.log",
            self.folder,
            env,
            lambda: listening(self.port),
        )


def _merged(text: str, vendor: str) -> str:
    """Return both files as one: a section may stand once in a file."""
    parser = configparser.RawConfigParser(strict=False)
    parser.read_string(text)
    lines = []
    for section in parser.sections():
        lines += [f"[{section}]", *(f"{key} = {value}" for key, value in parser[section].items())]
        lines += [vendor] if section == "spendguard_stripe" else []
    return "\n".join([*lines, ""])


@pytest.fixture
def installed(tmp_path: Path, shared_site: Site) -> Installed:
    return Installed(tmp_path, shared_site.stripe)


@pytest.mark.parametrize("name", SERVERS)
def test_what_a_unit_starts_is_the_gateway_with_the_secret_of_its_file(
    installed: Installed, name: str
) -> None:
    program, *args = shlex.split(unit(name)["ExecStart"][0])
    (variable,) = [v for v in unit(name)["Environment"] if "%d" in v]
    key, _, value = variable.partition("=")
    process = installed.start(Path(program).name, args, **{key: value.replace("%d", str(installed.secrets))})
    try:
        site = Site.__new__(Site)
        site.port, site.ledger = installed.port, installed.state / "spendguard.db"
        token = (installed.secrets / "admin_token").read_text()
        if name == SERVERS[0]:
            assert send(site, "GET", "/status", token=token).json["gateway"] == ["stripe"]
            assert send(site, "GET", "/runs").status == 200
            assert send(site, "POST", "/vault/keys", {"vendor": "stripe"}).is_error(401, "unauthorized")
        assert (
            b"unknown_key"
            in send(site, "GET", "/stripe/v1/balance", token="vault_key_" + "x" * 43).text.encode()
        )
    finally:
        process.end()


def test_luigid_beside_a_gateway_starts_without_the_vendors_secret(installed: Installed) -> None:
    [drop_in] = re.findall(r"```systemd\n(.*?)```", PAGE, re.DOTALL)
    (taken,) = re.findall(r"^UnsetEnvironment=(\w+)$", drop_in, re.MULTILINE)
    assert any(line.startswith(f"{taken}=") for line in unit(SERVERS[0])["Environment"])
    kept = re.findall(r"^LoadCredential=(\w+):", drop_in, re.MULTILINE)
    for path in installed.secrets.iterdir():
        if path.name not in kept:
            path.unlink()
    program, *args = shlex.split(unit(SERVERS[0])["ExecStart"][0])
    process = installed.start(Path(program).name, args)
    try:
        site = Site.__new__(Site)
        site.port, site.ledger = installed.port, installed.state / "spendguard.db"
        token = (installed.secrets / "admin_token").read_text()
        assert send(site, "GET", "/status", token=token).json["gateway"] == []
    finally:
        process.end()


@pytest.mark.parametrize("program", ["nginx", "haproxy"])
def test_behind_the_proxy_that_the_docs_show_an_operators_page_may_change(
    installed: Installed, program: str
) -> None:
    found = installed_program(program)
    name, *args = shlex.split(unit(SERVERS[0])["ExecStart"][0])
    [shown] = re.findall(rf"```{program}\n(.*?)```", PAGE, re.DOTALL)
    port, file = free_port(), installed.folder / f"{program}.conf"
    text = shown.replace("127.0.0.1:8082", f"127.0.0.1:{installed.port}")
    if program == "nginx":
        temporary = "".join(
            f"{kind}_temp_path {installed.folder}/{kind};"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        text = (
            f"daemon off; pid {installed.folder}/pid; error_log stderr; events {{}}\n"
            f"http {{ access_log off; {temporary} server {{ listen 127.0.0.1:{port};\n{text}}} }}\n"
        )
        command = ["-e", "stderr", "-c", str(file)]
    else:
        text = re.sub(r"^    bind .*$", f"    bind 127.0.0.1:{port}", text, flags=re.MULTILINE)
        command = ["-db", "-f", str(file)]
    file.write_text(text)
    luigid = installed.start(Path(name).name, args)
    try:
        proxy = Process(
            command,
            installed.folder / f"{program}.log",
            installed.folder,
            environment(),
            lambda: listening(port),
            found,
        )
        try:
            site = Site.__new__(Site)
            site.port, site.ledger = port, installed.state / "spendguard.db"
            token = (installed.secrets / "admin_token").read_text()
            assert send(site, "GET", "/status", token=token).status == 200
            own, other = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{port + 1}"
            found = send(site, "DELETE", "/runs/no-such-run", token=token, Origin=own)
            assert found.is_error(404, "not_found")
            refused = send(site, "DELETE", "/runs/no-such-run", token=token, Origin=other)
            assert refused.is_error(403, "forbidden")
        finally:
            proxy.end()
    finally:
        luigid.end()


def test_what_the_container_starts_is_healthy_and_not_after_its_end(installed: Installed) -> None:
    (args,), (probe,) = instruction("CMD")[-1:], instruction("CMD")[:1]
    process = installed.start("luigid-spendguard", args)
    asked = [sys.executable, *probe[1:-1], probe[-1].replace("8082", str(installed.port))]
    try:
        assert subprocess.run(asked, timeout=30).returncode == 0
    finally:
        process.end()
    assert subprocess.run(asked, timeout=30, capture_output=True).returncode != 0
    assert (installed.state / "state.pickle").exists()


def test_a_worker_with_the_common_file_has_the_token_and_no_secret(installed: Installed) -> None:
    code = (
        "from luigi_spendguard import config; s = config.load(); print(s.worker_token is not None,"
        " s.admin_token is None, s.vendor('stripe').secret is None)"
    )
    env = environment(LUIGI_CONFIG_PATH=str(installed.common), CREDENTIALS_DIRECTORY=str(installed.secrets))
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, cwd=installed.folder, capture_output=True, text=True
    )
    assert done.stdout == "True True True\n", done.stderr
