"""Stripe: which versions of its API a call that may spend is made in.

The same parameter may bill another amount in another version (https://docs.stripe.com/changelog); what ours
say of them holds for the versions of the SDKs that are supported, stripe-python 15 and 16.
"""

from __future__ import annotations

import re

from luigi_spendguard.errors import denial
from luigi_spendguard.vendors.calls import Request

#: Put where a request names none: the account's own version may be of any age.
PINNED = "2026-10-28.endive"

#: Releases within one of these names add to one another and change nothing; their previews may.
_TAKEN = re.compile(r"20\d\d-\d\d-\d\d\.(dahlia|endive)")
_FIRST = "2026-03-25.dahlia"


def check(request: Request) -> None:
    """Raise SpendDenied (`unpriced`) where a request asks for a version that is not known."""
    asked = request.headers.get("stripe-version", PINNED)
    if not _TAKEN.fullmatch(asked):
        raise denial(
            "unpriced",
            f"what a call costs in the API version {asked[:60]!r} is not known: pass {_FIRST} or a later "
            f"Stripe-Version, up to those named endive and no preview, or none, which means {PINNED}",
        )
