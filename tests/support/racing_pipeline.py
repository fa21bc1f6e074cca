"""Texts and mails that race for one cap, and tasks that send and die."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import luigi
import resend
from twilio.rest import Client

from luigi_spendguard import BudgetExceeded, VendorTask

OUT = Path(os.environ["OUT_DIR"])


def send(vendor: str, number: int, text: str) -> str:
    """Send one text or mail; return the vendor's id of it."""
    if vendor == "twilio":
        sent = Client().messages.create(to=f"+1415{5550000 + number}", from_="+14155559999", body=text)
        return str(sent.sid)
    mail = {"from": "shop@example.com", "to": f"{number}@example.com", "subject": "Paid", "text": text}
    return str(resend.Emails.send(mail)["id"])


class Output(luigi.Task):
    retry_count = 20
    vendor = luigi.Parameter()
    run_id = luigi.Parameter(significant=False)

    def output(self) -> luigi.LocalTarget:
        return luigi.LocalTarget(str(OUT / self.task_id))

    def write(self, text: str = "") -> None:
        with self.output().open("w") as file:
            file.write(text)


class ManyThreads(VendorTask, Output):
    """One task whose threads all send until there is no money left."""

    run_id = luigi.Parameter()
    threads = luigi.IntParameter(default=64)

    def run(self) -> None:
        together = threading.Barrier(self.threads)

        def work(number: int) -> None:
            together.wait()
            for turn in range(10_000):
                try:
                    send(self.vendor, number, f"{self.run_id} {turn}")
                except BudgetExceeded:
                    return

        workers = [threading.Thread(target=work, args=(n,)) for n in range(self.threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        self.write()


class Spender(VendorTask, Output):
    """Sends until it is denied; several of them race."""

    name = luigi.IntParameter()
    race = luigi.Parameter()

    def run(self) -> None:
        while not (OUT / f"go-{self.race}").exists():
            time.sleep(0.005)
        turn = 0
        while True:
            send(self.vendor, self.name, f"{self.race} {turn}")
            turn += 1


class Race(luigi.WrapperTask):
    """`n` tasks that race, each in a process of its own."""

    vendor = luigi.Parameter()
    run_id = luigi.Parameter(significant=False)
    n = luigi.IntParameter(default=16)

    def requires(self) -> list[luigi.Task]:
        return [
            Spender(vendor=self.vendor, run_id=self.run_id, name=name, race=self.run_id)
            for name in range(self.n)
        ]


class SendAndDie(VendorTask, Output):
    """Sends, and is killed before Luigi hears of it: the first time it is tried."""

    number = luigi.IntParameter()
    how = luigi.Parameter(default="kill", significant=False)

    def run(self) -> None:
        sent = send(self.vendor, self.number, f"Your order {self.number} is paid")
        tried = OUT / f"tried-{self.vendor}-{self.number}"
        if not tried.exists():
            tried.touch()
            if self.how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise RuntimeError("died after it had sent")
        self.write(sent)


class Mailing(luigi.WrapperTask):
    """A text or a mail to each of `n` customers, from number `first` on."""

    vendor = luigi.Parameter()
    run_id = luigi.Parameter(default="", significant=False)
    first = luigi.IntParameter()
    n = luigi.IntParameter()
    how = luigi.Parameter(default="kill", significant=False)

    def requires(self) -> list[luigi.Task]:
        return [
            SendAndDie(vendor=self.vendor, run_id=self.run_id, number=number, how=self.how)
            for number in range(self.first, self.first + self.n)
        ]


class SendAndWait(VendorTask, Output):
    """Sends a text, and goes on with something else for a while."""

    vendor = luigi.Parameter(default="twilio")
    seconds = luigi.IntParameter()

    def run(self) -> None:
        sent = send(self.vendor, 1, "Your order is on its way")
        time.sleep(self.seconds)
        self.write(sent)
