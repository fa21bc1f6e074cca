"""What the guard does at the vendor for a call: reads its price, what a repeated one is answered with, and
whether one whose outcome is unknown was executed; takes back what a declined one has left open. Without I/O,
as the guard itself.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from decimal import Decimal
from typing import Any

from luigi_spendguard.errors import SpendDenied, VendorUnreachable, denial
from luigi_spendguard.guard.effects import Call, Effect, Life, NotSent
from luigi_spendguard.protocol import REPLAYED, ReserveReply, commands
from luigi_spendguard.settings import VendorSettings
from luigi_spendguard.vendors import Outcome, Quote, Reply, Request, Vendor

logger = logging.getLogger(__name__)

#: The most objects that are fetched to price one call, and bytes that they have together.
LOOK_UP_LIMIT, LOOK_UP_BYTES = 30, 8 << 20
#: The most pages of a list in which one call is searched for.
LIST_PAGES = 50

Get = Callable[[Request, Call], Life]
#: How a call has ended, and what has interrupted that, to be raised.
Ending = tuple[Outcome, BaseException | None]


@dataclass
class LookedUp:
    """What was looked up for a call.

    Attributes:
        replies: for its price, by path.
        since: the ledger's last entry when that began.
        executed: what the vendor shows that an earlier send of it may have opened, by object id, oldest
            first; None: not asked for yet.

    """

    replies: dict[str, Reply] = field(default_factory=dict)
    since: int = 0
    executed: Mapping[str, Reply] | None = None


class NotNow(Exception):
    """The vendor does not answer a look-up now (429, 5xx): its `reply` is the answer to the call."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(f"HTTP {reply.status}")
        self.reply = reply


