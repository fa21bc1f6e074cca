"""The identity's formula is pinned: whoever changes it has to go on matching what older ledgers hold."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest

from luigi_spendguard.ledger import claims, corrections, identity, runs
from luigi_spendguard.ledger.corrections import Resolution
from luigi_spendguard.money import Micros
from luigi_spendguard.protocol import EndRequest, ReserveRequest
from luigi_spendguard.settings import VendorSettings
from luigi_spendguard.vendors.model import Request
from luigi_spendguard.vendors.stripe import VENDOR
from tests.support.books import Books
from tests.support.site import SECRET
from tests.unit import DATA

pytestmark = pytest.mark.of_files

CALL = ReserveRequest(
    "call",
    "stripe",
    "stripe:test",
    "payment_intents.create",
    "POST",
    "/v1/payment_intents",
    target="cus_1",
    key="order-7",
)
TASK = "Charge_cus_1_8f14e45fce"

#: (formula, of a task's call, of a caller's key, of a key on the wire within run `r`).
VECTORS = [
    (
        1,
        "7b1af958e057fb7bcd30d8555c117088b16eaf8751779b34ba1307c684a19611",
        "55b0d6e0bac2efeaa6b1ba931a453e7bc351534d6b38e299eefb15fce87792bf",
        "0f25ebc52e4838dc1b23690bd543cf4412f1919ea3971157cf76653efb7cd5d4",
    ),
    (
        2,
        "ad4fd244ca2f81df2cb0f0c88374d0ac3f0fb6276d77cc28603786957504af9c",
        "08a4107252d03097da72c5129b325cd8b1f6a521c05696498df1106a68369a02",
        "1245401d88b49a4c83bbe65879525289318803fb5cbdf559dbf915b4f2a1baa5",
    ),
]


@pytest.mark.parametrize(("formula", "call", "key", "wire"), VECTORS)
def test_each_formula_gives_what_it_gave(formula: int, call: str, key: str, wire: str) -> None:
    assert identity.call_digest(CALL, TASK, formula) == call
    assert identity.key_digest(CALL, "order-7", formula) == key
    assert identity.wire_digest(CALL, "r", formula) == wire


def test_the_newest_formula_is_among_them() -> None:
    assert VECTORS[-1][0] == identity.FORMULA


def test_so_do_the_keys_that_go_out() -> None:
    own = identity.Identity(VECTORS[-1][1], 1, None, 0)
    assert identity.wire_key(CALL, own, 0) == "spendguard-" + (
        "9b87f219662724e58f63ac32fa8d5991499f065eb62175432a2097ef64402619"
    )


#: What a request's target is: it is a part of the identity, and changes with no version of an adapter.
TARGETS = [
    ("/v1/payment_intents", "amount=100&currency=usd&customer=cus_1", "payment_intents.create", "cus_1"),
    ("/v1/payment_intents", "amount=100&currency=usd&payment_method=pm_1", "payment_intents.create", "pm_1"),
    ("/v1/payment_intents", "amount=100&currency=usd", "payment_intents.create", None),
    ("/v1/payment_intents/pi_1/confirm", "", "payment_intents.confirm", "pi_1"),
    (
        "/v1/payment_intents",
        "amount=100&currency=usd&customer_account=acct_1&payment_method=pm_1",
        "payment_intents.create",
        "acct_1",
    ),
    ("/v1/charges", "amount=100&currency=usd&source=tok_1", "charges.create", "tok_1"),
    ("/v1/charges", "amount=100&currency=usd&customer=cus_1&source=card_1", "charges.create", "cus_1"),
    ("/v1/transfers", "amount=100&currency=usd&destination=acct_1", "transfers.create", "acct_1"),
]


@pytest.mark.parametrize(("path", "form", "operation", "target"), TARGETS)
def test_a_requests_target_is_what_it_was(path: str, form: str, operation: str, target: str | None) -> None:
    headers = {"content-type": "application/x-www-form-urlencoded"}
    request = Request("POST", f"https://api.stripe.com{path}", headers, form.encode())
    quote = VENDOR.quote(request, VendorSettings("stripe"), SECRET, {"usd": Decimal(1)})
    assert (quote.operation, quote.target) == (operation, target)


@pytest.mark.parametrize("before", ["pm_1", None])
def test_a_payer_that_an_earlier_version_did_not_know_pays_once(tmp_path: Path, before: str | None) -> None:
    """Its target was what was named beside it: the call that a died task made then is not made again."""
    form = {"content-type": "application/x-www-form-urlencoded"}
    body = b"amount=100&currency=usd&customer_account=acct_1" + (b"&payment_method=pm_1" if before else b"")
    request = Request("POST", "https://api.stripe.com/v1/payment_intents", form, body)
    quote = VENDOR.quote(request, VendorSettings("stripe"), SECRET, {"usd": Decimal(1)})
    assert quote.target == "acct_1"
    books = Books(tmp_path / "ledger.db", cap=100)
    key = books.claim(TASK)
    then = books.reserve(key, books.ask(10, target=before, account="stripe:test"))
    books.end(key, EndRequest("settle", then.call_id, total_micros=10, status=200, answer_body="{}"))
    now = books.ask(10, target=quote.target, targets_before=quote.targets_before, fingerprint="new")
    answer = books.reserve(books.claim(TASK), now)
    assert (answer.verdict, answer.reason) == ("denied", "idempotency_mismatch")
    other = books.ask(10, target="acct_2", targets_before=("pm_2", "-") if before else (), fingerprint="new")
    assert books.reserve(books.claim("Charge_another"), other).verdict == "allowed"
    books.ledger.close()


@pytest.mark.parametrize("formula", [1, 2])
def test_a_ledger_of_an_earlier_version_goes_on_answering(formula: int, tmp_path: Path) -> None:
    """The task that had charged in it died; nothing of it is charged again."""
    path = tmp_path / "ledger.db"
    with sqlite3.connect(path) as db:
        db.executescript((DATA / f"ledger-formula-{formula}.sql").read_text())
    db.close()
    books = Books(path)
    try:
        key = books.claim(TASK)
        for more, object_id in (
            ({"target": "cus_1"}, "pi_1"),
            ({"target": "cus_1"}, "pi_2"),
            ({"target": "cus_2", "key": "order-7", "key_is_callers": True}, "pi_3"),
            ({"target": None}, "pi_4"),
        ):
            answer = books.reserve(key, books.ask(10, **more))
            assert (answer.verdict, answer.answer_body) == ("replayed", f'{{"id": "{object_id}"}}')
        answer = books.reserve(key, books.ask(10, target="cus_1", vendor="twilio"))
        assert answer.verdict == "allowed", "another vendor's is another call"
        assert books.figures() == (40, 10, 0)
    finally:
        books.ledger.close()


@pytest.fixture
def books(tmp_path: Path) -> Iterator[Books]:
    made = Books(tmp_path / "ledger.db", cap=1000)
    yield made
    made.ledger.close()


def wire_key(books: Books, held: str, how: str = "settle", status: int = 200, **more: object) -> str:
    """Make a call under a vault key, let it end, and return the key that it went out under."""
    ask = books.ask(10, **{"target": "cus_1", **more})
    answer = books.reserve(held, ask)
    assert answer.verdict == "allowed"
    definite = how == "void" and status == 402
    books.end(
        held, EndRequest(how, answer.call_id, answer.ask, total_micros=10, status=status, definite=definite)
    )
    return answer.wire_key


def test_a_lost_ledger_gives_the_same_keys_again(books: Books, tmp_path: Path) -> None:
    """A decline, a charge, another one for the same customer: the vendor knows them all again."""

    def whole(books: Books) -> list[str]:
        key = books.claim(TASK)
        ends = [("void", 0), ("void", 429), ("void", 402), ("settle", 200), ("settle", 200)]
        return [wire_key(books, key, how, status) for how, status in ends]

    found, other = whole(books), Books(tmp_path / "lost.db", cap=1000)
    try:
        assert whole(other) == found
    finally:
        other.ledger.close()
    # What was not sent, or not begun to be executed, has used no key up; a decline has.
    assert found[0] == found[1] == found[2]
    assert len(set(found)) == 3
    assert all(re.fullmatch("spendguard-[0-9a-f]{64}", key) for key in found)


def test_a_task_that_is_due_again_never_meets_yesterdays_answer(books: Books) -> None:
    keys = []
    for day in range(3):
        books.run_id = f"day-{day}"
        books.write(runs.open_run, runs.RunRequest(books.run_id, False, "Root", "Root", Micros(1000)))
        keys.append(wire_key(books, books.claim(TASK)))
        books.write(claims.finish, books.last_claim, "completed")
    assert len(set(keys)) == 3


def test_keys_differ_by_account_vendor_task_operation_and_target(books: Books) -> None:
    key = books.claim(TASK)
    changes = [
        {},
        {"account": "stripe:live"},
        {"vendor": "resend"},
        {"operation": "charges.create"},
        {"target": "cus_2"},
    ]
    found = {wire_key(books, key, **change) for change in changes}
    found.add(wire_key(books, books.claim("Other")))
    assert len(found) == len(changes) + 1


def test_a_callers_own_key_goes_out_as_it_is_until_it_is_used_up(books: Books) -> None:
    key, own = books.claim(TASK), {"key": "order-7", "key_is_callers": True}
    assert wire_key(books, key, "void", 0, **own) == "order-7"
    assert wire_key(books, key, "void", 402, **own) == "order-7"
    assert re.fullmatch("order-7-[0-9a-f]{32}", wire_key(books, key, "void", 402, **own))
    long = wire_key(books, key, "void", 402, key="k" * 255, key_is_callers=True)
    assert len(wire_key(books, key, key="k" * 255, key_is_callers=True)) < len(long) == 255


def test_nobody_takes_anothers_key_by_guessing_it(books: Books) -> None:
    guessed = wire_key(books, books.claim("Victim"))
    mine = books.claim("Mine")
    assert wire_key(books, mine, key=guessed, key_is_callers=True, target="cus_9") != guessed


def test_without_a_task_a_key_holds_within_its_run() -> None:
    assert len({identity.wire_digest(CALL, run_id) for run_id in ("r", "r~2", "other")}) == 3


@pytest.mark.parametrize(("status", "same"), [(0, True), (500, False)])
def test_what_an_operator_says_was_not_sent_goes_out_under_the_key_that_shows_it(
    books: Books, status: int, same: bool
) -> None:
    """Where he is wrong, the vendor knows it; a 5xx that it would repeat for ever has used it up."""
    key = books.claim(TASK)
    lost = books.ask(10, target="cus_1")
    first = books.reserve(key, lost).wire_key
    books.end(key, EndRequest("doubt", lost.call_id, 1, status=status))
    books.write(corrections.resolve, lost.call_id, Resolution(None), "r1")
    assert (wire_key(books, key) == first) is same


@pytest.mark.parametrize("status", [0, 400, 409, 500])
def test_what_he_says_was_spent_is_not_made_again(books: Books, status: int) -> None:
    key = books.claim(TASK)
    lost = books.ask(10, target="cus_1")
    books.reserve(key, lost)
    books.end(key, EndRequest("doubt", lost.call_id, 1, status=status))
    books.write(corrections.resolve, lost.call_id, Resolution(Micros(10), "pi_1"), "r1")
    again = books.reserve(books.claim(TASK), books.ask(10, target="cus_1"))
    assert (again.verdict, again.object_id) == ("replayed", "pi_1")
    assert books.figures() == (10, 0, 0)


def test_a_retry_by_the_sdk_is_the_same_try(books: Books) -> None:
    key, ask = books.claim(TASK), books.ask(10, target="cus_1")
    found = [books.reserve(key, ask).wire_key]
    for number, status in ((1, 0), (2, 402)):
        books.end(key, EndRequest("void", ask.call_id, number, status=status, definite=status == 402))
        found.append(books.reserve(key, replace(ask, ask=number + 1)).wire_key)
    assert found[0] == found[1] != found[2]
