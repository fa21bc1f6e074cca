"""`spend_proxy`: an address on this machine at which a task's programs call vendors, whatever their language.

A thread of the task's own process listens, on loopback and a free port, while the block runs. It takes the
vault keys of this process's running tasks and nothing else: others on this machine reach the port, too.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from typing import Any

from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler

from luigi_spendguard import proxy
from luigi_spendguard.counted import counted
from luigi_spendguard.errors import (
    BudgetExceeded,
    KeyRevoked,
    OutcomeUnknown,
    PluginError,
    SpendDenied,
    denial,
)
from luigi_spendguard.guard.denials import refusal, unanswered, unanswered_by_gateway, unreachable
from luigi_spendguard.guard.effects import Call, NotSent
from luigi_spendguard.http.receiving import answer_half_closed
from luigi_spendguard.http.relay import ClientCall, Relaying, UnderWay, check_host, check_origin
from luigi_spendguard.process_state import at_fork
from luigi_spendguard.protocol import RELAYED
from luigi_spendguard.proxy import attempts, environment
from luigi_spendguard.proxy.aio import ENDING_S
from luigi_spendguard.proxy.attempts import Attempt
from luigi_spendguard.proxy.call import send
from luigi_spendguard.vendors import Reply
from luigi_spendguard.vendors.registry import VENDORS

logger = logging.getLogger(__name__)

#: Calls that are under way at once in one listener; others wait their turn.
THREADS = 32


@contextmanager
def spend_proxy(vendor: str = "") -> Iterator[str]:
    """Listen on this machine while the block of a vendor task runs, and yield the URL for its programs.

    Behind it stand the vendors, `<url>/stripe/v1/…`; with `vendor` it stands for that one's own address. The
    programs show the vault key that they find in the environment where the secret usually is. When the block
    ends, calls under way end first, within the vendors' time-outs.

    Raises SpendDenied (`scope`) outside a vendor task and PluginError for a vendor that there is not; where
    the block ends with an error after its programs' last call was denied for good, BudgetExceeded or
    KeyRevoked from that. Whoever runs programs has an error of its own: subprocess.CalledProcessError,
    luigi.contrib.external_program.ExternalProgramRunError, sh.ErrorReturnCode and others.
    """
    proxy.join()
    attempt = attempts.current()
    if attempt is None:
        raise denial("scope", "spend_proxy() is for programs of a vendor task: use it inside its run()")
    if vendor and vendor not in VENDORS:
        raise PluginError(f"there is no vendor {vendor!r}; there are {', '.join(sorted(VENDORS))}")
    listener = Listener(attempt, vendor)
    try:
        with environment.past_proxies(), nullcontext() if vendor else attempts.listening(listener.url):
            yield listener.url
    except Exception as error:
        if (denied := listener.denied) is None:
            raise
        raise type(denied)(denied.reason, denied.message, denied.facts) from error
    finally:
        listener.end()


class Listener:
    """One port and its thread.

    Attributes:
        denied: what the task's last call was told, where that blocks the task.

    """

    def __init__(self, attempt: Attempt, only: str) -> None:
        self.denied: BudgetExceeded | KeyRevoked | None = None
        self._attempt, self._only = attempt, only
        self.sockets = bind_sockets(0, "127.0.0.1")
        self.url = f"http://127.0.0.1:{self.sockets[0].getsockname()[1]}"
        longest = max(attempt.settings.vendor(name).timeout_s for name in VENDORS)
        self._bound_s = longest + ENDING_S
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="spendguard-listener")
        self._calls: set[Listening] = set()
        self._under_way = UnderWay()
        self._ending = False
        self._loop = asyncio.new_event_loop()
        self._asked, self._idle = asyncio.Event(), asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="spendguard-listener", daemon=True)
        self._forked = False
        at_fork(self._leave_to_parent)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        """Serve until it is asked to end, and then until no call is under way, within the bound."""
        names = [self._only] if self._only else list(VENDORS)
        routes = [
            (
                r"/.*" if self._only else rf"/{name}(?:/.*)?",
                Listening,
                {"listener": self, "vendor": VENDORS[name], "prefix": 0 if self._only else len(name) + 1},
            )
            for name in names
        ]
        app = Application(
            routes,
            default_handler_class=Elsewhere,
            default_handler_args={"names": names},
            log_function=lambda handler: logger.debug("%s %s", handler.get_status(), handler),
        )
        answer_half_closed(app)
        server = HTTPServer(app)
        server.add_sockets(self.sockets)
        await self._asked.wait()
        self._ending = True
        server.stop()
        if self._calls:
            try:
                await asyncio.wait_for(self._idle.wait(), self._bound_s)
            except asyncio.TimeoutError:
                calls = counted(len(self._calls), "call")
                logger.error("%s of a task's programs not ended in time", calls)
        await server.close_all_connections()
        self._pool.shutdown(wait=not self._calls, cancel_futures=True)

    def _leave_to_parent(self) -> None:
        """Let a forked child not hold the port open: nobody there answers."""
        self._forked = True
        for socket in self.sockets:
            socket.close()

    def end(self) -> None:
        """End the calls under way, close the port and wait for the thread. A forked child has none."""
        if self._forked:
            return
        try:
            self._loop.call_soon_threadsafe(self._asked.set)
        except RuntimeError:  # The thread has ended with an error of its own.
            return
        self._thread.join(self._bound_s + ENDING_S)

    # In the thread.

    def attempt_of(self, key: str) -> Attempt:
        """Return the task of this process that shows `key`. Raises SpendDenied (`unknown_key`)."""
        for attempt in attempts.all_running():
            if key and hmac.compare_digest(attempt.key.encode(), key.encode("utf-8", "replace")):
                return attempt
        raise denial(
            "unknown_key",
            "this is no vault key of a task that runs here: send what stands in the environment where the "
            "vendor's own key usually is",
        )

    async def reply(self, call: Listening, asked: ClientCall, attempt: Attempt) -> Reply:
        """Guard and send an attempt's call; return the vendor's reply, or a denial in the vendor's format."""
        if self._ending:
            raise denial("ledger_unavailable", "the task goes on without its programs: no new call is taken")
        self._calls.add(call)
        with self._under_way.made(attempt.claim_id, asked) as one:
            return await self._loop.run_in_executor(self._pool, self._sent, asked, one, attempt)

    def ended(self, call: Listening) -> None:
        """Take note that a call was answered."""
        self._calls.discard(call)
        if self._ending and not self._calls:
            self._idle.set()

    def _sent(self, asked: ClientCall, call: Call, attempt: Attempt) -> Reply:
        vendor, denied = asked.vendor, None
        if asked.is_gone():  # While it waited for its turn: nobody has the answer, and it may be made again.
            return refusal(vendor, denial("ledger_unavailable", "its program has gone; nothing was sent"))
        try:
            return send(vendor, asked.request, call, attempt, asked.refuse)
        except SpendDenied as error:
            denied = error
            return refusal(vendor, error)
        except OutcomeUnknown as error:
            return refusal(vendor, error)
        except NotSent as error:
            return unreachable(vendor, error)
        except OSError as error:
            if vendor.only_reads(asked.request):
                return unanswered(vendor, error, "")
            # What was not asked for here, a gateway has guarded.
            return (
                unanswered(vendor, error, call.call_id) if call.ask else unanswered_by_gateway(vendor, error)
            )
        finally:
            if attempt is self._attempt:
                self.denied = denied if isinstance(denied, (BudgetExceeded, KeyRevoked)) else None


