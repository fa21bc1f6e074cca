"""How long the state machines that hypothesis drives go on."""

from __future__ import annotations

from hypothesis import HealthCheck, settings


def steps_of(engine: str) -> settings:
    """Return how many histories of how many steps there are; a server makes a database for each of them."""
    examples = settings().max_examples
    return settings(
        max_examples=examples if engine == "sqlite" else max(1, examples // 3),
        stateful_step_count=40,
        suppress_health_check=list(HealthCheck),
    )
