"""JSON that parsers may read in several ways, made by Hypothesis: what may be asked of Resend."""

from __future__ import annotations

import json

from hypothesis import strategies as st

from tests.support.forms import FORM, HEADERS, Made

JSON = "application/json"
ME, YOU, ALL = "ann@a.example", "bob@b.example", [f"x{number}@c.example" for number in range(40)]
_MANY = ",".join(ALL)
#: Fields as they stand in JSON's text: a name, and a value that is a text already.
Fields = list[tuple[str, str]]

_MAIL: Fields = [("from", f'"{ME}"'), ("to", f'["{YOU}"]'), ("subject", '"Hi"'), ("text", '"Hello"')]
#: What somebody would hide: other people, and more of them.
_HIDDEN: Fields = [
    *[(name, json.dumps(ALL)) for name in ("to", "cc", "bcc")],
    ("to", f'"{_MANY}"'),
    ("cc", f'"{ME}"'),
    ("headers", json.dumps({"Bcc": _MANY})),
    ("headers", json.dumps({"X-A": f"1\r\nBcc: {_MANY}"})),
    ("headers", '{"X-A": "1", "X-A": "2"}'),
    ("subject", json.dumps(f"Hi\nBcc: {_MANY}")),
    ("bcc", json.dumps([[one] for one in ALL])),
    ("bcc", json.dumps({"0": _MANY})),
    ("bcc", json.dumps([{"email": one} for one in ALL])),
    ("cc", "null"),
    ("bcc", '"' + _MANY.replace("@", "\uff20").replace(",", "\uff0c") + '"'),
    ("to", json.dumps([" ".join(ALL)])),
    ("scheduled_at", '"in 1 hour"'),
    ("tags", '[{"name": "a", "value": "b"}]'),
    ("audience_id", '"a"'),
    ("recipients", json.dumps(ALL)),
    ("template", '{"id": "t", "variables": {"to": "x@x.example"}}'),
    ("reply_to", json.dumps(f"a@a.example\nBcc: {_MANY}")),
    ("segment_id", '"s"'),
]
_DRAFT: Fields = [("segment_id", '"s"'), ("from", f'"{ME}"'), ("subject", '"Hi"'), ("name", '"x"')]
_OF_DRAFTS: Fields = [
    ("send", "true"),
    ("send", '"true"'),
    ("send", "1"),
    ("send", "[true]"),
    ("scheduled_at", '"in 1 hour"'),
    ("send", "false"),
    ("send", "null"),
    ("send", "1e999"),
    ("audience_id", '"a"'),
]
_MOVE: Fields = [("scheduled_at", '"in 1 hour"')]
#: Path, an honest body (in a list of mails for a batch), what is hidden.
_CALLS: list[tuple[str, str, Fields, Fields]] = [
    *[("POST", "/emails", _MAIL, _HIDDEN)] * 6,
    *[("POST", "/emails/batch", _MAIL, _HIDDEN)] * 3,
    *[("POST", "/broadcasts", _DRAFT, _OF_DRAFTS)] * 3,
    ("PATCH", "/emails/m1", _MOVE, _HIDDEN),
    ("POST", "/emails/m1/cancel", [], _HIDDEN),
    ("POST", "/templates", [("name", '"x"'), ("html", '"x"')], _HIDDEN),
]
_PATHS = ["{}/", "/{}", *["{}?to=" + _MANY] * 3, "{}?send=true", "{};x", "{}%2F", "/.{}"]
_TYPES: list[tuple[str, ...]] = [
    (f"{JSON}; charset=utf-8",),
    (f"{JSON};charset=UTF-8",),
    (),
    ("text/plain",),
    (FORM,),
    (JSON, FORM),
    (FORM, JSON),
    (f"{JSON}; charset=utf-16",),
    (f"{JSON}; charset=utf-7",),
    (f"{JSON}, {FORM}",),
    (f" {JSON.upper()} ",),
    ("application/vnd.api+json",),
    ("application/scim+json",),
    ("text/json",),
]
_HEADERS = [*HEADERS, ("x-batch-validation", "permissive")]
_CODINGS = ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-7", "latin-1"]
_BEFORE = ["\ufeff", " ", "\n\t", "\0", ")]}',\n", "// x\n", "/* */", "[", "\x1e", "\u00a0"]
_BEHIND = ["\n", " ", "\0", "x", "}", "]", ",", "// x", "\x1a", "null", "\ufeff", "&to=c@c.example"]
_NUMBERS = [
    "1e999",
    "-1e999",
    "9007199254740993",
    "1" + "0" * 400,
    "NaN",
    "Infinity",
    "-0",
    "0x10",
    "01",
    "1.",
    "+1",
    "1_0",
    "1e-999",
    ".5",
]
_LETTERS = {"s": "\u017f", "k": "\u212a", "i": "\u0131", "a": "\u0430", "o": "\u043e", "c": "\u0441"}


def _escaped(name: str) -> str:
    return "".join(f"\\u{ord(sign):04x}" for sign in name)