class Listening(Relaying):
    """One call of a program; its key is looked at before its body is read."""

    #: A program of the task's that has the guard forwards its calls as to a gateway.
    marks = {RELAYED: "1"}

    def initialize(self, **settings: Any) -> None:
        """Take the route's settings: the listener, the vendor, and what of a path is not the vendor's."""
        super().initialize()
        self._listener: Listener = settings["listener"]
        self.vendor = settings["vendor"]
        self._prefix: int = settings["prefix"]

    async def admit(self) -> None:
        """Refuse what is not a running task's program. Raises SpendDenied, Refused."""
        check_origin(self.request)
        check_host(self.request)
        self._attempt = self._listener.attempt_of(self.shown_key(self.asked()))

    async def relayed(self) -> Reply:
        asked = self.asked()
        call = self.begin(asked, asked.url[self._prefix :])
        reply = await self._listener.reply(self, call, self._attempt)
        return self.relinked(reply, asked, asked.url[: self._prefix])

    def pass_on(self, reply: Reply) -> Any:
        """Answer with a reply; the call has ended once its last byte is with the client."""
        sent: Future[None] = super().pass_on(reply)
        sent.add_done_callback(lambda _: self._listener.ended(self))
        return sent


class Elsewhere(RequestHandler):
    """Answers what is no vendor's path."""

    def initialize(self, names: list[str]) -> None:
        self._names = names

    def prepare(self) -> None:
        """Say what there is."""
        self.set_status(404)
        there = ", ".join(f"/{name}/" for name in self._names)
        self.finish({"error": "not_found", "message": f"no vendor's path; they begin with {there}"})
