"""The life of one vendor call, without I/O: decide, reserve, send, end.

`guarded` is a generator: it yields what is to be done (`Reserve`, `Send`, `Finish`, `Pause`) and is sent
what came of it, so that the same decisions serve the synchronous worker and an asynchronous gateway, and
every path can be tested without a socket. Drivers throw what sending raised into it, and live it to its
end: one that is closed instead leaves its reservation to become in doubt.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any
from urllib.parse import urlsplit

from luigi_spendguard.errors import LedgerUnavailable, OutcomeUnknown, SpendDenied, denial
from luigi_spendguard.guard.effects import Call, Effect, Finish, Late, Life, NotSent, Reserve, Send
from luigi_spendguard.guard.lookups import LookedUp, LookUps, NotNow, resolve_text
from luigi_spendguard.guard.messages import (
    TRIED_BEFORE,
    Waiting,
    denied_by,
    end_request,
    replayed,
    reserve_request,
    say_replayed,
    still_unknown,
)
from luigi_spendguard.protocol import (
    ASKED_AGAIN,
    GRANT_SECONDS,
    REPLAYED,
    EndRequest,
    ReserveReply,
    ReserveRequest,
)
from luigi_spendguard.redaction import is_in, redact_url
from luigi_spendguard.settings import VendorSettings
from luigi_spendguard.vendors import Outcome, Quote, Reply, Request, Vendor
from luigi_spendguard.vendors.bodies import unbelieved
from luigi_spendguard.vendors.model import is_id, is_writable

logger = logging.getLogger(__name__)

#: The most characters of a refusal that are put on record: a whole allowlist may stand in it.
MAX_REASON = 2000
#: Why a call is not made.
_GIVEN_UP = "it was given up and made again before its turn had come; nothing was sent"
#: How often a grant that was not used in time is asked for again before the call is denied.
LATE_LIMIT = 5


@dataclass(frozen=True)
class Guard:
    """What stays the same from call to call.

    Attributes:
        secret: the vendor's real credential; it is put on the wire here and nowhere else.
        fx: USD for a unit of each currency.
        clock: a monotonic clock, in seconds.

    """

    vendor: Vendor
    settings: VendorSettings
    secret: str = field(repr=False)
    fx: Mapping[str, Decimal]
    clock: Callable[[], float]

    def guarded(self, request: Request, call: Call, refuse: SpendDenied | None = None) -> Life:
        """Live one send of `call`. Raises SpendDenied, OutcomeUnknown, or what sending raised.

        `refuse` is a denial that the binding has decided already: it is put on record and raised. A grant
        that was not used is given back, whatever ends this. A look-up that the vendor does not answer now
        (429, 5xx) is answered with the vendor's own reply: nothing was sent, and the caller may try again.
        """
        unused: list[ReserveReply] = []
        try:
            return (yield from self._lived(request, call, refuse, unused))
        except NotNow as own:
            for answer in unused:
                yield Finish(_void(call, answer, "not answered"))
                call.begin_anew()
            return own.reply
        except GeneratorExit:
            raise
        except BaseException as error:
            for answer in unused:
                yield Finish(_void(call, answer, "never sent"))
            if isinstance(error, NotSent) and call.unsure:
                raise still_unknown(call.call_id, error) from error
            raise

    def _lived(
        self, request: Request, call: Call, refuse: SpendDenied | None, unused: list[ReserveReply]
    ) -> Life:
        try:
            if refuse is not None:
                raise refuse
            quote, looked_up = yield from self._looked_up(request)
            if why := quote.unkeepable:
                raise denial("unpriced", f"the call cannot be kept in the ledger: {why}")
        except SpendDenied as denied:
            yield from self._record(request, call, denied)
            raise
        late = 0
        waiting = Waiting(self.clock)
        while True:
            if call.given_up and not call.unsure:
                raise denial("ledger_unavailable", _GIVEN_UP)
            call.ask += 1
            asked_at = self.clock()
            ask = reserve_request(self.vendor, request, quote, call, looked_up, self.settings.timeout_s)
            answer = yield from self._reserve(ask, call)
            if answer.verdict in ASKED_AGAIN:
                try:
                    if answer.verdict == "wait":
                        call.ask = max(call.ask, answer.ask)
                        yield waiting.pause(answer)
                    elif answer.verdict == "outdated":
                        waiting.check_turn(answer)
                        executed = looked_up.executed
                        quote, looked_up = yield from self._looked_up(request)
                        looked_up.executed = executed
                    elif answer.verdict == "look_up":
                        quote = yield from self._look_ups.priced(quote, request, looked_up)
                    else:
                        looked_up.executed = yield from self._look_ups.executed(quote, answer, request)
                except SpendDenied as denied:
                    yield from self._record(request, call, denied)
                    raise
                continue
            if answer.verdict == "found" and looked_up.executed is not None:
                opened = looked_up.executed
                return (yield from self._end_as_executed(quote, answer, call, opened[answer.object_id]))
            if answer.is_read:
                unused.append(answer)  # What cannot be read now the task has not had.
                reply: Reply = yield from self._look_ups.answered_again(quote, answer, request)
                unused.clear()
                return reply
            if answer.verdict == "replayed":
                return replayed(quote, answer)
            if answer.verdict != "allowed":
                raise denied_by(answer)
            if answer.message:
                logger.warning("%s", answer.message)
            unused.append(answer)
            call.call_id, call.ask, call.entry = answer.call_id, answer.ask, call.entry or answer.entry
            try:
                return (yield from self._send(request, quote, answer, call, asked_at + GRANT_SECONDS, unused))
            except Late as error:  # Given back already: the next ask may be denied.
                late += 1
                if late >= LATE_LIMIT:
                    if answer.resend or call.unsure:
                        raise still_unknown(answer.call_id, error, quote) from error
                    raise denial(
                        "ledger_unavailable",
                        "the ledger's grants came too late to be used: this machine or luigid is "
                        "overloaded. Nothing was sent",
                    ) from None

    def _looked_up(self, request: Request) -> Generator[Effect, Any, tuple[Quote, LookedUp]]:
        """Price a request with what must be looked up for it. Raises SpendDenied."""
        quote, looked_up = self._quoted(request), LookedUp()
        if quote.look_up:
            quote = yield from self._look_ups.priced(quote, request, looked_up)
        return quote, looked_up

    def _quoted(self, request: Request) -> Quote:
        """Price a request; an adapter that fails at it has not priced it. Raises SpendDenied."""
        try:
            return self.vendor.quote(request, self.settings, self.secret, self.fx)
        except SpendDenied:
            raise
        except Exception as error:
            logger.exception("The vendor %s failed to price a call", self.vendor.name)
            why = f"this call could not be priced ({type(error).__name__} in {self.vendor.name}: see the log)"
            raise denial("unpriced", why) from None

    def _read(self, quote: Quote, reply: Reply, *, resent: bool) -> Outcome:
        """Read what became of a call; where its adapter fails at that, nobody knows."""
        try:
            outcome = self.vendor.outcome(quote, reply, resent=resent, fx=self.fx)
            named = [outcome.object_id or "", *outcome.covers]
            if all(map(is_id, (*named, *outcome.opened))) and is_writable(" ".join(named)):
                return outcome
            return unbelieved("it names an object that no ledger can keep")
        except Exception as error:
            logger.exception("The vendor %s failed to read a reply", self.vendor.name)
            why = f"its reply could not be read ({type(error).__name__}: see the log)"
            return Outcome("settle" if quote.read else "doubt", note=why, error="" if quote.read else why)

    def _reserve(self, ask: ReserveRequest, call: Call) -> Generator[Effect, Any, ReserveReply]:
        try:
            answer: ReserveReply = yield Reserve(ask)
        except LedgerUnavailable as error:
            # The request may have arrived and only its answer be lost: nobody will send under it.
            yield Finish(self._void_unheard(call, f"its grant did not arrive: {error}"[:500]))
            now = f"denied, nothing was sent: {error}"
            if call.unsure:
                now = f"denied, nothing was sent now: {error}. {TRIED_BEFORE}"
            raise denial("ledger_unavailable", now, {"call_id": call.call_id}) from None
        except (SpendDenied, GeneratorExit):
            raise
        except BaseException:
            yield Finish(self._void_unheard(call, "its sender was interrupted"))
            raise
        return answer

    def _void_unheard(self, call: Call, note: str) -> EndRequest:
        """Return what ends a call of which the ledger may not have heard: it may know of it by this alone."""
        return replace(_void(call, call, note), vendor=self.vendor.name)

    def _record(self, request: Request, call: Call, denied: SpendDenied) -> Generator[Effect, Any, None]:
        """Put the guard's own refusal on record; a ledger that is away does not change it."""
        call.ask += 1
        rest = self.vendor.rest(request.url) or urlsplit(request.url).path
        path = redact_url(rest.partition("?")[0])[:300]  # A secret that is cut is not found any more.
        try:
            yield Reserve(
                ReserveRequest(
                    call.call_id,
                    self.vendor.name,
                    "",
                    f"{request.method} {path}",
                    request.method,
                    path,
                    ask=call.ask,
                    denied=denied.reason,
                    message=redact_url(denied.message)[:MAX_REASON],
                )
            )
        except LedgerUnavailable as error:
            logger.warning("A denied call could not be put on record: %s", error)

    @property
    def _look_ups(self) -> LookUps:
        return LookUps(self.vendor, self._get, self.settings, self.fx)

    def _get(self, request: Request, call: Call) -> Life:
        """Send a request of the guard's own; the operator's allowlist is about what the task calls."""
        plain = replace(self, settings=replace(self.settings, allowed_endpoints=()))
        return plain.guarded(request, call)

    def _send(
        self,
        request: Request,
        quote: Quote,
        answer: ReserveReply,
        call: Call,
        deadline: float,
        unused: list[ReserveReply],
    ) -> Generator[Effect, Any, Reply]:
        """Send under a grant and end the reservation by what came of it."""
        if answer.asked_micros and quote.firm:
            # An earlier send may have changed what this quote was looked up by.
            quote = replace(quote, total_micros=answer.asked_micros)
        is_stored = answer.resend and bool(answer.body)
        if is_stored:
            request = replace(
                request, body=answer.body.encode("utf-8"), headers={**request.headers, **answer.headers}
            )
        if answer.tagged and (is_stored or quote.taggable):
            request = self.vendor.tagged(request, answer.wire_key)
        key = answer.wire_key if quote.repeatable else ""
        wire = self.vendor.wire(request, self.settings, self.secret, key)
        unused.clear()
        # No name for the reply here: this frame is on the stack of what is raised about it.
        return (
            yield from self._ended(
                quote,
                call,
                answer,
                (yield from self._sent(wire, deadline, quote, call, answer)),
                resent=answer.resend,
                request=request,
            )
        )

    def _sent(
        self, wire: Request, deadline: float, quote: Quote, call: Call, answer: ReserveReply
    ) -> Generator[Effect, Any, Reply]:
        """Send, and end the reservation where no reply comes."""
        try:
            reply: Reply = yield Send(wire, deadline)
        except GeneratorExit:
            raise
        except NotSent as error:
            yield Finish(_void(call, answer, f"not sent: {error}"[:500]))
            if error.interrupt is not None:
                raise error.interrupt from None
            if answer.resend and not isinstance(error, Late):
                raise still_unknown(answer.call_id, error, quote) from error
            raise
        except BaseException as error:
            yield from self._unanswered(quote, call, answer, f"no reply: {type(error).__name__}")
            raise
        return reply

    def _unanswered(
        self, quote: Quote, call: Call, answer: ReserveReply, note: str
    ) -> Generator[Effect, Any, None]:
        """End a call that was sent and gets no answer: it is in doubt, unless it only reads."""
        call.unsure = not quote.read
        yield Finish(EndRequest("doubt" if call.unsure else "settle", answer.call_id, answer.ask, note=note))

    def _end_as_executed(
        self, quote: Quote, answer: ReserveReply, call: Call, reply: Reply
    ) -> Generator[Effect, Any, Reply]:
        """End an earlier send by what the vendor shows that it has opened, and answer with that."""
        call.call_id, call.ask = answer.call_id, answer.ask
        say_replayed(f"{quote.operation} {quote.target or ''}".rstrip(), answer.first_at)
        ended = yield from self._ended(quote, call, answer, reply, resent=True)
        return replace(ended, headers={**ended.headers, REPLAYED: str(answer.first_at)})

    def _ended(
        self,
        quote: Quote,
        call: Call,
        answer: ReserveReply,
        reply: Reply,
        *,
        resent: bool,
        request: Request | None = None,
    ) -> Generator[Effect, Any, Reply]:
        """End a reservation by the vendor's reply, and return that. Raises SpendDenied, OutcomeUnknown."""
        interrupted: BaseException | None = None
        try:
            outcome = self._read(quote, reply, resent=resent)
            undo = None if request is None else self.vendor.undo(quote, request, reply, self.settings)
            if undo is not None and outcome.kind == "settle":
                outcome, interrupted = yield from self._look_ups.taken_back(undo, outcome)
            if outcome.billed_at and request is not None:
                outcome, interrupted = yield from self._look_ups.billed(quote, request, outcome)
            leaked = is_in(reply.body, self.secret) or any(
                is_in(value.encode("utf-8", "surrogateescape"), self.secret)
                for value in reply.headers.values()
            )
            end = end_request(self.vendor, quote, answer, reply, outcome, leaked=leaked)
            if end.kind == "void":
                end = replace(end, sender=call.sender)
        except GeneratorExit:
            raise
        except BaseException as error:  # An adapter that fails, or the exception of a signal's handler.
            reply = Reply(reply.status, {}, b"")
            yield from self._unanswered(
                quote, call, answer, f"its reply was not read: {type(error).__name__}"
            )
            raise
        call.unsure = call.unsure or outcome.kind == "doubt"
        yield Finish(end)
        if interrupted is not None:
            raise interrupted
        if leaked:
            # This frame is on the stack of what is raised.
            reply = Reply(reply.status, {}, b"")
            raise denial("endpoint", "the reply contained the vendor's secret and was withheld")
        if outcome.error:
            raise OutcomeUnknown(
                f"call {answer.call_id} was sent, but {outcome.error}: it is in doubt and goes on counting. "
                f"Look it up at the vendor, then {resolve_text(answer.call_id, quote)}",
                answer.call_id,
            )
        return self.vendor.answered(reply)


def _void(call: Call, asked: Call | ReserveReply, note: str) -> EndRequest:
    """Return what ends what `call` was granted, or may have been: nothing is sent under it."""
    return EndRequest("void", asked.call_id, asked.ask, sender=call.sender, note=note)
