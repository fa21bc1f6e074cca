"""Requests that servers may read in several ways, made by Hypothesis; and how they are sent as they stand."""

from __future__ import annotations

import http.client
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from hypothesis import strategies as st

FORM = "application/x-www-form-urlencoded"


@dataclass(frozen=True)
class Made:
    """One request: what its form says is in `text`, in the query where `in_query`."""

    method: str
    path: str
    text: bytes
    in_query: bool
    query: bytes = b""
    headers: tuple[tuple[str, str], ...] = field(default=())

    def send(self, base: str, key: str) -> int:
        """Send it with a vault key, to what stands for the vendor; return the status."""
        parts = urlsplit(base)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port or 80, timeout=30)
        query = b"&".join(filter(None, [self.query, self.text if self.in_query else b""]))
        where = parts.path + self.path + ("?" + _quoted(query) if query else "")
        body = b"" if self.in_query else self.text
        try:
            connection.putrequest(self.method, where, skip_accept_encoding=True)
            connection.putheader("Authorization", f"Bearer {key}")
            connection.putheader("Content-Length", str(len(body)))
            for name, value in self.headers:
                connection.putheader(name, value)
            connection.endheaders(body)
            reply = connection.getresponse()
            reply.read()
            return reply.status
        finally:
            connection.close()


def _quoted(query: bytes) -> str:
    """Encode what no request line can have."""
    return "".join(chr(one) if 0x21 <= one <= 0x7E else f"%{one:02X}" for one in query)


Pairs = list[tuple[str, str]]


@dataclass(frozen=True)
class Asked:
    """What may be asked of one vendor.

    `calls`: method, path, an honest form, and what somebody would hide in it. `queries`: what stands in a
    query string beside that. `typed`: how a name may be written.
    """

    calls: list[tuple[str, str, Pairs, Pairs]]
    queries: list[bytes]
    headers: list[tuple[str, str]]
    typed: Callable[[str], list[str]] = lambda name: [name]


_CALLS: list[tuple[str, str, Pairs, Pairs]] = [
    (
        "POST",
        "/v1/payment_intents",
        [
            ("amount", "100"),
            ("currency", "usd"),
            ("customer", "cus_1"),
            ("payment_method", "pm_card_visa"),
            ("confirm", "true"),
            ("metadata[order-id]", "7"),
            ("expand[0]", "customer"),
        ],
        [("amount", "99900"), ("customer", "cus_2"), ("capture_method", "manual")],
    ),
    (
        "POST",
        "/v1/charges",
        [("amount", "100"), ("currency", "usd"), ("customer", "cus_1"), ("source", "tok_visa")],
        [("amount", "99900"), ("customer", "cus_2")],
    ),
    (
        "POST",
        "/v1/invoiceitems",
        [("amount", "100"), ("currency", "usd"), ("customer", "cus_1")],
        [("amount", "99900"), ("customer", "cus_2"), ("amount", "-99900")],
    ),
    (
        "POST",
        "/v1/customers",
        [("name", "x"), ("metadata[a]", "1")],
        [("balance", "-500000"), ("balance", "5")],
    ),
    (
        "POST",
        "/v1/checkout/sessions",
        [("mode", "setup"), ("currency", "usd"), ("customer", "cus_1")],
        [
            ("mode", "payment"),
            ("line_items[0][price_data][unit_amount]", "99900"),
            ("line_items[0][quantity]", "9"),
            ("line_items[0][price]", "price_99900"),
        ],
    ),
    (
        "POST",
        "/v1/checkout/sessions",
        [
            ("mode", "payment"),
            ("customer", "cus_1"),
            ("line_items[0][price_data][unit_amount]", "100"),
            ("line_items[0][price_data][currency]", "usd"),
            ("line_items[0][quantity]", "1"),
        ],
        [
            ("line_items[0][quantity]", "999"),
            ("line_items[1][price_data][unit_amount]", "99900"),
            ("line_items[][price_data][unit_amount]", "99900"),
            ("line_items[00][quantity]", "999"),
        ],
    ),
    (
        "POST",
        "/v1/subscription_schedules",
        [
            ("customer", "cus_1"),
            ("start_date", "now"),
            *((f"phases[{number}][items][0][price]", "price_100") for number in range(3)),
        ],
        [
            ("phases[10][items][0][price]", "price_99900"),
            ("phases[0][items][0][quantity]", "999"),
            ("phases[-1][items][0][price]", "price_99900"),
            ("phases[][items][0][price]", "price_99900"),
            ("phases[0][items][1][price]", "price_99900"),
            ("phases[0][items][0][price]", "price_99900"),
        ],
    ),
    (
        "DELETE",
        "/v1/subscriptions/sub_1",
        [("cancellation_details[comment]", "x")],
        [("invoice_now", "true"), ("prorate", "true")],
    ),
    (
        "GET",
        "/v1/charges",
        [("customer", "cus_1"), ("limit", "3")],
        [("customer", "cus_2"), ("_method", "POST"), ("amount", "99900"), ("expand[]", "data.number")],
    ),
]

