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
from luigi_spendguard.guard import lookups
from luigi_spendguard.guard.answering import (
    denied_by,
    kept_text,
    replayed,
    say_replayed,
    some_of,
    still_unknown,
)
from luigi_spendguard.guard.effects import Call, Effect, Finish, Late, Life, NotSent, Reserve, Send
from luigi_spendguard.guard.patience import Patience
from luigi_spendguard.protocol import (
    GRANT_SECONDS,
    MAX_BODY,
    REPLAYED,
    TARGET_DIGITS,
    EndRequest,
    ReserveReply,
    ReserveRequest,
)
from luigi_spendguard.redaction import is_in, redact, redact_url, shows
from luigi_spendguard.settings.schema import VendorSettings
from luigi_spendguard.vendors import Outcome, Quote, Reply, Request, Vendor
from luigi_spendguard.vendors.bodies import digest, unbelieved
from luigi_spendguard.vendors.model import is_writable

logger = logging.getLogger(__name__)

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
        except lookups.NotNow as own:
            return own.reply
        except GeneratorExit:
            raise
        except BaseException as error:
            for answer in unused:
                yield Finish(EndRequest("void", answer.call_id, answer.ask, note="never sent"))
            if isinstance(error, NotSent) and call.unsure:
                raise still_unknown(call.call_id, error) from error
            raise

    def _lived(
        self, request: Request, call: Call, refuse: SpendDenied | None, unused: list[ReserveReply]
    ) -> Life:
        try:
            if refuse is not None:
                raise refuse
            quote, found = yield from self._looked_up(request)
            if why := quote.unkeepable:
                raise denial("unpriced", f"the call cannot be kept in the ledger: {why}")
        except SpendDenied as denied:
            yield from self._record(request, call, denied)
            raise
        executed: Mapping[str, Reply] | None = None  # Not asked for yet.
        late = 0
        patience = Patience(self.clock)
        while True:
            call.ask += 1
            asked_at = self.clock()
            answer = yield from self._reserve(self._ask(request, quote, call, executed, found.since), call)
            if answer.verdict in ("wait", "outdated", "look_up", "search"):
                try:
                    if answer.verdict == "wait":
                        yield patience.pause(answer)
                    elif answer.verdict == "outdated":
                        patience.check(answer)
                        quote, found = yield from self._looked_up(request)
                    elif answer.verdict == "look_up":
                        quote = yield from self._priced(quote, request, found)
                    else:
                        executed = yield from lookups.executed(self.vendor, self._get, quote, answer, request)
                except SpendDenied as denied:
                    yield from self._record(request, call, denied)
                    raise
                continue
            if answer.verdict == "found" and executed is not None:
                return (yield from self._found(quote, answer, call, executed[answer.object_id]))
            if answer.verdict == "replayed" and not answer.status:
                return (yield from lookups.answered_again(self.vendor, self._get, quote, answer, request))
            if answer.verdict == "replayed":
                return replayed(quote, answer)
            if answer.verdict != "allowed":
                raise denied_by(answer)
            unused.append(answer)
            call.call_id, call.ask, call.entry = answer.call_id, answer.ask, call.entry or answer.entry
            try:
                return (yield from self._send(request, quote, answer, call, asked_at + GRANT_SECONDS, unused))
            except Late as error:  # Given back already: the next ask may be denied.
                late += 1
                if late >= LATE_LIMIT:
                    if answer.resend or call.unsure:
                        raise still_unknown(answer.call_id, error) from error
                    raise denial(
                        "ledger_unavailable",
                        "the ledger's grants came too late to be used: this machine or luigid is "
                        "overloaded. Nothing was sent",
                    ) from None

    def _looked_up(self, request: Request) -> Generator[Effect, Any, tuple[Quote, lookups.Found]]:
        """Price a request with what must be looked up for it. Raises SpendDenied."""
        quote, found = self._quoted(request), lookups.Found()
        if quote.look_up:
            quote = yield from self._priced(quote, request, found)
        return quote, found

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
            named = " ".join([outcome.object_id or "", *outcome.covers])
            if all(is_writable(one) for one in (named, *outcome.opened)):
                return outcome
            return unbelieved("it names an object that no ledger can keep")
        except Exception as error:
            logger.exception("The vendor %s failed to read a reply", self.vendor.name)
            why = f"its reply could not be read ({type(error).__name__}: see the log)"
            return Outcome("settle" if quote.read else "doubt", note=why, error="" if quote.read else why)

    def _ask(
        self, request: Request, quote: Quote, call: Call, executed: Mapping[str, Reply] | None, since: int
    ) -> ReserveRequest:
        acts_on = {*quote.acts_on, *([quote.object_id] if quote.object_id else [])}
        body = kept_text(request.body) if quote.keep_body and not quote.read else None
        headers = some_of(request, self.vendor.kept)
        keep = body is not None and not shows("\n".join([body, *headers.values()]))
        return ReserveRequest(
            call_id=call.call_id,
            ask=call.ask,
            vendor=self.vendor.name,
            account=quote.account,
            operation=quote.operation,
            method=request.method,
            path=quote.path,
            target=quote.target,
            targets_before=" ".join(quote.targets_before),
            key=quote.key,
            key_is_callers=quote.key_is_callers,
            unsure=call.unsure,
            fingerprint=quote.fingerprint,
            read=quote.read,
            total_micros=quote.total_micros,
            currency=quote.currency,
            object_id=quote.object_id,
            body=(body or "") if keep else "",
            headers=headers if keep else {},
            timeout_ms=int(self.settings.timeout_s * 1000),
            customer=" ".join(quote.customers),
            accounts=" ".join(quote.accounts),
            owner_unknown=quote.owner_unknown,
            look_up=call.look_up,
            look_up_for=call.look_up_for,
            covers=" ".join(quote.covers),
            acts_on=" ".join(sorted(acts_on)),
            priced_by=" ".join(sorted({*quote.priced_by} - acts_on)),
            since=since,
            unanswered=call.unanswered,
            repeatable=quote.repeatable,
            searched=executed is not None,
            executed=" ".join(executed or ()),
            targets=" ".join(
                digest(self.vendor.name, quote.account, one)[:TARGET_DIGITS] for one in quote.targets
            ),
        )

    def _reserve(self, ask: ReserveRequest, call: Call) -> Generator[Effect, Any, ReserveReply]:
        try:
            answer: ReserveReply = yield Reserve(ask)
        except LedgerUnavailable as error:
            # The request may have arrived and only its answer be lost: nobody will send under it.
            yield Finish(EndRequest("void", call.call_id, call.ask, note="its grant did not arrive"))
            raise denial(
                "ledger_unavailable", f"denied, nothing was sent: {error}", {"call_id": call.call_id}
            ) from None
        except (SpendDenied, GeneratorExit):
            raise
        except BaseException:
            yield Finish(EndRequest("void", call.call_id, call.ask, note="its sender was interrupted"))
            raise
        return answer

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
                    message=denied.message,
                )
            )
        except LedgerUnavailable as error:
            logger.warning("A denied call could not be put on record: %s", error)

    def _get(self, request: Request, call: Call) -> Life:
        """Send a request of the guard's own; the operator's allowlist is about what the task calls."""
        plain = replace(self, settings=replace(self.settings, allowed_endpoints=()))
        return plain.guarded(request, call)

    def _priced(self, quote: Quote, request: Request, found: lookups.Found) -> Generator[Effect, Any, Quote]:
        return lookups.priced(self.vendor, self._get, quote, request, found, self.settings, self.fx)

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
        if answer.resend and answer.body:
            request = replace(
                request,
                body=answer.body.encode("utf-8"),
                headers={**request.headers, **answer.headers},
            )
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
        call_id, ask = answer.call_id, answer.ask
        try:
            reply: Reply = yield Send(wire, deadline)
        except GeneratorExit:
            raise
        except NotSent as error:
            yield Finish(EndRequest("void", call_id, ask, note=f"not sent: {error}"[:500]))
            if error.interrupt is not None:
                raise error.interrupt from None
            if answer.resend and not isinstance(error, Late):
                raise still_unknown(call_id, error) from error
            raise
        except BaseException as error:
            kind = "settle" if quote.read else "doubt"
            call.unsure = not quote.read
            yield Finish(EndRequest(kind, call_id, ask, note=f"no reply: {type(error).__name__}"))
            raise
        return reply

    def _found(
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
        call_id, ask = answer.call_id, answer.ask
        outcome = self._read(quote, reply, resent=resent)
        interrupted: BaseException | None = None
        undo = None if request is None else self.vendor.undo(quote, request, reply, self.settings)
        if undo is not None and outcome.kind == "settle":
            outcome, interrupted = yield from lookups.taken_back(self.vendor, self._get, undo, outcome)
        if outcome.billed_at and request is not None:
            outcome, interrupted = yield from lookups.billed(
                self.vendor, self._get, quote, request, outcome, self.fx
            )
        call.unsure = call.unsure or outcome.kind == "doubt"
        leaked = is_in(reply.body, self.secret) or any(
            is_in(value.encode("utf-8", "surrogateescape"), self.secret) for value in reply.headers.values()
        )
        kept = outcome.kind == "settle" and not quote.read and not leaked and len(reply.body) <= MAX_BODY
        text = redact(reply.body.decode("utf-8", "replace")) if kept else ""
        yield Finish(
            EndRequest(
                outcome.kind,
                call_id,
                ask,
                definite=outcome.definite,
                total_micros=outcome.total_micros,
                worth_micros=outcome.worth_micros,
                only_less=outcome.only_less,
                only_more=outcome.only_more,
                covers="" if leaked else " ".join(outcome.covers),
                covers_stay=outcome.covers_stay,
                object_id=None if leaked else outcome.object_id,  # Whatever part of it is the secret.
                status=reply.status,
                answer_headers=some_of(reply, self.vendor.kept_answer) if kept else {},
                answer_body=text,
                # What only the request says of an existing object is not the object's own.
                customer="" if quote.owner_unknown else " ".join(quote.customers),
                note=outcome.note,
                price_due=outcome.price_due,
                fees_micros=quote.fees_micros,
                opened={} if leaked else {one: str(micros) for one, micros in outcome.opened.items()},
            )
        )
        if interrupted is not None:
            raise interrupted
        if leaked:
            # This frame is on the stack of what is raised.
            reply, text = Reply(reply.status, {}, b""), ""
            raise denial("endpoint", "the reply contained the vendor's secret and was withheld")
        if outcome.error:
            raise OutcomeUnknown(
                f"call {call_id} was sent, but {outcome.error}: it is in doubt and goes on counting. "
                f"Look it up at the vendor, then `spendguard resolve {call_id}`",
                call_id,
            )
        return self.vendor.answered(reply)
