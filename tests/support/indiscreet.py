"""A pipeline whose tasks say on purpose all that they should not; for the search for canaries."""

from __future__ import annotations

import base64
import logging
import os
import sys
import traceback
from pathlib import Path
from urllib.parse import quote

import luigi
import luigi.configuration
import stripe

#: What the environment holds before the guard comes; afterwards it has nothing that is secret.
BEFORE = {name: os.environ.get(name, "") for name in ("STRIPE_SECRET_KEY", "STRIPE_API_KEY")}

from luigi_spendguard import VendorTask  # noqa: E402  # after that

OUT = Path(os.environ["OUT_DIR"])
luigi_log = logging.getLogger("luigi-interface")
own_log = logging.getLogger("a.pipeline's.own")


def configured() -> str:
    """Return the secret as any code of the worker can read it from a luigi.cfg that holds it."""
    return str(luigi.configuration.get_config().get("spendguard_stripe", "secret"))


def forms(value: str) -> str:
    """Return a value as it is and as it may be encoded, one form a line."""
    basic = base64.b64encode(f"{value}:".encode()).decode()
    return f"{value}\n{quote(value, safe='')}\nBasic {basic}\n{ {'key': value} }"


class Output(luigi.Task):
    retry_count = 1

    def output(self) -> luigi.LocalTarget:
        return luigi.LocalTarget(str(OUT / self.task_id))

    def done(self) -> None:
        with self.output().open("w") as file:
            file.write("done")


class Charge(VendorTask, Output):
    """Charges; `how` is what goes wrong afterwards."""

    how = luigi.Parameter()
    turn = luigi.Parameter()
    amount = luigi.IntParameter(default=100)

    def run(self) -> None:
        more = {"api_key": "sk_test_other_canary"} if self.how == "scope" else {}
        customer = f"cus_{self.how}_{self.turn}"
        stripe.PaymentIntent.create(
            amount=self.amount,
            currency="usd",
            customer=customer,
            confirm=True,
            payment_method="pm_card_visa",
            **more,
        )
        getattr(self, f"do_{self.how}", lambda: None)()
        self.done()

    def do_leak(self) -> None:
        stripe.Customer.create(email="leak@example.com")  # The vendor's answer holds the secret.

    def do_crash(self) -> None:
        raise RuntimeError("crashed after it had charged")

    def do_environ(self) -> None:
        raise RuntimeError(f"environment: {dict(os.environ)}")

    def do_config(self) -> None:
        raise RuntimeError(f"configuration: {forms(configured())}")

    def do_print(self) -> None:
        print("printed", stripe.api_key, os.environ["STRIPE_SECRET_KEY"])
        print(forms(configured()), file=sys.stderr)
        sys.stdout.writelines([f"written {stripe.api_key}\n"])

    def do_log(self) -> None:
        for log in (luigi_log, own_log, logging.getLogger()):
            log.info("logged %s and %s", stripe.api_key, {"key": configured()})
            log.warning("logged " + forms(str(stripe.api_key)))
            log.error("logged %d", stripe.api_key, stack_info=True)

    def do_locals(self) -> None:
        key, secret = stripe.api_key, configured()
        try:
            stripe.PaymentIntent.create(amount=99_999_900, currency="usd", customer="cus_locals")
        except stripe.StripeError as error:
            seen = traceback.TracebackException.from_exception(error, capture_locals=True)
            own_log.error("locals of %s: %s", (key, secret), "".join(seen.format()))
            raise RuntimeError("".join(seen.format())) from error

    def do_status(self) -> None:
        self.set_status_message(f"status {stripe.api_key} {configured()}")
        self.set_tracking_url(f"http://tracking.example/?key={quote(str(stripe.api_key))}")

    def do_yield(self):
        raise RuntimeError(forms(str(stripe.api_key)))

    def on_failure(self, exception: BaseException) -> object:
        if self.how == "yield":
            return {"its own": [forms(configured()), str(exception)], "words": forms(str(stripe.api_key))}
        return super().on_failure(exception)


class Plain(Output):
    """A plain task of the same pipeline: its module has kept the real secret."""

    turn = luigi.Parameter()

    def run(self) -> None:
        print("plain", os.environ | BEFORE, forms(BEFORE["STRIPE_SECRET_KEY"]))
        own_log.info("plain %s", os.environ | BEFORE)
        raise RuntimeError(f"plain: {os.environ | BEFORE} {forms(BEFORE['STRIPE_SECRET_KEY'])}")


class Unready(Output):
    """Fails while it is scheduled."""

    where = luigi.Parameter()
    turn = luigi.Parameter()

    def complete(self) -> bool:
        if self.where == "complete":
            raise RuntimeError(f"unready: {forms(BEFORE['STRIPE_SECRET_KEY'])} {os.environ | BEFORE}")
        return super().complete()

    def requires(self) -> list[luigi.Task]:
        if self.where == "requires":
            raise RuntimeError(f"unready: {forms(BEFORE['STRIPE_SECRET_KEY'])} {os.environ | BEFORE}")
        return []


class Root(luigi.WrapperTask):
    run_id, budget_usd = "canary", "40"
    turn = luigi.Parameter()

    def requires(self) -> list[luigi.Task]:
        hows = (
            "good",
            "crash",
            "scope",
            "leak",
            "environ",
            "config",
            "print",
            "log",
            "locals",
            "status",
            "yield",
        )
        return [
            *(Charge(how=how, turn=self.turn) for how in hows),
            Charge(how="rich", turn=self.turn, amount=99_900),
            Plain(turn=self.turn),
            *(Unready(where=where, turn=self.turn) for where in ("complete", "requires")),
        ]
