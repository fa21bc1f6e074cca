"""A real PostgreSQL server for tests, and a database of it for each ledger."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg

from luigi_spendguard.redaction import Secret

#: The URL of a server; set, ledgers are kept there and not in files.
SERVER = "LEDGER_SERVER"
_TEMPLATE = "spendguard_template"


def place_of(path: Path) -> Path | Secret:
    """Return where the ledger of a path is kept."""
    return Path(path) if SERVER not in os.environ else Secret(database_url(path))


def url_of(path: Path) -> str:
    """Return what luigi.cfg says of it."""
    return f"sqlite:///{path}" if SERVER not in os.environ else database_url(path)


def database_url(path: Path) -> str:
    """Return the URL of the database that is kept for a path, made when it is not there."""
    server = os.environ[SERVER]
    name = f"books_{hashlib.sha256(str(path).encode()).hexdigest()[:20]}"
    with psycopg.connect(server, autocommit=True) as connection:
        if connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]).fetchone() is None:
            connection.execute(f"CREATE DATABASE {name}")
    parts = urlsplit(server)
    return urlunsplit(parts._replace(path=f"/{name}"))
