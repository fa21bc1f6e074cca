"""Forwards a vendor call to the gateway, which guards it: no secret and no reservation on this side.

The gateway answers with the vendor's own status, headers and body. A denial carries what it was in
`X-Spendguard-Denial` (`guard/denials.py`); a replay the time of the first answer in `X-Spendguard-Replayed`,
in milliseconds since the epoch. An answer without `X-Spendguard-Relayed` is not the gateway's: what stands
between (a proxy whose time-out is shorter) does not know what became of the call.
"""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from luigi_spendguard import backoff
from luigi_spendguard.errors import GatewayUnreachable, SpendDenied, VendorUnreachable, denial
from luigi_spendguard.guard.denials import DENIAL, error_of
from luigi_spendguard.guard.effects import Call, NotSent
from luigi_spendguard.guard.messages import TRIED_BEFORE, say_replayed
from luigi_spendguard.http.addresses import shown_in_clear
from luigi_spendguard.http.blocking import BlockingTransport
from luigi_spendguard.http.ledger_client import GIVE_UP_S
from luigi_spendguard.http.unreached import Unreached
from luigi_spendguard.protocol import (
    CREDENTIAL,
    FORWARDED,
    NOT_TAKEN,
    OWN_KEY,
    PROCESS,
    RELAYED,
    REPLAYED,
    TRY,
    UNANSWERED,
    process_of,
)
from luigi_spendguard.protocol.messages import UPGRADE
from luigi_spendguard.proxy import environment, interrupt
from luigi_spendguard.proxy.attempts import Attempt, Unanswered
from luigi_spendguard.proxy.tries import Tries
from luigi_spendguard.vendors import Reply, Request, Vendor

#: Seconds beyond the vendor's time-out for the gateway to say what came of the call.
GATEWAY_S = 15.0

_tries = Tries()

#: What belongs to one connection (RFC 9110, 7.6.1), and what the next one writes anew.
_HOP_BY_HOP = {
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "expect",
    "host",
    "content-length",
}


@dataclass(frozen=True)
class GatewayAddress:
    """Where a vendor's calls are forwarded to.

    Attributes:
        base: the gateway's URL without the vendor's name.
        authorization: what a proxy before it wants to see, as `LedgerClient`'s.
        of_task: it is the listener of the task that has started this program.

    """

    base: str
    vendor: str
    authorization: str = field(default="", repr=False)
    of_task: bool = False

    def silent(self, error: NotSent) -> str:
        """Say that it does not answer, and what to do."""
        who = f"the gateway at {self.base}"
        remedy = "start it, or mend [core] default_scheduler_url or [spendguard] gateway_url"
        if self.of_task:
            who = f"the spend_proxy() of the task that has started this program, at {self.base},"
            remedy = "its block has ended. Let the task wait there for its programs"
        return (
            f"{who} cannot be reached: {error}" if error.is_told else Unreached(str(error)).said(who, remedy)
        )

    @property
    def url(self) -> str:
        """The URL that stands for the vendor's own address."""
        return f"{self.base}/{self.vendor}"


@dataclass(frozen=True)
class Holder:
    """Who has a vendor's secret, and so guards its calls: a gateway, else this process; else nobody."""

    secret: str | None = field(repr=False)
    gateway: GatewayAddress | None


def holder_of(vendor: Vendor, attempt: Attempt) -> Holder:
    """Return who guards a vendor's calls for an attempt. Raises SpendDenied (`scope`) where forwarding would
    put the vault key on the wire in clear, other than luigid does.

    What luigid serves is never guarded here as well: the cap would bite at half.
    """
    secret = environment.secret_of(vendor, attempt.settings)
    return Holder(secret, _gateway_of(vendor.name, secret, attempt))


def _gateway_of(vendor: str, secret: str | None, attempt: Attempt) -> GatewayAddress | None:
    home, own = attempt.client.url, attempt.settings.gateway_url
    if home is None:  # --local-scheduler: the ledger is here, and so must be the secret.
        return None
    if vendor not in attempt.served and (own is None or secret is not None):
        return None
    if own is not None and shown_in_clear(own, home):
        raise denial(
            "scope",
            f"[spendguard] gateway_url = {own} would show the vault key to the network, while the scheduler "
            "is reached by https: use https for both",
        )
    same = own is None or urlsplit(own)[:2] == urlsplit(home)[:2]
    authorization = attempt.client.authorization if same else ""
    return GatewayAddress(own or home, vendor, authorization, of_task=bool(attempt.handed_down))


class _Intercepted(ConnectionError):
    """What stands before a gateway has answered: perhaps after it had passed the call on."""


class NotMade(VendorUnreachable):
    """The answer is an error, or a refusal of what was not taken for a call: that says nothing of another
    copy of the request, nor of an equal one that was lost before.
    """


def check_made(reply: Reply) -> None:
    """Raise NotMade for a reply after which the call is made again, if its task wants it to be made."""
    if reply.status >= 400 or reply.headers.get(RELAYED) == NOT_TAKEN:
        raise NotMade


