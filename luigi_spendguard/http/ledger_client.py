"""The worker's side of the ledger: its RPCs on the scheduler.

One `HttpLedgerClient` for each scheduler; safe under threads, and made anew in forked children (inherited
keep-alive connections hand replies to the wrong child).

What a worker needs of the ledger, however it is reached: over luigid's RPCs, or in its own process.
"""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Protocol

import urllib3

from luigi_spendguard import config
from luigi_spendguard.errors import LedgerUnavailable, PluginError, denial
from luigi_spendguard.http.outbox import FLUSH_S, Outbox
from luigi_spendguard.http.scheduler_address import SchedulerAddress
from luigi_spendguard.process_state import at_fork
from luigi_spendguard.protocol import MAX_NOTE, EndRequest, ReserveReply, ReserveRequest
from luigi_spendguard.redaction import Secret
from luigi_spendguard.vendors import FollowedUp

logger = logging.getLogger(__name__)

#: Seconds until a scheduler that cannot be reached means a denial (Luigi's own RPCs take 60).
GIVE_UP_S = 5.0


class HttpLedgerClient:
    """Speaks the `spend_*` RPCs of the scheduler at `url`.

    Attributes:
        url: the scheduler's base URL, as in `[core] default_scheduler_url`.

    """

    def __init__(self, url: str, worker_token: str | None) -> None:
        try:
            self._address = SchedulerAddress.of(url)
        except ValueError as error:
            raise PluginError(f"{error}: mend [core] default_scheduler_url") from None
        self.url, self._given = self._address.url, Secret(url)
        self._worker_token = None if worker_token is None else Secret(worker_token)
        self._outbox = Outbox()
        self._renew()
        at_fork(self._renew)

    def __repr__(self) -> str:
        return f"HttpLedgerClient({self.url!r})"

    def __reduce__(self) -> Any:
        # Where children are spawned, they read the token from their own luigi.cfg.
        return (connect, (str(self._given),))

    def _renew(self) -> None:
        """Start without inherited connections."""
        self._pool = self._address.pool(maxsize=64, block=False)

    @property
    def address(self) -> str:
        """The address as it was given, with the user and password of a proxy, for this task's programs."""
        return self._given

    @property
    def authorization(self) -> str:
        """The `Authorization` header that a proxy before the scheduler asks for, "" for none."""
        return self._address.authorization

    # What a worker does with its token.

    def open_run(self, **fields: Any) -> dict[str, Any]:
        """Open (or find) a run; see `spend_open_run`. Raises LedgerUnavailable, SpendDenied."""
        return self._post("spend_open_run", fields)

    def claim(self, **fields: Any) -> dict[str, Any]:
        """Claim a dispatched task for an attempt. Raises LedgerUnavailable, SpendDenied."""
        return self._post("spend_claim", fields)

    def finish(self, claim_id: str, outcome: str) -> None:
        """Say how an attempt ended, now or later; never raises."""
        self._tell("spend_finish", {"claim_id": claim_id, "outcome": outcome}, None)

    def close_run(self, name: str, run_id: str | None = None) -> None:
        """Say that a root has completed, now or later; never raises. `run_id`: its run, where it is known."""
        said = {"name": name, "run_id": run_id, "request_id": str(uuid.uuid4())}
        self._tell("spend_close_run", said, None)

    def blocked(self, worker: str, wait_s: int = 0, task_ids: Sequence[str] = ()) -> dict[str, Any]:
        """Return what of a worker is blocked and why; see `spend_blocked`. Raises LedgerUnavailable.

        With `wait_s`: when one of its tasks was freed, or after so many seconds. `task_ids`: 500 at the most.
        """
        said = {"worker": worker, "wait_s": wait_s, "task_ids": list(task_ids)}
        return self._post("spend_blocked", said, patience_s=wait_s)

    def acknowledge(self, worker: str, run_id: str) -> None:
        """Say that a worker knows of a revoked run. Raises LedgerUnavailable, SpendDenied."""
        self._post("spend_acknowledge", {"worker": worker, "run_id": run_id})

    def due_prices(self, vendors: list[str]) -> list[dict[str, Any]]:
        """Return calls whose price is to be asked for now; see `spend_due_prices`. Raises LedgerUnavailable,
        SpendDenied.
        """
        due: list[dict[str, Any]] = self._post("spend_due_prices", {"vendors": vendors})["due"]
        return due

    def correct(self, call_id: str, found: FollowedUp) -> None:
        """Say what a call has cost; see `spend_correct`. Raises LedgerUnavailable, SpendDenied."""
        said = {**asdict(found), "note": found.note[:MAX_NOTE], "problem": found.problem[:MAX_NOTE]}
        self._post("spend_correct", {"call_id": call_id, **said})

    def issue_key(self, **terms: Any) -> dict[str, Any]:
        """Ask for a vault key; see `POST /vault/keys`. Raises LedgerUnavailable, SpendDenied, PluginError."""
        return self._post("issue_vault_key", terms)

    # What an attempt does with its vault key.

    def reserve(self, key: str, ask: ReserveRequest) -> ReserveReply:
        """Ask for a reservation. Raises LedgerUnavailable."""
        return ReserveReply.from_json(self._post("spend_reserve", ask.to_json(), key=key))

    def end(self, key: str, end: EndRequest) -> None:
        """Deliver how a call ended, now or later: never raises, never loses it while we live."""
        self._tell(f"spend_{end.kind}", end.to_json(), key)

    def _tell(self, method: str, body: dict[str, Any], key: str | None) -> None:
        what = f"{method} of {body.get('call_id') or body.get('claim_id') or body.get('name')}"
        self._outbox.tell(what, lambda: self._said(self._post(method, body, key)))

    def flush(self, timeout_s: float = FLUSH_S) -> bool:
        """Wait until every end is delivered; say which are not after `timeout_s` seconds."""
        return self._outbox.flush(timeout_s)

    def for_child(self) -> HttpLedgerClient:
        """Return itself: see `__reduce__`."""
        return self

    def close(self) -> None:
        """Close the connections; whatever is asked later opens others."""
        self._pool.clear()

    def _said(self, answer: dict[str, Any]) -> None:
        if answer.get("overrun_usd", "0.00") != "0.00":
            logger.error(
                "The vendor billed $%s more for call %s than was reserved: it is booked as overrun and "
                "the run is frozen. Look at `spendguard calls`, then `spendguard top-up` the run",
                answer["overrun_usd"],
                answer.get("call_id"),
            )

    def _post(
        self, method: str, body: Mapping[str, Any], key: str | None = None, patience_s: float = 0
    ) -> dict[str, Any]:
        token = key if key is not None else self._worker_token
        headers = {"Content-Type": "application/json", **self._address.credentials(token)}
        data = json.dumps(body).encode()
        limit = time.monotonic() + GIVE_UP_S + patience_s
        wait = 0.05
        while True:
            left = limit - time.monotonic()
            try:
                reply = self._pool.request(
                    "POST",
                    f"{self._address.base}/api/{method}",
                    body=data,
                    headers=headers,
                    retries=False,
                    redirect=False,
                    timeout=urllib3.Timeout(connect=max(0.1, min(2.0, left)), read=max(0.1, left)),
                )
                return self._read(method, reply.status, reply.data)
            except urllib3.exceptions.HTTPError as error:
                if time.monotonic() + wait > limit:
                    raise LedgerUnavailable(
                        f"the scheduler at {self.url} does not answer ({type(error).__name__}): start "
                        "luigid-spendguard, or mend [core] default_scheduler_url"
                    ) from None
            time.sleep(wait)
            wait = min(0.5, wait * 2)

    def _read(self, method: str, status: int, data: bytes) -> dict[str, Any]:
        try:
            said = json.loads(data)
        except ValueError:
            said = {}
        if status in (200, 201) and isinstance(said, dict) and isinstance(said.get("response"), dict):
            response: dict[str, Any] = said["response"]
            return response
        if status == 404 and not (isinstance(said, dict) and "error" in said):
            raise PluginError(
                f"the scheduler at {self.url} keeps no budgets: run luigid-spendguard there instead "
                "of luigid. Vendor tasks are refused until then"
            )
        message = str(said.get("message", "")) if isinstance(said, dict) else ""
        code = str(said.get("error", "")) if isinstance(said, dict) else ""
        if status == 429 and code == "cap":
            raise denial(code, message, said.get("facts"))
        if status in (401, 403) and code in ("revoked", "expired", "unknown_key"):
            raise denial(code, message)
        if status in (401, 407) and not code:
            raise LedgerUnavailable(
                f"what stands before the scheduler at {self.url} lets nobody in (HTTP {status}): mend user "
                "and password in [core] default_scheduler_url"
            )
        if status in (401, 403):
            raise denial("scope", f"the scheduler refused the worker: {message or status}")
        if status in (400, 404, 409, 413):
            raise denial("scope", f"the scheduler refused {method}: {message or status}")
        raise LedgerUnavailable(message or f"the scheduler answered HTTP {status} to {method}")


