"""What every vendor's denial has, whatever its shape; and where a request shows its credential."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field

from luigi_spendguard.errors import OutcomeUnknown, SpendDenied, VendorUnreachable
from luigi_spendguard.vendors.model import Request

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


def bearer(request: Request) -> str:
    """Return the token of bearer authentication, "" without one."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def basic(request: Request) -> tuple[str, str]:
    """Return user and password of basic authentication, empty ones without it."""
    scheme, _, pair = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return "", ""
    try:
        user, _, password = base64.b64decode(pair.strip(), validate=True).decode("ascii").partition(":")
    except ValueError:  # No base64, or no text in it.
        return "", ""
    return user, password


def bearer_or_user(request: Request) -> str:
    """Return the bearer token, else the user name of basic authentication (`curl -u key:`)."""
    return bearer(request) or basic(request)[0]
