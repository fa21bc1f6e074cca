"""What operators and pages ask of luigid: the fields of our HTTP routes and of the RPCs that are no worker's.

Of a route, the fields that its address names come from there.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

from luigi_spendguard.protocol import commands, messages
from luigi_spendguard.protocol.messages import (
    BadMessage,
    Flag,
    Kind,
    Message,
    RequestId,
    RunId,
    Text,
    Usd,
    texts,
)
from luigi_spendguard.settings.policy import expiry_ms

#: The number of an entry of the journal.
EntryNumber = Annotated[int, messages.number(0, 2**53 - 1, "a whole number", {"minimum": 0})]


def _usd(what: str) -> Kind:
    """Return the kind of an amount that has to be a text: `what` says of what."""

    def read(name: str, value: Any) -> str:
        if not isinstance(value, str):
            raise BadMessage(f"{name!r} must be {what}")
        return value

    return Kind(read, messages.USD)


@dataclass(frozen=True)
class TopUpRequest(Message):
    """By how much a run's cap is to be raised, or that of one budget inside it.

    Attributes:
        family, vendor, day: which budget: a task family's, a vendor's, or what the run may spend today beyond
            the day's cap of all runs.

    """

    run_id: RunId
    usd: Annotated[str, _usd('a text such as "50" or "12.50"')]
    family: Text | None = None
    vendor: Text | None = None
    day: Flag = False
    request_id: RequestId | None = None

    def __post_init__(self) -> None:
        """Raise BadMessage for more than one budget."""
        if (self.family is not None) + (self.vendor is not None) + self.day > 1:
            raise BadMessage(
                "a top-up raises one budget: say 'family', 'vendor' or 'day', or none for the run's"
            )


@dataclass(frozen=True)
class OneTopUp(Message):
    """A top-up that waits for a second operator, named by its id."""

    id: Text


@dataclass(frozen=True)
class ConfirmRequest(Message):
    """A top-up that waits, and that its second operator confirms."""

    id: Text
    request_id: RequestId | None = None


@dataclass(frozen=True)
class ApproveRequest(Message):
    """What is approved of a run, as it was shown: its forecast, or what one task may cost.

    Attributes:
        up_to: the amount is a ceiling for the forecast, and so are the unknown tasks.
        duplicate_of: the other task's call beside which that task's call waits.

    """

    run_id: RunId
    usd: Annotated[
        str,
        _usd(
            "the amount that was shown, as a text: the run's `forecast_usd`, or what the task named by "
            "'task_id' may cost"
        ),
    ]
    unknown_tasks: Annotated[
        int,
        messages.number(
            0, 10**9 - 1, "the run's `unknown_tasks` that was shown: a whole number", {"minimum": 0}
        ),
    ] = 0
    up_to: Flag = False
    task_id: Text | None = None
    duplicate_of: Text | None = None
    request_id: RequestId | None = None

    def __post_init__(self) -> None:
        """Raise BadMessage for what does not go together."""
        if self.task_id is None and self.duplicate_of is not None:
            raise BadMessage("'duplicate_of' needs the 'task_id' that waits beside that call")
        if self.task_id is not None and self.up_to:
            raise BadMessage(
                "'up_to' belongs to a forecast: what a single task may cost is its ceiling anyway"
            )
        if self.task_id is not None and self.unknown_tasks:
            raise BadMessage("'unknown_tasks' belongs to a forecast, not to a single task")


@dataclass(frozen=True)
class ResolveRequest(Message):
    """What became of a call, by the operator's word: what it has spent, or that it was not sent.

    Attributes:
        by_books: the vendor's own books say it, of a call that the vendor's answer has ended, too.
        as_of: the last entry of the journal about the call, or about what acts on its object, when it was
            compared: what has changed since is not overwritten.

    """

    id: Text
    spent_usd: Usd | None = None
    not_sent: Flag = False
    object_id: Text | None = None
    overrun: Flag = False
    correct: Flag = False
    by_books: Flag = False
    as_of: EntryNumber | None = None
    request_id: RequestId | None = None

    def __post_init__(self) -> None:
        """Raise BadMessage for what does not go together."""
        if (self.spent_usd is None) is not self.not_sent:
            raise BadMessage('say either {"spent_usd": "2"} or {"not_sent": true}')
        if self.not_sent and self.object_id:
            raise BadMessage("'object_id' goes with 'spent_usd'")
        if self.object_id == commands.OBJECT:
            what = "stands for the id at the vendor, such as pi_3Q0001: say that"
            raise BadMessage(f"'object_id' {commands.OBJECT} {what}")


@dataclass(frozen=True)
class OneRun(Message):
    """A run, named by its `run_id`."""

    run_id: RunId


@dataclass(frozen=True)
class TaskCostsRequest(Message):
    """Tasks whose cost is asked for."""

    task_ids: Annotated[tuple[str, ...], texts(500)]


@dataclass(frozen=True)
class OneKey(Message):
    """A vault key, named by its id or by itself."""

    id: Text = field(repr=False)


@dataclass(frozen=True)
class ListKeysRequest(Message):
    """Which run's keys are to be listed; None: all."""

    run_id: Text | None = None


def _moment(name: str, value: Any) -> int:
    try:
        return expiry_ms(str(messages.text().read(name, value)))
    except ValueError as error:
        raise BadMessage(f"{name!r} {error}") from None


@dataclass(frozen=True)
class ForgetRequest(Message):
    """Whose texts are to be deleted: a customer's id, a telephone number or a mail address."""

    customer: Text


@dataclass(frozen=True)
class AuditPruneRequest(Message):
    """What of the audit is to be pruned: blocks that were sealed `before` then, in milliseconds since the
    epoch; `dry_run`: only say what would be.
    """

    before: Annotated[int, Kind(_moment, {"type": "string", "format": "date-time"})]
    dry_run: Flag = False


@dataclass(frozen=True)
class PruneRequest(Message):
    """What is to be pruned: calls of runs that were over `before` then, in milliseconds since the epoch.

    Attributes:
        dry_run: only say what would be.
        after: the `next` of the answer before, 0 for the first.

    """

    before: Annotated[int, Kind(_moment, {"type": "string", "format": "date-time"})]
    dry_run: Flag = False
    after: Annotated[int, messages.number(0, 2**53 - 1, "a whole number", {"minimum": 0})] = 0
