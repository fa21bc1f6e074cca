"""What a guard and the ledger say to each other, as frozen values with a JSON form.

The guard may sit in a worker and the ledger behind luigid's RPC, so everything here is plain data.
Money is an `int` of micro-dollars, time an `int` of milliseconds since the epoch.
"""

from __future__ import annotations

import dataclasses
import hashlib
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from luigi_spendguard.errors import DENIAL_STATUS
from luigi_spendguard.money import MAX_MICROS
from luigi_spendguard.redaction import redact_url

T = TypeVar("T", bound="_Message")

#: A grant may be used for this long, counted by the sender from the moment it asked.
GRANT_SECONDS = 2.0

#: How the key begins that a worker gives a call whose SDK has made none up.
OWN_KEY = "spendguard-call-"

#: How every vault key begins.
KEY_PREFIX = "vault_key_"

#: The header of an answer that was given before: when, in milliseconds since the epoch.
REPLAYED = "x-spendguard-replayed"

#: The header of a call that may be a repeated one: the keys of calls not answered, blank between.
UNANSWERED = "x-spendguard-unanswered"

#: The header of every answer of a gateway's, the vendor's own or not.
RELAYED = "x-spendguard-relayed"

#: The header of a token or vault key, where a proxy in between has `Authorization` for itself.
CREDENTIAL = "x-spendguard-token"

#: The header of a call that a guarded worker has forwarded: its SDK follows the vendor's own links.
FORWARDED = "x-spendguard-forwarded"

#: Longest text accepted in one field (bodies excepted), and longest body kept for sending again.
MAX_TEXT = 4096
MAX_BODY = 1 << 20
#: The most characters that are kept of a text that only serves display.
MAX_SHOWN = 300
#: All keys of calls that were not answered: many a proxy takes a header of 8 KB and no more.
MAX_UNANSWERED = 7000
#: Stands for keys that are too many to be named: the gateway refuses the call, on record.
TOO_MANY_UNANSWERED = "*"
#: The most targets of one call, and the length of a digest of each: a batch of mails has some thousands.
MAX_TARGETS, TARGET_DIGITS = 15_000, 16
#: The longest remark about a price that came late.
MAX_NOTE = 300
#: The longest that a sender may wait for its vendor: `timeout_s` of luigi.cfg goes no further.
MAX_TIMEOUT_MS = 600_000


#: What a run is at: its state, refined by what its tasks wait for.
RUN_STATUSES = ("active", "blocked", "held", "frozen", "ended", "revoked")
#: What calls can be asked for by: `denied` is all of them, `allowed:cap` what shadow mode let through.
VERDICTS = ("allowed", "allowed:cap", "replayed", "denied", *(f"denied:{why}" for why in DENIAL_STATUS))


class BadMessage(ValueError):
    """A message does not have the fields or types it must have."""


_KINDS: dict[str, tuple[type, ...]] = {"str": (str,), "int": (int,), "bool": (bool,), "dict": (dict,)}


class _Message:
    """JSON in and out; `from_json` refuses unknown fields, wrong types and over-long texts."""

    def to_json(self) -> dict[str, Any]:
        return {
            f.name: value
            for f in dataclasses.fields(self)  # type: ignore[arg-type]  # every subclass is one
            if (value := getattr(self, f.name)) != f.default
        }

    @classmethod
    def from_json(cls: type[T], data: Any) -> T:
        """Build the message from decoded JSON. Raises BadMessage."""
        if not isinstance(data, dict):
            raise BadMessage("expected a JSON object")
        fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]  # as above
        if unknown := sorted(set(data) - set(fields)):
            raise BadMessage(f"unknown field {unknown[0]!r}")
        for name, value in data.items():
            _check(name, value, str(fields[name].type))
            _check_bounds(name, value)
        try:
            return cls(**data)
        except TypeError:
            raise BadMessage("a required field is missing") from None


#: The longest text of a field that has another limit than MAX_TEXT.
_LIMITS = {
    "body": MAX_BODY,
    "answer_body": MAX_BODY,
    "unanswered": MAX_UNANSWERED,
    "targets": MAX_TARGETS * (TARGET_DIGITS + 1),
}


