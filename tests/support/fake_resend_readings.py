"""A Resend that takes each body for whatever is worst of what several JSON parsers read of it.

    python -m tests.support.fake_resend_readings --port-file FILE

They differ in the character set, in which of several equal fields counts (the first, the last, all of them),
in whether letters and signs of a name count (Go's encoding/json folds them), and in what may stand before,
between and behind. Its books are in cents: one for each recipient. It shares no code with luigi_spendguard.
"""

from __future__ import annotations

import json
import re
import unicodedata
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any
from urllib.parse import unquote

from tests.support.fake_readings import Vendor, main
from tests.support.readings import EVERY, Nested, Refused

#: What a broadcast goes to.
SEGMENT = 25
_MOST_DOCUMENTS = 5
Pairs = list[tuple[str, Any]]


def _first(pairs: Pairs) -> Nested:
    return dict(reversed(pairs))


def _all(pairs: Pairs) -> Nested:
    found: dict[str, list[Any]] = {}
    for name, value in pairs:
        found.setdefault(name, []).append(value)
    return {name: values[0] if len(values) == 1 else values for name, values in found.items()}


def _folded(name: str) -> str:
    return name.casefold()


def _plain(name: str) -> str:
    """Return what is left of a name where only its letters count, as far as a NUL."""
    name = unicodedata.normalize("NFKC", name.partition("\0")[0]).replace("\u0131", "i")
    return re.sub("[^a-z]", "", name.casefold())


def _by(fold: Callable[[str], str], take: Callable[[Pairs], Nested]) -> Callable[[Pairs], Nested]:
    return lambda pairs: take([(fold(name), value) for name, value in pairs])


_HOOKS = [_by(fold, take) for fold in (str, _folded, _plain) for take in (_first, dict, _all)]


def texts(body: bytes, kind: str) -> Iterator[str]:
    """Yield a body in the character sets that it may be in."""
    named = re.search(r"charset=\"?([\w-]+)", kind)
    codings = {"utf-8", json.detect_encoding(body), *([named[1]] if named else [])}
    for coding in codings:
        with suppress(LookupError):
            yield body.decode(coding, "replace")


def _lenient(text: str) -> str:
    """Return a text as a parser reads it that knows remarks, other quotes and commas too many."""
    text = re.sub(r"//[^\n]*|/\*.*?\*/|#\s*\n", "", text, flags=re.DOTALL).replace("'", '"')
    text = re.sub(r"([{,]\s*)([A-Za-z_]+)(\s*:)", r'\1"\2"\3', text.replace(";", ",").replace("\0", ""))
    return re.sub(r",(\s*[]}])", r"\1", re.sub(r",(\s*,)+", ",", text))


def documents(text: str, hook: Callable[[Pairs], Nested]) -> Iterator[Any]:
    """Yield the values that stand in a text one behind the other, whatever stands between them."""
    decoder = json.JSONDecoder(object_pairs_hook=hook, strict=False)
    for _ in range(_MOST_DOCUMENTS):
        begin = re.search(r"[\[{]", text)
        if begin is None:
            return
        try:
            value, end = decoder.raw_decode(text, begin.start())
        except (ValueError, RecursionError):
            text = text[begin.start() + 1 :]
            continue
        yield value
        text = text[end:]


def people(value: Any) -> list[str]:
    """Return all addresses in a value, whatever it is; of a text without any, itself."""
    if isinstance(value, (dict, list)):
        return [
            one for each in (value.values() if isinstance(value, dict) else value) for one in people(each)
        ]
    text = unicodedata.normalize("NFKC", str(value)) if isinstance(value, str) else ""
    return re.findall(r"[^\s,;<>\"]*@[^\s,;<>\"]*", text) or ([text] if text.strip() else [])


def _named(mail: Nested) -> list[str]:
    """Return whom a mail goes to: by its fields, its headers, and lines that stand in others."""
    found = [one for name in ("to", "cc", "bcc") for one in people(mail.get(name))]
    headers = mail.get("headers")
    for name, value in headers.items() if isinstance(headers, dict) else ():
        if _plain(str(name)) in ("to", "cc", "bcc"):
            found += people(value)
        found += _lines(f"{name}: {value}")
    for name in ("from", "to", "cc", "bcc", "subject", "reply_to", "replyto"):
        found += _lines(str(mail.get(name)))
    return found


def _lines(text: str) -> list[str]:
    lines = re.findall(r"[\r\n]+ *(?:to|cc|bcc): *([^\r\n]*)", text.replace("\\n", "\n"), re.IGNORECASE)
    return [one for line in lines for one in people(line)]


class Resend(Vendor):
    """All of https://api.resend.com."""

    def prepare(self) -> None:
        """Read the path as leniently as there is."""
        path = unquote(unquote(self.request.path)).lower().partition(";")[0]
        self.parts = [part for part in path.split("/") if part.strip(".")]

    def read(self, kind: str) -> Iterator[Nested]:
        body = self.request.body
        query = [("to", one) for one in re.findall("to=([^&]*)", unquote(self.request.query))]
        query += [("send", True)] if "send=true" in self.request.query else []
        for text in texts(body, kind):
            for form in EVERY if not kind or "form" in kind else ():
                with suppress(Refused):
                    yield form(text)
            for written in (text, _lenient(text)):
                for hook in _HOOKS:
                    for found in documents(written, hook):
                        mails = (
                            [one for one in found if isinstance(one, dict)]
                            if isinstance(found, list)
                            else [found]
                        )
                        yield {"mails": mails}
                        yield {"mails": [hook([*one.items(), *query]) for one in mails]}
                        yield {"mails": [hook([*query, *one.items()]) for one in mails]}

    def moved(self, method: str, params: Nested) -> float:
        mails = params.get("mails", [params])
        if method == "POST" and self.parts[:1] == ["broadcasts"]:
            return SEGMENT * any(self._sends(mail) for mail in mails)
        if method == "POST" and self.parts in (["emails"], ["emails", "batch"]):
            return sum(len(_named(mail)) for mail in mails)
        # A mail that is moved, cancelled or made a template of goes to nobody else.
        return 0

    def _sends(self, broadcast: Nested) -> bool:
        return any(
            broadcast.get(name) not in (None, False) for name in ("send", "scheduled_at", "scheduledat")
        )

    def whom(self, params: Nested) -> str:
        return (
            " ".join(sorted({one for mail in params.get("mails", [params]) for one in _named(mail)})) or "all"
        )

    def answer(self) -> Any:
        if self.parts == ["emails", "batch"]:
            with suppress(ValueError, RecursionError):
                said = json.loads(self.request.body)
                return {"data": [{"id": str(uuid.uuid4())} for _ in said]}
        named = self.request.path.split("/")[2:3]
        return {"id": named[0] if named else str(uuid.uuid4())}


if __name__ == "__main__":
    main(Resend)
