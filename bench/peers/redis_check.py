"""Calls whose sum is kept in Redis: it is read before a call, and added to after it."""

import redis
from calling import CAP, MORE, charge, run

store = redis.Redis(port=int(MORE[0]))


def attempt() -> bool:
    """Look, call, and add."""
    if int(store.get("spent") or 0) + 1 > CAP:
        return False
    status = charge()
    store.incrby("spent", 1)
    return status == 200


run(attempt)