def connect(url: str) -> HttpLedgerClient:
    """Return a client for the scheduler at `url` with the token of luigi.cfg. Raises ConfigError."""
    return HttpLedgerClient(url, config.load().worker_token)


class LedgerClient(Protocol):
    """The worker's side of the ledger; `HttpLedgerClient` says what each method raises."""

    @property
    def url(self) -> str | None:
        """The scheduler's base URL; None where the ledger is in the worker's own process."""

    @property
    def authorization(self) -> str:
        """The `Authorization` header that a proxy before the scheduler asks for, "" for none."""

    def open_run(self, **fields: Any) -> dict[str, Any]:
        """Open (or find) a run."""

    def claim(self, **fields: Any) -> dict[str, Any]:
        """Claim a dispatched task for an attempt."""

    def finish(self, claim_id: str, outcome: str) -> None:
        """Say how an attempt ended, now or later; never raises."""

    def close_run(self, name: str, run_id: str | None = None) -> None:
        """Say that a root has completed, now or later; never raises. `run_id`: its run, where it is known."""

    def blocked(self, worker: str, wait_s: int = 0, task_ids: Sequence[str] = ()) -> dict[str, Any]:
        """Return what of a worker is blocked, after `wait_s` seconds or when something was freed; and how
        many of `task_ids` the scheduler does not know.
        """

    def acknowledge(self, worker: str, run_id: str) -> None:
        """Say that a worker knows of a revoked run."""

    def reserve(self, key: str, ask: ReserveRequest) -> ReserveReply:
        """Ask for a reservation."""

    def end(self, key: str, end: EndRequest) -> None:
        """Deliver how a call ended, now or later; never raises."""

    def due_prices(self, vendors: list[str]) -> list[dict[str, Any]]:
        """Return calls of these vendors, sent by workers, whose price is to be asked for now."""

    def correct(self, call_id: str, found: FollowedUp) -> None:
        """Say what a vendor says that a call has cost."""

    def flush(self, timeout_s: float = ...) -> bool:
        """Wait until everything that was to be delivered is."""

    def for_child(self) -> Any:
        """Return what a child of an attempt's is sent in place of this: it claims nothing, only calls."""

    def close(self) -> None:
        """Let go of files, threads and connections; whatever is asked later opens them again."""
