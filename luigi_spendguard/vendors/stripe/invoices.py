"""Stripe: invoices and their items.

An item is counted when it is made, on a draft too: a subscription's next invoice takes along what is
pending, and a draft that is deleted lets go of its items. An invoice counts once Stripe may collect it
(finalized, or advanced by Stripe itself); it then counts its items' money instead of them. A draft that waits
for a guarded call counts for what guarded calls have added to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal

from luigi_spendguard.errors import denial
from luigi_spendguard.vendors.model import Quote
from luigi_spendguard.vendors.stripe.lines import Cost, cost, groups, shipping, up
from luigi_spendguard.vendors.stripe.objects import worth_of
from luigi_spendguard.vendors.stripe.pending import MOST_COVERED, OBJECT_ID, owed, pending
from luigi_spendguard.vendors.stripe.pending import covered as covered_items
from luigi_spendguard.vendors.stripe.prices import cancels, own_object
from luigi_spendguard.vendors.stripe.request import PAYERS, Asked, Body, Unbounded, not_there, signed, whole

#: What may change what an invoice comes to.
_AMOUNTS = {"automatic_tax", "default_tax_rates", "shipping_cost", "shipping_details", "from_invoice"}

#: What decides which tax Stripe puts on an invoice.
_TAXES = {"shipping_details", "issuer", "on_behalf_of"}

#: What of a line says nothing of its amount.
_DESCRIBED = {"id", "behavior", "description", "metadata", "period", "expand", "invoice_metadata"}

#: An invoice's lines are read by pages of 100: more pages than these are no draft that is meant honestly.
_MOST_PAGES = 5


def created(asked: Asked) -> Quote:
    """Quote nothing for a draft, the customer's items for one that Stripe collects by itself."""
    target = asked.given(*PAYERS, "subscription")
    if not asked.truth("auto_advance"):
        shipped = _shipped(asked)
        if not shipped:
            return asked.quoted(0, target=target)
        return asked.quoted(Cost(shipped).dearest(asked)[0], target=target, firm=True)
    odd = {name.split("[")[0] for name in asked.params} & {*_AMOUNTS, "subscription"}
    if odd:
        raise Unbounded(f"an invoice that Stripe collects by itself, with {min(odd)}, has no bound")
    alone = asked.params.get("pending_invoice_items_behavior") == "exclude"
    if asked.payer() is None and not alone:
        raise denial("unpriced", f"{asked.quote.operation} without a payer cannot be priced")
    # Which of them it takes along (their currency, their subscription) only the reply says.
    waiting = [] if alone else pending(asked, asked.payer())
    total = sum(asked.money(one.minor, one.currency) for one in waiting)
    total += sum(asked.money(minor, unit) for unit, minor in owed(asked, asked.payer()).items())
    return asked.quoted(total, target=target, covers=covered_items(waiting))


def _fetched(asked: Asked, invoice_id: str) -> tuple[Body, int]:
    """Return an invoice and what it is worth, in micro-dollars."""
    path = f"/v1/invoices/{invoice_id}"
    [invoice] = asked.fetched(path)
    try:
        if invoice["id"] != invoice_id:
            raise ValueError
        return invoice, worth_of(invoice, asked.fx).worth
    except (ValueError, TypeError, KeyError):
        asked.money(0, str(invoice.get("currency", "")))
        raise not_there(asked.quote.operation, path) from None


def covered(invoice: Body) -> tuple[str, ...]:
    """Return what was counted for an invoice before: its items, and the subscription it is the first of.

    The items as far as the first page of its lines names them.
    """
    found = []
    for line in (invoice.get("lines") or {}).get("data") or []:
        parent = (line.get("parent") or {}).get("invoice_item_details") or {}
        found.append(parent.get("invoice_item") or line.get("invoice_item"))
    if is_first(invoice):
        parent = (invoice.get("parent") or {}).get("subscription_details") or {}
        found.append(parent.get("subscription") or invoice.get("subscription"))
    return tuple(one for one in found if isinstance(one, str) and OBJECT_ID.fullmatch(one))[:MOST_COVERED]


def is_first(invoice: Body) -> bool:
    """Return whether a subscription begins with this invoice: it may bill more than that later.

    With a trial, or a period that is cut short, the invoice is a part of what the subscription counts for.
    """
    return invoice.get("billing_reason") == "subscription_create"


