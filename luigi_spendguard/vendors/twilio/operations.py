"""Twilio: which operation a request is, and of which kind. What is in no rule is unpriced.

The rules were checked against every operation of twilio-python 9.13.0: 795 that write and 793 GETs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache

from luigi_spendguard.vendors.model import Row
from luigi_spendguard.vendors.parameters import Kinds, Parameters
from luigi_spendguard.vendors.twilio.prices import MAX_GROWN, MAX_SEGMENTS, MAX_UNITS

_LATE = (
    "as quoted; corrected to Twilio's price, and the fees that it may lack, once it is there: 0 when canceled"
)
TABLE = (
    Row(
        "messages.create",
        "SMS: segments times (`sms_prices` + `sms_fees`) of the longest prefix, `*` for unknown ones; "
        "`scheduling_price` on top where it is scheduled or its links are shortened",
        f"{_LATE}, `failed_price` when failed",
        f"a number that is not E.164, more than {MAX_UNITS:,} characters, unknown parameters",
    ),
    Row(
        "messages.create",
        "MMS: `mms_prices` + `mms_fees`, or its text with a link as an SMS where that is dearer",
        "as an SMS",
        "as an SMS",
    ),
    Row(
        "messages.create",
        f"content template: {MAX_SEGMENTS} segments, {MAX_GROWN} where it may be encoded otherwise, or an "
        "MMS where that is dearer",
        "as an SMS",
        "as an SMS",
    ),
    Row(
        "messages.create",
        "other channels (`whatsapp:+1…`): `channel_prices`, RCS for every 160 bytes",
        "as quoted, 0 when canceled, `failed_price` when failed",
        "a channel without a price, a channel in `From` alone",
    ),
    Row("messages.update", "nothing", "cancelling gives back, redacting changes nothing", "anything else"),
    Row(
        "calls.create",
        "minutes up to `TimeLimit` (else `call_time_limit_s`, which is then sent) times `call_prices`, for "
        "`call_legs` parties; recording and machine detection on top",
        f"{_LATE}, busy, failed or not answered",
        "a destination without a price; TwiML that could dial where `call_legs` is not set, at a URL "
        "(`FallbackUrl`, too) always",
    ),
    Row("calls.update", "nothing", "cancelling gives back, completing changes nothing", "anything else"),
    Row(
        "verify.services.verifications.create",
        f"`verify_price`, two segments ({MAX_SEGMENTS} with a text or template of its own) and a Lookup, or "
        "a minute; on WhatsApp the dearer of `channel_prices` and a text",
        "as quoted",
        "channels other than `sms`, `call` and, priced, `whatsapp`",
    ),
    Row(
        "verify.services.verification_check.create",
        "nothing: its success was counted with the verification",
        "nothing",
    ),
    Row(
        "lookups.phone_numbers.fetch",
        "the sum of `lookup_prices` of its `Fields`; nothing without any",
        "as quoted",
        "fields without a price, unknown parameters",
    ),
)

_ID = r"[^/]+"
_ACCOUNT = rf"/2010-04-01/Accounts/{_ID}"
_WRITES = r"(?:POST|PUT|PATCH|DELETE)"

#: Twilio's APIs: other hosts below twilio.com are its web sites, and others' machines.
_APIS = (
    "accounts|api|bulkexports|chat|content|conversations|events|flex-api|frontline-api|iam|insights|intelligence"
    "|ip-messaging|knowledge|lookups|marketplace|memory|messaging|monitor|notify|numbers|oauth|preview"
    "|preview-iam|pricing|proxy|routes|serverless|studio|supersim|sync|taskrouter|trunking|trusthub|verify"
    "|video|voice|webhooks|wireless"
)

#: By "METHOD product path".
_KINDS = Kinds(
    [
        # The reply returns or mints credentials, or the request manages them.
        ("credential", rf"\w+ api /2010-04-01/Accounts(?:\.[^/]*)?(?:/{_ID})?"),
        ("credential", rf"{_WRITES} api {_ACCOUNT}/(?:Keys|SigningKeys|Tokens)(?:/{_ID})?"),
        ("credential", rf"{_WRITES} api {_ACCOUNT}/SIP/CredentialLists(?:/.*)?"),
        (
            "credential",
            rf"{_WRITES} api {_ACCOUNT}/SIP/Domains/{_ID}/(?:Auth/(?:Calls|Registrations)/)?"
            rf"CredentialListMappings(?:/{_ID})?",
        ),
        ("credential", rf"{_WRITES} api {_ACCOUNT}/(?:ConnectApps|AuthorizedConnectApps)(?:/{_ID})?"),
        ("credential", r"\w+ accounts /v1/(?:AuthTokens|Credentials)(?:/.*)?"),
        ("credential", r"\w+ (?:iam|preview-iam|oauth) .*"),
        ("credential", rf"\w+ (?:chat|ip-messaging|conversations|notify) /v\d/Credentials(?:/{_ID})?"),
        ("credential", rf"{_WRITES} trunking /v1/Trunks/{_ID}/CredentialLists(?:/{_ID})?"),
        ("credential", rf"\w+ verify /v2/Services/{_ID}/AccessTokens(?:/{_ID})?"),
        ("credential", rf"POST verify /v2/Services/{_ID}/(?:Entities/{_ID}|Passkeys)/Factors"),
        ("credential", rf"\w+ webhooks /v1/Webhooks/(?:AuthProfiles|SharedKeys|Settings)(?:/{_ID})?"),
        ("credential", rf"\w+ serverless /v1/Services/{_ID}/Environments/{_ID}/Variables(?:/{_ID})?"),
        ("credential", r"POST flex-api /(?:v1/Insights/Session|v2/WebChats)"),
        ("credential", r"\w+ trusthub /v1/ComplianceInquiries/.*"),
        ("credential", r"POST (?:trusthub|numbers) /v1/.*/EmbeddedSessions"),
        # Older versions have other rules; what begins so at `webhooks` starts a flow.
        ("unpriced", r"\w+ api /(?!2010-04-01/).*"),
        ("unpriced", r"\w+ webhooks /(?!v1/Webhooks(?:/|$)).*"),
        # What is priced by its own rule.
        ("lookup", rf"(?:GET|HEAD) lookups /v2/PhoneNumbers/{_ID}"),
        ("message", rf"POST api {_ACCOUNT}/Messages"),
        ("call", rf"POST api {_ACCOUNT}/Calls"),
        ("verification", rf"POST verify /v2/Services/{_ID}/Verifications"),
        ("verification_check", rf"POST verify /v2/Services/{_ID}/VerificationCheck"),
        ("message_update", rf"POST api {_ACCOUNT}/Messages/{_ID}"),
        ("call_update", rf"POST api {_ACCOUNT}/Calls/{_ID}"),
        # These lift a protection against spending, or lose what costs to have again.
        ("unpriced", rf"DELETE (?:verify /v2/Services/{_ID}|lookups /v2)/RateLimits/.*"),
        ("unpriced", rf"DELETE api {_ACCOUNT}/(?:Usage/Triggers|IncomingPhoneNumbers)/{_ID}"),
        ("unpriced", r"DELETE voice /v2/.*"),
        ("unpriced", rf"DELETE (?:sync|chat|ip-messaging|conversations) /v\d/Services/{_ID}"),
        ("free", r"DELETE \S+ /.*"),
        # Writes that cost nothing.
        ("free", rf"POST api {_ACCOUNT}/Messages/{_ID}/Feedback"),
        ("free", rf"POST api {_ACCOUNT}/Addresses(?:/{_ID})?"),
        ("free", rf"POST api {_ACCOUNT}/OutgoingCallerIds/{_ID}"),
        ("free", rf"POST api {_ACCOUNT}/Queues(?:/{_ID})?"),
        ("free", rf"POST api {_ACCOUNT}/Usage/Triggers"),
        ("free", rf"POST api {_ACCOUNT}/Calls/{_ID}/(?:Streams|Siprec|Transcriptions)/{_ID}"),
        ("free", rf"POST api {_ACCOUNT}/Calls/{_ID}/UserDefinedMessage(?:s|Subscriptions)"),
        ("free", rf"POST verify /v2/Services/{_ID}/Webhooks(?:/{_ID})?"),
        ("free", rf"POST verify /v2/Services/{_ID}/RateLimits(?:/{_ID}/Buckets)?"),
        ("free", rf"POST verify /v2/Services/{_ID}/Entities"),
        ("free", r"POST studio /v2/Flows/Validate"),
        ("free", rf"POST studio /v[12]/Flows/{_ID}/Executions/{_ID}"),
        ("free", rf"POST content /v1/Content|PUT content /v1/Content/{_ID}"),
        ("free", r"POST messaging /v[23]/Indicators/Typing(?:\.json)?"),
        ("free", rf"POST conversations /v1/(?:Services/{_ID}/)?Roles(?:/{_ID})?"),
        ("free", rf"POST video /v1/Rooms/{_ID}(?:/Participants/{_ID}(?:/(?:Anonymize|SubscribeRules))?)?"),
        ("free", r"POST numbers /v1/Porting/Configuration/Webhook"),
        ("free", rf"POST insights /v1/Voice/{_ID}/Annotation"),
        ("unpriced", r"\w+ numbers /v1/Porting/Portability/.*"),
        ("unpriced", rf"\w+ lookups /(?!v2/(?:RateLimits|PhoneNumbers/{_ID}/Overrides)(?:/|$)).*"),
        ("read", r"(?:GET|HEAD) \S+ /.*"),
    ]
)

#: Every operation that writes, with its parameters.
LISTED = Parameters("twilio")
#: Where what has a rule of its own is listed, in whatever letters its path is written.
RULED = {
    "message": "POST api /2010-04-01/Accounts/{id}/Messages",
    "message_update": "POST api /2010-04-01/Accounts/{id}/Messages/{id}",
    "call": "POST api /2010-04-01/Accounts/{id}/Calls",
    "call_update": "POST api /2010-04-01/Accounts/{id}/Calls/{id}",
    "verification": "POST verify /v2/Services/{id}/Verifications",
    "verification_check": "POST verify /v2/Services/{id}/VerificationCheck",
    "lookup": "GET lookups /v2/PhoneNumbers/{id}",
}

#: Twilio's hosts: product, and perhaps edge and region (https://www.twilio.com/docs/global-infrastructure).
HOST = re.compile(r"([a-z0-9-]+)(?:\.[a-z0-9-]+){0,2}\.twilio\.com")
#: Those of them that the secret is for.
API_HOST = re.compile(rf"({_APIS})(?:(?:\.[a-z0-9-]+)?\.[a-z]{{2}}[0-9])?\.twilio\.com")

_HAS_ID = re.compile(r"[A-Z]{2}[0-9a-fA-F]{32}|.*[0-9].*|\+.*")
_VERBS = {"GET": ("list", "fetch"), "POST": ("create", "update"), "DELETE": ("delete", "delete")}


def kind_of(method: str, host: str, path: str) -> str:
    """Return of which kind an operation is: what its host, path (without a query) and method say."""
    return _KINDS.of(f"{method} {_product(host)} {_without_format(path)}")


def address_of(kind: str, method: str, host: str, path: str) -> str | None:
    """Return where an operation's parameters are listed; None for one that is not known."""
    return RULED.get(kind) or LISTED.address_of(method, f"{_product(host)} {_without_format(path)}")


