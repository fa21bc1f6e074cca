"""A pipeline that sends texts and mails by the vendors' SDKs; one is imported with it, one inside `run()`."""

from __future__ import annotations

import os
from pathlib import Path

import luigi
import resend

from luigi_spendguard import VendorTask

OUT = Path(os.environ["OUT_DIR"])


class Output(luigi.Task):
    retry_count = 1
    customer = luigi.Parameter()

    def output(self) -> luigi.LocalTarget:
        return luigi.LocalTarget(str(OUT / self.task_id))

    def write(self, text: str) -> None:
        if (OUT / "die").exists():
            raise RuntimeError("died after it had sent")
        with self.output().open("w") as file:
            file.write(text)


class Text(VendorTask, Output):
    """Sends a text."""

    def run(self) -> None:
        from twilio.rest import Client

        made = Client(os.environ["TWILIO_ACCOUNT_SID"], os.environ["TWILIO_AUTH_TOKEN"])
        sent = made.messages.create(to=f"+1415555{self.customer}", from_="+15005550006", body="Paid")
        self.write(sent.sid)


class Mail(VendorTask, Output):
    """Sends a mail."""

    def run(self) -> None:
        sent = resend.Emails.send(
            {
                "from": "shop@example.com",
                "to": f"{self.customer}@example.com",
                "subject": "Paid",
                "text": "Thanks",
            }
        )
        self.write(sent["id"])


class Sending(luigi.WrapperTask):
    """A text and a mail for each of `n` customers."""

    n = luigi.IntParameter()
    run_id = luigi.Parameter(significant=False)
    budget_usd = luigi.Parameter(default="", significant=False)

    def requires(self) -> list[luigi.Task]:
        customers = [f"{1000 + number}" for number in range(self.n)]
        return [kind(customer=customer) for customer in customers for kind in (Text, Mail)]
