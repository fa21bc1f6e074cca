"""What the Stripe look-alike bills by more than its lines: periods ahead, tax, pauses, changes, offers.

`metadata[surprise]` is billed on top, in minor units: what no parameter says, as a vendor's own fault.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from tests.support.fake_stripe_billing import Billing, Data

#: What metered usage comes to when it is billed, in minor units.
USAGE = 500_000
#: The first version of the API without `tax_percent` (https://docs.stripe.com/changelog).
NO_TAX_PERCENT = "2020-08-27"


class Terms(Billing):
    """`Billing` with what else raises an invoice; `version` is the request's `Stripe-Version`."""

    version = ""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.kinds |= {
            "subscription_items": self.subscription_items,
            "quotes": self.quotes,
            "invoiceitems": self.decimal_items,
        }

    def subscriptions(self, method: str, parts: list[str], data: Data) -> dict[str, Any]:
        if parts[1:] == ["pause"]:
            return self._paused(self._known(parts), data)
        if parts:
            sub = self._known(parts)
            return self._expanded({**sub, "items": {"data": self._items_in(sub), "has_more": False}}, data)
        return self._begun(super().subscriptions(method, parts, data), data)

    def schedules(self, method: str, parts: list[str], data: Data) -> dict[str, Any]:
        if parts:
            return self._expanded(self._known(parts), data)
        made = super().schedules(method, parts, data)
        sub = self._made(
            "sub", object="subscription", latest_invoice=made.pop("latest_invoice"), customer=made["customer"]
        )
        self.objects[made["id"]]["subscription"] = sub["id"]
        self._begun(sub, data)
        number = 1  # A phase that ends at a time of the caller's is over soon.
        while f"phases[{number - 1}][end_date]" in data and f"phases[{number}][items][0][price]" in data:
            self._bill(sub, self.objects[data[f"phases[{number}][items][0][price]"]]["unit_amount"])
            number += 1
        return {**made, "subscription": sub["id"]}

    def _begun(self, sub: dict[str, Any], data: Data) -> dict[str, Any]:
        """Bill what else was said, on the invoice that a subscription begins with."""
        invoice = self.objects[sub["latest_invoice"]]
        invoice["subtotal"] = due = invoice["paid"]
        periods = [int(v) for n, v in data.items() if n.endswith("[bill_until][duration][interval_count]")]
        due *= max(periods, default=1)
        if "trial_end" in data or "trial_period_days" in data:
            due = invoice["subtotal"] = 0
        if "discounts[0][coupon]" in data:
            due //= 2
        if "tax_percent" in data and self.version < NO_TAX_PERCENT:
            due += due * int(data["tax_percent"]) // 100
        due += int(data.get("metadata[surprise]", "0"))
        self.move(invoice, due - invoice["paid"])
        invoice["paid"] = due
        number = 0
        while number == 0 or f"items[{number}][price]" in data:
            self._made(
                "si",
                object="subscription_item",
                subscription=sub["id"],
                quantity=1,
                price={"id": data.get(f"items[{number}][price]")},
            )
            number += 1
        self.objects[sub["id"]] |= {"latest_invoice": invoice["id"]}
        return self._expanded({**sub, "items": {"data": self._items_in(sub), "has_more": False}}, data)

    def _items_in(self, sub: dict[str, Any]) -> list[dict[str, Any]]:
        return [
            self._priced(one)
            for one in self.objects.values()
            if one["object"] == "subscription_item" and one["subscription"] == sub["id"]
        ]

    def _priced(self, item: dict[str, Any]) -> dict[str, Any]:
        """Return an item of a subscription with the whole of its price."""
        known = self.objects.get(item.get("price", {}).get("id") or "")
        return item if known is None else {**item, "price": self._shown(known, {})}

    def subscription_items(self, method: str, parts: list[str], data: Data) -> dict[str, Any]:
        if parts:
            item = self._known(parts)
        else:
            item = self._made("si", object="subscription_item", subscription=data["subscription"], quantity=1)
        if method == "POST":
            item |= {"quantity": int(data.get("quantity", item["quantity"]))}
            item |= {"price": {"id": data["price"]}} if "price" in data else {}
            if data.get("proration_behavior") == "always_invoice":
                price = self.objects[item["price"]["id"]]
                sub = self.objects[item["subscription"]]
                due = price["unit_amount"] * item["quantity"] + int(data.get("metadata[surprise]", "0"))
                sub["latest_invoice"] = self._bill(sub, due)["id"]
        return item

    def _paused(self, sub: dict[str, Any], data: Data) -> dict[str, Any]:
        usage = data.get("bill_for[outstanding_usage_through][type]", "now") == "now"
        if usage and data.get("invoicing_behavior") == "invoice":
            self._bill(sub, USAGE)
        elif usage:
            self._item({"customer": sub["customer"], "amount": str(USAGE)}, None)
        return {**sub, "status": "paused"}

    def _bill(self, of: dict[str, Any], due: int) -> dict[str, Any]:
        invoice = self._made(
            "in",
            object="invoice",
            status="paid",
            currency="usd",
            auto_advance=False,
            paid=due,
            subtotal=due,
            customer=of["customer"],
        )
        self.move(invoice, due)
        return invoice

    def decimal_items(self, method: str, parts: list[str], data: Data) -> dict[str, Any]:
        if method != "POST" or "amount" in data or not {*data} & {"unit_amount_decimal", "pricing[price]"}:
            return self.items(method, parts, data)
        before = self._known(parts) if parts else {}
        each = data.get("unit_amount_decimal") or self.objects[data["pricing[price]"]]["unit_amount"]
        quantity = Decimal(
            data.get("quantity_decimal") or data.get("quantity") or before.get("quantity_decimal") or "1"
        )
        item = self.items(method, parts, {**data, "amount": str(int(Decimal(each) * quantity))})
        item |= {
            "quantity": int(quantity),
            "quantity_decimal": str(quantity),
            "pricing": {"unit_amount_decimal": str(each)},
        }
        return item

    def quotes(self, method: str, parts: list[str], data: Data) -> dict[str, Any]:
        if not parts:
            due = int(data["line_items[0][price_data][unit_amount]"])
            surprise = int(data.get("metadata[surprise]", "0"))
            return self._made(
                "qt",
                object="quote",
                currency="usd",
                amount_total=due,
                computed={},
                invoice=None,
                surprise=surprise,
                customer=data["customer"],
            )
        quote = self._known(parts)
        if parts[1:] == ["accept"]:
            quote["invoice"] = self._bill(quote, quote["amount_total"] + quote["surprise"])["id"]
        return quote

    def _summed(self, invoice: dict[str, Any]) -> dict[str, Any]:
        if "subtotal" not in invoice:
            return super()._summed(invoice)
        paid = invoice["paid"]
        return {
            **invoice,
            "amount_due": paid,
            "amount_paid": paid,
            "total": paid,
            "amount_remaining": 0,
            "lines": {"object": "list", "data": [], "has_more": False},
        }

    def _expanded(self, body: dict[str, Any], data: Data) -> dict[str, Any]:
        """Return an object with what `expand` names in the place of its id."""
        shown = dict(body)
        for first, _, rest in (v.partition(".") for n, v in data.items() if n.startswith("expand")):
            other = self.objects.get(shown.get(first) or "")
            if other is not None:
                inner = self._summed(other) if other["object"] == "invoice" else other
                shown[first] = self._expanded(inner, {"expand[]": rest} if rest else {})
        return shown
