"""Sends generated requests to what reads them for the worst, and compares its books with the ledger."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.support.asking import WORKER
from tests.support.forms import Made
from tests.support.site import Site
from tests.support.vendors import FakeVendor

#: Requests of one example: their books are looked at together.
EACH = 25


def issued(site: Site, vendor: str, **more: object) -> tuple[str, str]:
    """Return a key with much to spend, and its run."""
    terms = {"vendor": vendor, "run_usd_cap": 10_000_000, **more}
    said = site.call("POST", "/vault/keys", terms, WORKER)[1]
    return str(said["vault_key"]), str(said["id"])


def worth(run: dict[str, Any]) -> float:
    """Return what a run counts, in cents."""
    return float(run["spent_usd"]) * 100 + float(run["reserved_usd"]) * 100


class Judge:
    """Sends requests under one key and compares two books: the vendor's and the ledger's.

    `only`: the one customer whose money may move. `agreed`: all readings that move money name the same
    people.
    """

    def __init__(
        self,
        site: Site,
        vendor: FakeVendor,
        base: str,
        key: tuple[str, str],
        *,
        only: str = "",
        agreed: bool = False,
    ) -> None:
        self.site, self.vendor, self.base, self.only, self.agreed = site, vendor, base, only, agreed
        self.key, self.run_id = key
        self.statuses: Counter[int] = Counter()
        self.broken: list[Made] = []
        self.moved = 0.0

    def judge(self, made: list[Made]) -> None:
        """Send requests one after another; fail where the vendor has counted what the ledger has not."""
        before = worth(self.site.run(self.run_id))
        self.vendor.forget()
        for one in made:
            status = one.send(self.base, self.key)
            self.statuses[status] += 1
            self.broken += [one] if status >= 500 else []
        run, moved = self.site.run(self.run_id), self.vendor.books()["moved"]
        cents = sum(entry["cents"] for entry in moved)
        self.moved += cents
        dearest = sorted(moved, key=lambda entry: -entry["cents"])[:3]
        assert cents <= worth(run) - before + 0.001, [entry["request"] for entry in dearest]
        assert float(run["overrun_usd"]) == 0
        for entry in moved:
            assert "acct_evil" not in str(entry["account"])
            assert "evil" not in str(entry["keys"])
            assert not self.only or entry["customers"] == [self.only], entry
            assert not self.agreed or len(entry["customers"]) == 1, entry


def many(of: st.SearchStrategy[Made], count: int, judge: Callable[[list[Made]], None]) -> None:
    """Let Hypothesis make `count` requests, `EACH` at a time."""

    @settings(
        max_examples=max(1, count // EACH),
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(of, min_size=EACH, max_size=EACH))
    def made(requests: list[Made]) -> None:
        judge(requests)

    made()


def judged(judge: Judge, of: st.SearchStrategy[Made], count: int) -> None:
    """Judge `count` requests, of which some must have passed, and some not, and say how many."""
    many(of, count, judge.judge)
    passed = sum(number for status, number in judge.statuses.items() if status < 300)
    print(
        f"{sum(judge.statuses.values())} requests, by status {dict(judge.statuses)}; "
        f"{judge.moved:.2f} cents moved"
    )
    assert min(passed, judge.statuses[403]) > count / 10
    assert not judge.broken, judge.broken[0]
