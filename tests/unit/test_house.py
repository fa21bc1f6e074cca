"""The house: what is public, patched, configured or said is named in the docs, and exists."""

from __future__ import annotations

import ast
import configparser
import importlib
import inspect
import re
from typing import Any

import click
import luigi.execution_summary
import luigi.scheduler
import luigi.worker
import pytest

import luigi_spendguard
from luigi_spendguard import luigi_api
from luigi_spendguard.cli import cli
from luigi_spendguard.errors import DENIAL_STATUS, PluginError
from luigi_spendguard.protocol import rpcs
from luigi_spendguard.protocol.messages import schema
from luigi_spendguard.protocol.rpcs import OUTCOMES, BlockedTasks, DuePrice, OpenRunReply, Rpc
from luigi_spendguard.proxy import stripe as proxied
from scheduler_patch.api import ROUTES
from tests.support import vendor_table
from tests.support.processes import REPOSITORY

DOCS = REPOSITORY / "docs"
PACKAGES = [REPOSITORY / "luigi_spendguard", REPOSITORY / "scheduler_patch"]
PAPERS = [*REPOSITORY.glob("*.md"), *DOCS.rglob("*.md")]


def doc(name: str) -> str:
    return (DOCS / name).read_text("utf-8")


def test_what_is_public_is_sorted_and_there() -> None:
    assert luigi_spendguard.__all__ == sorted(luigi_spendguard.__all__)
    for name in luigi_spendguard.__all__:
        assert getattr(luigi_spendguard, name).__name__ == name


def test_every_route_and_rpc_is_in_the_docs() -> None:
    text = doc("http-api.md")
    assert len(ROUTES) > 15
    for path, _ in ROUTES:
        if path.startswith("/api/"):
            assert f"`{path.removeprefix('/api/')}`" in text, path
        else:
            named = path.replace("/keys/{id}", "/keys/{id or key}")
            assert re.search(rf"`(GET|POST|DELETE) {re.escape(named)}`", text), path


def test_every_field_of_the_workers_rpcs_is_in_the_docs() -> None:
    """Those of a call are in `protocol`, which the docs name; a run has an example there, a key a table."""
    text = doc("http-api.md")
    named = [one for one in vars(rpcs).values() if isinstance(one, Rpc)]
    assert rpcs.CLAIM in named
    for rpc in named:
        if rpc in (rpcs.RESERVE, rpcs.ISSUE_KEY):
            continue
        row = [line for line in text.splitlines() if line.startswith(f"| `{rpc.name}` |")][-1]
        messages = [rpc.request, *([] if rpc is rpcs.OPEN_RUN else [rpc.reply])]
        fields = [field for message in messages for field in schema(message)["properties"]]
        assert [field for field in fields if f"`{field}`" not in row] == [], rpc.name
    assert [field for field in schema(OpenRunReply)["properties"] if f'"{field}": ' not in text] == []
    for part in (BlockedTasks, DuePrice):
        assert [field for field in schema(part)["properties"] if f"`{field}`" not in text] == []
    assert [outcome for outcome in OUTCOMES if f"`{outcome}`" not in text] == []


def test_the_exit_code_is_in_the_docs_and_in_both_examples() -> None:
    assert "| `spend_blocked` | `0` |" in doc("configuration.md")
    for name in ("luigi.cfg", "luigi.toml"):
        text = (REPOSITORY / "config" / name).read_text("utf-8")
        assert re.search(r"^\[retcode\]\n(#.*\n)*spend_blocked = \d+$", text, re.MULTILINE), name


def test_every_command_and_its_options_are_in_the_docs() -> None:
    assert len(cli.commands) > 10
    text = doc("cli.md")
    for name, command in cli.commands.items():
        assert f"`spendguard {name}" in text, name
        for option in command.params:
            if isinstance(option, click.Option):
                assert option.opts[-1] in text, (name, option.opts)


def test_every_denial_is_in_the_docs_with_its_status() -> None:
    for reason, status in DENIAL_STATUS.items():
        assert re.search(rf"\| `{reason}` \|.*\| {status} \|", doc("concepts.md")), reason


def unknown(names: str) -> list[tuple[str, str]]:
    """Return those of the tests that a text names which do not exist."""
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", names)
    code = {path: (REPOSITORY / "tests" / path).read_text("utf-8") for path, _ in named}
    return [
        (path, name)
        for path, name in named
        if not re.search(rf"^ *(async )?def {name}\(", code[path], re.MULTILINE)
    ]


