"""What a reply may call an object."""

from __future__ import annotations

import pytest

from luigi_spendguard.vendors.model import Outcome


@pytest.mark.parametrize("odd", ["", "pi_\0", "pi_\ud800", "pi_\n1", "p" * 256])
def test_what_no_vendor_calls_an_object_is_none(odd: str) -> None:
    outcome = Outcome("settle", 100, object_id=odd, covers=("pi_1", odd), opened={"re_1": 5, odd: 7})
    assert (outcome.total_micros, outcome.object_id) == (100, None)
    assert (outcome.covers, outcome.opened) == (("pi_1",), {"re_1": 5})


def test_what_a_vendor_calls_one_stays() -> None:
    assert Outcome("settle", object_id="p" * 255).object_id == "p" * 255
