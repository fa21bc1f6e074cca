"""Addresses, queries and bodies, read strictly by one reader: what two could read differently is refused.

Rack and qs read `[amount]` and `amount]` as `amount`, drop a blank behind `&` and what comes after the
1,000th parameter, group `a[][b]` each in its own way, and take a name given twice for its first, its last
or a list of both. None of that is in a form that a vendor's SDK encodes.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Collection, Iterator, Mapping
from types import MappingProxyType
from typing import Any
from urllib.parse import unquote, unquote_to_bytes, urlsplit

from luigi_spendguard import strict_json
from luigi_spendguard.errors import SpendDenied, denial
from luigi_spendguard.vendors.model import Outcome, Quote, Reply, Request

#: A form's parameters by their full names, such as `items[0][price]`: see `read_groups`.
Params = Mapping[str, str]

#: More parameters than these are cut off by some parsers (qs: `parameterLimit`), and groups below these are
#: no groups to others (Rack: `param_depth_limit`).
MOST_PARAMETERS, DEEPEST = 1000, 32
#: JSON's own type, and one that Twilio's SDK has for users of an organisation.
_JSON = ("application/json", "application/scim+json")

#: A name and a value as they are encoded: no blank before either, no second "=" (qs would look for "]=").
_CODE = r"(?:%[0-9A-Fa-f]{2}|[!-$'-:<>-~])"
_PAIR = re.compile(rf"{_CODE}+=(?:{_CODE}(?:{_CODE}| )*)?", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9_]+(\[[^][]+\])*(\[\])?", re.ASCII)
_FLAT = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*", re.ASCII)
_KEY = re.compile(r"[A-Za-z0-9_]+", re.ASCII)
#: A key of `metadata` is its caller's to choose, and stays within its brackets.
_OWN_KEY = re.compile(r"[A-Za-z0-9_]+([ .:/-]+[A-Za-z0-9_]+)*", re.ASCII)
#: Parts that are not empty and do not begin with a dot, of characters that mean themselves. Escaped are those
#: alone that would mean the same unescaped, and signs beyond ASCII: no `%2F`, `%2E`, `%5C`, `%00` or `%41`,
#: and no `;`, `\` or blank either.
_STRICT_PATH = re.compile(
    r"(?:/(?!\.)(?:[A-Za-z0-9_.~:@!$&'()*+,=-]|%(?:2[046BCbc]|3[ADad]|40|[89A-Fa-f][0-9A-Fa-f]))+)+"
)
#: Printable ASCII, whole escapes, and no fragment.
_STRICT_QUERY = re.compile(r"(?:[\x21\x22\x24\x26-\x7e]|%[0-9A-Fa-f]{2})*")
#: What a framework may take for a request's method (Rack::MethodOverride).
_METHOD = "_method"
_NAMES_METHOD = re.compile(rf"(^|[&;])[^&;=]*(?<![A-Za-z0-9]){_METHOD}\b", re.IGNORECASE)


def split_address(rest: str) -> tuple[str, str]:
    """Return path and query of what stands behind a vendor's address. Raises SpendDenied (`endpoint`)."""
    path, _, query = rest.partition("?")
    if not _STRICT_PATH.fullmatch(path):
        raise denial(
            "endpoint",
            "the path can be read in two ways: it may have no empty part and none that begins with a dot, no "
            "escaped letter, dot or slash, no `;`, no backslash and no other character that no path has",
        )
    if not _STRICT_QUERY.fullmatch(query):
        raise denial(
            "endpoint", "the query string has characters that stand in none: send it percent-encoded"
        )
    return path, query


def check_body(request: Request) -> None:
    """Raise SpendDenied (`unpriced`) for a body that a vendor could read otherwise than it is read here."""
    if request.body and request.method in ("GET", "HEAD", "DELETE"):
        raise _unread(f"a {request.method} with a body cannot be judged: use the query string")
    if names_method(request):
        raise _unread(f"the parameter {_METHOD!r} may make it another method: {_AS_SDK}")
    coding = request.headers.get("content-encoding", "identity").strip().lower()
    if coding not in ("", "identity"):
        raise _unread(f"a body with Content-Encoding {coding[:60]!r} cannot be read: send it plain")


def names_method(request: Request) -> bool:
    """Return whether a request's query has a parameter that may make it another method."""
    return _NAMES_METHOD.search(unquote(urlsplit(request.url).query)) is not None


