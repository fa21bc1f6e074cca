"""Calls through luigid's gateway, with a vault key."""

from calling import MORE, charge, run

PORT, KEY = int(MORE[0]), MORE[1]


def attempt() -> bool:
    """Call; a reached cap is a 429."""
    status = charge(PORT, "/stripe", KEY)
    assert status in (200, 429), status
    return status == 200


run(attempt)
