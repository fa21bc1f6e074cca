"""The gateway's routes, `/<vendor>/…`: who may come in, and under which key."""

from __future__ import annotations

import logging
from typing import Any

from luigi_spendguard.errors import SpendDenied, denial
from luigi_spendguard.http.receiving import has_ended
from luigi_spendguard.http.relay import Refused, Relaying, check_origin
from luigi_spendguard.protocol import MAX_UNANSWERED, RELAYED, TOO_MANY_UNANSWERED, UNANSWERED
from luigi_spendguard.vendors import Reply, Request
from luigi_spendguard.vendors.registry import VENDORS
from scheduler_patch.api.authentication import check_peer, wrong
from scheduler_patch.gateway import ENDING, LONG_REPLY, Gateway, RelayedCall
from scheduler_patch.gateway.replies import Room
from scheduler_patch.service.shares import Bounded

logger = logging.getLogger(__name__)

_TOO_MANY = (
    "so many calls of this task were not answered that nobody can tell whether this is one of them made "
    "again: let the task end and run again"
)


class Relay(Bounded, Relaying):
    """Relays one call of one vendor."""

    marks = {RELAYED: "1"}
    _key = ""
    _reply_room: Room | None = None
    _closed = False

    def initialize(self, **settings: Any) -> None:
        """Take the route's settings: the gateway, and the vendor's name."""
        super().initialize()
        self._gateway: Gateway = settings["gateway"]
        self.vendor = VENDORS[settings["name"]]

    async def admit(self) -> None:
        """Let a key in that is worth something. Raises SpendDenied, Refused."""
        check_origin(self.request)
        asked = self.asked()
        self._key = self.shown_key(asked)
        check_peer(self.request, self._key, self._gateway.service)
        if not self._key:
            raise denial("unknown_key", "a vault key is missing: send it where the vendor's own key goes")
        if self._gateway.draining:
            raise denial("ledger_unavailable", ENDING)
        path = self._rest(asked).partition("?")[0]
        await self._gateway.admit(self.vendor, asked.method, path, self._key)
        await self.hold(self._gateway.service.bodies, self._key)

    def _rest(self, asked: Request) -> str:
        return asked.url[len(self.vendor.name) + 1 :]

    async def relayed(self) -> Reply:
        """Return the vendor's reply, or a denial. Raises SpendDenied."""
        asked = self.asked()
        request, refuse = self.as_the_vendors(asked, self._rest(asked))
        unanswered = asked.headers.get(UNANSWERED, "")
        if unanswered == TOO_MANY_UNANSWERED or len(unanswered) > MAX_UNANSWERED:
            unanswered, refuse = "", refuse or denial("in_doubt", _TOO_MANY)
        self.begun, before = True, has_ended(self.request)
        room = self._reply_room = self._gateway.room(self._key, self._cut)
        reply = await self._gateway.relay(
            RelayedCall(
                self.vendor, request, self._key, unanswered, refuse, lambda: self._is_gone(before), room
            )
        )
        if len(reply.body) <= LONG_REPLY:
            return self.relinked(reply, asked, f"/{self.vendor.name}")
        return await self._gateway.in_thread(self._key, self.relinked, reply, asked, f"/{self.vendor.name}")

    def _is_gone(self, before: bool) -> bool:
        """Return whether the client has ended its side since its call began, which may wait for its turn."""
        return self._closed or (has_ended(self.request) and not before)

    def pass_on(self, reply: Reply) -> Any:
        """Answer with a reply, whose room is another's once the client has it."""
        sent = super().pass_on(reply)
        if (room := self._reply_room) is not None:
            sent.add_done_callback(lambda _: room.close())
        return sent

    def _cut(self) -> None:
        """Cut the client off, which takes its reply so slowly that others have no room for theirs."""
        logger.warning(
            "A client at %s does not take its reply, for which others of its vault key, or of all, wait: cut "
            "off. The call has been booked",
            self.request.remote_ip,
        )
        stream = getattr(self.request.connection, "stream", None)
        if stream is not None:
            stream.close()

    def on_connection_close(self) -> None:
        """Take note that the client has gone; a call that has begun is lived to its end."""
        self._closed = True
        super().on_connection_close()
        if self._reply_room is not None:
            self._reply_room.close()
        if not self.begun:
            self.on_finish()

    def refused(self, error: SpendDenied | Refused) -> Reply:
        """Return a refusal in the vendor's format; a wrong key is counted."""
        if isinstance(error, SpendDenied) and error.reason == "unknown_key" and self._key:
            error = wrong(self.request, self._gateway.service) or error
        return super().refused(error)


def relay_routes(gateway: Gateway) -> list[tuple[str, type[Relay], dict[str, Any]]]:
    """Return the routes of all vendors; one without a secret here answers that it has none."""
    return [(rf"/{name}(?:/.*)?", Relay, {"gateway": gateway, "name": name}) for name in VENDORS]
