"""The ledger's PostgreSQL goes away while luigid is up: whoever asks hears why, soon, and pays once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import stripe

from luigi_spendguard.config import Settings
from luigi_spendguard.errors import LedgerUnavailable
from luigi_spendguard.http.ledger_client import GIVE_UP_S, HttpLedgerClient
from luigi_spendguard.ledger import Ledger, runs
from luigi_spendguard.money import Micros
from luigi_spendguard.protocol.rpcs import CloseRunRequest, OpenRunRequest
from luigi_spendguard.redaction import Secret
from scheduler_patch.service import ledger as service
from tests.support.asking import ADMIN, WORKER
from tests.support.luigids import Luigid
from tests.support.postgres import PostgresServer, settings_of
from tests.support.processes import wait_until
from tests.support.site import Site

AWAY, REMEDY = "the ledger's PostgreSQL cannot be reached", "([spendguard] ledger_url)"


def refusal(act: Callable[[], object]) -> tuple[str, float]:
    """Return what is heard in place of an answer, and after how many seconds; "": it was answered."""
    begun = time.monotonic()
    try:
        act()
    except (LedgerUnavailable, stripe.APIError) as error:
        return str(error), time.monotonic() - begun
    return "", time.monotonic() - begun


def test_who_asks_while_it_stands_still_hears_why_and_is_served_when_it_is_back(
    server: PostgresServer, url: str, tmp_path: Path
) -> None:
    said = {"ledger_url": url, "admin_token": ADMIN, "worker_token": WORKER}
    with Site(tmp_path, gateway=True, spendguard=said) as site:
        terms = {"vendor": "stripe", "run_usd_cap": 5, "expires_in": "4h", "agent_run_label": "luigi/r"}
        key = site.call("POST", "/vault/keys", terms, WORKER)[1]["vault_key"]
        at_gateway = stripe.StripeClient(
            key, base_addresses={"api": f"{site.url}/stripe"}, max_network_retries=0
        )
        worker = HttpLedgerClient(site.url, WORKER)

        def charge() -> Any:
            params: Any = {
                "amount": 100,
                "currency": "usd",
                "customer": "cus_1",
                "confirm": True,
                "payment_method": "pm_x",
            }
            return at_gateway.v1.payment_intents.create(params, {"idempotency_key": "one"})

        def opens() -> object:
            return worker.open_run(OpenRunRequest("of-others", False, "Other", "Other_1"))

        def reads() -> None:
            status, said = site.call("GET", "/runs/r/spending", token=None)
            if status != 200:
                raise LedgerUnavailable(said["message"])

        opens()
        reads()
        with server.frozen():
            first: dict[str, tuple[str, float]] = {}
            asking = [
                threading.Thread(target=lambda name=name, act=act: first.setdefault(name, refusal(act)))
                for name, act in (("gateway", charge), ("luigid", opens), ("page", reads))
            ]
            for one in asking:
                one.start()
            for one in asking:
                one.join(30)
            for who in (
                "gateway",
                "luigid",
                "page",
            ):  # A worker gives up then, and knows no reason.
                why, after_s = first[who]
                assert (AWAY in why, REMEDY in why) == (True, True), (who, why)
                assert after_s < GIVE_UP_S, (who, after_s)

            def is_known() -> bool:
                said = [refusal(act) for act in (charge, opens)]
                return all(AWAY in why and after_s < 1 for why, after_s in said)

            wait_until(is_known, 20, "that it is known to be away")
            _, out = site.luigi("Charge", "--customer", "cus_2")
            summary = out.partition("Luigi Execution Summary")[2]
            assert AWAY in summary
            assert "TimeoutError" not in out
            status, answer = site.call("DELETE", "/runs/r", token=ADMIN)
            assert (status, answer["error"]) == (503, "ledger_unavailable")
            assert AWAY in answer["message"]
            for command in (["runs"], ["run", "r"], ["top-up", "r", "1"], ["revoke", "r"], ["keys"]):
                code, out, err = site.cli(*command)
                assert (code, out, AWAY in err) == (3, "", True), (command, code, out, err)
        wait_until(lambda: not refusal(opens)[0], 10, "that work goes on")
        charge()
        assert site.stripe.moved() == 100
        assert site.luigi("Charge", "--customer", "cus_2", "--workers", "1")[0] == 0
        assert site.stripe.moved() == 200
        worker.close()


class AtServer(Luigid):
    """One whose ledger is at a server."""

    def __init__(self, folder: Path, url: str) -> None:
        self.url = url
        super().__init__(folder)

    def settings(self) -> Settings:
        return settings_of(Secret(self.url), self.caps)


def test_a_page_that_takes_a_server_long_is_waited_for(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "READ_S", 0.6)
    monkeypatch.setattr(service, "ATTEND_S", 0.1)
    luigid = AtServer(tmp_path, url)
    assert luigid.do(luigid.service.browse(lambda tx: tx.value("SELECT count(pg_sleep(1.5))"))) == 1
    luigid.end()


def test_the_end_of_a_root_without_a_run_does_not_need_it(
    server: PostgresServer, url: str, tmp_path: Path
) -> None:
    """As is that of every plain pipeline: it would be tried for 30 s, and kept for later."""
    luigid = AtServer(tmp_path, url)
    luigid.do(luigid.service.open_run(OpenRunRequest("Paying_1", True, "Paying", "Paying_1")))
    server.kill()
    assert not luigid.do(luigid.service.close_run(CloseRunRequest("Plain_1", None, "once"))).closed
    for run_id in (None, "Paying_1"):
        with pytest.raises(LedgerUnavailable, match=AWAY):
            luigid.do(luigid.service.close_run(CloseRunRequest("Paying_1", run_id, "once")))
    with pytest.raises(LedgerUnavailable, match=AWAY):  # Its worker knows better.
        luigid.do(luigid.service.close_run(CloseRunRequest("Plain_1", "Plain_1~2", "once")))
    server.start()
    luigid.end()


def test_who_asks_after_it_was_killed_is_not_kept_waiting(server: PostgresServer, url: str) -> None:
    asked = runs.RunRequest("run", False, "Root", "Root_1", Micros(0))
    ledger = Ledger(Secret(url))
    ledger.write(runs.open_run, asked).result(20)
    server.kill()
    with pytest.raises(LedgerUnavailable, match=AWAY):
        ledger.write(runs.open_run, asked).result(20)
    futures: list[Future[Any]] = [
        ledger.write(runs.open_run, asked),
        ledger.read(runs.run_row, "run"),
        ledger.browse(runs.run_row, "run"),
    ]
    for future in futures:
        assert future.done()
        with pytest.raises(LedgerUnavailable, match="start the server"):
            future.result(0)
    server.start()
    wait_until(lambda: ledger.away is None, 10, "that it is known to be back")
    ledger.write(runs.open_run, asked).result(20)
    ledger.close()


def test_luigid_ends_while_it_stands_still(server: PostgresServer, url: str, tmp_path: Path) -> None:
    said = {"ledger_url": url, "admin_token": ADMIN, "worker_token": WORKER}
    with Site(tmp_path, spendguard=said) as site:
        HttpLedgerClient(site.url, WORKER).open_run(OpenRunRequest("r", False, "Root", "Root_1"))
        assert site.luigid is not None
        with server.frozen():
            assert refusal(
                lambda: HttpLedgerClient(site.url, WORKER).open_run(
                    OpenRunRequest("r", False, "Root", "Root_1")
                )
            )[0]
            # By now the audit is being looked at, which may take a minute.
            site.luigid.popen.terminate()
            assert site.luigid.popen.wait(40) == 0
