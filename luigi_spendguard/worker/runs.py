"""A root task's run: what it is called, the budget that is asked for it, how it is opened and announced."""

from __future__ import annotations

import inspect
import logging
import os
import time
import unicodedata
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from luigi_spendguard.errors import PluginError
from luigi_spendguard.http.ledger_client import LedgerClient
from luigi_spendguard.money import BadAmount, parse_usd, plain_usd
from luigi_spendguard.process_state import made_once
from luigi_spendguard.protocol.rpcs import MAX_PAYMENT_KEY, OpenRunRequest
from luigi_spendguard.redaction import shows
from luigi_spendguard.tags import BadTags, tags_in

logger = logging.getLogger(__name__)


class RootTask:
    """A root task, as its run is opened for it.

    What it says is read when the first vendor task needs it: a plain pipeline's attributes of these names
    are its own. Reading never raises; `problem` says what is not usable.
    """

    def __init__(self, task: Any) -> None:
        self._task = task
        self.begin()
        self.family: str = task.task_family
        self.task_id: str = task.task_id

    def begin(self) -> None:
        """Take note that its worker begins now to look what is complete."""
        self._begun = time.monotonic()

    @property
    def looked_ms(self) -> int:
        """For how long its worker has looked by now, in milliseconds; never 0, which says nothing."""
        return max(1, int(1000 * (time.monotonic() - self._begun)))

    @made_once
    def _declared(self) -> tuple[str, str | None, dict[str, str] | None, str]:
        try:
            task = self._task
            return _name_of(task), amount_of(task, "budget_usd"), _tags_of(task), ""
        except BadAmount as error:
            return "", "0", None, str(error)
        except Exception as error:
            why = f"{type(error).__name__}: {error}"
            what = f"run_id, budget_usd or spend_tags of {self.family} cannot be read: {why}"
            return "", "0", None, what

    @property
    def name(self) -> str:
        """The root's `run_id`, else SPENDGUARD_RUN_ID, else its task_id."""
        return self._declared[0] or self.task_id

    @property
    def by_task_id(self) -> bool:
        """Whether the name is the task_id: the run then ends when the root completes."""
        return not self._declared[0]

    @property
    def budget_usd(self) -> str | None:
        """What the root asks for as a decimal text, None when it asks for nothing."""
        return self._declared[1]

    @property
    def tags(self) -> dict[str, str] | None:
        """What the root says that its run is counted under in reports, None when it says nothing."""
        return self._declared[2]

    @property
    def problem(self) -> str:
        """Why no run can be opened for what the root says, "" when one can."""
        return self._declared[3]


def _name_of(task: Any) -> str:
    run_id = getattr(task, "run_id", None)
    if run_id is not None and not isinstance(run_id, str):
        raise BadAmount(f"{task.task_family}.run_id must be a text, not {type(run_id).__name__}")
    name = (run_id or os.environ.get("SPENDGUARD_RUN_ID") or "").strip()
    if len(name) > 255 or not name.isprintable():
        raise BadAmount(f"{task.task_family}.run_id must have at most 255 printable characters")
    return name


def _tags_of(task: Any) -> dict[str, str] | None:
    # Not by `getattr`'s default: that hides an AttributeError within a property, and with it the tags.
    if inspect.getattr_static(task, "spend_tags", None) is None:
        return None
    said = task.spend_tags
    try:
        return None if said is None else tags_in(said) or None
    except BadTags as error:
        raise BadAmount(f"{task.task_family}.spend_tags {error}") from None


def vendors_of(task: Any) -> list[str]:
    """Return the vendors that a task says it calls."""
    vendors = getattr(task, "vendors", ())
    named = (vendors,) if isinstance(vendors, str) else vendors if isinstance(vendors, (tuple, list)) else ()
    return [vendor for vendor in named if isinstance(vendor, str)]


