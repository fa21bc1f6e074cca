"""When a worker says what others of its host have left: before it opens a run, and when it lets go."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import luigi

from luigi_spendguard.worker.runs import RootTask
from luigi_spendguard.worker.state import GuardState


class Recorder:
    """A ledger's client that remembers what it is asked to do."""

    url = None

    def __init__(self) -> None:
        self.done: list[str] = []

    def take_over(self, *, at_once: bool = False) -> None:
        self.done.append("take over at once" if at_once else "take over")

    def open_run(self, request: Any) -> Any:
        self.done.append("open")
        return SimpleNamespace(run_id="r", note="", label="", remaining_usd="1", state="active")

    def close(self) -> None:
        self.done.append("close")


class Root(luigi.Task):
    pass


def state_of(client: Any) -> GuardState:
    state = GuardState(SimpleNamespace(_scheduler=None))
    state._client = client
    return state


def test_before_it_opens_a_run_which_may_have_to_be_ended() -> None:
    client = Recorder()
    assert state_of(client).open_run(RootTask(Root())) == "r"
    assert client.done == ["take over at once", "open"]


def test_before_a_task_is_started_which_may_call_again_what_another_has_called() -> None:
    client, settings = Recorder(), SimpleNamespace(vendor_tasks=(), passed_over=())
    state = state_of(client)
    state._settings = settings
    process = SimpleNamespace(task=Root(), use_multiprocessing=False)
    state.prepare(process, [])
    assert (client.done, process.client, process.refusal) == (["take over"], client, "")


def test_before_it_lets_go_as_its_children_have() -> None:
    client = Recorder()
    state_of(client).close()
    assert client.done == ["take over at once", "close"]
