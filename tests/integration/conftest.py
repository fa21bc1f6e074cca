"""A PostgreSQL server of a file's own, which its tests may stop, kill or fill."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.postgres import PostgresServer, database_url, need_servers


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    need_servers()
    with PostgresServer() as made:
        yield made


@pytest.fixture
def url(server: PostgresServer, tmp_path: Path) -> str:
    """Return the URL of a database of this test's own there."""
    return database_url(server.url, tmp_path)
