"""With what is handed out luigid names the roots among it, each with the run that ends with it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from luigi_spendguard.config import Settings
from luigi_spendguard.http import ledger_client
from luigi_spendguard.money import Micros
from luigi_spendguard.protocol import EndRequest, ReserveRequest
from luigi_spendguard.protocol.rpcs import ClaimRequest, CloseRunRequest, OpenRunRequest
from luigi_spendguard.settings.policy import Caps
from scheduler_patch.local import LocalLedgerClient
from scheduler_patch.scheduler import BudgetScheduler
from scheduler_patch.service import operators
from tests.support.luigids import USD, Luigid


@pytest.fixture
def luigid(tmp_path: Path) -> Iterator[Luigid]:
    made = Luigid(tmp_path)
    yield made
    made.end()


def opened(luigid: Luigid, root: str) -> str:
    """Open the run of a root that has no run_id."""
    run_id: str = luigid.do(luigid.service.open_run(OpenRunRequest(root, True, "Root", root))).run_id
    return run_id


def handed_out(luigid: Luigid, **tasks: Any) -> dict[str, str | None] | None:
    """Let a worker add plain tasks; return the roots that the first reply names."""
    for task_id, said in tasks.items():
        luigid.scheduler.add_task(task_id=task_id, worker="w", family="Root", **said)
    roots: dict[str, str | None] | None = luigid.scheduler.get_work(worker="w", host="h").get(
        "spendguard_roots"
    )
    return roots


def test_the_run_that_a_root_has_now(luigid: Luigid) -> None:
    opened(luigid, "root")
    luigid.do(luigid.service.close_run(CloseRunRequest("root", "root", None)))
    assert opened(luigid, "root") == "root~2"
    assert handed_out(luigid, root={}) == {"root": "root~2"}


def test_each_of_a_batch(luigid: Luigid) -> None:
    luigid.scheduler.add_task_batcher(worker="w", task_family="Root", batched_args=["p"])
    for root in ("a", "c"):
        opened(luigid, root)
    batched = {task_id: {"params": {"p": task_id}, "batchable": True} for task_id in "abc"}
    assert handed_out(luigid, **batched) == {"a": "a", "c": "c"}


def test_one_that_nobody_has_opened_yet(luigid: Luigid) -> None:
    luigid.add("root", "root")
    assert handed_out(luigid) == {"root": None}


def test_nothing_of_what_is_no_root(luigid: Luigid) -> None:
    opened(luigid, "root")
    assert handed_out(luigid, plain={}) is None


def test_one_that_is_complete_says_what_of_it_is_in_doubt_each_time_that_it_is_submitted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = Settings(tmp_path / "books.db", Caps(default=Micros(10 * USD)))
    client = LocalLedgerClient(BudgetScheduler(), settings)
    client.open_run(OpenRunRequest("root", True, "Root", "root"))
    client._scheduler.add_task(task_id="root", worker="w", family="Root", spendguard={"run_id": "root"})
    client._scheduler.get_work(worker="w", host="h")
    key = client.claim(ClaimRequest("claim", "root", "Root", "w", "root")).vault_key
    ask = ReserveRequest("call", "stripe", "a", "o", "POST", "/", target="cus_1", total_micros=USD)
    assert client.reserve(key, ask).verdict == "allowed"
    client.end(key, EndRequest("doubt", "call"))
    for number in (1, 2):
        client.close_run(CloseRunRequest("root", None, str(number)))
    client.close()
    said = "Run root: 1 call is in doubt, $1.00 may have been spent: `spendguard calls --run root --state in_"
    heard = [one.message for one in caplog.records if one.name == ledger_client.__name__]
    assert [one.startswith(said) for one in heard] == [True, True]


def test_of_one_that_is_revoked_nobody_hears_what_it_may_cost(
    luigid: Luigid, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    for number, run_id in enumerate(("r", "r", "another")):
        luigid.run(run_id)
        luigid.add(f"t{number}", run_id, cost="20", worker=f"w{number}")
        luigid.scheduler.add_worker(f"w{number}", [("first_task", f"t{number}")])
        luigid.do(operators.revoke(luigid.service, "r"))
    assert [caplog.text.count(f"Run {run_id} may cost $") for run_id in ("r", "another")] == [1, 1]
