"""`GET /reports/…`: what was spent, denied and foreseen, summed. It changes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from luigi_spendguard.ledger import reports
from luigi_spendguard.ledger.reports import days as by_day
from luigi_spendguard.ledger.reports import denied as denials
from luigi_spendguard.ledger.reports import focus as rows
from luigi_spendguard.ledger.reports import forecasts
from luigi_spendguard.ledger.reports.period import MOST, ReportPeriod
from luigi_spendguard.protocol.messages import NoFields
from luigi_spendguard.vendors.registry import VENDORS, flows
from scheduler_patch.api.handler import ApiCall
from scheduler_patch.service import LedgerService

#: What every report takes.
_PERIOD = ("since", "until", "run")
#: What a report says while there are no books.
_NOTHING: Mapping[str, Any] = {"rows": []}


def _period(call: ApiCall, *takes: str) -> ReportPeriod:
    """Return what a report is of; it takes these beside. Raises BadMessage."""
    call.query_only(*_PERIOD, *takes)
    return ReportPeriod(call.moment("since"), call.moment("until"), call.run())


async def cost(service: LedgerService, call: ApiCall, request: NoFields) -> Any:
    """Return what calls came to, grouped."""
    period = _period(call, "by", "compare", "limit")
    by = call.query("by") or "run"
    reports.check_group(by)
    compare = call.choice("compare", ("true", "false")) == "true"
    limit = call.number("limit", 1000, 1, MOST)
    return await service.browse(reports.cost, flows(), period, by, compare, limit) or _NOTHING


async def denied(service: LedgerService, call: ApiCall, request: NoFields) -> Any:
    """Return what was denied, and would have cost."""
    return await service.browse(denials.denied, _period(call)) or _NOTHING


async def forecast(service: LedgerService, call: ApiCall, request: NoFields) -> Any:
    """Return what runs were expected to come to, and did."""
    period = _period(call, "limit")
    return await service.browse(forecasts.forecast, period, call.number("limit", 1000, 1, MOST)) or _NOTHING


async def days(service: LedgerService, call: ApiCall, request: NoFields) -> Any:
    """Return what each day has cost, split by a name."""
    period, split = _period(call, "split"), call.choice("split", by_day.SPLITS) or "vendor"
    found = await service.browse(by_day.days, period, split, service.settings.caps.day)
    return found or {"days": [], "series": [], "total_usd": [], "cap_usd": [], "denied_calls": []}


async def focus(service: LedgerService, call: ApiCall, request: NoFields) -> Any:
    """Return a page of what was booked, as rows of FOCUS 1.2."""
    period = _period(call, "limit", "after")
    limit, after = call.number("limit", rows.PAGE, 1, rows.PAGE), call.number("after", 0, 0, 10**11)
    found = await service.browse(rows.focus, flows(), VENDORS, period, after, limit)
    return found or {"rows": [], "next": None}


#: Every report by its name.
REPORTS = (("cost", cost), ("denied", denied), ("forecast", forecast), ("days", days), ("focus", focus))