def form_text(request: Request) -> str:
    """Return the one form of a request, as it is encoded: a body's, or the query's where none has a body.

    Raises SpendDenied (`unpriced`) for both at once, and for a body of another type.
    """
    check_body(request)
    query = urlsplit(request.url).query
    if request.method in ("GET", "HEAD", "DELETE"):
        return query
    if query:
        raise _unread(f"a {request.method} with a query string cannot be priced: say it in the body")
    if not request.body:
        return ""
    if (kind := media_type(request)) != "application/x-www-form-urlencoded":
        raise _unread(f"{_type(kind)} cannot be priced: send a form")
    try:
        return request.body.decode("ascii")
    except ValueError:
        raise _unread(_ODD) from None


def read_groups(text: str) -> Params:
    r"""Return the parameters of a form whose groups stand in brackets, in their order, not to be changed.

    Names are `[A-Za-z0-9_]+(\[[A-Za-z0-9_]*\])*`, once each, and none is both a value and a group. Lists
    are numbered from 0 up, in that order: `items[0][price]`; a list of values may come as `expand[]=…` each
    time, and is numbered here. Only a key of `metadata` may have blanks, and any of `.:/-`, inside.

    Raises SpendDenied (`unpriced`).
    """
    params: dict[str, str] = {}
    unnumbered: dict[str, int] = {}
    tree: dict[str, Any] = {}
    for sent, value in _read_pairs(text):
        name, path = sent, _split_name(sent)
        if path[-1] == "":
            number = unnumbered[sent] = unnumbered.get(sent, -1) + 1
            path[-1], name = str(number), f"{sent[:-2]}[{number}]"
        elif f"{name.rpartition('[')[0]}[]" in unnumbered:
            raise _unread(f"the list {name[:60]!r} is numbered in part only: which one counts is open")
        _insert(tree, path, name)
        params[name] = value
    _check_lists(tree, "")
    return MappingProxyType(params)


def read_fields(text: str, lists: Collection[str] = ()) -> dict[str, list[str]]:
    """Return the parameters of a form without brackets; only those in `lists` may be given several times.

    Raises SpendDenied (`unpriced`).
    """
    fields: dict[str, list[str]] = {}
    for name, value in _read_pairs(text):
        if not _FLAT.fullmatch(name):
            raise _unread(f"the parameter {name[:60]!r} could be read as another one: {_AS_SDK}")
        if name in fields and name not in lists:
            raise _unread(_TWICE.format(name[:60]))
        fields.setdefault(name, []).append(value)
    return fields


def read_form(request: Request, lists: Collection[str] = ()) -> dict[str, list[str]]:
    """Return `read_fields` of a request's form. Raises SpendDenied (`unpriced`)."""
    return read_fields(form_text(request), lists)


_AS_SDK = "send it as the vendor's SDK encodes it"
_ODD = f"the form cannot be read: {_AS_SDK}"
_TWICE = "the parameter {!r} is given twice: which one counts is open"


def _unread(why: str) -> SpendDenied:
    return denial("unpriced", why)


def _read_pairs(text: str) -> Iterator[tuple[str, str]]:
    """Yield names and values, decoded. Raises SpendDenied (`unpriced`)."""
    pairs = text.split("&") if text else []
    if len(pairs) > MOST_PARAMETERS:
        raise _unread(f"a form has at most {MOST_PARAMETERS} parameters: make several calls")
    for pair in pairs:
        if not _PAIR.fullmatch(pair):
            raise _unread(_ODD)
        try:
            name, value = (
                unquote_to_bytes(part.replace("+", " ")).decode("utf-8") for part in pair.split("=")
            )
        except ValueError:  # No UTF-8, or too long for what it says.
            raise _unread(_ODD) from None
        if "\0" in value:
            raise _unread(_ODD)
        if name == _METHOD:
            raise _unread(f"the parameter {_METHOD!r} may make it another method: {_AS_SDK}")
        yield name, value


def _split_name(name: str) -> list[str]:
    """Return a name's parts, of which the last is "" for `[]`. Raises SpendDenied (`unpriced`)."""
    if _NAME.fullmatch(name):
        path = name.replace("]", "").split("[")
        befores = itertools.pairwise(path)
        if len(path) <= DEEPEST and all(
            _KEY.fullmatch(key) or not key or (before == "metadata" and _OWN_KEY.fullmatch(key))
            for before, key in befores
        ):
            return path
    raise _unread(f"the parameter {name[:60]!r} could be read as another one: {_AS_SDK}")


