"""The reference is complete: what can be set, called, answered or read is in docs/; what it shows parses."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from luigi_spendguard import errors
from luigi_spendguard.cli import cli
from luigi_spendguard.errors import DENIAL_STATUS, LedgerError
from luigi_spendguard.ledger.migrations import FORMAT
from luigi_spendguard.ledger.pruning import Pruned
from scheduler_patch.service.operators import _pruned
from tests.unit.test_house import DOCS, PAPERS, REPOSITORY, doc

SOURCES = [*(REPOSITORY / "luigi_spendguard").rglob("*.py"), *(REPOSITORY / "scheduler_patch").rglob("*.py")]
#: What luigid's own flags are, which luigid-spendguard takes all of.
LUIGID = {"--address", "--port", "--background", "--pidfile", "--logdir", "--state-path", "--unix-socket"}
#: What stands for a value in the docs, and one.
VALUES = {
    "llm": "stripe",
    "USD": "5",
    "N": "3",
    "PORT": "8083",
    "SECONDS": "60",
    "VENDOR": "stripe",
    "V": "denied",
    "DATE": "2026-09-01",
}


def calls_of(name: str) -> Iterator[list[object]]:
    """Yield the constant positional arguments of every call of a name; None for the others."""
    for source in SOURCES:
        for node in ast.walk(ast.parse(source.read_text("utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name:
                yield [arg.value if isinstance(arg, ast.Constant) else None for arg in node.args]


def test_every_error_code_of_the_api_is_in_the_docs_with_its_status() -> None:
    said = {(args[1], args[0]) for args in calls_of("Refused") if isinstance(args[0], int)}
    said |= {(error.code, error.status) for error in (LedgerError, *LedgerError.__subclasses__())}
    said |= {("bad_request", 400), ("internal", 500)}
    assert len(said) > 10
    # One whose code is a denial's reason is in the denials' table.
    missing = [
        (code, status)
        for code, status in said
        if code not in DENIAL_STATUS and not re.search(rf"\| `{code}` \| {status} \|", doc("errors.md"))
    ]
    assert missing == []


def test_every_exception_is_in_the_docs() -> None:
    ours = [one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, Exception)]
    assert len(ours) > 8
    assert [one.__name__ for one in ours if f"`{one.__name__}`" not in doc("errors.md")] == []


def test_every_exit_code_is_in_the_docs() -> None:
    codes = {args[1] for args in calls_of("OperatorError") if len(args) > 1} - {None}
    assert codes
    assert [code for code in {0, 1, 2, *codes} if not re.search(rf"^\| {code} \|", doc("cli.md"), re.M)] == []


def test_every_event_is_in_the_docs() -> None:
    named = r'^[A-Z_]+ = "(spendguard\.[a-z_]+)"$'
    ours = [event for source in SOURCES for event in re.findall(named, source.read_text("utf-8"), re.M)]
    assert len(ours) == 2
    assert [event for event in ours if f'event_handler("{event}")' not in doc("concepts.md")] == []


def test_every_environment_variable_is_in_the_docs() -> None:
    kinds = "STRIPE|TWILIO|RESEND|REQUESTS|CURL|SSL|SPENDGUARD|XDG|LUIGI"
    read = {
        name
        for source in SOURCES
        for name in re.findall(rf"""["']((?:{kinds})_[A-Z_]+)["']""", source.read_text("utf-8"))
        if not name.startswith("SPENDGUARD_SELF_TEST_")  # Between its own processes.
    }
    assert {"SPENDGUARD_RUN_ID", "XDG_STATE_HOME", "CURL_CA_BUNDLE"} <= read
    rows = doc("configuration.md").partition("## Environment variables")[2]
    assert [name for name in sorted(read) if f"`{name}`" not in rows] == []


# Commands.


def commands(text: str) -> Iterator[tuple[str, bool]]:
    """Yield each command line of ours that a paper shows, and whether it is in the middle of a sentence."""
    blocks = re.compile(r"^( *)```.*?^\1```$", re.DOTALL | re.MULTILINE)
    shown = "\n".join(found.group() for found in blocks.finditer(text))
    prose = blocks.sub("", text)
    shown += "\n" + "\n".join(line for line in prose.splitlines() if line.startswith("    "))
    for line in shown.replace("\\\n", " ").splitlines():
        if found := re.search(r"(?:^|[\s(])((?:luigid-)?spendguard [^#|)]*)", line.partition("  #")[0]):
            yield found.group(1), False
    for found in re.finditer(r"`((?:luigid-)?spendguard [^`]+)`", prose):
        yield found.group(1), True


def parsed(line: str) -> None:
    """Let the command's own parser read a line; raises click.UsageError."""
    line = line.replace("\\|", "|").translate(str.maketrans("[]", "  ")).replace("…", " ")
    program, *args = shlex.split(re.sub(r"\|\w+", "", line))
    args = [VALUES.get(arg, arg) for arg in args]
    if program == "luigid-spendguard":
        unknown = {arg for arg in args if arg.startswith("-")} - LUIGID - {"--help"}
        if unknown:
            raise click.UsageError(str(unknown))
        return
    with cli.make_context(program, args) as group:
        name, command, rest = cli.resolve_command(group, [*group._protected_args, *group.args])
        assert command is not None
        command.make_context(name, rest, parent=group)


@pytest.mark.parametrize(
    "paper", [path for path in PAPERS if path.name != "CHANGELOG.md"], ids=lambda p: p.name
)
def test_every_command_that_is_shown_parses(paper: Path) -> None:
    wrong = []
    for line, in_a_sentence in commands(paper.read_text("utf-8")):
        try:
            parsed(line)
        except click.exceptions.Exit:
            pass  # `--help`
        except click.MissingParameter as error:
            # A sentence may name a command alone.
            if not in_a_sentence:
                wrong.append((line, error.format_message()))
        except click.UsageError as error:
            wrong.append((line, error.format_message()))
    assert wrong == []


def test_the_search_for_commands_finds_them() -> None:
    found = [
        line
        for path in (REPOSITORY / "README.md", *DOCS.rglob("*.md"))
        for line, _ in commands(path.read_text("utf-8"))
    ]
    assert len(found) > 50
    assert any(line.startswith("spendguard issue-key") and "--customer cus_ann" in line for line in found)
    for wrong in (
        "spendguard top-down RUN",
        "spendguard top-up RUN many",
        "spendguard runs --colour",
        "luigid-spendguard --prot 1",
    ):
        with pytest.raises(click.UsageError):
            parsed(wrong)


def test_every_format_of_the_ledger_is_in_the_docs() -> None:
    """From the first that is beside today's on: the last one is what the texts there say is written."""
    upgrade = doc("operate.md").partition("## Upgrade")[2]
    rows = [int(row) for row in re.findall(r"^\| (\d+) \|(?=[^|]+\|$)", upgrade, re.M)]
    assert rows == list(range(10, FORMAT + 1))
    assert f"(format {FORMAT}, this version knows" in upgrade


def test_what_prune_answers_is_in_the_docs() -> None:
    row = next(line for line in doc("http-api.md").splitlines() if line.startswith("| `POST /prune`"))
    answered = _pruned(Pruned(), {}, None)
    assert [field for field in answered if f"`{field}`" not in row] == []
