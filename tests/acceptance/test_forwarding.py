"""A worker without a secret, whose calls a gateway guards: to Luigi it is as if they were guarded here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.test_shapes import SHAPES
from tests.support.fake_gateway import FakeGateway, Seen, denial
from tests.support.processes import read_until, wait_until
from tests.support.site import Site


@pytest.fixture
def gateway(site: Site) -> Iterator[FakeGateway]:
    with FakeGateway() as gateway:
        site.configure(spendguard={"gateway_url": gateway.url}, spendguard_stripe={"secret": None})
        site.gateway = True  # The workers have no secret.
        yield gateway


def lines(site: Site, name: str) -> list[str]:
    path: Path = site.folder / "out" / name
    return path.read_text().splitlines() if path.exists() else []


@pytest.mark.parametrize("workers", [1, 3])
def test_every_call_is_forwarded_under_its_attempts_own_key(
    site: Site, gateway: FakeGateway, workers: int
) -> None:
    code, out = site.luigi("Billing", "--n", "6", "--run-id", "r", "--workers", str(workers))
    assert code == 0, out
    assert gateway.moved == {f"cus_{number}": 100 for number in range(6)}
    keys = {seen.headers["authorization"] for seen in gateway.seen}
    assert len(keys) == 6
    assert all(key.startswith("Bearer vault_key_") for key in keys)
    assert not any(key[7:] in out for key in keys)
    # Nothing is reserved on this side, and nothing sent to the vendor from here.
    assert site.calls("r") == []
    assert site.stripe.books()["requests"] == []


@pytest.mark.parametrize("workers", [1, 2])
def test_a_task_that_the_gateway_denies_is_blocked_not_failed(
    site: Site, gateway: FakeGateway, workers: int
) -> None:
    facts = {
        "run_id": "r",
        "budget": "run",
        "part": "",
        "cap_usd": "100.00",
        "spent_usd": "0.00",
        "reserved_usd": "0.00",
        "remaining_usd": "100.00",
        "asked_usd": "1000.00",
    }
    gateway.answer = lambda seen: denial("cap", 429, "asked $1000.00, $100.00 remaining", **facts)
    code, out = site.luigi(
        "Several",
        "--family",
        "Slow",
        "--names",
        "a,b",
        "--run-id",
        "r",
        "--workers",
        str(workers),
        module=SHAPES,
    )
    assert code == 0, out
    assert "2 tasks blocked" in out
    assert "failed" not in out.split("===== Luigi Execution Summary =====")[1]
    assert len(gateway.seen) == 2
    assert len([line for line in lines(site, "events") if line.startswith("task_blocked Slow asked")]) == 2
    assert not [line for line in lines(site, "events") if line.startswith("failure")]


@pytest.mark.parametrize("reason", ["unknown_key", "expired"])
def test_what_no_budget_denies_fails_the_task_and_is_gone_when_mended(
    site: Site, gateway: FakeGateway, reason: str
) -> None:
    gateway.answer = lambda seen: denial(reason, 401, "a vault key is missing", run_id="r")
    code, out = site.luigi("Billing", "--n", "1", "--run-id", "r")
    assert "1 failed" in out, out
    assert "a vault key is missing" in out
    assert "blocked" not in out.split("===== Luigi Execution Summary =====")[1]
    assert site.run("r")["status"] == "active"
    gateway.answer = gateway.charge
    code, out = site.luigi("Billing", "--n", "1", "--run-id", "r")
    assert code == 0, out
    assert list(gateway.moved.values()) == [100]


def test_revoke_lets_the_forwarded_call_end_first(site: Site, gateway: FakeGateway) -> None:
    args = ("Several", "--family", "Calling", "--names", "a", "--run-id", "r", "--workers", "2")
    with gateway.holding():
        worker = site.worker(*args, module=SHAPES)
        wait_until(lambda: bool(gateway.seen), what="the call")
        assert site.call("DELETE", "/runs/r")[0] == 200
        read_until(worker, "is asked to end")
    out, _ = worker.communicate(timeout=60)  # By itself it would go on for two minutes.
    assert gateway.moved == {"calling_a": 100}
    assert lines(site, "ended")[-1].endswith("KeyRevoked")
    assert "1 task blocked: the run is revoked" in out


def test_a_task_that_died_after_it_had_paid_gets_the_first_answer(site: Site, gateway: FakeGateway) -> None:
    """The gateway knows the task by its key; here it answers by what is charged."""
    first = gateway.charge
    answers: dict[bytes, tuple[int, dict[str, str], bytes]] = {}

    def once(seen: Seen) -> tuple[int, dict[str, str], bytes]:
        if seen.body in answers:
            status, headers, body = answers[seen.body]
            return status, {**headers, "X-Spendguard-Replayed": "1764000000000"}, body
        answers[seen.body] = first(seen)
        return answers[seen.body]

    gateway.answer = once
    (site.folder / "out" / "die").touch()
    site.luigi("Billing", "--n", "1", "--run-id", "r")
    (site.folder / "out" / "die").unlink()
    site.wait_for_retries()
    code, out = site.luigi("Billing", "--n", "1", "--run-id", "r")
    assert code == 0, out
    assert "Replayed: POST /v1/payment_intents was made before, answered at 2025-11-24 16:00:00+00:00" in out


@pytest.mark.parametrize("more", [(), ("--local-scheduler",)])
def test_without_gateway_and_secret_the_error_says_what_to_set(site: Site, more: tuple[str, ...]) -> None:
    site.gateway = True  # Nobody has the secret: luigid was started without it.
    _, out = site.luigi("Billing", "--n", "1", "--run-id", "r", *more)
    assert "there is no secret for stripe: set [spendguard_stripe] secret in luigid's luigi.cfg" in out
    assert site.stripe.books()["requests"] == []
