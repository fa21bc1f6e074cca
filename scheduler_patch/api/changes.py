"""What operators do to runs and calls: revoke, top up, approve, resolve."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from luigi_spendguard.ledger.corrections import Resolution
from luigi_spendguard.money import parse_usd
from luigi_spendguard.protocol import messages
from luigi_spendguard.protocol.messages import BadMessage, Flag, Kind, Message, RequestId, RunId, Text, Usd
from scheduler_patch.api import queries
from scheduler_patch.api.handler import Call
from scheduler_patch.service import operators
from scheduler_patch.service.workers import LedgerService


def _usd(what: str) -> Kind:
    """Return the kind of an amount that has to be a text: `what` says of what."""

    def read(name: str, value: Any) -> str:
        if not isinstance(value, str):
            raise BadMessage(f"{name!r} must be {what}")
        return value

    return Kind(read, messages.USD)


@dataclass(frozen=True)
class TopUpRequest(Message):
    """By how much a run's cap is to be raised."""

    run_id: RunId
    usd: Annotated[str, _usd('a text such as "50" or "12.50"')]
    request_id: RequestId | None = None


@dataclass(frozen=True)
class ApproveRequest(Message):
    """What is approved of a run, as it was shown: its forecast, or what one task may cost."""

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
    task_id: Text | None = None
    request_id: RequestId | None = None

    def __post_init__(self) -> None:
        """Raise BadMessage for what does not go together."""
        if self.task_id is not None and self.unknown_tasks:
            raise BadMessage("'unknown_tasks' belongs to a forecast, not to a single task")


@dataclass(frozen=True)
class ResolveRequest(Message):
    """What became of a call, by the operator's word: what it has spent, or that it was not sent."""

    id: Text
    spent_usd: Usd | None = None
    not_sent: Flag = False
    object_id: Text | None = None
    overrun: Flag = False
    correct: Flag = False
    request_id: RequestId | None = None

    def __post_init__(self) -> None:
        """Raise BadMessage for what does not go together."""
        if (self.spent_usd is None) is not self.not_sent:
            raise BadMessage('say either {"spent_usd": "2"} or {"not_sent": true}')
        if self.not_sent and (self.object_id or self.overrun):
            raise BadMessage("'object_id' and 'overrun' go with 'spent_usd'")


async def revoke(service: LedgerService, call: Call, request: queries.OneRun) -> Any:
    """Revoke a run. Raises NotFound, Conflict."""
    shown = await operators.revoke(service, request.run_id)
    return await queries.whole(service, request.run_id) | {"calls_under_way": shown["calls_under_way"]}


async def top_up(service: LedgerService, call: Call, request: TopUpRequest) -> Any:
    """Raise a run's cap. Raises BadAmount, NotFound, Conflict."""
    await operators.top_up(service, request.run_id, request.usd, request.request_id)
    return await queries.whole(service, request.run_id)


async def approve(service: LedgerService, call: Call, request: ApproveRequest) -> Any:
    """Let a forecast or a task's cost pass. Raises BadAmount, NotFound, Conflict."""
    amount, task_id = parse_usd(request.usd), request.task_id or ""
    approval = operators.Approval(request.run_id, amount, task_id, request.unknown_tasks, request.request_id)
    await operators.approve(service, approval)
    return await queries.whole(service, request.run_id)


async def resolve(service: LedgerService, call: Call, request: ResolveRequest) -> Any:
    """End an in-doubt call, or correct it. Raises BadAmount, NotFound, Conflict."""
    amount = None if request.spent_usd is None else parse_usd(request.spent_usd)
    resolution = Resolution(amount, request.object_id, request.overrun, request.correct)
    return await operators.resolve(service, request.id, resolution, request.request_id)
