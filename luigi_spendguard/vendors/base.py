"""`Vendor`: the questions to an adapter; what most vendors have in common is answered here."""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from urllib.parse import urlsplit

from luigi_spendguard.errors import OutcomeUnknown, SpendDenied, VendorUnreachable, denial
from luigi_spendguard.protocol import MAX_VENDOR_REQUEST, OWN_KEY
from luigi_spendguard.settings import Setting, VendorSettings, vendor_section
from luigi_spendguard.settings.policy import is_allowed
from luigi_spendguard.vendors.bodies import names_method, split_address
from luigi_spendguard.vendors.misspelt import Known
from luigi_spendguard.vendors.model import (
    FollowedUp,
    Outcome,
    Quote,
    Reply,
    Request,
    TaggedPage,
    basic,
    bearer,
)
from luigi_spendguard.vendors.own_books import OwnBooks

#: Headers by which some servers take a request for another one.
_OVERRIDES = (
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    "x-original-method",
    "x-original-url",
    "x-rewrite-url",
    "x-forwarded-method",
    "x-forwarded-uri",
    "x-forwarded-prefix",
)
#: What belongs to a request, whichever vendor it goes to; of all else nobody here knows what it would do.
_ASKED = frozenset(
    {
        "accept",
        "accept-charset",
        "accept-language",
        "cache-control",
        "content-encoding",
        "content-type",
        "if-match",
        "if-modified-since",
        "if-none-match",
        "if-unmodified-since",
        "pragma",
        "range",
        "user-agent",
    }
)

_UUID = r"[0-9a-f]{8}-?[0-9a-f]{4}(?:-?[0-9a-f]{4}){2}-?[0-9a-f]{12}"
_BEFORE = rf"urn:uuid:|{OWN_KEY}|(?:[a-z0-9]+[-_])*retry[-_]"
#: Idempotency keys that no caller need have chosen: a UUID, alone or after our own beginning or one that ends
#: in "retry" (stripe-node, all that Stainless generates), and the nanoseconds and random signs of stripe-go;
#: perhaps in quotes, as the IETF's draft of the header has it. Clients put one of them into a call that was
#: given none, a fresh one each time.
MADE_UP = rf"(?ia:[\"{{]?(?:(?:{_BEFORE})?{_UUID}|[0-9]{{19}}_[A-Za-z0-9_-]{{6}})[\"}}]?)"


#: What belongs to an answer, whichever vendor gives it, by name and by how the name begins.
_ANSWER = frozenset(
    {
        "accept-ranges",
        "age",
        "cache-control",
        "content-disposition",
        "content-language",
        "content-range",
        "content-type",
        "date",
        "deprecation",
        "etag",
        "expires",
        "idempotency-key",
        "idempotent-replayed",
        "last-modified",
        "link",
        "location",
        "original-request",
        "request-id",
        "retry-after",
        "retry-after-ms",
        "server",
        "sunset",
        "warning",
        "x-request-id",
        "x-should-retry",
    }
)
#: A vendor's id of a request: one word of printable ASCII.
_REQUEST_ID = re.compile(rf"[!-~]{{1,{MAX_VENDOR_REQUEST}}}", re.ASCII)
_ANSWER_BEGINNINGS = ("ratelimit-", "x-ratelimit-")


def is_disguised(request: Request) -> bool:
    """Return whether a request asks to be taken for another one than its method and address say."""
    return names_method(request) or any(name in request.headers for name in _OVERRIDES)


#: How a reason is called where a vendor's errors have codes.
_CODES = {
    "cap": "budget_exhausted",
    "endpoint": "endpoint_not_allowed",
    "revoked": "vault_key_revoked",
    "expired": "vault_key_expired",
    "in_doubt": "outcome_unknown",
}


@dataclass(frozen=True)
class ErrorReply:
    """A denial, or why there is no reply: HTTP status, code, message, and headers of every shape.

    `again`: the very same request may be sent again and then be answered.
    """

    status: int
    code: str
    message: str
    again: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)


def error_reply(error: SpendDenied | OutcomeUnknown | VendorUnreachable) -> ErrorReply:
    """Return the reply to an error, before it has a vendor's shape.

    SDKs are told not to send again what will not help.
    """
    if isinstance(error, OutcomeUnknown):
        status, code, message, again = 502, "outcome_unknown", str(error), error.again
    elif isinstance(error, VendorUnreachable):
        status, code, message, again = 503, "vendor_unreachable", str(error), True
    else:
        status, code, again = error.denial_status, _CODES.get(error.reason, error.reason), False
        message = error.message
    headers = {"content-type": "application/json", "x-should-retry": "true" if again else "false"}
    if code == "budget_exhausted":
        headers |= {"x-spendguard-cap-hit": "true", "x-keybrake-cap-hit": "true"}
    return ErrorReply(status, code, message, again, headers)


