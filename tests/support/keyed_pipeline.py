"""A pipeline for workers without the plugin: its key is a `VaultKeyTask`'s."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import luigi
import stripe
from luigi.contrib.external_program import ExternalProgramTask

from luigi_spendguard import VaultKeyTask

assert "luigi_spendguard.worker" not in sys.modules, "importing VaultKeyTask patches nothing"


class Charged(luigi.Task):
    run_id = luigi.Parameter()
    customer = luigi.Parameter()
    cap = luigi.Parameter()

    def requires(self):
        return VaultKeyTask(run_id=self.run_id, run_usd_cap=self.cap)

    def output(self):
        return luigi.LocalTarget(str(Path(os.environ["OUT_DIR"]) / f"{self.customer}.txt"))

    def run(self):
        with self.input().open() as file:
            said = json.load(file)
        stripe.api_key, stripe.api_base = said["vault_key"], said["api_base"]
        try:
            done = stripe.PaymentIntent.create(
                amount=100,
                currency="usd",
                customer=self.customer,
                confirm=True,
                payment_method="pm_x",
                idempotency_key=self.customer,
            ).id
        except stripe.RateLimitError:
            done = "over the cap"
        with self.output().open("w") as out:
            out.write(done)


class Keyed(luigi.WrapperTask):
    run_id = luigi.Parameter()
    n = luigi.IntParameter()
    cap = luigi.Parameter()

    def requires(self):
        return [Charged(self.run_id, f"cus_{n}", self.cap) for n in range(self.n)]


class Program(ExternalProgramTask):
    """Gives its key to a program that fails; Luigi's error then shows the whole command."""

    def requires(self):
        return VaultKeyTask(run_id="r")

    def program_args(self):
        with self.input().open() as file:
            key = json.load(file)["vault_key"]
        self.set_status_message(f"uses {key}")
        self.set_tracking_url(f"https://status.example/?key={key}")
        return [sys.executable, "-c", "raise SystemExit(3)", key]
