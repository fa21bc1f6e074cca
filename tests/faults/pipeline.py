"""What is run while things fail: tasks that charge customers, of whom each is to pay once."""

from __future__ import annotations

import os
import random
import threading
import time
from typing import Any

import luigi
import stripe
from twilio.rest import Client

from luigi_spendguard import KeyRevoked, VendorTask
from luigi_spendguard.http.ledger_client import HttpLedgerClient
from luigi_spendguard.worker.process import blocking
from tests.support.pipelines import OUT, Output, charge, note

stripe.max_network_retries = 1


class Pay(VendorTask, Output):
    """Charges a customer $1."""

    vendors = ("stripe",)
    customer = luigi.Parameter()

    def run(self) -> None:
        paid = charge(self.customer)
        if (OUT / "fail").exists():
            length = int((OUT / "fail").read_text() or 20_000)
            raise RuntimeError(f"it has much to say: {'x' * length}")
        self.write(paid.id)


class PayAll(luigi.WrapperTask):
    """Charges the customers `first` to `first + n - 1` of a list."""

    of = luigi.Parameter()
    first = luigi.IntParameter(default=0)
    n = luigi.IntParameter()
    run_id = luigi.Parameter(default="", significant=False)
    budget_usd = luigi.Parameter(default="", significant=False)

    def requires(self) -> list[luigi.Task]:
        return [Pay(f"{self.of}_{number}") for number in range(self.first, self.first + self.n)]


class Text(VendorTask, Output):
    """Sends a text."""

    vendors = ("twilio",)
    to = luigi.Parameter()

    def run(self) -> None:
        client = Client(os.environ["TWILIO_ACCOUNT_SID"], os.environ["TWILIO_AUTH_TOKEN"])
        self.write(client.messages.create(to=self.to, from_="+15005550006", body="Paid").sid)


class TextAll(luigi.WrapperTask):
    """Sends a text to `n` numbers that begin so."""

    to = luigi.Parameter()
    n = luigi.IntParameter()
    run_id = luigi.Parameter(default="", significant=False)

    def requires(self) -> list[luigi.Task]:
        return [Text(f"{self.to}{1000 + number}") for number in range(self.n)]


class Insist(VendorTask, Output):
    """Charges one customer after the other, whatever it is told, until there is a file `enough`.

    Between a grant and its send it takes its time, less than the grant lives. What it is told of a revoke is
    a line of the file `told`.
    """

    vendors = ("stripe",)
    of = luigi.Parameter()
    run_id = luigi.Parameter()

    def run(self) -> None:
        reserve = HttpLedgerClient.reserve

        def taking_its_time(*args: Any) -> Any:
            answer = reserve(*args)
            time.sleep(random.random())
            return answer

        HttpLedgerClient.reserve = taking_its_time  # type: ignore[method-assign]
        threads = [threading.Thread(target=self.insist, args=(name,)) for name in "abcdef"]
        for one in threads:
            one.start()
        for one in threads:
            one.join()

    def insist(self, name: str) -> None:
        number = 0
        while not (OUT / "enough").exists():
            try:
                charge(f"{self.of}_{name}{number}")
                number += 1
                time.sleep(random.random())  # It is revoked before it has spent all.
            except Exception as error:  # Or luigid was killed, or a connection broke.
                if isinstance(blocking(error), KeyRevoked):
                    note("told", name)
                time.sleep(0.1)
