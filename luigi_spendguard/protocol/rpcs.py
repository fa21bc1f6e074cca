"""The RPCs of workers and of their attempts: what each takes, and what it answers.

`http/ledger_client.py` asks and `scheduler_patch/service/__init__.py` answers, over HTTP or in one process
(`scheduler_patch/local.py`); `GET /openapi.json` is made of the messages. USD stands in a decimal text.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Generic, TypeVar

from luigi_spendguard.money import MAX_MICROS
from luigi_spendguard.protocol import (
    ENDS as ENDS_OF_CALLS,
)
from luigi_spendguard.protocol import (
    MAX_BODY,
    MAX_NOTE,
    EndReply,
    EndRequest,
    ReserveReply,
    ReserveRequest,
    messages,
    redact_texts,
)
from luigi_spendguard.protocol.messages import (
    BadMessage,
    Family,
    Flag,
    Id,
    Kind,
    LenientMessage,
    Message,
    NoFields,
    RunName,
    Text,
    Usd,
)
from luigi_spendguard.tags import MAX_TAG_VALUE, MAX_TAGS, BadTags, tags_in

Q = TypeVar("Q", bound=Message)
R = TypeVar("R", bound=Message)

#: How an attempt may end. A child says that its `run()` has `returned`; that the task has `completed` is
#: Luigi's verdict DONE, after `on_success`, and the worker's main process says it.
OUTCOMES = ("returned", "completed", "failed", "yielded", "blocked", "died")
#: Names in one list of a key's terms at the most.
MAX_NAMES = 100
#: The most characters of a `payment_key`, and the most that a batch may have.
MAX_PAYMENT_KEY, MAX_PAYMENTS = 255, 10_000


def _read_new_run(name: str, value: Any) -> str:
    if (run := messages.run_name(name, value)) in (".", ".."):
        raise BadMessage(f"{name!r} must not be . or ..: no address could lead to such a run")
    return run


def _read_params(name: str, value: Any) -> dict[str, str]:
    if not isinstance(value, dict | None) or not all(isinstance(one, str) for one in (value or {}).values()):
        raise BadMessage(f"{name!r} must map texts to texts")
    return value or {}


def _read_total(name: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise BadMessage(f"{name!r} must be a whole number of micro-dollars, or null")
    if value > MAX_MICROS:
        raise BadMessage(f"{name!r} is out of range")
    return value


def _read_dollars(name: str, value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise BadMessage(f'{name!r} must be an amount of USD such as 50 or "12.50"')
    return value if isinstance(value, str) else repr(value)  # The shortest text is what was written.


def _read_names(name: str, value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or not 0 < len(value) <= MAX_NAMES:
        raise BadMessage(f"{name!r} must be a list of 1 to {MAX_NAMES} texts")
    return tuple(value)  # What each is is looked at with the vendor.


def _read_payment_keys(name: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > MAX_PAYMENTS:
        raise BadMessage(f"{name!r} must be a list of {MAX_PAYMENTS} texts at the most")
    if not all(isinstance(one, str) and 0 < len(one) <= MAX_PAYMENT_KEY for one in value):
        raise BadMessage(f"{name!r} must be texts of 1 to {MAX_PAYMENT_KEY} characters")
    return tuple(value)


def _read_tags(name: str, value: Any) -> dict[str, str]:
    try:
        return tags_in(value)
    except BadTags as error:
        raise BadMessage(f"{name!r} {error}") from None


_NewRun = Annotated[str, Kind(_read_new_run, messages.text(255).schema)]
_Params = Annotated[
    dict[str, str],
    Kind(_read_params, {"type": "object", "additionalProperties": {"type": "string"}, "nullable": True}),
]
_Total = Annotated[int, Kind(_read_total, {"type": "integer", "minimum": 0})]
_Note = Annotated[str, messages.text(MAX_NOTE, empty=True)]
#: What a run says of itself; a ledger may have a longer one than is written today.
_Remark = Annotated[str, messages.plain_text(MAX_BODY)]
_Dollars = Annotated[str, Kind(_read_dollars, {"oneOf": [messages.USD, {"type": "number", "minimum": 0}]})]
_Names = Annotated[
    tuple[str, ...],
    Kind(
        _read_names, {"type": "array", "items": messages.text().schema, "minItems": 1, "maxItems": MAX_NAMES}
    ),
]
_Tags = Annotated[
    dict[str, str],
    Kind(
        _read_tags,
        {
            "type": "object",
            "maxProperties": MAX_TAGS,
            "additionalProperties": {"type": "string", "minLength": 1, "maxLength": MAX_TAG_VALUE},
        },
    ),
]
_PaymentKeys = Annotated[
    tuple[str, ...],
    Kind(
        _read_payment_keys,
        {"type": "array", "items": messages.text(MAX_PAYMENT_KEY).schema, "maxItems": MAX_PAYMENTS},
    ),
]
_Label = Annotated[
    str, Kind(messages.text().read, {"type": "string", "maxLength": 255, "description": "luigi/<run_id>"})
]
_Span = Annotated[str, Kind(messages.text().read, {"type": "string", "pattern": "^[0-9]{1,9}[smhd]$"})]
_Moment = Annotated[str, Kind(messages.text().read, {"type": "string", "format": "date-time"})]


@dataclass(frozen=True)
class OpenRunRequest(Message):
    """A root task whose run is to be opened, or found.

    Attributes:
        name: the root's `run_id`, or its task_id when `by_task_id`.
        budget_usd: what the root asks for; None: nothing.
        looked_ms: for how long the worker has looked by now what is complete, in milliseconds. What others
            complete meanwhile this run repeats, and does not make anew.
        tags: what the root says that its run is counted under in reports; None: nothing.

    """

    name: _NewRun
    by_task_id: Flag
    root_family: Family
    root_task_id: Text
    budget_usd: Usd | None = None
    looked_ms: messages.Amount = 0
    tags: _Tags | None = None


@dataclass(frozen=True)
class OpenRunReply(LenientMessage):
    """A run that is open now.

    Attributes:
        run_id: what the other RPCs take.
        note: why the cap is what it is, "" where nobody wonders.
        opened_at, ended_at: in milliseconds since the epoch.

    """

    run_id: str
    root_family: str
    root_task_id: str
    label: str
    state: str
    cap_usd: str
    spent_usd: str
    reserved_usd: str
    overrun_usd: str
    remaining_usd: str
    forecast_usd: str | None
    estimated_usd: str
    unknown_tasks: int
    approved_usd: str | None
    sufficient_cap_usd: str
    note: _Remark
    opened_at: int
    ended_at: int | None


@dataclass(frozen=True)
class ClaimRequest(Message):
    """One attempt of a task that was dispatched to a worker.

    Attributes:
        claim_id: made by the worker, one for each attempt.
        run_id: what the worker takes for the task's run; None: as luigid knows.
        max_cost_usd: what the task says its calls may spend in all; None: it does not say.
        payment_keys: what the task, or each task of a batch, says that it pays for; empty: nothing.

    """

    claim_id: Id
    task_id: Text
    family: Family
    worker: Text
    run_id: Text | None = None
    params: _Params = field(default_factory=dict)
    max_cost_usd: Usd | None = None
    payment_keys: _PaymentKeys = ()


@dataclass(frozen=True)
class ClaimReply(LenientMessage):
    """A claimed task: the run that pays, its vault key, and the vendors whose calls a gateway sends.

    `together`: this luigid knows `spend_attempt`.
    """

    run_id: str
    vault_key: str = field(repr=False)
    claim_id: str = ""
    gateway: tuple[str, ...] = ()
    together: bool = False


@dataclass(frozen=True)
class EndedCall(LenientMessage):
    """An `EndReply`, or why the end was not taken: `refused`."""

    call_id: str
    state: str = ""
    overrun_usd: str | None = None
    refused: str = ""


@dataclass(frozen=True)
class FinishRequest(Message):
    """How an attempt ended: one of OUTCOMES. Before that, how calls of it did which nobody has said yet."""

    claim_id: Id
    outcome: Annotated[str, messages.one_of(OUTCOMES)]
    ends: tuple[EndRequest, ...] = ()


@dataclass(frozen=True)
class FinishReply(LenientMessage):
    """Whether there is such a claim, and what has become of each call that has ended, in their order."""

    known: bool
    ends: tuple[EndedCall, ...] = ()


@dataclass(frozen=True)
class EndedRequest(Message):
    """How calls of a vault key's have ended, as somebody says it who does not have the key.

    Attributes:
        key_hash: of the key, as `protocol.key_hash`: nobody can show that in its place.

    """

    key_hash: Annotated[str, messages.text(64)]
    ends: tuple[EndRequest, ...]


@dataclass(frozen=True)
class EndedReply(LenientMessage):
    """What has become of each call that has ended, in their order."""

    ends: tuple[EndedCall, ...] = ()


@dataclass(frozen=True)
class AttemptRequest(Message):
    """What an attempt says at once: how calls have ended, then what it asks for."""

    ends: tuple[EndRequest, ...] = ()
    ask: ReserveRequest | None = None

    def __post_init__(self) -> None:
        """Refuse an attempt that says nothing. Raises BadMessage."""
        if not self.ends and self.ask is None:
            raise BadMessage("one of 'ends' and 'ask' must be given")


@dataclass(frozen=True)
class AttemptReply(LenientMessage):
    """What has become of each call that has ended, in their order, and the answer to what was asked for."""

    ends: tuple[EndedCall, ...] = ()
    answer: ReserveReply | None = None


@dataclass(frozen=True)
class CloseRunRequest(Message):
    """A root that has completed.

    Attributes:
        run_id: its run; None: the current run of that name.
        request_id: ends a run once, however often it is sent.

    """

    name: RunName
    run_id: Text | None = None
    request_id: Text | None = None


@dataclass(frozen=True)
class CloseRunReply(LenientMessage):
    """Whether the run has ended; one that is named by a `run_id` never does.

    Attributes:
        run_id: that run, where calls of it are in doubt: so many, that may have cost so much.

    """

    closed: bool
    run_id: str = ""
    in_doubt_calls: int = 0
    in_doubt_usd: str = "0.00"


@dataclass(frozen=True)
class BlockedRequest(Message):
    """A worker that asks what of its tasks is blocked.

    Attributes:
        wait_s: seconds to wait until one of them was freed.
        task_ids: of these it is said how many nobody has scheduled at luigid.

    """

    worker: Text
    wait_s: Annotated[
        int, messages.number(0, 60, "a whole number of seconds from 0 to 60", {"minimum": 0, "maximum": 60})
    ] = 0
    task_ids: Annotated[tuple[str, ...], messages.texts(500)] = ()


@dataclass(frozen=True)
class BlockedTasks(LenientMessage):
    """Tasks of a run that are blocked for one reason: `code` for programs, `text` and `advice` for people."""

    run_id: str
    code: str
    text: str
    advice: str
    tasks: int
    task_ids: tuple[str, ...]


@dataclass(frozen=True)
class RunStanding(LenientMessage):
    """How a run of a worker's stands: its tasks that are blocked, and its calls in doubt.

    Attributes:
        due: vendor tasks that would run now.
        behind: tasks that wait behind those, or are blocked as well once they are due.
        denied: lines saying why calls were denied for which no operator's decision is awaited.

    """

    run_id: str
    due: int
    behind: int
    in_doubt_calls: int
    in_doubt_usd: str
    denied: tuple[str, ...] = ()


@dataclass(frozen=True)
class BlockedReply(LenientMessage):
    """How many of a worker's tasks are due, and why others are not.

    Attributes:
        waiting: tasks that wait for others to end.
        why: by reason; without their `task_ids` where it was waited for.
        paused: whether luigid is.
        unknown: how many of the tasks that were asked about nobody has scheduled there.
        shadow: in shadow mode, lines saying which caps would have sufficed.
        runs: the worker's runs of which something is blocked, in doubt or denied; none where it was waited
            for.

    """

    blocked: int
    ready: int
    waiting: int
    why: tuple[BlockedTasks, ...]
    paused: bool
    unknown: int
    shadow: tuple[str, ...]
    runs: tuple[RunStanding, ...] = ()


@dataclass(frozen=True)
class AcknowledgeRequest(Message):
    """A worker that knows of a revoked run."""

    worker: Text
    run_id: Text


@dataclass(frozen=True)
class DuePricesRequest(Message):
    """Whoever has the secrets of these vendors, and asks which prices are to be asked for."""

    vendors: Annotated[tuple[str, ...], messages.texts(100)]


@dataclass(frozen=True)
class DuePrice(LenientMessage):
    """A call whose price is to be asked for now."""

    call_id: str
    vendor: str
    account: str
    object_id: str


@dataclass(frozen=True)
class DuePricesReply(LenientMessage):
    """What is lent to who has asked, for a minute."""

    due: tuple[DuePrice, ...]


@dataclass(frozen=True)
class CorrectRequest(Message):
    """What a vendor says later of what a call has cost.

    Attributes:
        total_micros: what it has cost, in micro-dollars; None: the vendor does not say.
        final: nothing more will be said.
        whole: the call's fees are in it.
        problem: why it cannot be booked yet, said on the run.

    """

    call_id: Id
    final: Flag
    total_micros: _Total | None = None
    note: _Note = ""
    whole: Flag = False
    problem: _Note = ""

    def __post_init__(self) -> None:
        """Take secrets and vault keys out of what is kept."""
        redact_texts(self, but=())


@dataclass(frozen=True)
class CorrectReply(LenientMessage):
    """Whether the call's price was still waited for."""

    known: bool


