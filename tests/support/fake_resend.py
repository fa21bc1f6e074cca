"""A stateful Resend look-alike with books of its own; runs as a separate process on loopback.

    python -m tests.support.fake_resend --port-file FILE [--idempotency ignore] [--latency 0.05]

Idempotency keys work as documented: for POST /emails and /emails/batch, for a day. Faults and options are
scripted over `POST /_control` (fake_server.py says which faults; DEFAULTS below are the options). It
shares no code with luigi_spendguard.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from typing import Any
from urllib.parse import unquote

from tests.support import fake_resend_mails as mails
from tests.support import fake_server
from tests.support.fake_resend_mails import Answer, error, note, now_text, page
from tests.support.fake_server import HIDDEN, OBJECTS, OPTIONS, Problem

DEFAULTS: dict[str, Any] = {
    "latency": 0.0,
    "secrets": ["re_canary_"],  # how an accepted token begins
    "idempotency": "honour",  # or "ignore"
    "key_seconds": 86400,  # how long a key is remembered
    "segment_size": 25,  # contacts of a segment that has none of its own here
    "segments": {},  # id: how many contacts instead
    "automations": {},  # event: how many mails it starts
    "list": [],  # what is wrong with lists: "other" order, the last one "again" on the next page
    "arriving": 0,  # mails that somebody sends with each page of mails that is read
}
#: Collections and what is needed to create one.
_KINDS = {
    "contacts": ("contact", "email"),
    "audiences": ("audience", "name"),
    "segments": ("segment", "name"),
    "domains": ("domain", "name"),
    "templates": ("template", "name"),
    "api-keys": ("api_key", "name"),
    "broadcasts": ("broadcast", "from"),
    "topics": ("topic", "name"),
    "suppressions": ("suppression", "email"),
}


class Resend(fake_server.Vendor):
    """All of https://api.resend.com."""

    def set_default_headers(self) -> None:
        self.set_header("ratelimit-limit", "5")
        self.set_header("ratelimit-remaining", "4")
        self.set_header("ratelimit-reset", "1")

    def _token(self) -> str:
        return (self.request.headers.get("Authorization") or "").removeprefix("Bearer ")

    def refused(self) -> Problem | None:
        if not (self.request.headers.get("Authorization") or "").startswith("Bearer "):
            return error(401, "missing_api_key", "Missing API Key")
        if not self._token().startswith(tuple(OPTIONS["secrets"])):
            return error(403, "invalid_api_key", "API key is invalid")
        return None

    def scripted(self, status: int) -> dict[str, Any]:
        names = {
            401: "missing_api_key",
            403: "invalid_api_key",
            422: "validation_error",
            429: "rate_limit_exceeded",
        }
        return error(status, names.get(status, "application_error"), "scripted").body

    def secrets(self) -> dict[str, str]:
        return {"leak": self._token()}

    async def once(self, fault: dict[str, Any]) -> tuple[int, Any]:
        """Execute, or answer what is stored under the key."""
        key = self.request.headers.get("Idempotency-Key")
        mailing = self.request.method == "POST" and self.request.path in ("/emails", "/emails/batch")
        if key is None or not mailing or OPTIONS["idempotency"] != "honour":
            return await self.executed(fault)
        if not 1 <= len(key) <= 256:
            problem = error(400, "invalid_idempotency_key", "The key must be between 1-256 chars.")
            return problem.status, problem.body
        said = [self.request.path, self._body()]
        place = f"key {key}"
        stored = HIDDEN.get(place)
        if stored is not None and time.monotonic() < stored["until"]:
            if stored["said"] != said:
                problem = error(409, "invalid_idempotent_request", "Same idempotency key, other payload")
            elif stored["answer"] is None:
                problem = error(
                    409, "concurrent_idempotent_requests", "Same idempotency key, still in progress"
                )
            else:
                answer: tuple[int, Any] = stored["answer"]
                return answer
            return problem.status, problem.body
        entry = HIDDEN[place] = {
            "said": said,
            "answer": None,
            "until": time.monotonic() + OPTIONS["key_seconds"],
        }
        status, body = await self.executed(fault)
        if status < 400:
            entry["answer"] = status, body
        elif HIDDEN.get(place) is entry:
            del HIDDEN[place]
        return status, body

    def _body(self) -> Any:
        """Return the JSON of a body; a body that is no JSON is None."""
        try:
            return json.loads(self.request.body or b"{}")
        except ValueError:
            return None

    def execute(self) -> Answer:
        """Execute; whom a scheduled broadcast goes to is decided when it is sent, by what is then so."""
        answer = self._executed()
        for entry in mails.SENT:
            if entry["kind"] == "broadcast" and entry["scheduled"]:
                entry["recipients"] = _people(OBJECTS[entry["id"]])
        return answer

    def _executed(self) -> Answer:
        method, said = self.request.method or "", self._body()
        parts = [unquote(part) for part in self.request.path.strip("/").split("/")]
        query = {name: self.get_query_argument(name) for name in self.request.query_arguments}
        if method in ("POST", "PATCH") and said is None:
            raise error(400, "validation_error", "The request body is not JSON")
        if parts == ["emails", "batch"] and method == "POST":
            return mails.batch(said, self.request.headers.get("x-batch-validation", "strict"), self._key())
        if method in ("POST", "PATCH") and not isinstance(said, dict):
            raise error(422, "validation_error", "The request body is no object")
        if parts[0] == "emails":
            return mails.emails(method, parts[1:], said, query, self._key())
        if parts == ["events", "send"] and method == "POST":
            return self._event(said)
        if len(parts) >= 3 and parts[0] in ("audiences", "segments") and parts[2] == "contacts":
            return self._collection(method, parts[2:], said | {"segments": [parts[1]]}, query)
        if parts[0] == "broadcasts" and parts[2:] and method == "POST":
            return self._broadcast(parts[1], parts[2:], said)
        if parts[0] in ("contacts", "suppressions") and parts[1:]:
            self._reachable(method, parts, said)
            if parts[0] == "suppressions" or parts[2:]:
                return 200, {"id": parts[1]}
        return self._collection(method, parts, said, query)

    def _reachable(self, method: str, parts: list[str], said: dict[str, Any]) -> None:
        """Let a contact be in a segment, subscribe to a topic, or be suppressed no more."""
        if parts[0] == "suppressions":
            for gone in [parts[1], *said.get("ids", [])]:
                OBJECTS.pop(gone, None)
            return
        contact = next(
            (o for o in OBJECTS.values() if o["object"] == "contact" and parts[1] in _names(o)), {}
        )
        if parts[2:3] == ["segments"] and method == "POST":
            contact["segments"] = [*contact["segments"], parts[3]]
        elif parts[2:] == ["topics"]:
            wanted = {one["id"] for one in said["topics"] if one["subscription"] == "opt_in"}
            contact["opted_out"] = [one for one in contact.get("opted_out", []) if one not in wanted]

    def _key(self) -> str | None:
        return self.request.headers.get("Idempotency-Key")

    def _event(self, said: dict[str, Any]) -> Answer:
        if not said.get("event") or bool(said.get("contact_id")) == bool(said.get("email")):
            raise error(422, "validation_error", "`event` and one of `contact_id` and `email` are needed")
        for _ in range(OPTIONS["automations"].get(said["event"], 0)):
            note("automation", str(uuid.uuid4()), [said.get("email") or said["contact_id"]], self._key())
        return 202, {"object": "event", "event": said["event"]}

    def _collection(
        self, method: str, parts: list[str], said: dict[str, Any], query: dict[str, str]
    ) -> Answer:
        if parts[0] not in _KINDS or parts[2:]:
            raise mails.missing()
        kind, needed = _KINDS[parts[0]]
        if len(parts) == 1 and method == "GET":
            found = [o for o in OBJECTS.values() if o["object"] == kind]
            if (
                kind == "contact"
                and (segment := (said or {}).get("segments") or [query.get("segment_id")])[0]
            ):
                found = [contact for contact in found if segment[0] in contact["segments"]]
            return 200, page(found, query)
        if len(parts) == 1 and method == "POST":
            return self._create(kind, needed, said)
        thing = next((o for o in OBJECTS.values() if o["object"] == kind and parts[1] in _names(o)), None)
        if thing is None:
            raise mails.missing()
        if method == "DELETE":
            del OBJECTS[thing["id"]]
            return 200, {"object": kind, "id": thing["id"], "deleted": True}
        if method == "PATCH":
            thing |= {name: value for name, value in said.items() if name not in ("id", "object")}
            return 200, {"object": kind, "id": thing["id"]}
        if method != "GET":
            raise mails.missing()
        return 200, thing

    def _create(self, kind: str, needed: str, said: dict[str, Any]) -> Answer:
        if not said.get(needed):
            raise error(422, "missing_required_field", f"Missing `{needed}` field.")
        thing = said | {"object": kind, "id": str(uuid.uuid4()), "created_at": now_text()}
        if kind == "contact":
            of = said.get("audience_id")
            given = [one["id"] if isinstance(one, dict) else one for one in said.get("segments", [])]
            thing["segments"] = [*given, *([of] if of else [])]
        if kind == "domain":
            thing |= {"status": "not_started", "region": said.get("region", "us-east-1"), "records": []}
        if kind == "broadcast":
            thing["segment_id"] = said.get("segment_id") or said.get("audience_id")
            if not thing["segment_id"] or not said.get("subject"):
                raise error(422, "missing_required_field", "Missing `segment_id` or `subject` field.")
            thing["status"] = "draft"
        OBJECTS[thing["id"]] = thing
        if kind == "broadcast" and said.get("send"):
            self._send(thing, said)
        if kind == "api_key":
            return 201, {"id": thing["id"], "token": f"re_canary_made_{uuid.uuid4().hex}"}
        shown = thing if kind in ("audience", "segment", "domain") else {"object": kind}
        return 201, shown | {"id": thing["id"]}

    def _broadcast(self, which: str, verb: list[str], said: dict[str, Any]) -> Answer:
        found = OBJECTS.get(which)
        if found is None or found["object"] != "broadcast" or verb not in (["send"], ["cancel"]):
            raise mails.missing()
        if verb == ["cancel"]:
            if found["status"] != "scheduled":
                raise error(422, "validation_error", "Only a scheduled broadcast can be cancelled")
            found["status"] = "draft"
            mails.cancel_entry(which)
        elif found["status"] != "draft":
            raise error(422, "validation_error", "This broadcast was sent already")
        else:
            self._send(found, said)
        return 200, {"object": "broadcast", "id": which}

    def _send(self, broadcast: dict[str, Any], said: dict[str, Any]) -> None:
        """Mail everybody in the segment."""
        at = mails.planned(said)
        broadcast["status"] = "scheduled" if at else "sent"
        note("broadcast", broadcast["id"], _people(broadcast), self._key(), scheduled=at is not None)


