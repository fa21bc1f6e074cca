"""The mails of the Resend look-alike: single ones, batches, scheduled ones."""

from __future__ import annotations

import re
import time
import uuid
from datetime import datetime, timezone
from typing import Any

from tests.support.fake_server import HIDDEN, OBJECTS, OPTIONS, SENT, Problem

Answer = tuple[int, Any]
_ADDRESS = re.compile(r"[^@\s<>]+@[^@\s<>]+|[^<>]*<[^@\s<>]+@[^@\s<>]+>")
_SOON = re.compile(r"in (\d+) ?(s|m|h|d)", re.IGNORECASE)
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def error(status: int, name: str, message: str) -> Problem:
    """Return an error in Resend's shape."""
    return Problem(status, {"statusCode": status, "name": name, "message": message})


def missing() -> Problem:
    return error(404, "not_found", "Not found")


def now_text(at: float | None = None) -> str:
    """Return a moment (now) as Resend writes it."""
    return datetime.fromtimestamp(at or time.time(), timezone.utc).isoformat(" ")


#: What a list shows of a mail (https://resend.com/changelog/list-sent-emails-endpoint).
_LISTED = (
    *("id", "message_id", "to", "from", "created_at", "subject", "bcc", "cc", "reply_to", "last_event"),
    "scheduled_at",
)


def _listed(mail: dict[str, Any]) -> dict[str, Any]:
    return {name: mail[name] or None if name in ("cc", "bcc", "reply_to") else mail[name] for name in _LISTED}


def page(found: list[dict[str, Any]], query: dict[str, str]) -> dict[str, Any]:
    """Return a page, newest first. OPTIONS["list"] says what is wrong with the list: see fake_resend."""
    newest = found if "other" in OPTIONS["list"] else found[::-1]
    asked = query.get("limit") or "20"
    limit = int(asked) if asked.isdecimal() else 0
    if not 1 <= limit <= 100:
        raise error(422, "validation_error", "The `limit` must be between 1 and 100")
    places = {thing["id"]: place for place, thing in enumerate(newest)}
    begin = places.get(query.get("after", ""), -1) + 1
    end = places.get(query.get("before", ""), len(newest))
    if "before" in query:
        begin = max(0, end - limit)
    shown = newest[begin - bool(begin and "again" in OPTIONS["list"]) : min(begin + limit, end)]
    more = begin > 0 if "before" in query else begin + limit < end
    return {"object": "list", "has_more": more, "data": shown}


def note(kind: str, sid: str, recipients: list[str], key: str | None, **more: Any) -> None:
    """Enter a mail into the books."""
    entry = {
        "id": sid,
        "kind": kind,
        "recipients": recipients,
        "key": key,
        "time": time.monotonic(),
        "scheduled": False,
        "cancelled": False,
        **more,
    }
    SENT.append(entry)


def cancel_entry(sid: str) -> None:
    """Let the last entry of this mail or broadcast not count."""
    next(entry for entry in reversed(SENT) if entry["id"] == sid)["cancelled"] = True


def planned(said: dict[str, Any]) -> float | None:
    """Return when to send, or None for now."""
    text = said.get("scheduled_at")
    if not text:
        return None
    soon = _SOON.match(str(text))
    if soon:
        return time.time() + int(soon[1]) * _UNITS[soon[2].lower()]
    try:
        at = datetime.fromisoformat(str(text).replace("Z", "+00:00"))
    except ValueError:
        raise error(422, "validation_error", "Invalid `scheduled_at`") from None
    at = at if at.tzinfo else at.replace(tzinfo=timezone.utc)
    if at.timestamp() > time.time() + 30 * 86400:
        raise error(422, "validation_error", "`scheduled_at` is more than 30 days ahead")
    return at.timestamp()


def _people(said: dict[str, Any], field: str) -> list[str]:
    """Return the addresses of a field, which is one or a list."""
    value = said.get(field) or []
    found = [value] if isinstance(value, str) else value
    if not isinstance(found, list) or not all(
        isinstance(one, str) and _ADDRESS.fullmatch(one) for one in found
    ):
        raise error(422, "validation_error", f"Invalid `{field}` field.")
    return found


