"""What a vendor had kept under a key is an older state of its object, whoever's send it answers.

Judged by the vendor's books: it frees nothing that newer calls count, and takes nothing a second time.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import stripe

from tests.integration.test_gateway import form, raw
from tests.integration.test_vault_keys import issued
from tests.support.asking import ADMIN, WORKER
from tests.support.attempts import Pretender
from tests.support.site import Site
from tests.support.vendors import FakeResend

INTENT = "amount=100&currency=usd&customer=cus_1&payment_method=pm_x"


@pytest.fixture(scope="module")
def resend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeResend]:
    made = FakeResend(tmp_path_factory.mktemp("resend"))
    yield made
    made.process.end()


@pytest.fixture(scope="module")
def gateway(engine: str, tmp_path_factory: pytest.TempPathFactory, resend: FakeResend) -> Iterator[Site]:
    said = {"admin_token": ADMIN, "worker_token": WORKER, "max_cap_usd": 100}
    folder = tmp_path_factory.mktemp("gateway")
    with Site(folder, gateway=True, spendguard=said, resend=resend) as site:
        yield site


@dataclass
class Run:
    """A run under a vault key: what it asks Stripe for, and what is counted for it, in cents."""

    site: Site
    name: str
    usd: int = 10

    def __post_init__(self) -> None:
        self.key = issued(self.site, agent_run_label=self.name, run_usd_cap=self.usd)

    def post(self, path: str, body: str, key: str) -> tuple[int, Any]:
        said = form(self.key["vault_key"], **{"Idempotency-Key": key})
        status, _, answer = raw(self.site, "POST", f"/stripe/v1/{path}", body.encode(), **said)
        return status, json.loads(answer)

    def made(self, path: str, body: str, key: str) -> Any:
        status, answer = self.post(path, body, key)
        assert status == 200, answer
        return answer

    def lost(self, path: str, body: str, key: str, fault: str = "drop_after") -> None:
        self.site.stripe.fault(fault, match=f"POST /v1/{path}")
        assert self.post(path, body, key)[0] == 502

    def counted(self) -> tuple[int, int]:
        """Return what is spent, and reserved; nothing may be overrun."""
        run = self.site.run(self.key["run_id"])
        assert (run["overrun_usd"], run["state"]) == ("0.00", "active")
        return cents(run["spent_usd"]), cents(run["reserved_usd"])


def cents(usd: str) -> int:
    return round(float(usd) * 100)


@pytest.fixture
def runs(gateway: Site, request: pytest.FixtureRequest) -> tuple[Run, Run]:
    gateway.stripe.forget()
    return Run(gateway, f"a {request.node.name}"), Run(gateway, f"b {request.node.name}")


lossy = pytest.mark.parametrize("lossy", [False, True], ids=["first", "again"])


def repeated(run: Run, lossy: bool, path: str, body: str, key: str) -> Any:
    """Let a run make another's call under the same key; `lossy`: its first send never arrives."""
    if lossy:
        run.lost(path, body, key, "drop_before")
    return run.made(path, body, key)


@lossy
def test_an_older_answer_frees_nothing_that_a_newer_call_counts(
    gateway: Site, runs: tuple[Run, Run], lossy: bool
) -> None:
    first, second = runs
    intent = first.made("payment_intents", INTENT, "create")["id"]
    first.made(f"payment_intents/{intent}", "amount=300&currency=usd", "update")
    first.made(f"payment_intents/{intent}/confirm", "", "confirm")
    assert repeated(second, lossy, "payment_intents", INTENT, "create")["amount"] == 100
    assert (first.counted(), second.counted()) == ((300, 0), (0, 0))
    assert gateway.stripe.moved() == 300