def collected(asked: Asked) -> Quote:
    """Quote what the invoice is worth: from now on it can be collected."""
    own = own_object(asked)
    if asked.truth("paid_out_of_band"):
        return asked.quoted(None, target=asked.ids[0], look_ups=own.look_ups)
    invoice, total = _fetched(asked, asked.ids[0])
    # A draft is finalized before it is paid, or sent.
    return asked.quoted(
        total,
        target=asked.ids[0],
        object_id=asked.ids[0],
        look_ups=own.look_ups,
        in_steps=invoice["status"] == "draft",
        covers=covered(invoice),
        covers_stay=is_first(invoice),
    )


def updated(asked: Asked) -> Quote:
    """Quote what is added to a draft, else nothing; what it is worth once Stripe collects it by itself."""
    invoice, total = _fetched(asked, asked.ids[0])
    look_ups = own_object(asked).look_ups
    target = f"{asked.ids[0]}#{asked.digest[:12]}"
    advances = asked.params.get("auto_advance", str(invoice.get("auto_advance")).lower())
    if invoice["status"] == "draft" and advances != "true":
        added = _raised(asked, invoice)
        if not added:
            return asked.quoted(0, target=target, object_id=asked.ids[0], look_ups=look_ups, only_less=True)
        return asked.quoted(
            total + added,
            target=target,
            object_id=asked.ids[0],
            look_ups=look_ups,
            covers=covered(invoice),
            covers_stay=True,
            firm=True,
        )
    odd = {name.split("[")[0] for name in asked.params} & {*_AMOUNTS, *_TAXES, "lines", "discounts"}
    if odd:
        raise Unbounded(f"{asked.quote.operation} with {min(odd)} changes what Stripe collects")
    return asked.quoted(
        total,
        target=target,
        object_id=asked.ids[0],
        look_ups=look_ups,
        covers=covered(invoice),
        covers_stay=is_first(invoice),
    )


def _raised(asked: Asked, invoice: Body) -> int:
    """Return by how much an update may raise a draft, in micro-dollars.

    Raises Unbounded for a tax, and for what a tax comes on top of.
    """
    changed = {name.split("[")[0] for name in asked.params}
    automatic = (invoice.get("automatic_tax") or {}).get("enabled") is not False
    if asked.params.get("automatic_tax[enabled]", "false") != "false" or (
        "default_tax_rates" in changed and asked.params.get("default_tax_rates") != ""
    ):
        raise Unbounded(
            "a tax that is put on a draft comes on top of its lines (invoices.create takes it): it"
        )
    if automatic and changed & _TAXES:
        raise Unbounded(f"{asked.quote.operation} with {min(changed & _TAXES)} changes the draft's tax: that")
    shipped, currency = _shipped(asked), str(invoice["currency"])
    if shipped and currency not in shipped:
        raise Unbounded(f"a shipping rate without an amount in {currency} has no bound")
    off = [one["amount"] for one in invoice.get("total_discount_amounts") or []]
    if "discounts" in changed and invoice.get("discounts") and not off:
        raise Unbounded("what the draft's discounts take off is not known: what takes them away")
    added = shipped.get(currency, 0) + (sum(map(int, off)) if "discounts" in changed else 0)
    if added and (automatic or invoice.get("default_tax_rates")):
        raise Unbounded(f"{asked.quote.operation} of a draft with taxes, which come on top")
    return asked.money(added, currency)


def _shipped(asked: Asked) -> dict[str, int]:
    """Return what an invoice's own shipping costs in each currency, in minor units; {} for none."""
    stem = "shipping_cost["
    option = {
        name[len(stem) :].replace("]", "", 1): value
        for name, value in asked.params.items()
        if name.startswith(stem)
    }
    found = shipping(asked, option) if option else {}
    if option and not found:
        raise Unbounded("a shipping rate without a fixed amount has no bound")
    return found


def deleted(asked: Asked) -> Quote:
    """Quote the items of a draft: once it is gone they are pending, and the next invoice takes them along.

    Those that are counted already go on counting for themselves.
    """
    first = path = f"/v1/invoices/{asked.ids[0]}/lines?limit=100"
    found: list[Body] = []
    if asked.is_gone(first):
        return cancels(asked)
    for _ in range(_MOST_PAGES):
        # With the invoice: whose items become pending is whose turn it is.
        page, _ = asked.fetched(path, f"/v1/invoices/{asked.ids[0]}")
        found += page["data"]
        if page["has_more"] is False:
            break
        path = f"{first}&starting_after={found[-1]['id']}"
    else:
        raise Unbounded("the draft has more lines than can be added up")
    items = {covered({"lines": {"data": [line]}}): line for line in found}
    total = sum(asked.money(abs(int(line["amount"])), line["currency"]) for ids, line in items.items() if ids)
    covers = tuple(ident for ids in items for ident in ids)[:MOST_COVERED]
    return asked.quoted(
        total,
        target=asked.ids[0],
        object_id=asked.ids[0],
        covers=covers,
        covers_stay=True,
        look_ups=own_object(asked).look_ups,
        firm=True,
    )


