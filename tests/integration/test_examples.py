"""The examples in config/ are read by our own reader, and a server starts with them."""

from __future__ import annotations

import configparser
import json
import re
from pathlib import Path

import pytest
import urllib3

from luigi_spendguard import config
from tests.support import npm
from tests.support.processes import REPOSITORY, Process, environment, free_port, listening, wait_until
from tests.support.site import FakeStripe, Site
from tests.support.vendors import FakeResend, FakeTwilio

QUICKSTART = (REPOSITORY / "docs" / "quickstart.md").read_text("utf-8")
TOKENS = {
    "SPENDGUARD_ADMIN_TOKEN": "admin-token-of-the-example",
    "SPENDGUARD_WORKER_TOKEN": "worker-token-of-the-example",
    "STRIPE_SECRET_KEY": "sk_test_of_the_example",
}


@pytest.mark.parametrize("name", ["luigi.cfg", "luigi.toml"])
def test_an_example_starts_a_server_and_passes_the_check(
    name: str, tmp_path: Path, vendor: FakeStripe
) -> None:
    text = (REPOSITORY / "config" / name).read_text("utf-8")
    port, ledger = free_port(), tmp_path / "spendguard.db"
    for old, new in (
        ("/var/lib/luigi-server/spendguard.db", str(ledger)),
        ("localhost:8082", f"127.0.0.1:{port}"),
    ):
        assert text.count(old) == 1
        text = text.replace(old, new)
    site = Site(tmp_path, stripe=vendor, start=False)
    site.port, site.url, site.config = port, f"http://127.0.0.1:{port}", tmp_path / f"example-{name}"
    site.config.write_text(text)
    env = TOKENS | ({"LUIGI_CONFIG_PARSER": "toml"} if name.endswith("toml") else {})
    read = config.load([site.config], environ=TOKENS)
    assert read.ledger_path == ledger
    luigid = Process(
        ["-m", "scheduler_patch", "--address", "127.0.0.1", "--port", str(port)],
        tmp_path / "luigid.log",
        tmp_path,
        site.environment(**env),
        lambda: listening(port),
    )
    try:
        opened = site.call(
            "POST",
            "/api/spend_open_run",
            token=TOKENS["SPENDGUARD_WORKER_TOKEN"],
            body={"name": "r", "by_task_id": False, "root_family": "BillingPipeline", "root_task_id": "r"},
        )
        assert opened[1]["response"]["cap_usd"] == "300.00"
        code, out, err = site.cli("check", **env)
        missing = [line for line in out.splitlines() if line.startswith("MISSING")]
        assert [line.split()[1] for line in missing] == ["gateway:"], out + err  # It is nowhere.
        assert (code, "https://spendguard.example.com cannot be reached" in missing[0]) == (1, True)
        assert "BillingPipeline" in out
        assert str(ledger) in out
        assert site.cli("top-up", "r", "50", **env)[0] == 0
        assert site.run("r")["cap_usd"] == "350.00"
    finally:
        luigid.end()
    assert ledger.exists()
    for token in TOKENS.values():
        assert token not in luigid.text() + out


def shown(text: str) -> str:
    """Return what is printed as the page shows it: lines are folded there, and ids left off."""
    return re.sub(r"_[0-9a-f]{10}\b", "_…", " ".join(text.split()))


def sections(text: str) -> dict[str, dict[str, str]]:
    read = configparser.RawConfigParser()
    read.read_string(text)
    return {name: dict(read[name]) for name in read.sections()}


def test_the_quickstart_does_what_it_says(tmp_path: Path, vendor: FakeStripe) -> None:
    [pipeline, _] = re.findall(r"```python\n(.*?)```", QUICKSTART, re.S)
    [cfg] = re.findall(r"```ini\n(.*?)```", QUICKSTART, re.S)
    submit, assist = (line.split() for line in re.findall(r"luigi --module billing (.*)", QUICKSTART))
    [summary] = re.findall(r"says why.*?:\n\n(    Vendor tasks are blocked:\n.*?)\n\n\S", QUICKSTART, re.S)
    # A look-alike in place of Stripe, as the page has it.
    cfg = re.sub(r"^# (\[spendguard_stripe\]|base_url = )", r"\1", cfg, flags=re.M)
    said = sections(cfg.replace("http://127.0.0.1:12111", vendor.url))
    assert said["spendguard_stripe"] == {"base_url": vendor.url}
    with Site(tmp_path, stripe=vendor, start=False, worker={"keep_alive": None}) as site:
        site.settings["spendguard_stripe"] = {}
        site.configure(**said)
        site.start()
        (tmp_path / "billing.py").write_text(pipeline)
        _, out = site.luigi(*submit, module="billing", PYTHONPATH=f"{tmp_path}:{REPOSITORY}")
        assert shown(summary) in shown(out)
        [run] = site.call("GET", "/runs", token=None)[1]
        assert "held by    cap of $3.00 reached, $3.00 spent (2 due)" in site.cli("run", run["run_id"])[1]
        assert "No call matches. Tasks that were blocked" in site.cli("calls", "--verdict", "denied")[1]
        assistant = site.worker(*assist, module="billing", PYTHONPATH=f"{tmp_path}:{REPOSITORY}")
        try:
            site.cli("top-up", run["run_id"], "2")
            wait_until(lambda: vendor.moved() == 500, what="the other two")
            wait_until(lambda: site.run(run["run_id"])["state"] == "ended", what="the root's completion")
            assert assistant.poll() is None
        finally:
            assistant.kill()
            assistant.communicate()
        assert "Its root had completed" in site.cli("revoke", run["run_id"])[1]
        site.luigi(*submit[:-1], "2026-11-25", module="billing", PYTHONPATH=f"{tmp_path}:{REPOSITORY}")
        [other] = [one for one in site.call("GET", "/runs", token=None)[1] if one["run_id"] != run["run_id"]]
        assert (other["status"], other["spent_usd"]) == ("blocked", "3.00")
        assert "is revoked: no further call is sent" in site.cli("revoke", other["run_id"])[1]


