"""How each kind of value in luigi.cfg is read: a function of the raw setting and its expanded text.

Each raises ConfigError, which names file, section and key.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from pathlib import Path
from urllib.parse import unquote, urlsplit

from luigi_spendguard.money import BadAmount, Micros, parse_usd
from luigi_spendguard.redaction import Secret, hide
from luigi_spendguard.settings.files import Raw
from luigi_spendguard.settings.policy import is_endpoint, no_endpoint
from luigi_spendguard.tags import TAG_NAMES, BadTags, is_tag_name, tags_in

#: So many characters a token has at least.
TOKEN_LENGTH = 16


def usd(raw: Raw, text: str) -> Micros:
    """Return an amount in micro-dollars."""
    try:
        return parse_usd(text)
    except BadAmount as error:
        raise raw.error(str(error)) from None


def rate(raw: Raw, text: str) -> Decimal:
    """Return USD for one unit of a currency."""
    try:
        rate = Decimal(text) if re.fullmatch(r"[0-9.]{1,20}", text) else Decimal(0)
    except InvalidOperation:
        rate = Decimal(0)
    if not Decimal("1e-9") <= rate <= 10**6:
        raise raw.error("must be USD for one unit of the currency, such as 1.12")
    return rate


def token(raw: Raw, text: str) -> Secret:
    """Return a token that is long enough not to be guessed."""
    if len(text) < TOKEN_LENGTH or not re.fullmatch(r"[\x21-\x7e]+", text):
        raise raw.error(
            f"must have at least {TOKEN_LENGTH} printable ASCII characters without blanks; make one with "
            "`python -c 'import secrets; print(secrets.token_urlsafe(32))'`"
        )
    return Secret(text)


def secret(raw: Raw, text: str) -> Secret:
    """Return a vendor's secret."""
    if not re.fullmatch(r"[\x21-\x7e]{8,}", text):
        raise raw.error("must be the vendor's secret: at least 8 printable ASCII characters, no blanks")
    return Secret(text)


def seconds(raw: Raw, text: str) -> float:
    """Return a time-out in seconds."""
    if not re.fullmatch(r"[0-9]{1,4}(\.[0-9]{1,3})?", text) or not 0.1 <= float(text) <= 600:
        raise raw.error("must be a number of seconds from 0.1 to 600")
    return float(text)


def days(raw: Raw, text: str) -> int:
    """Return a number of days."""
    if not re.fullmatch(r"[0-9]{1,4}", text) or not 1 <= int(text) <= 3650:
        raise raw.error("must be a whole number of days from 1 to 3650")
    return int(text)


def time_of_day(raw: Raw, text: str) -> int:
    """Return a time of day, such as `03:00`, in minutes since midnight."""
    match = re.fullmatch(r"([01][0-9]|2[0-3]):([0-5][0-9])", text, re.ASCII)
    if not match:
        raise raw.error("must be a time of day (UTC) from 00:00 to 23:59, with both digits: 03:00")
    return int(match.group(1)) * 60 + int(match.group(2))


def boolean(raw: Raw, text: str) -> bool:
    """Return true or false."""
    if text.lower() not in ("true", "false"):
        raise raw.error("must be true or false")
    return text.lower() == "true"


def names(raw: Raw, text: str) -> tuple[str, ...]:
    """Return names or patterns, separated by commas."""
    names = tuple(part.strip() for part in text.split(","))
    if not all(names) or any(re.search(r"\s", name) for name in names):
        raise raw.error("must be a list of names or patterns, separated by commas")
    return names


_OPERATION = r"[a-z0-9_]+(?:\.[a-z0-9_]+)+"


def endpoints(raw: Raw, text: str) -> tuple[str, ...]:
    """Return allowlist patterns."""
    patterns = tuple(part.strip() for part in text.split(","))
    for pattern in patterns:
        if not is_endpoint(pattern):
            raise raw.error(no_endpoint(pattern))
    return patterns


def price_table(names: str, example: str) -> Callable[[Raw, str], dict[str, Micros]]:
    """Return a reader of `name: USD, name: USD`, in micro-dollars; names match the pattern `names`."""

    def read(raw: Raw, text: str) -> dict[str, Micros]:
        prices: dict[str, Micros] = {}
        for part in text.split(","):
            name, colon, amount = (piece.strip() for piece in part.partition(":"))
            if not colon or not re.fullmatch(names, name):
                raise raw.error(f"{part.strip()[:60]!r} is not like `{example}`")
            if name in prices:
                raise raw.error(f"{name} is given two prices")
            prices[name] = usd(raw, amount)
        return prices

    return read