def _check(name: str, value: Any, kind: str) -> None:
    base, _, rest = kind.partition(" | ")
    base = base.split("[")[0]
    if value is None and rest == "None":
        return
    if not isinstance(value, _KINDS[base]) or (base == "int" and isinstance(value, bool)):
        raise BadMessage(f"{name!r} must be of type {base}")
    if isinstance(value, str) and len(value) > _LIMITS.get(name, MAX_TEXT):
        raise BadMessage(f"{name!r} is too long")
    if isinstance(value, int) and abs(value) > MAX_MICROS:
        raise BadMessage(f"{name!r} is out of range")
    if isinstance(value, int) and name.endswith("_micros") and value < 0:
        raise BadMessage(f"{name!r} must not be negative")
    if isinstance(value, dict) and not all(isinstance(x, str) for item in value.items() for x in item):
        raise BadMessage(f"{name!r} must map texts to texts")


#: The least and the most that a number may be: a longer time-out would leave a call pending for days.
_BOUNDS = {"ask": (1, 1_000_000), "timeout_ms": (1, MAX_TIMEOUT_MS), "status": (0, 999)}


def _check_bounds(name: str, value: Any) -> None:
    low, high = _BOUNDS.get(name, (None, None))
    if low is not None and high is not None and not low <= value <= high:
        raise BadMessage(f"{name!r} must be from {low} to {high}")
    if name == "call_id" and not value:
        raise BadMessage("'call_id' must not be empty")
    if name == "denied" and value is not None and value not in DENIAL_STATUS:
        raise BadMessage(f"'denied' must be one of {', '.join(DENIAL_STATUS)}")


def _redact(message: _Message, but: tuple[str, ...]) -> None:
    """Redact every text of a message that has just been made, `but` those and its caller's key."""
    for each in dataclasses.fields(message):  # type: ignore[arg-type]  # every subclass is one
        text = getattr(message, each.name)
        if isinstance(text, str) and each.name not in (*but, "key"):
            object.__setattr__(message, each.name, redact_url(text))


@dataclass(frozen=True)
class ReserveRequest(_Message):
    """A request to reserve: everything the ledger needs to decide about one call.

    Attributes:
        call_id: made by the sender, one for each logical call.
        ask: 1 for the first request, one more for each later one (the SDK's own retries).
        target: who pays or receives, or the object acted on; None when nothing names one.
        targets_before: what an earlier version named as its target (blank between, `-` for nothing).
        key: the idempotency key the request came with, None when it had none.
        key_is_callers: False when the key has the shape of one that the SDK makes up.
        unsure: the sender knows of an earlier send of this call with an unknown outcome.
        fingerprint: what must be equal for two calls to be the same (amount, currency, …).
        read: the call only reads: it costs nothing, has no identity and is always sent.
        total_micros: the most the object of this call may count for after it, in micro-dollars;
            None: as much as the ledger knows of `object_id`.
        object_id: the vendor's object that is acted on.
        body, headers: kept, so that an in-doubt call can be sent again unchanged.
        timeout_ms: how long the sender waits for the vendor at the most.
        customer, accounts: whom the call concerns, and the connected accounts it names (blank between).
        owner_unknown: it acts on an object whose own customer is not among them: a key that is bound to
            customers needs it from what the ledger knows, or looked up.
        look_up: the guard itself reads an object, to price another call, or takes back what a declined call
            has left open: a key's allowlist is asked about the call that is priced, `look_up_for` (method,
            path and operation, blanks between; "" where it was asked already).
        covers: objects (blank between) whose counted money this call's object counts instead.
        acts_on, priced_by: objects (blank between) that no other call may act on meanwhile; nor, of the
            former, be priced by.
        since: the `entry` of the first look-up for this call's price; 0: nothing was looked up.
        unanswered: keys (blank between) of calls of this attempt that ended without an answer for the task:
            an equal call is one of them, made again.
        repeatable: the vendor executes the call once, however often it is sent under one key.
        searched, executed: the vendor was asked, and shows these objects (blank between, oldest first) that
            an earlier send of this call may have opened.
        targets: digests (blank between) of each whom a call for several may reach.
        denied, message: the guard has refused the call already and only wants it on record.

    """

    call_id: str
    vendor: str
    account: str
    operation: str
    method: str
    path: str
    ask: int = 1
    target: str | None = None
    targets_before: str = ""
    key: str | None = None
    key_is_callers: bool = False
    unsure: bool = False
    fingerprint: str = ""
    read: bool = False
    total_micros: int | None = 0
    currency: str = ""
    object_id: str | None = None
    body: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    timeout_ms: int = 80_000
    customer: str = ""
    accounts: str = ""
    owner_unknown: bool = False
    look_up: bool = False
    look_up_for: str = ""
    covers: str = ""
    acts_on: str = ""
    priced_by: str = ""
    since: int = 0
    unanswered: str = ""
    repeatable: bool = False
    searched: bool = False
    executed: str = ""
    targets: str = ""
    denied: str | None = None
    message: str = ""

    def __post_init__(self) -> None:
        """Take secrets and vault keys out of all that is kept of a call (P6).

        What may be sent again has to stay as it is: the guard leaves it away where it shows one.
        """
        _redact(self, but=("body", "headers"))
        if self.key is not None and (text := redact_url(self.key)) != self.key:
            # Two keys are two calls; as both may show one, a digest tells them apart.
            object.__setattr__(
                self, "key", f"{text[:100]} {hashlib.sha256(self.key.encode()).hexdigest()[:16]}"
            )


