"""`spendguard audit prune`: an entry that vouches for what goes is sealed first, and says who asked."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from luigi_spendguard.ledger.audit.blocks import sealed_entry
from luigi_spendguard.ledger.audit.signing import KeyFiles
from luigi_spendguard.ledger.budgets import last_entry
from tests.support.processes import wait_until
from tests.support.sealed import age
from tests.support.site import Site


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with Site(tmp_path / "site") as site:
        for number in range(2):
            assert site.luigi("Charge", "--customer", f"cus_{number}")[0] == 0
            wait_until(lambda: is_sealed(site), what="the audit's next block")
        yield site


def files_of(site: Site) -> KeyFiles:
    return KeyFiles(site.ledger.with_name(f"{site.ledger.name}.audit-key"))


def is_sealed(site: Site) -> bool:
    with site.books() as tx:
        return sealed_entry(tx) == last_entry(tx)


def blocks(site: Site) -> list[int]:
    with site.books() as tx:
        return [row["number"] for row in tx.all("SELECT number FROM audit_block ORDER BY number")]


def test_old_blocks_go_and_an_entry_says_so(site: Site) -> None:
    code, said, _ = site.cli("audit", "prune", "--before", "3d")
    assert (code, "Nothing to prune" in said) == (0, True)
    code, _, err = site.cli("audit", "prune", "--before", "1h")
    assert (code, "younger than two days" in err) == (1, True)
    with site.books(writes=True) as tx:
        age(tx, files_of(site), 10)
    before = blocks(site)
    assert len(before) > 1
    code, said, _ = site.cli("audit", "prune", "--before", "3d", "--dry-run")
    found = re.fullmatch(r"Would be pruned: \d+ rows up to block (\d+) \(([0-9a-f]{64})\)\.\n", said)
    assert found is not None, said
    assert (code, blocks(site)) == (0, before)
    code, said, err = site.cli("audit", "prune", "--before", "3d")
    assert code == 0, err
    assert f"up to block {found[1]} ({found[2]})" in said
    assert blocks(site) == [before[-1] + 1]
    status, actions = site.call("GET", "/actions?kind=audit_prune")
    [action] = actions
    assert (status, action["actor"], action["run_id"]) == (200, "an operator at 127.0.0.1", None)
    assert json.loads(action["note"])["hash"] == found[2]
    wait_until(lambda: is_sealed(site), what="the last block")
    code, said, _ = site.cli("audit", "export", "--format", "jsonl")
    assert [json.loads(line)["kind"] for line in said.splitlines() if '"actor":"an operator' in line] == [
        "audit_prune"
    ]


def test_nothing_goes_where_the_audit_is_not_sealed(site: Site) -> None:
    with site.books(writes=True) as tx:
        age(tx, files_of(site), 10)
    files_of(site).key.chmod(0o644)
    before = blocks(site)
    code, _, err = site.cli("audit", "prune", "--before", "3d")
    assert (code, "nothing was deleted, as the audit is not sealed now" in err) == (1, True), err
    assert blocks(site) == before
