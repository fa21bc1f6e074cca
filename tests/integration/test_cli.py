"""`spendguard` as people and scripts run it, against a real luigid and the vendor's books.

It runs in the tests' own process, where what it answers is looked at; as a process of its own where that is
what matters: how it starts, reads its configuration, prints and ends.
"""

from __future__ import annotations

import csv
import http.server
import io
import json
import socketserver
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import stripe

from luigi_spendguard import SpendDenied
from tests.support.attempts import Pretender
from tests.support.commands import run_here
from tests.support.processes import Process, environment, free_port, listening
from tests.support.site import SECRET, FakeStripe, Site

SPENDGUARD = Path(sys.executable).parent / "spendguard"
LUIGID = Path(sys.executable).parent / "luigid-spendguard"
CHARGE = {"amount": 100, "currency": "usd", "payment_method": "pm_card_visa", "confirm": True}
COMMANDS = ("runs", "run", "calls", "revoke", "top-up", "resolve", "check")


def spendguard(site: Site, *args: str, **env: str) -> tuple[int, str, str]:
    """Run the command in this process; return exit code, stdout and stderr."""
    code, out, err = run_here(site.folder, site.environment(**env), *args)
    assert SECRET not in out + err
    return code, out, err


def installed(site: Site, *args: str, **env: str) -> tuple[int, str, str]:
    """Run the installed command in the site's folder; return exit code, stdout and stderr."""
    done = subprocess.run(
        [str(SPENDGUARD), *args],
        cwd=site.folder,
        env=site.environment(**env),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "Traceback" not in done.stderr, done.stderr
    assert SECRET not in done.stdout + done.stderr
    return done.returncode, done.stdout, done.stderr


def answer(site: Site, *args: str) -> Any:
    """Return what a command that succeeds prints as JSON."""
    code, out, err = spendguard(site, *args, "--format", "json")
    assert (code, err) == (0, "")
    return json.loads(out)


def charge(customer: str = "cus_1", **more: object) -> stripe.PaymentIntent:
    return stripe.PaymentIntent.create(customer=customer, **(CHARGE | more))


def in_doubt(pretender: Pretender, vendor: FakeStripe, amount: int = 100) -> str:
    """Leave one call in doubt; return its id."""
    vendor.fault("status_after", status=500, times=3)
    with pretender.attempt(), pytest.raises(stripe.APIError):
        charge(amount=amount)
    [call] = pretender.site.calls(pretender.run_id)
    assert call["state"] == "in_doubt"
    return str(call["id"])


@pytest.fixture
def still(tmp_path: Path, shared_site: Site) -> Iterator[Site]:
    """A site of the test's own whose luigid is not started."""
    site = Site(tmp_path / "still", stripe=shared_site.stripe, start=False)
    yield site
    site.end()


@contextmanager
def stock_luigid(site: Site) -> Iterator[None]:
    """Run Luigi's own `luigid` on the site's port."""
    args = [
        "-c",
        "from luigi.cmdline import luigid; luigid()",
        "--address",
        "127.0.0.1",
        "--port",
        str(site.port),
    ]
    log = site.folder / "stock.log"
    process = Process(args, log, site.folder, site.environment(), lambda: listening(site.port))
    try:
        yield
    finally:
        process.end()


class TestSeeing:
    def test_a_run_is_listed_with_what_the_vendor_took(
        self, pretender: Pretender, vendor: FakeStripe
    ) -> None:
        with pretender.attempt():
            charge()
            charge("cus_2", amount=250)
        assert vendor.moved() == 350
        [found] = [r for r in answer(pretender.site, "runs") if r["run_id"] == pretender.run_id]
        assert (found["cap_usd"], found["spent_usd"], found["reserved_usd"]) == ("100.00", "3.50", "0.00")
        assert (found["remaining_usd"], found["status"]) == ("96.50", "active")
        code, out, _ = installed(pretender.site, "runs")
        [line] = [line for line in out.splitlines() if pretender.run_id in line]
        assert code == 0
        assert out.split()[:4] == ["run", "status", "cap", "spent"]
        assert line.split()[:4] == [pretender.run_id, "active", "$100.00", "$3.50"]
        assert line.split()[-1] == "Root"

    def test_run_shows_one_run_as_text_and_as_json(self, pretender: Pretender, vendor: FakeStripe) -> None:
        with pretender.attempt():
            charge(amount=999)
        code, out, _ = installed(pretender.site, "run", pretender.run_id)
        shown = dict(line.split(maxsplit=1) for line in out.splitlines() if len(line.split()) == 2)
        assert code == 0
        assert shown["run"] == pretender.run_id
        assert (shown["cap"], shown["spent"], shown["remaining"]) == ("$100.00", "$9.99", "$90.01")
        assert answer(pretender.site, "run", pretender.run_id) == pretender.site.run(pretender.run_id)

    def test_doubt_is_shown_beside_what_is_reserved(self, pretender: Pretender, vendor: FakeStripe) -> None:
        in_doubt(pretender, vendor, 700)
        _, out, _ = installed(pretender.site, "run", pretender.run_id)
        lines = [" ".join(line.split()) for line in out.splitlines()]
        assert "reserved $7.00" in lines
        assert "in doubt $7.00" in lines
        assert "spent $0.00" in lines

    def test_an_empty_ledger_is_said_in_a_table_and_is_an_empty_list_in_json(self, site: Site) -> None:
        assert installed(site, "runs") == (0, "No run was opened yet.\n", "")
        assert answer(site, "runs") == []
        assert answer(site, "calls") == []


class TestCalls:
    def test_calls_are_filtered_by_run_task_and_verdict(self, shared_site: Site, vendor: FakeStripe) -> None:
        unique = uuid.uuid4().hex[:10]
        one = Pretender(shared_site, f"one-{unique}", f"One_{unique}", budget_usd="2")
        two = Pretender(shared_site, f"two-{unique}", f"Two_{unique}")
        with one.attempt():
            made = charge()
        with two.attempt():
            charge("cus_3")
        with one.attempt():
            assert charge().id == made.id
            with pytest.raises(SpendDenied):
                charge("cus_2", amount=500)

        def seen(*args: str) -> list[tuple[str, str]]:
            return [(call["task_id"], call["verdict"]) for call in answer(shared_site, "calls", *args)]

        first, second = one.task_id, two.task_id
        assert vendor.moved() == 200
        assert seen("--run", one.run_id) == [(first, "denied:cap"), (first, "replayed"), (first, "allowed")]
        assert seen("--task", second) == [(second, "allowed")]
        assert seen("--run", one.run_id, "--task", second) == []
        assert seen("--run", one.run_id, "--verdict", "denied") == [(first, "denied:cap")]
        assert seen("--run", one.run_id, "--verdict", "denied:cap") == [(first, "denied:cap")]
        assert seen("--run", one.run_id, "--verdict", "denied:revoked") == []
        assert seen("--run", one.run_id, "--verdict", "allowed") == [(first, "allowed")]
        assert seen("--run", one.run_id, "--limit", "1") == [(first, "denied:cap")]
        assert seen("--run", one.run_id, "--verdict", "replayed") == [(first, "replayed")]

    def test_calls_are_filtered_by_vendor_and_time(self, pretender: Pretender, vendor: FakeStripe) -> None:
        with pretender.attempt():
            charge()
        run = ("--run", pretender.run_id)
        for args, count in (
            (("--vendor", "stripe"), 1),
            (("--vendor", "twilio"), 0),
            (("--since", "1h"), 1),
            (("--since", "2099-01-01T00:00:00Z"), 0),
            (("--since", "2026-01-01"), 1),
            (("--since", "2026-01-01T00:00:00+02:00", "--vendor", "stripe"), 1),
        ):
            assert len(answer(pretender.site, "calls", *run, *args)) == count, args
        code, out, err = spendguard(pretender.site, "calls", "--since", "last week")
        assert (code, out) == (2, "")
        assert "must be a time such as 30m, 4h or 7d" in err

    def test_a_csv_can_be_opened_by_a_spreadsheet(self, pretender: Pretender, vendor: FakeStripe) -> None:
        with pretender.attempt():
            charge("=1+1", amount=1234)
            charge("+14155550100")
        code, out, err = spendguard(pretender.site, "calls", "--run", pretender.run_id, "--format", "csv")
        assert (code, err) == (0, "")
        rows = list(csv.DictReader(io.StringIO(out)))
        assert [row["spent_usd"] for row in rows] == ["1.00", "12.34"]
        assert [row["target"] for row in rows] == ["+14155550100", "'=1+1"]
        assert {row["task_id"] for row in rows} == {pretender.task_id}

    def test_the_table_shows_task_target_amounts_and_object(
        self, pretender: Pretender, vendor: FakeStripe
    ) -> None:
        with pretender.attempt():
            made = charge("cus_shown", amount=1234)
        code, out, err = spendguard(pretender.site, "calls", "--run", pretender.run_id, "--format", "table")
        assert (code, err) == (0, "")
        row = out.splitlines()[1].split()
        [call] = answer(pretender.site, "calls", "--run", pretender.run_id)
        assert row[0] == call["id"]
        assert row[1:4] == ["settled", "$12.34", "allowed"]
        assert "cus_shown" in row[4]
        assert row[5] == pretender.task_id
        assert row[8:-1] == ["payment_intents.create", "stripe", "$12.34", made.id]
        assert row[-1] == call["vendor_request"]
        assert row[-1].startswith("req_")

    def test_a_limit_that_hides_calls_says_so_beside_the_table(
        self, pretender: Pretender, vendor: FakeStripe
    ) -> None:
        with pretender.attempt():
            for number in range(3):
                charge(f"cus_{number}")
        code, out, err = spendguard(pretender.site, "calls", "--run", pretender.run_id, "--limit", "2")
        assert code == 0
        assert len(out.splitlines()) == 3
        assert "cus_2" in out.splitlines()[1]
        assert "cus_0" not in out
        assert err.startswith("2 of 3 calls; --all or --format csv for the rest, --before ")

    def test_no_match_is_said(self, pretender: Pretender) -> None:
        done = spendguard(pretender.site, "calls", "--task", "NoSuchTask")
        assert (done[0], done[2]) == (0, "")
        assert done[1].startswith("No call matches. If task NoSuchTask exists, it has made none")

    def test_an_unknown_verdict_is_bad_usage_and_lists_those_there_are(self, pretender: Pretender) -> None:
        code, out, err = spendguard(pretender.site, "calls", "--verdict", "bogus")
        assert (code, out) == (2, "")
        assert "'replayed'" in err
        assert "'denied:cap'" in err

    def test_calls_of_an_unknown_run_are_refused(self, pretender: Pretender) -> None:
        code, out, err = spendguard(pretender.site, "calls", "--run", "no-such-run")
        assert (code, out) == (1, "")
        assert "no-such-run" in err

    @pytest.mark.parametrize(
        "args", [("--limit", "0"), ("--limit", "x"), ("--limit", "10001"), ("--format", "xml"), ("extra",)]
    )
    def test_bad_usage_is_2(self, shared_site: Site, args: tuple[str, ...]) -> None:
        code, out, err = spendguard(shared_site, "calls", *args)
        assert (code, out) == (2, "")
        assert "Error:" in err


class TestChanging:
    def test_revoke_ends_the_run_and_says_what_was_spent(
        self, pretender: Pretender, vendor: FakeStripe
    ) -> None:
        with pretender.attempt():
            charge()
            code, out, _ = spendguard(pretender.site, "revoke", pretender.run_id)
            with pytest.raises(SpendDenied) as denied:
                charge("cus_2")
        assert code == 0
        assert denied.value.reason == "revoked"
        assert out == (
            f"{pretender.run_id} is revoked: no further call is sent. 0 calls were under way; "
            "$1.00 is spent, $0.00 reserved.\n"
        )
        assert vendor.moved() == 100
        assert pretender.site.run(pretender.run_id)["state"] == "revoked"
        assert spendguard(pretender.site, "revoke", pretender.run_id)[0] == 0

    def test_a_run_that_has_ended_is_revoked_and_the_later_one_named(self, tmp_path: Path) -> None:
        with Site(tmp_path / "site") as site:
            site.luigi("Billing", "--n", "1", "--first", "0")
            (first,) = site.call("GET", "/runs", token=None)[1]
            assert first["state"] == "ended"
            site.call(
                "POST",
                "/api/spend_open_run",
                {
                    "name": first["run_id"],
                    "by_task_id": True,
                    "root_family": "B",
                    "root_task_id": first["run_id"],
                    "budget_usd": None,
                },
            )
            code, out, _ = site.cli("revoke", first["run_id"])
            assert (code, site.run(first["run_id"])["state"]) == (0, "revoked")
            assert f"Its root had completed: what is submitted after that is run {first['run_id']}~2" in out
            assert site.run(f"{first['run_id']}~2")["state"] == "active"
            assert site.cli("revoke", f"{first['run_id']}~2")[0] == 0

    def test_a_run_is_found_with_the_blanks_it_was_named_with(self, shared_site: Site) -> None:
        name = f"r {uuid.uuid4().hex}"
        shared_site.call(
            "POST",
            "/api/spend_open_run",
            {
                "name": f" {name} ",
                "by_task_id": False,
                "root_family": "B",
                "root_task_id": "B",
                "budget_usd": "1",
            },
            token=None,
        )
        for said in (name, f" {name}", f"{name}  "):
            code, out, _ = spendguard(shared_site, "run", said)
            assert (code, name in out) == (0, True)
            assert spendguard(shared_site, "calls", "--run", said)[0] == 0
        assert spendguard(shared_site, "top-up", f" {name} ", "2")[0] == 0
        assert shared_site.run(name)["cap_usd"] == "3.00"

    def test_a_percent_sign_in_luigids_address_is_said_in_one_line(self, tmp_path: Path) -> None:
        config = tmp_path / "luigi.cfg"
        config.write_text("[core]\ndefault_scheduler_url = http://a:p%40b@127.0.0.1:1\n")
        done = subprocess.run(
            [sys.executable, "-m", "luigi_spendguard", "runs"],
            capture_output=True,
            text=True,
            timeout=60,
            env=environment(LUIGI_CONFIG_PATH=str(config)),
            cwd=tmp_path,
        )
        assert (done.returncode, done.stdout) == (2, "")
        assert "Luigi wants a % there as %%" in done.stderr
        assert "Traceback" not in done.stderr

    def test_top_up_lets_the_next_call_through(self, shared_site: Site, vendor: FakeStripe) -> None:
        pretender = Pretender(shared_site, f"r-{uuid.uuid4().hex}", f"T_{uuid.uuid4().hex}", budget_usd="1")
        with pretender.attempt():
            charge()
            with pytest.raises(SpendDenied):
                charge("cus_2")
            code, out, _ = spendguard(shared_site, "top-up", pretender.run_id, "1.50")
            charge("cus_2")
        assert (code, out) == (0, f"{pretender.run_id} has a cap of $2.50; $1.50 remains.\n")
        assert vendor.moved() == 200

    def test_a_top_up_repeated_with_its_request_id_counts_once(self, pretender: Pretender) -> None:
        same = ("top-up", pretender.run_id, "50", "--request-id", str(uuid.uuid4()))
        assert spendguard(pretender.site, *same)[0] == spendguard(pretender.site, *same)[0] == 0
        assert pretender.site.run(pretender.run_id)["cap_usd"] == "150.00"
        spendguard(pretender.site, "top-up", pretender.run_id, "50")
        assert pretender.site.run(pretender.run_id)["cap_usd"] == "200.00"

    @pytest.mark.parametrize("amount", ["nan", "abc", "1e3", "inf", "1.2345678", "$5", "1,000", ""])
    def test_an_amount_that_is_none_is_bad_usage(self, pretender: Pretender, amount: str) -> None:
        code, out, err = spendguard(pretender.site, "top-up", pretender.run_id, amount)
        assert (code, out) == (2, "")
        assert f"{amount!r} is no amount of USD" in " ".join(err.split())
        assert pretender.site.run(pretender.run_id)["cap_usd"] == "100.00"

    @pytest.mark.parametrize(
        "before",
        [
            (),
            ("--",),
        ],
    )
    def test_a_negative_amount_is_said_to_be_none(
        self, pretender: Pretender, before: tuple[str, ...]
    ) -> None:
        code, out, err = spendguard(pretender.site, "top-up", *before, pretender.run_id, "-1")
        assert (code, out) == (2, "")
        assert pretender.site.run(pretender.run_id)["cap_usd"] == "100.00"
        assert "'-1' is no amount of USD" in " ".join(err.split())

    def test_a_negative_amount_changes_nothing(self, pretender: Pretender) -> None:
        code, out, err = spendguard(pretender.site, "top-up", pretender.run_id, "-1")
        assert (code, out) == (2, "")
        assert "-1" in err
        assert pretender.site.run(pretender.run_id)["cap_usd"] == "100.00"

    def test_an_amount_beyond_the_largest_is_bad_usage(self, pretender: Pretender) -> None:
        code, _, err = spendguard(pretender.site, "top-up", pretender.run_id, "1000000001")
        assert code == 2
        assert "more than the largest amount, $1,000,000,000.00" in err

    def test_a_revoked_run_is_not_topped_up(self, pretender: Pretender) -> None:
        spendguard(pretender.site, "revoke", pretender.run_id)
        code, out, err = spendguard(pretender.site, "top-up", pretender.run_id, "5")
        assert (code, out) == (1, "")
        assert "revoked" in err

    @pytest.mark.parametrize("blank", ["", " "])
    def test_an_empty_request_id_is_bad_usage(self, pretender: Pretender, blank: str) -> None:
        code, out, err = spendguard(pretender.site, "top-up", pretender.run_id, "5", "--request-id", blank)
        assert (code, out) == (2, "")
        assert "must not be empty" in err
        assert pretender.site.run(pretender.run_id)["cap_usd"] == "100.00"

    @pytest.mark.parametrize("usd", ["0", "1000000000"])
    def test_an_amount_out_of_range_is_told_its_limits(self, pretender: Pretender, usd: str) -> None:
        code, out, err = spendguard(pretender.site, "top-up", pretender.run_id, usd)
        assert (code, out) == (1, "")
        assert "a cap is at most $1,000,000,000.00" in err

    @pytest.mark.parametrize("args", [("run", "nope"), ("revoke", "nope"), ("top-up", "nope", "5")])
    def test_an_unknown_run_is_refused_by_name(self, pretender: Pretender, args: tuple[str, ...]) -> None:
        code, out, err = spendguard(pretender.site, *args)
        assert (code, out) == (1, "")
        assert "nope" in err


class TestResolving:
    def test_resolve_spent_counts_what_the_vendors_books_say(
        self, pretender: Pretender, vendor: FakeStripe
    ) -> None:
        call_id = in_doubt(pretender, vendor)
        spent = f"{vendor.moved() / 100:.2f}"
        code, out, _ = spendguard(pretender.site, "resolve", call_id, "--spent", spent)
        assert code == 0
        assert out.startswith(
            f"{call_id} of run {pretender.run_id} is settled: $1.00 spent. Its object is not known"
        )
        run = pretender.site.run(pretender.run_id)
        assert (run["spent_usd"], run["in_doubt_usd"], run["remaining_usd"]) == ("1.00", "0.00", "99.00")

    def test_resolve_not_sent_gives_the_money_back(self, pretender: Pretender, vendor: FakeStripe) -> None:
        vendor.fault("drop_before", times=3)
        with pretender.attempt(), pytest.raises(stripe.StripeError):
            charge()
        assert vendor.moved() == 0
        [call] = pretender.site.calls(pretender.run_id)
        assert call["state"] == "in_doubt"
        code, out, _ = spendguard(pretender.site, "resolve", call["id"], "--not-sent")
        assert (code, out) == (0, f"{call['id']} of run {pretender.run_id} is voided: $0.00 spent.\n")
        run = pretender.site.run(pretender.run_id)
        assert (run["spent_usd"], run["reserved_usd"], run["remaining_usd"]) == ("0.00", "0.00", "100.00")

    def test_a_typo_is_refused_and_one_that_was_confirmed_can_be_corrected(
        self, pretender: Pretender, vendor: FakeStripe
    ) -> None:
        call_id = in_doubt(pretender, vendor)
        code, out, err = spendguard(pretender.site, "resolve", call_id, "--spent", "50")
        assert (code, out) == (1, "")
        assert "$50.00 is more than the $1.00 that call" in err
        assert pretender.site.run(pretender.run_id)["in_doubt_usd"] == "1.00"
        code, out, _ = spendguard(pretender.site, "resolve", call_id, "--spent", "50", "--overrun")
        assert code == 0
        assert " is settled: $1.00 spent, and $49.00 overrun beyond what was reserved." in out
        assert f"Run {pretender.run_id} is frozen" in out
        assert "$1.00 + $49.00 overrun" in spendguard(pretender.site, "calls", "--run", pretender.run_id)[1]
        code, out, _ = spendguard(pretender.site, "top-up", pretender.run_id, "1")
        assert "It has $49.00 overrun" in out
        code, out, _ = spendguard(pretender.site, "resolve", call_id, "--spent", "1", "--correct")
        assert code == 0
        assert "overrun" not in out
        run = pretender.site.run(pretender.run_id)
        assert (run["state"], run["spent_usd"], run["overrun_usd"]) == ("active", "1.00", "0.00")

    @pytest.mark.parametrize("args", [(), ("--spent", "1", "--not-sent"), ("--not-sent", "--object", "pi_1")])
    def test_neither_or_both_is_bad_usage(
        self, pretender: Pretender, vendor: FakeStripe, args: tuple[str, ...]
    ) -> None:
        call_id = in_doubt(pretender, vendor)
        code, out, err = spendguard(pretender.site, "resolve", call_id, *args)
        assert (code, out) == (2, "")
        assert "--spent USD" in err
        assert pretender.site.run(pretender.run_id)["in_doubt_usd"] == "1.00"

    @pytest.mark.parametrize("amount", ["-1", "nan", "abc", "1e3"])
    def test_a_bad_amount_is_bad_usage(self, shared_site: Site, amount: str) -> None:
        code, out, err = spendguard(shared_site, "resolve", "some-call", "--spent", amount)
        assert (code, out) == (2, "")
        assert f"{amount!r} is no amount of USD" in " ".join(err.split())

    def test_an_unknown_call_is_refused_by_name(self, pretender: Pretender) -> None:
        unknown = str(uuid.uuid4())
        code, out, err = spendguard(pretender.site, "resolve", unknown, "--not-sent")
        assert (code, out) == (1, "")
        assert unknown in err

    def test_a_call_that_is_not_in_doubt_is_left_alone(
        self, pretender: Pretender, vendor: FakeStripe
    ) -> None:
        with pretender.attempt():
            charge()
        [call] = pretender.site.calls(pretender.run_id)
        code, out, err = spendguard(pretender.site, "resolve", call["id"], "--not-sent")
        assert (code, out) == (1, "")
        assert "settled" in err
        assert pretender.site.run(pretender.run_id)["spent_usd"] == "1.00"


class TestReaching:
    def test_nothing_listening_is_3_and_names_the_address(self, still: Site) -> None:
        for args in (["runs"], ["calls"], ["run", "r"], ["revoke", "r"], ["top-up", "r", "5"]):
            code, out, err = spendguard(still, *args)
            assert (code, out) == (3, ""), args
            assert f"luigid-spendguard at {still.url} cannot be reached" in err
            assert "--url" in err

    def test_an_address_that_is_none_is_2_and_says_what_one_is(self, still: Site) -> None:
        for args in (["--url", "luigid", "runs"], ["runs", "--url=127.0.0.1:8082"]):
            code, out, err = spendguard(still, *args)
            assert (code, out) == (2, "")
            assert "--url (or SPENDGUARD_URL) must be a whole address: it must begin with http" in err

    def test_a_stock_luigid_is_3_and_named(self, still: Site) -> None:
        with stock_luigid(still):
            for args in (["runs"], ["calls"], ["revoke", "r"], ["top-up", "r", "5"]):
                code, out, err = spendguard(still, *args)
                assert (code, out) == (3, ""), args
                assert "is it a stock luigid? Start luigid-spendguard instead" in err
                assert "metrics_custom_import" in err
            code, out, _ = spendguard(still, "check")
            assert code == 1
            assert "MISSING scheduler: " in out
            assert "stock luigid" in out

    def test_another_server_is_3_and_not_called_a_luigid(self, still: Site, vendor: FakeStripe) -> None:
        with socketserver.TCPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as other:
            threading.Thread(target=other.serve_forever, daemon=True).start()
            url = f"http://127.0.0.1:{other.server_address[1]}"
            code, out, err = spendguard(still, "--url", url, "runs")
            other.shutdown()
        assert (code, out) == (3, "")
        assert "it is no luigid" in err
        assert "stock luigid" not in err

    def test_the_address_may_stand_behind_the_command(self, still: Site, pretender: Pretender) -> None:
        url = pretender.site.url
        assert spendguard(still, "run", pretender.run_id, "--url", url)[0] == 0
        assert spendguard(still, "run", f"--url={url}", pretender.run_id)[0] == 0
        assert spendguard(still, "runs", "--url")[0] == 2

    def test_another_address_by_option_or_environment(self, still: Site, pretender: Pretender) -> None:
        url = pretender.site.url
        assert spendguard(still, "--url", url, "run", pretender.run_id)[0] == 0
        assert spendguard(still, "run", pretender.run_id, SPENDGUARD_URL=url)[0] == 0
        code, _, err = spendguard(
            still, "--url", f"http://127.0.0.1:{free_port()}", "runs", SPENDGUARD_URL=url
        )
        assert code == 3
        assert "cannot be reached" in err

    @pytest.mark.parametrize(
        "url",
        [
            "localhost:8082",
            "ftp://127.0.0.1",
            "http://",
            "nonsense",
            "http://[::1",
        ],
    )
    def test_an_address_that_is_none_is_bad_usage(self, still: Site, url: str) -> None:
        code, out, err = spendguard(still, "--url", url, "runs")
        assert (code, out) == (2, "")
        assert "must begin with http:// or https://" in err


class TestTokens:
    def test_a_wrong_admin_token_is_4_and_not_printed(self, pretender: Pretender, still: Site) -> None:
        wrong = f"wrong-{uuid.uuid4().hex}{uuid.uuid4().hex}"
        still.configure(core={"default_scheduler_url": pretender.site.url}, spendguard={"admin_token": wrong})
        for args in (
            ("revoke", pretender.run_id),
            ("top-up", pretender.run_id, "5"),
            ("resolve", "some-call", "--not-sent"),
        ):
            code, out, err = installed(still, *args)
            assert (code, out) == (4, ""), (args, err)
            assert wrong not in err
            assert "token" in err
        assert pretender.site.run(pretender.run_id)["state"] == "active"
        assert pretender.site.run(pretender.run_id)["cap_usd"] == "100.00"

    def test_no_token_is_4(self, pretender: Pretender, still: Site) -> None:
        """The ledger's folder, and so the token beside it, is on another machine."""
        still.configure(core={"default_scheduler_url": pretender.site.url})
        code, out, err = installed(still, "revoke", pretender.run_id)
        assert (code, out) == (4, "")
        assert "admin_token" in err
        assert pretender.site.run(pretender.run_id)["state"] == "active"


class TestCheck:
    def test_a_good_luigi_cfg_is_0_and_says_all(self, site: Site) -> None:
        site.configure(
            spendguard={"daily_cap_usd": 500, "max_cap_usd": 200}, spendguard_caps={"Billing": 300}
        )
        site.restart()
        Pretender(site, "first")
        code, out, err = spendguard(site, "check")
        assert (code, err) == (0, "")
        assert "MISSING" not in out
        lines = out.splitlines()
        assert lines[0].startswith("ok      configuration: ")
        assert lines[0].endswith(str(site.config))
        assert f"ok      scheduler: luigid-spendguard answers at {site.url} (1 run)" in lines
        assert f"ok      caps: decided by luigid at {site.url}, as are prices and forecasts" in lines
        assert f"ok      ledger: luigid has one; {site.ledger} is here" in lines
        assert (
            "unknown root Billing: cap $300.00 a run, and no more if it asks; Billing not seen; "
            "give --module" in lines
        )
        assert (
            "ok      other roots: cap $100.00 a run; at most $200.00 if its budget_usd asks for it" in lines
        )
        assert "ok      all runs: cap $500.00 a UTC day together" in lines
        [stripe_line] = [line for line in lines if line.startswith("ok      stripe: ")]
        assert f"secret from luigi.cfg; calls go to {site.stripe.url}; allowed: everything" in stripe_line
        assert site.token() not in out

    def test_a_missing_cap_is_1_and_names_the_setting(self, tmp_path: Path, vendor: FakeStripe) -> None:
        with Site(tmp_path / "site", stripe=vendor, spendguard={"default_cap_usd": None}) as site:
            code, out, err = spendguard(site, "check")
        assert code == 1
        [line] = [line for line in out.splitlines() if line.startswith("MISSING")]
        assert "set default_cap_usd in [spendguard] of luigid's luigi.cfg" in line
        assert "1 of these must be mended" in err

    def test_a_worker_asks_luigid_what_is_in_force_there(
        self, tmp_path: Path, vendor: FakeStripe, still: Site
    ) -> None:
        """Its own file has no cap and no secret, and need not."""
        tokens = {"admin_token": "admin-" + "a1" * 16, "worker_token": "worker-" + "b2" * 16}
        said = {**tokens, "anonymous_read": "false", "daily_cap_usd": 500, "mode": "shadow"}
        stripe = {
            "allowed_endpoints": "payment_intents.create",
            "run_cap_usd": 7,
            "prices": "quotes.accept: 5",
        }
        with Site(
            tmp_path / "site",
            stripe=vendor,
            gateway=True,
            spendguard=said,
            spendguard_caps={"Billing": 300},
            spendguard_stripe=stripe,
        ) as site:
            home = {"default_scheduler_url": site.url}
            own = {"ledger_url": "sqlite:////proc/none.db", "worker_token": tokens["worker_token"]}
            still.configure(core=home, spendguard={**own, "default_cap_usd": None})
            still.configure(spendguard_stripe={"secret": None, "base_url": None})
            code, out, err = spendguard(still, "check", STRIPE_SECRET_KEY="")
            assert (code, err) == (0, ""), out
            lines = out.splitlines()
            assert f"ok      caps: decided by luigid at {site.url}, as are prices and forecasts" in lines
            assert (
                "unknown root Billing: cap $300.00 a run, and no more if it asks; Billing not seen; "
                "give --module" in lines
            )
            assert "ok      all runs: cap $500.00 a UTC day together" in lines
            assert "ok      ledger: made with luigid's first run" in lines
            assert "look    mode: shadow: NO CAP IS ENFORCED" in out
            assert [line for line in lines if "stripe" in line.partition(": ")[0]] == [
                "ok      stripe: luigid is the gateway: workers need no secret; it sends calls to "
                f"{site.stripe.url}; allowed: payment_intents.create; cap $7.00 inside any run; "
                "1 price of its own (--verbose)"
            ]
            assert (
                "ok      at stripe: quotes.accept costs $5.00 a call"
                in spendguard(still, "check", "--verbose", STRIPE_SECRET_KEY="")[1].splitlines()
            )
            # What its file says all the same is not in force, and said so.
            still.configure(spendguard={"default_cap_usd": 3}, spendguard_caps={"Billing": 200})
            code, out, _ = spendguard(still, "check", STRIPE_SECRET_KEY=SECRET)
        assert code == 0
        looks = [line for line in out.splitlines() if line.startswith("look")]
        assert looks == [
            "look    not in force: [spendguard] default_cap_usd is $3.00 here and $100.00 there: reload "
            "luigid if this is its file",
            "look    not in force: [spendguard_caps] Billing is $200.00 here and $300.00 there: reload "
            "luigid if this is its file",
            "look    mode: shadow: NO CAP IS ENFORCED, what they would have denied is only recorded",
        ]
        assert "workers need no secret, nor is one of their own used" in out

    def test_what_no_table_of_the_vendors_has_is_1_with_the_nearest(
        self, shared_site: Site, still: Site
    ) -> None:
        home = {"default_scheduler_url": shared_site.url}
        wrong = {"allowed_endpoints": "payment_intent.create, GET /v1/*", "prices": "quote.accept: 5"}
        still.configure(core=home, spendguard_stripe=wrong)
        code, out, _ = spendguard(still, "check")
        assert code == 1
        missing = [line for line in out.splitlines() if line.startswith("MISSING")]
        assert len(missing) == 2, out
        assert "prices gives a fixed price to quote.accept, which is no operation" in missing[0]
        begin = (
            "MISSING stripe: [spendguard_stripe] allowed_endpoints: 'payment_intent.create' is no operation"
        )
        assert missing[1].startswith(begin)
        assert "did you mean payment_intents.create" in missing[1]

    def test_families_that_no_task_has_are_named_with_the_nearest(
        self, tmp_path: Path, vendor: FakeStripe
    ) -> None:
        named = {"spendguard_family_caps": {"Chargee": 5, "Unheard": 5}, "spendguard_caps": {"Biling": 5}}
        with Site(
            tmp_path / "site", stripe=vendor, spendguard={"vendor_tasks": "Charge, Chrage"}, **named
        ) as site:
            pretender = Pretender(site, "first", "Charge_1")
            with pretender.attempt():
                stripe.Customer.create()
            code, out, err = spendguard(site, "check")
            assert (code, err) == (0, ""), out
            assert [line for line in out.splitlines() if line.startswith(("look", "unknown"))] == [
                "unknown root Biling: cap $5.00 a run, and no more if it asks; Biling not seen; "
                "give --module",
                "look    tasks Chargee: cap $5.00 inside any run; luigid has seen no task Chargee: did "
                "you mean Charge?",
                "unknown tasks Unheard: cap $5.00 inside any run; Unheard not seen; give --module",
                next(
                    line for line in out.splitlines() if line.startswith("look    vendor_tasks: Charge, Ch")
                ),
            ]
            assert "; luigid has seen no task Chrage: did you mean Charge?" in out
            (site.folder / "billing_here.py").write_text(
                "import luigi\nclass Billing(luigi.Task):\n    pass\nclass Unheard(luigi.Task):\n    pass\n"
            )
            code, out, _ = installed(site, "check", "--module", "billing_here")
            assert code == 1
            assert [line for line in out.splitlines() if line.startswith("MISSING")] == [
                "MISSING root Biling: cap $5.00 a run, and no more if it asks; Biling is no task of these "
                "modules, nor seen before: did you mean Billing?",
                "MISSING tasks Chargee: cap $5.00 inside any run; Chargee is no task of these modules, nor "
                "seen before: did you mean Charge?",
                next(
                    line for line in out.splitlines() if line.startswith("MISSING vendor_tasks: Charge, Ch")
                ),
            ]
            assert "; Chrage is no task of these modules, nor seen before: did you mean Charge?" in out
            assert "ok      tasks Unheard: cap $5.00 inside any run" in out.splitlines()
            code, _, err = spendguard(site, "check", "--module", "no_such_module")
        assert (code, "--module no_such_module cannot be imported (ModuleNotFoundError" in err) == (2, True)

    def test_a_root_without_vendor_tasks_is_no_guarded_one(self, tmp_path: Path, vendor: FakeStripe) -> None:
        caps = {"BillingPipeline": 60, "Guarded": 60}
        with Site(tmp_path / "site", stripe=vendor, spendguard_caps=caps) as site:
            plain = (
                "import luigi\nclass Charge(luigi.Task): pass\n"
                "class BillingPipeline(luigi.Task):\n    def requires(self): return Charge()\n"
            )
            (site.folder / "plain.py").write_text(plain)
            (site.folder / "guarded.py").write_text(
                "import luigi\nfrom luigi_spendguard import VendorTask\n"
                "class Guarded(VendorTask, luigi.Task): pass\n"
            )
            code, out, _ = installed(site, "check", "--module", "plain")
            assert code == 1, "Guarded is in no module"
            [modules, root] = [line for line in out.splitlines() if "NOTHING OF IT IS GUARDED" in line]
            capped = "cap $60.00 a run, and no more if it asks; no vendor task in it"
            assert root.startswith(f"look    root BillingPipeline: {capped}"), out
            assert "(looked at BillingPipeline, Charge)" in root
            assert modules.startswith("look    tasks: plain; no vendor task in it")
            code, out, _ = installed(site, "check", "--module", "plain", "--module", "guarded")
            assert code == 0, out
            [root] = [line for line in out.splitlines() if "NOTHING OF IT IS GUARDED" in line]
            assert root.startswith("look    root BillingPipeline: ")
            assert "ok      root Guarded: cap $60.00 a run, and no more if it asks" in out.splitlines()

    def test_a_gateway_apart_is_asked_too(self, site: Site) -> None:
        port = free_port()
        apart = f"http://127.0.0.1:{port}"
        site.restart(spendguard={"gateway_url": apart})
        code, out, _ = spendguard(site, "check", STRIPE_SECRET_KEY="")
        assert code == 1
        [line] = [line for line in out.splitlines() if line.startswith("MISSING")]
        assert line.startswith(
            f"MISSING gateway: the gateway at {apart} cannot be reached (NewConnectionError)"
        )
        assert line.endswith("start it, or mend [spendguard] gateway_url")
        gateway = Process(
            ["-m", "luigi_spendguard", "gateway", "--port", str(port)],
            site.folder / "apart.log",
            site.folder,
            site._environment(**site.secrets),
            lambda: listening(port),
        )
        try:
            code, out, err = spendguard(site, "check", STRIPE_SECRET_KEY="")
        finally:
            gateway.end()
        assert (code, err) == (0, ""), out
        assert f"ok      gateway: answers at {apart}, for stripe" in out
        assert (
            f"ok      stripe: the gateway at {apart} has the secret: workers need no secret; "
            f"it sends calls to {site.stripe.url}; allowed: " in out
        )

    def test_a_missing_secret_is_1_and_names_setting_and_variable(
        self, shared_site: Site, still: Site
    ) -> None:
        still.configure(core={"default_scheduler_url": shared_site.url}, spendguard_stripe={"secret": None})
        code, out, _ = spendguard(still, "check", STRIPE_SECRET_KEY="")
        assert code == 1
        [line] = [line for line in out.splitlines() if line.startswith("MISSING")]
        assert "[spendguard_stripe] secret" in line
        assert "STRIPE_SECRET_KEY" in line or "STRIPE_API_KEY" in line

    def test_a_secret_of_the_environment_is_named_by_its_variable(
        self, shared_site: Site, still: Site
    ) -> None:
        still.configure(core={"default_scheduler_url": shared_site.url}, spendguard_stripe={"secret": None})
        code, out, err = spendguard(still, "check", STRIPE_SECRET_KEY=SECRET)
        assert (code, err) == (0, "")
        assert "secret from the environment variable STRIPE_SECRET_KEY" in out

    def test_no_luigid_is_1_and_the_rest_is_still_said(self, still: Site) -> None:
        code, out, _ = spendguard(still, "check")
        assert code == 1
        [line] = [line for line in out.splitlines() if line.startswith("MISSING")]
        assert f"luigid-spendguard at {still.url} cannot be reached" in line
        assert "other roots: cap $100.00 a run" in out

    def test_a_ledger_that_cannot_be_written_is_1(self, still: Site) -> None:
        locked = Path("/proc/self")  # Nobody may write there, not even root.
        still.configure(spendguard={"ledger_url": f"sqlite:///{locked}/x.db"})
        code, out, _ = spendguard(still, "check")
        assert code == 1
        assert "MISSING ledger: " in out
        assert "[spendguard] ledger_url" in out

    @pytest.mark.parametrize("path", ["a-folder", "a-file/spendguard.db"])
    def test_a_ledger_that_cannot_be_a_file_is_1(self, still: Site, path: str) -> None:
        (still.folder / "a-folder").mkdir()
        (still.folder / "a-file").touch()
        still.configure(spendguard={"ledger_url": f"sqlite:///{still.folder / path}"})
        code, out, _ = spendguard(still, "check")
        assert code == 1
        assert "MISSING ledger: " in out
        assert "[spendguard] ledger_url" in out

    @pytest.mark.parametrize("token", ["", "worker-" + "d4" * 16])
    def test_a_worker_token_that_luigid_does_not_know_is_1(self, tmp_path: Path, token: str) -> None:
        right = "worker-" + "e5" * 16
        with Site(tmp_path / "tokened", spendguard={"worker_token": right, "daily_cap_usd": 5}) as site:
            assert spendguard(site, "check")[0] == 0
            site.configure(spendguard={"worker_token": token or None})
            code, out, _ = spendguard(site, "check")
        assert code == 1
        [line] = [line for line in out.splitlines() if line.startswith("MISSING")]
        assert line.startswith("MISSING worker token: the worker token is ")
        assert "no worker_token: only workers on luigid's own machine are served" not in out
        assert not site.ledger.exists()

    @pytest.mark.parametrize(("value", "code"), [("42", 0), ("lots", 1), ("256", 1), ("-1", 1)])
    def test_the_exit_code_for_blocked_tasks_is_checked(
        self, shared_site: Site, still: Site, value: str, code: int
    ) -> None:
        still.configure(core={"default_scheduler_url": shared_site.url}, retcode={"spend_blocked": value})
        done = spendguard(still, "check")
        assert done[0] == code
        assert ("MISSING exit code" in done[1]) is bool(code)

    def test_vendor_tasks_without_the_mixin_are_told_what_they_need(
        self, shared_site: Site, still: Site
    ) -> None:
        still.configure(core={"default_scheduler_url": shared_site.url}, spendguard={"vendor_tasks": "Pay*"})
        assert "luigi_spendguard.install()" in spendguard(still, "check")[1]

    def test_tokens_are_not_printed(self, shared_site: Site, still: Site) -> None:
        tokens = {name: f"{name}-{uuid.uuid4().hex}{uuid.uuid4().hex}" for name in ("admin", "worker")}
        still.configure(
            core={"default_scheduler_url": shared_site.url},
            spendguard={f"{name}_token": token for name, token in tokens.items()},
        )
        _, out, err = spendguard(still, "check")
        assert "look    workers: worker_token is set here, not in force there" in out
        assert not any(token in out + err for token in tokens.values())

    def test_whether_a_worker_token_is_in_force_is_asked_of_luigid(
        self, tmp_path: Path, vendor: FakeStripe
    ) -> None:
        """One file for both, and a variable that luigid has not: it serves whoever is on its machine."""
        token = "worker-" + "b2" * 16
        said = {"worker_token": "${SPENDGUARD_WORKER_TOKEN}"}
        with Site(tmp_path / "site", stripe=vendor, spendguard=said) as site:
            ended = site.call("POST", "/api/spend_close_run", {"name": "nobody"}, token="any-" + "c3" * 16)
            assert ended[0] == 200, "it takes any"
            code, out, _ = installed(site, "check", SPENDGUARD_WORKER_TOKEN=token)
            assert code == 0, out
            [line] = [line for line in out.splitlines() if " workers: " in line]
            assert line.startswith("look    workers: worker_token is set here, not in force there: luigid ")
            assert site.luigid is not None
            passed = "[spendguard] worker_token is passed over, as its environment variable is not set here"
            assert passed in site.luigid.text()
            site.luigid.end()
            site.start(SPENDGUARD_WORKER_TOKEN=token)
            code, out, _ = installed(site, "check", SPENDGUARD_WORKER_TOKEN=token)
            assert code == 0, out
            text = "must show the worker_token, but no daily_cap_usd bounds who has it"
            assert f"ok      workers: {text}" in out.splitlines()
            assert site.call("GET", "/status", token=None)[1]["failed_attempts"] == 0


class TestBadConfiguration:
    @pytest.mark.parametrize(
        ("section", "key", "value"),
        [
            ("spendguard", "default_cap_usd", "-5"),
            ("spendguard", "default_cap_usd", "nan"),
            ("spendguard", "on_blocked", "sleep"),
            ("spendguard", "default_cap_us", "5"),
            ("spendguard", "admin_token", "canary-short"),
            ("spendguard", "worker_token", "canary with blanks that is long enough for a token"),
            ("spendguard_stripe", "secret", "canary secret with blanks"),
            ("spendguard_stripe", "base_url", "http://stripe.example"),
            ("spendguard_caps", "Billing", "lots"),
            ("spendguard_fx", "eur", "-1"),
        ],
    )
    def test_a_bad_setting_is_one_line_that_names_file_section_and_key(
        self, still: Site, section: str, key: str, value: str
    ) -> None:
        still.configure(**{section: {key: value}})
        # The installed command's own start is seen once.
        for run, command in ((installed if key == "eur" else spendguard, "check"), (spendguard, "runs")):
            code, out, err = run(still, command)
            assert (code, out) == (2, "")
            assert err.startswith(f"Error: {still.config}: [{section}] {key}: ")
            assert len(err.splitlines()) == 1
            assert "canary" not in err

    @pytest.mark.parametrize(
        ("more", "says"),
        [
            ("canary_secret_without_a_key", "is neither a section nor key = value"),
            ("secret = sk_canary_secret", "[spendguard_stripe] secret: is given twice"),
            ("[spendguard_stripe]", "the section [spendguard_stripe] is given twice"),
        ],
    )
    def test_a_file_that_is_no_ini_is_one_line_that_quotes_nothing(
        self, still: Site, more: str, says: str
    ) -> None:
        still.config.write_text(still.config.read_text() + more + "\n")
        _is_one_line(still, still.environment(), f"{still.config}: ", says)

    def test_a_file_that_is_no_toml_is_one_line_that_quotes_nothing(self, still: Site) -> None:
        path = still.folder / "luigi.toml"
        path.write_text('[spendguard_stripe]\nsecret = "sk_canary\n')
        env = still.environment() | {"LUIGI_CONFIG_PATH": str(path), "LUIGI_CONFIG_PARSER": "toml"}
        _is_one_line(still, env, f"{path}: is no valid TOML", "a text needs quotes")

    def test_luigis_missing_toml_package_is_one_line(self, still: Site) -> None:
        (still.folder / "toml.py").write_text("raise ImportError('not here')\n")
        env = still.environment() | {"LUIGI_CONFIG_PARSER": "toml", "PYTHONPATH": str(still.folder)}
        del env["LUIGI_CONFIG_PATH"]
        for command in ([str(SPENDGUARD), "runs"], [str(LUIGID)]):
            done = subprocess.run(
                command, cwd=still.folder, env=env, capture_output=True, text=True, timeout=60
            )
            assert done.returncode == 2, done.stderr
            assert "pip install 'luigi[toml]'" in done.stderr
            assert len(done.stderr.splitlines()) == 1

    def test_a_file_that_is_missing_is_said(self, still: Site) -> None:
        still.config.unlink()
        code, _, err = installed(still, "runs")
        assert code == 2
        assert f"LUIGI_CONFIG_PATH names {still.config}, which is no file" in err


class TestNames:
    """Task ids and run ids come from pipelines: they are shown, never obeyed."""

    def test_markup_and_control_characters_are_printed_harmlessly(
        self, shared_site: Site, vendor: FakeStripe
    ) -> None:
        unique = uuid.uuid4().hex[:8]
        task_id = f"[red]T[/red]\x1b[31m\r\n\x07:smile:_{unique}"
        pretender = Pretender(shared_site, f"[bold]{unique}[/nope]", task_id)
        with pretender.attempt():
            charge()
        code, out, _ = installed(shared_site, "calls", "--run", pretender.run_id)
        assert code == 0
        assert f"[red]T[/red]?[31m???:smile:_{unique}" in out
        assert all(c.isprintable() or c == "\n" for c in out)
        code, out, _ = installed(shared_site, "runs")
        assert code == 0
        assert pretender.run_id in out
        [call] = answer(shared_site, "calls", "--run", pretender.run_id)
        assert call["task_id"] == task_id

    @pytest.mark.parametrize("odd", ["\x1b[31m", "ends\n"])
    def test_a_task_with_control_characters_is_found_by_its_id(
        self, shared_site: Site, vendor: FakeStripe, odd: str
    ) -> None:
        pretender = Pretender(shared_site, f"r-{uuid.uuid4().hex}", f"{uuid.uuid4().hex}{odd}")
        with pretender.attempt():
            charge()
        assert len(answer(shared_site, "calls", "--task", pretender.task_id)) == 1

    @pytest.mark.parametrize(
        ("odd", "form"),
        [
            ("\x1b[31m", "table"),
            ("\x1b[31m", "json"),
            ("\x9b31m", "table"),
            ("\u202e", "table"),
            ("\x9b31m", "json"),
            ("\u202e", "json"),
        ],
    )
    def test_a_run_with_control_characters_is_shown_without_them(
        self, pretender: Pretender, odd: str, form: str
    ) -> None:
        site, run_id = pretender.site, f"r-{odd}-{uuid.uuid4().hex}"
        Pretender(site, run_id)
        code, out, _ = installed(site, "run", run_id, "--format", form)
        assert code == 0
        assert run_id[-32:] in out
        assert all(c.isprintable() or c == "\n" for c in out)
        if form == "json":
            assert json.loads(out)["run_id"] == run_id

    @pytest.mark.parametrize(
        "form",
        [
            "table",
            "json",
        ],
    )
    def test_an_ascii_terminal_gets_an_answer(self, pretender: Pretender, form: str) -> None:
        run_id = f"Gebühr-{uuid.uuid4().hex}"
        Pretender(pretender.site, run_id)
        code, out, _ = installed(pretender.site, "runs", "--format", form, PYTHONIOENCODING="ascii")
        assert code == 0
        assert run_id[7:] in out


class TestHelp:
    @pytest.mark.parametrize("command", COMMANDS)
    def test_each_command_shows_an_example_of_itself(self, still: Site, command: str) -> None:
        code, out, err = spendguard(still, command, "--help")
        assert (code, err) == (0, "")
        assert f"Example:  spendguard {command}" in out or f"Example: spendguard {command}" in out

    def test_the_command_itself_lists_all_others(self, still: Site) -> None:
        code, out, _ = installed(still, "--help")
        assert code == 0
        assert "Example:" in out
        listed = {line.split()[0] for line in out.partition("Commands:")[2].splitlines() if line.strip()}
        assert set(COMMANDS) <= listed

    def test_an_unknown_command_is_bad_usage(self, still: Site) -> None:
        code, out, err = installed(still, "refund")
        assert (code, out) == (2, "")
        assert "refund" in err

    def test_help_needs_no_luigi_cfg(self, still: Site) -> None:
        still.configure(spendguard={"default_cap_usd": "lots"})
        assert installed(still, "--help")[0] == 0
        assert installed(still, "--version")[0] == 0


def _is_one_line(site: Site, env: dict[str, str], begins: str, says: str) -> None:
    """Both commands end with status 2 and one line that quotes nothing."""
    for prefix, command in (("Error", [SPENDGUARD, "runs"]), ("luigid-spendguard", [LUIGID])):
        done = subprocess.run(
            [str(part) for part in command],
            cwd=site.folder,
            env=env,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith(f"{prefix}: {begins}")
        assert says in done.stderr
        assert "canary" not in done.stderr
        assert len(done.stderr.splitlines()) == 1
