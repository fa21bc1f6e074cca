"""Tasks that call vendors, and write down what their process has loaded for that."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable, Mapping

import luigi
import resend  # noqa: F401  # as a pipeline that mails
import stripe

from luigi_spendguard import VendorTask
from tests.support.pipelines import Output, charge
from tests.support.sdks import mail, text


def rare() -> None:
    stripe.StripeClient(os.environ["STRIPE_SECRET_KEY"]).v1.products.list()


CALLS: Mapping[str, Callable[[], object]] = {
    "stripe": lambda: charge("cus_1"),
    "twilio": text,
    "resend": mail,
    "rare": rare,
}


class Load(VendorTask, Output):
    """Makes one call, and writes down the modules that were loaded for it."""

    call = luigi.Parameter()
    number = luigi.IntParameter(default=0)

    def requires(self) -> list[luigi.Task]:
        return [Load(self.call, self.number - 1)] if self.number else []

    def run(self) -> None:
        threads, before = threading.active_count(), set(sys.modules)
        CALLS[self.call]()
        late = sorted(set(sys.modules) - before)
        self.write(json.dumps({"late": late, "parent": os.getppid(), "threads": threads}))


class LoadAll(luigi.WrapperTask):
    def requires(self) -> list[luigi.Task]:
        return [*map(Load, ("stripe", "twilio", "resend")), Load("rare", 1)]
