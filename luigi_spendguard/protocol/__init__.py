"""What a guard and the ledger say to each other of a call, as frozen values with a JSON form.

The guard may sit in a worker and the ledger behind luigid's RPC, so everything here is plain data.
Money is an `int` of micro-dollars, time an `int` of milliseconds since the epoch. `rpcs` has the RPCs that
take these messages, and what a worker asks for besides.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from luigi_spendguard.errors import DENIAL_STATUS
from luigi_spendguard.protocol import messages
from luigi_spendguard.protocol.messages import Amount, BadMessage, Message, Words
from luigi_spendguard.redaction import redact_url

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
#: What stands there in place of "1" where a request was not taken for a call: that answers no earlier one.
NOT_TAKEN = "0"

#: The header of every answer of luigid's to what is asked of our own: a proxy's own answer lacks it.
ANSWERED = "x-spendguard-answered"

#: The header of a token or vault key, where a proxy in between has `Authorization` for itself.
CREDENTIAL = "x-spendguard-token"

#: The header of a call that a guarded worker has forwarded: its SDK follows the vendor's own links.
FORWARDED = "x-spendguard-forwarded"

#: The header of a call that a guarded worker has forwarded: its process, as `process_of` names it.
PROCESS = "x-spendguard-process"

#: The header of a call that a guarded worker has forwarded: the number of its try, as `ReserveRequest`'s.
TRY = "x-spendguard-try"

#: Longest body kept for sending again.
MAX_BODY = 1 << 20
#: The most characters that are kept of a text that only serves display.
MAX_SHOWN = 300
#: All keys of calls that were not answered: many a proxy takes a header of 8 KB and no more.
MAX_UNANSWERED = 7000
#: Stands for keys that are too many to be named: the gateway refuses the call, on record.
TOO_MANY_UNANSWERED = "*"
#: Why a call is refused then.
TOO_MANY_LOST = (
    "so many calls of this task were not answered that nobody can tell whether this is one of them made "
    "again (or the process that knew them is gone, or has become another program): let the task end and run "
    "again"
)
#: The most targets of one call, and the length of a digest of each: a batch of mails has some thousands.
MAX_TARGETS, TARGET_DIGITS = 15_000, 16
#: The most characters of a vendor's own id of a request.
MAX_VENDOR_REQUEST = 255
#: The longest remark about a price that came late.
MAX_NOTE = 300
#: The longest that a sender may wait for its vendor: `timeout_s` of luigi.cfg goes no further.
MAX_TIMEOUT_MS = 600_000

#: What a run is at, the worst that is true of it: its state, what of it is in doubt, what its tasks wait for.
RUN_STATUSES = ("active", "denied", "blocked", "held", "in_doubt", "frozen", "ended", "revoked")
#: What became of a call's reservation.
CALL_STATES = ("pending", "settled", "voided", "in_doubt")
#: Why a call is on record as denied, or warned of, that may make another task's payment again. Whoever asks
#: for it is denied by `cap`.
DUPLICATE = "duplicate"
#: What calls can be asked for by: `denied` is all of them, `allowed:cap` what shadow mode let through.
VERDICTS = (
    *("allowed", "allowed:cap", f"allowed:{DUPLICATE}", "replayed", "denied"),
    *(f"denied:{why}" for why in (*DENIAL_STATUS, DUPLICATE)),
)
#: What operators do; and, last, what vendors say later of an amount.
ACTIONS = (
    *("top_up", "ask_top_up", "withdraw_top_up", "approve", "revoke", "revoke_key", "resolve"),
    *("prune", "forget", "restore", "audit_prune", "correction"),
)
#: What becomes of a top-up that waits for a second operator.
TOP_UP_STATES = ("waiting", "confirmed", "withdrawn", "expired")
#: How a call may end: its reservation is settled, voided or in doubt.
ENDS = ("settle", "void", "doubt")
#: Verdicts on a call that asks again.
ASKED_AGAIN = ("wait", "outdated", "look_up", "search")

_Body = Annotated[str, messages.plain_text(MAX_BODY)]
_Unanswered = Annotated[tuple[str, ...], messages.plain_words(MAX_UNANSWERED)]
_Targets = Annotated[tuple[str, ...], messages.plain_words(MAX_TARGETS * (TARGET_DIGITS + 1))]
_CallId = Annotated[str, messages.plain_text(messages.MAX_TEXT, empty=False)]
_Number = Annotated[int, messages.plain_number(1, 1_000_000)]
_Try = Annotated[int, messages.plain_number(0, 10**18 - 1)]
#: A longer time-out would leave a call pending for days.
_Timeout = Annotated[int, messages.plain_number(1, MAX_TIMEOUT_MS)]
_VendorRequest = Annotated[str, messages.plain_text(MAX_VENDOR_REQUEST)]
_Status = Annotated[int, messages.plain_number(0, 999)]
_End = Annotated[str, messages.plain_choice(ENDS)]
_Denial = Annotated[str, messages.plain_choice(DENIAL_STATUS)]


def redact_texts(message: Message, but: tuple[str, ...]) -> None:
    """Redact every text of a message that has just been made, `but` those and its caller's key.

    Names in a list have no blanks in them, as they have none in JSON.
    """
    texts: dict[str, str] = {}
    for name, value in vars(message).items():
        if isinstance(value, str) and value and name not in but and name != "key":
            texts[name] = value
        elif isinstance(value, tuple) and value:
            texts[name] = " ".join(value)
            object.__setattr__(message, name, tuple(texts[name].split()))
    if redact_url(together := "\n".join(texts.values())) == together:
        return  # As nearly always: one look at all of them.
    for name, text in texts.items():
        kept = redact_url(text)
        is_list = isinstance(getattr(message, name), tuple)
        object.__setattr__(message, name, tuple(kept.split()) if is_list else kept)


@dataclass(frozen=True)
class ReserveRequest(Message):
    """A request to reserve: everything the ledger needs to decide about one call.

    Attributes:
        call_id: made by the sender, one for each logical call.
        ask: 1 for the first request, one more for each later one (the SDK's own retries).
        sender: the id that its sender has made for the call, where it goes on with an earlier one, `call_id`.
        target: who pays or receives, or the object acted on; None when nothing names one.
        targets_before: what earlier versions named as its target, `-` for nothing.
        key: the idempotency key the request came with, None when it had none.
        key_is_callers: False when the key has the shape of one that the SDK makes up.
        unsure: the sender knows of an earlier send of this call with an unknown outcome.
        fingerprint: what must be equal for two calls to be the same (amount, currency, …).
        fingerprint_before: that of an earlier version, for calls that it has kept; "": the same.
        read: the call only reads: it costs nothing, has no identity and is always sent.
        total_micros: the most the object of this call may count for after it, in micro-dollars;
            None: as much as the ledger knows of `object_id`.
        object_id: the vendor's object that is acted on.
        body, headers: kept, so that an in-doubt call can be sent again unchanged.
        timeout_ms: how long the sender waits for the vendor at the most.
        customer, accounts: whom the call concerns, and the connected accounts it names.
        owner_unknown: it acts on an object whose own customer is not among them: a key that is bound to
            customers needs it from what the ledger knows, or looked up.
        look_up: the guard itself reads an object, to price another call, or takes back what a declined call
            has left open: a key's allowlist is asked about the call that is priced, `look_up_for` (method,
            path and operation, blanks between; "" where it was asked already).
        covers: objects whose counted money this call's object counts instead.
        acts_on, priced_by: objects that no other call may act on meanwhile; nor, of the former, be priced by.
        since: the `entry` of the first look-up for this call's price; 0: nothing was looked up.
        unanswered: keys, or ids, of calls of this attempt that ended without an answer for the task: an equal
            call is one of them, made again, and what comes later under such a key is late.
        number: which try it is, the later the greater, 0 where nobody says: an earlier one under its key gets
            its answer, and is late where that was an error.
        repeatable: the vendor executes the call once, however often it is sent under one key.
        taggable: its vendor can put a tag of the call on what it makes; `tag`: and luigi.cfg says so.
        searched, executed: the vendor was asked, and shows these objects, oldest first, that an earlier send
            of this call may have opened.
        targets: digests of each whom a call for several may reach.
        denied, message: the guard has refused the call already and only wants it on record.

    """

    call_id: _CallId
    vendor: str
    account: str
    operation: str
    method: str
    path: str
    ask: _Number = 1
    sender: str = ""
    target: str | None = None
    targets_before: Words = ()
    key: str | None = None
    key_is_callers: bool = False
    unsure: bool = False
    fingerprint: str = ""
    fingerprint_before: str = ""
    read: bool = False
    total_micros: Amount | None = 0
    currency: str = ""
    object_id: str | None = None
    body: _Body = ""
    headers: dict[str, str] = field(default_factory=dict)
    timeout_ms: _Timeout = 80_000
    customer: Words = ()
    accounts: Words = ()
    owner_unknown: bool = False
    look_up: bool = False
    look_up_for: str = ""
    covers: Words = ()
    acts_on: Words = ()
    priced_by: Words = ()
    since: int = 0
    unanswered: _Unanswered = ()
    number: _Try = 0
    repeatable: bool = False
    taggable: bool = False
    tag: bool = False
    searched: bool = False
    executed: Words = ()
    targets: _Targets = ()
    denied: _Denial | None = None
    message: str = ""

    @property
    def sender_id(self) -> str:
        """What tells its sender from others that go on with the same call."""
        return self.sender or self.call_id

    def __post_init__(self) -> None:
        """Take secrets and vault keys out of all that is kept of a call (P6).

        What may be sent again has to stay as it is: the guard leaves it away where it shows one.
        """
        redact_texts(self, but=("body", "headers"))
        if self.key is not None and (text := redact_url(self.key)) != self.key:
            # Two keys are two calls; as both may show one, a digest tells them apart.
            object.__setattr__(
                self, "key", f"{text[:100]} {hashlib.sha256(self.key.encode()).hexdigest()[:16]}"
            )


@dataclass(frozen=True)
class ReserveReply(Message):
    """The ledger's answer to a `ReserveRequest`.

    Attributes:
        verdict: `allowed` | `replayed` | `denied` | `wait` (the identical call `message` is pending, or call
            `message` acts on `object_id`: ask again) | `outdated` (what was looked up of `object_id` may have
            changed: look it up again) |
            `look_up` (the object is unknown: fetch it, then ask with its amount) |
            `search` (an earlier send, at `first_at`, has an unknown outcome and the call is not repeatable:
            ask the vendor, then ask again; `tagged`: it is, and was until `last_at`, but it is too old to be
            sent again) | `found` (it has opened `object_id`: end the call by that) |
            `stale` (this request came after its own void or after a later one).
        call_id, ask: what the end of the call has to name (an in-doubt call is taken over); of a `wait`, the
            number behind which to ask again.
        entry: the ledger's last entry when a look-up was granted.
        resend: an earlier send has an unknown outcome: send `body` and `headers` under `wire_key`; it was
            asked for at `asked_micros`, in micro-dollars.
        tagged: it goes out with its tag, as what went out under `wire_key` before.
        status, answer_headers, answer_body, first_at: the stored answer of a replay; with status 0 it is
            the vendor's object `object_id`, which an operator has named of call `message`, as it is now.

    """

    verdict: str
    call_id: _CallId = ""
    ask: _Number = 1
    wire_key: str = ""
    resend: bool = False
    asked_micros: Amount = 0
    tagged: bool = False
    body: _Body = ""
    headers: dict[str, str] = field(default_factory=dict)
    status: _Status = 0
    answer_headers: dict[str, str] = field(default_factory=dict)
    answer_body: _Body = ""
    first_at: int = 0
    last_at: int = 0
    object_id: str = ""
    entry: int = 0
    reason: str = ""
    message: _Body = ""
    facts: dict[str, str] = field(default_factory=dict)

    @property
    def is_read(self) -> bool:
        """Whether the answer of a replay is read at the vendor now."""
        return self.verdict == "replayed" and not self.status


@dataclass(frozen=True)
class EndRequest(Message):
    """How a call ended.

    Attributes:
        kind: one of ENDS.
        sender: of a void, as the `ReserveRequest`'s: a grant of another sender's is left as it is.
        definite: a void that is certain even though an earlier send had an unknown outcome: the vendor keeps
            that answer under the call's key.
        total_micros: what `object_id` counts for in all from now on, in micro-dollars; None: as before.
        only_less, only_more: the object never counts for more, or less, than before.
        covers: objects whose counted money `object_id` counts from now on.
        covers_stay: they go on counting themselves, and `object_id` counts for what exceeds that.
        worth_micros: the most that the object can still be made to move by itself.
        status, answer_headers, answer_body: the vendor's reply, kept for replay when settled.
        customer: the vendor's customers whom the object concerns, none when none is known.
        note: why, for the journal.
        price_due: the vendor names the price of `object_id` later; `fees_micros` may not be in it.
        opened: what each of several objects counts for, in micro-dollars as a text.
        executed_before: the vendor has answered a first send with what it had kept under the call's key: it
            was executed before, and another call may count for it.
        kept: the vendor has answered with what it had kept under the call's key, whoever's send that had
            answered: an older state of the object.
        vendor: of a void whose request to reserve may not have arrived: whom the call would have been to.
        vendor_request: the vendor's own id of the request that it has answered; "": it names none.

    """

    kind: _End
    call_id: _CallId
    ask: _Number = 1
    sender: str = ""
    definite: bool = False
    total_micros: Amount | None = 0
    worth_micros: Amount = 0
    only_less: bool = False
    only_more: bool = False
    covers: Words = ()
    covers_stay: bool = False
    object_id: str | None = None
    status: _Status = 0
    answer_headers: dict[str, str] = field(default_factory=dict)
    answer_body: _Body = ""
    customer: Words = ()
    note: str = ""
    price_due: bool = False
    fees_micros: Amount = 0
    opened: dict[str, str] = field(default_factory=dict)
    executed_before: bool = False
    kept: bool = False
    vendor: str = ""
    vendor_request: _VendorRequest = ""

    @property
    def sender_id(self) -> str:
        """What tells its sender from others that go on with the same call."""
        return self.sender or self.call_id

    def __post_init__(self) -> None:
        """Take secrets and vault keys out of what is kept of an end, but the answer. Raises BadMessage."""
        redact_texts(self, but=("answer_body",))
        if not all(text.isascii() and text.isdigit() and len(text) < 16 for text in self.opened.values()):
            raise BadMessage("'opened' must name micro-dollars")

    @property
    def is_made(self) -> bool:
        """Whether the call was made, as one that is pending may have been: an equal one is another call.

        Where it was not, or nobody knows, an equal one is the same call again; but not to a ledger that has
        not heard of this end yet.
        """
        return self.kind == "settle" and self.status < 400


@dataclass(frozen=True)
class EndReply(messages.LenientMessage):
    """What has become of a call: its state, and what the vendor billed above the reservation, in USD."""

    call_id: str
    state: str
    overrun_usd: str | None = None


def process_of(call_id: str) -> str:
    """Return what the ids of all calls of a process begin with, and no other's do."""
    return call_id.partition("-")[0]


