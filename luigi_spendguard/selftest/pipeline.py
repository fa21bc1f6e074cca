"""The self-test's pipeline: tasks that charge at once, each in a process of its own."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from pathlib import Path

import luigi
import stripe

from luigi_spendguard import SpendDenied, VendorTask

#: Seconds for which a task waits until all others have been started, too.
_START_S = 30.0

stripe.enable_telemetry = False


class SpendguardSelfTestCharge(VendorTask, luigi.Task):
    """Asks for `charges` charges of `cents` each, and writes down what became of them."""

    vendors = ("stripe",)
    retry_count = 1
    number = luigi.IntParameter()
    tasks = luigi.IntParameter()
    charges = luigi.IntParameter()
    cents = luigi.IntParameter()
    folder = luigi.Parameter()

    def output(self) -> luigi.LocalTarget:
        return luigi.LocalTarget(str(Path(self.folder) / f"worker-{self.number}.json"))

    def run(self) -> None:
        # Without a guard in its way the SDK would call the fake vendor itself, and be counted, too.
        stripe.api_base = os.environ["SPENDGUARD_SELF_TEST_VENDOR"]
        key = os.environ.get("STRIPE_SECRET_KEY")
        self._wait_for_the_others()
        charged, refused, failed = 0, Counter[str](), []
        for turn in range(self.charges):
            try:
                stripe.PaymentIntent.create(
                    amount=self.cents,
                    currency="usd",
                    customer=f"cus_selftest{self.number}x{turn}",
                    payment_method="pm_card_visa",
                    confirm=True,
                    api_key=key,
                )
                charged += 1
            except SpendDenied as denied:
                refused[denied.reason] += 1
                message = str(denied)
            except Exception as error:  # Said by the self-test, which fails.
                failed.append(f"{type(error).__name__}: {error}")
        report = {"pid": os.getpid(), "charged": charged, "refused": refused, "failed": failed}
        if refused:
            report["message"] = message
        with self.output().open("w") as file:
            json.dump(report, file)

    def _wait_for_the_others(self) -> None:
        folder = Path(self.folder)
        (folder / f"started-{self.number}").touch()
        limit = time.monotonic() + _START_S
        while len(list(folder.glob("started-*"))) < self.tasks and time.monotonic() < limit:
            time.sleep(0.01)


class SpendguardSelfTest(luigi.WrapperTask):
    """A run whose tasks ask for many times its cap."""

    run_id = luigi.Parameter()
    tasks = luigi.IntParameter()
    charges = luigi.IntParameter()
    cents = luigi.IntParameter()
    folder = luigi.Parameter()

    def requires(self) -> list[luigi.Task]:
        return [
            SpendguardSelfTestCharge(
                number=number,
                tasks=self.tasks,
                charges=self.charges,
                cents=self.cents,
                folder=self.folder,
            )
            for number in range(self.tasks)
        ]