def lines(asked: Asked) -> Quote:
    """Quote what is added to a draft; unbounded where Stripe collects by itself."""
    invoice, worth = _fetched(asked, asked.ids[0])
    if invoice["status"] != "draft" or invoice.get("auto_advance") is True:
        raise Unbounded("the lines of an invoice that Stripe collects by itself have no bound")
    if "unassign" in asked.params.values():
        raise Unbounded("an item that is unassigned is pending again, and billed with what comes next: that")
    target = f"{asked.ids[0]}#{asked.digest[:12]}"
    named = [asked.params] if len(asked.ids) > 1 else groups(asked.params, "lines")
    added = sum(_added(asked, line, invoice) + _taken_back(asked, line, invoice) for line in named)
    if not added:
        return asked.quoted(None, target=target)
    assigned = tuple(line["invoice_item"] for line in named if "invoice_item" in line)
    covers = (*covered(invoice), *assigned)[:MOST_COVERED]
    return asked.quoted(
        worth + added,
        target=target,
        object_id=asked.ids[0],
        covers=covers,
        covers_stay=True,
        look_ups=own_object(asked).look_ups,
        firm=True,
    )


def _added(asked: Asked, line: Mapping[str, str], invoice: Body) -> int:
    """Return what a line may add to an invoice, in micro-dollars."""
    currency = str(invoice["currency"])
    known = {name.split("[")[0] for name in line}
    if known & {"tax_rates", "tax_amounts"}:
        raise Unbounded("a line with taxes of its own may come to more than its amount")
    prices = known & {"amount", "price", "pricing", "price_data", "invoice_item"}
    if len(prices) > 1:
        raise denial("unpriced", f"a line has both {' and '.join(sorted(prices))}: which one counts is open")
    if "invoice_item" in known:
        one = Asked(asked.quote, (), line, {}, asked.fx).id_of("invoice_item")
        [item] = asked.fetched(f"/v1/invoiceitems/{one}")
        return asked.money(abs(int(item["amount"])), item["currency"])
    if "amount" in known:
        minor = signed(line, "amount") or 0
        return asked.money(abs(minor), currency)
    if not prices:
        return _more_of(asked, line, invoice) if "quantity" in known else 0
    as_list = {
        f"items[0][{name.partition('[')[0]}]{''.join(name.partition('[')[1:])}": value
        for name, value in line.items()
        if name.split("[")[0] not in ("id", "behavior")
    }
    one_line = Asked(asked.quote, (), as_list, asked.found, asked.fx)
    return cost(one_line, "items", currency=currency).dearest(asked)[0]


def _taken_back(asked: Asked, line: Mapping[str, str], invoice: Body) -> int:
    """Return what a line, or its discount, takes off an invoice and may do so no more, in micro-dollars."""
    changed = {name.split("[")[0] for name in line} - _DESCRIBED
    ident = line.get("id") or (asked.ids[1] if len(asked.ids) > 1 else "")
    if not ident or (not changed and asked.quote.operation != "invoices.remove_lines"):
        return 0
    lines = invoice.get("lines") or {}
    known = next((one for one in lines.get("data") or [] if one.get("id") == ident), None)
    if known is None and lines.get("has_more"):
        raise Unbounded(f"what {ident} takes off the invoice is not known")
    amount = int(known["amount"]) if known is not None else 0
    lowers = amount < 0 or changed & {"discounts", "discountable"}
    return asked.money(abs(amount), str(invoice["currency"])) if lowers else 0


