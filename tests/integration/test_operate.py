"""docs/operate.md as it is written, judged by the vendors' own books."""

from __future__ import annotations

import datetime
import sqlite3
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.paper import Paper
from tests.support.programs import program
from tests.support.site import Site

PAGE = "operate.md"
AGE_MS = 400 * 86_400_000


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A site whose luigid is not started yet."""
    with Site(tmp_path / "site", start=False, spendguard={"suspect_duplicates": None}) as site:
        yield site


def charged(site: Site) -> dict[str, int]:
    return dict(Counter(entry["customer"] for entry in site.stripe.books()["moved"]))


def stop(site: Site) -> None:
    assert site.luigid is not None
    site.luigid.end()


def age(site: Site) -> None:
    """Let everything in the ledger have happened long ago."""
    db = sqlite3.connect(site.ledger)
    for table, columns in {
        "run": ("opened_at", "ended_at"),
        "claim": ("claimed_at", "ended_at"),
        "call": ("created_at", "granted_at", "ended_at"),
    }.items():
        for column in columns:
            db.execute(f"UPDATE {table} SET {column} = {column} - {AGE_MS}")
    db.commit()
    db.close()


def test_what_is_over_is_pruned_and_the_file_made_smaller(site: Site) -> None:
    program("sqlite3")
    day = str(datetime.datetime.now(datetime.timezone.utc).date() - datetime.timedelta(days=90))
    paper = Paper(PAGE, site, {"2026-09-01": day, "/var/lib/luigi-server/spendguard.db": str(site.ledger)})
    site.start()
    assert site.luigi("Billing", "--n", "40")[0] == 0
    (site.folder / "out" / "die").touch()
    site.luigi("Charge", "--customer", "dies")
    (site.folder / "out" / "die").unlink()
    [ended, going_on] = sorted(site.call("GET", "/runs")[1], key=lambda run: run["opened_at"])
    paper.command()
    stop(site)
    age(site)
    site.start()
    said = paper.command()
    assert "Would be pruned: 40 calls of 1 runs, which had spent $40.00, and 40 attempts and keys." in said
    assert "Pruned: 40 calls of 1 runs, which had spent $40.00" in said
    assert "1 runs opened before then have not ended" in said
    after = site.run(ended["run_id"])
    assert (after["spent_usd"], after["state"]) == ("40.00", "ended")
    assert "were pruned on" in after["note"]
    assert site.calls(ended["run_id"]) == []
    assert [call["target"] for call in site.calls(going_on["run_id"])] == ["dies"]
    # The task that has died is not paid again, before or after the file was made smaller.
    stop(site)
    before = site.ledger.stat().st_size
    paper.command()
    assert site.ledger.stat().st_size < before
    site.start()
    assert site.luigi("Charge", "--customer", "dies")[0] == 0
    assert charged(site) == {"dies": 1, **{f"cus_{n}": 1 for n in range(40)}}


def test_what_is_young_is_not_pruned(site: Site) -> None:
    site.start()
    site.luigi("Billing", "--n", "1")
    code, _, err = site.cli("prune", "--before", "1h")
    assert (code, "younger than two days" in err) == (1, True)
    assert site.cli("prune", "--before", "soon")[0] == 2
