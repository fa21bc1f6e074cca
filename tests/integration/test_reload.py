"""SIGHUP: luigi.cfg and the files of secrets are read again; runs, keys and calls go on."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from luigi_spendguard import config, redaction
from scheduler_patch.scheduler import BudgetScheduler
from scheduler_patch.service import LedgerService
from scheduler_patch.signals import reload
from tests.support.attempts import Pretender
from tests.support.pipelines import charge
from tests.support.processes import REPOSITORY, listening, wait_until
from tests.support.site import FakeStripe, Site

FIRST, SECOND = "the-first-token-0123456789", "the-second-token-0123456789"
ADMIN_FIRST, ADMIN_SECOND = f"admin-{FIRST}", f"admin-{SECOND}"
STOCK = {"metrics_collector": "custom", "metrics_custom_import": "scheduler_patch.metrics.SpendguardMetrics"}


def token_file(site: Site, token: str) -> Path:
    path = site.folder / "admin.token"
    path.write_text(token + "\n")
    path.chmod(0o600)
    return path


@pytest.fixture(params=["scheduler_patch", "tests.support.stock_luigid"])
def luigid(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path / "site", start=False)
    site.configure(
        scheduler=STOCK if "stock" in request.param else {},
        spendguard={
            "worker_token": FIRST,
            "daily_cap_usd": 50,
            "admin_token_file": token_file(site, ADMIN_FIRST),
        },
    )
    site.start(request.param)
    yield site
    site.end()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path / "site", start=False)
    site.configure(spendguard={"worker_token": FIRST, "admin_token": ADMIN_FIRST, "daily_cap_usd": 50})
    site.start()
    yield site
    site.end()


def hang_up(site: Site, says: str = "luigi.cfg was reloaded") -> str:
    """Send SIGHUP, wait for what luigid says of it, and return what it has logged since."""
    assert site.luigid is not None
    before = len(site.luigid.text())
    site.luigid.popen.send_signal(signal.SIGHUP)
    wait_until(lambda: says in site.luigid.text()[before:], what=f"{says!r}")
    return site.luigid.text()[before:]


def opened(site: Site, token: str, name: str, asked: str | None = None) -> tuple[int, Any]:
    body = {
        "name": name,
        "by_task_id": False,
        "root_family": "Root",
        "root_task_id": name,
        "budget_usd": asked,
    }
    return site.call("POST", "/api/spend_open_run", body, token=token)


def test_tokens_are_rotated_while_luigid_and_its_runs_go_on(luigid: Site) -> None:
    assert opened(luigid, FIRST, "run")[0] == 200
    luigid.configure(spendguard={"worker_token": SECOND})
    token_file(luigid, ADMIN_SECOND)
    said = hang_up(luigid)
    assert "[spendguard] admin_token changed" in said
    assert "[spendguard] worker_token changed" in said
    assert FIRST not in said
    assert SECOND not in said
    assert opened(luigid, FIRST, "run")[0] == 401
    assert opened(luigid, SECOND, "run")[0] == 200
    assert luigid.call("POST", "/runs/run/top_up", {"usd": "1"}, token=ADMIN_FIRST)[0] == 401
    assert luigid.call("POST", "/runs/run/top_up", {"usd": "1"}, token=ADMIN_SECOND)[0] == 200
    assert luigid.luigid is not None
    assert luigid.luigid.popen.poll() is None


def test_a_claimed_key_goes_on_and_a_runs_cap_stays_pinned(served: Site) -> None:
    pretender = Pretender(served, "pinned")
    with pretender.attempt("completed"):
        charge("cus_before")
        served.configure(spendguard={"default_cap_usd": 7, "worker_token": SECOND})
        hang_up(served)
        charge("cus_after")
        # The worker says with the token of now how the attempt ended.
        pretender.client._worker_token = SECOND
    assert served.stripe.moved() == 200
    assert served.run("pinned")["cap_usd"] == "100.00"
    assert opened(served, SECOND, "later")[1]["response"]["cap_usd"] == "7.00"


def test_budgets_that_follow_the_file_follow_it(served: Site) -> None:
    with Pretender(served, "day").attempt():
        charge("cus_1")
        served.configure(spendguard={"daily_cap_usd": 2})
        assert "reloaded: [spendguard] daily_cap_usd changed from 50 to 2\n" in hang_up(served)
        charge("cus_2")
        with pytest.raises(Exception, match=r"all runs.*\$2.00"):
            charge("cus_3")
    assert served.stripe.moved() == 200


@pytest.mark.parametrize(
    "broken",
    [
        "[spendguard]\ndefualt_cap_usd = 5\n",
        "[spendguard\n",
        "[spendguard]\nadmin_token = short\n",
        f"[spendguard]\nworker_token = {SECOND}\n[spendguard_stripe]\nsecret_file = /nowhere/stripe\n",
        None,
    ],
)
def test_a_broken_file_keeps_the_settings_and_says_so_once(served: Site, broken: str | None) -> None:
    good = served.config.read_text()
    if broken is None:
        served.config.unlink()
    else:
        served.config.write_text(broken)
    said = hang_up(served, "was not reloaded, the settings stay as they were: ")
    assert said.count("ERROR") == 1
    assert "Traceback" not in said
    assert "luigi.cfg" in said.split("as they were: ")[1]
    assert opened(served, FIRST, "run")[0] == 200
    served.config.write_text(good.replace(FIRST, SECOND))
    hang_up(served)
    assert opened(served, SECOND, "run")[0] == 200


def test_what_needs_a_restart_is_said_and_stays(served: Site) -> None:
    served.configure(spendguard={"ledger_url": f"sqlite:///{served.folder}/other.db", "default_cap_usd": 9})
    said = hang_up(served)
    assert (
        said.count("[spendguard] ledger_url has changed: it takes effect when luigid is started again") == 1
    )
    assert "luigi.cfg was reloaded: [spendguard] default_cap_usd" in said
    said = hang_up(served)
    assert "ledger_url has changed" in said
    assert "luigi.cfg was reloaded: nothing else has changed" in said
    assert opened(served, FIRST, "run")[1]["response"]["cap_usd"] == "9.00"
    assert not (served.folder / "other.db").exists()


def test_an_unchanged_file_changes_nothing(served: Site) -> None:
    assert "luigi.cfg was reloaded: nothing has changed" in hang_up(served)


def refused(site: Site, what: str) -> None:
    said = hang_up(site, "was not reloaded, the settings stay as they were: ")
    assert f"{what} was there and is gone; restart luigid if it is to stay away" in said


@pytest.mark.parametrize("within", [True, False], ids=["within a line", "after a line"])
def test_a_file_that_was_cut_off_anywhere_opens_no_door(served: Site, within: bool) -> None:
    served.configure(spendguard={"anonymous_read": "false", "max_cap_usd": 100, "default_cap_usd": 100})
    hang_up(served)
    lines = served.config.read_text().splitlines()
    for count in range(len(lines)):
        kept = "".join(f"{line}\n" for line in lines[:count])
        served.config.write_text(kept + lines[count][:-1] if within else kept)
        hang_up(served, "was not reloaded, the settings stay as they were: ")
        assert opened(served, "", f"run {count}")[0] == 401
        body = {"vendor": "stripe", "run_usd_cap": "90", "expires_in": "1h"}
        assert served.call("POST", "/vault/keys", body, token=None)[0] == 401
        assert served.call("GET", "/runs", None, token=None)[0] == 401
    assert served.stripe.moved() == 0


@pytest.mark.parametrize("key", ["worker_token", "admin_token", "daily_cap_usd"])
def test_what_was_set_and_is_gone_is_refused_as_a_whole(served: Site, key: str) -> None:
    served.configure(spendguard={key: None, "default_cap_usd": 9})
    refused(served, f"[spendguard] {key}")
    assert opened(served, FIRST, "run")[1]["response"]["cap_usd"] == "100.00"
    assert served.call("POST", "/runs/run/top_up", {"usd": "1"}, token=ADMIN_FIRST)[0] == 200
    assert opened(served, "", "other")[0] == 401


def test_entries_of_lists_and_tables_do_not_go_either(served: Site) -> None:
    served.configure(spendguard={"vendor_tasks": "A, B"}, spendguard_caps={"Root": 5})
    hang_up(served)
    served.configure(spendguard={"vendor_tasks": "A"})
    refused(served, "[spendguard] vendor_tasks: B")
    served.configure(spendguard={"vendor_tasks": "A, B"}, spendguard_caps={"Root": None, "Other": 5})
    refused(served, "[spendguard_caps] Root")
    served.configure(spendguard_caps={"Root": 6})
    assert "reloaded: [spendguard_caps] Root changed from 5 to 6; [spendguard_caps] Other" in hang_up(served)


def test_all_that_is_gone_is_named_and_check_says_that_the_file_is_not_in_force(served: Site) -> None:
    served.restart(spendguard={"vendor_tasks": "A, B"}, spendguard_caps={"Root": 5, "Other": 5})
    assert served.call("GET", "/settings", token=ADMIN_FIRST)[1]["not_reloaded"] is None
    gone = {"vendor_tasks": None, "daily_cap_usd": None}
    served.configure(spendguard=gone, spendguard_caps={"Root": None, "Other": None})
    caps = "[spendguard_caps] Other, [spendguard_caps] Root"
    names = f"[spendguard] daily_cap_usd, [spendguard] vendor_tasks, {caps}"
    said = hang_up(served, "was not reloaded, the settings stay as they were: ")
    assert f"as they were: {names} were there and are gone; restart luigid if they are to stay away\n" in said
    failed = served.call("GET", "/settings", token=ADMIN_FIRST)[1]["not_reloaded"]
    hang_up(served, "was not reloaded, the settings stay as they were: ")
    assert served.call("GET", "/settings", token=ADMIN_FIRST)[1]["not_reloaded"] == failed  # Since the first.
    code, out, _ = served.cli("check")
    assert code == 1
    [line] = [line for line in out.splitlines() if line.startswith("MISSING luigi.cfg of luigid: ")]
    assert f"not reloaded since {failed['since']}, what was read before is in force: {names} were" in line
    served.configure(
        spendguard={"vendor_tasks": "A, B", "daily_cap_usd": 50}, spendguard_caps={"Root": 5, "Other": 5}
    )
    hang_up(served)
    assert "not reloaded" not in served.cli("check")[1]


def test_whether_caps_hold_is_said_at_each_start_and_reload(served: Site) -> None:
    unheard = "[spendguard] mode = shadow: NO CAP IS ENFORCED"
    served.configure(spendguard={"mode": "shadow"})
    said = hang_up(served, unheard)
    assert "reloaded: [spendguard] mode changed from enforce (not set) to shadow\n" in said
    assert said.count("WARNING") == 1
    assert unheard in hang_up(served, "NO CAP IS ENFORCED")  # Nothing has changed, and it is said again.
    assert "look    mode: shadow: NO CAP IS ENFORCED" in served.cli("check")[1]
    served.configure(spendguard={"mode": None})
    said = hang_up(served, "caps are enforced again")
    assert "reloaded: [spendguard] mode changed from shadow to enforce (not set)\n" in said
    assert "WARNING" not in said
    assert "enforced" not in hang_up(served)


def test_also_where_they_do_not_hold_from_the_start(tmp_path: Path) -> None:
    with Site(tmp_path / "site", gateway=True, start=False, spendguard={"mode": "shadow"}) as site:
        site.start("luigi_spendguard", "gateway")
        assert site.luigid is not None
        assert "WARNING: [spendguard] mode = shadow: NO CAP IS ENFORCED" in site.luigid.text()
        site.luigid.end()
        site.start()
        assert site.luigid.text().count("mode = shadow: NO CAP IS ENFORCED") == 2  # The file has both logs.
        site.gateway = False
        code, out = site.luigi("Billing", "--n", "1", "--workers", "2", "--local-scheduler")
        assert code == 0
        assert out.count("WARNING: [spendguard] mode = shadow: NO CAP IS ENFORCED") == 1


def test_what_is_misspelt_is_named_though_the_secret_is_the_workers(tmp_path: Path) -> None:
    wrong = {"prices": "payment_linkz.create: 5", "allowed_endpoints": "payment_intent.create"}
    with Site(tmp_path / "site", spendguard_stripe=wrong) as site:
        assert site.luigid is not None
        said = site.luigid.text()
        assert "WARNING: [spendguard_stripe] prices gives a fixed price to payment_linkz.create" in said
        assert "WARNING: [spendguard_stripe] allowed_endpoints: 'payment_intent.create' is no ope" in said
        site.configure(spendguard_stripe={"allowed_endpoints": "payment_intents.create"})
        assert "'payment_intent.create'" not in hang_up(site, "a fixed price to payment_linkz.create")


def test_a_token_may_move_to_a_file(served: Site) -> None:
    served.configure(spendguard={"admin_token": None, "admin_token_file": token_file(served, ADMIN_SECOND)})
    hang_up(served)
    opened(served, FIRST, "run")
    assert served.call("POST", "/runs/run/top_up", {"usd": "1"}, token=ADMIN_SECOND)[0] == 200


def test_without_an_admin_token_one_is_made_as_at_start(tmp_path: Path) -> None:
    site = Site(tmp_path / "site", start=False)
    site.configure(spendguard={"worker_token": FIRST, "default_cap_usd": 50})
    site.start()
    try:
        opened(site, FIRST, "run")
        site.configure(spendguard={"default_cap_usd": 51})
        hang_up(site)
        assert site.call("POST", "/runs/run/top_up", {"usd": "1"})[0] == 200
    finally:
        site.end()


def test_a_pipeline_notices_nothing_of_many_reloads(served: Site) -> None:
    worker = served.worker("Billing", "--n", "8", "--workers", "2", "--run-id", "busy")
    turns = 0
    while worker.poll() is None:
        served.configure(spendguard={"default_cap_usd": 50 + turns % 2})
        assert served.luigid is not None
        served.luigid.popen.send_signal(signal.SIGHUP)
        turns += 1
        time.sleep(0.02)
    out = worker.communicate()[0]
    assert worker.returncode == 0, out
    assert served.stripe.moved() == 800
    assert turns > 5
    assert "Traceback" not in served.luigid.text()


def test_a_luigid_in_the_background_reloads_too(tmp_path: Path, vendor: FakeStripe) -> None:
    site = Site(tmp_path / "site", stripe=vendor, start=False)
    site.configure(spendguard={"worker_token": FIRST, "daily_cap_usd": 50})
    pid_file = site.folder / "pid"
    args = [
        "--background",
        "--pidfile",
        str(pid_file),
        "--logdir",
        str(site.folder / "logs"),
        "--address",
        "127.0.0.1",
        "--port",
        str(site.port),
    ]
    done = subprocess.run(
        [sys.executable, "-m", "scheduler_patch", *args], cwd=site.folder, env=site.environment(), timeout=60
    )
    assert done.returncode == 0
    wait_until(lambda: listening(site.port), what="luigid in the background")
    pid = int(pid_file.read_text())
    try:
        site.configure(spendguard={"worker_token": SECOND})
        os.kill(pid, signal.SIGHUP)
        wait_until(lambda: opened(site, SECOND, "run")[0] == 200, what="the reload")
        assert opened(site, FIRST, "run")[0] == 401
    finally:
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: not listening(site.port), what="its end")


# The service's own settings, which a gateway asks at each call.


def service_of(tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> LedgerService:
    path = tmp_path / "luigi.cfg"
    path.write_text(text)
    monkeypatch.setenv("LUIGI_CONFIG_PATH", str(path))
    return LedgerService(config.load(), BudgetScheduler())


BASE = "[spendguard]\nledger_url = sqlite:///{}/x.db\nforecast = {}\n[spendguard_stripe]\nsecret = {}\n{}"


def test_secrets_allowlists_prices_and_rules_are_replaced_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    old, new = (f"sk_test_{which}_{uuid.uuid4().hex}" for which in ("old", "new"))
    service = service_of(tmp_path, BASE.format(tmp_path, "warn", old, ""), monkeypatch)
    more = "allowed_endpoints = GET /v1/*\n[spendguard_fx]\neur = 2\n"
    (tmp_path / "luigi.cfg").write_text(BASE.format(tmp_path, "hold", new, more))
    with caplog.at_level("INFO"):
        assert asyncio.run(reload(service))
    assert caplog.messages[-1] == (
        "luigi.cfg was reloaded: [spendguard] forecast changed from warn to hold; [spendguard_stripe] secret "
        "changed; [spendguard_stripe] allowed_endpoints set to GET /v1/*; [spendguard_fx] eur set to 2"
    )
    vendor = service.settings.vendor("stripe")
    assert (vendor.secret, vendor.allowed_endpoints) == (new, ("GET /v1/*",))
    assert service.settings.fx["eur"] == 2
    assert service.state.rules.forecast == "hold"
    # The old one may still stand in a late reply or traceback.
    assert redaction.redact(f"{old} {new}") == "[redacted] [redacted]"


def test_a_file_of_a_secret_that_is_broken_keeps_the_old_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "stripe"
    path.write_text("sk_test_in_a_file_1\n")
    path.chmod(0o600)
    text = BASE.format(tmp_path, "warn", "${UNSET}", f"secret_file = {path}\n")
    service = service_of(tmp_path, text, monkeypatch)
    path.write_text("sk_test_in_a_file_2\nsk_test_in_a_file_3\n")
    assert not asyncio.run(reload(service))
    assert service.settings.vendor("stripe").secret == "sk_test_in_a_file_1"
    path.write_text("sk_test_in_a_file_2\n")
    assert asyncio.run(reload(service))
    assert service.settings.vendor("stripe").secret == "sk_test_in_a_file_2"


def test_a_file_that_has_become_another_users_keeps_the_old_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "stripe"
    path.write_text("sk_test_in_a_file_1\n")
    path.chmod(0o600)
    service = service_of(
        tmp_path, BASE.format(tmp_path, "warn", "${UNSET}", f"secret_file = {path}\n"), monkeypatch
    )
    real = os.open

    def denied(name: object, *args: Any) -> int:
        if name == str(path):
            raise PermissionError(13, "Permission denied")
        return real(name, *args)

    monkeypatch.setattr(os, "open", denied)
    assert not asyncio.run(reload(service))
    assert service.settings.vendor("stripe").secret == "sk_test_in_a_file_1"


def test_check_says_that_a_family_taken_out_of_the_file_waits_for_a_restart(served: Site) -> None:
    served.restart(spendguard_caps={"MonthEdn": 5})
    served.configure(spendguard_caps={"MonthEdn": None})
    hang_up(served, "[spendguard_caps] MonthEdn was there and is gone; restart luigid")
    code, out, err = served.cli("check", "--module", "tests.support.pipelines", PYTHONPATH=str(REPOSITORY))
    assert code == 1
    refused, line = [line for line in out.splitlines() if line.startswith("MISSING")]
    assert refused.startswith("MISSING luigi.cfg of luigid: not reloaded since ")
    assert line.startswith("MISSING root MonthEdn: cap $5.00 a run")
    assert line.endswith("if that is luigid's, restart luigid, as a reload takes nothing away")
    assert err == (
        "Error: 2 of these must be mended (MISSING): until then vendor tasks may fail, be denied, or run "
        "under other caps than were meant\n"
    )
    served.restart()
    assert "MonthEdn" not in served.cli("check")[1]