class Vendor(ABC):
    """One vendor's knowledge; every method is pure. An adapter has `quote` and `outcome`, and what differs.

    Attributes:
        name: as in `[spendguard_<name>]` and in a gateway's URLs.
        home: the vendor's own address; "" when it has several (then `rest` and `url` tell them apart).
        secret_variables: the environment variables in which its secret usually lives, best first.
        stand_ins: what else its SDK asks the environment for, and what will do in its place.
        settings: the keys of luigi.cfg that only this vendor has.
        moves_money: what its calls cost is money that they move, and not a price for what it does.
        flows: operations whose money has a counterparty of its own, each `inflow` or `outflow`: reports show
            them apart. What any other moves is spending.
        service_category: what it sells, as FOCUS 1.2 has it in `ServiceCategory`.
        prices_late: it names prices later: `follow_up` asks for them.
        made_status: its HTTP status where something was made: what is read in place of that has it, too.
        ruled: operations that are priced by what they ask for, and take no fixed price.
        made_up: idempotency keys of this form may come from the SDK and not from its caller: the call is
            known by them, or else by what it is.
        longest_key: the characters of an idempotency key at the most.
        kept: the request's headers that must be sent again with a stored body.
        kept_answer: the reply's headers that a replay has, too.
        asks: how the names of further headers begin that may go to the vendor with a request.
        answers: how the names of further headers begin that belong to a reply of the vendor's.
        request_header: the reply's header with the vendor's own id of a request.
        pages: the vendor's own pages, up to an object's id, by how the ids begin.
        reading: the last words of the names of operations that only read.
        books: how its own books are read, to compare them with the ledger; None: it shows none.

    """

    name: str
    home: str = ""
    secret_variables: tuple[str, ...] = ()
    stand_ins: Mapping[str, str] = {}
    settings: tuple[Setting, ...] = ()
    moves_money: bool = False
    flows: Mapping[str, str] = {}
    service_category: str = "Other"
    prices_late: bool = False
    made_status: int = 200
    ruled: frozenset[str] = frozenset()
    made_up: re.Pattern[str] = re.compile(MADE_UP)
    longest_key: int = 255
    kept: tuple[str, ...] = ("content-type",)
    kept_answer: tuple[str, ...] = ("content-type",)
    asks: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()
    request_header: str = "x-request-id"
    pages: Mapping[str, str] = {}
    reading: tuple[str, ...] = ()
    books: OwnBooks | None = None

    @abstractmethod
    def quote(
        self, request: Request, settings: VendorSettings, secret: str, fx: Mapping[str, Decimal]
    ) -> Quote:
        """Recognise and price a request; `secret` is "" where this side does not have it.

        Raises SpendDenied.
        """

    @abstractmethod
    def outcome(self, quote: Quote, reply: Reply, *, resent: bool, fx: Mapping[str, Decimal]) -> Outcome:
        """Read what became of the call; `resent` after an earlier send with an unknown outcome."""

    def only_reads(self, request: Request) -> bool:
        """Return whether a request changes nothing and costs nothing, whoever makes it."""
        return request.method in ("GET", "HEAD") and not is_disguised(request)

    def check(self, settings: VendorSettings) -> str:
        """Return what is wrong with this vendor's own settings, "" when nothing is."""
        wrong = min(self.ruled & set(settings.prices), default="")
        where = f"[spendguard_{self.name}] prices gives a fixed price to {wrong}"
        return f"{where}, which is priced by what it asks for: remove it" if wrong else ""

    def known(self) -> Known | None:
        """Return what this vendor's tables know, to tell what is misspelt; None: they cannot tell."""
        return None

    def lacks(self, named: str, unpriced: frozenset[str] = frozenset()) -> str:
        """Return why an operation or endpoint that an allowlist or a key names is none of this vendor's, with
        the nearest ones; "" for one that is known, only reads, or cannot be told.

        `unpriced`: operations that are said to take no fixed price, where one of them is the nearest.
        """
        known = self.known()
        return "" if known is None else known.lacks(named, self.reading, unpriced)

    def problems(self, settings: VendorSettings) -> Iterator[str]:
        """Yield what is wrong with this vendor's section: calls are denied until it is mended."""
        wrong = self.check(settings)
        if wrong:
            yield wrong
        for key, unpriced in (("allowed_endpoints", frozenset[str]()), ("prices", self.ruled)):
            for named in getattr(settings, key):
                if (why := self.lacks(named, unpriced)) and named not in wrong:
                    yield f"[spendguard_{self.name}] {key}: {why}"

    def price_list(self, settings: VendorSettings) -> Iterator[tuple[str, str]]:
        """Yield what is priced, and its price with where that comes from, for `spendguard check`."""
        yield from ()

    def check_allowed(
        self, line: str, operation: str, settings: VendorSettings, *, hands_out_credentials: bool = False
    ) -> None:
        """Raise SpendDenied (`endpoint`) for what the operator's allowlist does not name.

        `line` is method and path; what hands out credentials has to be named exactly.
        """
        allowed, where = settings.allowed_endpoints, f"[spendguard_{self.name}] allowed_endpoints"
        if hands_out_credentials and not {line, operation} & set(allowed):
            raise denial(
                "endpoint",
                f"{line} hands out credentials: it is denied unless {where} names exactly {line!r}",
            )
        if not is_allowed(allowed, line, operation):
            raise denial("endpoint", f"{line} is not in {where} ({', '.join(allowed)})")

    def no_price(self, operation: str, line: str) -> SpendDenied:
        """Return the denial of an operation, by its name and line, that the operator could give a price."""
        return denial(
            "unpriced",
            f"{operation} ({line}) has no price and is not free: denied unless "
            f"[spendguard_{self.name}] prices gives it a fixed price, such as `{operation}: 5`",
        )

    def key_of(self, request: Request) -> tuple[str | None, bool]:
        """Return a request's idempotency key, and whether it is its caller's own. Raises SpendDenied."""
        key = request.headers.get("idempotency-key") or None
        if key is not None and (len(key) > self.longest_key or not key.isprintable()):
            raise denial(
                "unpriced", f"an idempotency key has at most {self.longest_key} printable characters"
            )
        return key, key is not None and not self.made_up.fullmatch(key)

    def section(self) -> tuple[Setting, ...]:
        """Return what may stand in `[spendguard_<name>]`."""
        return vendor_section(self.name, self.home, self.secret_variables, self.settings)

    def look_up(self, quote: Quote, request: Request, path: str) -> Request:
        """Return the GET that fetches one of `quote.look_ups`."""
        return Request("GET", self.url(path), {})

    def fetch(self, quote: Quote, object_id: str, request: Request) -> Request:
        """Return the GET that answers a repeated call of `quote` with what its first send has opened.

        Raises SpendDenied (`idempotency_mismatch`) where the vendor has no such thing.
        """
        raise denial(
            "idempotency_mismatch",
            f"{quote.operation} was made before and resolved by an operator; {self.name} has no way to "
            "fetch what it answered: make what this task outputs by hand",
        )

    def complete(
        self,
        quote: Quote,
        request: Request,
        lookups: Mapping[str, Reply],
        settings: VendorSettings,
        fx: Mapping[str, Decimal],
    ) -> Quote:
        """Price the request again with the replies to its `lookups` so far, by path. Raises SpendDenied.

        The answer may name further `look_ups`, never one of these again.
        """
        return quote

    def search(self, quote: Quote, request: Request, since_ms: int) -> Request | None:
        """Return the GET that lists what an earlier send of this call, at `since_ms`, may have opened.

        Asked for calls that the vendor would execute twice. None: the vendor has no such list.
        """
        return None

    def matches(self, quote: Quote, request: Request, listed: Reply, since_ms: int) -> Mapping[str, Reply]:
        """Return what of a `search`'s reply this call may have opened: object ids, oldest first, each with
        the reply that the call would have got.
        """
        return {}

    def search_tagged(
        self, quote: Quote, request: Request, span: tuple[int, int], after: str = ""
    ) -> Request | None:
        """Return the GET of a page of what was made in a time (milliseconds since the epoch), behind the
        object `after`; None: there is no such list.

        Asked for a call that went out with its tag, and is too old to be sent again.
        """
        return None

    def read_tagged(
        self, quote: Quote, request: Request, span: tuple[int, int], listed: Reply, key: str
    ) -> TaggedPage:
        """Return what such a page shows of the tag of a wire key. Raises ValueError for what is none."""
        return TaggedPage({})

    def tag_text(self, key: str) -> str:
        """Return the tag of a wire key for people, as the vendor's own pages find it."""
        return "its tag"

    def undo(self, quote: Quote, request: Request, reply: Reply, settings: VendorSettings) -> Request | None:
        """Return the request that takes back what a declined call has left open; None: nothing is, or the
        operator keeps it. What is left open goes on counting until it is taken back.
        """
        return None

    def undone(self, reply: Reply) -> bool:
        """Return whether the reply to an `undo` says that nothing of it is left."""
        return False

    def billed(
        self, quote: Quote, outcome: Outcome, reply: Reply, fx: Mapping[str, Decimal]
    ) -> Outcome | None:
        """Return an outcome by the reply to a GET at its `billed_at`, None where that does not say it.

        Raises KeyError, TypeError, ValueError for what the vendor does not answer.
        """
        return None

    def follow_up(self, account: str, object_id: str, settings: VendorSettings) -> Request | None:
        """Return the GET that tells what an object has cost in the end; None: not from this account."""
        return None

    def followed(self, reply: Reply, settings: VendorSettings, fx: Mapping[str, Decimal]) -> FollowedUp:
        """Read the reply to a `follow_up`."""
        return FollowedUp(None, final=True)

    def object_url(self, account: str, object_id: str) -> str | None:
        """Return the address at which the vendor's own pages show an object; None: there is none known."""
        if not re.fullmatch(r"[A-Za-z0-9_-]+", object_id):
            return None
        known = (page for begin, page in self.pages.items() if object_id.startswith(begin))
        return next((page + object_id for page in known), None)

    def wire(self, request: Request, settings: VendorSettings, secret: str, key: str) -> Request:
        """Return the request as it leaves: to the vendor's own host, with secret and wire key."""
        url = (settings.base_url or self.home) + self.own_rest(request.url, settings)
        headers = self.asked(request)
        headers["authorization"] = f"Bearer {secret}"
        if key:
            headers["idempotency-key"] = key
        return Request(request.method, url, headers, request.body)

    def tagged(self, request: Request, key: str) -> Request:
        """Return a request that is `taggable` with a tag on what it makes.

        Of the wire key alone: what is sent under one key is the same each time.
        """
        return request

    def credential(self, request: Request) -> str:
        """Return what the request shows as its credential, "" when it shows none."""
        return bearer(request) or basic(request)[0]

    def shape(self, error: SpendDenied | OutcomeUnknown | VendorUnreachable) -> Reply:
        """Return a denial, or why there is no reply, in the vendor's own error format."""
        refusal = error_reply(error)
        body = {"error": {"type": refusal.code, "code": refusal.code, "message": refusal.message}}
        return Reply(refusal.status, refusal.headers, json.dumps(body).encode())

    def rest(self, url: str) -> str | None:
        """Return what stands behind `/<name>` in a gateway's URL for a URL of this vendor's; else None."""
        return url[len(self.home) :] if self.home and url.startswith(self.home + "/") else None

    def url(self, rest: str) -> str:
        """Return the vendor's own URL for what stands behind `/<name>`; `rest`'s inverse.

        Raises SpendDenied (`endpoint`).
        """
        return self.home + rest

    def own_rest(self, url: str, settings: VendorSettings) -> str:
        """Return `rest` of a URL of the vendor's, or of what luigi.cfg has set in its place.

        Raises SpendDenied (`endpoint`) for any other, as the secret goes nowhere else, and for a path that
        can be read in two ways.
        """
        rest = self.rest(url)
        if rest is None and settings.base_url and url.startswith(settings.base_url + "/"):
            rest = url[len(settings.base_url) :]
        if rest is not None:
            split_address(rest)
            return rest
        parts = urlsplit(url)
        shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2] or '?'}"
        raise denial("endpoint", f"{shown} is no address of {self.name}'s: the secret is not sent to it")

    def asked(self, request: Request, *but: str) -> dict[str, str]:
        """Return the headers of a request that go to the vendor, and those that are named in `but`.

        Nobody's credentials, nothing that a hop needs, and none that could make it another request.
        """
        return {
            name: value
            for name, value in request.headers.items()
            if name in (*_ASKED, *but) or (self.asks and name.startswith(self.asks))
        }

    def answered(self, reply: Reply) -> Reply:
        """Return a reply with the headers that belong to the answer: to whom it is passed on they are ours.

        Marks of this package's are not the vendor's to make, nor are cookies, policies for a browser or what
        the connection to the vendor needed.
        """
        begin = (f"{self.name}-", f"x-{self.name}-", *_ANSWER_BEGINNINGS, *self.answers)
        kept = {
            name: value for name, value in reply.headers.items() if name in _ANSWER or name.startswith(begin)
        }
        return replace(reply, headers=kept)

    def request_id(self, reply: Reply) -> str:
        """Return the vendor's own id of the request that a reply answers, "" where that names none.

        It is asked for by it at the vendor. What is no id, in one word, is nobody's.
        """
        named = reply.headers.get(self.request_header, "")
        return named if _REQUEST_ID.fullmatch(named) else ""

    def relinked(self, reply: Reply, base: str) -> Reply:
        """Return a reply whose links to further pages lead to `base`, a gateway's URL for this vendor."""
        return reply

    def is_slow(self, request: Request) -> bool:
        """Return whether quoting may take more than a millisecond: then luigid does it in a thread."""
        return len(request.body) > 4096
