"""Fixtures: a site for the session (fast), a site of one's own (isolated), and the run's options."""

from __future__ import annotations

import atexit
import gc
import os
import shutil
import signal
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Before the SDK is imported: nothing of a test is to reach the user's home or a network.
os.environ.setdefault("STRIPE_ENABLE_TELEMETRY", "false")
os.environ["NO_PROXY"] = "127.0.0.1,localhost"
os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp(prefix="spendguard-tests-")

import stripe

import luigi_spendguard.tasks  # noqa: F401  # installs the patches, as a pipeline's import does
from tests.support import forked, postgres
from tests.support.attempts import Pretender
from tests.support.postgres import PostgresServer, need_servers
from tests.support.programs import pytest_make_collect_report, pytest_runtest_makereport  # noqa: F401  # hooks
from tests.support.site import FakeStripe, Site

atexit.register(shutil.rmtree, os.environ["XDG_STATE_HOME"], ignore_errors=True)
stripe.enable_telemetry = False
forked.is_on = hasattr(os, "pidfd_open")  # Else they are executed.

# A shell lets what it runs in the background ignore this, and a worker that is to be interrupted inherits it.
signal.signal(signal.SIGINT, signal.default_int_handler)

# `make figures` takes the long one. Nothing is judged by its speed: other tests run meanwhile.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("short", unhurried, max_examples=30)
settings.register_profile("long", unhurried, max_examples=500)
settings.load_profile("short")


#: Tests that run with the ledger in a file, and at a PostgreSQL server, but for those marked `of_files`.
#: Those of `LONG` do so with `--combinations`, and always where they are marked `both_engines`.
BOTH_ENGINES = (
    "tests/unit/ledger/",
    "tests/unit/service/test_several.py",
    "tests/unit/service/",
    "tests/unit/reconcile/test_stripe.py",
    "tests/unit/scheduler/test_machine.py",
    "tests/acceptance/test_races.py",
    "tests/acceptance/test_ends.py",
    "tests/acceptance/test_revoke.py",
    "tests/acceptance/test_two_luigids.py",
    "tests/integration/test_late_messages.py",
    "tests/integration/test_older_answers.py",
    "tests/integration/test_reconcile.py",
    "tests/integration/test_resolved.py",
)
LONG = (
    "tests/acceptance/test_batches.py",
    "tests/acceptance/test_billing.py",
    "tests/acceptance/test_crash_points.py",
    "tests/acceptance/test_crashes.py",
    "tests/acceptance/test_ended.py",
    "tests/acceptance/test_payment_keys.py",
    "tests/acceptance/test_races_texts_mails.py",
    "tests/acceptance/test_shapes.py",
    "tests/acceptance/test_task_budgets.py",
    "tests/integration/test_gateway.py",
    "tests/integration/test_vault_keys.py",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--repeats", type=int, default=3, help="how often each race is run")
    parser.addoption("--malformed", type=int, default=200, help="how many malformed requests are made")
    parser.addoption("--tamperings", type=int, default=40, help="how often sealed books are tampered with")
    parser.addoption("--combinations", action="store_true", help="run every combination of cases")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--combinations"):
        further = [item for item in items if item.get_closest_marker("combinations")]
        config.hook.pytest_deselected(items=further)
        items[:] = [item for item in items if item not in further]
    for item in items:
        if item.nodeid.startswith(BOTH_ENGINES + LONG) and not item.get_closest_marker("of_files"):
            # Such as a method of a unittest.TestCase, which pytest gives no parameters.
            assert "engine" in item.callspec.params, f"{item.nodeid} is not run on both engines"


def pytest_collection_finish() -> None:
    """Let no later collection of garbage look at the tests: a simulated history has one of its own."""
    gc.collect()
    gc.freeze()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run what is about the ledger on each engine that may keep it."""
    test = metafunc.definition
    if not test.nodeid.startswith(BOTH_ENGINES + LONG) or test.get_closest_marker("of_files"):
        return
    is_seldom = test.nodeid.startswith(LONG) and not test.get_closest_marker("both_engines")
    server = pytest.param("postgres", marks=pytest.mark.combinations if is_seldom else ())
    metafunc.parametrize("engine", ["sqlite", server], indirect=True, scope="session")


@pytest.fixture(scope="session", autouse=True)
def engine(request: pytest.FixtureRequest) -> Iterator[str]:
    """What keeps the ledgers of a test: files, or a PostgreSQL server of this test process's own."""
    asked = getattr(request, "param", "sqlite")
    if asked == "sqlite":
        yield asked
        return
    server = request.getfixturevalue("engines_server")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv(postgres.SERVER, server.url)
        yield asked


@pytest.fixture(scope="session")
def engines_server() -> Iterator[PostgresServer]:
    """The one server of `engine`, however often tests turn from one engine to the other."""
    need_servers()
    with PostgresServer() as server:
        yield server


@pytest.fixture(autouse=True)
def databases(engine: str) -> Iterator[None]:
    """Drop what a test has made at `engine`'s server; sites that are shared were there before it."""
    with postgres.dropping() if engine == "postgres" else nullcontext():
        yield


@pytest.fixture(autouse=True)
def state_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test leaves to the next worker of this host is found by none of another test's."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))


@pytest.fixture
def repeats(request: pytest.FixtureRequest) -> int:
    return int(request.config.getoption("--repeats"))


@pytest.fixture(scope="session")
def malformed(request: pytest.FixtureRequest) -> int:
    return int(request.config.getoption("--malformed"))


@pytest.fixture(scope="session")
def tamperings(request: pytest.FixtureRequest) -> int:
    """Return how often sealed books are tampered with."""
    return int(request.config.getoption("--tamperings"))


@pytest.fixture(scope="session")
def shared_site(engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with Site(tmp_path_factory.mktemp("site")) as site:
        yield site


@pytest.fixture(scope="session")
def gateway_site(engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site whose luigid is the gateway; its workers have no secret."""
    with Site(tmp_path_factory.mktemp("gateway-site"), gateway=True) as site:
        yield site


@pytest.fixture(scope="module")
def module_site(engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with Site(tmp_path_factory.mktemp("module-site")) as site:
        yield site


@pytest.fixture
def here(module_site: Site) -> Site:
    """The module's site, with empty books and without output."""
    module_site.stripe.forget()
    for path in (module_site.folder / "out").iterdir():
        path.unlink()
    return module_site


@pytest.fixture
def vendor(shared_site: Site) -> FakeStripe:
    """The session's fake Stripe with empty books."""
    shared_site.stripe.forget()
    return shared_site.stripe


@pytest.fixture
def pretender(shared_site: Site, vendor: FakeStripe) -> Pretender:
    """A task of a fresh run on the session's site, with a cap of $100."""
    unique = uuid.uuid4().hex[:10]
    return Pretender(shared_site, f"run-{unique}", f"Charge_{unique}")


@pytest.fixture
def unstarted(tmp_path: Path) -> Iterator[Site]:
    """A site of the test's own, whose luigid is not started yet."""
    with Site(tmp_path / "site", start=False, spendguard={"suspect_duplicates": None}) as site:
        yield site


@pytest.fixture
def site(unstarted: Site) -> Site:
    """A site of the test's own."""
    unstarted.start()
    return unstarted
