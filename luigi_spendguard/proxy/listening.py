"""What a task's listener answers: a call under a vault key of this process, and nothing else."""

from __future__ import annotations

from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from tornado.web import RequestHandler

from luigi_spendguard.messages import RELAYED
from luigi_spendguard.peers import check_host, check_origin
from luigi_spendguard.relaying import Relaying
from luigi_spendguard.vendors import Reply

if TYPE_CHECKING:
    from luigi_spendguard.proxy.listener import Listener


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
        check_host(self.request, ())
        self._attempt = self._listener.attempt_of(self.shown_key(self.asked()))

    async def relayed(self) -> Reply:
        """Return the vendor's reply, or a denial. Raises SpendDenied."""
        asked = self.asked()
        request, refuse = self.as_the_vendors(asked, asked.url[self._prefix :])
        reply = await self._listener.reply(self, self.vendor, request, self._attempt, refuse)
        return self.relinked(reply, asked, asked.url[: self._prefix])

    def pass_on(self, reply: Reply) -> Any:
        """Answer with a reply; the call has ended once its last byte is with the client."""
        sent: Future[None] = super().pass_on(reply)
        sent.add_done_callback(lambda _: self._listener.ended(self))
        return sent


class Elsewhere(RequestHandler):
    """Answers what is no vendor's path."""

    def initialize(self, names: list[str]) -> None:
        """Take the names of the vendors."""
        self._names = names

    def prepare(self) -> None:
        """Say what there is."""
        self.set_status(404)
        there = ", ".join(f"/{name}/" for name in self._names)
        self.finish({"error": "not_found", "message": f"no vendor's path; they begin with {there}"})
