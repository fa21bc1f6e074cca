"""A whole site on loopback: a fake Stripe, luigid-spendguard, luigi.cfg, and workers on demand."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import urllib3

from luigi_spendguard.ledger.database import Tx
from luigi_spendguard.ledger.database.engines import opened
from luigi_spendguard.redaction import Secret
from tests.support import postgres
from tests.support.processes import Process, environment, free_port, listening, python, wait_until
from tests.support.vendors import FakeResend, FakeStripe, FakeTwilio

SECRET = "sk_test_canary_4eC39HqLyjWDarjtT1zdp7dc"
TWILIO_ACCOUNT = "AC" + "a1" * 16
TWILIO_SECRET = "twilio_canary_0f1e2d3c4b5a69788796a5b4c3d2e1f0"
RESEND_SECRET = "re_canary_4eC39HqLyjWDarjtT1zdp7dc"
_http = urllib3.PoolManager(timeout=30, retries=False)


class Site:
    """Everything one installation has, in one folder.

    `twilio`, `resend`: what stands for these vendors, where the site has their secrets.
    """

    def __init__(
        self,
        folder: Path,
        *,
        stripe: FakeStripe | None = None,
        twilio: FakeTwilio | None = None,
        resend: FakeResend | None = None,
        start: bool = True,
        gateway: bool = False,
        **settings: Any,
    ) -> None:
        self.folder = folder
        self.stripe = stripe or FakeStripe(folder / "vendor")
        self.owns_stripe = stripe is None
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.state_home = folder / "state-home"
        #: The ledger's file; of one at a server, what would be beside it is found here.
        self.ledger = folder / "ledger" / "spendguard.db"
        if postgres.SERVER in os.environ:
            self.ledger = self.state_home / "luigi-spendguard" / "spendguard.db"
        self.config = folder / "luigi.cfg"
        self.settings: dict[str, dict[str, Any]] = {
            # Luigi refuses a command that runs already, another test run of this machine perhaps.
            # A worker whose luigid is away looks each second whether it is back, for as long as Luigi's
            # own three tries take.
            "core": {
                "default_scheduler_url": self.url,
                "no_lock": "true",
                "rpc_retry_wait": 1,
                "rpc_retry_attempts": 60,
            },
            "scheduler": {"retry_delay": 1, "stable_done_cooldown_secs": 0, "state_path": folder / "state"},
            "worker": {"wait_interval": 0.05, "wait_jitter": 0, "keep_alive": "false"},
            # Tests that share a site charge the same customers, by tasks that never complete.
            "spendguard": {
                "ledger_url": postgres.url_of(self.ledger),
                "default_cap_usd": 100,
                "suspect_duplicates": "off",
            },
            # One file for both: whoever has the variable in its environment has the secret.
            "spendguard_stripe": {"secret": "${STRIPE_SECRET_KEY}", "base_url": self.stripe.url},
        }
        #: What is in the environment of whoever has the secrets.
        self.secrets = {"STRIPE_SECRET_KEY": SECRET}
        if twilio is not None:
            self.secrets["TWILIO_AUTH_TOKEN"] = TWILIO_SECRET
            self.settings["spendguard_twilio"] = {
                "secret": "${TWILIO_AUTH_TOKEN}",
                "account_sid": TWILIO_ACCOUNT,
                "base_url": twilio.url,
            }
        if resend is not None:
            self.secrets["RESEND_API_KEY"] = RESEND_SECRET
            self.settings["spendguard_resend"] = {"secret": "${RESEND_API_KEY}", "base_url": resend.url}
        self.gateway = gateway
        (folder / "out").mkdir(parents=True, exist_ok=True)
        self.configure(**settings)
        self.luigid: Process | None = None
        self._workers: list[subprocess.Popen[str]] = []
        if start:
            self.start()

    def configure(self, **settings: Mapping[str, Any] | None) -> None:
        """Change sections of luigi.cfg; a value of None removes the key.

        Luigi takes `rpc-retry-wait` for `rpc_retry_wait`: so does this, or a file had both.
        """
        for section, content in settings.items():
            changed = {key.replace("-", "_"): value for key, value in (content or {}).items()}
            self.settings.setdefault(section, {}).update(changed)
        lines = []
        for section, content in self.settings.items():
            lines.append(f"[{section}]")
            lines += [f"{key} = {value}" for key, value in content.items() if value is not None]
        new = self.config.with_suffix(".new")
        new.write_text("\n".join(lines) + "\n")
        new.replace(self.config)  # Nobody reads half of it.

    def environment(self, **more: str) -> dict[str, str]:
        """Return a worker's environment; the secret is in it unless luigid is the gateway."""
        secrets = {} if self.gateway else self.secrets
        return self._environment(**(secrets | more))

    def _environment(self, **more: str) -> dict[str, str]:
        own = {
            "LUIGI_CONFIG_PATH": str(self.config),
            "OUT_DIR": str(self.folder / "out"),
            "XDG_STATE_HOME": str(self.state_home),
        }
        return environment(**(own | more))

    def start(self, module: str = "scheduler_patch", *args: str, **env: str) -> None:
        """Start luigid-spendguard (or another luigid, which may need arguments) on this site's port."""
        args = ("-m", module, *args, "--address", "127.0.0.1", "--port", str(self.port))
        secrets = self.secrets if self.gateway else {}
        self.luigid = Process(
            args,
            self.folder / "luigid.log",
            self.folder,
            self._environment(**(secrets | env)),
            lambda: listening(self.port),
        )

    def restart(self, **settings: Mapping[str, Any] | None) -> None:
        """Start luigid with these sections of luigi.cfg changed; end it first where it runs."""
        self.configure(**settings)
        if self.luigid is not None:
            self.luigid.end()
        self.start()

    def end(self) -> None:
        """End what was started; a worker that a test has not waited for is killed, with its children."""
        for worker in self._workers:
            if worker.poll() is None:
                with suppress(ProcessLookupError):
                    os.killpg(worker.pid, signal.SIGKILL)
                worker.wait()
            if worker.stdout is not None:
                worker.stdout.close()
        if self.luigid is not None:
            self.luigid.end()
        if self.owns_stripe:
            self.stripe.process.end()

    def __enter__(self) -> Site:
        return self

    def __exit__(self, *args: object) -> None:
        self.end()

    # Workers and the command line.

    def worker(
        self, *args: str, module: str = "tests.support.pipelines", **env: str
    ) -> subprocess.Popen[str]:
        """Start `luigi --module … ARGS` and return it; it ends with the site at the latest."""
        worker = python(
            *("-m", "luigi", "--module", module, *args),
            text=True,
            cwd=self.folder,
            env=self.environment(**env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self._workers.append(worker)
        return worker

    def luigi(self, *args: str, timeout: float = 120, **more: str) -> tuple[int, str]:
        """Run `luigi --module … ARGS`; return its exit code and output."""
        worker = self.worker(*args, **more)
        try:
            out, _ = worker.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            os.killpg(worker.pid, signal.SIGABRT)  # Its children have its output open, too.
            with suppress(subprocess.TimeoutExpired):
                out, _ = worker.communicate(timeout=5)
            with suppress(ProcessLookupError):
                os.killpg(worker.pid, signal.SIGKILL)
            out, _ = worker.communicate()
            raise AssertionError(f"the worker hangs:\n{out[-8000:]}") from None
        return worker.returncode, out

    def cli(self, *args: str, **env: str) -> tuple[int, str, str]:
        """Run `spendguard ARGS`; return exit code, stdout and stderr."""
        program = python(
            *("-m", "luigi_spendguard", *args),
            cwd=self.folder,
            env=self.environment(**env),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            out, err = program.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            program.kill()
            raise
        return program.returncode, out, err

    @contextmanager
    def books(self, *, writes: bool = False) -> Iterator[Tx]:
        """The ledger itself, on whatever engine, behind luigid's back; `writes`: to be changed."""
        url = self.settings["spendguard"]["ledger_url"]
        place = Secret(url) if url.startswith("postgresql") else Path(url.removeprefix("sqlite:///"))
        with opened(place) as found, found.writing() if writes else found.reading() as tx:
            yield tx

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Let another program keep all others from writing to the ledger in the block."""
        url = self.settings["spendguard"]["ledger_url"]
        if url.startswith("postgresql"):
            with psycopg.connect(url) as connection:
                connection.execute('LOCK TABLE "call" IN EXCLUSIVE MODE')
                yield
        else:
            with self.books(writes=True):
                yield

    # HTTP.

    def token(self) -> str:
        """Return the admin token that luigid made."""
        return self.ledger.with_name(self.ledger.name + ".admin-token").read_text().strip()

    def call(
        self, method: str, path: str, body: Any = None, token: str | None = "admin", **headers: str
    ) -> tuple[int, Any]:
        """Send a request; return status and decoded body. `token`: the admin's unless another is given."""
        if token == "admin":
            token = self.token()
        if token:
            headers["Authorization"] = f"Bearer {token}"
        if body is not None:
            headers["Content-Type"] = "application/json"
        reply = _http.request(
            method, self.url + path, headers=headers, body=None if body is None else json.dumps(body)
        )
        return reply.status, json.loads(reply.data)

    def rpc(self, method: str, **arguments: Any) -> Any:
        """Call one of Luigi's own RPCs, as its page does."""
        query = quote(json.dumps(arguments), safe="")
        reply = _http.request("GET", f"{self.url}/api/{method}?data={query}")
        assert reply.status == 200, reply.data
        return json.loads(reply.data)["response"]

    def until_answered(self, route: str, times: int = 1) -> None:
        """Wait until luigid has answered so many more requests on a route, such as `spend_blocked`."""
        log = self.folder / "luigid.log"

        def answered() -> int:
            return log.read_text().count(f" POST /api/{route} ")

        before = answered()
        wait_until(lambda: answered() >= before + times, what=f"{times} answers to {route}")

    def wait_for_retries(self) -> None:
        """Wait until luigid lets every task that has failed be tried again (`retry_delay`)."""

        def none_is_failed() -> bool:
            self.rpc("prune")
            return not self.rpc("task_list", status="FAILED", upstream_status="")

        wait_until(none_is_failed, what="the retry")

    def run(self, run_id: str) -> dict[str, Any]:
        """Return a run as the API shows it."""
        status, found = self.call("GET", f"/runs/{quote(run_id, safe='')}", token=None)
        assert status == 200, found
        return found

    def calls(self, run_id: str) -> list[dict[str, Any]]:
        """Return a run's calls."""
        return self.call("GET", f"/runs/{quote(run_id, safe='')}/calls", token=None)[1]
