"""What the Stripe look-alike bills: prices in several currencies, items, invoices, subscriptions.

An invoice that is made at once takes the payer's pending items along, as Stripe's do
(https://docs.stripe.com/api/invoiceitems); money is moved in the currency that is really used.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

Objects = dict[str, dict[str, Any]]
Data = dict[str, str]

_OPTION = re.compile(r"currency_options\[(\w+)\]\[unit_amount\]")


class Billing:
    """The operations of one look-alike, on its `objects`; `move(object, amount)` books what is paid."""

    def __init__(
        self,
        objects: Objects,
        new_id: Callable[[str], str],
        move: Callable[[dict[str, Any], int], None],
        problem: Callable[[int, str], Exception],
    ) -> None:
        self.objects, self.new_id, self.move, self.problem = objects, new_id, move, problem
        self.kinds = {
            "prices": self.prices,
            "invoiceitems": self.items,
            "invoices": self.invoices,
            "subscriptions": self.subscriptions,
            "subscription_schedules": self.schedules,
        }

    def prices(self, method: str, parts: list[str], data: Data) -> dict[str, Any]:
        if method == "POST":
            options = {
                match[1]: {"unit_amount": int(value)}
                for name, value in data.items()
                if (match := _OPTION.fullmatch(name))
            }
            if parts:
                self._known(parts)["all_options"].update(options)
                return self._shown(self._known(parts), {})
            own = {data["currency"]: {"unit_amount": int(data["unit_amount"])}}
            return self._shown(
                self._made(
                    "price",
                    object="price",
                    currency=data["currency"],
                    all_options={**own, **options},
                    unit_amount=int(data["unit_amount"]),
                    billing_scheme="per_unit",
                    recurring={"usage_type": "licensed", "interval": "month"},
                ),
                {},
            )
        return self._shown(self._known(parts), data)

    def _shown(self, price: dict[str, Any], data: Data) -> dict[str, Any]:
        said = {name: value for name, value in price.items() if name != "all_options"}
        expanded = any(n.startswith("expand") and v == "currency_options" for n, v in data.items())
        return said | ({"currency_options": price["all_options"]} if expanded else {})

    def items(self, method: str, parts: list[str], data: Data) -> dict[str, Any]:
        if method == "GET" and not parts:
            found = [one for one in self._pending(data) if data.get("pending") == "true"]
            begin = next((n + 1 for n, one in enumerate(found) if one["id"] == data.get("starting_after")), 0)
            limit = int(data.get("limit", 10))
            return {
                "object": "list",
                "data": found[begin : begin + limit],
                "has_more": begin + limit < len(found),
            }
        if method == "DELETE":
            return self._gone(parts)
        if parts:
            known = self._known(parts)
            if method == "POST" and "amount" in data:
                known["amount"] = int(data["amount"])
            return known
        return self._item(data, data.get("invoice"))

    def _item(self, data: Data, invoice: str | None) -> dict[str, Any]:
        amount, currency = int(data["amount"]), data.get("currency", "usd")
        return self._made(
            "ii",
            object="invoiceitem",
            invoice=invoice,
            amount=amount,
            currency=currency,
            subscription=data.get("subscription"),
            **_payer(data),
        )

    def _pending(self, data: Data, currency: str | None = None) -> list[dict[str, Any]]:
        return [
            one
            for one in self.objects.values()
            if one["object"] == "invoiceitem"
            and one["invoice"] is None
            and {n: one[n] for n in _payer(data)} == _payer(data)
            and currency in (None, one["currency"])
        ]

    def invoices(self, method: str, parts: list[str], data: Data) -> dict[str, Any]:
        verb = parts[1] if len(parts) > 1 else ""
        if not parts and method == "GET":
            found = [
                self._summed(one)
                for one in self.objects.values()
                if one["object"] == "invoice"
                and one["status"] == data.get("status", one["status"])
                and one["customer"] == data.get("customer", one["customer"])
            ]
            return {"object": "list", "data": found, "has_more": False}
        if not parts:
            made = self._made(
                "in",
                object="invoice",
                status="draft",
                paid=0,
                currency="usd",
                auto_advance=data.get("auto_advance") == "true",
                automatic_tax={"enabled": data.get("automatic_tax[enabled]") == "true"},
                **_payer(data),
            )
            for one in self._pending(data):
                if data.get("pending_invoice_items_behavior") == "include":
                    one["invoice"] = made["id"]
            return self._summed(made)
        invoice = self._known(parts)
        if verb == "lines":
            return {"object": "list", **self._summed(invoice)["lines"]}
        if method == "DELETE":
            for one in self._items_of(invoice):
                one["invoice"] = None
            return self._gone(parts)
        if verb == "add_lines":
            if invoice["status"] != "draft":
                raise self.problem(400, "invoice_not_editable")
            for amount in (value for name, value in data.items() if name.endswith("[amount]")):
                self._item(
                    {"amount": amount, "currency": "usd", **{n: v for n, v in _payer(invoice).items() if v}},
                    invoice["id"],
                )
        elif verb in ("finalize", "send", "pay"):
            self._collect(invoice, data, verb)
        elif verb == "void":
            invoice["status"] = "void"
        return self._summed(invoice)

    def _collect(self, invoice: dict[str, Any], data: Data, verb: str) -> None:
        summed = self._summed(invoice)
        if invoice["status"] == "void":
            raise self.problem(400, "invoice_void")
        if data.get("payment_method") == "pm_card_chargeDeclined":
            invoice["status"] = "open"
            raise self.problem(402, "card_declined")
        if data.get("payment_method") == "pm_none":
            invoice["status"] = "open"  # A draft is finalized before.
            raise self.problem(400, "parameter_missing")
        if data.get("payment_method") == "pm_unread":
            raise self.problem(400, "parameter_invalid")
        if verb == "pay" and summed["status"] != "paid":
            invoice |= {"status": "paid", "paid": summed["amount_due"]}
            self.move(invoice, summed["amount_due"])
        elif verb != "pay":
            invoice["status"] = "open"

    def _items_of(self, invoice: dict[str, Any]) -> list[dict[str, Any]]:
        return [o for o in self.objects.values() if o.get("invoice") == invoice["id"]]

    def _summed(self, invoice: dict[str, Any]) -> dict[str, Any]:
        items = self._items_of(invoice)
        due = sum(one["amount"] for one in items)
        lines = [
            {
                "id": one["id"].replace("ii", "il"),
                "amount": one["amount"],
                "currency": one["currency"],
                "parent": {"invoice_item_details": {"invoice_item": one["id"]}},
            }
            for one in items
        ]
        return {
            **invoice,
            "amount_due": due,
            "amount_paid": invoice["paid"],
            "total": due,
            "amount_remaining": due - invoice["paid"],
            "lines": {"object": "list", "data": lines, "has_more": False},
        }

    def subscriptions(self, method: str, parts: list[str], data: Data) -> dict[str, Any]:
        if parts:
            return self._known(parts)
        return self._billed("sub", "subscription", data, "items", data.get("currency"))

    def schedules(self, method: str, parts: list[str], data: Data) -> dict[str, Any]:
        if parts:
            return self._known(parts)
        return self._billed(
            "sub_sched", "subscription_schedule", data, "phases[0][items]", data.get("phases[0][currency]")
        )

    def _billed(self, prefix: str, kind: str, data: Data, stem: str, currency: str | None) -> dict[str, Any]:
        """Bill at once, with what is pending in the same currency: the customer's own, unless one is said."""
        payer = next((v for v in _payer(data).values() if v), "")
        first = self.objects[data[f"{stem}[0][price]"]]
        used = (currency or self.objects.get(payer, {}).get("currency") or first["currency"]).lower()
        total, number = 0, 0
        while f"{stem}[{number}][price]" in data:
            price = self.objects[data[f"{stem}[{number}][price]"]]
            total += price["all_options"][used]["unit_amount"] * int(
                data.get(f"{stem}[{number}][quantity]", 1)
            )
            number += 1
        made = self._made(prefix, object=kind, status="active", currency=used, **_payer(data))
        invoice = self._made(
            "in",
            object="invoice",
            status="paid",
            currency=used,
            auto_advance=False,
            paid=0,
            billing_reason="subscription_create",
            subscription=made["id"],
            parent={"subscription_details": {"subscription": made["id"]}},
            **_payer(data),
        )
        for one in self._pending(data, used):
            one["invoice"] = invoice["id"]
            total += one["amount"]
        total += self._owed(payer)
        invoice |= {"paid": total}
        self.move({**invoice, "currency": used}, total)
        return {**made, "latest_invoice": invoice["id"]}

    def _owed(self, payer: str) -> int:
        """Return what a customer owes from before, which the next invoice collects, and nothing after it."""
        customer = self.objects.get(payer, {})
        owed = max(0, int(customer.get("balance", 0)))
        if owed:
            customer["balance"] = 0
        return owed

    def _made(self, prefix: str, **said: Any) -> dict[str, Any]:
        made = {"id": self.new_id(prefix), **said}
        self.objects[made["id"]] = made
        return made

    def _known(self, parts: list[str]) -> dict[str, Any]:
        if parts[0] not in self.objects:
            raise self.problem(404, "resource_missing")
        return self.objects[parts[0]]

    def _gone(self, parts: list[str]) -> dict[str, Any]:
        gone = self._known(parts)
        del self.objects[parts[0]]
        return {"id": gone["id"], "object": gone["object"], "deleted": True}


def _payer(data: Any) -> dict[str, str | None]:
    return {name: data.get(name) for name in ("customer", "customer_account")}