#: What a name may be written as, between its quotes.
_NAMES = [
    *[str] * 12,
    str.upper,
    str.title,
    str.swapcase,
    _escaped,
    lambda n: _escaped(n[:1]) + n[1:],
    lambda n: n + " ",
    lambda n: " " + n,
    lambda n: n + "\\u0000",
    lambda n: n + "\\u0000x",
    lambda n: "\\ufeff" + n,
    lambda n: n + "\\u200b",
    lambda n: n + "\\t",
    lambda n: n + "[]",
    lambda n: n + ".0",
    lambda n: f"mail[{n}]",
    lambda n: n + "\\ud800",
    lambda n: "\\ud83d" + n,
    lambda n: n + "\\/",
    lambda n: n.replace("_", "-"),
    lambda n: n.replace("_", ""),
    lambda n: "".join(_LETTERS.get(sign, sign) for sign in n),
    lambda n: _escaped("".join(_LETTERS.get(sign, sign) for sign in n)),
    lambda n: "\\" + n,
    lambda n: "",
    lambda n: "__proto__",
]
_ODD = (
    *["hidden"] * 4,
    "hidden again",
    "order",
    "typed",
    "number",
    "nested",
    "before",
    "behind",
    "second",
    "coding",
    "type",
    "path",
    "path",
    "header",
    "commas",
    "quotes",
    "remark",
    "batch",
    "raw",
)


def _object(fields: Fields, comma: str = ", ", end: str = "") -> str:
    return "{" + comma.join(f'"{name}": {value}' for name, value in fields) + end + "}"


@st.composite
def mails(draw: st.DrawFn) -> Made:
    """Make a request: an honest call with none, one or two odd things about it."""
    method, path, honest, hidden = draw(st.sampled_from(_CALLS))
    odd = draw(st.sets(st.sampled_from(_ODD), max_size=2))
    fields = list(honest)
    for again in ("hidden", "hidden again"):
        if again in odd:
            name, value = draw(st.sampled_from([*hidden, *honest]))
            fields.insert(draw(st.integers(0, len(fields))), (draw(st.sampled_from(_NAMES))(name), value))
    if "typed" in odd and fields:
        at = draw(st.integers(0, len(fields) - 1))
        fields[at] = draw(st.sampled_from(_NAMES))(fields[at][0]), fields[at][1]
    if "number" in odd:
        fields.append((draw(st.sampled_from(["text", "x", "to", "send"])), draw(st.sampled_from(_NUMBERS))))
    if "nested" in odd:
        deep = draw(st.sampled_from([3, 31, 200, 2000]))
        opened, closed = draw(st.sampled_from([("[", "]"), ('{"to":', "}")]))
        inside = draw(st.sampled_from(['"c@c.example"', json.dumps(ALL), "1"]))
        fields.append((draw(st.sampled_from(["to", "bcc", "text"])), opened * deep + inside + closed * deep))
    if "order" in odd:
        fields = draw(st.permutations(fields))
    comma = draw(st.sampled_from([",,", "\n", ";", ",\0"])) if "commas" in odd else ", "
    text = _object(fields, comma, draw(st.sampled_from([",", ""])) if "commas" in odd else "")
    is_batch = path.endswith("batch") is not ("batch" in odd)
    if is_batch:
        text = f"[{', '.join([_object(_MAIL)] * draw(st.sampled_from([0, 1, 2])) + [text])}]"
    elif not honest and not fields:
        text = ""
    if "quotes" in odd:
        text = text.replace('"', "'") if draw(st.booleans()) else text.replace('"to"', "to")
    if "remark" in odd:
        text = text.replace(", ", draw(st.sampled_from([", // x\n", ", /* , */", ", #\n"])), 1)
    if "raw" in odd:
        text = text.replace("Hi", draw(st.sampled_from(["\n", "\0", "\t", "\u2028", "\x7f"])))
    if "before" in odd:
        text = draw(st.sampled_from(_BEFORE)) + text
    if "second" in odd:
        second = _object([*_MAIL, ("bcc", json.dumps(ALL)), ("send", "true")])
        way = draw(st.sampled_from(["{}\n{}", "{1}{0}", "{}{}", "{},{}", "{}\0{}", "[{},{}]"]))
        text = way.format(text, second)
    if "behind" in odd:
        text += draw(st.sampled_from(_BEHIND))
    coding = draw(st.sampled_from(_CODINGS)) if "coding" in odd else "utf-8"
    kinds = draw(st.sampled_from(_TYPES)) if "type" in odd else (JSON,)
    if "path" in odd:
        path = draw(st.sampled_from([*_PATHS, path.upper(), path.title()])).format(path)
    path, _, query = path.partition("?")
    extra = [draw(st.sampled_from(_HEADERS))] if "header" in odd else []
    headers = [*(("Content-Type", kind) for kind in kinds), *extra]
    return Made(method, path, text.encode(coding, "replace"), False, query.encode(), tuple(headers))
