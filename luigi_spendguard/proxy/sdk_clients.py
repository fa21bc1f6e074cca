"""What the bindings of SDKs share: a request as an SDK's own client makes it, and our errors as the SDK's.

The errors are of classes that are caught by both names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import requests

from luigi_spendguard.vendors import Request

_classes: dict[tuple[type, type, str], type[Any]] = {}


def also(error: Exception, natural: type[Exception], sdk: str) -> Any:
    """Return `error` as an instance of its own class and of the SDK's `natural`, whose `__init__` is to be
    called: the class is named after `sdk`, and can be pickled, as a task's process pool does.
    """
    return _made((type(error), natural, sdk), error.args, vars(error))


def _made(bases: tuple[Any, Any, str], args: tuple[Any, ...], state: Mapping[str, Any]) -> Exception:
    if bases not in _classes:
        ours, natural, sdk = bases

        def reduced(self: Exception) -> tuple[Any, ...]:
            return _made, (bases, self.args, vars(self))

        body = {"__module__": __name__, "__reduce__": reduced}
        _classes[bases] = type(f"{sdk}{ours.__name__}", (ours, natural), body)
    made = _classes[bases]
    error: Exception = made.__new__(made, *args)  # No `__init__`: they take different arguments.
    vars(error).update(state)
    return error


def prepared(method: str, url: str, headers: Any, **content: Any) -> Request:
    """Return the request that `requests` makes of its arguments. Raises what it does for what is unfit."""
    made = requests.Request(method.upper(), url, headers=headers, **content).prepare()
    body = made.body or b""
    lowered = {name.lower(): value for name, value in made.headers.items() if name != "Content-Length"}
    return Request(
        made.method or "", made.url or "", lowered, body.encode() if isinstance(body, str) else body
    )


def not_sent(vendor: str, error: Exception) -> str:
    """Return the text for a call that never left."""
    return f"could not connect to {vendor}, nothing was sent: {error}"


def not_answered(vendor: str, error: Exception) -> str:
    """Return the text for a call whose exchange broke after its first byte."""
    return (
        f"no reply from {vendor} ({type(error).__name__}): the call may have been executed, and counts as in "
        "doubt until that is known"
    )
