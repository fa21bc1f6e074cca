"""What a self-test concludes from what it has seen, and what its processes may not do."""

from __future__ import annotations

import importlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from luigi_spendguard import config
from luigi_spendguard.money import Micros
from luigi_spendguard.selftest.race import Facts, judge
from luigi_spendguard.selftest.sandbox import LeftSandbox, stay_on_loopback
from luigi_spendguard.selftest.site import Site, make_site, written
from luigi_spendguard.settings.files import read_sections
from tests.support.processes import REPOSITORY

REPORTS = [
    {"pid": pid, "charged": 5, "refused": {"cap": 5}, "failed": [], "message": "cap reached"}
    for pid in (1, 2)
]
GOOD = Facts(
    workers=2,
    charges=10,
    cents=100,
    cap=10_000_000,
    limit="",
    shadow=False,
    gateway=False,
    charged=10,
    counted_cents=1000,
    strangers=0,
    run={"spent_usd": "10.00", "reserved_usd": "0.00"},
    reports=REPORTS,
)


def test_a_cap_that_bites_is_said_with_all_figures() -> None:
    assert judge(GOOD) == (
        True,
        "ok: 2 workers asked for $20.00 in 20 charges under a cap of $10.00: the vendor counted $10.00 "
        "(10 charges), the ledger agrees; 10 were refused",
    )
    assert (
        "through the gateway under a cap of $10.00 (daily_cap_usd)"
        in judge(replace(GOOD, gateway=True, limit="daily_cap_usd"))[1]
    )


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        ({"charged": 11, "counted_cents": 1100}, "THE CAP WAS PASSED by $1.00; the ledger says $10.00"),
        (
            {
                "charged": 20,
                "counted_cents": 2000,
                "shadow": True,
                "run": {"spent_usd": "20.00", "reserved_usd": "0.00"},
            },
            "THE CAP DOES NOT BITE, because mode = shadow: $10.00 too much passed",
        ),
        (
            {"charged": 9, "counted_cents": 900},
            "less than the cap was let through, so it was not put to the "
            "test (cap reached); the ledger says $10.00",
        ),
        (
            {"run": {"spent_usd": "9.00", "reserved_usd": "1.00"}},
            "the ledger says $9.00; $1.00 are still reserved in the ledger",
        ),
        ({"run": None}, "the ledger knows no such run"),
        ({"strangers": 1}, "the vendor was shown another credential than the secret"),
        ({"reports": REPORTS[:1]}, "only 1 of 2 workers took part to the end"),
        ({"reports": [REPORTS[0], REPORTS[0]]}, "only 1 of 2 workers took part to the end"),
        (
            {"reports": [{**REPORTS[0], "failed": ["Timeout: it took too long"]}, REPORTS[1]]},
            "a worker was not told what became of a charge (Timeout: it took too long)",
        ),
    ],
)
def test_whatever_is_not_as_it_must_be_is_said(seen: dict[str, Any], said: str) -> None:
    good, line = judge(replace(GOOD, **seen))
    assert not good
    assert line.startswith("FAILED: 2 workers asked for $20.00 in 20 charges")
    assert line.endswith(f"; {said}")


@pytest.mark.parametrize("host", ["api.stripe.com", "93.184.215.14", "10.0.0.1", "2606:2800::1", b"x.y"])
@pytest.mark.parametrize("event", ["socket.connect", "socket.sendto", "socket.getaddrinfo"])
def test_nothing_but_this_machine_is_looked_up_or_reached(event: str, host: str) -> None:
    args = (host, 443) if event == "socket.getaddrinfo" else (None, (host, 443))
    with pytest.raises(LeftSandbox, match="never leaves this machine"):
        stay_on_loopback(event, args)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", b"127.0.0.1"])
def test_this_machine_is_reached(host: str) -> None:
    stay_on_loopback("socket.connect", (None, (host, 443)))
    stay_on_loopback("socket.connect", (None, "/run/some.sock"))
    stay_on_loopback("socket.getaddrinfo", (host, 443))
    stay_on_loopback("open", ("api.stripe.com",))


