"""The worker's side of the ledger: `LedgerClient`, however that is reached, and over luigid's RPCs."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import replace
from typing import Any, Protocol, TypeVar

import urllib3

from luigi_spendguard import backoff, config
from luigi_spendguard.errors import LedgerFailed, LedgerUnavailable, PluginError, SpendDenied, SpendguardError
from luigi_spendguard.http.addresses import SchedulerAddress
from luigi_spendguard.http.gathering import Gathered, Gathering, KeptEnd, LastWords
from luigi_spendguard.http.lost_calls import asking, heard, left_ends, note, saying
from luigi_spendguard.http.outbox import FLUSH_S, Outbox, is_for_good
from luigi_spendguard.http.rpc_answers import NoBudgets, read_answer
from luigi_spendguard.http.rpc_connections import Exchange, RpcConnections
from luigi_spendguard.http.shared import CallsUnderWay
from luigi_spendguard.http.spool import Kept, LeftMessage, Spool
from luigi_spendguard.http.unreached import Unreached
from luigi_spendguard.process_state import at_fork
from luigi_spendguard.protocol import (
    EndReply,
    EndRequest,
    ReserveReply,
    ReserveRequest,
    in_doubt_text,
    rpcs,
)
from luigi_spendguard.protocol.messages import UPGRADE, BadMessage, Message, spare_field
from luigi_spendguard.protocol.rpcs import (
    AcknowledgeRequest,
    AttemptRequest,
    BlockedReply,
    BlockedRequest,
    ClaimReply,
    ClaimRequest,
    CloseRunReply,
    CloseRunRequest,
    CorrectReply,
    CorrectRequest,
    DuePricesReply,
    DuePricesRequest,
    EndedCall,
    FinishRequest,
    IssueKeyReply,
    IssueKeyRequest,
    OpenRunReply,
    OpenRunRequest,
    Rpc,
)
from luigi_spendguard.redaction import Secret

logger = logging.getLogger(__name__)
Q = TypeVar("Q", bound=Message)
R = TypeVar("R", bound=Message)

#: Seconds until a scheduler that cannot be reached means a denial (Luigi's own RPCs take 60).
GIVE_UP_S = 5.0
#: Characters of vendors' answers in one message; more are told one by one.
_MOST_AT_ONCE = 1 << 18
#: Seconds for which what others have left is said at one time, and until that is tried again where it failed.
TAKE_OVER_S, LOOK_AGAIN_S = 10.0, 30.0
#: Seconds within which a run that is asked for is answered, else that is said again, so many times at most.
_SOON_S, _SAID_AGAIN = 0.1, 3
#: Seconds for a look at whether it can be connected to at all.
_LOOK_S = 2.0


class LedgerClient(Protocol):
    """What a worker, and each of its attempts, needs of the ledger, however it is reached.

    What is asked raises LedgerUnavailable, or SpendDenied for what is refused; what is told never raises, and
    is never lost while this process lives.

    Attributes:
        url: the scheduler's base URL; None where the ledger is in the worker's own process.
        address: the same with the user and password of a proxy, for a task's programs.
        authorization: the `Authorization` header that a proxy before the scheduler asks for, "" for none.
        under_way: the calls that the processes of an attempt have under way.

    """

    url: str | None
    address: str | None
    authorization: str
    under_way: CallsUnderWay

    # What a worker does with its token.

    def open_run(self, request: OpenRunRequest) -> OpenRunReply:
        """Open a run, or find it."""

    def claim(self, request: ClaimRequest) -> ClaimReply:
        """Claim a dispatched task for an attempt."""

    def finish(self, request: FinishRequest, key: str = "") -> None:
        """Tell how an attempt ended, now or later.

        `key`: its vault key, where it says so itself; what it gathers may be left to its worker.
        """

    def close_run(self, request: CloseRunRequest, *, is_plain: bool = False) -> None:
        """Tell that a root has completed, now or later.

        `is_plain`: its worker has met no vendor task; a stock luigid is not told of that.
        """

    def blocked(self, request: BlockedRequest) -> BlockedReply:
        """Return what of a worker is blocked and why, after `wait_s` seconds or when something was freed."""

    def acknowledge(self, request: AcknowledgeRequest) -> None:
        """Say that a worker knows of a revoked run."""

    def due_prices(self, request: DuePricesRequest) -> DuePricesReply:
        """Return calls of these vendors, sent by workers, whose price is to be asked for now."""

    def correct(self, request: CorrectRequest) -> CorrectReply:
        """Say what a vendor says that a call has cost."""

    # What an attempt does with its vault key.

    def reserve(self, key: str, request: ReserveRequest) -> ReserveReply:
        """Ask for a reservation."""

    def end(self, key: str, request: EndRequest) -> None:
        """Tell how a call ended, now or later."""

    def gathering(self, words: LastWords | None = None) -> AbstractContextManager[None]:
        """Let the end of a call travel with what is said next, in the block, and in this process alone.

        `words`: where ends stand that are not said yet, for who outlives this process.
        """

    def hand_over(self) -> None:
        """See to it, as a child ends, that what it has left to its worker is taken, said, or on disk."""

    def flush(self, timeout_s: float = FLUSH_S, kept_s: float | None = None) -> bool:
        """Wait until all that was told is delivered; say which is not after `timeout_s` seconds.

        `kept_s`: after so many it is enough that all of it stands on disk, for who comes next.
        """

    def take_over(self, *, at_once: bool = False) -> None:
        """Say what processes of this host that are gone could not say to this ledger; never raises.

        Nothing is done for some seconds after some of it could not be said, but `at_once`.
        """

    def for_child(self) -> Any:
        """Return what a child of an attempt's is sent in place of this: it claims nothing, only calls."""

    def close(self) -> None:
        """Let go of files, threads and connections; whatever is asked later opens them again."""


