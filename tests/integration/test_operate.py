"""docs/operate.md as it is written, judged by the vendors' own books."""

from __future__ import annotations

import datetime
import json
import os
import re
import signal
import sqlite3
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from luigi_spendguard.cli.api_client import Operator, OperatorError
from luigi_spendguard.cli.tokens import Token
from luigi_spendguard.errors import LedgerUnavailable, PluginError, SpendDenied
from luigi_spendguard.http.ledger_client import HttpLedgerClient
from luigi_spendguard.ledger.migrations import FORMAT
from luigi_spendguard.protocol.messages import Message, NoFields
from luigi_spendguard.protocol.rpcs import OpenRunReply, OpenRunRequest, Rpc
from luigi_spendguard.redaction import Secret
from tests.support.paper import Paper
from tests.support.processes import REPOSITORY, free_port, listening, wait_until
from tests.support.programs import program
from tests.support.recorder import said_in_a_pipeline
from tests.support.site import Site

PAGE = "operate.md"
COMPLETING = "tests.support.completing_pipeline"
AGE_MS = 400 * 86_400_000


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A site whose luigid is not started yet."""
    with Site(tmp_path / "site", start=False, spendguard={"suspect_duplicates": None}) as site:
        yield site


def charged(site: Site) -> dict[str, int]:
    return dict(Counter(entry["customer"] for entry in site.stripe.books()["moved"]))


def stop(site: Site) -> None:
    assert site.luigid is not None
    site.luigid.end()


def age(site: Site) -> None:
    """Let everything in the ledger have happened long ago."""
    db = sqlite3.connect(site.ledger)
    for table, columns in {
        "run": ("opened_at", "ended_at"),
        "claim": ("claimed_at", "ended_at"),
        "call": ("created_at", "granted_at", "ended_at"),
    }.items():
        for column in columns:
            db.execute(f"UPDATE {table} SET {column} = {column} - {AGE_MS}")
    db.commit()
    db.close()


def test_what_is_over_is_pruned_and_the_file_made_smaller(site: Site) -> None:
    program("sqlite3")
    day = str(datetime.datetime.now(datetime.timezone.utc).date() - datetime.timedelta(days=90))
    paper = Paper(PAGE, site, {"2026-09-01": day, "/var/lib/luigi-server/spendguard.db": str(site.ledger)})
    site.start()
    assert site.luigi("Billing", "--n", "40")[0] == 0
    (site.folder / "out" / "die").touch()
    site.luigi("Charge", "--customer", "dies")
    (site.folder / "out" / "die").unlink()
    [ended, going_on] = sorted(site.call("GET", "/runs")[1], key=lambda run: run["opened_at"])
    paper.command()
    stop(site)
    age(site)
    site.start()
    said = paper.command()
    assert "Would be pruned: 40 calls of 1 run, which had spent $40.00, and 40 attempts and keys." in said
    assert "Pruned: 40 calls of 1 run, which had spent $40.00" in said
    assert "1 run opened before then has not ended" in said
    after = site.run(ended["run_id"])
    assert (after["spent_usd"], after["state"]) == ("40.00", "ended")
    assert "were pruned on" in after["note"]
    assert site.calls(ended["run_id"]) == []
    assert [call["target"] for call in site.calls(going_on["run_id"])] == ["dies"]
    # The task that has died is not paid again, before or after the file was made smaller.
    stop(site)
    before = site.ledger.stat().st_size
    paper.command()
    assert site.ledger.stat().st_size < before
    site.start()
    assert site.luigi("Charge", "--customer", "dies")[0] == 0
    assert charged(site) == {"dies": 1, **{f"cus_{n}": 1 for n in range(40)}}


def test_what_there_is_of_a_customer_is_listed_and_forgotten(site: Site) -> None:
    paper = Paper(PAGE, site, {"cus_17": "cus_1"})
    for _ in range(3):
        paper.skip("sh")
    site.start()
    (site.folder / "out" / "die").touch()
    site.luigi("Billing", "--n", "3")
    (site.folder / "out" / "die").unlink()
    said = paper.command().splitlines()
    assert said[-1] == "Deleted: what was sent and answered in 1 call."
    assert len(said) == 3, "a heading and a call"
    db = sqlite3.connect(site.ledger)
    assert db.execute("SELECT count(*) FROM exchange").fetchone() == (2,)
    db.close()
    site.wait_for_retries()
    site.luigi("Billing", "--n", "3")
    assert charged(site) == {"cus_0": 1, "cus_1": 1, "cus_2": 1}


@pytest.mark.parametrize("pruned", [True, False])
def test_who_goes_on_with_a_run_that_has_ended_pays_nothing_twice(site: Site, pruned: bool) -> None:
    """Two schedulers have the same root: one has completed it long ago, the other still gets to its task."""
    local = ("Behind", "--local-scheduler")
    late = site.worker(*local, module=COMPLETING, GATE="late")
    ready = site.folder / "out" / "ready"
    wait_until(ready.exists, what="the late one's plain task")
    (site.folder / "out" / "go-early").touch()
    assert site.luigi(*local, module=COMPLETING, GATE="early")[0] == 0
    assert charged(site) == {"cus_behind": 1}
    age(site)
    site.start()
    if pruned:
        assert "Pruned: 1 call of 1 run" in site.cli("prune", "--before", "90d")[1]
    (site.folder / "out" / "go-late").touch()
    said, _ = late.communicate(timeout=120)
    assert charged(site) == {"cus_behind": 1}, said
    assert ("has ended, and calls were pruned since" in said) is pruned, said
    assert late.returncode == 0 or pruned, said


def test_what_is_young_is_not_pruned(site: Site) -> None:
    site.start()
    site.luigi("Billing", "--n", "1")
    code, _, err = site.cli("prune", "--before", "1h")
    assert (code, "younger than two days" in err) == (1, True)
    assert site.cli("prune", "--before", "soon")[0] == 2


@pytest.mark.parametrize("gateway", [False, True], ids=["secret on the workers", "gateway"])
def test_luigids_machine_dies_and_a_backup_is_put_up_elsewhere(site: Site, gateway: bool) -> None:
    """Calls are in flight when it is killed, and more are due; after that nobody is charged twice."""
    program("sqlite3")
    site.gateway = gateway
    site.configure(core={"rpc-retry-wait": 1, "rpc-retry-attempts": 1})
    site.start()
    assert site.luigid is not None
    site.luigi("Charge", "--customer", "before")
    backups, elsewhere, port = site.folder / "backups", site.folder / "elsewhere", free_port()
    backups.mkdir()
    subprocess.run(["sqlite3", site.ledger, f".backup '{backups}/spendguard.db'"], check=True, timeout=60)
    site.stripe.control(options={"latency": 1.5})
    worker = site.worker("Billing", "--n", "12", "--run-id", "nightly", "--workers", "3", IMPATIENT="1")
    wait_until(lambda: len(site.stripe.posts()) >= 5, what="the second three calls")
    site.luigid.kill()
    out, _ = worker.communicate(timeout=120)
    assert worker.returncode == 4, out
    site.stripe.control(options={"latency": 0})
    places = {
        "/var/lib/luigi-server": str(elsewhere),
        "/var/backups": str(backups),
        "http://luigid2.example.com:8082": f"http://127.0.0.1:{port}",
        "--port 8082": f"--port {port}",
        "--module billing BillingPipeline": "--module tests.support.pipelines Billing --n 12",
    }
    paper = Paper(PAGE, site, places)
    for _ in range(4):
        paper.skip("sh")
    paper.command()
    paper.configure()
    site.configure(scheduler={"state_path": elsewhere / "state"})
    paper.command(**(site.secrets if gateway else {}))
    try:
        said = paper.command(PYTHONPATH=f"{site.folder}:{REPOSITORY}")
        assert "nightly" in said
    finally:
        os.kill(int((elsewhere / "luigid.pid").read_text()), signal.SIGTERM)
        wait_until(lambda: not listening(port), what="luigid's end")
    assert charged(site) == {"before": 1, **{f"cus_{n}": 1 for n in range(12)}}
    paper.check()


# Upgrades: what workers of older versions say, and what their luigids take, as `tests.support.recorder` has
# written it down.


def recorded(number: int) -> dict[str, Any]:
    path = REPOSITORY / "tests" / "integration" / "data" / f"messages-of-format-{number}.json"
    return json.loads(path.read_text("utf-8"))


def is_dispatched(site: Site, task_id: str, asked: dict[str, Any]) -> bool:
    """Return whether a task runs by now; ask for work until it does."""
    running = site.rpc("task_list", status="RUNNING", upstream_status="")
    if task_id not in running:
        site.rpc("get_work", **{**asked, "current_tasks": list(running)})
    return task_id in running


@pytest.mark.parametrize("number", [10, 11])
def test_what_an_older_worker_says_is_understood(site: Site, number: int) -> None:
    site.configure(spendguard={"default_cap_usd": 1})
    site.start()
    key, answers, worker, asked = "", [], "", {}
    for name, body in recorded(number)["said"]:
        if not name.startswith("spend_"):
            if name == "add_task" and body["worker"] != worker:
                site.wait_for_retries()
                worker = body["worker"]
            asked = body if name == "get_work" else asked
            site.rpc(name, **body)
            continue
        if name == "spend_claim":  # Which of its tasks it gets first is nothing that has to be so.
            wait_until(lambda one=body, ask=asked: is_dispatched(site, one["task_id"], ask), what="the task")
        by_key = name in ("spend_reserve", "spend_settle")
        status, reply = site.call("POST", f"/api/{name}", body, token=key if by_key else None)
        assert status == 200, (name, reply)
        answer = reply["response"]
        key = answer["vault_key"] if name == "spend_claim" else key
        answers += [answer["verdict"]] if name == "spend_reserve" else []
    assert answers == ["allowed", "replayed", "allowed"]
    runs = {run["run_id"]: (run["spent_usd"], run["state"]) for run in site.call("GET", "/runs")[1]}
    assert sorted(runs.values()) == [("1.00", "active"), ("1.00", "ended")]


@pytest.mark.parametrize("number", [10, 11])
def test_an_older_luigid_takes_what_a_worker_says_that_uses_nothing_new(site: Site, number: int) -> None:
    taken = recorded(number)["taken"]
    site.start()
    said = said_in_a_pipeline(site, hidden=("together",))
    assert {"spend_open_run", "spend_claim", "spend_reserve", "spend_settle", "spend_finish"} <= dict(
        said
    ).keys()
    ours = [(name, body) for name, body in said if name.startswith("spend_")]
    # Refused for those, the same is said without: tried in unit/http/test_ledger_client.py.
    again = {
        "spend_open_run": {"looked_ms"},
        "spend_reserve": {"taggable", "tag"},
        "spend_settle": {"vendor_request"},
    }
    unknown = [(name, set(body) - {*taken[name], "kind", *again.get(name, ())}) for name, body in ours]
    assert [one for one in unknown if one[1]] == []
    if number == 10:
        assert "payment_keys" not in taken["spend_claim"], "what the page says of it"


@pytest.mark.parametrize(
    ("processes", "outcomes"),
    [
        ("1", {"failed": 1, "returned": 2, "completed": 2}),
        ("2", {"failed": 1, "completed": 2}),
    ],
    ids=["in the worker", "by children"],
)
def test_a_luigid_of_today_is_told_at_once_how_a_call_and_its_attempt_have_ended(
    site: Site, processes: str, outcomes: dict[str, int]
) -> None:
    site.start()
    said = said_in_a_pipeline(site, "--workers", processes, UNHURRIED="1")
    ours = Counter(name for name, _ in said if name.startswith("spend_"))
    finished = [body for name, body in said if name == "spend_finish"]
    assert Counter(body["outcome"] for body in finished) == outcomes
    assert sum(len(body.get("ends", ())) for body in finished) == 2
    assert not {"spend_settle", "spend_attempt"} & ours.keys()
    assert (ours["spend_claim"], ours["spend_reserve"]) == (3, 3), (
        "the second attempt of the first was replayed"
    )
    assert charged(site) == {"cus_0": 1, "cus_1": 1}


@dataclass(frozen=True)
class NewerRequest(OpenRunRequest):
    """What a worker of a later version may say."""

    colour: str = ""


@dataclass(frozen=True)
class NewerReply(Message):
    """What a worker of a later version may want to hear."""

    colour: str


def test_whoever_meets_an_older_luigid_is_told_to_upgrade_it(site: Site) -> None:
    site.start()
    order = "upgrade luigid first, then a gateway apart, then the workers (docs/operate.md)"
    words = " ".join((REPOSITORY / "docs" / PAGE).read_text("utf-8").split())
    client = HttpLedgerClient(site.url, None)
    run = {"name": "nightly", "root_family": "Root", "root_task_id": "Root_1", "by_task_id": False}
    with pytest.raises(SpendDenied, match="refused spend_open_run: unknown field 'colour'") as field:
        client._ask(Rpc("spend_open_run", NewerRequest, OpenRunReply), NewerRequest(**run, colour="green"))
    assert str(field.value).endswith(f". Both ends are of different versions: {order}")
    assert ", both ends are of different versions: upgrade luigid first, then …" in words
    with pytest.raises(
        LedgerUnavailable, match="answers spend_open_run as no version that is known"
    ) as reply:
        client._ask(Rpc("spend_open_run", OpenRunRequest, NewerReply), OpenRunRequest(**run))
    assert str(reply.value).endswith(order)
    with pytest.raises(PluginError, match="Where it is luigid-spendguard, spend_newer is new") as rpc:
        client._ask(Rpc("spend_newer", NoFields, NoFields), NoFields())
    assert order in str(rpc.value)
    client.close()
    operator = Operator(site.url, Token(Secret(site.token()), "the site's"))
    with pytest.raises(OperatorError, match="unknown query parameter 'colour'") as query:
        operator.get("/runs", colour="green")
    assert order in str(query.value)
    with pytest.raises(OperatorError, match="unknown field 'colour'") as asked:
        operator.post("/runs/nightly/top_up", {"usd": "1", "colour": "green"})
    assert order in str(asked.value)
    for method, path in (("DELETE", "/settings"), ("POST", "/newer")):
        with pytest.raises(OperatorError) as lacking:
            operator._call(method, path, {})
        assert order in str(lacking.value)


def test_a_ledger_of_a_newer_version_is_refused_as_the_page_says(site: Site) -> None:
    site.start()
    site.luigi("Billing", "--n", "1")
    stop(site)
    db = sqlite3.connect(site.ledger)
    db.execute(f"INSERT INTO migration (number, applied_at) VALUES ({FORMAT + 2}, 0)")
    db.commit()
    db.close()
    with pytest.raises(AssertionError, match="was written by a newer version") as refused:
        site.start()
    words = " ".join((REPOSITORY / "docs" / PAGE).read_text("utf-8").split())
    said = re.search(r"was written by .*? again", str(refused.value))
    assert said is not None
    assert re.sub(r"\d+", "N", said.group()) in re.sub(r"\d+", "N", words)
