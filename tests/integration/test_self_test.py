"""`spendguard self-test` as a user runs it: real processes, the user's settings, and nothing left behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.processes import REPOSITORY, environment, wait_until

#: What would be the user's own, and must reach neither the fake vendor nor a screen.
SECRETS = {"STRIPE_SECRET_KEY": "sk_live_of_the_user_0123456789", "MY_TOKEN": "token-of-the-user-0123456789"}
OK = re.compile(
    r"ok: 4 workers asked for \$40\.00 in 40 charges( through the gateway)? under a cap of \$10\.00: the "
    r"vendor counted \$10\.00 \(10 charges\), the ledger agrees; 30 were refused\n"
)
#: Makes every call cost nothing for the guard: what a bug there would do.
NO_PRICE = """
import dataclasses
from luigi_spendguard.vendors.stripe import Stripe
quote = Stripe.quote
Stripe.quote = lambda self, *given: dataclasses.replace(quote(self, *given), total_micros=0)
"""
#: The ledger's conditional update takes the money whether or not it is there.
NO_CAP = """
from luigi_spendguard.ledger import reservations
reservations.take_money = lambda tx, budgets, amount: reservations.lend_money(tx, "", budgets, amount)
"""
#: The SDK's calls go past the guard.
NO_GUARD = """
from luigi_spendguard.proxy import stripe
stripe.bind = lambda: None
"""
#: Shows what each process is given: its environment, and the settings that it reads.
SPY = """
import os, pathlib, sys
if "luigi_spendguard.selftest.sandbox" in sys.orig_argv:
    config = pathlib.Path(sys.orig_argv[sys.orig_argv.index("luigi_spendguard.selftest.sandbox") + 1])
    with open(pathlib.Path(__file__).with_name("seen"), "a") as seen:
        seen.write(f"{dict(os.environ)}\\n{config.read_text()}")
"""


class User:
    """Somebody with a folder, a luigi.cfg and an environment of theirs."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.temporary = folder, folder / "tmp"
        self.temporary.mkdir()
        self.env = environment(TMPDIR=str(self.temporary), XDG_STATE_HOME=str(folder / "state"), **SECRETS)

    def start(self, *args: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "luigi_spendguard", "self-test", *args]
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.env,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def run(self, *args: str) -> tuple[int, str, str]:
        process = self.start(*args)
        out, err = process.communicate(timeout=120)
        self.check_nothing_is_left(out + err)
        return process.returncode, out, err

    def check_nothing_is_left(self, said: str) -> None:
        assert list(self.temporary.iterdir()) == []
        assert not (self.folder / "state").exists(), "the user's own ledger is not touched"
        assert [secret for secret in SECRETS.values() if secret in said] == []
        # What was killed with its group may need a moment to be gone, where many processes run.
        wait_until(lambda: self.processes() == [], what="the end of every process")

    def processes(self) -> list[bytes]:
        """Return the command lines of what self-tests of this user have started and what still runs."""
        here = str(self.temporary).encode()
        return [line for path in Path("/proc").glob("[0-9]*/cmdline") if here in (line := read(path))]

    def before(self, code: str) -> None:
        """Let every Python process of this user run `code` first."""
        (self.folder / "sitecustomize.py").write_text(code)
        self.env["PYTHONPATH"] = os.pathsep.join([str(self.folder), self.env.get("PYTHONPATH", "")])

    def private(self, name: str, text: str) -> Path:
        """Write a file that is this user's alone."""
        path = self.folder / name
        path.write_text(text)
        path.chmod(0o600)
        return path

    def configure(self, text: str, name: str = "luigi.cfg") -> None:
        (self.folder / name).write_text(text)
        self.env["LUIGI_CONFIG_PATH"] = str(self.folder / name)


def read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


@pytest.fixture
def user(tmp_path: Path) -> User:
    return User(tmp_path)


def test_without_any_settings_the_cap_bites(user: User) -> None:
    code, out, err = user.run()
    assert (code, err) == (0, ""), err
    assert OK.fullmatch(out)
    assert "gateway" not in out


def test_where_luigid_has_the_secret_it_goes_through_the_gateway(user: User) -> None:
    user.configure(
        "[core]\ndefault_scheduler_url = http://luigid.example:8082\n"
        "[spendguard]\nledger_url = sqlite:////var/lib/nowhere/spendguard.db\nworker_token = ${MY_TOKEN}\n"
        "admin_token = admin-of-the-user-0123456789\ndefault_cap_usd = 3\ndaily_cap_usd = 500\n"
        "on_blocked = wait\nforecast = hold\n[spendguard_stripe]\nsecret = ${STRIPE_SECRET_KEY}\n"
        "allowed_endpoints = GET /v1/*\n[spendguard_caps]\nBilling = 5\n"
    )
    code, out, err = user.run()
    assert (code, err) == (0, ""), err
    assert "through the gateway" in out
    assert OK.fullmatch(out)
    assert "admin-of-the-user" not in out + err


def test_settings_in_toml_are_kept_too(user: User) -> None:
    user.configure("[spendguard]\ndaily_cap_usd = 4\n[spendguard_fx]\neur = 1.12\n", "luigi.toml")
    user.env["LUIGI_CONFIG_PARSER"] = "toml"
    code, out, err = user.run("--workers", "2")
    assert code == 0, err
    assert "under a cap of $4.00 (daily_cap_usd): the vendor counted $4.00" in out


