"""What a worker needs of the ledger, however it is reached: over luigid's RPCs, or in its own process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from luigi_spendguard.messages import Answer, Ask, End
from luigi_spendguard.vendors import FollowedUp


class LedgerPort(Protocol):
    """The worker's side of the ledger; `LedgerClient` says what each method raises."""

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

    def reserve(self, key: str, ask: Ask) -> Answer:
        """Ask for a reservation."""

    def end(self, key: str, end: End) -> None:
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
