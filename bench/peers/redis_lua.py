"""Calls that are reserved in Redis by one script, which adds to the sum only what fits."""

import redis
from calling import CAP, MORE, charge, run

store = redis.Redis(port=int(MORE[0]))
reserve = store.register_script(
    "local spent = tonumber(redis.call('get', KEYS[1]) or '0') "
    "if spent + tonumber(ARGV[1]) > tonumber(ARGV[2]) then return 0 end "
    "redis.call('incrby', KEYS[1], ARGV[1]) return 1"
)


def attempt() -> bool:
    """Reserve, and call."""
    return bool(reserve(["spent"], [1, CAP])) and charge() == 200


run(attempt)