def key_hash(key: str) -> str:
    """Return the SHA-256 under which a vault key is kept, in hexadecimal digits."""
    return hashlib.sha256(key.encode()).hexdigest()


def for_display(text: str) -> str:
    """Return a text as it is kept for people to read.

    It is cut at MAX_SHOWN characters, and what no database takes (half a surrogate pair, NUL) is escaped.
    """
    cut = f"{text[:MAX_SHOWN]}… ({len(text)} characters)" if len(text) > MAX_SHOWN else text
    return cut.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")


def blocked_text(due: int, behind: int) -> str:
    """Return how many tasks money keeps from running, such as `18 due, 24 behind them`; "" for none."""
    if not due:
        return f"{behind} not due yet" if behind else ""
    return f"{due} due" + (f", {behind} behind {'it' if due == 1 else 'them'}" if behind else "")


def in_doubt_text(run_id: str, calls: int, usd: str) -> str:
    """Return what is said of a run of which calls are in doubt."""
    shows = command("calls", "--run", run_id, "--state", "in_doubt")
    are = "1 call is" if calls == 1 else f"{calls} calls are"
    return f"Run {run_id}: {are} in doubt, ${usd} may have been spent: {shows} shows them."


def command(*words: str) -> str:
    """Return a `spendguard` command to be pasted into a shell: ids come from pipelines, and are quoted."""
    return f"`spendguard {shlex.join(words)}`"


def facts_of(data: Mapping[str, Any]) -> dict[str, str]:
    """Return `data` with every value as text, for `ReserveReply.facts`."""
    return {name: str(value) for name, value in data.items()}
