"""`spendguard audit accept` and `new-key`."""

from __future__ import annotations

from pathlib import Path

from tests.support.site import Site


def test_a_restored_ledger_is_gone_on_with_once_it_was_accepted(tmp_path: Path) -> None:
    with Site(tmp_path, start=False) as site:
        assert site.cli("audit", "accept")[0] == 1
        assert site.luigi("Billing", "--n", "1", "--local-scheduler")[0] == 0
        with site.books(writes=True) as tx:
            tx.run("DELETE FROM audit_row")
            tx.run("DELETE FROM audit_block")
        _, said = site.luigi("Billing", "--n", "2", "--local-scheduler")
        assert "The audit is not sealed: an older ledger was restored, or blocks were taken out" in said
        code, out, _ = site.cli("audit", "accept")
        assert (code, out) == (
            0,
            "Nothing of this ledger is sealed: the chain begins with the next block.\n",
        )
        _, said = site.luigi("Billing", "--n", "3", "--local-scheduler")
        assert "is not sealed" not in said
        code, out, _ = site.cli("audit", "accept")
        assert (code, out[:30]) == (0, "luigid goes on behind block 1 ")


def test_a_new_key_signs_and_the_one_before_is_believed(tmp_path: Path) -> None:
    with Site(tmp_path, start=False) as site:
        assert site.luigi("Billing", "--n", "1", "--local-scheduler")[0] == 0
        code, out, _ = site.cli("audit", "new-key")
        assert code == 0
        _, said = site.luigi("Billing", "--n", "2", "--local-scheduler")
        assert "is not sealed" not in said
        with site.books() as tx:
            keys = [row["key_id"] for row in tx.all("SELECT key_id FROM audit_block ORDER BY number")]
        assert len(set(keys)) == 2
        assert keys[-1] in out
