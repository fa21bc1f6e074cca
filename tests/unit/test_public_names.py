"""The names that other people's code, settings and scripts hold: they stay, however the house moves."""

from __future__ import annotations

import configparser
import importlib
import importlib.util
import inspect
import re

import pytest

import luigi_spendguard
from tests.support.processes import REPOSITORY

OURS = r"(?:luigi_spendguard|scheduler_patch)"
PUBLIC = {
    "luigi_spendguard": (
        "BudgetExceeded",
        "KeyRevoked",
        "OutcomeUnknown",
        "SpendDenied",
        "VaultKeyTask",
        "VendorTask",
        "WorkerSchedulerFactory",
        "idempotency_key",
        "install",
        "spend_proxy",
    ),
    "luigi_spendguard.errors": ("BudgetExceeded", "KeyRevoked", "OutcomeUnknown", "SpendDenied"),
    "luigi_spendguard.proxy.httpx": ("AsyncSpendTransport", "SpendTransport"),
    "luigi_spendguard.proxy.httpx2": ("AsyncSpendTransport", "SpendTransport"),
    "luigi_spendguard.proxy.requests": ("SpendAdapter",),
    "luigi_spendguard.tasks": ("VendorTask",),
    "luigi_spendguard.vault_key_task": ("VaultKeyTask",),
    "luigi_spendguard.vendors": (
        "FollowedUp",
        "Outcome",
        "Quote",
        "Reply",
        "Request",
        "Setting",
        "Vendor",
        "VendorSettings",
        "denial",
        "values",
    ),
    "luigi_spendguard.vendors.bodies": (
        "check_body",
        "digest",
        "json_body",
        "reply_object",
        "unbelieved",
        "unsuccessful",
    ),
    "luigi_spendguard.worker": ("GuardedWorker", "WorkerSchedulerFactory", "install"),
    "scheduler_patch.metrics": ("SpendguardMetrics",),
    "scheduler_patch.scheduler": ("BudgetScheduler",),
    "scheduler_patch.server": ("app",),
}
DOCS = REPOSITORY / "docs"
PAPERS = [*REPOSITORY.glob("*.md"), *DOCS.rglob("*.md"), *DOCS.rglob("*.py")]


@pytest.mark.parametrize("module", PUBLIC)
def test_what_others_import_is_where_it_was(module: str) -> None:
    there = importlib.import_module(module)
    for name in PUBLIC[module]:
        value = getattr(there, name)
        assert inspect.ismodule(value) or value.__name__ == name


def test_nothing_public_is_missing_here() -> None:
    assert set(luigi_spendguard.__all__) == set(PUBLIC["luigi_spendguard"])
    vendors = importlib.import_module("luigi_spendguard.vendors")
    assert set(vendors.__all__) == set(PUBLIC["luigi_spendguard.vendors"])


def test_what_the_papers_import_is_public() -> None:
    imports = 0
    for paper in PAPERS:
        text = paper.read_text("utf-8")
        for module, listed, single in re.findall(
            rf"^ *from ({OURS}[.\w]*) import (?:\(([^)]*)\)|(.*))$", text, re.MULTILINE
        ):
            names = [one.split(" as ")[0] for one in re.sub(r"\s+|#.*", " ", listed or single).split(",")]
            for name in filter(None, (one.strip() for one in names)):
                assert name in PUBLIC.get(module, ()), (paper.name, module, name)
                imports += 1
    assert imports > 15


def test_the_dotted_names_of_the_papers_and_examples_exist() -> None:
    names = 0
    for paper in [*PAPERS, *(REPOSITORY / "config").iterdir()]:
        if not paper.is_file() or paper.name == "CHANGELOG.md":
            continue
        for dotted in re.findall(rf"(?<![\w/.@-]){OURS}(?:\.\w+)+", paper.read_text("utf-8")):
            module, _, rest = dotted.partition(".")
            where = importlib.import_module(module)
            for part in rest.split("."):
                full = f"{where.__name__}.{part}"
                if inspect.ismodule(where) and hasattr(where, "__path__") and importlib.util.find_spec(full):
                    where = importlib.import_module(full)
                else:
                    where = getattr(where, part)
            names += 1
    assert names > 10


def test_commands_and_entry_points() -> None:
    setup = configparser.RawConfigParser()
    setup.read(REPOSITORY / "setup.cfg")
    scripts = dict(re.findall(r"(\S+) = (\S+)", setup["options.entry_points"]["console_scripts"]))
    assert set(scripts) == {"spendguard", "luigid-spendguard"}
    for target in scripts.values():
        module, _, function = target.partition(":")
        assert callable(getattr(importlib.import_module(module), function))
    assert importlib.import_module("luigi_spendguard.vendors.registry").GROUP == "luigi_spendguard.vendors"
    for package in ("luigi_spendguard", "scheduler_patch"):  # as `python -m` runs them
        assert importlib.util.find_spec(f"{package}.__main__")
