"""`spendguard gateway`: serves the gateway alone."""

from __future__ import annotations

import importlib
from typing import Any

import click

from luigi_spendguard.cli.context import Stop, settings_of
from luigi_spendguard.config import ConfigError
from luigi_spendguard.errors import LedgerError


@click.command(epilog="Example:  spendguard gateway --port 8083")
@click.option("--address", default="127.0.0.1", show_default=True, help="Where it listens.")
@click.option("--port", type=click.IntRange(1, 65535), required=True)
def gateway(address: str, port: int) -> None:
    """Run the gateway alone, apart from luigid, in front of the same ledger."""
    # The one place here that reaches up, by name: what serves is no part of a worker.
    standalone: Any = importlib.import_module("scheduler_patch.standalone")
    try:
        standalone.run(settings_of(), address, port)
    except (ConfigError, LedgerError) as error:
        raise Stop(str(error), 2) from None
