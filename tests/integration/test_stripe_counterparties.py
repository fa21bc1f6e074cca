"""Stripe's operations against other people's look-alikes of Stripe, judged by their own books."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import requests
import stripe

from luigi_spendguard.errors import OutcomeUnknown, SpendDenied
from luigi_spendguard.guard.effects import Send
from luigi_spendguard.ledger.runs import RunRequest, open_run
from luigi_spendguard.money import Micros
from luigi_spendguard.vendors import Request
from tests.support import npm
from tests.support.books import Books
from tests.support.desk import Outside

SPECIFICATION = Path(__file__).with_name("data") / "stripe-v1-trimmed.openapi.json"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("counterparties")


@pytest.fixture(scope="module")
def localstripe(folder: Path) -> Iterator[str]:
    server = npm.localstripe(folder)
    yield server.url
    server.process.end()


@pytest.fixture(scope="module")
def stateful(folder: Path) -> Iterator[str]:
    server = npm.stateful_mock(folder)
    yield server.url
    server.process.end()


@pytest.fixture(scope="module")
def prism(folder: Path) -> Iterator[str]:
    server = npm.prism(folder, SPECIFICATION)
    yield server.url
    server.process.end()


@pytest.fixture
def books(tmp_path: Path) -> Iterator[Books]:
    books = Books(tmp_path / "ledger.db", cap=100_000_000_000)
    yield books
    books.ledger.close()


@pytest.mark.parametrize(("ci", "end"), [("", "skip"), ("true", "fail")])
def test_a_missing_look_alike_is_skipped_and_fails_in_ci(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ci: str, end: str
) -> None:
    monkeypatch.setattr(npm, "MODULES", tmp_path)
    monkeypatch.setenv("CI", ci)
    with pytest.raises(getattr(pytest, end).Exception, match="is not installed"):
        npm.node("stripe-stateful-mock")


def test_localstripe_moved_what_the_books_say(localstripe: str, books: Books) -> None:
    desk = Outside(books, localstripe)
    v1: Any = desk.client.v1
    customer = v1.customers.create({"email": "a@example.com"}).id
    card = {"number": "4242424242424242", "exp_month": 12, "exp_year": 2035, "cvc": "123"}
    method = v1.payment_methods.create({"type": "card", "card": card}).id
    v1.payment_methods.attach(method, {"customer": customer})
    assert desk.spent() == 0
    pays = {"customer": customer, "payment_method": method, "currency": "usd", "confirm": True}
    paid = v1.payment_intents.create({"amount": 1000, **pays})
    held = v1.payment_intents.create({"amount": 700, "capture_method": "manual", **pays})
    v1.payment_intents.capture(held.id)
    left = v1.payment_intents.create({"amount": 300, "customer": customer, "currency": "usd"})
    assert desk.spent() == 2000
    v1.payment_intents.cancel(left.id)
    assert desk.spent() == 1700
    v1.refunds.create({"payment_intent": paid.id, "amount": 250})
    v1.refunds.create({"payment_intent": held.id})
    refunded = sum(refund.amount for refund in v1.refunds.list())
    charged = sum(charge.amount for charge in v1.charges.list() if charge.status == "succeeded")
    assert (charged, refunded) == (1700, 950)
    assert desk.spent() == charged + refunded
    with pytest.raises(SpendDenied, match="looked up"):
        v1.refunds.create({"payment_intent": "pi_nobodys"})


class Plans(Outside):
    """localstripe has no prices yet, but plans at their older address; no `pending`, no several balances."""

    def _do(self, effect: Any) -> Any:
        if isinstance(effect, Send) and "/v1/prices/" in effect.request.url:
            url = effect.request.url.replace("/v1/prices/", "/v1/plans/").partition("?")[0]
            effect = replace(effect, request=replace(effect.request, url=url))
        elif isinstance(effect, Send):
            url = effect.request.url.replace("&pending=true", "").partition("?expand")[0]
            effect = replace(effect, request=replace(effect.request, url=url))
        return super()._do(effect)


def test_localstripes_subscription_costs_its_plan(localstripe: str, books: Books) -> None:
    desk = Plans(books, localstripe)
    v1: Any = desk.client.v1
    plan = {"id": "gold", "amount": 900, "currency": "usd", "interval": "month", "product": {"name": "Gold"}}
    v1.plans.create(plan)
    customer = v1.customers.create({"email": "b@example.com"}).id
    card = {"number": "4242424242424242", "exp_month": 12, "exp_year": 2035, "cvc": "123"}
    method = v1.payment_methods.create({"type": "card", "card": card}).id
    v1.payment_methods.attach(method, {"customer": customer})
    settings = {"invoice_settings": {"default_payment_method": method}}
    v1.customers.update(customer, settings)
    v1.subscriptions.create({"customer": customer, "items": [{"plan": "gold", "quantity": 2}]})
    [invoice] = v1.invoices.list({"customer": customer}).data
    assert desk.spent() == invoice.amount_due == 1800


def test_the_stateful_mock_moved_what_the_books_say(stateful: str, books: Books) -> None:
    desk = Outside(books, stateful)
    v1: Any = desk.client.v1
    card = {"currency": "usd", "source": "tok_visa"}
    held = v1.charges.create({"amount": 500, "capture": False, **card})
    assert desk.spent() == 500
    v1.charges.capture(held.id, {"amount": 300})
    assert desk.spent() == 300
    v1.refunds.create({"charge": held.id})
    assert desk.spent() == 600
    with pytest.raises(stripe.CardError):
        v1.charges.create({"amount": 500, "currency": "usd", "source": "tok_chargeDeclined"})
    assert desk.spent() == 600


def test_a_server_error_is_in_doubt_and_stays_so_under_its_own_key(stateful: str, books: Books) -> None:
    desk = Outside(books, stateful)
    broken: Any = {"amount": 500, "currency": "usd", "source": "tok_500|tok_visa"}
    for _ in range(2):
        with pytest.raises(stripe.APIError):
            desk.client.v1.charges.create(broken, {"idempotency_key": "order-7"})
    assert desk.figures() == (0, 5_000_000, 0)
    keys = {r.headers["idempotency-key"] for r in desk.sent}
    assert keys == {"order-7"}


def test_an_answer_that_the_mock_had_kept_is_counted_by_a_ledger_that_does_not(
    stateful: str, tmp_path: Path
) -> None:
    """A ledger was lost: the new one knows nothing of what was charged under this key."""
    spent = []
    for name in ("first", "second"):
        books = Books(tmp_path / f"{name}.db", cap=100_000_000)
        desk = Outside(books, stateful)
        asked: Any = {"amount": 500, "currency": "usd", "source": "tok_visa"}
        desk.client.v1.charges.create(asked, {"idempotency_key": "order-8"})
        spent.append(desk.spent())
        books.ledger.close()
    assert spent == [500, 500]


@pytest.mark.parametrize("ways", [(True, False), (False, True)], ids=["off", "on"])
def test_the_mock_knows_the_body_again_whatever_is_said_of_tags_by_then(
    stateful: str, books: Books, ways: tuple[bool, bool]
) -> None:
    """It compares what comes under a key, as Stripe does."""

    class Lost(Outside):
        loses = True

        def _do(self, effect: Any) -> Any:
            done = super()._do(effect)
            if self.loses and isinstance(effect, Send):
                raise ConnectionResetError("after it was executed")
            return done

    key = f"order-{ways[0]}"
    lost = Lost(books, stateful, own={"tag_vendor_objects": ways[0]})
    with pytest.raises(ConnectionResetError):
        lost.client.v1.charges.create(_asked({"at": "09:00"}), {"idempotency_key": key})
    now = Outside(books, stateful, own={"tag_vendor_objects": ways[1]})
    made = now.client.v1.charges.create(_asked({"at": "09:05"}), {"idempotency_key": key})
    assert now.spent() == 500
    assert ("spendguard_call" in made.metadata, made.metadata["at"]) == (ways[0], "09:00")
    [first], [second] = lost.sent, now.sent
    assert first.body == second.body
    other = requests.post(
        f"{stateful}/v1/charges",
        first.body + b"&description=other",
        headers={name: str(value) for name, value in first.headers.items()},
        timeout=10,
    )
    assert (other.status_code, other.json()["error"]["type"]) == (400, "idempotency_error"), "it compares"


def _asked(metadata: dict[str, str]) -> Any:
    return {"amount": 500, "currency": "usd", "source": "tok_visa", "metadata": metadata}


def _operations() -> Iterator[tuple[str, str, str]]:
    """Return (method, path with the example's own id, form) of all that changes something."""
    paths = json.loads(SPECIFICATION.read_text("utf-8"))["paths"]
    for path, methods in paths.items():
        for method, said in methods.items():
            if method == "get":
                continue
            content = said["responses"]["200"]["content"]["application/json"]
            example = content.get("example") or {}
            own = str(example.get("id", "id_1"))
            body = said.get("requestBody", {}).get("content", {})
            schema = body.get("application/x-www-form-urlencoded", {}).get("schema", {})
            form = {name: _value(schema["properties"][name]) for name in schema.get("required", [])}
            if "amount" in schema.get("properties", {}) and "currency" in schema["properties"]:
                form |= {
                    "amount": str(example.get("amount", 1)),
                    "currency": str(example.get("currency") or "usd"),
                }
            sent = "&".join(f"{name}={value}" for name, value in form.items())
            yield method.upper(), re.sub(r"\{\w+\}", own, path), sent


def _value(schema: Any) -> str:
    kind = schema.get("type")
    return str(schema.get("enum", [{"integer": 1, "boolean": "true"}.get(kind, "x")])[0])


def test_every_operation_of_the_specification_settles_or_says_why_not(prism: str, books: Books) -> None:
    """Each is sent with the least that it needs; what comes back are Stripe's own example objects."""
    desk = Outside(books, prism)
    settled, denied, odd = [], set(), {}
    for number, (method, path, form) in enumerate(_operations()):
        # A run of its own: an example that names a higher amount than asked freezes its run.
        cap = Micros(100_000_000_000)
        books.write(open_run, RunRequest(f"run-{number}", False, "Root", f"Root_{number}", cap))
        desk.key = books.claim(f"Charge_{number}", run_id=f"run-{number}")
        headers = {"content-type": "application/x-www-form-urlencoded"} if form else {}
        try:
            reply = desk.guarded(Request(method, f"https://api.stripe.com{path}", headers, form.encode()))
        except SpendDenied as error:
            denied.add(error.reason)
        except OutcomeUnknown as error:
            odd[f"{method} {path}"] = str(error)
        else:
            settled.append((method, path, reply.status))
    assert len(settled) > 60
    assert {status for *_, status in settled} <= {200, 422}
    assert denied <= {"unpriced", "endpoint"}
    assert odd == {}
    assert books.audit() == []
