"""What to do where a server takes no connection: libpq says why in words alone, with no code."""

from __future__ import annotations

import re
from typing import NamedTuple


class Remedy(NamedTuple):
    """What to do; `lasts`: it is not tried again, as it will not mend itself."""

    text: str
    lasts: bool


#: What to do about a server that takes a connection, or has one, and says nothing.
STANDS_STILL = "does it stand still? Look at it, its disk and its machine"


def unreached(why: str, what: str) -> str:
    """Return the sentence about the ledger's server; `what` is to be done."""
    return f"the ledger's PostgreSQL cannot be reached ({why}): {what} ([spendguard] ledger_url)"


def silent(seconds: float) -> str:
    """Return the same of one that says nothing."""
    return unreached(f"its server has not answered for {seconds:g} s", STANDS_STILL)


_REMEDIES = (
    (
        r'database ".*" does not exist|no such database',
        "make it (createdb), or mend the database's name in its URL",
        True,
    ),
    (
        r"no password supplied",
        "put the password into ~/.pgpass of this user (mode 0600), or into its URL",
        True,
    ),
    (r"password authentication failed", "mend the user or the password in its URL, or ~/.pgpass", True),
    (r'role ".*" does not exist|no such user', "make it (createuser), or mend the user in its URL", True),
    (r"no pg_hba\.conf entry", "let the server's pg_hba.conf admit this user from this machine", True),
    (
        r"permission denied for database",
        "GRANT CONNECT on it to this user, or mend the user in its URL",
        True,
    ),
    (
        r"resolve host|translate host name|Name or service not known",
        "mend the host's name in its URL, or make it known (DNS, /etc/hosts)",
        False,
    ),
    (r"too many (connections|clients)|connection slots", "raise its max_connections, or end others", False),
    (r"SSL|certificate", "mend sslmode and sslrootcert in its URL, or the server's certificate", False),
    (
        r"starting up|recovery mode|not yet accepting",
        "wait: the server is being started, and recovers; its log says how far it is",
        False,
    ),
    (r"shutting down", "start the server when it is down", False),
    (
        r"refused|No such file|timeout expired|timed out|unreachable|No route",
        "start the server, or mend host and port in its URL",
        False,
    ),
)


def remedy(said: str) -> Remedy:
    """Return what to do where libpq has said that; the URL is that of `[spendguard] ledger_url`."""
    for pattern, text, lasts in _REMEDIES:
        if re.search(pattern, said):
            return Remedy(text, lasts)
    return Remedy("look at host, port, user and database in its URL", lasts=False)
