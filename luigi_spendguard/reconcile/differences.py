"""`Difference`: an amount that is on one side only, why, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Cause(str, Enum):
    """Why two sides differ."""

    OUTSIDE = "outside"
    CAME_IN = "came_in"
    REFUNDED = "refunded"
    DISPUTED = "disputed"
    NOT_THERE = "not_there"
    NOT_LISTED = "not_listed"
    MADE = "made"
    IN_DOUBT = "in_doubt"
    UNDER_WAY = "under_way"
    UNCONFIRMED = "unconfirmed"
    CANCELLED = "cancelled"
    PRICE = "price"
    AMOUNT = "amount"
    CURRENCY = "currency"
    NO_RATE = "no_rate"
    NO_PRICE = "no_price"
    OTHER_ACCOUNT = "other_account"


@dataclass(frozen=True)
class Difference:
    """One difference.

    Attributes:
        subject: the vendor's object, or the call where none is known.
        call, run_id: the ledger's call that it is about, "" where there is none.
        entry: which entry of the ledger's journal was then the last one about the calls of this money; 0:
            there is no call.
        at_ms: when it was made, in milliseconds since the epoch.
        vendor_micros, ledger_micros: what is on that side only, in micro-dollars.
        amount, currency: what the vendor shows, in minor units; None where it does not count so.
        certain: `--apply` may book it: the call has cost `spent` micro-dollars.
        opened: what the call has opened at the vendor, where the ledger does not know that; or the one of
            several things that it has opened which `spent` is about; else "".
        reason, remedy: for people; the remedy has the commands.
        differs: somebody must look at it; else it cannot be compared, or not yet.

    """

    kind: Cause
    subject: str
    call: str
    run_id: str
    entry: int
    at_ms: int
    vendor_micros: int
    ledger_micros: int
    amount: int | None
    currency: str
    certain: bool
    spent: int | None
    opened: str
    reason: str
    remedy: str
    differs: bool = True