@dataclass(frozen=True)
class LookUps:
    """What the guard of one vendor asks it for besides.

    `get` sends a request of the guard's own, as a call of its own; the operator's allowlist is not about it.
    """

    vendor: Vendor
    get: Get
    settings: VendorSettings
    fx: Mapping[str, Decimal]

    def _fetched(self, request: Request, what: str, call: Call | None = None) -> Life:
        """Return the reply to a GET, for `what`. Raises SpendDenied, NotNow, and NotSent where the connection
        is lost: nothing of the call itself was sent, and it may be made again.
        """
        try:
            reply = yield from self.get(request, call or Call(look_up=True))
        except (VendorUnreachable, OSError) as error:
            raise NotSent(f"{what}, and that could not be done ({type(error).__name__})") from error
        if reply.status == 429 or reply.status >= 500:
            raise NotNow(reply)
        return reply

    def priced(self, quote: Quote, request: Request, looked_up: LookedUp) -> Generator[Effect, Any, Quote]:
        """Fetch what `quote` names, until the request is priced by it. Raises SpendDenied (`unpriced`)."""
        replies = looked_up.replies
        wanted = [path for path in quote.look_ups if path not in replies]
        if not wanted:
            raise denial("unpriced", f"what {quote.operation} costs, or whom it concerns, is not known")
        while wanted:
            if len(replies) + len(wanted) > LOOK_UP_LIMIT:
                raise denial(
                    "unpriced",
                    f"{quote.operation} needs more than {LOOK_UP_LIMIT} objects to be looked up before it "
                    "can be priced: split it",
                )
            for path in wanted:
                look_up = Call(look_up=True, look_up_for=f"{request.method} {quote.path} {quote.operation}")
                replies[path] = yield from self._priced_by(quote, request, path, look_up)
                looked_up.since = looked_up.since or look_up.entry
                if sum(len(reply.body) for reply in replies.values()) > LOOK_UP_BYTES:
                    raise denial(
                        "unpriced",
                        f"{quote.operation} needs more than {LOOK_UP_BYTES} bytes to be looked up before it "
                        "can be priced: split it",
                    )
            quote = self.vendor.complete(quote, request, replies, self.settings, self.fx)
            wanted = [path for path in quote.look_ups if path not in replies] if quote.look_up else []
        return quote

    def _priced_by(self, quote: Quote, request: Request, path: str, call: Call) -> Life:
        what = f"{quote.operation}: {path.partition('?')[0]} has to be looked up to price it"
        try:
            return (yield from self._fetched(self.vendor.look_up(quote, request, path), what, call))
        except (SpendDenied, NotNow, NotSent):
            raise
        except Exception as error:
            raise denial(
                "unpriced", f"{what}, and could not be ({type(error).__name__}). Nothing was sent"
            ) from error

    def answered_again(self, quote: Quote, answer: ReserveReply, request: Request) -> Life:
        """Answer a repeated call with the object that an operator has named, read now."""
        what = f"{answer.object_id}, which this call has opened, has to be read"
        reply = yield from self._fetched(self.vendor.fetch(quote, answer.object_id, request), what)
        if reply.status != 200:
            raise denial(
                "idempotency_mismatch",
                "this call was made before, and an operator has said that it opened "
                f"{answer.object_id}, which the vendor does not show (HTTP {reply.status}): say which object "
                f"it is: {commands.correct(answer.message or answer.call_id)}",
                {"call_id": answer.call_id, "object_id": answer.object_id},
            )
        logger.warning(
            "Replayed: %s %s was made before and resolved by an operator; %s was read, nothing was spent now",
            quote.operation,
            quote.target or "",
            answer.object_id,
        )
        headers = {**reply.headers, REPLAYED: str(answer.first_at)}
        return replace(reply, status=self.vendor.made_status, headers=headers)

    def executed(
        self, quote: Quote, answer: ReserveReply, request: Request
    ) -> Generator[Effect, Any, Mapping[str, Reply]]:
        """Return what the vendor shows that an earlier send of this call may have opened: by object id, the
        oldest first, the reply it would have got. Raises SpendDenied (`in_doubt`) where it cannot be asked.
        """
        if answer.body:  # What was sent then is what may be found; the task may say it otherwise now.
            headers = {**request.headers, **answer.headers}
            request = replace(request, body=answer.body.encode("utf-8"), headers=headers)
        if answer.tagged:
            return (yield from self._tagged(quote, answer, request))
        search = self.vendor.search(quote, request, answer.first_at)
        if search is None:
            raise in_doubt(
                answer.call_id, quote, f"{self.vendor.name} has no list in which it could be found"
            )
        try:
            what = f"whether call {answer.call_id} was executed has to be looked up"
            listed: Reply = yield from self._fetched(search, what)
        except (SpendDenied, NotNow, NotSent):
            raise
        except Exception as error:
            raise in_doubt(
                answer.call_id, quote, f"{self.vendor.name} could not be asked ({type(error).__name__})"
            ) from error
        if listed.status != 200:
            why = f"{self.vendor.name} could not be asked (HTTP {listed.status})"
            raise in_doubt(answer.call_id, quote, why)
        return self.vendor.matches(quote, request, listed, answer.first_at)

    def _tagged(
        self, quote: Quote, answer: ReserveReply, request: Request
    ) -> Generator[Effect, Any, Mapping[str, Reply]]:
        """Return what has the tag of a call, of all that was made when it was sent. Raises SpendDenied
        (`in_doubt`) where nothing has, or not all can be seen.
        """
        found: dict[str, Reply] = {}
        after, seen, vendor = "", 0, self.vendor
        span = answer.first_at, answer.last_at
        for _ in range(LIST_PAGES):
            search = vendor.search_tagged(quote, request, span, after)
            if search is None:
                raise in_doubt(answer.call_id, quote, f"{vendor.name} has no list in which it could be found")
            try:
                listed: Reply = yield from self._fetched(search, f"what call {answer.call_id} has made")
                page = vendor.read_tagged(quote, request, span, listed, answer.wire_key)
            except (SpendDenied, NotNow, NotSent):
                raise
            except Exception as error:
                why = f"{vendor.name} could not be asked ({type(error).__name__})"
                raise in_doubt(answer.call_id, quote, why) from error
            found = {**page.found, **found}  # The newest page comes first.
            after, seen = page.after, seen + page.seen
            if not after:
                break
        tag, between = vendor.tag_text(answer.wire_key), " and ".join(map(_minute, span))
        if after:
            why = f"more than {seen:,} objects were made between {between}: search for {tag}"
            raise in_doubt(answer.call_id, quote, why)
        if not found:
            raise in_doubt(
                answer.call_id,
                quote,
                f"it is too old for its idempotency key, and none of the {seen:,} objects that were made "
                f"between {between} has its tag ({tag}), which is no proof that it was not made",
            )
        return found

    def taken_back(self, undo: Request, outcome: Outcome) -> Generator[Effect, Any, Ending]:
        """Take back what a declined call has left open: then it is void. Where that is not certain its
        `outcome` stays, and it goes on counting.
        """
        why: object = "the vendor has not cancelled it"
        interrupted: BaseException | None = None
        try:
            if self.vendor.undone((yield from self.get(undo, Call(look_up=True)))):
                return Outcome("void", definite=True, note="declined, and cancelled by the guard"), None
        except GeneratorExit:
            raise
        except Exception as error:
            why = error
        except BaseException as error:
            why = interrupted = error
        logger.warning(
            "%s of a declined call stays open, and counts until it is cancelled: %s", outcome.object_id, why
        )
        return outcome, interrupted

    def billed(self, quote: Quote, request: Request, outcome: Outcome) -> Generator[Effect, Any, Ending]:
        """Read what a call has billed: that is booked. Where it cannot be read, what was quoted is."""
        why: object = "the vendor's answer does not say it"
        interrupted: BaseException | None = None
        try:
            reply = yield from self.get(
                self.vendor.look_up(quote, request, outcome.billed_at), Call(look_up=True)
            )
            billed = self.vendor.billed(quote, outcome, reply, self.fx)
            if billed is not None:
                return billed, None
        except GeneratorExit:
            raise
        except Exception as error:
            why = error
        except BaseException as error:
            why = interrupted = error
        logger.warning(
            "What %s of %s has billed could not be read (%s): it is booked as quoted",
            quote.operation,
            quote.target,
            why,
        )
        return replace(outcome, note="booked as quoted: what was billed could not be read"), interrupted


def resolve_text(call_id: str, quote: Quote) -> str:
    """Return in words what ends a call in doubt, by what is known of it here."""
    # On an object that counts already only the rest is reserved.
    micros = quote.total_micros if quote.object_id is None else None
    return commands.resolve_text(call_id, micros, quote.object_id)


def _minute(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, timezone.utc).strftime("%Y-%m-%d %H:%M UTC")


def in_doubt(call_id: str, quote: Quote, why: str) -> SpendDenied:
    """Return the denial of a call that may have been executed and would be executed twice."""
    return denial(
        "in_doubt",
        f"an earlier attempt of this very call ({call_id}) has an unknown outcome and is never sent twice; "
        f"{why}. Look it up at the vendor, then {resolve_text(call_id, quote)}",
        {"call_id": call_id},
    )