def test_in_shadow_mode_it_says_that_the_cap_does_not_bite(user: User) -> None:
    user.configure("[spendguard]\nmode = shadow\n")
    code, out, _ = user.run("--workers", "2")
    assert code == 1
    assert "THE CAP DOES NOT BITE, because mode = shadow: $10.00 too much passed" in out


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        (NO_PRICE, "the ledger says $0.00"),
        (NO_CAP, ""),
        (NO_GUARD, "the vendor was shown another credential than the secret; the ledger says $0.00"),
    ],
    ids=["price", "cap", "guard"],
)
def test_a_guard_that_is_broken_is_found_out_by_the_vendors_count(user: User, broken: str, says: str) -> None:
    user.before(broken)
    code, out, err = user.run("--workers", "2", "--cap", "5")
    assert code == 1
    assert out.startswith(
        "FAILED: 2 workers asked for $10.00 in 20 charges under a cap of $5.00: the vendor "
        "counted $10.00 (20 charges); THE CAP WAS PASSED by $5.00"
    )
    assert says in out
    assert "--- luigid\n" in err
    assert "--- workers\n" in err


def test_no_process_is_given_a_secret_of_the_users(user: User) -> None:
    whose = ("vendor", "worker", "admin", "alice", "bob", "mine")
    theirs = {name: f"{name}-of-the-user-0123456789" for name in whose}
    tls = REPOSITORY / "tests" / "support" / "tls"
    user.configure(
        "[spendguard]\n"
        f"worker_token_file = {user.private('worker', theirs['worker'])}\nadmin_token = {theirs['admin']}\n"
        f"tls_cert = {tls / 'loopback.pem'}\ntls_key = {tls / 'loopback.key'}\n"
        "gateway_url = https://gateway.example.com\ntwo_operators_above_usd = 1\n"
        f"[spendguard_operators]\nalice = {theirs['alice']}\nbob = ${{BOBS}}\n"
        "[spendguard_roles]\nbob = admin\n[spendguard_caps]\nBilling = 5\n"
        "[spendguard_twilio]\nsecret = ${MY_TOKEN}\n"
        f"[spendguard_stripe]\nsecret_file = {user.private('vendor', theirs['vendor'])}\n"
        "base_url = https://stripe.example.com\n"
    )
    user.env |= {"A_COPY": f"Bearer {theirs['vendor']}", "ALL_PROXY": "http://proxy.example.com:3128"}
    user.env |= {"BOBS": theirs["bob"], "SPENDGUARD_TOKEN": theirs["mine"]}
    user.before(SPY)
    code, out, err = user.run()
    assert (code, err) == (0, ""), err
    assert OK.fullmatch(out)
    seen = (user.folder / "seen").read_text()
    assert seen.count("[spendguard_stripe]") == 3  # luigid, the workers, and what reads the ledger
    kept = ("https://127.0.0.1:", "worker_token_file", "admin_token", "secret_file", "Billing = 5")
    assert [text for text in kept if text not in seen] == []
    secrets = (*theirs.values(), *SECRETS.values())
    assert [text for text in (*secrets, "example.com", str(tls)) if text in seen] == []


@pytest.mark.parametrize(
    ("text", "args", "says"),
    [
        ("[spendguard]\ndefault_cap = 3\n", (), "default_cap"),
        ("", ("--workers", "1"), "--workers"),
        ("", ("--cap", "0.01"), "too low for a self-test"),
        ("[spendguard_stripe]\nrun_cap_usd = 0.05\n", (), "[spendguard_stripe] run_cap_usd"),
    ],
)
def test_what_cannot_be_tested_is_bad_usage(user: User, text: str, args: tuple[str, ...], says: str) -> None:
    user.configure(text)
    code, out, err = user.run(*args)
    assert (code, out) == (2, "")
    assert says in err


def test_one_that_takes_too_long_is_given_up_with_the_end_of_its_log(user: User) -> None:
    user.before(
        "import sys, time\nif 'luigi_spendguard.selftest.sandbox' in sys.orig_argv:\n"
        "    print('asleep', flush=True)\n    time.sleep(60)\n"
    )
    code, out, err = user.run("--timeout", "5")
    assert (code, out) == (1, "")
    assert err.startswith("asleep\n")
    assert "was not done after 5 seconds (--timeout)" in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupted_it_leaves_nothing_behind(user: User, number: signal.Signals) -> None:
    process = user.start("--workers", "8")
    limit = time.monotonic() + 20
    while not list(user.temporary.glob("*/worker*")) and time.monotonic() < limit:
        time.sleep(0.02)
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    user.check_nothing_is_left(out + err)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a killed process's children")
def test_killed_it_leaves_no_process_behind(user: User) -> None:
    process = user.start("--workers", "8")
    wait_until(lambda: bool(list(user.temporary.glob("*/started-*"))), what="a task")
    assert len(user.processes()) > 2
    process.kill()
    process.communicate(timeout=30)
    wait_until(lambda: not user.processes(), what="the end of all processes")
