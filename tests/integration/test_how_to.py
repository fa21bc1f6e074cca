"""docs/how-to/ as it is written: its files, its luigi.cfg, its commands; judged by the vendors' own books."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qsl

import pytest

from tests.support.llm import FakeLlm, LlmSite, install
from tests.support.paper import Paper
from tests.support.processes import REPOSITORY, wait_until
from tests.support.site import SECRET, FakeStripe, Site

NEW_SECRET = "sk_test_canary_of_the_next_month_0123456789"
PIPELINES = "tests.support.pipelines"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A site whose luigid is not started yet."""
    with Site(tmp_path / "site", start=False) as site:
        yield site


def charged(site: Site) -> dict[str, str]:
    """Return for each customer whom the vendor charged $1, once, the secret by which it did."""
    found: dict[str, str] = {}
    for post in site.stripe.posts():
        customer = dict(parse_qsl(post["body"]))["customer"]
        assert customer not in found, "charged twice"
        found[customer] = post["authorization"].removeprefix("Bearer ")
    assert site.stripe.moved() == 100 * len(found)
    return found


def secret_file(site: Site) -> Path:
    """Put the secret into a file of its own, and nowhere else."""
    place = site.folder / "stripe"
    place.write_text(SECRET + "\n")
    place.chmod(0o600)
    site.configure(spendguard_stripe={"secret": None})
    return place


def pid(site: Site) -> str:
    assert site.luigid is not None
    return str(site.luigid.popen.pid)


def reloaded(site: Site, what: str) -> None:
    assert site.luigid is not None
    luigid = site.luigid
    wait_until(lambda: f"luigi.cfg was reloaded: {what}" in luigid.text(), what=f"the reload of {what}")


def test_a_secret_is_rotated_at_the_gateway(site: Site) -> None:
    place = secret_file(site)
    paper = Paper("how-to/rotate-a-secret.md", site, {"/etc/spendguard/stripe": str(place)})
    site.gateway, site.secrets = True, {}
    paper.configure()
    site.start()
    site.luigi("Billing", "--n", "1")
    paper.command(stdin=NEW_SECRET + "\n")
    assert site.luigi("Billing", "--n", "1", "--first", "1")[0] == 0
    paper.command(LUIGID_PID=pid(site))
    reloaded(site, "[spendguard_stripe] secret changed")
    assert '"object": "balance"' in paper.command()
    site.luigi("Billing", "--n", "1", "--first", "2")
    assert charged(site) == {"cus_0": SECRET, "cus_1": SECRET, "cus_2": NEW_SECRET}
    assert site.stripe.books()["requests"][-2]["authorization"] == f"Bearer {NEW_SECRET}"


def test_a_secret_is_rotated_on_the_workers(site: Site) -> None:
    """A worker that stays ends after its task; what it had paid for is not paid for again."""
    paper = Paper("how-to/rotate-a-secret.md", site)
    site.start()
    (site.folder / "out" / "die").touch()
    with site.stripe.holding():
        old = site.worker("Billing", "--n", "1", "--worker-keep-alive")
        wait_until(lambda: bool(site.stripe.posts()), what="the call")
        for _ in range(3):
            paper.skip("sh")
        paper.command(WORKER_PID=str(old.pid))
    old.communicate(timeout=60)
    (site.folder / "out" / "die").unlink()
    code, out = site.luigi("Billing", "--n", "2", STRIPE_SECRET_KEY=NEW_SECRET)
    assert code == 0, out
    assert charged(site) == {"cus_0": SECRET, "cus_1": NEW_SECRET}


def test_a_pipeline_with_a_key_of_the_environments_is_put_under_a_cap(site: Site) -> None:
    place = secret_file(site)
    site.configure(spendguard={"default_cap_usd": None})
    paper = Paper("how-to/migrate-from-environment-keys.md", site, {"/etc/spendguard/stripe": str(place)})
    path = {"PYTHONPATH": f"{site.folder}:{REPOSITORY}"}
    paper.write_files()
    # 2. In shadow mode, with the mixin. (1. is tests/acceptance/test_stock_behaviour.py.)
    paper.configure()
    site.start()
    paper.change()
    paper.change()
    said = paper.command(**path)
    assert sorted(charged(site)) == [f"cus_{n}" for n in range(5)]
    assert said.count("payment_intents.create") == 5 + 2
    [run] = site.call("GET", "/runs", token=None)[1]
    assert "2 calls were let through; $5.00 would have sufficed" in site.cli("run", run["run_id"])[1]
    # 3. Enforced.
    paper.configure()
    site.stripe.forget()
    said = paper.command(LUIGID_PID=pid(site), **path)
    assert len(charged(site)) == 3
    assert "* 2 tasks blocked: cap of $3.00 reached" in said
    # 4. The secret is luigid's.
    paper.configure()
    paper.change()
    site.stripe.forget()
    site.gateway = True
    said = paper.command(LUIGID_PID=pid(site), **path)
    assert list(charged(site).values()) == [SECRET] * 3, said
    paper.check()


