"""Why no connection was made, to luigid, a gateway or a vendor, and what mends it: said in this one place."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from dataclasses import dataclass

from luigi_spendguard.http.addresses import CERTIFICATE_VARIABLES, NoAddress

#: What OpenSSL calls bytes that are no TLS: an HTTP server's answer in clear.
_IN_CLEAR = {
    "WRONG_VERSION_NUMBER",
    "PACKET_LENGTH_TOO_LONG",
    "RECORD_LAYER_FAILURE",
    "UNKNOWN_PROTOCOL",
    "HTTP_REQUEST",
}
#: OpenSSL's codes (X509_V_ERR_…): another host name, another IP address; not yet valid, expired.
_OTHER_NAME, _OTHER_TIME = {62, 64}, {9, 10}


class NotThere(ConnectionError):
    """A proxy has answered in place of whom it leads to, who may be there in a second."""


@dataclass(frozen=True)
class Unreached:
    """Why no connection was made.

    Attributes:
        why: in a few words, with nothing of what is secret in them.
        remedy: what mends it; "" where only who has asked can say that.
        lasts: it will be so again in a second.

    """

    why: str
    remedy: str = ""
    lasts: bool = False

    @classmethod
    def of(cls, error: BaseException) -> Unreached:
        """Read what an attempt to connect, or an exchange, has raised: what it is made of says more."""
        causes = list(_causes(error))
        for one in causes:
            if isinstance(one, ssl.SSLCertVerificationError):
                return _certificate(one)
            if isinstance(one, ssl.SSLError) and one.reason in _IN_CLEAR:
                return cls("plain http is spoken there", "write http:// in its address", lasts=True)
            if isinstance(one, TimeoutError) and "handshake" in str(one):
                return cls("TLS was not answered", "if plain http is spoken there, write http://")
            named = _bundle() if isinstance(one, (FileNotFoundError, PermissionError)) else None
            if named is not None and not os.access(named[1], os.R_OK):
                return cls(f"{named[0]} names {named[1]}, which cannot be read", "mend it", lasts=True)
        if isinstance(error, (NoAddress, NotThere)):
            return cls(str(error))
        reason = getattr(error, "reason", None)
        return cls(type(reason if isinstance(reason, BaseException) else error).__name__)

    def said(self, who: str, remedy: str) -> str:
        """Return the sentence about `who`; `remedy` is what its reader can do where nothing else is known."""
        return f"{who} cannot be reached ({self.why}): {self.remedy or remedy}"


def _certificate(error: ssl.SSLCertVerificationError) -> Unreached:
    why = error.verify_message or "it cannot be verified"
    if error.verify_code in _OTHER_NAME:
        return Unreached(
            f"its certificate is another host's: {why.rstrip('.')}",
            "write a name that is in it, or make one with this name among its subjectAltName",
            lasts=True,
        )
    if error.verify_code in _OTHER_TIME:
        return Unreached(f"its certificate: {why}", "renew it, or set this machine's clock", lasts=True)
    named = _bundle()
    there = f"; {named[0]} names {named[1]} now" if named is not None else ""
    return Unreached(
        f"its certificate is not trusted: {why}",
        f"name the PEM file of who has signed it in {CERTIFICATE_VARIABLES[0]} (a stripe SDK without the "
        f"plugin reads stripe.ca_bundle_path in its place){there}",
        lasts=True,
    )


def _bundle() -> tuple[str, str] | None:
    """Return the variable that names the certificates to trust, and what it names."""
    return next(((name, os.environ[name]) for name in CERTIFICATE_VARIABLES if os.environ.get(name)), None)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what it was made of."""
    todo, seen = [error], set[int]()
    while todo:
        one = todo.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        parts = (one.__cause__, one.__context__, getattr(one, "reason", None), *one.args)
        todo += [part for part in parts if isinstance(part, BaseException)]
