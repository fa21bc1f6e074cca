"""Idempotency keys as SDKs make them up for a call that was given none: a fresh one each time.

By each SDK's own source, read in November 2026. Stripe's Python, PHP, Ruby, Java and .NET make a plain UUID
of version 4 (`uuid.uuid4`, `RandomGenerator::uuid`, `SecureRandom.uuid`, `UUID.randomUUID`, `Guid.NewGuid`),
stripe-node puts `stripe-node-retry-` before it (`_defaultIdempotencyKey`), stripe-go writes the clock's
nanoseconds and four random bytes (`NewIdempotencyKey`). SDKs that Stainless generates (OpenAI, Anthropic and
many more) put `stainless-<language>-retry-` before it; clients that APIMatic generates send a plain `Guid`.
"""

from __future__ import annotations

import base64
import os
import time
import uuid
from collections.abc import Callable, Mapping

from luigi_spendguard.protocol import OWN_KEY


def _go() -> str:
    return f"{time.time_ns()}_{base64.urlsafe_b64encode(os.urandom(4)).decode()[:6]}"


MADE_UP: Mapping[str, Callable[[], str]] = {
    "our own": lambda: f"{OWN_KEY}{uuid.uuid4()}",
    "stripe-python, -php, -ruby, -java, .NET": lambda: str(uuid.uuid4()),
    "in capitals": lambda: str(uuid.uuid4()).upper(),
    "without dashes": lambda: uuid.uuid4().hex,
    "in the quotes of the header's draft": lambda: f'"{uuid.uuid4()}"',
    "as a GUID in braces": lambda: f"{{{uuid.uuid4()}}}",
    "as a URN": lambda: uuid.uuid4().urn,
    "stripe-node": lambda: f"stripe-node-retry-{uuid.uuid4()}",
    "stripe-go": _go,
    "stripe-go, with both signs": lambda: f"{time.time_ns()}_-_{os.urandom(2).hex()}",
    "stainless, python": lambda: f"stainless-python-retry-{uuid.uuid4()}",
    "stainless, node": lambda: f"stainless-node-retry-{uuid.uuid4()}",
    "stainless, java": lambda: f"stainless-java-retry-{uuid.uuid4()}",
    "stainless, ruby": lambda: f"stainless-ruby-retry-{uuid.uuid4()}",
    "stainless, in capitals": lambda: f"Stainless-Kotlin-Retry-{str(uuid.uuid4()).upper()}",
    "another of the kind": lambda: f"acme_sdk-retry_{uuid.uuid4()}",
}
