"""What a vendor must tell the guard; one file here for each vendor, or in a package of somebody else's.

A vendor knows no SQL, no Luigi and no sockets: it recognises an operation, quotes the most it can
cost, names its target, reads what became of it, and injects the secret. docs/adding-a-vendor.md shows one.
`values` reads the values of its own settings.
"""

from __future__ import annotations

from luigi_spendguard.errors import denial
from luigi_spendguard.settings import Setting, VendorSettings, values
from luigi_spendguard.vendors.base import Vendor
from luigi_spendguard.vendors.model import FollowedUp, Outcome, Quote, Reply, Request

__all__ = [
    "FollowedUp",
    "Outcome",
    "Quote",
    "Reply",
    "Request",
    "Setting",
    "Vendor",
    "VendorSettings",
    "denial",
    "values",
]
