"""A text's price that comes late corrects the run, whoever has the secret; judged by Twilio's books."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.processes import wait_until
from tests.support.site import Site
from tests.support.vendors import FakeTwilio

MODULE = "tests.support.racing_pipeline"
PRICES = {"sms_prices": "1: 0.05", "sms_fees": "1: 0"}


@pytest.fixture
def twilio(tmp_path: Path) -> Iterator[FakeTwilio]:
    fake = FakeTwilio(tmp_path / "twilio")
    fake.control(options={"sms_price": {"1": "0.01"}, "send_delay": 0.1, "price_delay": 0})
    yield fake
    fake.process.end()


def billed(twilio: FakeTwilio) -> str:
    return f"{twilio.billed() / 1_000_000:.2f}"


def test_a_worker_that_has_the_secret_asks_while_it_runs(tmp_path: Path, twilio: FakeTwilio) -> None:
    with Site(tmp_path / "site", twilio=twilio, spendguard_twilio=PRICES) as site:
        code, out = site.luigi(
            "SendAndWait", "--seconds", "8", "--run-id", "a", "--workers", "2", module=MODULE
        )
        assert code == 0, out
        assert site.run("a")["spent_usd"] == billed(twilio) == "0.01"
        [call] = [call for call in site.calls("a") if call["method"] == "POST"]
        assert (call["estimated"], call["corrections"][0]["usd"]) == (False, "-0.04")


def test_the_next_worker_asks_for_what_an_earlier_one_was_not_told(
    tmp_path: Path, twilio: FakeTwilio
) -> None:
    twilio.control(options={"price_delay": 3600})
    with Site(tmp_path / "site", twilio=twilio, spendguard_twilio=PRICES) as site:
        site.luigi("SendAndWait", "--seconds", "0", "--run-id", "a", module=MODULE)
        assert site.run("a")["spent_usd"] == "0.05"
        assert site.calls("a")[-1]["estimated"] is True
        assert site.luigid is not None
        site.luigid.end()
        site.start()
        twilio.control(options={"price_delay": 0})
        site.luigi("SendAndWait", "--seconds", "8", "--run-id", "b", module=MODULE)
        assert site.run("a")["spent_usd"] == "0.01"


def test_with_a_local_scheduler_the_worker_asks_at_its_end(tmp_path: Path, twilio: FakeTwilio) -> None:
    with Site(tmp_path / "site", twilio=twilio, start=False, spendguard_twilio=PRICES) as site:
        code, out = site.luigi(
            "SendAndWait",
            "--seconds",
            "3",
            "--run-id",
            "a",
            "--local-scheduler",
            "--workers",
            "2",
            module=MODULE,
        )
        assert code == 0, out
        site.start()
        assert site.run("a")["spent_usd"] == billed(twilio) == "0.01"


def test_luigid_asks_where_it_is_the_gateway_and_goes_on_after_a_kill(
    tmp_path: Path, twilio: FakeTwilio
) -> None:
    twilio.control(options={"price_delay": 3600})
    with Site(tmp_path / "site", twilio=twilio, gateway=True, spendguard_twilio=PRICES) as site:
        site.luigi("SendAndWait", "--seconds", "0", "--run-id", "a", module=MODULE)
        assert site.run("a")["spent_usd"] == "0.05"
        assert site.luigid is not None
        site.luigid.kill()
        twilio.control(options={"price_delay": 0})
        site.start()
        wait_until(lambda: site.run("a")["spent_usd"] == "0.01", what="the price")


def test_what_twilio_bills_beyond_the_operators_price_freezes_the_run(
    tmp_path: Path, twilio: FakeTwilio
) -> None:
    cheap = {"sms_prices": "1: 0.001", "sms_fees": "1: 0"}
    with Site(tmp_path / "site", twilio=twilio, gateway=True, spendguard_twilio=cheap) as site:
        site.luigi("SendAndWait", "--seconds", "0", "--run-id", "a", module=MODULE)
        wait_until(lambda: site.run("a")["state"] == "frozen", what="the price")
        run = site.run("a")
        assert (run["spent_usd"], run["overrun_usd"]) == ("0.001", "0.009")


def test_in_shadow_mode_a_frozen_runs_caps_have_not_sufficed(tmp_path: Path, twilio: FakeTwilio) -> None:
    cheap = {"sms_prices": "1: 0.001", "sms_fees": "1: 0"}
    shadow = {"mode": "shadow"}
    with Site(
        tmp_path / "site", twilio=twilio, gateway=True, spendguard_twilio=cheap, spendguard=shadow
    ) as site:
        out = site.luigi("SendAndWait", "--seconds", "0", "--run-id", "a", module=MODULE)[1]
        assert "* run a: its caps sufficed" in out
        wait_until(lambda: site.run("a")["state"] == "frozen", what="the price")
        out = site.luigi("SendAndWait", "--seconds", "1", "--run-id", "a", module=MODULE)[1]
        assert "* run a: no call lacked room, but it is frozen: enforced, nothing more would be spent" in out