@lossy
def test_what_was_cancelled_since_is_not_counted_again(runs: tuple[Run, Run], lossy: bool) -> None:
    first, second = runs
    intent = first.made("payment_intents", INTENT, "create")["id"]
    first.made(f"payment_intents/{intent}/cancel", "", "cancel")
    repeated(second, lossy, "payment_intents", INTENT, "create")
    assert (first.counted(), second.counted()) == ((0, 0), (0, 0))
    repeated(second, lossy, f"payment_intents/{intent}/cancel", "", "cancel")
    assert (first.counted(), second.counted()) == ((0, 0), (0, 0))


@lossy
@pytest.mark.parametrize("since", ["cancel", "amount=100&currency=usd"])
def test_what_a_decline_had_left_open_is_not_counted_again(
    runs: tuple[Run, Run], lossy: bool, since: str
) -> None:
    first, second = runs
    intent = first.made("payment_intents", INTENT.replace("100", "300"), "create")["id"]
    path, card = f"payment_intents/{intent}", "payment_method=pm_card_chargeDeclined"
    assert first.post(f"{path}/confirm", card, "confirm")[0] == 402
    is_cancel = since == "cancel"
    first.made(f"{path}/cancel" if is_cancel else path, "" if is_cancel else since, "since")
    if lossy:
        second.lost(f"{path}/confirm", card, "confirm", "drop_before")
    assert second.post(f"{path}/confirm", card, "confirm")[0] == 402
    assert (first.counted(), second.counted()) == ((0 if is_cancel else 100, 0), (0, 0))


@lossy
def test_an_item_that_an_invoice_has_taken_along_is_not_counted_again(
    gateway: Site, runs: tuple[Run, Run], lossy: bool
) -> None:
    first, second = runs
    customer = first.made("customers", "email=a%40example.com", "customer")["id"]
    item = f"customer={customer}&amount=100&currency=usd"
    first.made("invoiceitems", item, "item")
    pending = f"customer={customer}&pending_invoice_items_behavior=include&auto_advance=false"
    invoice = first.made("invoices", f"{pending}&automatic_tax%5Benabled%5D=false", "invoice")["id"]
    first.made(f"invoices/{invoice}/pay", "", "pay")
    repeated(second, lossy, "invoiceitems", item, "item")
    assert (first.counted(), second.counted()) == ((100, 0), (0, 0))
    assert gateway.stripe.moved() == 100


@lossy
def test_the_same_calls_in_another_run_cost_it_nothing(
    gateway: Site, runs: tuple[Run, Run], lossy: bool
) -> None:
    first, second = runs
    manual = f"{INTENT}&capture_method=manual"
    intent = first.made("payment_intents", manual, "create")["id"]
    acts = [(f"payment_intents/{intent}/confirm", "", "confirm")]
    acts.append((f"payment_intents/{intent}/capture", "amount_to_capture=40", "capture"))
    for act in acts:
        first.made(*act)
    for call in (("payment_intents", manual, "create"), *acts):
        repeated(second, lossy, *call)
        assert (first.counted(), second.counted()) == ((40, 0), (0, 0)), call
    assert gateway.stripe.moved() == 40


def test_a_lost_call_keeps_what_a_newer_one_has_relied_on(gateway: Site, runs: tuple[Run, Run]) -> None:
    """The newer one has reserved what exceeds the lost one's money, which may be another run's."""
    first, second = runs
    for newer in runs:
        intent = first.made("payment_intents", INTENT, f"create {newer.name}")["id"]
        path = f"payment_intents/{intent}"
        first.lost(path, "amount=200&currency=usd", f"200 {intent}")
        newer.made(path, "amount=300&currency=usd", f"300 {intent}")
        assert first.made(path, "amount=200&currency=usd", f"200 {intent}")["amount"] == 200
        newer.made(f"{path}/confirm", "", f"confirm {intent}")
    assert (first.counted(), second.counted()) == ((500, 0), (100, 0))
    assert gateway.stripe.moved() == 600