class Forwarder:
    """Sends calls to the gateway, straight: never through a proxy of the environment's."""

    def __init__(self) -> None:
        self._transport = BlockingTransport(straight=True)

    def forward(
        self,
        vendor: Vendor,
        request: Request,
        target: str,
        gateway: GatewayAddress,
        attempt: Attempt,
        call: Call,
    ) -> Reply:
        """Send `request` to `target` (path and query) at the gateway and return the vendor's reply.

        One that only reads may be made again whatever became of it; one with a key of its caller's is known
        again by that. `call` says which process makes it, and what another one has said of it.

        Raises SpendDenied, OutcomeUnknown, NotSent and what broke the exchange with the vendor as guarding
        here would, GatewayUnreachable after `GIVE_UP_S` seconds without a connection, and what broke the
        exchange after that.
        """
        headers, mark, told = _headers(request, gateway, attempt), None, ""
        reads = vendor.only_reads(request)
        if not reads and not headers.get("idempotency-key"):
            # Made up as an SDK's would be: by it the gateway knows a call again that was not answered.
            headers["idempotency-key"] = f"{OWN_KEY}{uuid.uuid4()}"
        if not reads:
            # What a program of the task's says of itself, its listener says on.
            headers[PROCESS], headers[TRY] = process_of(call.call_id), str(call.number or _tries.next())
        if not reads and not _has_own_key(vendor, request):
            mark = Unanswered.of(request, target)
            if told := attempt.unanswered.named(mark, headers["idempotency-key"], call.unanswered):
                headers[UNANSWERED] = told
        sent = Request(request.method, gateway.url + target, headers, request.body)
        timeout_s = attempt.settings.vendor(gateway.vendor).timeout_s + GATEWAY_S
        own = headers.get("idempotency-key", "")
        try:
            with interrupt.calling(), attempt.unanswered.remembered(own, mark, told):
                try:
                    reply = self._sent(sent, gateway, timeout_s)
                except GatewayUnreachable as error:
                    if reads or not attempt.unanswered.was_sent(own, mark, told):
                        raise
                    raise GatewayUnreachable(error.reason, f"{error.message}. {TRIED_BEFORE}") from None
                if DENIAL in reply.headers:
                    raise _denied(reply.headers[DENIAL], gateway)
                if RELAYED not in reply.headers:
                    raise _Intercepted
                check_made(reply)
        except _Intercepted:
            raise _not_the_gateways(reply, gateway) from None
        except NotMade:
            return reply
        first_at = reply.headers.get(REPLAYED, "")
        if first_at.isdecimal():
            say_replayed(f"{request.method} {target.partition('?')[0]}", int(first_at))
        return reply

    def _sent(self, request: Request, gateway: GatewayAddress, timeout_s: float) -> Reply:
        limit = time.monotonic() + GIVE_UP_S
        waits = backoff.growing(*backoff.SOON)
        while True:
            left = limit - time.monotonic()
            try:
                return self._transport.send(request, limit, timeout_s, connect_s=max(0.1, min(2.0, left)))
            except NotSent as error:
                if error.interrupt is not None:
                    raise error.interrupt from None
                wait_s = next(waits)
                if error.lasts or time.monotonic() + wait_s > limit:
                    raise GatewayUnreachable(
                        "ledger_unavailable", f"denied, nothing was sent now: {gateway.silent(error)}"
                    ) from None
                time.sleep(wait_s)


def _has_own_key(vendor: Vendor, request: Request) -> bool:
    """Return whether a request has an idempotency key of its caller's; an unfit one the gateway denies."""
    try:
        return vendor.key_of(request)[1]
    except SpendDenied:
        return False


def _headers(request: Request, gateway: GatewayAddress, attempt: Attempt) -> dict[str, str]:
    named = {name.strip().lower() for name in request.headers.get("connection", "").split(",")}
    kept = {n: value for n, value in request.headers.items() if n not in _HOP_BY_HOP and n not in named}
    for name in (UNANSWERED, PROCESS, TRY, CREDENTIAL):
        kept.pop(name, None)
    kept[FORWARDED] = "1"
    if gateway.authorization:
        return {**kept, "authorization": gateway.authorization, CREDENTIAL: attempt.key}
    return {**kept, "authorization": f"Bearer {attempt.key}"}


def _denied(text: str, gateway: GatewayAddress) -> Exception:
    try:
        error = error_of(text)
        return NotSent(str(error)) if isinstance(error, VendorUnreachable) else error
    except (ValueError, RecursionError):
        return denial(
            "ledger_unavailable",
            f"denied by the gateway at {gateway.base}, for a reason that this version does not know "
            f"({UPGRADE}): {text[:300]}",
        )


def _not_the_gateways(reply: Reply, gateway: GatewayAddress) -> Exception:
    """Return the error of an answer that no gateway has given.

    Who has no such route, or lets nobody in, has sent nothing on, unless it keeps back what the gateway has
    answered; of any other answer nobody knows what became of the call.
    """
    if reply.status in (401, 403, 404, 405, 407):
        return denial(
            "ledger_unavailable",
            f"denied: {gateway.base} is no gateway for {gateway.vendor} (HTTP {reply.status}): set the "
            f"secret of [spendguard_{gateway.vendor}] in luigid's luigi.cfg, or mend [spendguard] "
            "gateway_url",
        )
    return ConnectionError(
        f"what stands before the gateway at {gateway.base} has answered HTTP {reply.status} itself: its "
        f"time-out has to be longer than the vendor's, and {int(GATEWAY_S)} seconds"
    )
