"""What the Stripe look-alike bills of subscriptions and quotes with a trial, now and later.

https://docs.stripe.com/billing/subscriptions/trials
"""

from __future__ import annotations

from typing import Any

from tests.support.fake_stripe_billing import Data, _payer
from tests.support.fake_stripe_later import Later


class Trials(Later):
    """`Later` with `payment_behavior=default_incomplete`, and `/end_trial`, which only the look-alike has."""

    def subscriptions(self, method: str, parts: list[str], data: Data) -> dict[str, Any]:
        if parts[1:] == ["end_trial"]:
            return self._bill(self._known(parts), self._known(parts).pop("trialing"))
        if parts or data.get("payment_behavior") != "default_incomplete":
            return super().subscriptions(method, parts, data)
        price, fee = (
            self.objects[data[name]]["unit_amount"] if name in data else 0
            for name in ("items[0][price]", "add_invoice_items[0][price]")
        )
        trial = "trial_period_days" in data
        made = self._made(
            "sub",
            object="subscription",
            currency="usd",
            trialing=price if trial else 0,
            status="trialing" if trial else "incomplete",
            **_payer(data),
        )
        first = self._made(
            "in",
            object="invoice",
            status="open",
            paid=0,
            currency="usd",
            auto_advance=False,
            own=0 if trial else price,
            billing_reason="subscription_create",
            parent={"subscription_details": {"subscription": made["id"]}},
            **_payer(data),
        )
        if fee:
            self._item({"amount": str(fee), **{n: v for n, v in _payer(data).items() if v}}, first["id"])
        self.objects[made["id"]]["latest_invoice"] = first["id"]
        return self._expanded(self.objects[made["id"]], data)

    def _summed(self, invoice: dict[str, Any]) -> dict[str, Any]:
        found = super()._summed(invoice)
        if "own" not in invoice:
            return found
        due = found["amount_due"] + invoice["own"]
        return {
            **found,
            "amount_due": due,
            "subtotal": due,
            "total": due,
            "amount_remaining": due - invoice["paid"],
        }

    def quotes(self, method: str, parts: list[str], data: Data) -> dict[str, Any]:
        if not parts and "subscription_data[trial_period_days]" in data:
            fee, each = (int(data[f"line_items[{n}][price_data][unit_amount]"]) for n in (0, 1))
            return self._made(
                "qt",
                object="quote",
                currency="usd",
                amount_total=fee,
                invoice=None,
                subscription_data={"trial_period_days": 1},
                subscription=None,
                each=each,
                customer=data["customer"],
                computed={"upfront": {"amount_total": fee}, "recurring": {"amount_total": each}},
            )
        quote = self._known(parts) if parts else {}
        if "each" not in quote or parts[1:] != ["accept"]:
            return super().quotes(method, parts, data)
        sub = self._made(
            "sub", object="subscription", currency="usd", trialing=quote["each"], customer=quote["customer"]
        )
        sub["latest_invoice"] = self._bill(quote, quote["amount_total"])["id"]
        quote["subscription"] = sub["id"]
        return quote