_WAYS = [
    *["{}"] * 16,
    "[{}]",
    "{}]",
    "[{}",
    "[[{}]]",
    " {}",
    "{} ",
    "{}[]",
    "{}[0]",
    "{}[x]",
    "{}[",
    "{}\0",
    "{}\0x",
    "\t{}",
    "{}\n",
    "\ufeff{}",
    "{}\u200b",
    "{}.",
    ".{}",
    "{};",
    "[]{}",
    "{}[[]]",
    "{}[]x",
    "x;{}",
    "_{}",
    "{}=",
    "&{}",
    "{}]=",
    "+{}",
]
_BETWEEN = ["&"] * 12 + [";", "&&", "& ", "&;", "\n&", "& &", "&\0"]
_TYPES: list[tuple[str, ...]] = [
    *[(FORM,)] * 10,
    (f"{FORM}; charset=utf-8",),
    (f"{FORM};charset=UTF-8",),
    (),
    ("application/json",),
    ("text/plain",),
    (f"{FORM}; charset=utf-7",),
    (f"{FORM}; charset=utf-16",),
    (f"{FORM}; charset=cp037",),
    (f"{FORM}, application/json",),
    (FORM, "application/json"),
    ("application/json", FORM),
    (FORM, FORM),
    ("multipart/form-data; boundary=b",),
    (f"{FORM}; x=y",),
    (f" {FORM} ",),
]
HEADERS = [
    ("X_HTTP_Method_Override", "POST"),
    ("X-HTTP-Method-Override", "DELETE"),
    ("X-Method-Override", "POST"),
    ("idempotency_key", "evil"),
    ("content_type", "application/json"),
    ("x_spendguard_token", "evil"),
    ("X_Http_Method", "POST"),
    ("content_encoding", "gzip"),
    ("transfer_encoding", "chunked"),
]
STRIPE = Asked(
    _CALLS,
    [b"amount=99900", b"_method=POST", b"[customer]=cus_2", b"%5fmethod=POST", b"x"],
    [*HEADERS, ("stripe_account", "acct_evil"), ("Stripe_Version", "2011-01-01")],
)

_PLAIN = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-.")
#: How a name or value is encoded: as it is, as it needs, brackets too, wholly, or one sign more.
_WAYS_TO_ENCODE = st.sampled_from(
    ["needed", "needed", "needed", "needed", "brackets", "wholly", "as it is", "one"]
)


def _encoded(text: str, way: str, at: int) -> str:
    if way == "as it is":
        return text
    found = []
    for number, sign in enumerate(text):
        plain = sign in _PLAIN or (sign in "[]" and way != "brackets")
        if plain and not (way == "wholly" or (way == "one" and number == at)):
            found.append(sign)
        elif sign == " " and at % 2:
            found.append("+")
        else:
            found += [f"%{one:02x}" for one in sign.encode()]
    return "".join(found)


_ODD = (
    *["hidden"] * 4,
    "hidden again",
    "order",
    "between",
    "names",
    "values",
    "head",
    "tail",
    "type",
    "place",
    *["query"] * 2,
    "header",
    "typed",
)


@st.composite
def requests(draw: st.DrawFn, of: Asked = STRIPE) -> Made:
    """Make a request: an honest call with none, one or two odd things about it."""
    method, path, honest, hidden = draw(st.sampled_from(of.calls))
    odd = draw(st.sets(st.sampled_from(_ODD), max_size=2))
    pairs = list(honest)
    for again in ("hidden", "hidden again"):
        if again in odd:
            name, value = draw(st.sampled_from([*hidden, *honest]))
            inside = draw(st.sampled_from(_WAYS)).format(draw(st.sampled_from(of.typed(name))))
            end = draw(st.sampled_from([*["{}"] * 9, " {}", "{}]", "{}="]))
            pairs.insert(draw(st.integers(0, len(pairs))), (inside, end.format(value)))
    if "typed" in odd:
        at = draw(st.integers(0, len(pairs) - 1))
        pairs[at] = draw(st.sampled_from(of.typed(pairs[at][0]))), pairs[at][1]
    if "order" in odd:
        pairs = draw(st.permutations(pairs))
    name_way = draw(_WAYS_TO_ENCODE) if "names" in odd else "needed"
    value_way = draw(_WAYS_TO_ENCODE) if "values" in odd else "needed"
    at, sign = draw(st.integers(0, 8)), draw(st.sampled_from(_BETWEEN)) if "between" in odd else "&"
    said = [f"{_encoded(name, name_way, at)}={_encoded(value, value_way, at)}" for name, value in pairs]
    first = draw(st.integers(0, len(said)))
    text = sign.join(filter(None, ["&".join(said[:first]), "&".join(said[first:])]))
    text += draw(st.sampled_from(["&", "=", "&x", "\r\n", "&=", "\0"])) if "tail" in odd else ""
    text = draw(st.sampled_from(["\ufeff", "&", " ", "\r\n", "?"])) + text if "head" in odd else text
    kinds, body = (draw(st.sampled_from(_TYPES)) if "type" in odd else (FORM,)), text.encode()
    if kinds and "json" in kinds[0] and draw(st.booleans()):
        body = ("{" + ", ".join(f'"{name}": "{value}"' for name, value in pairs) + "}").encode()
    elif kinds and kinds[0].startswith("multipart"):
        parts = [f'--b\r\nContent-Disposition: form-data; name="{n}"\r\n\r\n{v}\r\n' for n, v in pairs]
        body = ("".join(parts) + "--b--\r\n").encode()
    doubled = ["=".join(_encoded(part, "needed", 0) for part in pair).encode() for pair in hidden]
    query = draw(st.sampled_from([*of.queries, *doubled])) if "query" in odd else b""
    extra = [draw(st.sampled_from(of.headers))] if "header" in odd else []
    headers = [*(("Content-Type", kind) for kind in kinds), *extra]
    in_query = (method != "POST") is not ("place" in odd)
    return Made(method, path, body, in_query, query, tuple(headers))