def _checked(said: Any) -> dict[str, list[str]]:
    """Return the recipients of a valid mail by field."""
    if not isinstance(said, dict):
        raise error(422, "validation_error", "A mail is an object")
    for field in ("from", "to", "subject"):
        if not said.get(field) and not (field == "subject" and said.get("template")):
            raise error(422, "missing_required_field", f"Missing `{field}` field.")
    _people(said, "from")
    people = {field: _people(said, field) for field in ("to", "cc", "bcc")}
    if len(people["to"]) > 50:
        raise error(422, "validation_error", "The `to` field must have at most 50 addresses")
    planned(said)
    return people


def _send(said: dict[str, Any], people: dict[str, list[str]], key: str | None) -> str:
    sid, at = str(uuid.uuid4()), planned(said)
    OBJECTS[sid] = {
        "object": "email",
        "id": sid,
        "message_id": f"<{sid}@email.example.com>",
        **people,
        "from": said["from"],
        "reply_to": _people(said, "reply_to"),
        "created_at": now_text(),
        "subject": said.get("subject"),
        "html": said.get("html"),
        "text": said.get("text"),
        "scheduled_at": at and now_text(at),
        "last_event": "scheduled" if at else "delivered",
        "tags": said.get("tags", []),
    }
    HIDDEN[sid] = at
    everybody = [address for addresses in people.values() for address in addresses]
    note("email", sid, everybody, key, scheduled=at is not None)
    return sid


def _advance(mail: dict[str, Any]) -> dict[str, Any]:
    if mail["last_event"] == "scheduled" and time.time() >= HIDDEN.get(mail["id"], time.time() + 1):
        mail["last_event"] = "delivered"
    return mail


def advance_all() -> None:
    for thing in OBJECTS.values():
        if thing["object"] == "email":
            _advance(thing)


def batch(said: Any, validation: str, key: str | None) -> Answer:
    """Send a list of mails: all or none, or (permissive) those that are valid."""
    if not isinstance(said, list) or not 1 <= len(said) <= 100:
        raise error(422, "validation_error", "A batch is a list of 1 to 100 mails")
    if validation not in ("strict", "permissive"):
        raise error(422, "validation_error", "x-batch-validation is strict or permissive")
    valid, errors = [], []
    for index, mail in enumerate(said):
        try:
            valid.append((mail, _checked(mail)))
        except Problem as problem:
            if validation == "strict":
                raise
            errors.append({"index": index, "message": problem.body["message"]})
    data = [{"id": _send(mail, people, key)} for mail, people in valid]
    return 200, {"data": data} | ({"errors": errors} if validation == "permissive" else {})


def emails(method: str, parts: list[str], said: Any, query: dict[str, str], key: str | None) -> Answer:
    """Serve /emails and what is below it."""
    advance_all()
    if not parts and method == "POST":
        return 200, {"id": _send(said, _checked(said), key)}
    if not parts and method == "GET":
        shown = page([o for o in OBJECTS.values() if o["object"] == "email"], query)
        for _ in range(OPTIONS["arriving"]):
            mail = {"from": "a@example.com", "to": "meanwhile@example.com", "subject": "Meanwhile"}
            _send(mail, _checked(mail), None)
        return 200, shown | {"data": [_listed(mail) for mail in shown["data"]]}
    mail = OBJECTS.get(parts[0]) if parts else None
    if mail is None or mail["object"] != "email":
        raise missing()
    if method == "GET" and not parts[1:]:
        return 200, mail
    cancel = method == "POST" and parts[1:] == ["cancel"]
    if not cancel and not (method == "PATCH" and not parts[1:]):
        raise missing()
    if mail["last_event"] != "scheduled":
        raise error(422, "validation_error", "This email is not scheduled")
    if cancel:
        mail["last_event"] = "canceled"
        cancel_entry(mail["id"])
    else:
        at = planned(said)
        if at is None:
            raise error(422, "missing_required_field", "Missing `scheduled_at` field.")
        mail["scheduled_at"], HIDDEN[mail["id"]] = now_text(at), at
    return 200, {"object": "email", "id": mail["id"]}
