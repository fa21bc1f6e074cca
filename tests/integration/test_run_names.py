"""A run is named by its id, by a beginning that no other has, or as @last, wherever one is asked for."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from luigi_spendguard.cli import cli
from luigi_spendguard.cli.run_names import RunName
from tests.support.asking import Case, send
from tests.support.commands import run_here
from tests.support.processes import free_port
from tests.support.site import Site
from tests.unit.test_house import doc

SPENDGUARD = Path(sys.executable).parent / "spendguard"


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with Site(tmp_path_factory.mktemp("named"), gateway=True) as site:
        yield site


def run(site: Site, *args: str) -> tuple[int, str, str]:
    return run_here(site.folder, site.environment(), *args)


def opened(site: Site, ending: str = "") -> str:
    """Open a run whose id begins as no other does; return the id."""
    run_id = f"{uuid.uuid4().hex[:8]}-of-billing{ending}"
    return Case(site, run_id).run_id


@pytest.mark.parametrize(
    "args",
    [
        ("run", "{}"),
        ("calls", "--run", "{}"),
        ("keys", "--run", "{}"),
        ("top-up", "{}", "5"),
        ("approve", "{}", "--forecast", "0"),
        ("revoke", "{}"),
    ],
    ids=lambda args: args[0],
)
def test_a_beginning_and_the_last_one_are_taken_by_every_command(named: Site, args: tuple[str, ...]) -> None:
    assert named.luigid is not None
    before = len(named.luigid.text())
    for name_of in (lambda run_id: run_id[:8], lambda run_id: "@last"):
        run_id = opened(named)
        name = name_of(run_id)
        code, out, err = run(named, *(arg.format(name) for arg in args))
        whole, expected, _ = run(named, *(arg.format(run_id) for arg in args))
        # A forecast that nobody has made is refused, of the right run.
        assert (code, whole) == ((1, 1) if args[0] == "approve" else (0, 0)), err
        assert err.startswith(f"{name} is run {run_id}.\n")
        if args[0] != "top-up":
            assert out == expected
        else:
            assert out == f"{run_id} has a cap of $105.00; $105.00 remains.\n"
    if args[0] != "approve":  # Of what nobody asked for somebody should hear.
        assert "WARNING" not in named.luigid.text()[before:]
    assert named.run(run_id)["state"] == ("revoked" if args[0] == "revoke" else "active")


def test_a_change_says_in_its_answer_which_run_was_meant(named: Site) -> None:
    run_id = opened(named)
    assert run(named, "top-up", run_id[:8], "5")[1].startswith(f"{run_id} has a cap of $105.00")
    assert run(named, "revoke", "@last")[1].startswith(f"{run_id} is revoked: ")
    run_id = opened(named)
    err = run(named, "issue-key", "--run", "@last")[2]
    key_id = err.splitlines()[-1].split()[0]
    assert f"{key_id} spends for run {run_id} until" in err
    assert run(named, "revoke-key", key_id)[1].startswith(f"{key_id} of run {run_id} is revoked: ")


def test_a_beginning_of_several_is_refused_and_lists_them(named: Site) -> None:
    first = opened(named)
    begun = first[:8]
    more = [Case(named, f"{begun}-{number}").run_id for number in range(24)]
    for command in (("revoke", begun), ("top-up", begun, "5"), ("calls", "--run", begun), ("run", begun)):
        code, out, err = run(named, *command)
        assert (code, out) == (1, "")
        assert f"{begun} is how the ids of 25 runs begin" in err
        assert [line.strip() for line in err.splitlines()[1:]] == [*more[:3:-1], "and 5 more"]
    assert {named.run(one)["state"] for one in (first, *more)} == {"active"}
    assert {named.run(one)["cap_usd"] for one in (first, *more)} == {"100.00"}


def doubted(site: Site, *call_ids: str) -> None:
    """Leave calls of these ids in doubt."""
    for call_id in call_ids:
        case = Case(site)
        case.reserved(call_id=call_id, vendor="twilio", target=f"cus_{call_id}")  # Not the gateway's.
        send(site, "POST", "/api/spend_doubt", {"call_id": call_id}, case.key)


def test_a_call_is_named_by_a_beginning_of_its_id_too(named: Site) -> None:
    begun = uuid.uuid4().hex[:8]
    one, other = (f"{begun}-{number}" for number in "12")
    doubted(named, one, other, f"{other}3")
    code, out, err = run(named, "resolve", f"{begun}-1", "--not-sent")
    assert (code, out.startswith(f"{one} of run "), err) == (0, True, "")
    code, out, err = run(named, "resolve", begun, "--not-sent")
    assert (code, out) == (1, "")
    assert f"{begun} is how the ids of 3 calls begin" in err
    assert [line.split()[0] for line in err.splitlines()[1:]] == [f"{other}3", other, one]
    assert run(named, "resolve", other, "--not-sent")[1].startswith(f"{other} of run ")  # A whole id wins.
    code, out, err = run(named, "resolve", f"{other}3", "--spent", "1", "--object", "pi_1")
    assert out.startswith(f"{other}3 of run ")
    assert "there is no call" in run(named, "resolve", f"_{begun[1:]}", "--not-sent")[2]


def test_so_is_the_call_beside_which_another_one_is_let_pass(named: Site) -> None:
    call_id, run_id = str(uuid.uuid4()), opened(named)
    doubted(named, call_id)
    args = ("--task", "NoSuchTask_1", "--cost", "1", "--duplicate-of", call_id[:13])
    code, _, err = run(named, "approve", run_id, *args)
    assert code == 1
    assert f"{call_id[:13]} is call {call_id}.\n" in err


def test_a_whole_id_wins_over_runs_that_begin_with_it(named: Site) -> None:
    run_id = opened(named)
    longer = Case(named, f"{run_id}~2").run_id
    code, out, err = run(named, "revoke", run_id)
    assert (code, err) == (0, "")
    assert out.startswith(f"{run_id} is revoked")
    assert [named.run(one)["state"] for one in (run_id, longer)] == ["revoked", "active"]
    # What is refused of a run that there is, is not done to another one.
    code, _, err = run(named, "approve", run_id, "--task", "NoSuchTask_1", "--cost", "1")
    assert code == 1
    assert longer not in err


def test_a_run_of_that_very_name_is_not_the_last_one(tmp_path: Path) -> None:
    with Site(tmp_path / "site") as site:
        code, _, err = run(site, "run", "@last")
        assert (code, "there is no run @last" in err) == (1, True)
        Case(site, "@last")
        newer = opened(site)
        assert run(site, "revoke", "@last")[0] == 0
        assert [site.run(one)["state"] for one in ("@last", newer)] == ["revoked", "active"]


def test_a_name_is_no_pattern_and_its_case_counts(named: Site) -> None:
    run_id = opened(named, "_X")
    for name in ("%", "_" * 8, "*", run_id[:8].upper() + "-OF", run_id[1:9]):
        assert run(named, "revoke", name)[0] == 1, name
    assert named.run(run_id)["state"] == "active"


@pytest.mark.parametrize("name", ["", " ", "\t"])
def test_a_variable_that_is_not_set_names_no_run(tmp_path: Path, name: str) -> None:
    with Site(tmp_path / "site") as site:
        only = opened(site)
        for args in (("revoke", name), ("top-up", name, "5"), ("calls", "--run", name)):
            code, out, err = run(site, *args)
            assert (code, out) == (2, "")
            assert "must not be empty: name a run" in err
        assert (site.run(only)["state"], site.run(only)["cap_usd"]) == ("active", "100.00")


def test_a_key_is_issued_for_the_run_that_is_named_and_no_other(named: Site) -> None:
    run_id = opened(named)
    assert run(named, "issue-key", "--run", "@last")[0] == 0
    assert run(named, "issue-key", "--run", run_id[:8])[0] == 0
    keys = json.loads(run(named, "keys", "--format", "json")[1])
    assert [key["run_id"] for key in keys[:2]] == [run_id[:8], run_id], "a new run has the name it is given"


class TestCompletion:
    @staticmethod
    def offered(site: Site, *words: str, shell: str = "bash", **env: str) -> tuple[str, str]:
        """Return what the installed command offers for the last word, and what it complains of."""
        variables = {
            "_SPENDGUARD_COMPLETE": f"{shell}_complete",
            "COMP_WORDS": " ".join(("spendguard", *words)),
            "COMP_CWORD": str(len(words)),
        }
        done = subprocess.run(
            [str(SPENDGUARD)],
            env=site.environment(**variables, **env),
            cwd=site.folder,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0
        return done.stdout.lstrip("\n"), done.stderr

    @pytest.mark.parametrize("words", [("run",), ("revoke",), ("top-up",), ("approve",), ("calls", "--run")])
    def test_run_ids_are_completed(self, named: Site, words: tuple[str, ...]) -> None:
        run_id = opened(named)
        assert self.offered(named, *words, run_id[:8]) == (f"plain,{run_id}\n", "")

    def test_a_shell_that_shows_it_is_told_what_a_run_is_at(self, named: Site) -> None:
        run_id = opened(named)
        out, _ = self.offered(named, "run", run_id[:8], shell="zsh")
        assert out.splitlines() == ["plain", run_id, "active, $0.00 of $100.00"]

    def test_commands_options_and_the_last_run_are_completed(self, named: Site) -> None:
        assert self.offered(named, "top-") == ("plain,top-up\nplain,top-ups\n", "")
        assert self.offered(named, "calls", "--sta") == ("plain,--state\n", "")
        assert self.offered(named, "calls", "--state", "in") == ("plain,in_doubt\n", "")
        assert self.offered(named, "run", "@") == ("plain,@last\n", "")

    def test_it_asks_the_luigid_that_is_named(self, named: Site, tmp_path: Path) -> None:
        run_id = opened(named)
        other = Site(tmp_path / "other", stripe=named.stripe, start=False)
        assert self.offered(other, "run", run_id[:8]) == ("", "")
        assert self.offered(other, "--url", named.url, "run", run_id[:8])[0] == f"plain,{run_id}\n"
        assert self.offered(other, "run", run_id[:8], SPENDGUARD_URL=named.url)[0] == f"plain,{run_id}\n"

    def test_the_line_of_the_docs_switches_it_on_in_bash(self, named: Site) -> None:
        [line] = re.findall(r"^    (eval .*bash_source.*?)  +#", doc("cli.md"), re.MULTILINE)
        path = f"{SPENDGUARD.parent}:{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "--norc", "-c", f"{line}\ncomplete -p spendguard"],
            env=named.environment(PATH=path),
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert "_spendguard_completion spendguard" in done.stdout

    def test_it_fails_silently(self, named: Site, tmp_path: Path) -> None:
        broken = tmp_path / "luigi.cfg"
        broken.write_text("[spendguard]\nno_such_setting = 1\n")
        assert self.offered(named, "run", "a", LUIGI_CONFIG_PATH=str(broken)) == ("", "")
        gone = f"http://127.0.0.1:{free_port()}"
        assert self.offered(named, "run", "a", SPENDGUARD_URL=gone) == ("", "")


def commands_in(group: click.Group) -> Iterator[click.Command]:
    for command in group.commands.values():
        if isinstance(command, click.Group):
            yield from commands_in(command)
        else:
            yield command


def test_every_run_that_is_asked_for_is_one_that_can_be_named_so() -> None:
    asked = [
        (command.name, param.type)
        for command in commands_in(cli)
        for param in command.params
        if param.metavar == "RUN" or param.name in ("run", "run_id")
    ]
    assert len(asked) == 15
    assert [name for name, kind in asked if not isinstance(kind, RunName)] == []
