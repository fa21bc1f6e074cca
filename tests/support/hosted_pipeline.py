"""A pipeline written for a hosted vault-key proxy: it knows nothing of luigi_spendguard."""

from __future__ import annotations

import json
import os
import urllib.request
from pathlib import Path

import luigi
import stripe

HOST = os.environ["VAULT_HOST"]
OUT = Path(os.environ["OUT_DIR"])


class VaultKey(luigi.Task):
    run_id = luigi.Parameter()

    def output(self):
        return luigi.LocalTarget(str(OUT / f"{self.run_id}.key.json"))

    def run(self):
        body = {
            "vendor": "stripe",
            "daily_usd_cap": 3,
            "allowed_endpoints": ["POST /v1/payment_intents"],
            "expires_in": "4h",
            "agent_run_label": f"luigi/{self.run_id}",
        }
        request = urllib.request.Request(
            f"{HOST}/vault/keys", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request) as reply, self.output().open("w") as out:
            json.dump({"vault_key": json.load(reply)["vault_key"]}, out)


class Charge(luigi.Task):
    run_id = luigi.Parameter()
    customer = luigi.Parameter()

    def requires(self):
        return VaultKey(self.run_id)

    def output(self):
        return luigi.LocalTarget(str(OUT / f"{self.run_id}.{self.customer}.txt"))

    def run(self):
        with self.input().open() as key:
            stripe.api_key = json.load(key)["vault_key"]
        stripe.api_base = f"{HOST}/stripe"
        try:
            intent = stripe.PaymentIntent.create(
                amount=100,
                currency="usd",
                customer=self.customer,
                confirm=True,
                payment_method="pm_card_visa",
                idempotency_key=f"{self.run_id}-{self.customer}",
            )
            said = intent.id
        except stripe.RateLimitError as error:
            if error.headers["X-Keybrake-Cap-Hit"] != "true":
                raise
            said = "over the cap"
        with self.output().open("w") as out:
            out.write(said)


class Billing(luigi.WrapperTask):
    run_id = luigi.Parameter()

    def requires(self):
        return [Charge(self.run_id, f"cus_{n}") for n in range(5)]