@dataclass(frozen=True)
class IssueKeyRequest(Message):
    """The terms of a vault key, as docs/http-api.md has them."""

    vendor: Id
    agent_run_label: _Label | None = None
    run_usd_cap: _Dollars | None = None
    daily_usd_cap: _Dollars | None = None
    allowed_endpoints: _Names = ()
    allowed_customers: _Names = ()
    allowed_accounts: _Names = ()
    expires_in: _Span | None = None
    expires_at: _Moment | None = None


@dataclass(frozen=True)
class IssueKeyReply(LenientMessage):
    """A vault key that was issued; what is shown of it otherwise stands beside."""

    vault_key: str = field(repr=False)
    run_id: str
    expires_at: str


@dataclass(frozen=True)
class Rpc(Generic[Q, R]):
    """One RPC: `/api/<name>`, what it takes and what it answers."""

    name: str
    request: type[Q]
    reply: type[R]


# A worker's, under its token.
OPEN_RUN = Rpc("spend_open_run", OpenRunRequest, OpenRunReply)
CLAIM = Rpc("spend_claim", ClaimRequest, ClaimReply)
FINISH = Rpc("spend_finish", FinishRequest, FinishReply)
CLOSE_RUN = Rpc("spend_close_run", CloseRunRequest, CloseRunReply)
ENDED = Rpc("spend_ended", EndedRequest, EndedReply)
BLOCKED = Rpc("spend_blocked", BlockedRequest, BlockedReply)
ACKNOWLEDGE = Rpc("spend_acknowledge", AcknowledgeRequest, NoFields)
DUE_PRICES = Rpc("spend_due_prices", DuePricesRequest, DuePricesReply)
CORRECT = Rpc("spend_correct", CorrectRequest, CorrectReply)
ISSUE_KEY = Rpc("issue_vault_key", IssueKeyRequest, IssueKeyReply)
# An attempt's, under its vault key.
RESERVE = Rpc("spend_reserve", ReserveRequest, ReserveReply)
#: By `EndRequest.kind`.
ENDS = {kind: Rpc(f"spend_{kind}", EndRequest, EndReply) for kind in ENDS_OF_CALLS}
#: Several of these in one message, which is durable as a whole before it is answered.
ATTEMPT = Rpc("spend_attempt", AttemptRequest, AttemptReply)
