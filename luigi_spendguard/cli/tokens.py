"""Which token is shown at which address: decided here alone."""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from typing import NamedTuple
from urllib.parse import urlsplit

from luigi_spendguard.config import ConfigError, Settings
from luigi_spendguard.http.addresses import UNIX
from luigi_spendguard.redaction import Secret
from luigi_spendguard.settings.operators import OPERATORS, VARIABLE

_ADMIN = "[spendguard] admin_token (or admin_token_file)"
_WORKER = "[spendguard] worker_token (or worker_token_file)"


class Token(NamedTuple):
    """A token to be shown, or None.

    Attributes:
        source: which it is, and where it is from; why there is none.
        names_nobody: whether it is the admin token, and operators have names here.

    """

    value: Secret | None
    source: str
    names_nobody: bool = False

    @property
    def said(self) -> str:
        """What is said of it where it is refused."""
        return f"refused was {self.source}" if self.value else self.source


def token_for(settings: Settings, url: str, name: str | None) -> Token:
    """Return what is shown at `url`: that of operator `name`, else SPENDGUARD_TOKEN's, else the admin token,
    else a worker's, which may read.

    What luigi.cfg or the environment has was set for the address that it, or its user, names. What luigid
    made beside its ledger here was made for this machine's own luigid, and is shown nowhere else. Raises
    ConfigError where somebody is named who has no token here.
    """
    given = os.environ.get(VARIABLE, "").strip()
    if name and given:
        raise ConfigError(f"say either --as (or SPENDGUARD_AS) or {VARIABLE}: each says who you are")
    if name:
        return _operators(settings, name)
    if given:
        if not re.fullmatch(r"[\x21-\x7e]+", given):
            raise ConfigError(f"{VARIABLE} has other signs than a token has")
        return _admins(settings, Secret(given), f"the token of {VARIABLE}")
    if settings.admin_token:
        return _admins(settings, Secret(settings.admin_token), f"the admin token of {_ADMIN}")
    made, here = _made_beside_the_ledger(settings), leads_here(url)
    if made and here:
        return _admins(settings, made, f"the admin token of {settings.token_file}")
    if settings.worker_token:
        return worker_token(settings)
    why = f"no token was shown, as none is set here: {_ADMIN}, or {_WORKER} to read"
    if made:
        why = (
            f"no token was shown: the one in {settings.token_file} is for this machine's own luigid. Set "
            f"the other's as {_ADMIN}, or {_WORKER} to read"
        )
    return Token(None, why)


def _admins(settings: Settings, token: Secret, source: str) -> Token:
    """Return a token that is the admin token, or of somebody's environment: whose that is, is to be seen."""
    known = {settings.admin_token or _made_beside_the_ledger(settings)}
    return Token(token, source, names_nobody=bool(settings.operators) and token in known)


def is_said(name: str | None) -> bool:
    """Return whether it is said who one is: by a name, or by a token of the environment."""
    return bool(name or os.environ.get(VARIABLE, "").strip())


def _operators(settings: Settings, name: str) -> Token:
    """Return the token of a named operator. Raises ConfigError."""
    operator = settings.operators.get(name)
    if operator is None:
        there = ", ".join(settings.operators) or "nobody"
        raise ConfigError(f"--as {name}: [{OPERATORS}] of luigi.cfg here names {there}")
    if operator.token is None:
        why = "its variable is not set, or its file may not be read"
        raise ConfigError(f"--as {name}: the token in [{OPERATORS}] cannot be had here: {why}")
    return Token(operator.token, f"the token of {name} in [{OPERATORS}]")


def worker_token(settings: Settings) -> Token:
    """Return what a worker shows."""
    if settings.worker_token is None:
        return Token(None, f"no token was shown, as there is no {_WORKER} here")
    return Token(Secret(settings.worker_token), f"the worker token of {_WORKER}")


def _made_beside_the_ledger(settings: Settings) -> Secret | None:
    try:
        text = settings.token_file.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return Secret(text) if text else None


def leads_here(url: str) -> bool:
    """Return whether an address is this machine's: a Unix socket's, a loopback address or one of its own.

    Of names, `localhost` and this machine's own count, the latter where it means this machine's addresses
    alone: where any other leads is for somebody else to say, and may change until it is connected to.
    """
    try:
        parts = urlsplit(url.strip())
        host = (parts.hostname or "").lower()
    except ValueError:
        return False
    if parts.scheme == UNIX or host == "localhost":
        return True
    try:
        return _is_own(str(ipaddress.ip_address(host)))
    except ValueError:
        pass
    if host not in (socket.gethostname().lower(), socket.getfqdn().lower()):
        return False
    try:
        found = {str(one[4][0]) for one in socket.getaddrinfo(host, None)}
    except OSError:
        return False
    return bool(found) and all(_is_own(one) for one in found)


def _is_own(address: str) -> bool:
    """Return whether an IP address is this machine's: what goes there comes from there. Sends nothing."""
    if ipaddress.ip_address(address.partition("%")[0]).is_loopback:
        return True
    try:
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((address, 9))
            return bool(ipaddress.ip_address(probe.getsockname()[0]) == ipaddress.ip_address(address))
    except (OSError, ValueError):
        return False
