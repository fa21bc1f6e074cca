"""An SDK is guarded whenever it is imported, and not imported for a pipeline that does not use it."""

from __future__ import annotations

import importlib
import importlib.util
import pickle
import subprocess
import sys
from collections.abc import Iterator
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

import pytest

from luigi_spendguard import importing
from luigi_spendguard.errors import BudgetExceeded, PluginError
from luigi_spendguard.proxy.patching import Patches
from luigi_spendguard.proxy.sdk_clients import also

NAME = "some_sdk_of_nobody"


@pytest.fixture
def sdk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package that can be imported, and is forgotten afterwards."""
    file = tmp_path / f"{NAME}.py"
    file.write_text("class Client:\n    def send(self):\n        return self.http\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield file
    importing.forget(NAME)
    sys.modules.pop(NAME, None)


def mark(module: ModuleType) -> None:
    module.marked = getattr(module, "marked", 0) + 1


def test_a_later_import_is_acted_upon_and_the_module_keeps_its_own_loader(sdk: Path) -> None:
    importing.when_imported(NAME, mark)
    assert NAME not in sys.modules
    assert importlib.util.find_spec(NAME).loader.get_source(NAME) == sdk.read_text()
    module = importlib.import_module(NAME)
    assert module.marked == 1
    assert type(module.__loader__) is type(module.__spec__.loader) is SourceFileLoader
    assert importlib.reload(module).marked == 2


def test_an_earlier_import_is_acted_upon_at_once_and_again(sdk: Path) -> None:
    module = importlib.import_module(NAME)
    for _ in range(2):
        importing.when_imported(NAME, mark)
    assert module.marked == 2


def test_an_import_that_cannot_be_guarded_fails_each_time(sdk: Path) -> None:
    def refuse(module: ModuleType) -> None:
        raise PluginError("unknown SDK")

    importing.when_imported(NAME, refuse)
    for _ in range(2):
        with pytest.raises(PluginError, match="unknown SDK"):
            importlib.import_module(NAME)
    importing.forget(NAME)
    assert importlib.import_module(NAME).Client


def test_what_is_not_installed_stays_so() -> None:
    importing.when_imported("no_such_sdk_at_all", mark)
    try:
        assert importlib.util.find_spec("no_such_sdk_at_all") is None
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module("no_such_sdk_at_all")
    finally:
        importing.forget("no_such_sdk_at_all")


def test_a_function_is_replaced_once_and_put_back(sdk: Path) -> None:
    module = importlib.import_module(NAME)
    client, patches = module.Client, Patches("works with 2")
    before = client.send
    for _ in range(2):
        patches.put(
            module, "Client", "send", lambda original: lambda self: ("guarded", original), reads="http"
        )
    assert client().send() == ("guarded", before)
    assert client.send.__name__ == "send"
    patches.undo()
    assert client.send is before


@pytest.mark.parametrize(
    ("kind", "name", "reads"),
    [("Api", "send", ""), ("Client", "dispatch", ""), ("Client", "send", "transport")],
)
def test_an_sdk_without_what_is_needed_is_refused(sdk: Path, kind: str, name: str, reads: str) -> None:
    module = importlib.import_module(NAME)
    with pytest.raises(PluginError, match=rf"{NAME}.{kind}.{name}.*: works with 2"):
        Patches("works with 2").put(module, kind, name, lambda original: original, reads=reads)


@pytest.mark.parametrize(
    ("name", "works_with"),
    [
        ("twilio.base.client_base", "twilio 9, from 9.13 on"),
        ("resend.request", "resend 2, from 2.52 on"),
        ("resend", "resend 2, from 2.52 on"),
    ],
)
def test_another_sdk_is_refused_when_it_is_imported(tmp_path: Path, name: str, works_with: str) -> None:
    """One of the same name that has nothing of what is known."""
    folder = tmp_path.joinpath(*name.split("."))
    folder.mkdir(parents=True)
    for part in [folder, *folder.parents][: name.count(".") + 1]:
        (part / "__init__.py").write_text("")
    code = (
        f"import sys, luigi_spendguard.tasks; sys.path.insert(0, {str(tmp_path)!r})\n"
        f"try: import {name}\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith("PluginError there is no "), done.stderr
    assert works_with in done.stdout


def test_an_error_of_both_kinds_can_be_pickled() -> None:
    made = also(BudgetExceeded("cap", "no money left", {"cap_usd": "1"}), LookupError, "Some")
    assert isinstance(made, LookupError)
    again = pickle.loads(pickle.dumps(made))
    assert type(again) is type(made)
    assert (type(again).__name__, str(again)) == ("SomeBudgetExceeded", "no money left")
    assert (again.reason, again.facts) == ("cap", {"cap_usd": "1"})


def test_nothing_is_imported_for_a_pipeline_that_does_not() -> None:
    code = "import sys, luigi_spendguard.tasks; print({'twilio', 'resend'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "set()", done.stderr
