"""The journal's amounts as rows of FOCUS 1.2, the FinOps Foundation's format of costs, for finance tools.

https://github.com/FinOps-Open-Cost-and-Usage-Spec/FOCUS_Spec (v1.2): `COLUMNS` has each column of it that
rows of ours have, with whether it may be null. Beside those that are mandatory there, these are what readers
of FOCUS 1.0 ask for, and two of our own (`x_…`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any, NamedTuple

from luigi_spendguard.ledger.database import Row, Tx
from luigi_spendguard.ledger.reports.period import ReportPeriod
from luigi_spendguard.money import plain_usd
from luigi_spendguard.settings.policy import moment
from luigi_spendguard.vendors import Vendor
from luigi_spendguard.vendors.model import Flows


class FocusColumn(NamedTuple):
    """A column: its name, its type (`String`, `Decimal`, `Date/Time`, `JSON`), and whether it may be null."""

    name: str
    type: str = "String"
    nullable: bool = False


#: As FOCUS 1.2 has them (specification/columns), in the order of their names; then our own.
COLUMNS: tuple[FocusColumn, ...] = (
    FocusColumn("BilledCost", "Decimal"),
    FocusColumn("BillingAccountId"),
    FocusColumn("BillingAccountName", nullable=True),
    FocusColumn("BillingCurrency"),
    FocusColumn("BillingPeriodEnd", "Date/Time"),
    FocusColumn("BillingPeriodStart", "Date/Time"),
    FocusColumn("ChargeCategory"),
    FocusColumn("ChargeClass", nullable=True),
    FocusColumn("ChargeDescription", nullable=True),
    FocusColumn("ChargeFrequency"),
    FocusColumn("ChargePeriodEnd", "Date/Time"),
    FocusColumn("ChargePeriodStart", "Date/Time"),
    FocusColumn("CommitmentDiscountCategory", nullable=True),
    FocusColumn("CommitmentDiscountId", nullable=True),
    FocusColumn("CommitmentDiscountName", nullable=True),
    FocusColumn("CommitmentDiscountStatus", nullable=True),
    FocusColumn("CommitmentDiscountType", nullable=True),
    FocusColumn("ConsumedQuantity", "Decimal", nullable=True),
    FocusColumn("ConsumedUnit", nullable=True),
    FocusColumn("ContractedCost", "Decimal"),
    FocusColumn("ContractedUnitPrice", "Decimal", nullable=True),
    FocusColumn("EffectiveCost", "Decimal"),
    FocusColumn("InvoiceId", nullable=True),
    FocusColumn("InvoiceIssuerName"),
    FocusColumn("ListCost", "Decimal"),
    FocusColumn("ListUnitPrice", "Decimal", nullable=True),
    FocusColumn("PricingCategory", nullable=True),
    FocusColumn("PricingQuantity", "Decimal", nullable=True),
    FocusColumn("PricingUnit", nullable=True),
    FocusColumn("ProviderName"),
    FocusColumn("PublisherName"),
    FocusColumn("RegionId", nullable=True),
    FocusColumn("RegionName", nullable=True),
    FocusColumn("ResourceId", nullable=True),
    FocusColumn("ResourceName", nullable=True),
    FocusColumn("ResourceType", nullable=True),
    FocusColumn("ServiceCategory"),
    FocusColumn("ServiceName"),
    FocusColumn("ServiceSubcategory"),
    FocusColumn("SkuId", nullable=True),
    FocusColumn("SkuMeter", nullable=True),
    FocusColumn("SkuPriceId", nullable=True),
    FocusColumn("SubAccountId", nullable=True),
    FocusColumn("SubAccountName", nullable=True),
    FocusColumn("SubAccountType", nullable=True),
    FocusColumn("Tags", "JSON", nullable=True),
    FocusColumn("x_CallId"),
    FocusColumn("x_Flow", nullable=True),
)
#: Rows of a page at the most.
PAGE = 1000
#: How much was booked, and when the call was settled that it is about.
_BOOKED = (
    "SELECT j.id AS entry, j.at, j.kind, j.spent_micros + j.overrun_micros AS micros, CASE WHEN j.kind IN"
    " ('settle','resolve') THEN j.at ELSE coalesce((SELECT min(at) FROM journal AS first WHERE"
    " first.call_id = j.call_id AND first.kind IN ('settle','resolve')), j.at) END AS settled_at,"
    " call.id, call.vendor,"
    " call.account, call.operation, call.family, call.object_id, run.run_id, run.root_family, run.tags"
    " FROM journal AS j CROSS JOIN call ON call.id = j.call_id CROSS JOIN run ON run.run_id = call.run_id"
    " WHERE (j.spent_micros <> 0 OR j.overrun_micros <> 0) AND j.budget_id IS NULL"
    # In the journal's order: the index of times would be read, and sorted, whole for each page.
    " AND +j.at >= ?1 AND +j.at < ?2 AND j.id > ?3{of_run} ORDER BY j.id LIMIT ?4"
)


def focus(
    tx: Tx, flows: Flows, vendors: Mapping[str, Vendor], period: ReportPeriod, after: int, limit: int
) -> dict[str, Any]:
    """Return a page of rows, one for each amount that was booked behind the entry `after`, oldest first.

    `next` is what the next page is asked for by; null: this was the last. Raises BadMessage, NotFound.
    """
    period.check(tx)
    of_run = "" if period.run_id is None else " AND j.run_id = ?5"
    named = [] if period.run_id is None else [period.run_id]
    rows = tx.all(_BOOKED.format(of_run=of_run), *period.ends, after, limit + 1, *named)
    flow_of = {one: name for name in ("inflow", "outflow") for one in getattr(flows, name)}
    shown = rows[:limit]
    return {
        "report": "focus",
        **period.shown(),
        "rows": [_row(row, vendors.get(row["vendor"]), flow_of) for row in shown],
        "next": shown[-1]["entry"] if len(rows) > limit else None,
    }


def _row(row: Row, vendor: Vendor | None, flow_of: Mapping[str, str]) -> dict[str, Any]:
    """Return what was booked as a row: amounts as decimal texts, `Tags` as an object."""
    cost, sku = plain_usd(row["micros"]), f"{row['vendor']}/{row['operation']}"
    flow = flow_of.get(f"{row['vendor']} {row['operation']}")
    seller = row["vendor"].replace("_", " ").title()
    moves = vendor is not None and vendor.moves_money
    category = "Adjustment" if flow else "Purchase" if moves else "Usage"
    service = "Other" if vendor is None else vendor.service_category
    month, first = _month(row["at"]), _month(row["settled_at"])
    is_first = row["kind"] in ("settle", "resolve")
    of = row["operation"].split(".")[0] or seller
    said: dict[str, Any] = dict.fromkeys(column.name for column in COLUMNS)
    said |= dict.fromkeys(("BilledCost", "ContractedCost", "EffectiveCost", "ListCost"), cost)
    said |= dict.fromkeys(("InvoiceIssuerName", "ProviderName", "PublisherName"), seller)
    said |= {
        "BillingAccountId": row["account"] or row["vendor"],
        "BillingCurrency": "USD",
        "BillingPeriodStart": month[0],
        "BillingPeriodEnd": month[1],
        "ChargeCategory": category,
        # Of what was booked in an earlier month alone, as that is invoiced.
        "ChargeClass": None if month == first else "Correction",
        "ChargeDescription": ("" if is_first else "Correction of ")
        + f"{row['operation']} of {row['run_id']}",
        "ChargeFrequency": "Usage-Based" if category == "Usage" else "One-Time",
        "ChargePeriodStart": moment(row["settled_at"]),
        "ChargePeriodEnd": moment(row["settled_at"] + 1000),
        "ResourceId": row["object_id"],
        "ResourceType": of if row["object_id"] else None,
        "ServiceCategory": service,
        "ServiceSubcategory": f"Other ({service})",
        "ServiceName": f"{seller} {of}",
        "SubAccountId": row["account"] or None,
        "SubAccountName": row["account"] or None,
        "SubAccountType": "Vendor account" if row["account"] else None,
        "Tags": json.loads(row["tags"])
        | {
            "spendguard/run": row["run_id"],
            "spendguard/root": row["root_family"],
            "spendguard/task": row["family"],
        },
        "x_CallId": row["id"],
        "x_Flow": flow,
    }
    if category == "Usage":
        said |= {"ConsumedQuantity": "1.0" if is_first else "0.0", "ConsumedUnit": "Requests"}
    if not flow:
        said |= {
            "ContractedUnitPrice": plain_usd(abs(row["micros"])),
            "ListUnitPrice": plain_usd(abs(row["micros"])),
            "PricingCategory": "Other" if moves else "Standard",
            "PricingQuantity": "1.0" if row["micros"] >= 0 else "-1.0",
            "PricingUnit": "Requests",
            "SkuId": sku,
            "SkuMeter": row["operation"],
            "SkuPriceId": sku,
        }
    return said


def _month(at: int) -> tuple[str, str]:
    """Return when the UTC month of a time begins, and when the next one does."""
    first = datetime.fromtimestamp(at // 1000, timezone.utc).replace(day=1, hour=0, minute=0, second=0)
    later = first.replace(year=first.year + first.month // 12, month=first.month % 12 + 1)
    return first.strftime("%Y-%m-%dT%H:%M:%SZ"), later.strftime("%Y-%m-%dT%H:%M:%SZ")
