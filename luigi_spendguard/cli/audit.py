"""`spendguard audit`: whether the books are as they were sealed, and what shows it to others."""

from __future__ import annotations

import click

from luigi_spendguard.cli import chain, exports, receipts, upkeep


@click.group("audit", epilog="Example:  spendguard audit verify")
def audit() -> None:
    """Look whether anything was changed behind the ledger's back; luigid need not run."""


for _one in (
    chain.verify,
    chain.accept,
    chain.new_key,
    exports.export,
    receipts.receipt,
    receipts.check_receipt,
    upkeep.prune_audit,
):
    audit.add_command(_one)
