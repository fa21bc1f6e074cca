"""What batches have paid, in whole and in part, by the vendor's books and the receipts that tasks have."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.support.site import Site

PIPELINE = "tests.support.batch_pipeline"
X, Y = "k0:cus_x", "k1:cus_y"
#: What may happen to a batch's charges, one after the other.
GOOD = {"fault": "none", "times": 1, "match": "POST /v1/payment_intents"}
LOST, DECLINED = GOOD | {"fault": "drop_after"}, GOOD | {"fault": "status", "status": 402}


def paid(site: Site, *orders: str, more: tuple[str, ...] = ()) -> str:
    """Let these orders be paid; return what the worker said."""
    return site.luigi("Orders", "--orders", ",".join(orders), *more, module=PIPELINE)[1]


def moved(site: Site) -> dict[str, int]:
    """Return how often the vendor has charged each customer."""
    return dict(Counter(entry["customer"] for entry in site.stripe.books()["moved"]))


def receipts(site: Site) -> dict[str, str]:
    """Return what each order has been told that paid for it."""
    return {path.name[8:]: path.read_text() for path in (site.folder / "out").glob("receipt-*")}


def due_again(site: Site) -> None:
    for path in (site.folder / "out").glob("receipt-*"):
        path.unlink()


def test_no_other_order_is_answered_with_what_a_completed_batch_has_paid(site: Site) -> None:
    """Two orders of one customer: which of them the batch had paid cannot be known."""
    assert "This progress looks :)" in paid(site, X, Y, more=("--named", "--run-id", "1"))
    before, again = receipts(site), ("--named", "--run-id", "2")
    (site.folder / "out" / "receipt-k1").unlink()
    said = paid(site, Y, "k9:cus_x", more=again)
    assert moved(site) == {"cus_x": 1, "cus_y": 1}
    assert "idempotency_mismatch" in said
    assert "max_batch_size" in said
    assert receipts(site) == {"k0": before["k0"]}, "a receipt that nothing was paid for"
    for order in ("k9:cus_x", Y):
        assert "This progress looks :)" in paid(site, order, more=again)
    assert moved(site) == {"cus_x": 2, "cus_y": 1}
    now = receipts(site)
    assert now["k1"] == before["k1"]
    assert len({*now.values()}) == 3


@pytest.mark.parametrize("gateway", [False, True])
def test_what_was_lost_of_a_batch_and_made_alone_is_made_when_it_is_due_again(
    tmp_path: Path, gateway: bool
) -> None:
    """Luigid has forgotten the batch when its orders come back, one by one."""
    with Site(tmp_path / "site", gateway=gateway) as site:
        site.stripe.control(faults=[LOST])
        paid(site, X, Y)
        assert receipts(site) == {}
        site.luigid.popen.kill()
        site.luigid.end()
        (site.folder / "state").unlink(missing_ok=True)
        site.start()
        for order in (X, Y):
            assert "This progress looks :)" in paid(site, order)
        assert moved(site) == {"cus_x": 1, "cus_y": 1}
        due_again(site)
        assert "This progress looks :)" in paid(site, Y, X)
        assert moved(site) == {"cus_x": 2, "cus_y": 2}


def test_what_was_declined_beside_a_paid_order_is_paid_although_both_were_the_night_before(
    site: Site,
) -> None:
    assert "This progress looks :)" in paid(site, X, Y)
    due_again(site)
    site.stripe.control(faults=[GOOD, DECLINED])
    paid(site, X, Y)
    assert sum(moved(site).values()) == 3
    site.wait_for_retries()
    said = paid(site, X, Y)
    assert moved(site) == {"cus_x": 2, "cus_y": 2}, said
    assert len(receipts(site)) == 2
