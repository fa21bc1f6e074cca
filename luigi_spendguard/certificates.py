"""Which certificates are trusted on the way to luigid and its gateway."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

#: Read in this order: the first two are those of `requests`, which Luigi's own RPCs use.
VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")


def bundle(environ: Mapping[str, str] | None = None) -> str | None:
    """Return the file (or folder) of certificates that the environment names, None for the usual ones."""
    found = os.environ if environ is None else environ
    return next((found[name] for name in VARIABLES if found.get(name)), None)


def pool_arguments() -> dict[str, Any]:
    """Return what a urllib3 pool has to be given to trust them."""
    path = bundle()
    if path is None:
        return {}
    return {"ca_cert_dir" if os.path.isdir(path) else "ca_certs": path}
