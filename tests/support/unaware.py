"""A module of a pipeline's that imports nothing of luigi_spendguard: what a pool's children run."""

from __future__ import annotations

import os
import signal
import time


def charge(customer: str, secret: str, base: str) -> str:
    """Charge $1 with `secret` (else what the environment has) at `base`, as if there were no guard."""
    import stripe

    stripe.enable_telemetry = False
    client = stripe.StripeClient(
        secret or os.environ["STRIPE_SECRET_KEY"], base_addresses={"api": base}, max_network_retries=0
    )
    try:
        client.v1.payment_intents.create(
            params={
                "amount": 100,
                "currency": "usd",
                "customer": customer,
                "payment_method": "pm_card_visa",
                "confirm": True,
            }
        )
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "charged"


def nap(seconds: float, out: str) -> None:
    """Say who sleeps, then sleep."""
    with open(out, "a", encoding="utf-8") as file:
        file.write(f"{os.getpid()}\n")
    time.sleep(seconds)


def deafened() -> None:
    """Care about no signal that can be ignored."""
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
