"""What is blocked is not dispatched again and again, whoever else has submitted it, whatever denies it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import python
from tests.support.site import Site

PIPELINE = "tests.support.blocking_pipeline"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    tokens = {"worker_token": "the-right-worker-token", "admin_token": "the-operators-admin-token"}
    with Site(tmp_path / "site", spendguard=tokens) as site:
        yield site


def denied(site: Site) -> list[dict[str, object]]:
    status, found = site.call("GET", "/calls", token="the-operators-admin-token")
    assert status == 200, found
    return [call for call in found if str(call["verdict"]).startswith("denied")]


def misconfigured(site: Site, old: str, new: str) -> str:
    """Return the path of a luigi.cfg in which a worker has something wrong."""
    path = site.folder / "wrong.cfg"
    text = site.config.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    return str(path)


@pytest.mark.parametrize(
    ("old", "new", "keep_alive"),
    [
        ("the-right-worker-token", "a-wrong-worker-token", "false"),
        ("the-right-worker-token", "a-wrong-worker-token", "true"),
        ("default_cap_usd", "defautl_cap_usd", "false"),
    ],
    ids=["token", "token-and-both-stay", "misspelt"],
)
def test_a_run_that_cannot_be_opened_keeps_no_worker_busy(
    site: Site, old: str, new: str, keep_alive: str
) -> None:
    # Who stays waits for what has failed at the other worker: let Luigi look for that with each question.
    site.restart(worker={"keep_alive": keep_alive}, scheduler={"prune_on_get_work": "true"})
    first = site.worker(
        "Billing", "--n", "3", "--run-id", "never", LUIGI_CONFIG_PATH=misconfigured(site, old, new)
    )
    try:
        if keep_alive == "false":
            first.communicate(timeout=60)
        code, said = site.luigi("Billing", "--n", "3", "--budget-usd", "1", "--run-id", "capped", timeout=60)
    finally:
        first.kill()
        first.communicate()
    assert "2 tasks blocked" in said
    assert site.stripe.moved() == 100
    assert len(denied(site)) <= 4, "each task is denied once"
    site.call("POST", "/runs/capped/top_up", {"usd": "2"}, token="the-operators-admin-token")
    code, said = site.luigi("Billing", "--n", "3", "--budget-usd", "1", "--run-id", "capped", timeout=60)
    assert (code, site.stripe.moved()) == (0, 300), said


def test_nor_does_a_worker_without_the_plugin(site: Site) -> None:
    """Its families are vendor tasks by their pattern; it runs none of them here."""
    site.configure(spendguard={"vendor_tasks": "Charge"})
    for task in range(3):
        site.rpc(
            "add_task",
            worker="stock",
            task_id=f"Charge_100_cus_{task}_x",
            family="Charge",
            runnable=True,
            params={"customer": f"cus_{task}", "amount": "100"},
            module="tests.support.pipelines",
        )
    code, said = site.luigi("Billing", "--n", "3", "--budget-usd", "1", "--run-id", "capped", timeout=60)
    assert (code, site.stripe.moved()) == (0, 100), said


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_task_that_calls_itself_denied_comes_back_once(site: Site, workers: str) -> None:
    """What it raises is no budget's denial: nothing that the gate knows will change."""
    _, said = site.luigi("Denying", "--workers", workers, module=PIPELINE, timeout=60)
    assert "blocked" in said
    assert sorted((site.folder / "out" / "attempts").read_text().split()) == ["a", "b"]


@pytest.mark.parametrize("restarted", [False, True], ids=["luigid lives", "luigid is restarted"])
def test_an_amount_that_was_a_mistake_binds_no_later_run(site: Site, restarted: bool) -> None:
    def run(run_id: str, amount: str) -> None:
        code, out = site.luigi("Computing", "--run-id", run_id, module=PIPELINE, AMOUNT=amount)
        assert code == 0, out

    run("first", "50000")
    run("first", "500")
    assert len(denied(site)) == 1, "it stays blocked in the run that has denied it"
    if restarted:
        (site.folder / "state").unlink(missing_ok=True)
        site.restart()
    run("second", "500")
    assert (site.stripe.moved(), site.run("second")["spent_usd"]) == (500, "5.00")


@pytest.mark.parametrize("workers", [1, 2])
def test_of_two_roots_of_a_worker_the_one_pays_that_can(site: Site, workers: int) -> None:
    program = (
        f"import luigi, {PIPELINE} as tasks\n"
        "roots = [tasks.Computing(run_id=f'with-{usd}', budget_usd=usd) for usd in ('1', '10')]\n"
        f"luigi.build(roots, workers={workers})"
    )
    env = site.environment(AMOUNT="500")
    said: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with python("-c", program, env=env, cwd=site.folder, **said) as worker:
        out, _ = worker.communicate(timeout=60)
    assert ("This progress looks :)" in out, site.stripe.moved()) == (True, 500), out
    assert site.run("with-10")["spent_usd"] == "5.00"
    assert len(denied(site)) == 1