CHILD = """
[spendguard]
ledger_url = sqlite:///{ledger}
[spendguard_stripe]
base_url = {stripe}
[spendguard_twilio]
base_url = http://127.0.0.1:9
[spendguard_resend]
base_url = http://127.0.0.1:9
"""


@pytest.mark.parametrize(
    ("stripe", "ledger", "said"),
    [
        ("https://api.stripe.com", "{}/spendguard.db", "calls to stripe would not go to the fake vendor"),
        ("http://127.0.0.1:9", "/elsewhere/spendguard.db", "is not the self-test's ledger"),
        ("http://127.0.0.1:9", "{}/spendguard.db", ""),
    ],
)
def test_a_process_with_another_vendor_or_ledger_does_not_start(
    tmp_path: Path, stripe: str, ledger: str, said: str
) -> None:
    config = tmp_path / "luigi.cfg"
    config.write_text(CHILD.format(ledger=ledger.format(tmp_path), stripe=stripe))
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "luigi_spendguard.selftest.sandbox",
            str(config),
            "http://127.0.0.1:9",
            "luigi_spendguard",
            "--version",
        ],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert said in done.stderr
    assert (done.returncode == 0) is (not said)


@pytest.mark.parametrize("url", ["https://api.stripe.com/v1/balance", "http://93.184.215.14/"])
def test_a_process_cannot_leave_by_any_client(url: str) -> None:
    code = (
        "import sys; from luigi_spendguard.selftest.sandbox import stay_on_loopback\n"
        "sys.addaudithook(stay_on_loopback)\n"
        f"import requests; requests.get({url!r}, timeout=5)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "LeftSandbox: a self-test never leaves this machine" in done.stderr


@pytest.mark.parametrize("name", ["luigi.cfg", "luigi.toml"])
def test_settings_are_written_as_they_were_read(tmp_path: Path, name: str) -> None:
    kind = "toml" if name == "luigi.toml" else "ini"
    example = REPOSITORY / "config" / name
    read = {
        section: {key: raw.value for key, raw in content.items()}
        for section, content in read_sections(kind, [example]).items()
    }
    copy = tmp_path / name
    copy.write_text(written(kind, read))
    again = {
        section: {key: raw.value for key, raw in content.items()}
        for section, content in read_sections(kind, [copy]).items()
    }
    assert again == read


def made_site(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    users = folder / "luigi.cfg"
    users.write_text("[spendguard]\ndefault_cap_usd = 5\nvendor_tasks = Billing\n")
    monkeypatch.setenv("LUIGI_CONFIG_PATH", str(users))
    (own := folder / "self-test").mkdir()
    return make_site(own, config.load([users], environ={}))


@pytest.mark.parametrize("secret", ["bin", "dev", "usd", "a1"])
def test_a_short_secret_is_no_ordinary_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, secret: str
) -> None:
    """As a developer's stand-in may be: it was found in settings and paths that have nothing of it."""
    monkeypatch.setenv("STRIPE_SECRET_KEY", secret)
    monkeypatch.setenv("NOBODYS", f"/home/{secret}x:/usr/{secret}, {secret}.example.org")
    monkeypatch.setenv("ITS_COPY", f"Bearer {secret}")
    site = made_site(tmp_path, monkeypatch)
    for mine in (site.environment(luigid=True), site.environment()):
        assert "NOBODYS" in mine
        assert "ITS_COPY" not in mine
        assert mine.get("STRIPE_SECRET_KEY") in (None, site.secret)
    site.write(Micros(1_000_000), "http://127.0.0.1:1", 2)


def test_a_long_secret_is_found_wherever_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STRIPE_SECRET_KEY", secret := "sk_test_canary_4eC39HqLyjWD")
    monkeypatch.setenv("ITS_COPY", f"https://api.example/{secret}x")
    assert "ITS_COPY" not in made_site(tmp_path, monkeypatch).environment()


def test_any_text_is_written_to_toml_and_read_again() -> None:
    tomllib: Any = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")  # pytest's.
    content = {'a "b".c': {"key = é\\": 'x\n\t"\\\x7f\x01€😀', "flag": True, "many": ["a", 1], "none": 1.5}}
    assert tomllib.loads(written("toml", content)) == content
