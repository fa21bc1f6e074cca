"""An attempt that runs in this process, its ledger's stub and its vendor; for the tests of SDKs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from luigi_spendguard import proxy
from luigi_spendguard.proxy.attempts import Attempt
from tests.support.ports import StubLedger, VendorServer, attempt, vendor_server


@pytest.fixture
def port() -> StubLedger:
    """Return what answers in the ledger's place."""
    return StubLedger()


@pytest.fixture
def server() -> Iterator[VendorServer]:
    """Serve as the vendor."""
    with vendor_server() as server:
        yield server


@pytest.fixture
def task(tmp_path: Path, port: StubLedger, server: VendorServer) -> Iterator[Attempt]:
    """Run an attempt meanwhile."""
    made = attempt(tmp_path, port, server.url)
    with proxy.attempt_running(made):
        yield made
