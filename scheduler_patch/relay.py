"""The gateway's routes, `/<vendor>/…`: who may come in, and under which key."""

from __future__ import annotations

from typing import Any

from luigi_spendguard.errors import denial
from luigi_spendguard.messages import MAX_UNANSWERED, RELAYED, TOO_MANY_UNANSWERED, UNANSWERED
from luigi_spendguard.refusals import DENIAL
from luigi_spendguard.relaying import Relaying
from luigi_spendguard.vendors import Reply
from luigi_spendguard.vendors.registry import VENDORS
from scheduler_patch.auth import check_origin, check_peer
from scheduler_patch.gateway import Gateway

_TOO_MANY = (
    "so many calls of this task were not answered that nobody can tell whether this is one of them made "
    "again: let the task end and run again"
)


class Relay(Relaying):
    """Relays one call of one vendor."""

    marks = {RELAYED: "1"}

    def initialize(self, **settings: Any) -> None:
        """Take the route's settings: the gateway, and the vendor's name."""
        super().initialize()
        self._gateway: Gateway = settings["gateway"]
        self.vendor = VENDORS[settings["name"]]

    async def relayed(self) -> Reply:
        """Return the vendor's reply, or a denial. Raises SpendDenied, Refused."""
        check_origin(self.request)
        asked = self.asked()
        key = self.shown_key(asked)
        check_peer(self.request, key, self._gateway.office)
        if not key:
            raise denial("unknown_key", "a vault key is missing: send it where the vendor's own key goes")
        if self._gateway.draining:
            raise denial("ledger_unavailable", "this gateway is ending and takes no new calls")
        request, refuse = self.as_the_vendors(asked, asked.url[len(self.vendor.name) + 1 :])
        unanswered = asked.headers.get(UNANSWERED, "")
        if unanswered == TOO_MANY_UNANSWERED or len(unanswered) > MAX_UNANSWERED:
            unanswered, refuse = "", refuse or denial("in_doubt", _TOO_MANY)
        self.begun = True
        reply = await self._gateway.relay(self.vendor.name, request, key, unanswered, refuse)
        self._count(reply, key)
        return self.relinked(reply, asked, f"/{self.vendor.name}")

    def _count(self, reply: Reply, key: str) -> None:
        throttle = self._gateway.office.throttle
        if '"reason": "unknown_key"' in reply.headers.get(DENIAL, "")[:30]:
            throttle.was_wrong(self.request.remote_ip or "")
        else:
            throttle.was_right(key)


def relay_routes(gateway: Gateway) -> list[tuple[str, type[Relay], dict[str, Any]]]:
    """Return the routes of all vendors; one without a secret here answers that it has none."""
    return [(rf"/{name}(?:/.*)?", Relay, {"gateway": gateway, "name": name}) for name in VENDORS]