def _more_of(asked: Asked, line: Mapping[str, str], invoice: Body) -> int:
    """Return what a line of an invoice comes to in another quantity, in micro-dollars."""
    ident = line.get("id", asked.ids[-1])
    for known in (invoice.get("lines") or {}).get("data") or []:
        each, wanted = known.get("quantity"), whole(line, "quantity") or 0
        if known.get("id") == ident and isinstance(each, int) and each > 0:
            return asked.money(-(-abs(int(known["amount"])) * wanted // each), str(invoice["currency"]))
    raise Unbounded(f"what {ident} comes to in another quantity is not known")


def items(asked: Asked) -> Quote:
    """Quote the item's amount, either way, on an invoice or not: it is counted until an invoice counts it."""
    if asked.ids and asked.only("description", "period"):
        return asked.quoted(None, target=f"{asked.ids[0]}#{asked.digest[:12]}")
    target = asked.ids[0] if asked.ids else asked.given(*PAYERS)
    minor, currency = _item(asked)
    total = asked.money(minor, currency)
    more = {"minor": minor, "currency": currency, "target": target}
    if asked.ids:
        known, credit = _credit(asked)
        if known.get("invoice"):
            _check_untaxed(asked, str(known["invoice"]))
        if not credit:
            return asked.quoted(total, object_id=asked.ids[0], **more)
        # What lowers an invoice and does so no more raises it.
        rise = credit + (minor if "amount" not in asked.params else signed(asked.params, "amount") or 0)
        total = max(total, asked.money(max(0, rise), known["currency"]))
        return asked.quoted(total, object_id=asked.ids[0], firm=True, **more)
    if asked.params.get("invoice"):
        _check_untaxed(asked, asked.id_of("invoice"))
    return asked.quoted(total, **more)


def _check_untaxed(asked: Asked, invoice_id: str) -> None:
    """Raise Unbounded for an item of an invoice with taxes that Stripe collects by itself."""
    invoice, _ = _fetched(asked, invoice_id)
    taxed = (invoice.get("automatic_tax") or {}).get("enabled") or invoice.get("default_tax_rates")
    if invoice.get("auto_advance") is True and taxed:
        raise Unbounded("an item on an invoice with taxes that Stripe collects by itself")


def item_deleted(asked: Asked) -> Quote:
    """Quote nothing; of an item that lowers an invoice its amount, which is billed once that is gone."""
    if asked.is_gone(f"/v1/invoiceitems/{asked.ids[0]}"):
        return cancels(asked)
    known, credit = _credit(asked)
    if not credit:
        return cancels(asked)
    if known.get("invoice"):
        _check_untaxed(asked, str(known["invoice"]))
    return replace(own_object(asked), total_micros=asked.money(credit, known["currency"]), firm=True)


def _credit(asked: Asked) -> tuple[Body, int]:
    """Return an item, and by how much it lowers the invoice that it is on, in minor units."""
    [known] = asked.fetched(f"/v1/invoiceitems/{asked.ids[0]}")
    return known, max(0, -int(known["amount"]))


def _item(asked: Asked) -> tuple[int, str]:
    """Return an item's amount in minor units, either way, and its currency, the dearest that may be."""
    params = dict(asked.params)
    known: Body = {}
    if asked.ids:
        [known] = asked.fetched(f"/v1/invoiceitems/{asked.ids[0]}")
    currency = params.get("currency", str(known.get("currency", ""))).lower()
    if "amount" in params:
        if any(
            name.split("[")[0] in ("price", "pricing", "price_data", "unit_amount", "unit_amount_decimal")
            for name in params
        ):
            raise denial("unpriced", "an item has two prices: which one counts is open")
        minor = signed(params, "amount")
        if minor is None or not currency:
            raise denial("unpriced", f"{asked.quote.operation} without a currency cannot be priced")
        return abs(minor), currency
    line = {
        f"items[0][{name.partition('[')[0]}]{''.join(name.partition('[')[1:])}": value
        for name, value in params.items()
        if name.split("[")[0] in ("price", "pricing", "price_data", "quantity")
    }
    for name in ("unit_amount", "unit_amount_decimal"):
        if name in params:
            if not currency:
                raise denial("unpriced", f"{asked.quote.operation} without a currency cannot be priced")
            line[f"items[0][price_data][{name}]"] = params[name].lstrip("-")
            line["items[0][price_data][currency]"] = currency
    if asked.ids and not line:
        return abs(int(known["amount"])), currency
    if asked.ids and not any("price" in name for name in line):
        each = (known.get("pricing") or {}).get("unit_amount_decimal") or known.get("unit_amount")
        line["items[0][price_data][unit_amount_decimal]"] = str(each).lstrip("-")
        line["items[0][price_data][currency]"] = currency
    if asked.ids:
        # `quantity` is cut off (https://docs.stripe.com/api/invoiceitems/object).
        many = Decimal(str(known.get("quantity_decimal") or known.get("quantity") or 1))
        line.setdefault("items[0][quantity]", str(up(many)))
    found = cost(Asked(asked.quote, (), line, asked.found, asked.fx), "items", currency=currency or None)
    _, unit = found.dearest(asked)
    return found.minor[unit], unit