def lists_of(address: str | None) -> frozenset[str]:
    """Return the parameters of an operation that may be given several times."""
    return frozenset(name for name, tree in LISTED.trees(address) if "[]" in tree) if address else frozenset()


def operation_of(method: str, host: str, path: str) -> str:
    """Return an operation's name as the SDK has it: `messages.create`, `lookups.phone_numbers.fetch`."""
    product = _product(host)
    parts = [re.sub(r"\.json$", "", part) for part in path.split("/") if part]
    words = [part for part in parts[1:] if not _HAS_ID.fullmatch(part)]  # The first one is the version.
    if product == "api":
        words = words[1:] if words[:1] == ["Accounts"] and len(parts) > 3 else words
    else:
        words.insert(0, product)
        if parts[:1] == ["v1"] and product == "lookups":  # Its add-ons have prices of their own.
            words.insert(1, "v1")
    on_one = len(parts) > 1 and bool(_HAS_ID.fullmatch(parts[-1]))
    verb = _VERBS.get(method, (method.lower(), method.lower()))[on_one]
    return ".".join([*(_snake(word) for word in words), verb])


@cache
def named_lines() -> tuple[Mapping[str, tuple[str, ...]], Mapping[str, tuple[str, ...]]]:
    """Return every listed line by its operation's name, and how else each may be written: in another format,
    at another edge or region.
    """
    lines: dict[str, tuple[str, ...]] = {}
    spellings: dict[str, tuple[str, ...]] = {}
    for address in LISTED.marks:
        method, product, path = address.split(" ")
        line = f"{method} /{product}.twilio.com{path}" + (".json" if product == "api" else "")
        name = operation_of(method, f"{product}.twilio.com", path.replace("{id}", "AC" + "0" * 32))
        lines[name] = (*lines.get(name, ()), line)
        spellings[line] = tuple(f"{method} /{product}.{{id}}{path}{more}" for more in ("", ".{id}"))
    return lines, spellings


def _without_format(path: str) -> str:
    """Return a path without what says in which format its reply is to be."""
    return re.sub(r"(\.(json|xml|csv|html))+$", "", path.rstrip("/"), flags=re.IGNORECASE)


def _product(host: str) -> str:
    match = API_HOST.fullmatch(host)
    return match.group(1) if match else ""


def _snake(word: str) -> str:
    return re.sub(r"[^a-z0-9_]", "_", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", word).lower())