def test_the_quickstart_before_localstripe(tmp_path: Path) -> None:
    """With what the page says to change for it."""
    [pipeline, _] = re.findall(r"```python\n(.*?)```", QUICKSTART, re.S)
    assert "pip install '/path/to/luigi_spendguard[demo]'\n    localstripe --from-scratch" in QUICKSTART
    assert "knows no `automatic_payment_methods`: leave that line out" in QUICKSTART
    pipeline = re.sub(r"\n *automatic_payment_methods=.*", "", pipeline)
    [submit, _] = (line.split() for line in re.findall(r"luigi --module billing (.*)", QUICKSTART))
    (tmp_path / "localstripe").mkdir()
    server = npm.localstripe(tmp_path / "localstripe")
    try:
        stripe = {"base_url": server.url}
        with Site(tmp_path, spendguard={"default_cap_usd": 3}, spendguard_stripe=stripe) as site:
            (tmp_path / "billing.py").write_text(pipeline)
            site.luigi(*submit, module="billing", PYTHONPATH=f"{tmp_path}:{REPOSITORY}")
            [run] = site.call("GET", "/runs", token=None)[1]
            assert (run["status"], run["spent_usd"]) == ("blocked", "3.00")
        key = {"Authorization": "Bearer sk_test_1"}
        books = urllib3.request("GET", f"{server.url}/v1/charges", headers=key)
        assert [one["amount"] for one in json.loads(books.data)["data"]] == [100] * 3
    finally:
        server.process.end()


def test_texts_and_mails_of_the_quickstart(tmp_path: Path, vendor: FakeStripe) -> None:
    [_, pipeline] = re.findall(r"```python\n(.*?)```", QUICKSTART, re.S)
    (tmp_path / "reminding.py").write_text(pipeline)
    twilio, mails = FakeTwilio(tmp_path / "twilio"), FakeResend(tmp_path / "resend")
    try:
        with Site(tmp_path, stripe=vendor, twilio=twilio, resend=mails) as site:
            code, out = site.luigi(
                "Remind",
                "--phone",
                "+14155550100",
                "--mail",
                "ann@example.com",
                module="reminding",
                PYTHONPATH=f"{tmp_path}:{REPOSITORY}",
            )
            assert code == 0, out
            [run] = site.call("GET", "/runs", token=None)[1]
            spent = {(call["vendor"], call["state"]) for call in site.calls(run["run_id"])}
            assert spent == {("twilio", "settled"), ("resend", "settled")}
        receipt = (tmp_path / "reminders" / "+14155550100.txt").read_text("utf-8")
        assert receipt == f"{twilio.sent()[0]['sid']} {mails.sent()[0]['id']}"
    finally:
        twilio.process.end()
        mails.process.end()


def test_without_a_place_for_its_state_luigid_goes_on_as_the_readme_says(tmp_path: Path) -> None:
    readme = (REPOSITORY / "README.md").read_text("utf-8")
    with Site(tmp_path, scheduler={"state_path": tmp_path / "nowhere" / "state.pickle"}) as site:
        assert site.luigi("Billing", "--n", "1", "--run-id", "nightly")[0] == 0
        site.restart()
        assert site.luigid is not None
        site.luigid.end()
        [said] = re.findall(r"`(Failed saving .*?)`", readme)
        assert said in site.luigid.text()
        site.start()
        assert site.rpc("task_list", status="", upstream_status="") == {}
        assert site.run("nightly")["spent_usd"] == "1.00"


def test_luigid_keeps_its_state_where_the_quickstart_says(tmp_path: Path) -> None:
    [text] = re.findall(r"```ini\n(.*?)```", QUICKSTART, re.S)
    (tmp_path / "luigi.cfg").write_text(text)
    port = free_port()
    env = environment(XDG_STATE_HOME=str(tmp_path))
    env.pop("LUIGI_CONFIG_PATH", None)
    luigid = Process(
        ["-m", "scheduler_patch", "--address", "127.0.0.1", "--port", str(port)],
        tmp_path / "luigid.log",
        tmp_path,
        env,
        lambda: listening(port),
    )
    # Before its loop runs, Luigi's own handler may be in the midst of a line that is being logged.
    assert urllib3.request("GET", f"http://127.0.0.1:{port}/openapi.json").status == 200
    luigid.end()
    assert (tmp_path / "luigi-state.pickle").exists()
    assert "Traceback" not in luigid.text()
