"""A ledger that was lost, or restored from a backup, and what the vendor counts when tasks run again."""

from __future__ import annotations

import shutil
from collections import Counter

import stripe

from tests.support.site import Site

PIPELINE = "tests.support.completing_pipeline"


def charged(site: Site) -> dict[str, int]:
    return dict(Counter(entry["customer"] for entry in site.stripe.books()["moved"]))


def stop(site: Site) -> None:
    assert site.luigid is not None
    site.luigid.end()


def backed_up(site: Site) -> None:
    """Let the site have a ledger, and a copy of it from before what a test does."""
    code, said = site.luigi("Charge", "--customer", "before")
    assert code == 0, said
    stop(site)
    shutil.copytree(site.ledger.parent, site.folder / "backup")
    site.start()


def restored(site: Site) -> None:
    """Put the copy back."""
    stop(site)
    shutil.rmtree(site.ledger.parent)
    shutil.copytree(site.folder / "backup", site.ledger.parent)
    site.start()


def test_tasks_that_had_charged_and_died_meet_the_vendors_own_answer(site: Site) -> None:
    made = stripe.StripeClient("sk_test_elsewhere", base_addresses={"api": site.stripe.url})
    intent = made.v1.payment_intents.create({"amount": 100, "currency": "usd", "customer": "cus_intent"})
    (site.folder / "out" / "intent").write_text(intent.id)
    backed_up(site)
    (site.folder / "out" / "die").touch()
    site.luigi("Mixed", module=PIPELINE)
    (site.folder / "out" / "die").unlink()
    paid = {"before": 1, "cus_0": 1, "cus_1": 1, "cus_own": 1, "cus_intent": 1}
    assert charged(site) == paid
    restored(site)
    code, said = site.luigi("Mixed", "--run-id", "corrected", module=PIPELINE)
    assert (code, charged(site)) == (0, paid), said
    assert site.run("corrected")["spent_usd"] == "4.00", "what the vendor has is counted"


def test_a_ledger_that_is_gone_altogether_is_no_reason_to_charge_again(site: Site) -> None:
    (site.folder / "out" / "die").touch()
    site.luigi("Billing", "--n", "2")
    (site.folder / "out" / "die").unlink()
    stop(site)
    shutil.rmtree(site.ledger.parent)
    site.start()
    code, said = site.luigi("Billing", "--n", "2")
    assert (code, charged(site)) == (0, {"cus_0": 1, "cus_1": 1}), said


def test_a_call_with_another_body_is_in_doubt_and_not_made_under_another_key(site: Site) -> None:
    backed_up(site)
    (site.folder / "out" / "die").touch()
    site.luigi("Stamped", module=PIPELINE)
    (site.folder / "out" / "die").unlink()
    restored(site)
    for _ in range(2):
        site.luigi("Stamped", module=PIPELINE)
    assert charged(site) == {"before": 1, "stamped": 1}
    states = [call["state"] for call in site.call("GET", "/calls")[1] if call["target"] == "stamped"]
    assert set(states) == {"in_doubt"}


def test_a_run_that_is_due_again_does_not_meet_yesterdays_answer(site: Site) -> None:
    for day in (1, 2):
        code, said = site.luigi("Bare", module=PIPELINE)
        assert (code, charged(site)) == (0, {"cus_bare": day}), said
    keys = [post["key"] for post in site.stripe.posts()]
    assert len(set(keys)) == 2
    assert not any("cus" in key.lower() for key in keys)


def test_a_run_that_may_have_paid_since_pays_nothing_until_it_is_topped_up(site: Site) -> None:
    """Also where the vendor has forgotten the keys by which it would know what it was paid."""
    assert site.luigi("Billing", "--n", "1", "--run-id", "nightly")[0] == 0
    backup = site.folder / "backup.db"
    code, said, err = site.cli("backup", str(backup))
    assert (code, "is a whole copy" in said) == (0, True), err
    (site.folder / "out" / "die").touch()
    site.luigi("Billing", "--n", "2", "--run-id", "nightly")
    (site.folder / "out" / "die").unlink()
    paid = {"cus_0": 1, "cus_1": 1}
    assert charged(site) == paid
    stop(site)
    for file in site.ledger.parent.glob(f"{site.ledger.name}*"):
        file.unlink()
    code, said, err = site.cli("restore", str(backup), "--yes")
    assert (code, "HELD: nightly" in said) == (0, True), err
    site.stripe.control(options={"idempotency": "ignore"})
    site.start()
    code, said = site.luigi("Billing", "--n", "2", "--run-id", "nightly")
    assert (charged(site), site.run("nightly")["remaining_usd"]) == (paid, "0.00"), said
    assert "spendguard top-up nightly 1.00" in said
    site.cli("top-up", "nightly", "1")
    site.luigi("Billing", "--n", "2", "--run-id", "nightly")
    assert charged(site) == {"cus_0": 1, "cus_1": 2}, "which the operator has said"
