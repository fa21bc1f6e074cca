"""A price that is changed in luigi.cfg between two attempts sends nothing twice, and stops nobody."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.site import Site
from tests.support.vendors import FakeResend, FakeTwilio

MODULE = "tests.support.sending_pipeline"


@pytest.fixture
def site(tmp_path: Path, gateway: bool) -> Iterator[Site]:
    twilio, resend = FakeTwilio(tmp_path / "twilio"), FakeResend(tmp_path / "resend")
    try:
        with Site(tmp_path / "site", twilio=twilio, resend=resend, gateway=gateway) as site:
            site.twilio, site.resend = twilio, resend
            yield site
    finally:
        twilio.process.end()
        resend.process.end()


@pytest.mark.parametrize("gateway", [False, True], ids=["worker", "gateway"])
def test_tasks_that_had_sent_and_died_get_their_answers(site: Site) -> None:
    arguments = ("Sending", "--n", "2", "--run-id", "r")
    (site.folder / "out" / "die").touch()
    site.luigi(*arguments, module=MODULE)
    (site.folder / "out" / "die").unlink()
    sent = len(site.twilio.sent()), site.resend.mails()
    spent = site.run("r")["spent_usd"]
    assert site.luigid is not None
    site.luigid.end()
    (site.folder / "state").unlink()  # It has the tasks as disabled: they are not to be retried.
    site.restart(
        spendguard_twilio={"sms_prices": "1: 0.5", "sms_fees": "1: 0"},
        spendguard_resend={"email_price": "0.5"},
    )
    code, said = site.luigi(*arguments, module=MODULE)
    assert code == 0, said
    assert "This progress looks :)" in said
    assert (sent, len(site.twilio.sent()), site.resend.mails()) == ((2, 2), 2, 2)
    assert site.run("r")["spent_usd"] == spent
