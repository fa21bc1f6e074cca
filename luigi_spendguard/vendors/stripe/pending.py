"""Stripe: what whatever is invoiced at once takes along of a payer: pending items, and what they owe.

https://docs.stripe.com/api/invoiceitems: an item that is on no invoice waits for the next one; and
https://docs.stripe.com/api/customers/object: a positive balance is added to it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from luigi_spendguard.vendors.stripe.request import Asked, Unbounded, not_there

#: Items are read by pages of 100: more pages than these are no call that is meant honestly.
_MOST_PAGES = 5
#: More items than these are counted beside what takes them along: too much rather than too little.
MOST_COVERED = 50
OBJECT_ID = re.compile(r"[A-Za-z0-9_]{1,64}", re.ASCII)


@dataclass(frozen=True)
class Item:
    """A pending item: its amount, either way, in minor units; the subscription it waits for ("": any)."""

    ident: str
    minor: int
    currency: str
    subscription: str


def pending(asked: Asked, payer: tuple[str, str] | None) -> list[Item]:
    """Return the pending items of a payer. Raises NotLookedUp, Unbounded, SpendDenied."""
    if payer is None:
        return []
    name, whose = payer
    path = first = f"/v1/invoiceitems?{name}={whose}&pending=true&limit=100"
    found: list[Item] = []
    for _ in range(_MOST_PAGES):
        [page] = asked.fetched(path)
        try:
            found += [
                Item(str(one["id"]), abs(int(one["amount"])), one["currency"], one.get("subscription") or "")
                for one in page["data"]
            ]
            more = page["has_more"]
        except (ValueError, TypeError, KeyError):
            raise not_there(asked.quote.operation, path) from None
        if more is False:
            return found
        if not found or not OBJECT_ID.fullmatch(found[-1].ident):
            raise not_there(asked.quote.operation, path)
        path = f"{first}&starting_after={found[-1].ident}"
    raise Unbounded("the payer has more pending items than can be added up")


def owed(asked: Asked, payer: tuple[str, str] | None) -> dict[str, int]:
    """Return what a customer owes from before, by currency, in minor units. Raises NotLookedUp, SpendDenied.

    Stripe shows no such balance of an account that stands for a customer.
    """
    if payer is None or payer[0] != "customer" or not OBJECT_ID.fullmatch(payer[1]):
        return {}
    path = f"/v1/customers/{payer[1]}?expand%5B%5D=invoice_credit_balance"
    if asked.is_gone(path):
        return {}  # Stripe refuses the call.
    [customer] = asked.fetched(path)
    own, balance = str(customer.get("currency") or ""), int(customer.get("balance") or 0)
    # Which sign is a debt is said in two ways: in other currencies either counts.
    others = {
        unit: abs(int(amount)) for unit, amount in (customer.get("invoice_credit_balance") or {}).items()
    }
    return {unit: amount for unit, amount in {**others, own: balance}.items() if amount > 0}


def covered(items: list[Item]) -> tuple[str, ...]:
    """Return the items whose counted money is counted by what takes them along."""
    return tuple(one.ident for one in items if OBJECT_ID.fullmatch(one.ident))[:MOST_COVERED]