def test_every_line_of_the_threat_model_names_the_tests_that_show_it() -> None:
    said, _, shown = doc("threat-model.md").partition("## Shown by")
    rows = dict(re.findall(r"^\| (.+?) \| (.+) \|$", shown, re.MULTILINE)[2:])
    lines = re.findall(r"^(?:\| |\* )\*\*(.+?)\*\*", said, re.MULTILINE)
    assert len(lines) > 15
    assert [line for line in lines if line not in rows] == []
    for line, names in rows.items():
        assert "::" in names or names.startswith("nothing: "), line
        assert unknown(names) == [], line


def test_every_line_about_a_crash_names_the_tests_that_show_it() -> None:
    lines = [line for line in doc("crashes.md").split("\n") if line.startswith("| ")]
    heads = [line for line in lines if line.startswith("| what died")]
    rows = [line.strip("| ").split(" | ") for line in lines if line not in heads and "---" not in line]
    assert (len(heads), len({row[0] for row in rows})) == (4, len(rows))
    assert len(rows) > 30
    for row in rows:
        assert len(row) == 6, row[0]
        assert re.fullmatch(r"`[\w/]+\.py::\w+`(, `[\w/]+\.py::\w+`)*", row[-1]), row[0]
        assert unknown(row[-1]) == [], row[0]
    code = (REPOSITORY / "tests" / "acceptance" / "test_crash_points.py").read_text("utf-8")
    tests = set(re.findall(r"^def (test_\w+)", code, re.MULTILINE))
    assert tests - set(re.findall(r"::(\w+)`", doc("crashes.md"))) == set()


def test_the_map_names_every_module() -> None:
    text = (REPOSITORY / "CONTRIBUTING.md").read_text("utf-8")
    named = set(
        re.findall(r"\w+", text.partition("## Where things live")[2].partition("### Follow one call")[0])
    )
    modules = {
        path.stem
        for place in ("luigi_spendguard", "scheduler_patch")
        for path in (REPOSITORY / place).rglob("*.py")
    }
    assert len(modules) > 100
    assert modules - named == set()


def test_every_promise_names_the_tests_that_show_it() -> None:
    text = (REPOSITORY / "CONTRIBUTING.md").read_text("utf-8")
    rows = dict(re.findall(r"^\| (P\d+) \| .+? \| (.+) \|$", text, re.MULTILINE))
    assert list(rows) == [f"P{number}" for number in range(1, 11)]
    for promise, names in rows.items():
        assert names.count("::") > 2, promise
        assert unknown(names) == [], promise


def test_what_the_docs_say_of_operations_is_what_the_adapter_does() -> None:
    text = doc("vendors.md")
    assert vendor_table.renewed(text) == text, "run: python -m tests.support.vendor_table"


def test_every_dependency_has_a_reason() -> None:
    setup = configparser.RawConfigParser()
    setup.read(REPOSITORY / "setup.cfg")
    named = setup["options"]["install_requires"] + "".join(setup["options.extras_require"].values())
    packages = {re.split(r"[<>=;[ ]", line)[0] for line in named.split("\n") if line.strip()}
    packages -= {"luigi-spendguard"}
    assert {"luigi", "tornado", "stripe", "peewee"} <= packages
    for package in packages:
        assert f"`{package}`" in doc("dependencies.md"), package


