"""`VaultKeyTask`: asks for a vault key, so that the tasks that need it spend for one run without the secret.

For workers without the plugin; a `VendorTask` under a guarded worker gets a key of its own by itself.
Importing this module patches nothing.
"""

from __future__ import annotations

import json
import os
import time
import uuid
from pathlib import Path

import luigi
import luigi.interface

from luigi_spendguard.http.ledger_client import connect
from luigi_spendguard.protocol.rpcs import IssueKeyRequest
from luigi_spendguard.settings.policy import expiry_ms

#: A key that expires within this many seconds is asked for again.
MARGIN_S = 60


class VaultKeyTask(luigi.Task):
    """Writes a vault key of luigid's gateway to a file that its owner alone may read.

        class Charge(luigi.Task):
            def requires(self):
                return VaultKeyTask(run_id=self.run_id, run_usd_cap="50")

            def run(self):
                with self.input().open() as file:
                    issued = json.load(file)
                stripe.api_key, stripe.api_base = issued["vault_key"], issued["api_base"]

    Submitted again, the same run finds the same key. One that has expired is asked for again, for the same
    run and the same budget.

    Attributes:
        run_id: the run that the key spends for.
        vendor: the vendor it is for.
        run_usd_cap, daily_usd_cap: its own caps, as "12.50"; "": the run's alone.
        allowed_endpoints: what may be called; (): whatever the operator allows.
        expires_in: for how long, as `30s`, `15m`, `4h` or `7d`.
        path: the file; by default `vault_keys/<run_id>.<vendor>.json` in the working folder.

    """

    run_id = luigi.Parameter()
    vendor = luigi.Parameter(default="stripe")
    run_usd_cap = luigi.Parameter(default="")
    daily_usd_cap = luigi.Parameter(default="")
    allowed_endpoints = luigi.ListParameter(default=())
    expires_in = luigi.Parameter(default="24h", significant=False)
    path = luigi.Parameter(default="", significant=False)

    def output(self) -> luigi.LocalTarget:
        """Return the key's file: JSON with `vault_key`, `api_base`, `run_id` and `expires_at`."""
        name = "".join(c if c.isalnum() or c in "-_.~" else "_" for c in self.run_id)
        return luigi.LocalTarget(self.path or os.path.join("vault_keys", f"{name}.{self.vendor}.json"))

    def complete(self) -> bool:
        """Return whether there is a key of this run that has not expired."""
        try:
            key = json.loads(Path(self.output().path).read_text("utf-8"))
            left_s = expiry_ms(key["expires_at"]) / 1000 - time.time()
        except (OSError, ValueError, KeyError, TypeError):
            return False
        return key.get("run_id") == self.run_id and left_s > MARGIN_S

    def run(self) -> None:
        """Ask for the key. Raises LedgerUnavailable, SpendDenied, PluginError (a stock luigid)."""
        core = luigi.interface.core()  # With the command line's own flags.
        url = (core.scheduler_url or f"http://{core.scheduler_host}:{core.scheduler_port}").rstrip("/")
        client = connect(url)
        issued = client.issue_key(self._terms())
        kept = {"vault_key": issued.vault_key, "run_id": issued.run_id, "expires_at": issued.expires_at}
        _write_private(
            Path(self.output().path),
            json.dumps({**kept, "api_base": f"{client.url}/{self.vendor}"}, indent=2),
        )

    def _terms(self) -> IssueKeyRequest:
        return IssueKeyRequest(
            self.vendor,
            f"luigi/{self.run_id}",
            self.run_usd_cap or None,
            self.daily_usd_cap or None,
            tuple(self.allowed_endpoints),
            expires_in=self.expires_in or None,
        )


def _write_private(path: Path, text: str) -> None:
    """Replace a file by one of mode 0600, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
