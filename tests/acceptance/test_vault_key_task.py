"""`VaultKeyTask` on a stock worker: the same key for a re-submission, the same budget for a reissued one."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.site import Site


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with Site(tmp_path / "site", gateway=True) as site:
        yield site


def luigi(site: Site, *args: str) -> str:
    done = run(site, "tests.support.keyed_pipeline", "Keyed", *args)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def run(site: Site, module: str, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "luigi", "--module", module, *args],
        cwd=site.folder,
        env=site.environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )


def kept(site: Site) -> tuple[Path, dict[str, Any]]:
    [path] = (site.folder / "vault_keys").iterdir()
    return path, json.loads(path.read_text())


def test_downstream_tasks_spend_under_it_and_its_file_is_private(site: Site) -> None:
    out = luigi(site, "--run-id", "night/1", "--n", "3", "--cap", "2")
    path, said = kept(site)
    assert path.stat().st_mode & 0o777 == 0o600
    assert said["vault_key"] not in out
    assert site.stripe.moved() == 200
    assert site.run("night/1")["cap_usd"] == "2.00"


def test_a_resubmission_finds_the_same_key_and_an_expired_one_is_no_refill(site: Site) -> None:
    luigi(site, "--run-id", "r", "--n", "1", "--cap", "2")
    path, first = kept(site)
    luigi(site, "--run-id", "r", "--n", "2", "--cap", "2")
    assert kept(site)[1] == first
    path.write_text(json.dumps({**first, "expires_at": "2026-01-01T00:00:00Z"}))
    luigi(site, "--run-id", "r", "--n", "4", "--cap", "2")
    again = kept(site)[1]
    assert again["vault_key"] != first["vault_key"]
    assert again["run_id"] == "r"
    assert site.stripe.moved() == 200
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_stock_luigid_is_named_as_what_it_is(tmp_path: Path) -> None:
    with Site(tmp_path / "site", start=False, gateway=True) as site:
        site.start("tests.support.stock_luigid")
        done = run(site, "luigi_spendguard.vault_key_task", "VaultKeyTask", "--run-id", "r")
        assert "keeps no budgets: run luigid-spendguard" in done.stderr


def test_what_its_workers_tell_luigid_shows_no_key(site: Site) -> None:
    """They redact nothing themselves; luigid shows to anybody what it is told, and saves it when it ends."""
    site.restart(scheduler={"retry_delay": 600})
    run(site, "tests.support.keyed_pipeline", "Program")
    key = kept(site)[1]["vault_key"]
    (failed,) = (task for task in site.rpc("task_list", status="FAILED", upstream_status="").items())
    task_id, shown = failed
    assert shown["status_message"] == "uses [redacted]"
    shown_error = site.rpc("fetch_error", task_id=task_id)["error"]
    assert "raise SystemExit(3) [redacted]" in json.loads(shown_error)
    assert key not in json.dumps([shown, shown_error])
    assert site.luigid is not None
    site.luigid.end()
    state = Path(site.settings["scheduler"]["state_path"]).read_bytes()
    assert task_id.encode() in state
    assert key.encode() not in state