def anchors(text: str) -> set[str]:
    """Return what GitHub calls the headings of a paper."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


def test_links_between_the_papers_lead_somewhere() -> None:
    links = 0
    for paper in PAPERS:
        text = paper.read_text("utf-8")
        for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)", text):
            if "://" in target:
                continue
            where, found = f"{paper.name}: {target}#{anchor}", paper.parent / target if target else paper
            assert found.exists(), where
            assert not anchor or anchor in anchors(found.read_text("utf-8")), where
            links += 1
    assert links > 50


def test_every_patched_name_exists_in_the_installed_luigi() -> None:
    luigi_api.check_luigi(luigi.worker.Worker, luigi_api.WORKER)
    luigi_api.check_luigi(luigi.worker.ContextManagedTaskProcess, luigi_api.TASK_PROCESS)
    luigi_api.check_luigi(luigi.execution_summary, luigi_api.SUMMARY)
    luigi_api.check_luigi(luigi.scheduler.Scheduler, luigi_api.SCHEDULER)
    proxied.bind()


def test_every_overridden_method_is_checked() -> None:
    """What a subclass of ours overrides is in the list that is checked, or it is new."""
    from luigi_spendguard.worker import GuardedWorker
    from luigi_spendguard.worker.process import GuardedTaskProcess
    from scheduler_patch.scheduler import BudgetScheduler
    from scheduler_patch.scheduler.state import WatchedTasks

    for ours, names in [
        (GuardedWorker, luigi_api.WORKER),
        (GuardedTaskProcess, luigi_api.TASK_PROCESS),
        (BudgetScheduler, luigi_api.SCHEDULER),
        (WatchedTasks, luigi_api.STATE),
    ]:
        stock = ours.__mro__[1]
        overridden = {name for name, value in vars(ours).items() if callable(value) and hasattr(stock, name)}
        # Put in its place on the instance, once there are vendor tasks.
        late = {"_upstream_status"} if ours is BudgetScheduler else set()
        # Every object has these (`__getstate__` from Python 3.11 on); they are no seams of Luigi's.
        overridden = {name for name in overridden if not hasattr(object, name)}
        assert overridden | late == set(names), ours


def test_the_books_are_written_and_the_gate_is_told_in_one_place() -> None:
    """`commit` does both: who called the writer, or fed the gate, could forget the other."""
    inside = REPOSITORY / "scheduler_patch"
    by_hand = re.compile(r"(ledger|service)(\(\))?\)?\.write\(|\bfeed\.(feed|feed_changes|begin)\(")
    files = {path.relative_to(inside).as_posix(): path.read_text("utf-8") for path in inside.rglob("*.py")}
    found = {name for name, text in files.items() if by_hand.search(text)}
    assert found == {"service/ledger.py"}


def test_numbered_values_are_given_to_the_ledger_alone() -> None:
    """Python 3.12.0 to 3.12.3 warn of them: there it says them otherwise."""
    named = [path for package in PACKAGES for path in package.rglob("*.py") if "?1" in path.read_text()]
    assert {path.relative_to(PACKAGES[0]).parts[0] for path in named} == {"ledger"}


def test_another_luigi_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(luigi, "__version__", "3.9.0")
    with pytest.raises(PluginError, match=r"install luigi 3\.8\.x"):
        luigi_api.check_luigi(luigi.worker.Worker, luigi_api.WORKER)


def test_a_luigi_without_a_method_is_refused() -> None:
    with pytest.raises(PluginError, match=r"has no \w*Worker\._no_such_method"):
        luigi_api.check_luigi(luigi.worker.Worker, ("_no_such_method",))


def test_no_package_has_a_name_for_its_module_and_for_something_else() -> None:
    """`from luigi_spendguard.cli import check` would be one, then the other."""
    shadowed, packages = [], 0
    for door in (path for top in PACKAGES for path in top.rglob("__init__.py")):
        package = ".".join(door.parent.relative_to(REPOSITORY).parts)
        modules = {path.stem for path in door.parent.glob("*.py")}
        modules |= {path.parent.name for path in door.parent.glob("*/__init__.py")}
        for name, value in vars(importlib.import_module(package)).items():
            if name in modules and not inspect.ismodule(value):
                shadowed.append(f"{package}.{name}")
        packages += 1
    assert (shadowed, packages > 15) == ([], True)


def _definitions(*kinds: type[ast.AST]) -> list[tuple[str, Any]]:
    """Return each definition in the two packages with its file."""
    return [
        (str(path.relative_to(REPOSITORY)), node)
        for top in PACKAGES
        for path in sorted(top.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, kinds)
    ]


def test_what_is_public_says_what_it_does_unless_it_overrides_what_does() -> None:
    silent, methods = [], 0
    for path, node in _definitions(ast.ClassDef):
        if node.name.startswith("_"):
            continue
        module = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        bases = getattr(importlib.import_module(module), node.name, object).__mro__[1:]
        for one in node.body:
            if not isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef) or one.name.startswith("_"):
                continue
            methods += 1
            if not ast.get_docstring(one) and not any(one.name in vars(base) for base in bases):
                silent.append(f"{path}: {node.name}.{one.name}")
    assert (silent, methods > 400) == ([], True)


def test_no_two_classes_have_one_name() -> None:
    homes: dict[str, list[str]] = {}
    for path, node in _definitions(ast.ClassDef):
        homes.setdefault(node.name, []).append(path)
    # Peewee's own, and the same transport for two packages that have the same names.
    alike = {"Meta", "SpendTransport", "AsyncSpendTransport"}
    assert {name: paths for name, paths in homes.items() if len(paths) > 1 and name not in alike} == {}
    assert len(homes) > 150


def test_no_function_has_more_than_six_arguments() -> None:
    long = []
    for path, node in _definitions(ast.FunctionDef, ast.AsyncFunctionDef):
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        named = [one.arg for one in arguments if one.arg not in ("self", "cls", "tx")]
        # The Twilio SDK decides what its HTTP client is asked with.
        if len(named) > 6 and (path, node.name) != ("luigi_spendguard/proxy/twilio_http.py", "request"):
            long.append(f"{path}: {node.name}({', '.join(named)})")
    assert long == []


def test_the_formatter_has_the_last_word() -> None:
    marked = [path for top in (*PACKAGES, REPOSITORY / "tests") for path in top.rglob("*.py")]
    mark = "# fmt" + ": skip"
    assert [str(path) for path in marked if mark in path.read_text("utf-8")] == []
