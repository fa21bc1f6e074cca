"""Which certificates are trusted on the way to luigid, its gateway and the vendors."""

from __future__ import annotations

import contextlib
import os
import ssl
from collections.abc import Mapping
from typing import Any

import certifi

#: Read in this order: the first two are those of `requests`, which Luigi's own RPCs use.
VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")

_contexts: dict[str | None, ssl.SSLContext] = {}


def bundle(environ: Mapping[str, str] | None = None) -> str | None:
    """Return the file (or folder) of certificates that the environment names, None for the usual ones."""
    variables = os.environ if environ is None else environ
    return next((variables[name] for name in VARIABLES if variables.get(name)), None)


def pool_arguments() -> dict[str, Any]:
    """Return what a urllib3 pool has to be given to trust them."""
    path = bundle()
    if path is None:
        return {}
    return {"ca_cert_dir" if os.path.isdir(path) else "ca_certs": path}


def prepare() -> None:
    """Make the context that this process's calls need; its children are forked with it."""
    with contextlib.suppress(OSError):  # The call says so, if one is made.
        context(bundle())


def context(path: str | None) -> ssl.SSLContext:
    """Return the TLS context that trusts what `bundle` has named; None: this machine's own and certifi's.

    Made once in a process, since it takes as long as several calls; a forked child has its parent's. Raises
    OSError for a file that cannot be read.
    """
    if path not in _contexts:
        if path is None:
            made = ssl.create_default_context()
            made.load_verify_locations(certifi.where())
        else:
            folder = os.path.isdir(path)
            made = ssl.create_default_context(
                cafile=None if folder else path, capath=path if folder else None
            )
        made.set_alpn_protocols(["http/1.1"])
        _contexts[path] = made
    return _contexts[path]
