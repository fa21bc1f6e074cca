"""What a pipeline does is sealed: by luigid, and by a worker with a scheduler of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from luigi_spendguard.ledger.audit.blocks import sealed_entry
from luigi_spendguard.ledger.audit.signing import KeyFiles
from luigi_spendguard.ledger.budgets import last_entry
from tests.support.site import Site


def files_of(site: Site) -> KeyFiles:
    return KeyFiles(site.ledger.with_name(site.ledger.name + ".audit-key"))


def unsealed(site: Site) -> list[str]:
    """Return the calls that are in no block."""
    with site.books() as tx:
        assert last_entry(tx) == sealed_entry(tx)
        assert tx.value("SELECT count(*) FROM call") > 0
        rows = tx.all("SELECT id FROM call WHERE id NOT IN (SELECT name FROM audit_row WHERE kind = 'call')")
    return [row["id"] for row in rows]


@pytest.mark.parametrize("local", [(), ("--local-scheduler",)])
def test_every_call_is_sealed_when_luigid_or_the_worker_has_ended(
    tmp_path: Path, local: tuple[str, ...]
) -> None:
    with Site(tmp_path, start=not local) as site:
        code, said = site.luigi("Billing", "--n", "3", *local)
        assert code == 0, said
        if not local:
            status = site.call("GET", "/status", token=None)[1]
            assert status["audit_stopped"] == ""
            assert site.luigid is not None
            site.luigid.end()
        assert unsealed(site) == []
        head = files_of(site).head()
        with site.books() as tx:
            assert head is not None
            assert head.hash == tx.value("SELECT hash FROM audit_block WHERE number = ?", head.number)
            private = files_of(site).key.read_text()
            assert private.startswith("-----BEGIN PRIVATE KEY-----")


def test_a_pipeline_without_vendor_tasks_leaves_no_key(tmp_path: Path) -> None:
    with Site(tmp_path) as site:
        assert site.luigid is not None
        site.luigid.end()
        assert list(tmp_path.rglob("*audit-key*")) == []


def test_check_says_why_the_audit_is_not_sealed(tmp_path: Path) -> None:
    with Site(tmp_path) as site:
        assert site.luigi("Billing", "--n", "1")[0] == 0
        assert site.luigid is not None
        site.luigid.end()
        with site.books(writes=True) as tx:
            tx.run("DELETE FROM audit_row")
            tx.run("DELETE FROM audit_block")
        site.start()
        while not (why := site.call("GET", "/status", token=None)[1]["audit_stopped"]):
            pass
        assert "an older ledger was restored, or blocks were taken out" in why
        code, out, _ = site.cli("check")
        assert code == 1
        assert "it is not sealed: an older ledger was restored" in out
