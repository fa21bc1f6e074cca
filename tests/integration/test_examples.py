"""The examples in config/ are read by our own reader, and a server starts with them."""

from __future__ import annotations

from pathlib import Path

import pytest

from luigi_spendguard import config
from tests.support.processes import REPOSITORY, Process, free_port, listening
from tests.support.site import FakeStripe, Site

TOKENS = {
    "SPENDGUARD_ADMIN_TOKEN": "admin-token-of-the-example",
    "SPENDGUARD_WORKER_TOKEN": "worker-token-of-the-example",
    "STRIPE_SECRET_KEY": "sk_test_of_the_example",
}


@pytest.mark.parametrize("name", ["luigi.cfg", "luigi.toml"])
def test_an_example_starts_a_server_and_passes_the_check(
    name: str, tmp_path: Path, vendor: FakeStripe
) -> None:
    text = (REPOSITORY / "config" / name).read_text("utf-8")
    port, ledger = free_port(), tmp_path / "spendguard.db"
    for old, new in (
        ("/var/lib/luigi-server/spendguard.db", str(ledger)),
        ("localhost:8082", f"127.0.0.1:{port}"),
    ):
        assert text.count(old) == 1
        text = text.replace(old, new)
    site = Site(tmp_path, stripe=vendor, start=False)
    site.port, site.url, site.config = port, f"http://127.0.0.1:{port}", tmp_path / f"example-{name}"
    site.config.write_text(text)
    env = TOKENS | ({"LUIGI_CONFIG_PARSER": "toml"} if name.endswith("toml") else {})
    read = config.load([site.config], environ=TOKENS)
    assert read.ledger_path == ledger
    luigid = Process(
        ["-m", "scheduler_patch.server", "--address", "127.0.0.1", "--port", str(port)],
        tmp_path / "luigid.log", tmp_path, site.environment(**env), lambda: listening(port),
    )  # fmt: skip
    try:
        opened = site.call(
            "POST", "/api/spend_open_run", token=TOKENS["SPENDGUARD_WORKER_TOKEN"],
            body={"name": "r", "by_task_id": False, "root_family": "BillingPipeline", "root_task_id": "r"},
        )  # fmt: skip
        assert opened[1]["response"]["cap_usd"] == "300.00"
        code, out, err = site.cli("check", **env)
        assert code == 0, out + err
        assert "BillingPipeline" in out
        assert str(ledger) in out
        assert site.cli("top-up", "r", "50", **env)[0] == 0
        assert site.run("r")["cap_usd"] == "350.00"
    finally:
        luigid.end()
    assert ledger.exists()
    for token in TOKENS.values():
        assert token not in luigid.text() + out