def _insert(tree: dict[str, Any], path: list[str], name: str) -> None:
    for part in path[:-1]:
        tree = tree.setdefault(part, {})
        if not isinstance(tree, dict):
            raise _unread(f"the parameter {path[0][:60]!r} is both a value and a group")
    if isinstance(tree.get(path[-1]), dict):
        raise _unread(f"the parameter {path[0][:60]!r} is both a value and a group")
    if path[-1] in tree:
        raise _unread(_TWICE.format(name[:60]))
    tree[path[-1]] = name


def _check_lists(tree: dict[str, Any], above: str) -> None:
    """Refuse a list with a gap, a number written in another way, or in another order than its numbers'."""
    for name, inner in tree.items():
        if isinstance(inner, dict) and name != "metadata":
            numbered = any(key.isdecimal() for key in inner)
            if numbered and list(inner) != [str(number) for number in range(len(inner))]:
                raise _unread(
                    f"the list {f'{above}{name}'[:60]!r} is not numbered 0, 1, 2 and so on: {_AS_SDK}"
                )
            _check_lists(inner, f"{above}{name} ")


def json_body(request: Request) -> Any:
    """Return a request's JSON.

    Raises SpendDenied (`unpriced`) for another body, and for JSON that parsers read differently: a doubled
    key (in other letters, too), a number that is none or is too large, half a surrogate pair, a NUL.
    """
    kind = media_type(request)
    if kind not in _JSON:
        raise _unread(f"{_type(kind)} cannot be priced: send JSON")
    try:
        return strict_json.read(request.body, any_case=True)
    except (ValueError, RecursionError) as error:
        why = str(error) if isinstance(error, strict_json.NotStrict) else "it is no JSON"
        raise _unread(f"the body cannot be priced: {why}") from None


#: What a content type may say besides.
_CHARSET = re.compile(r'\s*;\s*charset=("?)utf-8\1\s*', re.IGNORECASE)


def media_type_in(content_type: str) -> str | None:
    """Return the media type that a Content-Type names; None where it says more than that it is in UTF-8."""
    kind, mark, more = content_type.partition(";")
    return None if mark and not _CHARSET.fullmatch(mark + more) else kind.strip().lower()


def is_json(request: Request) -> bool:
    """Return whether a request has a body that says of itself that it is JSON."""
    kind = request.headers.get("content-type", "").partition(";")[0]
    return bool(request.body) and kind.strip().lower() in _JSON


def media_type(request: Request) -> str:
    """Return a body's media type. Raises SpendDenied (`unpriced`): in other signs it says something else."""
    content_type = request.headers.get("content-type", "")
    kind = media_type_in(content_type)
    if kind is None:
        more = content_type.partition(";")[2].strip()
        raise _unread(f"a body with {more[:60]!r} cannot be priced: send it as UTF-8")
    return kind


def _type(kind: str) -> str:
    return f"a body of type {kind[:60]!r}" if kind else "a body without a Content-Type"


#: A longer reply, in bytes, is not taken apart: nothing else goes on meanwhile, and no answer is so long.
MOST_JSON = 4 << 20


def reply_object(reply: Reply) -> dict[str, Any]:
    """Return a reply's JSON object, an empty one for anything else."""
    if len(reply.body) > MOST_JSON:
        return {}
    try:
        body = json.loads(reply.body)
    except (ValueError, RecursionError):
        return {}
    return body if isinstance(body, dict) else {}


def digest(*parts: object) -> str:
    """Return a digest of texts, lists and mappings of them."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


#: The statuses that say that nothing was executed (RFC 9110, 15.5, and RFC 6585). Other 4xx do not: a 409 is
#: about an earlier send; Envoy, which stands before many a vendor, answers 408 where that has the request
#: and is silent (`stream_idle_timeout`); Stripe's 424 is about what it has asked of others.
_NOT_EXECUTED = frozenset({*range(400, 406), 407, *range(410, 418), 421, 422, 423, 426, 428, 429, 431, 451})


def refused(status: int) -> bool:
    """Return whether a vendor's HTTP status says that the request was not executed."""
    return status in _NOT_EXECUTED


def unsuccessful(quote: Quote, reply: Reply) -> Outcome | None:
    """Return what became of a call that its vendor has not answered with 2xx, or that only reads.

    What is neither a success nor a refusal may have been executed.
    """
    note = f"HTTP {reply.status}"
    if quote.read:
        return Outcome("settle")
    if refused(reply.status):
        return Outcome("void", note=note)
    return None if 200 <= reply.status < 300 else Outcome("doubt", note=note)


def unbelieved(why: str) -> Outcome:
    """Return the outcome of a call whose reply cannot be believed: it is in doubt, and its caller is told."""
    return Outcome("doubt", note=why, error=why)
