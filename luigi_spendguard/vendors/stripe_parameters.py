"""Stripe: which parameters an operation takes, and what each means for what the call may cost.

`stripe_parameters.txt` beside this file has the lists.
"""

from __future__ import annotations

from collections.abc import Mapping

from luigi_spendguard.vendors.parameters import Marked, Name, Parameters, Tree

__all__ = ["Marked", "Tree", "address_of", "check", "line_of", "marks"]

_LISTED = Parameters("stripe")
address_of = _LISTED.address_of


def check(
    address: str, operation: str, said: Mapping[str, str], *, fixed: bool, priceable: bool = False
) -> None:
    """Raise SpendDenied (`unpriced`) for a parameter that is not known, or is refused.

    At a `fixed` price all that are known pass. `address` is the operation's own, such as
    `POST /v1/refunds/{id}`; `priceable`: it may be given such a price.
    """
    values = {_parts(name): {value} for name, value in said.items()}
    _LISTED.check(address, operation, values, fixed=fixed, priceable=priceable)


def line_of(address: str, name: str) -> Marked | None:
    """Return the line that lists a parameter of an operation, None where none does."""
    return _LISTED.line_of(address, _parts(name))


def marks() -> Mapping[str, tuple[Marked, ...]]:
    """Return the lists, by the operation's address. Raises ValueError for a list that cannot be read."""
    return _LISTED.marks


def _parts(name: str) -> Name:
    return tuple(part.rstrip("]") for part in name.split("["))
