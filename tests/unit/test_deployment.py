"""The units, the container file and their page: commands, flags, variables and settings that exist."""

from __future__ import annotations

import argparse
import configparser
import json
import re
import shlex
from pathlib import Path
from typing import Any

import luigi.cmdline
import pytest

from luigi_spendguard import config
from luigi_spendguard.cli import cli
from tests.support.processes import REPOSITORY

UNITS = sorted((REPOSITORY / "config" / "systemd").iterdir())
SERVICES = [path for path in UNITS if path.suffix == ".service"]
PAGE = (REPOSITORY / "docs" / "deployment.md").read_text("utf-8")
CONTAINER = (REPOSITORY / "config" / "Containerfile").read_text("utf-8")
SETTINGS = re.findall(r"```ini\n(.*?)```", PAGE, re.DOTALL)
#: Of systemd's own, and Python's.
FOREIGN = {"CREDENTIALS_DIRECTORY", "PYTHONPATH", "PYTHONUNBUFFERED"}


def lines(path: Path, key: str) -> list[str]:
    return re.findall(rf"^{key}=(.*)$", path.read_text("utf-8"), re.MULTILINE)


class _Parsed(Exception):
    """Ends luigid before it takes its arguments over into Luigi's own settings."""


def luigid_takes(args: list[str], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return what Luigi's own parser makes of a server's arguments; nothing is started."""
    parse = argparse.ArgumentParser.parse_args

    def only_parse(self: argparse.ArgumentParser, given: Any = None) -> Any:
        raise _Parsed(vars(parse(self, given)))

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", only_parse)
    with pytest.raises(_Parsed) as found:
        luigi.cmdline.luigid(args)
    monkeypatch.undo()
    return dict(found.value.args[0])


def test_units_have_only_known_sections_and_end_in_one_command() -> None:
    for path in UNITS:
        unit = configparser.RawConfigParser(strict=False)
        unit.read_string(path.read_text("utf-8"))
        assert set(unit.sections()) <= {"Unit", "Service", "Timer", "Install"}, path.name
        assert len(lines(path, "ExecStart")) == (path.suffix == ".service"), path.name
    for timer in (path for path in UNITS if path.suffix == ".timer"):
        assert timer.with_suffix(".service") in SERVICES


def test_luigid_takes_the_arguments_of_unit_and_container(monkeypatch: pytest.MonkeyPatch) -> None:
    _, *of_unit = shlex.split(lines(REPOSITORY / "config/systemd/luigid-spendguard.service", "ExecStart")[0])
    [of_container] = [json.loads(found) for found in re.findall(r"^CMD (\[.*\])$", CONTAINER, re.MULTILINE)]
    for args, address in [(of_unit, "127.0.0.1"), (of_container, "0.0.0.0")]:
        taken = luigid_takes(args, monkeypatch)
        assert (taken["address"], taken["port"]) == (address, "8082")
        assert taken["state_path"] == "/var/lib/luigi-server/state.pickle"


def test_the_gateway_takes_the_arguments_of_its_unit() -> None:
    [line] = lines(REPOSITORY / "config/systemd/spendguard-gateway.service", "ExecStart")
    _, name, *args = shlex.split(line)
    context = cli.commands[name].make_context(name, args)
    assert context.params == {"address": "127.0.0.1", "port": 8083}


def test_variables_that_units_and_container_set_are_known() -> None:
    known = (REPOSITORY / "docs" / "configuration.md").read_text("utf-8")
    given = [line.partition("=")[0] for path in SERVICES for line in lines(path, "Environment")]
    given += re.findall(r"--env (\w+)=", PAGE) + re.findall(
        r"(\w+)=", "".join(re.findall(r"^ENV (.*)$", CONTAINER, re.MULTILINE))
    )
    used = set(re.findall(r"\$\{(\w+)\}", "".join(SETTINGS)))
    assert {"LUIGI_CONFIG_PATH", "STRIPE_SECRET_KEY_FILE"} <= set(given)
    assert [name for name in given if name not in used | FOREIGN and f"`{name}`" not in known] == []
    # What a setting needs is set by the units: CREDENTIALS_DIRECTORY by systemd itself.
    assert used <= {*given, "CREDENTIALS_DIRECTORY"}


def test_the_settings_on_the_page_parse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("CREDENTIALS_DIRECTORY", "STRIPE_SECRET_KEY_FILE"):
        monkeypatch.delenv(name, raising=False)
    assert len(SETTINGS) == 2
    for number, text in enumerate(SETTINGS):
        file = tmp_path / f"{number}.cfg"
        file.write_text(text)
        monkeypatch.setenv("LUIGI_CONFIG_PATH", str(file))
        settings = config.load()
        assert file in settings.files
        assert settings.vendor("stripe").secret is None
        assert settings.worker_token is None
        assert settings.admin_token is None


def test_stops_and_proxies_wait_longer_than_a_call() -> None:
    longest = config.VendorSettings("").timeout_s + 15
    stops = [seconds for path in SERVICES for seconds in lines(path, "TimeoutStopSec")]
    stops += re.findall(r"--stop-timeout (\d+)", PAGE)
    proxies = re.findall(r"(?:proxy_read_timeout|timeout (?:client|server)) (\d+)s", PAGE)
    assert (len(stops), len(proxies)) == (3, 3)
    assert [seconds for seconds in stops + proxies if int(seconds) <= longest] == []


def test_only_the_secrets_are_written_for_root_alone() -> None:
    """What is written afterwards in the same shell, luigid's user must be able to read."""
    [steps] = [
        one for one in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) if "> /etc/luigi/secrets" in one
    ]
    assert re.fullmatch(r"\(\numask 077\n[^()]*(?:.*/secrets/.*\n)+\)\n", steps)