class HttpLedgerClient(LedgerClient):
    """Speaks the `spend_*` RPCs of the scheduler at `url`, as in `[core] default_scheduler_url`.

    One for each scheduler; safe under threads, and made anew in forked children (inherited keep-alive
    connections hand replies to the wrong child).
    """

    def __init__(self, url: str, worker_token: str | None, under_way: CallsUnderWay | None = None) -> None:
        try:
            self._address = SchedulerAddress.of(url)
        except ValueError as error:
            raise PluginError(f"{error}: mend [core] default_scheduler_url") from None
        self.url, self.address = self._address.url, Secret(url)
        self.authorization = self._address.authorization
        self._worker_token = None if worker_token is None else Secret(worker_token)
        self._spool = Spool(self._address.url)
        self._outbox, self._gathering = Outbox(self._spool), Gathering(self._say)
        #: When what others have left is looked for again, after some of it could not be said; and why not.
        self._looks_again, self._left_why = 0.0, ""
        self.under_way = under_way or CallsUnderWay()
        #: Whether luigid takes several messages at once.
        self._together = False
        #: Fields that luigid does not know.
        self._unknown: frozenset[str] = frozenset()
        self._renew()
        at_fork(self._renew)

    def __repr__(self) -> str:
        return f"HttpLedgerClient({self.url!r})"

    def __reduce__(self) -> Any:
        # Where children are spawned, they read the token from their own luigi.cfg.
        return (connect, (str(self.address), self.under_way))

    def _renew(self) -> None:
        """Start without inherited connections."""
        self._connections = RpcConnections(self._address)

    def open_run(self, request: OpenRunRequest) -> OpenRunReply:
        asked_at = said_at = time.monotonic()

        def now() -> OpenRunRequest:
            nonlocal said_at
            said_at = time.monotonic()
            waited_ms = int(1000 * (said_at - asked_at))
            return replace(request, looked_ms=request.looked_ms and request.looked_ms + waited_ms)

        opened = self._ask(rpcs.OPEN_RUN, now)
        for _ in range(_SAID_AGAIN):
            # What has been long under way counts from its arrival; what is soon there moves that back.
            if not request.looked_ms or time.monotonic() - said_at < _SOON_S:
                break
            opened = self._ask(rpcs.OPEN_RUN, now)
        return opened

    def claim(self, request: ClaimRequest) -> ClaimReply:
        claimed = self._ask(rpcs.CLAIM, request)
        self._together = claimed.together
        return claimed

    def finish(self, request: FinishRequest, key: str = "") -> None:
        if key and self._gathering.leave(request):
            return
        self._gathering.say_with(lambda gathered: self._say(Gathered(gathered.ends, request), key))

    def close_run(self, request: CloseRunRequest, *, is_plain: bool = False) -> None:
        def say() -> None:
            try:
                say_in_doubt(self._ask(rpcs.CLOSE_RUN, request))
            except NoBudgets:
                if not is_plain:
                    raise

        what = f"{rpcs.CLOSE_RUN.name} of {request.name}"
        self._outbox.tell(what, say, lambda: Kept.of(what, rpcs.CLOSE_RUN, request))

    def take_over(self, *, at_once: bool = False) -> None:
        if not at_once and time.monotonic() < self._looks_again:
            return
        limit = time.monotonic() + TAKE_OVER_S
        why = ""
        try:
            with closing(self._spool.left()) as left:
                for waiting in left:
                    why = self._say_for(waiting) or why
                    if time.monotonic() > limit:
                        break
        except Exception as error:
            why = str(error)
        if why:
            level = logging.DEBUG if why == self._left_why else logging.WARNING
            logger.log(level, "What waits in %s is not said yet: %s", self._spool.folder, why)
            self._left_why, self._looks_again = why, time.monotonic() + LOOK_AGAIN_S

    def _say_for(self, waiting: LeftMessage) -> str:
        """Say what another process has left; return why that failed where the next one may be heard.

        Raises LedgerUnavailable, PluginError, SpendDenied: so would all others fail now.
        """
        try:
            rpc, request = waiting.kept.read()
            reply = self._ask(rpc, request)
        except (SpendDenied, BadMessage) as error:
            if isinstance(error, SpendDenied) and not is_for_good(error):
                raise
            waiting.refused(str(error))
            return ""
        except LedgerFailed as error:
            return str(error)
        except (LedgerUnavailable, PluginError):
            raise
        except Exception as error:  # A mistake of ours, at this one.
            return repr(error)
        for ended in getattr(reply, "ends", ()):
            _warn(ended)
        waiting.heard(reply)
        return ""

    def blocked(self, request: BlockedRequest) -> BlockedReply:
        return self._ask(rpcs.BLOCKED, request, patience_s=request.wait_s)

    def acknowledge(self, request: AcknowledgeRequest) -> None:
        self._ask(rpcs.ACKNOWLEDGE, request)

    def due_prices(self, request: DuePricesRequest) -> DuePricesReply:
        return self._ask(rpcs.DUE_PRICES, request)

    def correct(self, request: CorrectRequest) -> CorrectReply:
        return self._ask(rpcs.CORRECT, request)

    def issue_key(self, request: IssueKeyRequest) -> IssueKeyReply:
        """Ask for a vault key. Raises LedgerUnavailable, SpendDenied, PluginError."""
        return self._ask(rpcs.ISSUE_KEY, request)

    def reserve(self, key: str, request: ReserveRequest) -> ReserveReply:
        def say(gathered: Gathered) -> ReserveReply | Exception | None:
            if gathered.ends and gathered.last is None and _their_key(gathered.ends) == key:
                self._outbox.deliver(GIVE_UP_S)
                return self._end_and_ask(key, gathered.ends, request)
            self._say(gathered)
            return None

        for end in left_ends(self.under_way):
            self._tell_end(key, end)
        with asking(request, self.under_way) as request:
            answer = self._gathering.say_with(say)
            if answer is None:
                self._outbox.deliver(GIVE_UP_S)
                answer = self._ask(rpcs.RESERVE, request, key)
            if isinstance(answer, Exception):
                raise answer
            if answer.verdict == "allowed":
                self._gathering.begin()
            note(request, answer, self.under_way)
        return answer

    def _end_and_ask(
        self, key: str, ends: tuple[KeptEnd, ...], request: ReserveRequest
    ) -> ReserveReply | Exception:
        """Say ends and ask at once; where that fails return why, the ends being left to a thread."""
        told = self._outbox.begin(*self._at_once(key, ends))
        try:
            reply = self._ask(rpcs.ATTEMPT, AttemptRequest(_messages(ends), request), key)
        except Exception as error:
            self._outbox.say_later(told, is_away=isinstance(error, LedgerUnavailable))  # Nobody else waits.
            return error
        except BaseException:  # Those who gather them say them again.
            self._outbox.forget(told)
            raise
        self._outbox.forget(told)
        heard(_messages(ends), self.under_way)
        _warn_of_each(reply.ends)
        if reply.answer is None:
            raise LedgerUnavailable(f"the scheduler at {self.url} has left a request unanswered: {UPGRADE}")
        return reply.answer

    def end(self, key: str, request: EndRequest) -> None:
        gathered = False
        if request.kind == "void":
            self.under_way.give_up(request)
        try:
            gathered = self._gathering.put(KeptEnd(key, request))
        except Exception:  # That of a signal's handler.
            logger.exception("The end of call %s was interrupted, and is said now", request.call_id)
        finally:
            if not gathered:
                self._tell_end(key, request)
            elif not request.is_made:
                self._gathering.say_all()
            if request.kind != "void":
                self.under_way.end(request.call_id)

    @contextmanager
    def gathering(self, words: LastWords | None = None) -> Iterator[None]:
        block = self._gathering.block(words) if self._together else nullcontext()
        with self._outbox.attempt(), self.under_way.attempt(), block:
            yield

    def _say(self, gathered: Gathered, key: str = "") -> None:
        """Say what is on its way: in one message what belongs together. `key`: of the attempt that ended."""
        ends, last = gathered
        theirs = _their_key(ends)
        if last is not None and theirs and theirs == key:
            self._finish(replace(last, ends=_messages(ends)))
            return
        if len(ends) > 1 and theirs:
            self._outbox.tell(*self._at_once(theirs, ends))
        else:
            for their_key, end in ends:
                self._tell_end(their_key, end)
        if last is not None:
            self._finish(last)

    def _finish(self, request: FinishRequest) -> None:
        def say() -> None:
            _warn_of_each(self._ask(rpcs.FINISH, request).ends)

        what = f"{rpcs.FINISH.name} of {request.claim_id}"
        self._outbox.tell(what, say, lambda: Kept.of(what, rpcs.FINISH, request))

    def _at_once(
        self, key: str, ends: tuple[KeptEnd, ...]
    ) -> tuple[str, Callable[[], object], Callable[[], Kept]]:
        """Return a message of several, as an outbox takes it."""
        request = AttemptRequest(_messages(ends))
        what = f"{rpcs.ATTEMPT.name} of {', '.join(end.call_id for _, end in ends)}"
        return (
            what,
            saying(
                request.ends,
                self.under_way,
                lambda: _warn_of_each(self._ask(rpcs.ATTEMPT, request, key).ends),
            ),
            lambda: Kept.ended(key, request.ends),
        )

    def _tell_end(self, key: str, end: EndRequest) -> None:
        rpc = rpcs.ENDS[end.kind]
        what = f"{rpc.name} of {end.call_id}"
        say = saying((end,), self.under_way, lambda: _warn(self._ask(rpc, end, key)))
        self._outbox.tell(what, say, lambda: Kept.ended(key, (end,)))

    def hand_over(self) -> None:
        self._gathering.hand_over()
        self._outbox.flush(FLUSH_S, GIVE_UP_S)

    def flush(self, timeout_s: float = FLUSH_S, kept_s: float | None = None) -> bool:
        self._gathering.flush()
        return self._outbox.flush(timeout_s, kept_s)

    def for_child(self) -> HttpLedgerClient:
        self._gathering.share()
        return self  # See `__reduce__`.

    def close(self) -> None:
        self._connections.close()

    def _ask(
        self, rpc: Rpc[Q, R], request: Q | Callable[[], Q], key: str | None = None, patience_s: float = 0
    ) -> R:
        """Send a request until it is answered, for GIVE_UP_S and `patience_s` seconds.

        Where it changes meanwhile, `request` returns what is to be sent now. What an older luigid does not
        know, and can do without, it is not told from then on.
        """
        while True:
            try:
                return self._said(rpc, request, key, patience_s)
            except SpendguardError as error:
                field = spare_field(str(error))
                if not field or field in self._unknown:
                    raise
                self._unknown |= {field}
                if field == "tags":
                    logger.warning("Runs have no tags of their roots': luigid is an older one")

    def _known(self, request: Q) -> Q:
        """Return a request as this luigid knows it."""
        return request.without(self._unknown) if self._unknown else request

    def _said(
        self, rpc: Rpc[Q, R], request: Q | Callable[[], Q], key: str | None = None, patience_s: float = 0
    ) -> R:
        token = key if key is not None else self._worker_token
        headers = {
            "User-Agent": "luigi-spendguard",
            "Content-Type": "application/json",
            **self._address.credentials(token),
        }
        limit = time.monotonic() + GIVE_UP_S + patience_s
        waits = backoff.growing(*backoff.SOON)
        while True:
            left = limit - time.monotonic()
            message = self._known(request() if callable(request) else request)
            data = json.dumps(message.to_json(), separators=(",", ":")).encode()
            try:
                exchange = Exchange(f"/api/{rpc.name}", headers, data, limit)
                answer = self._connections.post(exchange, max(0.1, min(2.0, left)))
                return read_answer(rpc, f"the scheduler at {self.url}", *answer)
            except OSError as error:
                wait_s, reason = next(waits), Unreached.of(error)
                if reason.lasts or time.monotonic() + wait_s > limit:
                    raise LedgerUnavailable(self._unreached(reason)) from None
                self._outbox.keep_now()
                time.sleep(wait_s)

    def _unreached(self, reason: Unreached) -> str:
        remedy = "start luigid-spendguard, or mend [core] default_scheduler_url"
        return reason.said(f"the scheduler at {self.url}", remedy)

    def problem(self) -> str:
        """Return why luigid cannot be connected to, "" where it can or may be in a second."""
        try:
            self._address.pool().request(
                "HEAD", f"{self._address.base}/status", retries=False, redirect=False, timeout=_LOOK_S
            )
        except urllib3.exceptions.HTTPError as error:
            reason = Unreached.of(error)
            return self._unreached(reason) if reason.remedy else ""
        return ""


