"""A scheduler beside its copy that looks at every pending task: both must say the same."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

from luigi.task_status import RUNNING


def _go_on() -> None:
    """Let the clock go on between two questions."""


def ask_both(scheduler: Any, name: str, **kwargs: Any) -> Any:
    """Ask a scheduler, and a copy of it without `fast_dispatch`; return the answer, which is that of both."""
    return compare(scheduler, [(name, kwargs)])[0]


def compare(
    scheduler: Any, questions: list[tuple[str, dict[str, Any]]], rewind: Callable[[], None] = _go_on
) -> list[Any]:
    """Ask a scheduler some things, and a copy of it without `fast_dispatch`; return the answers of both.

    `rewind`: puts the clock back, so that both are asked at the same time.
    """
    twin = pickle.loads(pickle.dumps(scheduler))
    twin.fast_dispatch = False
    answers = []
    for name, kwargs in questions:
        rewind()
        expected = _ask(twin, name, kwargs)
        rewind()
        answer = _ask(scheduler, name, kwargs)
        assert comparable(answer) == comparable(expected), (name, kwargs)
        answers.append(answer)
    return answers


def batch(reply: dict[str, Any]) -> dict[str, Any]:
    """Return how a worker says that it runs the batch that it was given."""
    return {
        "status": RUNNING,
        "batch_id": reply["batch_id"],
        "family": reply["task_family"],
        "params": reply["task_params"],
    }


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