def tags(raw: Raw, text: str) -> dict[str, str]:
    """Return `name: text, name: text`, what runs are counted under in reports."""
    said: dict[str, str] = {}
    for part in text.split(","):
        name, colon, value = (piece.strip() for piece in part.partition(":"))
        if not colon or not is_tag_name(name):
            raise raw.error(f"{hide(part.strip())[:60]!r} is not like `team: billing`: a name is {TAG_NAMES}")
        if name in said:
            raise raw.error(f"{name} is given twice")
        said[name] = value
    try:
        return tags_in(said)
    except BadTags as error:
        raise raw.error(str(error)) from None


#: A fixed price for each of some operations.
prices = price_table(_OPERATION, "subscriptions.create: 20")


def matching(pattern: str, what: str) -> Callable[[Raw, str], str]:
    """Return a reader that accepts a text of a form, which `what` says."""

    def read(raw: Raw, text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise raw.error(f"must be {what}")
        return text

    return read


def whole(low: int, high: int) -> Callable[[Raw, str], int]:
    """Return a reader of whole numbers from `low` to `high`."""

    def read(raw: Raw, text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,9}", text) or not low <= int(text) <= high:
            raise raw.error(f"must be a whole number from {low} to {high}")
        return int(text)

    return read


def one_of(*choices: str) -> Callable[[Raw, str], str]:
    """Return a reader that accepts one of a few words."""

    def read(raw: Raw, text: str) -> str:
        if text not in choices:
            raise raw.error(f"must be {', '.join(choices[:-1])} or {choices[-1]}")
        return text

    return read


def growth(raw: Raw, text: str) -> Decimal:
    """Return how many times as much as before is too much."""
    if not re.fullmatch(r"[0-9]{1,4}(\.[0-9]{1,3})?", text) or Decimal(text) < 1:
        raise raw.error("must be a number from 1 on, such as 3")
    return Decimal(text)


def ledger_url(raw: Raw, text: str) -> Path | Secret:
    """Return the path of the ledger's file, or the URL of a database of a PostgreSQL server."""
    if text.startswith(_SERVERS):
        return _server(raw, text)
    match = re.fullmatch(r"sqlite:///(/[^?#]+)", text)
    if not match or text.endswith("/"):
        raise raw.error(
            "must be sqlite:/// and the file's absolute path (sqlite:////var/lib/x/spendguard.db), or "
            "postgresql://user@host/database"
        )
    return Path(unquote(match.group(1)))


_SERVERS = ("postgresql://", "postgres://")
_ESCAPED = r"(?:[\w.~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})"
#: As libpq reads one, which says the password in its errors where it is not escaped
#: (https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING-URIS).
_SERVER_URL = re.compile(
    rf"postgres(?:ql)?://(?:{_ESCAPED}*(?::(?P<password>{_ESCAPED}*))?@)?(?:{_ESCAPED}|[:\[\]])*/{_ESCAPED}+"
    rf"(?:\?(?:{_ESCAPED}|[/:@])+)?",
    re.ASCII,
)


#: What libpq 18 reads in a URL
#: (https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PARAMKEYWORDS).
_PARAMETERS = frozenset(
    {
        *("host", "hostaddr", "port", "dbname", "user"),
        *("password", "passfile", "require_auth", "channel_binding", "connect_timeout"),
        *("client_encoding", "options", "application_name", "fallback_application_name", "keepalives"),
        *("keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout", "replication"),
        *("gssencmode", "sslmode", "requiressl", "sslnegotiation", "sslcompression"),
        *("sslcert", "sslkey", "sslkeylogfile", "sslpassword", "sslcertmode"),
        *("sslrootcert", "sslcrl", "sslcrldir", "sslsni", "requirepeer"),
        *(
            "ssl_min_protocol_version",
            "ssl_max_protocol_version",
            "min_protocol_version",
            "max_protocol_version",
            "krbsrvname",
        ),
        *("gsslib", "gssdelegation", "scram_client_key", "scram_server_key", "service"),
        *("servicefile", "target_session_attrs", "load_balance_hosts", "oauth_issuer", "oauth_client_id"),
        *("oauth_client_secret", "oauth_scope", "ssl"),
    }
)


def _check_parameters(raw: Raw, text: str) -> None:
    """Refuse a parameter of a server's URL that no libpq reads."""
    query = text.partition("?")[2]
    for name in (unquote(part.partition("=")[0]) for part in query.split("&") if query):
        if name in _PARAMETERS or name in _of_this_libpq():
            continue
        near = difflib.get_close_matches(name.lower(), sorted(_PARAMETERS), n=1, cutoff=0.5)
        raise raw.error(
            f"{name[:40]!r} is no parameter of a PostgreSQL URL"
            + (
                f": did you mean {near[0]}?"
                if near
                else ": sslmode, connect_timeout or options are, for example"
            )
        )


def _of_this_libpq() -> frozenset[str]:
    """Return the parameters that the libpq here reads, which may be newer; none where there is none."""
    try:
        from psycopg.pq import Conninfo  # Late: only who keeps books at a server needs it.
    except ImportError:
        return frozenset()
    return frozenset(one.keyword.decode() for one in Conninfo.get_defaults())


def _server(raw: Raw, text: str) -> Secret:
    if _SERVER_URL.fullmatch(text) is None:
        raise raw.error(
            "must name a database, postgresql://user@host/database, and have each character of a user or "
            "password but letters, digits and - . _ ~ as its %XX (@ is %40, % is %25). A password may be in "
            "~/.pgpass instead"
        )
    _check_parameters(raw, text)
    return Secret(text)


def ledger_name(place: Path | str) -> str:
    """Return where a ledger is, for people: without the password and the parameters of a server's URL."""
    if isinstance(place, Path):
        return str(place)
    parts = urlsplit(place)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def passwords_of(url: str) -> tuple[str, ...]:
    """Return what of the URL of a PostgreSQL server nobody is to see, as it is written and as it is read."""
    found = _SERVER_URL.fullmatch(url)
    written = [found["password"] if found else None, *re.findall(r"[?&](?:ssl)?password=([^&]+)", url)]
    return tuple(form for one in written if one for form in dict.fromkeys((one, unquote(one))))


def file(raw: Raw, text: str) -> Path:
    """Return the path of a file that is there."""
    path = Path(text)
    if not path.is_absolute():
        raise raw.error("must be an absolute path")
    if not path.is_file():
        raise raw.error(f"{path} is no file")
    return path


def path(raw: Raw, text: str) -> Path:
    """Return the path of a file that need not be there yet."""
    if not text.startswith("/") or text.endswith("/"):
        raise raw.error("must be a file's absolute path")
    return Path(text)


def anchors(raw: Raw, text: str) -> tuple[str, ...]:
    """Return where the audit's blocks are told: files' absolute paths, and addresses."""
    places = tuple(part.strip() for part in text.split(","))
    for place in places:
        parts = urlsplit(place)
        secure = parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.hostname))
        is_file = place.startswith("/") and not place.endswith("/")
        if not (is_file or (secure and parts.hostname)) or re.search(r"\s", place):
            raise raw.error(
                f"{place[:60]!r} is no file's absolute path and no https URL (http only for this machine)"
            )
    return places


def is_loopback(host: str | None) -> bool:
    """Return whether a URL's host is this machine."""
    return host in ("127.0.0.1", "::1", "localhost")


def base_url(raw: Raw, text: str) -> str:
    """Return an address that the secret may be sent to."""
    address = _address(raw, text, "https://api.stripe.com")
    parts = urlsplit(address)
    if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(parts.hostname)):
        raise raw.error("must be https (http only for this machine, in tests): the secret is sent there")
    return address


def gateway_url(raw: Raw, text: str) -> str:
    """Return the gateway's address; whether plain http will do depends on how luigid is reached."""
    address = _address(raw, text, "https://spendguard.example.com:8083")
    if urlsplit(address).scheme not in ("http", "https"):
        raise raw.error("must begin with https:// or http://")
    return address


def _address(raw: Raw, text: str, example: str) -> str:
    parts = urlsplit(text)
    try:
        parts.port  # noqa: B018  # raises for a port that is no number
    except ValueError:
        raise raw.error("has a port that is no number") from None
    if not parts.hostname or parts.username or parts.query or parts.fragment or re.search(r"\s", text):
        raise raw.error(f"must be a plain address such as {example}")
    return text.rstrip("/")
