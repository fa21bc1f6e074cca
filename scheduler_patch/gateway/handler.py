"""The gateway's routes, `/<vendor>/…`: who may come in, and under which key."""

from __future__ import annotations

import json
import logging
from typing import Any

from tornado.web import HTTPError

from luigi_spendguard.errors import SpendDenied, denial
from luigi_spendguard.http.receiving import Receiving
from luigi_spendguard.http.relay import Refused, Relaying, check_origin
from luigi_spendguard.protocol import RELAYED
from luigi_spendguard.vendors import Reply, Request
from luigi_spendguard.vendors.registry import VENDORS
from scheduler_patch.api.authentication import check_peer, wrong
from scheduler_patch.gateway import ENDING, LONG_REPLY, Gateway
from scheduler_patch.gateway.replies import Room
from scheduler_patch.service.shares import Bounded

logger = logging.getLogger(__name__)


class Relay(Bounded, Relaying):
    """Relays one call of one vendor."""

    marks = {RELAYED: "1"}
    _key = ""
    _reply_room: Room | None = None

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
        asked = self.asked()
        call = self.begin(asked, self._rest(asked))
        room = self._reply_room = self._gateway.room(self._key, self._cut)
        reply = await self._gateway.relay(call, self._key, room)
        if len(reply.body) <= LONG_REPLY:
            return self.relinked(reply, asked, f"/{self.vendor.name}")
        return await self._gateway.in_thread(self._key, self.relinked, reply, asked, f"/{self.vendor.name}")

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


class Unknown(Receiving):
    """Answers an address that is nobody's, as tornado does, and before the body is read: none is kept."""

    async def admit(self) -> None:
        """Let nobody in. Raises HTTPError."""
        raise HTTPError(404)

    def refuse(self, error: Exception) -> None:
        """Answer that there is nothing."""
        self.set_status(404)
        if self.closing:
            self.set_header("Connection", "close")
        self.finish("<html><title>404: Not Found</title><body>404: Not Found</body></html>")

    def _end(self, *path: str) -> None:
        if self.refusal is not None:
            self.end_refused(self.refusal)

    get = post = delete = put = patch = head = options = _end


class Nowhere(Unknown):
    """Answers an address of a vendor's form: a client expects JSON, and hears what there is."""

    def refuse(self, error: Exception) -> None:
        """Answer what there is; not what was asked for, which may be a key in the wrong place."""
        vendors = ", ".join(f"/{name}" for name in sorted(VENDORS))
        said = (
            f"there is nothing at this address: the gateway's vendors are below {vendors}, each with the "
            "vendor's own path behind it (docs/gateway.md)"
        )
        self.set_status(404)
        self.set_header("Content-Type", "application/json; charset=utf-8")
        if self.closing:
            self.set_header("Connection", "close")
        self.finish(json.dumps({"error": "not_found", "message": said}))


def relay_routes(gateway: Gateway) -> list[tuple[str, type[Relay], dict[str, Any]]]:
    """Return the routes of all vendors; one without a secret here answers that it has none."""
    return [(rf"/{name}(?:/.*)?", Relay, {"gateway": gateway, "name": name}) for name in VENDORS]


def nowhere() -> list[tuple[str, type[Nowhere]]]:
    """Return what answers addresses of a vendor's form; all others are Luigi's to answer."""
    return [(r"/[^/]+/v[0-9]+/.*", Nowhere)]
