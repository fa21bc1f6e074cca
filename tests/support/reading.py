"""The pipelines, with the SDK pointed at the fake vendor by the user's own setting."""

import os

import stripe

from tests.support.pipelines import *  # noqa: F403  # Luigi looks for them here

stripe.api_base = os.environ["STRIPE_BASE"]
stripe.api_key = "sk_test_plain"