def amount_of(task: Any, name: str) -> str | None:
    """Return an amount that a task declares as a decimal text, None when it declares none.

    Raises BadAmount when it is none, and whatever a property of the task's raises.
    """
    asked = getattr(task, name, None)
    if asked is None or asked == "":
        return None
    # A Luigi FloatParameter arrives as a float: its shortest text is what the user wrote.
    text = repr(asked) if isinstance(asked, float) else asked
    try:
        if not isinstance(text, (str, int, Decimal)) or isinstance(text, bool):
            raise BadAmount(f"it is a {type(asked).__name__}")
        return plain_usd(parse_usd(text))
    except BadAmount as error:
        raise BadAmount(f"{task.task_family}.{name} is not usable: {error}") from None


def payment_keys_of(tasks: Sequence[Any]) -> tuple[str, ...]:
    """Return what a task, or each task of a batch, says that it pays for; () where none says so.

    Raises PluginError for what is no key, and for a batch that it cannot tell apart by them.
    """
    keys = {task.task_id: _payment_key_of(task) for task in tasks}
    said = {task_id: key for task_id, key in keys.items() if key is not None}
    family = tasks[0].task_family
    if len(said) not in (0, len(keys)):
        silent = next(task_id for task_id in keys if task_id not in said)
        raise PluginError(
            f"{family}.payment_key must be said by all tasks of a batch or by none: that of {silent} is None"
        )
    by_key: dict[str, str] = {}
    for task_id, key in said.items():
        if (other := by_key.setdefault(key, task_id)) != task_id:
            raise PluginError(
                f"{family}.payment_key is {key!r} for {other} and for {task_id}, which are in one batch: two "
                "tasks of one payment are not paid together. Leave one of them away, or, where they are two "
                "payments, let payment_key say so"
            )
    return tuple(by_key)


def _payment_key_of(task: Any) -> str | None:
    """Return what a task says that it pays for, None where it says nothing. Raises PluginError."""
    name = f"{task.task_family}.payment_key"
    # Not by `getattr`'s default: that hides an AttributeError within a property, and with it the key.
    if inspect.getattr_static(task, "payment_key", None) is None:
        return None
    try:
        key = task.payment_key
    except Exception as error:
        raise PluginError(f"{name} cannot be read: {type(error).__name__}: {error}") from error
    if key is None:
        return None
    if not isinstance(key, str):
        raise PluginError(f"{name} must be a text, not {type(key).__name__}")
    key = unicodedata.normalize("NFC", key.strip())
    if not 0 < len(key) <= MAX_PAYMENT_KEY or not key.isprintable():
        raise PluginError(f"{name} must have 1 to {MAX_PAYMENT_KEY} printable characters, or be None")
    if shows(key):
        raise PluginError(f"{name} must not have a secret or a vault key in it")
    return key


def open_run(client: LedgerClient, root: RootTask) -> str:
    """Open the run of a root, or find it; return its run_id. Raises LedgerUnavailable, SpendDenied."""
    asked = (root.name, root.by_task_id, root.family, root.task_id, root.budget_usd)
    run = client.open_run(OpenRunRequest(*asked, looked_ms=root.looked_ms, tags=root.tags))
    if run.note:
        logger.warning("Run %s has a cap of $%s: %s", run.run_id, run.cap_usd, run.note)
    if root.by_task_id and run.run_id != root.name:
        logger.info(
            "Run %s: an earlier run of this root has ended, and what its tasks call now are new calls. A "
            "root with a run_id goes on with its run",
            run.run_id,
        )
    return run.run_id


def announced_root(root: RootTask) -> dict[str, Any]:
    """Return what the scheduler is told of a root, in `spendguard_root`: what its task_id does not say.

    Who runs it for this worker, and sees it yield a vendor task, opens its run by that.
    """
    if root.problem or (root.by_task_id and root.budget_usd is None and root.tags is None):
        return {}
    tags = {} if root.tags is None else {"tags": root.tags}
    return {"spendguard_root": {"name": root.name, "budget_usd": root.budget_usd, **tags}}