def connect(url: str, under_way: CallsUnderWay | None = None) -> HttpLedgerClient:
    """Return a client for the scheduler at `url` with the token of luigi.cfg. Raises ConfigError.

    `under_way`: what the processes of the attempt that it is for have under way.
    """
    return HttpLedgerClient(url, config.load().worker_token, under_way)


def say_in_doubt(closed: CloseRunReply) -> None:
    """Say what of a run is in doubt whose root is complete: nothing else of it may be run and asked about."""
    if closed.in_doubt_calls:
        logger.warning("%s", in_doubt_text(closed.run_id, closed.in_doubt_calls, closed.in_doubt_usd))


def _their_key(ends: tuple[KeptEnd, ...]) -> str:
    """Return the vault key of all ends, "" where they have several or are too much for one message."""
    keys = {one.key for one in ends}
    if len(keys) != 1 or sum(len(one.end.answer_body) for one in ends) > _MOST_AT_ONCE:
        return ""
    return keys.pop()


def _messages(ends: tuple[KeptEnd, ...]) -> tuple[EndRequest, ...]:
    return tuple(one.end for one in ends)


def _warn_of_each(ends: tuple[EndedCall, ...]) -> None:
    for ended in ends:
        if ended.refused:
            logger.error("The end of call %s was refused: %s", ended.call_id, ended.refused)
        else:
            _warn(ended)


def _warn(reply: Message) -> None:
    if isinstance(reply, (EndReply, EndedCall)) and (reply.overrun_usd or "0.00") != "0.00":
        logger.error(
            "The vendor billed $%s more for call %s than was reserved: it is booked as overrun and "
            "the run is frozen. Look at `spendguard calls`, then `spendguard top-up` the run",
            reply.overrun_usd,
            reply.call_id,
        )
