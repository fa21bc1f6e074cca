"""Stripe: what is known of a customer, and decides which tax comes on what Stripe collects by itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from luigi_spendguard.vendors.calls import Quote
from luigi_spendguard.vendors.stripe_asked import PAYERS, Asked, Unbounded
from luigi_spendguard.vendors.stripe_prices import free


def customer_updated(asked: Asked) -> Quote:
    """Quote nothing. Raises Unbounded where what Stripe collects by itself may rise by it."""
    if {name.split("[")[0] for name in asked.params} & {"address", "shipping", "tax", "tax_exempt"}:
        _check_drafts(asked, "customer", asked.ids[0], exempt="tax_exempt" in asked.params)
    return free(asked)


def tax_ids(asked: Asked) -> Quote:
    """Quote nothing, for the account's own or a customer's. Raises Unbounded as `customer_updated` does."""
    if asked.quote.path.startswith("/v1/customers/"):
        whose: Mapping[str, Any] = {"customer": asked.ids[0]}
    elif asked.ids:
        path = f"/v1/tax_ids/{asked.ids[0]}"
        if asked.is_gone(path):
            return free(asked)
        [known] = asked.fetched(path)
        whose = known.get("owner") or {}
    else:
        whose = {name: asked.params.get(f"owner[{name}]") for name in PAYERS}
    for name in ("customer", "customer_account"):
        one = whose.get(name)
        one = one.get("id") if isinstance(one, dict) else one
        if one:
            found = Asked(asked.quote, (), {name: str(one)}, {}, asked.fx).id_of(name)
            _check_drafts(asked, name, found, exempt=False)
    return free(asked)


def _check_drafts(asked: Asked, payer: str, whose: str, *, exempt: bool) -> None:
    """Raise Unbounded where Stripe collects a draft of a payer's by itself whose tax may rise.

    What is finalized keeps its tax, and what a guarded call collects is counted then. `exempt`: rates of
    one's own, too, which only an exemption switches off.
    """
    path = f"/v1/invoices?{payer}={whose}&status=draft&limit=100"
    [page] = asked.fetched(path)
    taxed = [one for one in page["data"] if one.get("auto_advance") is not False
             and (exempt or (one.get("automatic_tax") or {}).get("enabled") is not False)]  # fmt: skip
    if taxed or page["has_more"] is not False:
        raise Unbounded(
            f"{asked.quote.operation} while Stripe collects a draft of {whose} by itself, whose tax may rise"
        )
