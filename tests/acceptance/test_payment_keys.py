"""A corrected amount does not charge twice: tasks that say what they pay for, by the vendor's books."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.acceptance.test_crashes import children_of, kill
from tests.support.combinations import combined
from tests.support.processes import wait_until
from tests.support.site import Site

PIPELINE = "tests.support.paying_pipeline"
LOCAL = ("--local-scheduler",)


def moved(site: Site) -> list[tuple[str, int]]:
    """Return whom the vendor has charged how much, in its order."""
    return [(entry["customer"], entry["amount"]) for entry in site.stripe.books()["moved"]]


@pytest.fixture(params=["worker", "gateway"])
def guarded(request: pytest.FixtureRequest, tmp_path: Path):
    """A site whose workers have the secret, and one whose luigid has it."""
    with Site(tmp_path / "site", gateway=request.param == "gateway") as site:
        yield site


class TestACorrectedAmount:
    def test_is_refused_after_the_first_has_charged_and_died(self, guarded: Site) -> None:
        out = guarded.folder / "out"
        (out / "die").touch()
        guarded.luigi("Pay", "--customer", "a", "--amount", "2700", module=PIPELINE)
        (out / "die").unlink()
        _, said = guarded.luigi("Pay", "--customer", "a", "--amount", "2600", module=PIPELINE)
        assert moved(guarded) == [("a", 2700)], said
        assert "failed tasks" in said
        assert "this payment (payment_key) was made by call" in said
        [first] = [run for run in runs(guarded) if "2700" in run["root_task_id"]]
        [call] = guarded.calls(first["run_id"])
        assert call["id"] in said
        assert "$27.00" in said
        assert "$26.00" in said
        code, said = guarded.luigi("Pay", "--customer", "a", "--amount", "2700", module=PIPELINE)
        assert (code, moved(guarded)) == (0, [("a", 2700)]), said
        for shown in (("--wide",), ("--format", "csv"), ("--format", "json")):
            assert guarded.cli("calls", *shown)[1].count("2026-11-a") == 3, shown

    @combined("where workers", [(), LOCAL], ["1", "2"], chosen=[((), "2"), (LOCAL, "1")])
    def test_also_after_it_had_completed_in_another_run(
        self, site: Site, where: tuple[str, ...], workers: str
    ) -> None:
        args = ("--workers", workers, *where)
        code, said = site.luigi("Payroll", "--amounts", "a=2700,b=100", *args, module=PIPELINE)
        assert code == 0, said
        corrected = ("Payroll", "--amounts", "a=2600,b=100,c=100", *args)
        _, said = site.luigi(*corrected, module=PIPELINE)
        assert sorted(moved(site)) == [("a", 2700), ("b", 100), ("c", 100)], said
        december = ("Payroll", "--amounts", "a=2600", "--month", "2026-12", *args)
        code, said = site.luigi(*december, module=PIPELINE)
        assert code == 0, said
        assert sorted(moved(site)) == [("a", 2600), ("a", 2700), ("b", 100), ("c", 100)]

    def test_is_charged_where_the_first_was_declined(self, site: Site) -> None:
        site.stripe.fault("status", status=402)
        site.luigi("Pay", "--customer", "a", "--amount", "2700", module=PIPELINE)
        assert moved(site) == []
        code, said = site.luigi("Pay", "--customer", "a", "--amount", "2600", module=PIPELINE)
        assert (code, moved(site)) == (0, [("a", 2600)]), said


class TestCrashes:
    def test_killed_after_the_charge_another_task_of_the_payment_gets_its_answer(self, guarded: Site) -> None:
        (guarded.folder / "out" / "kill").touch()
        guarded.luigi("Payroll", "--amounts", "a=100", "--workers", "2", module=PIPELINE)
        guarded.stripe.control(options={"idempotency": "ignore"})
        code, said = guarded.luigi("Payroll", "--amounts", "a=100,b=100", "--workers", "2", module=PIPELINE)
        assert code == 0, said
        assert moved(guarded) == [("a", 100), ("b", 100)]

    def test_killed_while_it_charges_the_correction_is_refused_and_the_payment_made_once(
        self, site: Site
    ) -> None:
        """Nobody knows what became of the call: it is no reason to charge another amount."""
        args = ("Pay", "--customer", "a", "--amount", "2700", "--workers", "2")
        with site.stripe.holding():
            worker = site.worker(*args, module=PIPELINE)
            wait_until(lambda: bool(site.stripe.posts()), what="sending")
            [child] = children_of(worker.pid)
            kill(child)
            worker.communicate(timeout=60)
        wait_until(lambda: moved(site) == [("a", 2700)], what="executing the killed child's call")
        _, said = site.luigi("Pay", "--customer", "a", "--amount", "2600", module=PIPELINE)
        assert moved(site) == [("a", 2700)]
        assert "this payment (payment_key) was made by call" in said
        code, said = site.luigi("Pay", "--customer", "a", "--amount", "2700", module=PIPELINE)
        assert (code, moved(site)) == (0, [("a", 2700)]), said
        assert {run["in_doubt_usd"] for run in runs(site)} == {"0.00"}

    def test_what_is_in_doubt_is_ended_by_the_task_of_another_run(self, site: Site) -> None:
        with site.stripe.holding():
            worker = site.worker("Payroll", "--amounts", "a=100", "--workers", "2", module=PIPELINE)
            wait_until(lambda: bool(site.stripe.posts()), what="sending")
            [child] = children_of(worker.pid)
            kill(child)
            worker.communicate(timeout=60)
        code, said = site.luigi("PayYielding", "--customer", "a", "--amount", "100", module=PIPELINE)
        assert code == 0, said  # Another family's: another payment.
        code, said = site.luigi("Payroll", "--amounts", "a=100,b=100", "--workers", "2", module=PIPELINE)
        assert code == 0, said
        assert sorted(moved(site)) == [("a", 100), ("a", 100), ("a-partner", 100), ("b", 100)]
        assert {run["in_doubt_usd"] for run in runs(site)} == {"0.00"}
        with site.books() as books:
            assert books.value("SELECT count(*) FROM call WHERE state IN ('pending', 'in_doubt')") == 0


class TestRaces:
    """Tasks of one payment in processes of their own, under one luigid, at once."""

    def test_those_of_one_amount_charge_once_and_all_get_the_answer(self, guarded: Site) -> None:
        said = at_once(guarded, *(("--amount", "100", "--copy", str(copy)) for copy in range(4)))
        assert moved(guarded) == [("a", 100)]
        assert sum("This progress looks :)" in one for one in said) == 4, said

    def test_of_those_of_several_one_charges(self, guarded: Site) -> None:
        said = at_once(guarded, *(("--amount", str(amount)) for amount in range(100, 104)))
        assert len(moved(guarded)) == 1
        assert sum("This progress looks :)" in one for one in said) == 1, said
        assert sum("this payment (payment_key) was made by call" in one for one in said) == 3


def at_once(site: Site, *arguments: tuple[str, ...]) -> list[str]:
    """Let workers pay customer `a` at once; return what they said."""
    site.stripe.control(options={"latency": 0.5})
    workers = [site.worker("Pay", "--customer", "a", *args, module=PIPELINE) for args in arguments]
    return [worker.communicate(timeout=120)[0] for worker in workers]


class TestShapes:
    def test_a_task_that_yields_pays_once(self, site: Site) -> None:
        code, said = site.luigi("PayYielding", "--customer", "a", "--amount", "300", module=PIPELINE)
        assert (code, sorted(moved(site))) == (0, [("a", 300), ("a-partner", 100)]), said

    def test_what_is_due_again_pays_once_for_each_key(self, site: Site) -> None:
        for month, payments in (("11", 1), ("11", 1), ("12", 2), ("11", 2)):
            code, said = site.luigi("PayAnew", "--month", month, module=PIPELINE)
            assert (code, len(moved(site))) == (0, payments), said

    # A local scheduler is no gateway.
    @pytest.mark.parametrize(("where", "gateway"), [((), False), ((), True), (LOCAL, False)])
    def test_batches_pay_once_for_each_of_their_members(
        self, tmp_path: Path, where: tuple[str, ...], gateway: bool
    ) -> None:
        with Site(tmp_path / "site", gateway=gateway) as site:
            out = site.folder / "out"
            (out / "die").touch()
            site.luigi("PayBatches", "--parts", "a:100,b:100,c:100", *where, module=PIPELINE)
            (out / "die").unlink()
            _, said = site.luigi("PayBatches", "--parts", "a:100,c:99,d:100", *where, module=PIPELINE)
            assert [paid for paid in sorted(moved(site)) if paid[0] != "d"] == [
                ("a", 100),
                ("b", 100),
                ("c", 100),
            ], said
            assert "this payment (payment_key) was made by call" in said
            code, said = site.luigi("PayBatches", "--parts", "a:100,b:100,d:100", *where, module=PIPELINE)
            assert code == 0, said
            assert sorted(moved(site)) == [("a", 100), ("b", 100), ("c", 100), ("d", 100)]
            assert (out / "batches").read_text().count(",") >= 3, "they were batches"

    def test_a_batch_with_two_tasks_of_one_payment_is_refused_before_it_runs(self, site: Site) -> None:
        _, said = site.luigi("PayBatches", "--parts", "a:100,a:99", module=PIPELINE)
        assert site.stripe.posts() == []
        assert "PayBatch.payment_key is 'a' for" in said
        assert "which are in one batch" in said


class TestWhatIsNoKey:
    @pytest.mark.parametrize(
        ("how", "why"),
        [
            ("empty", "must have 1 to 255 printable characters"),
            ("blank", "must have 1 to 255 printable characters"),
            ("long", "must have 1 to 255 printable characters"),
            ("lines", "must have 1 to 255 printable characters"),
            ("number", "must be a text, not int"),
            ("misspelt", "cannot be read: AttributeError"),
        ],
    )
    def test_is_one_clear_error_before_the_task_runs(self, site: Site, how: str, why: str) -> None:
        _, said = site.luigi("PayBadly", "--how", how, module=PIPELINE)
        assert site.stripe.posts() == []
        assert f"Refused before run(): PayBadly.payment_key {why}" in said or (
            f"was refused before run(): PayBadly.payment_key {why}" in said
        )
        assert "Traceback" not in said

    def test_none_says_nothing(self, site: Site) -> None:
        code, said = site.luigi("PayBadly", "--how", "none", module=PIPELINE)
        assert (code, moved(site)) == (0, [("cus_badly", 100)]), said


def runs(site: Site) -> list[dict[str, str]]:
    """Return all runs as the API shows them."""
    status, found = site.call("GET", "/runs", token=None)
    assert status == 200
    return found
