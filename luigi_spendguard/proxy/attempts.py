"""Which vendor task a call belongs to, and whether it is made in a pipeline at all.

A call belongs to the attempt that its thread runs, or that started its thread, or to the only one there is.
A pipeline is where a Luigi worker runs, and whatever has been started there: a worker marks its process's
environment, which children of any start method inherit, and the threads that its tasks start stay marked.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import NamedTuple

from luigi_spendguard.config import Settings
from luigi_spendguard.errors import SpendDenied, VendorUnreachable, denial
from luigi_spendguard.http.ledger_client import LedgerClient
from luigi_spendguard.http.shared import Sharing, is_gone
from luigi_spendguard.process_state import at_fork
from luigi_spendguard.protocol import MAX_UNANSWERED, TOO_MANY_UNANSWERED
from luigi_spendguard.proxy import environment, owners
from luigi_spendguard.proxy.owners import Outside
from luigi_spendguard.redaction import Secret
from luigi_spendguard.vendors import Request


class Mark(NamedTuple):
    """What two requests have in common: where they go, and whether they are the same in every byte."""

    line: str
    body: str


#: A key that a header can name.
_NAMEABLE = re.compile(r"[\w-]{1,64}")


#: What stands beside a mark, where none of the task's processes has the call under way.
_LOST, _FAILED = "", "failed"
#: The most failed calls that are kept: what comes late comes soon.
_MOST_FAILED = 100


def _is_lost(text: list[str]) -> bool:
    if text[2] in (_LOST, _FAILED):
        return text[2] == _LOST
    return text[2] != str(os.getpid()) and is_gone(int(text[2]))


def _forget_oldest(texts: dict[str, list[str]]) -> None:
    """Forget the oldest that have failed, where they are too many."""
    for key in [key for key, text in texts.items() if text[2] == _FAILED][:-_MOST_FAILED]:
        del texts[key]


class Unanswered(Sharing):
    """The calls of an attempt that a gateway was sent and has not answered: keys, oldest first, with marks.

    When the task makes one again its SDK makes up another idempotency key: only by the first one can the
    gateway tell that it is no second call. It may be made again by any process that the task has started:
    beside the marks stands which one has the call under way, as nobody but the others knows what one had
    that is gone.

    A denial, or a vendor's error, answers what has come to the gateway that gives it: something between may
    have sent the same once more, which still waits there, or at another one, or is at the vendor. So a call
    that has failed is named when an equal one is made, too.
    """

    def __init__(self, path: str = "") -> None:
        #: The keys of those that are known again by their caller's own.
        self._own_keys: set[str] = set()
        super().__init__(path)

    @contextmanager
    def _changing(self) -> Iterator[dict[str, Mark]]:
        """Hold the marks of what was lost in the block, and keep what is changed in them there."""
        with self._held() as texts:
            lost = {key: Mark(*text[:2]) for key, text in texts.items() if _is_lost(text)}
            before = set(lost)
            yield lost
            for key in before - lost.keys():
                del texts[key]
            texts.update((key, [*mark, _LOST]) for key, mark in lost.items())

    @contextmanager
    def _under_way(self, own: str, mark: Mark | None) -> Iterator[None]:
        """Let the other processes of the task know of a call in the block."""
        if mark is None:
            yield
            return
        of_this, left = str(os.getpid()), _LOST
        with self._held() as texts:
            if texts.get(own, [_FAILED])[-1] == _FAILED:
                texts[own] = [*mark, of_this]
        is_answered = False
        try:
            yield
            is_answered = True
        except (SpendDenied, VendorUnreachable):
            left = _FAILED
            raise
        finally:
            with self._held() as texts:
                if texts.get(own, [_LOST])[-1] == of_this:
                    del texts[own]
                    if not is_answered and _NAMEABLE.fullmatch(own):
                        # At once: killed in between, this process would leave no mark.
                        texts[own] = [*mark, left]
                        _forget_oldest(texts)

    def _is_others(self, own: str) -> bool:
        """Return whether another process has a call under way that this one only passes on."""
        with self._held() as texts:
            return texts.get(own, [_LOST])[-1] not in (_LOST, _FAILED, str(os.getpid()))

    def _failed(self, mark: Mark) -> list[str]:
        """Return the keys of equal calls that have failed."""
        with self._held() as texts:
            return [key for key, text in texts.items() if text == [*mark, _FAILED]]

    @staticmethod
    def of(request: Request, target: str) -> Mark:
        """Return the mark of a request to `target` (path and query)."""
        path, _, query = target.partition("?")
        return Mark(
            f"{request.method} {path}", hashlib.sha256(query.encode() + b"?" + request.body).hexdigest()
        )

    def named(self, mark: Mark, own: str, others: str = "") -> str:
        """Return the keys (blank between) of all calls that a request may be, `own` excepted, and behind them
        as many as fit of the equal ones that have failed.

        `others` are those that another process names for a request of its own. Requests to another path are
        other calls. TOO_MANY_UNANSWERED when they do not fit, and none is equal: a call that is left out
        could be made twice.
        """
        with self._changing() as all_marks:
            marks = dict(all_marks)
        if self._shared is not None and self._shared.is_full:
            return TOO_MANY_UNANSWERED
        keys = [key for key, other in marks.items() if other.line == mark.line and key != own]
        keys.sort(key=lambda key: marks[key].body != mark.body)
        joined = " ".join(dict.fromkeys((*others.split(), *keys)))
        if len(joined) > MAX_UNANSWERED and (others or marks[keys[0]].body != mark.body):
            return TOO_MANY_UNANSWERED  # Else it is one of those that stand first.
        failed = [key for key in self._failed(mark) if key != own]
        joined = " ".join(dict.fromkeys((*joined.split(), *failed)))
        return joined if len(joined) <= MAX_UNANSWERED else joined[: MAX_UNANSWERED + 1].rpartition(" ")[0]

    def was_sent(self, own: str, mark: Mark | None, told: str = "") -> bool:
        """Return whether the gateway was sent a call before, as far as that is known here: under its key, or
        as an equal one of those that it is `told` of.
        """
        with self._changing() as marks:
            equal = (key for key in told.split() if mark is not None and marks.get(key) == mark)
            return own in marks or own in self._own_keys or any(equal)

    @contextmanager
    def remembered(self, own: str, mark: Mark | None, told: str = "") -> Iterator[None]:
        """Remember a call if it is not answered in the block; None: the gateway knows it again without.

        The block raises SpendDenied or VendorUnreachable for one that was not made, as far as its answer
        says. One that was made is forgotten. It may be one of the equal calls that the gateway was `told` of
        (keys, blank between), made again: the oldest stands back from now on, as one that has failed. It is
        named to equal calls all the same, for which of them it was the ledger knows alone.
        """
        try:
            with self._under_way(own, mark):
                yield
        except (SpendDenied, VendorUnreachable):
            raise
        except BaseException:
            if mark is not None and _NAMEABLE.fullmatch(own):
                with self._changing() as marks:
                    marks.setdefault(own, mark)
            elif mark is None and own:
                self._own_keys.add(own)
            raise
        self._own_keys.discard(own)
        if self._is_others(own):  # Its program may be gone before it hears the answer.
            return
        named = set(told.split())
        with self._held() as texts:
            before = texts.pop(own, None)
            if mark is None or (before is not None and _is_lost(before)):
                return
            equal = (key for key, text in texts.items() if key in named and text[:2] == [*mark])
            if oldest := next((key for key in equal if _is_lost(texts[key])), ""):
                del texts[oldest]
                texts[oldest] = [*mark, _FAILED]
                _forget_oldest(texts)


@dataclass(frozen=True)
class Attempt:
    """One execution of a vendor task's `run()`, with the vault key it was given.

    Attributes:
        served: the vendors whose calls luigid's gateway guards.
        unanswered: the calls that a gateway was sent and has not answered.
        handed_down: another process runs it, and has started this one: that one's listener, "" without one.

    """

    claim_id: str
    run_id: str
    task_id: str
    family: str
    key: str = field(repr=False)
    client: LedgerClient
    settings: Settings = field(repr=False)
    served: frozenset[str] = frozenset()
    unanswered: Unanswered = field(default_factory=Unanswered, compare=False)
    handed_down: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", Secret(self.key))


#: Stands for an attempt that is over.
_LEFT = Outside()

#: What a worker puts into its environment, and its children find in theirs: "1", and while a vendor task runs
#: what a program needs to belong to it, as JSON (`children.attempt_of`).
MARK = "SPENDGUARD_PIPELINE"

#: Where a task's programs find the tasks within which they run, outermost first.
WITHIN = "SPENDGUARD_WITHIN"

#: The tasks whose attempts this process, and this thread, were begun in.
_begun_within = tuple(os.environ.get(WITHIN, "").split())
_within: ContextVar[tuple[str, ...]] = ContextVar("spendguard_within", default=())
_active: dict[str, Attempt] = {}
_known_keys: set[str] = set()
_workers = 0
#: The mark that this process has found when it began.
_mark_at_start = os.environ.get(MARK)
#: This process was started within a pipeline: whatever becomes of its environment.
_descends = _mark_at_start is not None
#: The open listeners of this process, behind which all vendors stand.
_listeners: list[str] = []
#: Memory that forked children share: it tells those that are older than the worker that one runs now.
_beacon = mmap.mmap(-1, 1)
_beacons_above: tuple[mmap.mmap, ...] = ()
_lock = threading.Lock()


def _begin_anew() -> None:
    global _lock, _beacon, _beacons_above
    _lock = threading.Lock()
    # What runs in a child is nobody's pipeline but its own.
    _beacon, _beacons_above = mmap.mmap(-1, 1), (*_beacons_above, _beacon)
    _beacon[0] = _workers > 0


at_fork(_begin_anew)


def current() -> Attempt | None:
    """Return the attempt that this thread's calls belong to, None outside any vendor task.

    Raises SpendDenied (`scope`) in a thread without context while several vendor tasks run.
    """
    owner = _owner()
    if isinstance(owner, Attempt):
        return owner
    if owner is not None or not _active:
        return None
    running = all_running()
    if len(running) > 1:
        raise denial(
            "scope",
            "this thread cannot be told to belong to one of the vendor tasks that run in this process: "
            "start it with contextvars.copy_context().run, or run the tasks in processes of their own "
            "(workers > 1)",
        )
    return running[0] if running else None


def _owner() -> Attempt | Outside | None:
    """Return what this thread runs, or what started it while that lasts.

    A thread that an attempt has left behind is nobody's: what it calls is denied, whatever runs now (another
    run would pay for one that is revoked). Those of pools run what they are given: see `owners`.
    """
    own: Attempt | Outside | None = owners.own()
    if own is not None:
        return own
    starter: Attempt | Outside | None = owners.starter()
    if isinstance(starter, Attempt):
        return starter if starter.claim_id in _active else _LEFT
    return None if starter is None or starter.ended else starter


@contextmanager
def running(attempt: Attempt, *, everywhere: bool = False) -> Iterator[None]:
    """Let this thread, and threads without context, belong to `attempt`; `everywhere`: only the latter."""
    if attempt.served or attempt.settings.gateway_url is not None:
        attempt.unanswered.share()  # A program of the task's may be killed, and be started again.
    if environment.is_elsewhere_too(attempt.settings):
        attempt.client.under_way.share()  # So may one that guards its calls itself.
    with _lock:
        _active[attempt.claim_id] = attempt
        _known_keys.add(attempt.key)
        _tell_programs()
    try:
        with nullcontext() if everywhere else _thread_of(attempt):
            yield
    finally:
        with _lock:
            _active.pop(attempt.claim_id, None)
            _tell_programs()


@contextmanager
def _thread_of(attempt: Attempt) -> Iterator[None]:
    above = _within.set((*_within.get(), attempt.task_id))
    try:
        with owners.owned_by(attempt):
            yield
    finally:
        _within.reset(above)


def _tell_programs() -> None:
    within = dict.fromkeys((*_begun_within, *(attempt.task_id for attempt in _active.values())))
    if within:
        os.environ[WITHIN] = " ".join(within)
    else:
        os.environ.pop(WITHIN, None)
    _set_mark()


def within() -> tuple[str, ...]:
    """Return the tasks that cannot end before what this thread does has ended: it was begun within them."""
    owner = _owner()
    own = (owner.task_id,) if isinstance(owner, Attempt) else ()
    return tuple(dict.fromkeys((*_begun_within, *_within.get(), *own)))


@contextmanager
def listening(url: str) -> Iterator[None]:
    """Let the programs that a vendor task of this process starts in the block call vendors at `url`."""
    for attempt in all_running():
        attempt.unanswered.share()
    with _lock:
        _listeners.append(url)
        _set_mark()
    try:
        yield
    finally:
        with _lock:
            _listeners.remove(url)
            _set_mark()


def _set_mark() -> None:
    """Say in the environment what it is now. The lock is held."""
    attempts = list(_active.values())
    if attempts:
        os.environ[MARK] = Secret(_handed_down(attempts[-1]))
    elif _workers or _descends:
        os.environ[MARK] = _mark_at_start or "1"
    else:
        os.environ.pop(MARK, None)


def _handed_down(attempt: Attempt) -> str:
    mark = {
        "claim": attempt.claim_id,
        "run": attempt.run_id,
        "task": attempt.task_id,
        "family": attempt.family,
        "key": str(attempt.key),
        "scheduler": attempt.client.address,
        "served": sorted(attempt.served),
        "listener": _listeners[-1] if _listeners else attempt.handed_down,
        "unanswered": attempt.unanswered.path,
        "under_way": attempt.client.under_way.path,
    }
    return json.dumps(mark)


def all_running() -> list[Attempt]:
    """Return the attempts that run in this process."""
    with _lock:
        return list(_active.values())


@contextmanager
def outside() -> Iterator[None]:
    """Let this thread belong to no vendor task (a plain task, scheduling), nor those that it starts."""
    block = Outside()
    with owners.owned_by(block):
        try:
            yield
        finally:
            block.ended = True


@contextmanager
def worker_running() -> Iterator[None]:
    """Count a Luigi worker of this process; what its thread calls by itself (`requires()`, `complete()`,
    events, `on_success`) is no vendor task's, whatever runs beside it.

    Threads that are started there are nobody's: they may be of a pool that a vendor task will use.
    """
    enter_worker()
    try:
        with owners.owned_by(Outside(inherited=False)):
            yield
    finally:
        leave_worker()


def enter_worker() -> None:
    """Count one more Luigi worker in this process, and mark what it starts, which finds no secret."""
    global _workers
    with _lock:
        environment.worker_runs()
        _workers += 1
        _beacon[0] = 1
        _set_mark()


def leave_worker() -> None:
    """Count one Luigi worker less; the last one takes its mark along, and the secrets are there again."""
    global _workers
    with _lock:
        _workers -= 1
        _beacon[0] = _workers > 0
        _set_mark()
        if not _workers:
            environment.no_worker_runs()


def descend() -> None:
    """Take this process for one that was started within a pipeline: a worker runs here, and never ends."""
    global _descends, _mark_at_start
    _descends, _mark_at_start = True, "1"
    enter_worker()


def in_pipeline() -> bool:
    """Return whether this call is made in a pipeline: a worker runs here, or has started this process or
    this thread.
    """
    return (
        _workers > 0
        or _descends
        or MARK in os.environ
        or owners.own() is not None
        or any(beacon[0] for beacon in _beacons_above)
        or owners.starter() is not None
    )


def is_vault_key(text: str) -> bool:
    """Return whether `text` is a vault key that was given to a task of this process."""
    return text in _known_keys