def test_two_lost_calls_on_an_object_are_both_counted(gateway: Site, runs: tuple[Run, Run]) -> None:
    first, second = runs
    intent = first.made("payment_intents", INTENT, "create")["id"]
    path = f"payment_intents/{intent}"
    first.lost(path, "amount=200&currency=usd", "200")
    second.lost(path, "amount=300&currency=usd", "300")
    first.made(path, "amount=200&currency=usd", "200")
    assert (first.counted(), second.counted()) == ((200, 0), (0, 100))
    second.made(path, "amount=300&currency=usd", "300")
    second.made(f"{path}/confirm", "", "confirm")
    assert (first.counted(), second.counted()) == ((200, 0), (100, 0))
    assert gateway.stripe.moved() == 300


def test_a_lost_call_gives_back_what_nothing_newer_counts(gateway: Site, runs: tuple[Run, Run]) -> None:
    """Its own answer is the newest there is: a lost capture, and a lost cancel."""
    first, _ = runs
    manual = f"{INTENT}&capture_method=manual&confirm=true"
    intent = first.made("payment_intents", manual, "create")["id"]
    capture = (f"payment_intents/{intent}/capture", "amount_to_capture=40", "capture")
    first.lost(*capture)
    first.made(*capture)
    assert (first.counted(), gateway.stripe.moved()) == ((40, 0), 40)
    cancel = (f"payment_intents/{first.made('payment_intents', INTENT, 'other')['id']}/cancel", "", "cancel")
    first.lost(*cancel)
    first.made(*cancel)
    assert first.counted() == (40, 0)


@lossy
def test_what_an_operator_has_said_of_a_lost_call_is_its_objects(
    gateway: Site, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, lossy: bool
) -> None:
    """Without naming that: the next run is told it by the vendor, and goes on with it at no cost."""
    monkeypatch.setattr(stripe, "max_network_retries", 0)
    gateway.stripe.forget()
    names = [f"{number} {request.node.name}" for number in range(2)]
    task = f"Charge {request.node.name}"

    def create() -> Any:
        asked: Any = {"amount": 100, "currency": "usd", "customer": "cus_1", "payment_method": "pm_x"}
        return stripe.PaymentIntent.create(**asked, idempotency_key=task)

    with Pretender(gateway, names[0], task, budget_usd="3").attempt("completed"):
        gateway.stripe.fault("drop_after")
        with pytest.raises(stripe.APIConnectionError):
            create()
    [lost] = [call for call in gateway.calls(names[0]) if call["state"] == "in_doubt"]
    status, said = gateway.call("POST", f"/calls/{lost['id']}/resolve", {"spent_usd": "1"}, ADMIN)
    assert status == 200, said
    with Pretender(gateway, names[1], task, budget_usd="3").attempt("completed"):
        if lossy:
            gateway.stripe.fault("drop_before")
            with pytest.raises(stripe.APIConnectionError):
                create()
        assert stripe.PaymentIntent.confirm(create().id).status == "succeeded"
    assert [gateway.run(name)["spent_usd"] for name in names] == ["1.00", "0.00"]
    assert gateway.stripe.moved() == 100


@pytest.mark.parametrize("path", ["emails", "emails/batch"])
def test_mails_that_another_run_has_sent_under_the_key_are_counted_there(
    gateway: Site, resend: FakeResend, path: str, request: pytest.FixtureRequest
) -> None:
    """Resend answers what it answered first, and does not say so."""
    before, spent = resend.mails(), []
    mails = [{"from": "a@b.c", "to": [f"c{n}@b.c"], "subject": "s", "text": "t"} for n in range(10)]
    body = json.dumps(mails if path == "emails/batch" else mails[0]).encode()
    for name in ("a", "b"):
        key = issued(gateway, vendor="resend", agent_run_label=f"{name} {request.node.name}", run_usd_cap=1)
        said = {**form(key["vault_key"], **{"Idempotency-Key": request.node.name[:200]})}
        said["Content-Type"] = "application/json"
        assert raw(gateway, "POST", f"/resend/{path}", body, **said)[0] == 200
        spent.append(float(gateway.run(key["run_id"])["spent_usd"]))
    assert sum(spent) == pytest.approx(0.0009 * (resend.mails() - before))
    assert spent[1] == 0
