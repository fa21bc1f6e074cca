"""The secret is in nothing that can be seen from an exception: not in locals, attributes, causes or reprs."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
import traceback
from collections.abc import Callable
from functools import partial
from urllib.parse import quote

import pytest
import stripe

from luigi_spendguard import config, guard
from luigi_spendguard.cli.api_client import Operator
from luigi_spendguard.cli.tokens import Token
from luigi_spendguard.errors import LedgerUnavailable
from luigi_spendguard.guard import Guard
from luigi_spendguard.http import ledger_client
from luigi_spendguard.http.ledger_client import HttpLedgerClient
from luigi_spendguard.protocol.rpcs import DuePricesRequest
from luigi_spendguard.proxy.stripe import VENDOR, in_place
from luigi_spendguard.vendors import Request
from tests.support.attempts import Pretender
from tests.support.pipelines import charge
from tests.support.processes import free_port
from tests.support.site import SECRET

FORMS = [SECRET, quote(SECRET, safe=""), base64.b64encode(f"{SECRET}:".encode()).decode().rstrip("=")]


def seen_from(error: BaseException) -> str:
    """Return all that tools show of an exception: locals and attributes, down the chain."""
    texts = ["".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())]
    seen: list[BaseException] = []
    todo: list[BaseException | None] = [error]
    while todo:
        found = todo.pop()
        if found is None or any(found is one for one in seen):
            continue
        seen.append(found)
        todo += [found.__cause__, found.__context__]
        texts += [repr(found), repr(vars(found)), *map(_deep, vars(found).values())]
        for frame, _ in traceback.walk_tb(found.__traceback__):
            if frame.f_globals["__name__"].startswith("tests."):
                continue  # The test's own objects know the secret.
            texts += map(_deep, frame.f_locals.values())
    return "\n".join(texts)


def _deep(value: object) -> str:
    """Return the repr of what a value holds, two levels down, as error reporters do."""
    held = [value, *(vars(value).values() if hasattr(value, "__dict__") else ())]
    held += [item for one in list(held) if isinstance(one, dict) for item in one.values()]
    held += [item for one in list(held) if hasattr(one, "__dict__") for item in vars(one).values()]
    maps = [one for one in held if hasattr(type(one), "keys") and hasattr(type(one), "items")]
    held += [dict(one) for one in maps if not isinstance(one, type)]
    return "\n".join(repr(one) for one in held)


def raised(act: Callable[[], object]) -> BaseException:
    try:
        act()
    except BaseException as error:
        return error
    raise AssertionError("nothing was raised")


@pytest.fixture
def in_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STRIPE_SECRET_KEY", SECRET)


@pytest.mark.usefixtures("in_environment")
@pytest.mark.parametrize(
    "fault",
    [
        "drop_before",
        "drop_after",
        "truncate",
        "not_json",
        "status",
        "status_after",
        "echo_secret",
        "refused",
        "late",
        "denied",
        "crash",
    ],
)
def test_no_exception_of_a_call_shows_the_secret(
    pretender: Pretender, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stripe, "max_network_retries", 0)
    act = partial(charge, "cus_1")
    if fault == "refused":
        own = pretender.settings.vendors["stripe"]
        object.__setattr__(own, "base_url", f"http://127.0.0.1:{free_port()}")
    elif fault == "denied":
        act = partial(charge, "cus_1", 99_999_00)
    elif fault == "late":
        monkeypatch.setattr(guard, "GRANT_SECONDS", -1)
    elif fault == "crash":
        monkeypatch.setattr(VENDOR, "outcome", _broken, raising=False)
    else:
        pretender.site.stripe.fault(fault, status=500, match="POST /v1/payment_intents", times=3)
    with pretender.attempt():
        error = raised(act)
    said = seen_from(error)
    for form in FORMS:
        assert form not in said, said[max(0, said.index(form) - 1500) : said.index(form) + 100]
    assert "charge" in said


def _broken(*args: object, **kwargs: object) -> object:
    raise ZeroDivisionError


@pytest.mark.usefixtures("in_environment")
def test_an_exception_of_the_task_shows_neither_the_variables_of_ours_that_hid_the_secret(
    pretender: Pretender,
) -> None:
    def act() -> None:
        with pretender.attempt():
            raise RuntimeError(str(dict(os.environ)))

    said = seen_from(raised(act))
    for form in FORMS:
        assert form not in said
    assert os.environ["STRIPE_SECRET_KEY"] == SECRET


@pytest.mark.usefixtures("in_environment")
def test_a_child_process_of_the_task_finds_the_vault_key(pretender: Pretender) -> None:
    code = "import os; print(os.environ['STRIPE_SECRET_KEY'])"
    with pretender.attempt() as attempt:
        out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
        assert out.strip() == attempt.key
        assert stripe.api_key == attempt.key


def test_the_token_is_not_seen_from_an_error_of_its_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_client, "GIVE_UP_S", 0)
    token = "worker-token-canary-0123456789"
    settings = config.Settings(None, worker_token=config.redaction.Secret(token))
    client = HttpLedgerClient("http://user:userinfo-canary@127.0.0.1:9", settings.worker_token)
    unreached = raised(lambda: client.due_prices(DuePricesRequest(())))
    monkeypatch.setattr(client._connections, "post", lambda *_: (500, b"{}"))
    refused = raised(lambda: client.due_prices(DuePricesRequest(())))
    for error in (refused, unreached):
        assert isinstance(error, LedgerUnavailable)
    for shown in (seen_from(refused), seen_from(unreached), repr(client), repr(vars(client)), repr(settings)):
        assert token not in shown
        assert "userinfo-canary" not in shown
    assert token not in repr(
        vars(Operator("http://127.0.0.1:9", Token(config.redaction.Secret(token), "refused")))
    )


def test_no_repr_of_ours_shows_a_secret(pretender: Pretender) -> None:
    secret = pretender.settings.vendor("stripe").secret
    assert secret == SECRET
    with pretender.attempt() as attempt:
        made = Guard(VENDOR, attempt.settings.vendor("stripe"), secret, {}, float)
        request = Request(
            "POST", "https://api.stripe.com/v1/x", {"authorization": f"Bearer {SECRET}"}, b"body"
        )
        wire = VENDOR.wire(request, attempt.settings.vendor("stripe"), secret, "key")
        with in_place(attempt):
            shown = [
                attempt,
                made,
                request,
                wire,
                dict(wire.headers),
                vars(attempt),
                vars(made),
                vars(wire),
                attempt.client,
                vars(attempt.client),
                attempt.settings,
                attempt.settings.vendors,
            ]
        for text in map(repr, shown):
            assert SECRET not in text
            assert attempt.key not in text
    assert wire.headers["authorization"] == f"Bearer {SECRET}"