@dataclass(frozen=True)
class ReserveReply(_Message):
    """The ledger's answer to an `ReserveRequest`.

    Attributes:
        verdict: `allowed` | `replayed` | `denied` | `wait` (the identical call `message` is pending, or call
            `message` acts on `object_id`: ask again) | `outdated` (what was looked up of `object_id` may have
            changed: look it up again) |
            `look_up` (the object is unknown: fetch it, then ask with its amount) |
            `search` (an earlier send, at `first_at`, has an unknown outcome and the call is not repeatable:
            ask the vendor, then ask again) | `found` (it has opened `object_id`: end the call by that) |
            `stale` (this request came after its own void or after a later one).
        call_id, ask: what the end of the call has to name (an in-doubt call is taken over).
        entry: the ledger's last entry when a look-up was granted.
        resend: an earlier send has an unknown outcome: send `body` and `headers` under `wire_key`; it was
            asked for at `asked_micros`, in micro-dollars.
        status, answer_headers, answer_body, first_at: the stored answer of a replay; with status 0 it is
            the vendor's object `object_id`, which an operator has named, as it is now.

    """

    verdict: str
    call_id: str = ""
    ask: int = 1
    wire_key: str = ""
    resend: bool = False
    asked_micros: int = 0
    body: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    status: int = 0
    answer_headers: dict[str, str] = field(default_factory=dict)
    answer_body: str = ""
    first_at: int = 0
    object_id: str = ""
    entry: int = 0
    reason: str = ""
    message: str = ""
    facts: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class EndRequest(_Message):
    """How a call ended.

    Attributes:
        kind: `settle` | `void` | `doubt`.
        definite: a void that is certain even though an earlier send had an unknown outcome: the vendor keeps
            that answer under the call's key.
        total_micros: what `object_id` counts for in all from now on, in micro-dollars; None: as before.
        only_less, only_more: the object never counts for more, or less, than before.
        covers: objects (blank between) whose counted money `object_id` counts from now on.
        covers_stay: they go on counting themselves, and `object_id` counts for what exceeds that.
        worth_micros: the most that the object can still be made to move by itself.
        status, answer_headers, answer_body: the vendor's reply, kept for replay when settled.
        customer: the vendor's customer whom the object concerns, "" when none is known.
        note: why, for the journal.
        price_due: the vendor names the price of `object_id` later; `fees_micros` may not be in it.
        opened: what each of several objects counts for, in micro-dollars as a text.

    """

    kind: str
    call_id: str
    ask: int = 1
    definite: bool = False
    total_micros: int | None = 0
    worth_micros: int = 0
    only_less: bool = False
    only_more: bool = False
    covers: str = ""
    covers_stay: bool = False
    object_id: str | None = None
    status: int = 0
    answer_headers: dict[str, str] = field(default_factory=dict)
    answer_body: str = ""
    customer: str = ""
    note: str = ""
    price_due: bool = False
    fees_micros: int = 0
    opened: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Take secrets and vault keys out of what is kept of an end, but the answer. Raises BadMessage."""
        _redact(self, but=("answer_body",))
        if not all(text.isascii() and text.isdigit() and len(text) < 16 for text in self.opened.values()):
            raise BadMessage("'opened' must name micro-dollars")


def for_display(text: str) -> str:
    """Return a text as it is kept for people to read.

    It is cut at MAX_SHOWN characters, and what no database takes (half a surrogate pair, NUL) is escaped.
    """
    cut = f"{text[:MAX_SHOWN]}… ({len(text)} characters)" if len(text) > MAX_SHOWN else text
    return cut.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")


def command(*words: str) -> str:
    """Return a `spendguard` command to be pasted into a shell: ids come from pipelines, and are quoted."""
    return f"`spendguard {shlex.join(words)}`"


def facts_of(data: Mapping[str, Any]) -> dict[str, str]:
    """Return `data` with every value as text, for `ReserveReply.facts`."""
    return {name: str(value) for name, value in data.items()}
