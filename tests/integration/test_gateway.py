"""The gateway: the guard before the vendor, for any client; what passes, is stripped, and is refused."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import stripe

from luigi_spendguard.http.relay import MAX_FORM, MAX_UPLOAD
from tests.integration.test_vault_keys import charge, client, issued
from tests.support.asking import ADMIN, WORKER
from tests.support.processes import REPOSITORY, Process, environment, free_port, listening, wait_until
from tests.support.site import SECRET, FakeStripe, Site

FORM = {"Content-Type": "application/x-www-form-urlencoded"}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    said = {"admin_token": ADMIN, "worker_token": WORKER, "daily_cap_usd": 10000, "max_cap_usd": 5000}
    with Site(tmp_path_factory.mktemp("gateway"), gateway=True, spendguard=said) as site:
        yield site


@pytest.fixture
def key(gateway: Site) -> str:
    gateway.stripe.forget()
    gateway.stripe.control(options={"latency": 0})
    return str(issued(gateway, agent_run_label=None, run_usd_cap=1000)["vault_key"])


def raw(
    site: Site, method: str, path: str, body: bytes | None = None, port: int | None = None, **headers: str
) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port or site.port, timeout=30)
    try:
        connection.request(method, path, body, headers)
        reply = connection.getresponse()
        return reply.status, {name.lower(): value for name, value in reply.getheaders()}, reply.read()
    finally:
        connection.close()


def form(key: str, **more: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}", **FORM, **more}


def recorded(gateway: Site) -> list[str]:
    """Return the reasons of what is on record under the key that was made last."""
    run_id = gateway.call("GET", "/vault/keys", token=ADMIN)[1][0]["run_id"]
    return [call["reason"] for call in gateway.calls(run_id)]


class TestPassing:
    def test_status_headers_and_bytes_are_the_vendors(self, gateway: Site, key: str) -> None:
        direct = raw(
            gateway,
            "GET",
            "/v1/customers/none",
            port=int(gateway.stripe.url.rsplit(":", 1)[1]),
            Authorization=f"Bearer {SECRET}",
        )
        through = raw(
            gateway,
            "GET",
            "/stripe/v1/customers/none",
            Authorization=f"Bearer {key}",
            **{"Accept-Encoding": "gzip"},
        )
        assert through[0] == direct[0]
        assert through[2] == direct[2]
        assert through[1].pop("x-spendguard-relayed") == "1"
        its_own = {"date", "request-id", "connection"}
        assert {n: v for n, v in through[1].items() if n not in its_own} == {
            n: v for n, v in direct[1].items() if n not in its_own
        }

    def test_what_the_client_says_of_itself_never_arrives(self, gateway: Site, key: str) -> None:
        said = {
            "Cookie": "a=b",
            "X-Api-Key": "k",
            "X-Forwarded-For": "1.2.3.4",
            "Proxy-Authorization": "Basic x",
            "X-Spendguard-Call": "c",
            "Via": "1.1 x",
            "Stripe-Version": "2026-10-28.endive",
        }
        status, _, _ = raw(
            gateway, "POST", "/stripe/v1/payment_intents", b"amount=100&currency=usd", **form(key, **said)
        )
        assert status == 200
        [arrived] = gateway.stripe.posts()
        assert arrived["authorization"] == f"Bearer {SECRET}"
        assert key not in json.dumps(arrived)

    def test_the_key_may_stand_where_curl_puts_it(self, gateway: Site, key: str) -> None:
        basic = base64.b64encode(f"{key}:".encode()).decode()
        status, _, _ = raw(gateway, "GET", "/stripe/v1/balance", Authorization=f"Basic {basic}")
        assert status != 401

    def test_a_repeated_key_on_the_wire_is_replayed_and_says_so(self, gateway: Site, key: str) -> None:
        sent = [
            raw(
                gateway,
                "POST",
                "/stripe/v1/payment_intents",
                b"amount=100&currency=usd&customer=cus_1",
                **form(key, **{"Idempotency-Key": "once"}),
            )
            for _ in range(2)
        ]
        assert sent[0][2] == sent[1][2]
        assert "x-spendguard-replayed" in sent[1][1]
        assert len(gateway.stripe.posts()) == 1


class TestRefusing:
    @pytest.mark.parametrize(
        "path",
        [
            "/stripe/v1/../v1/charges",
            "/stripe/v1/%2e%2e/charges",
            "/stripe/v1%2fcharges",
            "/stripe//v1/charges",
            "/stripe/v1/charges%00",
            "/stripe/v1/cha\\rges",
            "/stripe/http://elsewhere.example/v1",
            "/stripe/v1/charges;x",
            "/stripe",
            "/stripe/",
            "/stripe/@elsewhere.example/v1/charges",
            "/stripe/v1/" + "x" * 5000,
        ],
    )
    def test_a_path_that_no_vendor_path_has(self, gateway: Site, key: str, path: str) -> None:
        status, _, body = raw(gateway, "POST", path, b"amount=1&currency=usd", **form(key))
        assert status == 403
        assert json.loads(body)["error"]["code"] in ("endpoint_not_allowed", "unpriced")
        assert gateway.stripe.books()["requests"] == []
        assert recorded(gateway) in (["endpoint"], ["unpriced"])

    @pytest.mark.parametrize("shown", ["", "vault_key_none", SECRET, WORKER])
    def test_no_key_a_wrong_key_and_the_secret_itself(self, gateway: Site, key: str, shown: str) -> None:
        said = {"Authorization": f"Bearer {shown}"} if shown else {}
        before = gateway.call("GET", "/status", token=ADMIN)[1]["failed_attempts"]
        status, headers, body = raw(
            gateway, "POST", "/stripe/v1/charges", b"amount=1&currency=usd", **FORM, **said
        )
        assert (status, headers["stripe-should-retry"]) == (401, "false")
        assert json.loads(body)["error"]["code"] == "unknown_key"
        after = gateway.call("GET", "/status", token=ADMIN)[1]["failed_attempts"]
        assert after - before == len(said)

    @pytest.mark.parametrize(
        ("method", "path", "said"),
        [
            ("GET", "/v1/issuing/cards/ic_1", {}),
            ("POST", "/v1/payment_intents", {"Content-Encoding": "gzip"}),
        ],
    )
    def test_a_body_that_the_vendor_may_read_otherwise(
        self, gateway: Site, key: str, method: str, path: str, said: dict[str, str]
    ) -> None:
        body = b"amount=100&currency=usd&expand[]=number"
        status, _, answer = raw(gateway, method, f"/stripe{path}", body, **form(key, **said))
        assert (status, json.loads(answer)["error"]["code"]) == (403, "unpriced")
        assert gateway.stripe.books()["requests"] == []

    def test_a_vault_key_in_a_path_is_not_shown_by_the_record(self, gateway: Site, key: str) -> None:
        assert raw(gateway, "GET", f"/stripe/v1/customers/{key}", **form(key))[0] == 404
        run_id = gateway.call("GET", "/vault/keys", token=ADMIN)[1][0]["run_id"]
        [call] = gateway.calls(run_id)
        assert call["path"] == "/v1/customers/[redacted]"
        assert "vault_key_" not in json.dumps(call)

    def test_a_foreign_page(self, gateway: Site, key: str) -> None:
        status, _, _ = raw(
            gateway,
            "POST",
            "/stripe/v1/charges",
            b"amount=1&currency=usd",
            **form(key, Origin="https://evil.example"),
        )
        assert (status, gateway.stripe.posts()) == (403, [])

    def test_a_body_that_is_too_large_however_it_is_sent(self, gateway: Site, key: str) -> None:
        status, _, _ = raw(gateway, "POST", "/stripe/v1/charges", b"x" * (MAX_FORM + 1), **form(key))
        assert status == 413
        upload = form(key) | {"Content-Type": "multipart/form-data; boundary=x"}
        status, _, _ = raw(gateway, "POST", "/stripe/v1/files", b"x" * (MAX_UPLOAD + 1), **upload)
        assert status == 413
        status, _, _ = raw(gateway, "POST", "/stripe/v1/files", b"x" * (MAX_FORM + 1), **upload)
        assert status != 413
        gateway.stripe.forget()
        connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=60)
        parts = (b"x" * (1 << 20) for _ in range((MAX_UPLOAD >> 20) + 2))
        connection.request("POST", "/stripe/v1/charges", parts, form(key), encode_chunked=True)
        assert connection.getresponse().status == 413
        connection.close()
        assert gateway.stripe.posts() == []
        assert recorded(gateway).count("endpoint") == 3

    @pytest.mark.parametrize(
        ("reason", "status", "error"),
        [
            ("cap", 429, stripe.RateLimitError),
            ("endpoint", 403, stripe.PermissionError),
            ("revoked", 401, stripe.AuthenticationError),
            ("idempotency_mismatch", 400, stripe.IdempotencyError),
        ],
    )
    def test_a_denial_is_the_sdks_own_error_after_one_attempt(
        self, gateway: Site, reason: str, status: int, error: type[stripe.StripeError]
    ) -> None:
        gateway.stripe.forget()
        terms: dict[str, Any] = {"allowed_endpoints": ["charges.create"]} if reason == "endpoint" else {}
        made = issued(gateway, agent_run_label=None, run_usd_cap=1 if reason == "cap" else 50, **terms)
        if reason in ("cap", "idempotency_mismatch"):
            client(gateway, made["vault_key"]).v1.payment_intents.create(
                {"amount": 100, "currency": "usd", "customer": "cus_1"}, {"idempotency_key": "k"}
            )
        if reason == "revoked":
            gateway.call("DELETE", f"/runs/{made['run_id']}", token=ADMIN)
        before = len(gateway.stripe.posts())
        with pytest.raises(error) as refused:
            client(gateway, made["vault_key"], max_network_retries=2).v1.payment_intents.create(
                {"amount": 200, "currency": "usd", "customer": "cus_1"},
                {"idempotency_key": "k" if reason == "idempotency_mismatch" else "other"},
            )
        assert refused.value.http_status == status
        assert (refused.value.headers.get("X-Spendguard-Cap-Hit") == "true") is (reason == "cap")
        assert len(gateway.stripe.posts()) == before
        denied = [c for c in gateway.calls(made["run_id"]) if c["verdict"] == f"denied:{reason}"]
        assert len(denied) == 1


class TestFailing:
    def test_a_client_that_disconnects_does_not_lose_the_accounting(self, gateway: Site, key: str) -> None:
        body = b"amount=100&currency=usd&customer=cus_1&confirm=true&payment_method=pm_x"
        with gateway.stripe.holding(), socket.create_connection(("127.0.0.1", gateway.port)) as sock:
            head = f"POST /stripe/v1/payment_intents HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n"
            head += f"Content-Type: {FORM['Content-Type']}\r\nContent-Length: {len(body)}\r\n\r\n"
            sock.sendall(head.encode() + body)
            wait_until(lambda: len(gateway.stripe.posts()) == 1)
        run_id = gateway.call("GET", "/vault/keys", token=ADMIN)[1][0]["run_id"]
        wait_until(lambda: gateway.run(run_id)["spent_usd"] == "1.00")
        assert gateway.run(run_id)["reserved_usd"] == "0.00"

    @pytest.mark.parametrize("fault", ["drop_before", "drop_after", "reset"])
    def test_a_lost_reply_is_in_doubt_until_the_sdks_retry_says_what_became_of_it(
        self, gateway: Site, key: str, fault: str
    ) -> None:
        gateway.stripe.fault("drop_after" if fault == "reset" else fault)
        intent = client(gateway, key, max_network_retries=2).v1.payment_intents.create(
            {"amount": 100, "currency": "usd", "customer": "cus_1", "confirm": True, "payment_method": "pm_x"}
        )
        assert intent.status == "succeeded"
        assert [entry["amount"] for entry in gateway.stripe.books()["moved"]] == [100]

    def test_what_an_operator_took_for_not_sent_counts_when_it_is_sent_again(self, gateway: Site) -> None:
        gateway.stripe.forget()
        key = issued(gateway, agent_run_label=None, run_usd_cap=2)
        answers = []
        for number in range(3):
            body = f"amount=100&currency=usd&customer=cus_{number}&confirm=true&payment_method=pm_x".encode()
            said = form(key["vault_key"], **{"Idempotency-Key": f"again-{number}"})
            if number < 2:
                gateway.stripe.fault("drop_after")
            answers.append(raw(gateway, "POST", "/stripe/v1/payment_intents", body, **said)[0])
            for call in gateway.calls(key["run_id"]):
                if call["state"] == "in_doubt":
                    gateway.call("POST", f"/calls/{call['id']}/resolve", {"not_sent": True}, ADMIN)
            answers.append(raw(gateway, "POST", "/stripe/v1/payment_intents", body, **said)[0])
        run = gateway.run(key["run_id"])
        assert gateway.stripe.moved() == 200, answers
        assert (answers[:4], run["spent_usd"], run["overrun_usd"]) == ([502, 200, 502, 200], "2.00", "0.00")

    def test_one_key_of_two_runs_is_counted_once(self, gateway: Site) -> None:
        gateway.stripe.forget()
        keys = [issued(gateway, agent_run_label=f"twice-{number}") for number in range(2)]
        body = b"amount=100&currency=usd&customer=cus_1&confirm=true&payment_method=pm_x"
        for key in keys:
            said = form(key["vault_key"], **{"Idempotency-Key": "order-of-both"})
            assert raw(gateway, "POST", "/stripe/v1/payment_intents", body, **said)[0] == 200
        assert gateway.stripe.moved() == 100
        assert [gateway.run(key["run_id"])["spent_usd"] for key in keys] == ["1.00", "0.00"]

    def test_what_an_operator_has_resolved_is_read_for_a_key_that_may_not_read(self, gateway: Site) -> None:
        gateway.stripe.forget()
        key = issued(
            gateway,
            agent_run_label=None,
            run_usd_cap=1000,
            allowed_customers=["cus_1"],
            allowed_endpoints=["POST /v1/payment_intents"],
        )
        body = b"amount=100&currency=usd&customer=cus_1&confirm=true&payment_method=pm_x"
        gateway.stripe.fault("status_after", status=500)
        asked = ("POST", "/stripe/v1/payment_intents", body)
        said = form(key["vault_key"], **{"Idempotency-Key": "resolved"})
        assert raw(gateway, *asked, **said)[0] == 500
        [object_id] = [name for name in gateway.stripe.books()["objects"] if name.startswith("pi_")]
        [call] = gateway.calls(key["run_id"])
        what = {"spent_usd": "1", "object_id": object_id}
        assert gateway.call("POST", f"/calls/{call['id']}/resolve", what, ADMIN)[0] == 200
        posts = len(gateway.stripe.posts())
        status, headers, answer = raw(gateway, *asked, **said)
        assert (status, json.loads(answer)["id"]) == (200, object_id)
        assert "x-spendguard-replayed" in headers
        assert len(gateway.stripe.posts()) == posts
        assert gateway.run(key["run_id"])["spent_usd"] == "1.00"
        by_itself = raw(gateway, "GET", f"/stripe/v1/payment_intents/{object_id}", **said)
        assert by_itself[0] == 403

    def test_a_vendor_that_cannot_be_reached_costs_nothing(self, tmp_path: Path) -> None:
        said = {"base_url": f"http://127.0.0.1:{free_port()}"}
        with Site(tmp_path / "site", gateway=True, spendguard_stripe=said) as site:
            key = issued(site, token=None)  # Without a worker token, none is needed.
            with pytest.raises(stripe.APIError) as failed:
                charge(site, key["vault_key"])
            assert failed.value.http_status == 503
            assert site.run("r")["reserved_usd"] == site.run("r")["spent_usd"] == "0.00"

    def test_calls_in_flight_end_before_luigid_does(self, tmp_path: Path) -> None:
        with Site(tmp_path / "site", gateway=True) as site:
            key = issued(site, token=None)["vault_key"]
            got: list[Any] = []
            slow = threading.Thread(target=lambda: got.append(charge(site, key).status))
            with site.stripe.holding():
                slow.start()
                wait_until(lambda: len(site.stripe.posts()) == 1)
                assert site.luigid is not None
                site.luigid.popen.send_signal(signal.SIGTERM)
                wait_until(lambda: "Ends when 1 vendor calls in flight have" in site.luigid.text())
                with pytest.raises(stripe.StripeError):
                    charge(site, key, "cus_late", amount=200)
            slow.join(20)
            assert got == ["succeeded"]
            assert site.luigid.popen.wait(20) == 0
            site.start()
            assert site.run("r")["spent_usd"] == "1.00"


def test_a_slow_vendor_delays_nothing_of_luigi(gateway: Site, key: str) -> None:
    slow = [threading.Thread(target=charge, args=(gateway, key, f"cus_{n}")) for n in range(16)]
    with gateway.stripe.holding():
        for one in slow:
            one.start()
        wait_until(lambda: len(gateway.stripe.posts()) == 16)
        for _ in range(20):
            gateway.rpc("task_list", status="PENDING", upstream_status="")
        assert gateway.stripe.moved() == 0, "20 RPCs waited for the vendor"
    for one in slow:
        one.join(30)
    assert gateway.stripe.moved() == 1600


_ESCAPED = b"description=" + b"%41" * 5_000_000


@pytest.mark.parametrize("body", [_ESCAPED, _ESCAPED[:1_000_000], b"a=b&" * 250_000, b"card[number]=4242"])
def test_a_wrong_key_makes_luigi_wait_for_no_form(gateway: Site, key: str, body: bytes) -> None:
    """Nothing of the request is read before its key is known."""

    def took() -> float:
        begun = time.monotonic()
        status, _, answer = raw(gateway, "POST", "/stripe/v1/payment_intents", body, **form("vault_key_none"))
        assert (status, json.loads(answer)["error"]["code"]) == (401, "unknown_key")
        return time.monotonic() - begun

    assert any(took() < 0.5 for _ in range(5)), "each waits for the form"


@contextmanager
def standalone(site: Site, *args: str) -> Iterator[int]:
    port = free_port()
    process = Process(
        ["-m", "luigi_spendguard", "gateway", "--port", str(port), *args],
        site.folder / f"gateway-{port}.log",
        site.folder,
        site._environment(STRIPE_SECRET_KEY=SECRET),
        lambda: listening(port),
    )
    try:
        yield port
    finally:
        process.end()


class TestAlone:
    @pytest.mark.both_engines
    def test_two_gateways_share_one_ledger_and_keep_one_cap(self, tmp_path: Path) -> None:
        apart = {"gateway_url": "http://127.0.0.1:9"}  # Keys are for these two, whichever is asked.
        with Site(tmp_path / "site", spendguard=apart) as site:
            key = issued(site, token=None, run_usd_cap=20)["vault_key"]
            with standalone(site) as one, standalone(site) as two:
                status, _, body = raw(site, "POST", "/stripe/v1/charges", b"", port=site.port, **form(key))
                assert status == 403
                assert b"no secret for stripe: set [spendguard_stripe] secret in its luigi.cfg" in body
                threads = [
                    threading.Thread(target=self._spend, args=(port, key, n))
                    for n in range(20)
                    for port in (one, two)
                ]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join(60)
                assert site.stripe.moved() == 2000
            assert site.run("r")["spent_usd"] == "20.00"

    def _spend(self, port: int, key: str, n: int) -> None:
        api = stripe.StripeClient(key, base_addresses={"api": f"http://127.0.0.1:{port}/stripe"})
        with contextlib.suppress(stripe.RateLimitError):
            api.v1.payment_intents.create(
                {
                    "amount": 100,
                    "currency": "usd",
                    "customer": f"cus_{port}_{n}",
                    "confirm": True,
                    "payment_method": "pm_x",
                }
            )

    def test_without_a_secret_it_does_not_start(self, tmp_path: Path) -> None:
        with Site(tmp_path / "site", start=False, gateway=True) as site:
            command = [sys.executable, "-m", "luigi_spendguard", "gateway", "--port", str(free_port())]
            done = subprocess.run(command, env=site.environment(), capture_output=True, text=True, timeout=30)
            assert (done.returncode, done.stdout) == (2, "")
            assert "has no vendor's secret" in done.stderr
            assert "a variable such as STRIPE_SECRET_KEY alone is the workers'" in done.stderr


@pytest.mark.of_files
def test_the_secret_is_in_nothing_that_the_gateway_says(gateway: Site, key: str) -> None:
    """A vendor that echoes it, a client that shows it in odd places, errors, pages, books."""
    charge(gateway, key)
    gateway.stripe.fault("echo_secret")
    echoed = raw(
        gateway,
        "POST",
        "/stripe/v1/payment_intents",
        b"amount=100&currency=usd&customer=cus_echo",
        **form(key),
    )
    assert (echoed[0], b"withheld" in echoed[2]) == (403, True)
    said = [echoed[2], str(echoed[1]).encode()]
    for path in (
        f"/stripe/v1/{SECRET}",
        f"/runs/{SECRET}/approve",
        f"/vault/keys/{SECRET}",
        f"/stripe/{key}",
    ):
        for method in ("GET", "POST", "DELETE"):
            status, headers, body = raw(gateway, method, path, b"{}", **form(SECRET, Cookie=SECRET))
            assert status >= 400
            said += [body, str(headers).encode()]
    for page in (
        "/runs",
        "/calls",
        "/vault/keys",
        "/status",
        "/openapi.json",
        "/api/worker_list",
        "/metrics",
    ):
        said.append(raw(gateway, "GET", page, Authorization=f"Bearer {ADMIN}")[2])
    assert gateway.luigid is not None
    said.append(gateway.luigid.text().encode())
    said += [path.read_bytes() for path in gateway.ledger.parent.iterdir()]
    for hidden in (SECRET.encode(), key.encode(), base64.b64encode(f"{SECRET}:".encode())):
        assert not [text for text in said if hidden in text]


def test_the_check_says_who_has_the_secret(gateway: Site) -> None:
    code, out, err = gateway.cli("check")
    assert code == 0, out + err
    assert "stripe: luigid is the gateway: workers need no secret" in out
    assert f"; it sends calls to {gateway.stripe.url}; allowed: " in out


def test_the_check_says_where_luigid_sends_calls_whatever_the_file_here_says(gateway: Site) -> None:
    here = gateway.stripe.url
    gateway.configure(spendguard_stripe={"base_url": None})
    try:
        assert f"; it sends calls to {here}; allowed: " in gateway.cli("check")[1]
        gateway.configure(spendguard_stripe={"base_url": "https://look-alike.example.com"})
        said = "[spendguard_stripe] base_url is https://look-alike.example.com here and"
        assert f"look    not in force: {said} {here} there: " in gateway.cli("check")[1]
    finally:
        gateway.configure(spendguard_stripe={"base_url": here})


@pytest.mark.parametrize("secret", [SECRET, ""])
def test_a_secret_whose_variable_is_not_set_is_said_at_start(tmp_path: Path, secret: str) -> None:
    with Site(tmp_path / "site", start=False, gateway=True) as site:
        site.start(STRIPE_SECRET_KEY=secret)
        assert site.luigid is not None
        text = site.luigid.text()
    none = "This is no gateway for stripe, whose workers need the secret: [spendguard_stripe] secret is"
    assert (f"{none} passed over, as its environment variable is not set here" in text) is (not secret), text
    assert ("This is the gateway for stripe" in text) is bool(secret)


def test_tls_from_luigi_cfg(tmp_path: Path) -> None:
    cert, private = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-keyout",
            private,
            "-out",
            cert,
            "-days",
            "2",
            "-subj",
            "/CN=localhost",
            "-addext",
            "subjectAltName=DNS:localhost",
        ],
        check=True,
        capture_output=True,
    )
    said = {"tls_cert": cert, "tls_key": private}
    with Site(tmp_path / "site", gateway=True, spendguard=said) as site:
        context = ssl.create_default_context(cafile=str(cert))
        connection = http.client.HTTPSConnection("localhost", site.port, context=context, timeout=20)
        connection.request("GET", "/status")
        assert json.loads(connection.getresponse().read())["gateway"] == ["stripe"]
        connection.close()
        with pytest.raises((http.client.HTTPException, OSError)):
            raw(site, "GET", "/status")


def test_the_ledgers_outage_denies_and_loses_nothing(tmp_path: Path, vendor: FakeStripe) -> None:
    """It is locked by another program while a call is in flight: the call's end waits and goes out later."""
    with Site(tmp_path / "site", stripe=vendor, gateway=True) as site:
        key = issued(site, token=None)["vault_key"]
        got: list[Any] = []
        slow = threading.Thread(target=lambda: got.append(charge(site, key).status))
        with contextlib.ExitStack() as locked:
            with site.stripe.holding():
                slow.start()
                wait_until(lambda: len(site.stripe.posts()) == 1)
                locked.enter_context(site.locked())
            slow.join(20)
            assert got == ["succeeded"]
            with pytest.raises(stripe.APIError) as denied:
                charge(site, key, "cus_2")
            assert denied.value.http_status == 503
        wait_until(lambda: site.run("r")["spent_usd"] == "1.00")
        assert len(site.stripe.posts()) == 1


@pytest.mark.of_files
def test_who_serves_our_application_without_luigid_keeps_its_signals(tmp_path: Path) -> None:
    """A handler of ours in a child that was just forked would swallow the signal that is to end it."""
    code = """
import signal
from tornado.ioloop import IOLoop
from luigi_spendguard import config
from scheduler_patch import server
from scheduler_patch.scheduler import BudgetScheduler
server.app(BudgetScheduler())
loop = IOLoop.current()
loop.add_callback(lambda: loop.add_callback(loop.stop))
loop.start()
print([signal.getsignal(number).__class__.__name__ for number in (signal.SIGTERM, signal.SIGINT)])
"""
    (tmp_path / "luigi.cfg").write_text(f"[spendguard]\nledger_url = sqlite:///{tmp_path}/ledger.db\n")
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
        env=environment(LUIGI_CONFIG_PATH=str(tmp_path / "luigi.cfg")) | {"PYTHONPATH": str(REPOSITORY)},
    )
    assert done.stdout == "['Handlers', 'builtin_function_or_method']\n", done.stderr  # Python's own.
