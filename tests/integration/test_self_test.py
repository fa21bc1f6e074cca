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

from tests.support.processes import environment

#: What would be the user's own, and must reach neither the fake vendor nor a screen.
SECRETS = {"STRIPE_SECRET_KEY": "sk_live_of_the_user_0123456789", "MY_TOKEN": "token-of-the-user-0123456789"}
OK = re.compile(
    r"ok: 4 workers asked for \$40\.00 in 40 charges( through the gateway)? under a cap of \$10\.00: the "
    r"vendor counted \$10\.00 \(10 charges\), the ledger agrees; 30 were refused\n"
)
#: Makes every call cost nothing for the guard: what a bug there would do.
BROKEN = """
import dataclasses
from luigi_spendguard.vendors.stripe import Stripe
quote = Stripe.quote
Stripe.quote = lambda self, *given: dataclasses.replace(quote(self, *given), total_micros=0)
"""


class User:
    """Somebody with a folder, a luigi.cfg and an environment of theirs."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.temporary = folder, folder / "tmp"
        self.temporary.mkdir()
        self.env = environment(TMPDIR=str(self.temporary), XDG_STATE_HOME=str(folder / "state"), **SECRETS)

    def start(self, *args: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "luigi_spendguard", "self-test", *args]
        return subprocess.Popen(command, cwd=self.folder, env=self.env, text=True, stdin=subprocess.DEVNULL,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip

    def run(self, *args: str) -> tuple[int, str, str]:
        process = self.start(*args)
        out, err = process.communicate(timeout=120)
        self.check_nothing_is_left(out + err)
        return process.returncode, out, err

    def check_nothing_is_left(self, said: str) -> None:
        assert list(self.temporary.iterdir()) == []
        assert not (self.folder / "state").exists(), "the user's own ledger is not touched"
        assert [secret for secret in SECRETS.values() if secret in said] == []
        here = str(self.temporary).encode()
        left = [path for path in Path("/proc").glob("[0-9]*/cmdline") if here in read(path)]
        assert left == []

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


def test_a_guard_that_is_broken_is_found_out_by_the_vendors_count(user: User) -> None:
    (user.folder / "sitecustomize.py").write_text(BROKEN)
    user.env["PYTHONPATH"] = os.pathsep.join([str(user.folder), user.env.get("PYTHONPATH", "")])
    code, out, _ = user.run("--workers", "2", "--cap", "5")
    assert code == 1
    assert out.startswith("FAILED: 2 workers asked for $10.00 in 20 charges under a cap of $5.00: the vendor "
                          "counted $10.00 (20 charges); THE CAP WAS PASSED by $5.00")  # fmt: skip


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
    (user.folder / "sitecustomize.py").write_text(
        "import sys, time\nif 'luigi_spendguard.selftest.child' in ' '.join(sys.orig_argv): time.sleep(60)\n"
    )
    user.env["PYTHONPATH"] = os.pathsep.join([str(user.folder), user.env.get("PYTHONPATH", "")])
    code, out, err = user.run("--timeout", "5")
    assert (code, out) == (1, "")
    assert "was not done after 5 seconds (--timeout)" in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_leaves_nothing_behind(user: User, number: signal.Signals) -> None:
    process = user.start("--workers", "8")
    limit = time.monotonic() + 20
    while not list(user.temporary.glob("*/worker*")) and time.monotonic() < limit:
        time.sleep(0.02)
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    user.check_nothing_is_left(out + err)
