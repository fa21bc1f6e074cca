"""What is slow to load is not loaded before it is used: everybody who starts a command waits for that."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.processes import environment

SDKS = {"stripe", "twilio", "resend", "httpx", "httpx2", "aiohttp"}
OURS = {"luigi_spendguard.proxy", "luigi_spendguard.worker", "luigi_spendguard.selftest.pipeline"}
SERVES = {"peewee", "h11", "luigi_spendguard.ledger", "scheduler_patch.api", "scheduler_patch.service"}
#: What is started, and what of it needs to be there only later, or never.
STARTS = {
    "import luigi_spendguard": {"luigi", "importlib.metadata", "asyncio", *SDKS, *OURS, *SERVES},
    "from luigi_spendguard.errors import SpendDenied": {"luigi", "luigi_spendguard.vendors", *SDKS, *SERVES},
    "from luigi_spendguard import VaultKeyTask": {*SDKS, *OURS, "peewee", "h11", "rich"},
    # What the SDK of Stripe brings with it cannot be helped: its pipelines have it anyway.
    "from luigi_spendguard import VendorTask": {"twilio", "resend", "aiohttp", "peewee", "tornado.web"},
    "from luigi_spendguard.__main__ import main; main()": {*SDKS, *OURS, *SERVES, "rich", "tornado.web"},
    "from scheduler_patch.__main__ import main; main()": {*SDKS, *OURS, *SERVES, "rich", "click"},
    "import scheduler_patch.server": {*SDKS, *OURS, "rich", "click"},
}


@pytest.mark.parametrize("start", STARTS)
def test_a_start_does_not_load(start: str) -> None:
    code = f"import sys\ntry:\n    {start}\nfinally:\n    print('\\n', *sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code, "--help"], capture_output=True, text=True, timeout=60, env=environment()
    )
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.splitlines()[-1].split())
    assert "luigi_spendguard" in loaded
    assert loaded & STARTS[start] == set()
