"""`spendguard audit verify`, `accept` and `new-key`."""

from __future__ import annotations

import json
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


def test_verify_says_that_all_is_as_it_was_sealed_or_which_row_is_not(tmp_path: Path) -> None:
    anchor = tmp_path / "elsewhere.jsonl"
    with Site(tmp_path, start=False, spendguard={"audit_anchor": str(anchor)}) as site:
        assert site.luigi("Billing", "--n", "2", "--local-scheduler")[0] == 0
        code, out, _ = site.cli("audit", "verify", "--anchor", str(anchor))
        assert code == 0
        assert out.startswith("As it was sealed: ")
        assert "all totals agree with that" in out
        code, out, _ = site.cli("audit", "verify", "--json", "--since", "1d")
        assert (code, json.loads(out)["as_sealed"], json.loads(out)["unsealed_entries"]) == (0, True, 0)
        public = site.ledger.with_name(site.ledger.name + ".audit-key.public")
        assert site.cli("audit", "verify", "--public-key", str(public))[0] == 0
        code, _, said = site.cli("audit", "verify", "--public-key", str(anchor))
        assert code == 1
        assert "public key" in said
        code, _, said = site.cli("audit", "verify", "--anchor", str(public))
        assert code == 1
        assert f"line 1 of {public} is no block of an audit" in said
        code, _, said = site.cli("audit", "verify", "--since", "2999-01-01")
        assert code == 2
        assert "the period begins in the future (2999-01-01T00:00:00Z): only what has been can" in said
        with site.books(writes=True) as tx:
            tx.run("UPDATE call SET family = 'Other'")
        code, out, said = site.cli("audit", "verify")
        assert (code, out) == (1, "")
        assert "Error: Not as it was sealed: call " in said
        assert said.count("\n") == 1
        code, out, _ = site.cli("audit", "verify", "--json")
        facts = json.loads(out)
        assert (code, facts["as_sealed"], facts["block"] is not None) == (1, False, True)


def test_nothing_sealed_is_no_proof(tmp_path: Path) -> None:
    with Site(tmp_path, start=False) as site:
        assert site.luigi("Billing", "--n", "1", "--local-scheduler")[0] == 0
        with site.books(writes=True) as tx:
            tx.run("DELETE FROM audit_row")
            tx.run("DELETE FROM audit_block")
        site.ledger.with_name(site.ledger.name + ".audit-key.head").unlink()
        code, _, said = site.cli("audit", "verify")
        assert code == 1
        assert "nothing of this ledger is sealed: nothing is shown of it" in said
