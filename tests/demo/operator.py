"""What an operator does in the demo: the `spendguard` command, and one route of luigid-spendguard."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

from tests.demo.books import local_session
from tests.demo.servers import DemoFailed
from tests.demo.site import Site

#: `spendguard`, also where the console script is not on the PATH.
_COMMAND = "from luigi_spendguard.__main__ import main; main()"


class Operator:
    """Holds the admin token that luigid-spendguard made beside its ledger."""

    def __init__(self, site: Site, url: str) -> None:
        self._site = site
        self.url = url

    def command(self, *words: str) -> str:
        """Run `spendguard WORDS…` and return what it prints. Raises DemoFailed."""
        done = subprocess.run(
            [sys.executable, "-c", _COMMAND, *words],
            env=self._site.env(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if done.returncode:
            raise DemoFailed(f"spendguard {' '.join(words)}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout.strip()

    def revoke(self, run_id: str) -> dict[str, Any]:
        """Revoke a run; the answer comes when it is in force. Raises DemoFailed."""
        token = self._site.admin_token.read_text("utf-8").strip()
        with local_session() as session:
            reply = session.delete(
                f"{self.url}/runs/{run_id}", headers={"Authorization": f"Bearer {token}"}, timeout=30
            )
        if reply.status_code != 200:
            raise DemoFailed(f"DELETE /runs/{run_id} was answered with HTTP {reply.status_code}")
        answer: dict[str, Any] = reply.json()
        return answer
