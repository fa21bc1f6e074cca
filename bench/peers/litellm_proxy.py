"""Completions through LiteLLM's proxy, of a model that costs a dollar a call."""

import json

from calling import MORE, post, run

BODY = json.dumps({"model": "dollar", "messages": [{"role": "user", "content": "charge"}]})
HEADERS = {"Content-Type": "application/json", "Authorization": f"Bearer {MORE[1]}"}


def attempt() -> bool:
    """Call; whatever is no 200 is a refusal."""
    return post(int(MORE[0]), "/v1/chat/completions", BODY, HEADERS) == 200


run(attempt)