def test_a_pipeline_of_a_hosted_proxys_runs_here(site: Site) -> None:
    place = secret_file(site)
    paper = Paper("how-to/migrate-from-a-hosted-proxy.md", site, {"/etc/spendguard/stripe": str(place)})
    paper.configure()
    site.gateway, site.secrets = True, {}
    site.start()
    paper.write_files()
    said = paper.command(PYTHONPATH=f"{site.folder}:{REPOSITORY}")
    assert list(charged(site).values()) == [SECRET] * 3
    assert said.count("denied:cap") >= 2
    paper.command()
    assert site.run("nightly-42")["state"] == "revoked"
    paper.check()


def test_what_airflow_and_prefect_flows_call_spends_to_the_cap(site: Site) -> None:
    """And goes on after a top-up, under keys of the same terms; the schedulers were tried by hand."""
    place = secret_file(site)
    paper = Paper("how-to/airflow-and-prefect.md", site, {"/etc/spendguard/stripe": str(place)})
    paper.configure()
    site.gateway, site.secrets = True, {}
    token = {"SPENDGUARD_WORKER_TOKEN": "a-token-of-the-flows-0123"}
    token_of_the_site = token["SPENDGUARD_WORKER_TOKEN"]
    site.configure(spendguard={"worker_token": token_of_the_site, "default_cap_usd": None})
    site.start()
    paper.write_files()
    flow = (
        "import spending\nfor n in range(5):\n    try:\n        spending.charge('r', '3', f'cus_{n}', 100)\n"
        "    except spending.BudgetUsedUp:\n        print('used up')\n"
    )

    def run() -> str:
        env = site.environment(SPENDGUARD_URL=site.url, **token)
        done = subprocess.run(
            [sys.executable, "-c", flow], cwd=site.folder, env=env, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert run() == "used up\n" * 2
    assert list(charged(site).values()) == [SECRET] * 3
    assert site.cli("top-up", "r", "2")[0] == 0
    assert run() == ""
    assert len(charged(site)) == 5
    paper.check()


def test_batches_duplicates_and_yields_pay_once(site: Site) -> None:
    paper = Paper("how-to/batch-pipelines.md", site)
    paper.write_files()
    paper.configure()
    site.start()
    path = {"PYTHONPATH": f"{site.folder}:{REPOSITORY}"}
    paper.command(**path)
    assert sorted(charged(site)) == ["cus_a", "cus_b", "cus_c", "cus_d"]
    assert len(site.call("GET", "/runs", token=None)[1]) == 1
    said = paper.command(**path)
    assert "6 tasks blocked" in said
    assert len(charged(site)) == 4
    said = paper.command(**path)
    assert sorted(charged(site)) == ["cus_a", "cus_b", "cus_c", "cus_d", "cus_partner", "cus_x"], said
    paper.check()


def test_an_agents_tool_calls_are_budgeted(tmp_path: Path) -> None:
    llm = FakeLlm(tmp_path)
    stripe = FakeStripe(tmp_path / "vendor")
    packages = install(tmp_path / "llm")
    try:
        with LlmSite(tmp_path / "site", packages, llm, stripe, start=False) as site:
            paper = Paper("how-to/budget-an-agent.md", site)
            paper.write_files()
            path = {"PYTHONPATH": f"{packages}:{site.folder}:{REPOSITORY}"}
            # Its tools are tasks: the secret is on the worker.
            paper.configure()
            site.start()
            said = paper.command(**path)
            assert sorted(charged(site)) == ["cus_0", "cus_1"], said
            assert said.count("refused: the budget of this conversation is used up") == 1
            assert site.run("conversation-7")["spent_usd"] == "2.00"
            # A program of its own: luigid is the gateway.
            assert site.luigid is not None
            site.luigid.end()
            site.gateway = True
            site.start()
            stripe.forget()
            said = paper.command(**path)
            assert (said.count("charged pi_"), said.count("refused: ")) == (2, 1), said
            assert stripe.moved() == 200
            assert site.run("conversation-8")["state"] == "revoked"
            # Inside a task, with its tokens.
            paper.configure()
            site.luigid.end()
            site.start()
            stripe.forget()
            said = paper.command(**path)
            assert charged(site) == {"cus_ann": SECRET}, said
            assert len(llm.books()["requests"]) == 1
            assert "chat.completions.create" in said
            paper.check()
    finally:
        llm.process.end()
        stripe.process.end()
