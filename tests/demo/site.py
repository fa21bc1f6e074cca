"""The demo's temporary folder: luigi.cfg, customer lists, receipts and logs."""

from __future__ import annotations

import csv
import os
import secrets
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

#: The repository's top: the processes of the demo import from here.
TOP = Path(__file__).resolve().parents[2]
CAP_USD = 300

_CONFIG = """\
[core]
default_scheduler_url = {luigid}

[worker]
wait_interval = 0.1
wait_jitter = 0

# What failed is tried again by the next submission, not by this one; and Luigi believes at once that a
# finished output is gone (it waits 10 s else).
[scheduler]
retry_delay = 600
stable_done_cooldown_secs = 0

[retcode]
already_running = 10
missing_data = 20
not_run = 25
task_failed = 30
scheduling_error = 35
unhandled_exception = 40

[billing]
folder = {work}

[spendguard]
ledger_url = sqlite:///{ledger}
default_cap_usd = {cap}
on_blocked = {on_blocked}

[spendguard_caps]
BillingPipeline = {cap}

[spendguard_stripe]
secret = {secret}
base_url = {stripe}
"""


class Site:
    """Everything the demo writes is below `folder`."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="spendguard-demo-"))
        self.logs = self.folder / "logs"
        self.work = self.folder / "work"
        self.ledger = self.folder / "ledger.db"
        self.secret = f"sk_test_{secrets.token_hex(12)}"
        self._disk = self.folder / "disk" / "receipts"
        for folder in (self.logs, self.work, self._disk, self.folder / "home"):
            folder.mkdir(parents=True)
        (self.work / "receipts").symlink_to(self._disk)

    @property
    def receipts(self) -> Path:
        """Where the guarded pipeline keeps its receipts."""
        return self.work / "receipts"

    @property
    def admin_token(self) -> Path:
        """The file that luigid-spendguard makes beside the ledger."""
        return self.ledger.with_name(self.ledger.name + ".admin-token")

    def config(self, on_blocked: str = "exit") -> Path:
        """Return the path of the luigi.cfg whose worker exits, or waits, when all is blocked."""
        return self.folder / ("luigi.cfg" if on_blocked == "exit" else f"luigi-{on_blocked}.cfg")

    def write_config(self, luigid: str, stripe: str) -> None:
        """Write both luigi.cfg files; they differ in `on_blocked` alone."""
        for on_blocked in ("exit", "wait"):
            text = _CONFIG.format(
                luigid=luigid,
                stripe=stripe,
                secret=self.secret,
                on_blocked=on_blocked,
                work=self.work,
                ledger=self.ledger,
                cap=CAP_USD,
            )
            self.config(on_blocked).touch(mode=0o600)
            self.config(on_blocked).write_text(text, "utf-8")

    def write_stock_config(self, work: Path) -> Path:
        """Write the luigi.cfg of the stock pipeline: no plugin in it."""
        path = self.folder / "luigi-stock.cfg"
        path.write_text(f"[worker]\nwait_interval = 0.1\nwait_jitter = 0\n\n[billing]\nfolder = {work}\n")
        return path

    def env(self, config: Path | None = None, **more: str) -> dict[str, str]:
        """Return a child's environment: loopback without a proxy, nothing of the user's own accounts."""
        env = {
            name: value
            for name, value in os.environ.items()
            if not name.upper().endswith("_PROXY")
            and not name.startswith(("STRIPE_", "SPENDGUARD_", "LUIGI_", "PYTHON", "XDG_"))
        }
        env |= {
            "NO_PROXY": "127.0.0.1,localhost",
            "no_proxy": "127.0.0.1,localhost",
            "HOME": str(self.folder / "home"),
            "PYTHONPATH": str(TOP),
            "PYTHONUNBUFFERED": "1",
            "LUIGI_CONFIG_PATH": str(config or self.config()),
        }
        return env | more

    def write_list(self, name: str, rows: Iterable[tuple[str, str]]) -> Path:
        """Write a customer list of (row id, customer)."""
        path = self.folder / f"{name}.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(("row_id", "customer"))
            writer.writerows(rows)
        return path

    def take_disk_away(self) -> None:
        """Let the folder of the receipts be gone, as when a disk is not mounted."""
        self._disk.rename(self._disk.with_name("away"))

    def bring_disk_back(self) -> None:
        """Undo `take_disk_away`."""
        self._disk.with_name("away").rename(self._disk)


def python() -> str:
    """Return how to call this Python in a command that is shown."""
    path = Path(sys.executable)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
