"""Which vendors there are."""

from __future__ import annotations

from collections.abc import Mapping

from luigi_spendguard.vendors import Vendor
from luigi_spendguard.vendors.stripe import Stripe

VENDORS: Mapping[str, Vendor] = {"stripe": Stripe()}
