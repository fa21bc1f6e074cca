"""A scheduler beside its copy that looks at every pending task: both must say the same."""

from __future__ import annotations

import pickle
from typing import Any


def ask_both(scheduler: Any, name: str, **kwargs: Any) -> Any:
    """Ask a scheduler, and a copy of it without `fast_dispatch`; return the answer, which is that of both."""
    twin = pickle.loads(pickle.dumps(scheduler))
    twin.fast_dispatch = False
    expected, answer = _ask(twin, name, kwargs), _ask(scheduler, name, kwargs)
    assert comparable(answer) == comparable(expected), (name, kwargs)
    return answer


def _ask(scheduler: Any, name: str, kwargs: dict[str, Any]) -> Any:
    try:
        return getattr(scheduler, name)(**kwargs)
    except KeyError as error:  # Luigi 3.8 hands out tasks that it has dropped (`Worker.tasks`), and fails.
        return {"error": repr(error)}


def comparable(reply: Any) -> Any:
    """Return a reply without times, and without the order that a set has given it."""
    if not isinstance(reply, dict):
        return reply
    if "last_updated" in reply:  # Of `re_enable_task`: when depends on how often the clock was asked.
        return reply["status"]
    running = sorted(reply.get("running_tasks", ()), key=lambda one: str(one["task_id"]))
    return {**reply, "running_tasks": running}
