"""One call at a time acts on an object: what a call was priced by is still so when it is sent.

Judged by the look-alike's own books, with the real SDK; what happens in between is done in between.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import stripe
import urllib3

from luigi_spendguard.errors import BudgetExceeded, SpendDenied
from luigi_spendguard.guard.effects import Pause, Send
from luigi_spendguard.money import Micros
from tests.support.asking import ADMIN, WORKER
from tests.support.books import Books
from tests.support.desk import Outside
from tests.support.processes import wait_until
from tests.support.site import FakeStripe, Site

CAP = 10_000_000  # $10
TOKENS = {"admin_token": ADMIN, "worker_token": WORKER, "daily_cap_usd": 1000}


@pytest.fixture
def vendor(tmp_path: Path) -> Iterator[FakeStripe]:
    made = FakeStripe(tmp_path / "vendor")
    yield made
    made.process.end()


@pytest.fixture
def books(tmp_path: Path) -> Iterator[Books]:
    made = Books(tmp_path / "ledger.db", cap=CAP)
    yield made
    made.ledger.close()


class Busy(Outside):
    """A desk at which something else is done just after, or just before, a request is sent."""

    def __init__(self, books: Books, url: str, task: str, **settings: Any) -> None:
        super().__init__(books, url, **settings)
        self.key = books.claim(task)
        self.now = 0.0
        self.said: list[str] = []
        object.__setattr__(self.guard, "clock", lambda: self.now)
        self.before: dict[str, Callable[[], None]] = {}
        self.after: dict[str, Callable[[], None]] = {}

    def _do(self, effect: Any) -> Any:
        if isinstance(effect, Pause):
            self.now += effect.seconds
            return None
        line = ""
        if isinstance(effect, Send):
            line = f"{effect.request.method} {urlsplit(effect.request.url).path}"
            self.said.append(line)
            self.before.pop(line, lambda: None)()
        done = super()._do(effect)
        self.after.pop(line, lambda: None)()
        return done


@pytest.fixture
def one(books: Books, vendor: FakeStripe) -> Busy:
    return Busy(books, vendor.url, "Finalize_1")


@pytest.fixture
def other(books: Books, vendor: FakeStripe) -> Busy:
    return Busy(books, vendor.url, "Edit_1")


def by_hand(vendor: FakeStripe, path: str, **said: Any) -> Any:
    headers = {"Authorization": "Bearer sk_test_by_hand"}
    return (
        urllib3.PoolManager()
        .request("POST", vendor.url + path, fields=said, headers=headers, encode_multipart=False)
        .json()
    )


@pytest.fixture
def draft(vendor: FakeStripe) -> str:
    """Return a draft of $1."""
    made = str(by_hand(vendor, "/v1/invoices", customer="cus_1")["id"])
    by_hand(vendor, "/v1/invoiceitems", amount="100", currency="usd", customer="cus_1", invoice=made)
    return made


def billed(vendor: FakeStripe, books: Books) -> None:
    """The vendor has billed no more than is counted, and that is within the cap."""
    counted = sum(books.figures()) // 10_000
    assert vendor.moved() <= counted <= CAP // 10_000


def test_an_edit_between_look_up_and_reservation(
    one: Busy, other: Busy, vendor: FakeStripe, books: Books, draft: str
) -> None:
    lines: Any = {"lines": [{"amount": 100_000}]}

    def edit() -> None:
        with suppress(BudgetExceeded):
            other.client.v1.invoices.add_lines(draft, lines)

    one.after[f"GET /v1/invoices/{draft}"] = edit
    with suppress(BudgetExceeded):
        one.client.v1.invoices.pay(draft)
    billed(vendor, books)


def test_a_price_that_is_changed_between_look_up_and_reservation(
    one: Busy, vendor: FakeStripe, books: Books
) -> None:
    other = Busy(books, vendor.url, "Edit_1", prices={"prices.update": Micros(1)})
    price = by_hand(vendor, "/v1/prices", currency="usd", unit_amount="100")["id"]

    def edit() -> None:
        dear: Any = {"currency_options": {"sek": {"unit_amount": 100_000_000}}}
        other.client.v1.prices.update(price, dear)

    one.after[f"GET /v1/prices/{price}"] = edit
    customer = by_hand(vendor, "/v1/customers", currency="sek")["id"]
    asked: Any = {"customer": customer, "items": [{"price": price}]}
    with suppress(BudgetExceeded):
        one.client.v1.subscriptions.create(asked)
    billed(vendor, books)
    assert one.said.count(f"GET /v1/prices/{price}") == 2


def test_an_edit_while_the_invoice_is_being_collected(
    one: Busy, other: Busy, vendor: FakeStripe, books: Books, draft: str
) -> None:
    """The edit waits for its turn, and is denied at last: a free one is not sent either."""
    reasons: list[str] = []

    def edit(call: Any, *args: Any) -> None:
        try:
            call(*args)
        except SpendDenied as denied:
            reasons.append(denied.reason)

    def edits() -> None:
        edit(other.client.v1.invoices.add_lines, draft, {"lines": [{"amount": 100}]})
        edit(other.client.v1.invoices.update, draft, {"description": "x"})

    one.before[f"POST /v1/invoices/{draft}/pay"] = edits
    one.client.v1.invoices.pay(draft)
    assert (reasons, vendor.moved()) == (["in_doubt", "in_doubt"], 100)
    assert all(request.method == "GET" for request in other.sent)
    billed(vendor, books)
    assert other.now > 29


def test_pending_items_that_two_subscriptions_see(
    one: Busy, other: Busy, vendor: FakeStripe, books: Books
) -> None:
    price = by_hand(vendor, "/v1/prices", currency="usd", unit_amount="100")["id"]
    item: Any = {"customer": "cus_1", "amount": 700, "currency": "usd"}
    other.client.v1.invoice_items.create(item)
    asked: Any = {"customer": "cus_1", "items": [{"price": price}]}
    one.after["GET /v1/invoiceitems"] = lambda: other.client.v1.subscriptions.create(asked) and None
    one.client.v1.subscriptions.create(asked)
    assert (vendor.moved(), books.figures()) == (900, (9_000_000, 0, 0))


def test_an_item_that_is_made_dearer_meanwhile(
    one: Busy, other: Busy, vendor: FakeStripe, books: Books
) -> None:
    price = by_hand(vendor, "/v1/prices", currency="usd", unit_amount="100")["id"]
    first: Any = {"customer": "cus_1", "amount": 100, "currency": "usd"}
    item = other.client.v1.invoice_items.create(first)
    one.after["GET /v1/invoiceitems"] = lambda: (
        other.client.v1.invoice_items.update(item.id, {"amount": 800}) and None
    )
    asked: Any = {"customer": "cus_1", "items": [{"price": price}]}
    one.client.v1.subscriptions.create(asked)
    assert (vendor.moved(), books.figures()) == (900, (9_000_000, 0, 0))


def test_a_dead_sender_keeps_nothing(
    one: Busy, other: Busy, vendor: FakeStripe, books: Books, draft: str
) -> None:
    """Its turn ends when its call is put in doubt."""

    def die() -> None:
        books.write(
            lambda tx: tx.run("UPDATE call SET granted_at = granted_at - 90000 WHERE state = 'pending'")
        )
        other.client.v1.invoices.update(draft, {"description": "x"})

    one.before[f"POST /v1/invoices/{draft}/pay"] = die
    one.client.v1.invoices.pay(draft)
    assert f"POST /v1/invoices/{draft}" in other.said
    billed(vendor, books)


def test_many_threads_at_one_object(vendor: FakeStripe, books: Books, draft: str) -> None:
    """Edits and payments at once: each waits for the others, none is lost, and the books agree."""
    desks = [Outside(books, vendor.url) for _ in range(6)]
    for number, desk in enumerate(desks):
        desk.key = books.claim(f"Edit_{number}")
    together = threading.Barrier(len(desks))

    def edit(desk: Outside, number: int) -> None:
        together.wait()
        line: Any = {"lines": [{"amount": 100, "description": str(number)}]}
        with suppress(SpendDenied, stripe.StripeError):
            desk.client.v1.invoices.add_lines(draft, line)
        with suppress(SpendDenied, stripe.StripeError):
            desk.client.v1.invoices.pay(draft)

    threads = [threading.Thread(target=edit, args=(desk, n)) for n, desk in enumerate(desks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    billed(vendor, books)
    assert vendor.moved() >= 100
    assert books.audit() == []


def test_two_gateways_with_one_ledger_let_one_at_a_time(tmp_path: Path, vendor: FakeStripe) -> None:
    """A payment that hangs at the vendor keeps the other gateway's edit of the same invoice waiting."""
    draft = by_hand(vendor, "/v1/invoices", customer="cus_1")["id"]
    by_hand(vendor, "/v1/invoiceitems", amount="100", currency="usd", customer="cus_1", invoice=draft)
    with (
        Site(tmp_path / "one", stripe=vendor, gateway=True, spendguard=TOKENS) as one,
        Site(tmp_path / "two", stripe=vendor, gateway=True, start=False, spendguard=TOKENS) as two,
    ):
        two.ledger = one.ledger
        two.configure(spendguard={"ledger_url": f"sqlite:///{one.ledger}"})
        two.start()
        clients = []
        for site in (one, two):
            _, key = site.call("POST", "/vault/keys", {"vendor": "stripe", "run_usd_cap": "10"}, WORKER)
            api = {"api": f"{site.url}/stripe"}
            clients.append(stripe.StripeClient(key["vault_key"], base_addresses=api))
        vendor.fault("hang", match=f"POST /v1/invoices/{draft}/pay", seconds=1.5)
        paying = threading.Thread(target=clients[0].v1.invoices.pay, args=(draft,))
        paying.start()
        wait_until(lambda: any(r["path"].endswith("/pay") for r in vendor.posts()), what="the payment")
        with pytest.raises(stripe.StripeError):  # It is paid by the time that its turn has come.
            clients[1].v1.invoices.add_lines(draft, {"lines": [{"amount": 700}]})
        paying.join(30)
        said = [request["path"].rpartition("/")[2] for request in vendor.posts()]
        assert said.count("add_lines") == 0
        assert vendor.moved() == 100


def test_a_draft_that_is_deleted_between_look_up_and_reservation(
    one: Busy, other: Busy, vendor: FakeStripe, books: Books, draft: str
) -> None:
    """Its items are pending from now on."""
    price = by_hand(vendor, "/v1/prices", currency="usd", unit_amount="100")["id"]
    one.after["GET /v1/invoiceitems"] = lambda: other.client.v1.invoices.delete(draft)
    one.client.v1.subscriptions.create({"customer": "cus_1", "items": [{"price": price}]})
    spent, reserved, overrun = books.figures()
    assert (vendor.moved(), reserved, overrun) == (200, 0, 0)
    assert spent >= 2_000_000
    assert one.said.count("GET /v1/invoiceitems") == 2