def _people(broadcast: dict[str, Any]) -> list[str]:
    """Return whom a broadcast reaches: who is in its segment, has not unsubscribed and is not suppressed."""
    segment = broadcast["segment_id"]
    wanted = (OBJECTS.get(segment) or {}).get("filter") or {}
    every = [o for o in OBJECTS.values() if o["object"] == "contact"]
    if not any(segment in o["segments"] for o in every) and not wanted:
        size = OPTIONS["segments"].get(segment, OPTIONS["segment_size"])
        return [f"contact-{i}@{segment}.example" for i in range(size)]
    suppressed = {o["email"] for o in OBJECTS.values() if o["object"] == "suppression"}
    return [
        o["email"]
        for o in every
        if (segment in o["segments"] or (wanted and wanted.items() <= o.get("properties", {}).items()))
        and not o.get("unsubscribed")
        and o["email"] not in suppressed
        and broadcast.get("topic_id") not in o.get("opted_out", [])
    ]


def _names(thing: dict[str, Any]) -> tuple[str, ...]:
    """Return what a thing can be asked for by."""
    return (thing["id"], thing["email"]) if thing["object"] == "contact" else (thing["id"],)


if __name__ == "__main__":
    parser = fake_server.arguments()
    parser.add_argument("--idempotency", choices=["honour", "ignore"], default="honour")
    args = parser.parse_args()
    options = DEFAULTS | {"latency": args.latency, "idempotency": args.idempotency}
    asyncio.run(fake_server.serve(Resend, options, args.port_file, mails.advance_all))
