"""What the Stripe look-alike bills after the call that led to it: pages, credit that is taken back, items.

On a session's page customers choose amounts, take codes off and pay in the currency of their own address
(https://docs.stripe.com/js/custom_checkout/remove_promotion_code, https://docs.stripe.com/products-prices).
"""

from __future__ import annotations

from typing import Any

from tests.support.fake_stripe_billing import Data
from tests.support.fake_stripe_terms import Terms


class Later(Terms):
    """`Terms` with sessions, credit notes, discounts of items, and what is invoiced when a plan is free."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.kinds |= {
            "checkout": self.sessions,
            "credit_notes": self.credit_notes,
            "prices": self.chosen_prices,
            "shipping_rates": self.shipping_rates,
        }

    def chosen_prices(self, method: str, parts: list[str], data: Data) -> dict[str, Any]:
        if parts or "custom_unit_amount[enabled]" not in data:
            return self.prices(method, parts, data)
        chosen = {name: int(data[f"custom_unit_amount[{name}]"]) for name in ("preset", "maximum")}
        return self._shown(
            self._made(
                "price",
                object="price",
                currency=data["currency"],
                unit_amount=None,
                custom_unit_amount=chosen,
                billing_scheme="per_unit",
                recurring=None,
                all_options={},
            ),
            {},
        )

    def sessions(self, method: str, parts: list[str], data: Data) -> dict[str, Any]:
        if len(parts) == 1:
            price = self.objects[data["line_items[0][price]"]]
            full = price["unit_amount"] or price["custom_unit_amount"]["preset"]
            coded = any(name.startswith("discounts") for name in data)
            mode = data.get("mode") or ("subscription" if price["recurring"] else "payment")
            return self._made(
                "cs",
                object="checkout.session",
                status="open",
                mode=mode,
                currency=data.get("currency", price["currency"]),
                full=full,
                price=price["id"],
                customer=data.get("customer"),
                amount_total=full // 10 if coded else full,
            )
        session = self._known(parts[1:])
        if parts[2:] == ["pay_on_its_page"]:
            options = self.objects[session["price"]]["all_options"]
            due = session["full"] if "without_code" in data else session["amount_total"]
            due = int(data.get("chosen", due))
            currency = data.get("currency", session["currency"])
            due = options[currency]["unit_amount"] if currency != session["currency"] else due
            along = (
                self._pending({"customer": session["customer"]}) if session["mode"] == "subscription" else []
            )
            due += sum(one["amount"] for one in along)
            session |= {"status": "complete", "amount_total": due, "currency": currency}
            self.move(session, due)
        return session

    def credit_notes(self, method: str, parts: list[str], data: Data) -> dict[str, Any]:
        if not parts:
            invoice, amount = self._known([data["invoice"]]), int(data["amount"])
            if invoice["status"] != "open" or amount > self._summed(invoice)["amount_due"]:
                raise self.problem(400, "credit_note_invalid")
            invoice["credited"] = invoice.get("credited", 0) + amount
            return self._made(
                "cn",
                object="credit_note",
                status="issued",
                amount=amount,
                currency="usd",
                invoice=invoice["id"],
                customer=invoice["customer"],
                pre_payment_amount=amount,
                post_payment_amount=0,
            )
        note = self._known(parts)
        if parts[1:] == ["void"]:
            if note["status"] != "issued" or self.objects[note["invoice"]]["status"] != "open":
                raise self.problem(400, "credit_note_not_voidable")
            note["status"] = "void"
            self.objects[note["invoice"]]["credited"] -= note["amount"]
        return note

    def decimal_items(self, method: str, parts: list[str], data: Data) -> dict[str, Any]:
        on = self._known(parts)["invoice"] if method != "GET" and parts else data.get("invoice")
        if on and self._known([on])["status"] != "draft":
            raise self.problem(400, "invoice_not_editable")
        item = super().decimal_items(method, parts, data)
        if method == "POST" and "discounts[0][coupon]" in data:
            item["discounts"] = ["di_1"]  # Of all of it.
        elif method == "POST" and data.get("discounts") == "":
            item["discounts"] = []
        return item

    def invoices(self, method: str, parts: list[str], data: Data) -> dict[str, Any]:
        if method == "DELETE" and self._known(parts)["status"] != "draft":
            raise self.problem(400, "invoice_not_editable")
        if method == "POST" and len(parts) < 2:
            made = self._known(parts) if parts else self._known([super().invoices(method, parts, data)["id"]])
            return self._summed(self._changed(made, data))
        if parts[1:2] == ["void"] and (used := self._known(parts).pop("credit_used", 0)):
            self.objects[self._known(parts)["customer"]]["balance"] -= used
            self.move(self._known(parts), -used)
        if method != "POST" or parts[1:2] not in (["remove_lines"], ["update_lines"], ["lines"]):
            return super().invoices(method, parts, data)
        invoice = self._known(parts)
        if invoice["status"] != "draft":
            raise self.problem(400, "invoice_not_editable")
        item = self._known([(data.get("lines[0][id]") or parts[2]).replace("il", "ii")])
        amount, discounts = (
            data.get(f"lines[0][{name}]", data.get(name)) for name in ("amount", "discounts")
        )
        if parts[1] == "remove_lines":
            self._gone([item["id"]])
        elif amount is not None:
            item["amount"] = int(amount)
        elif discounts == "":
            item["discounts"] = []
        return self._summed(invoice)

    def _changed(self, invoice: dict[str, Any], data: Data) -> dict[str, Any]:
        """Put on an invoice what changes it: shipping, taxes (of all of it), discounts (half)."""
        amount = data.get("shipping_cost[shipping_rate_data][fixed_amount][amount]")
        if rate := self.objects.get(data.get("shipping_cost[shipping_rate]", "")):
            amount = rate["fixed_amount"]["amount"]
        if amount:
            invoice["shipping"] = int(amount)
        if "automatic_tax[enabled]" in data:
            invoice["automatic_tax"] = {"enabled": data["automatic_tax[enabled]"] == "true"}
        if any(name.startswith("default_tax_rates") for name in data):
            invoice["default_tax_rates"] = ["txr_1"] if "default_tax_rates" not in data else []
        if any(name.startswith("discounts") for name in data):
            invoice["discounts"] = ["di_1"] if "discounts" not in data else []
        return invoice

    def shipping_rates(self, method: str, parts: list[str], data: Data) -> dict[str, Any]:
        if parts:
            return self._known(parts)
        fixed: dict[str, Any] = {name: data[f"fixed_amount[{name}]"] for name in ("amount", "currency")}
        return self._made(
            "shr", object="shipping_rate", fixed_amount={**fixed, "amount": int(fixed["amount"])}
        )

    def _items_of(self, invoice: dict[str, Any]) -> list[dict[str, Any]]:
        return [one for one in super()._items_of(invoice) if one["object"] == "invoiceitem"]

    def _summed(self, invoice: dict[str, Any]) -> dict[str, Any]:
        found = super()._summed(invoice)
        if "subtotal" in invoice:
            return found
        off = sum(one["amount"] for one in self._items_of(invoice) if one.get("discounts"))
        due = found["amount_due"] - off - invoice.get("credited", 0)
        halved = due // 2 if invoice.get("discounts") else 0
        due += invoice.get("shipping", 0) - halved
        payer = self.objects.get(invoice["customer"] or "", {})
        taxed = (invoice.get("automatic_tax") or {}).get("enabled") or invoice.get("default_tax_rates")
        if taxed and payer.get("tax_exempt", "none") == "none":
            due *= 2
        total, used = due, invoice.get("credit_used", 0)
        if invoice["status"] == "draft":
            used = min(max(0, -payer.get("balance", 0)), max(0, due))
        due += invoice.get("owed", 0) - used
        return {
            **found,
            "starting_balance": payer.get("balance", 0),
            "total_discount_amounts": [{"amount": halved}] if halved else [],
            "amount_due": due,
            "total": total,
            "amount_remaining": due - invoice["paid"],
        }

    def _collect(self, invoice: dict[str, Any], data: Data, verb: str) -> None:
        """Collect an invoice; what the customer has as credit is used up first, and is money, too."""
        summed, payer = self._summed(invoice), self.objects.get(invoice["customer"] or "", {})
        if invoice["status"] == "draft" and (used := summed["total"] - summed["amount_due"]):
            payer["balance"] += used
            invoice |= {"credit_used": used, "status": "open"}
            self.move(invoice, used)
        elif invoice["status"] == "draft":
            invoice["owed"] = self._owed(invoice["customer"] or "")
        super()._collect(invoice, data, verb)

    def subscription_items(self, method: str, parts: list[str], data: Data) -> dict[str, Any]:
        before = self._known(parts)["quantity"] if parts else 1
        if method == "DELETE":
            item = {**self._known(parts), "quantity": 0}
            gone = self._gone(parts)
            if any(
                one["quantity"] and one["price"].get("unit_amount")
                for one in self._items_in(self.objects[item["subscription"]])
            ):
                return gone
        else:
            gone = item = super().subscription_items(method, parts, data)
        if (before == 0) != (item["quantity"] == 0):  # From free to paid, or back: invoiced at once.
            sub, price = self.objects[item["subscription"]], self.objects[item["price"]["id"]]
            along = self._pending({"customer": sub["customer"]}, "usd")
            due = price["unit_amount"] * item["quantity"] + sum(one["amount"] for one in along)
            sub["latest_invoice"] = self._bill(sub, due)["id"]
            for one in along:
                one["invoice"] = sub["latest_invoice"]
        return self._priced(gone) if method == "GET" else gone
