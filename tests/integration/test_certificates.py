"""TLS on the way to luigid: the certificates that the environment names are trusted."""

from __future__ import annotations

import json
import os
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import certifi
import pytest

from luigi_spendguard.cli.api_client import Operator, OperatorError
from luigi_spendguard.cli.tokens import Token
from luigi_spendguard.errors import LedgerUnavailable
from luigi_spendguard.http.addresses import CERTIFICATE_VARIABLES, pool_arguments
from luigi_spendguard.http.ledger_client import HttpLedgerClient
from luigi_spendguard.protocol import ANSWERED
from luigi_spendguard.protocol.rpcs import CorrectReply, CorrectRequest
from luigi_spendguard.redaction import Secret
from tests.support.fake_gateway import CERTIFICATE, FakeGateway
from tests.support.site import Site


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGateway]:
    for name in CERTIFICATE_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    with FakeGateway(tls=True) as gateway:
        yield gateway


@pytest.mark.parametrize("name", CERTIFICATE_VARIABLES)
def test_the_ledger_is_asked(gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, str(CERTIFICATE))
    gateway.script = [(200, {}, json.dumps({"response": {"known": True}}).encode())]
    request = CorrectRequest("call", final=True)
    assert HttpLedgerClient(gateway.url, None).correct(request) == CorrectReply(True)


@pytest.mark.parametrize("name", CERTIFICATE_VARIABLES)
def test_the_operator_is_answered(gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, str(CERTIFICATE))
    gateway.script = [(200, {ANSWERED: "1"}, b"[]")]
    assert Operator(gateway.url, NO_TOKEN).get("/runs") == []


#: What every side says of it.
NO_TOKEN = Token(None, "no token was shown")
UNTRUSTED = (
    r" cannot be reached \(its certificate is not trusted: self.signed certificate\): name the PEM file of "
    r"who has signed it in REQUESTS_CA_BUNDLE \(a stripe SDK without the plugin reads stripe.ca_bundle_path"
)


def test_an_unknown_certificate_gets_no_token_and_is_named(gateway: FakeGateway) -> None:
    client = HttpLedgerClient(gateway.url, "t" * 20)
    with pytest.raises(LedgerUnavailable, match=f"the scheduler at {gateway.url}{UNTRUSTED}"):
        client.correct(CorrectRequest("call", final=True))
    with pytest.raises(OperatorError, match=f"luigid-spendguard at {gateway.url}{UNTRUSTED}") as refused:
        Operator(gateway.url, Token(Secret("t" * 20), "the test's")).get("/runs")
    assert refused.value.exit_code == 3
    assert client.problem().startswith(f"the scheduler at {gateway.url} cannot be reached (its certificate")
    assert gateway.seen == []


def test_the_bundle_that_does_not_have_it_is_named(
    gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CURL_CA_BUNDLE", certifi.where())
    with pytest.raises(OperatorError, match=f"; CURL_CA_BUNDLE names {certifi.where()} now"):
        Operator(gateway.url, NO_TOKEN).get("/runs")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "none.pem"))
    with pytest.raises(OperatorError, match=r"REQUESTS_CA_BUNDLE names .*none.pem, which cannot be read"):
        Operator(gateway.url, NO_TOKEN).get("/runs")


def test_a_certificate_of_another_name_is_called_that(
    gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
    other = gateway.url.replace("127.0.0.1", "127.1")  # The same address by a name that is not in it.
    with pytest.raises(OperatorError, match=r"its certificate is another host's: .*127.1.*subjectAltName"):
        Operator(other, NO_TOKEN).get("/runs")


def test_https_to_a_port_in_clear_is_said_at_once(site: Site, capfd: pytest.CaptureFixture[str]) -> None:
    """luigid answers it: Luigi's own RPCs, and any other client, need not wait until they give up."""
    url = site.url.replace("http:", "https:")
    begun = time.monotonic()
    clear = r" cannot be reached \(plain http is spoken there\): write http:// in its address"
    with pytest.raises(OperatorError, match=f"luigid-spendguard at {url}{clear}"):
        Operator(url, NO_TOKEN).get("/runs")
    with pytest.raises(LedgerUnavailable, match=f"the scheduler at {url}{clear}"):
        HttpLedgerClient(url, None).correct(CorrectRequest("call", final=True))
    code, _, err = site.cli("--url", url, "runs")
    assert (code, re.search(clear, err) is not None) == (3, True), err
    assert time.monotonic() - begun < 30
    assert site.call("GET", "/status", token=None)[0] == 200


def test_a_worker_says_it_before_luigi_has_tried_for_a_minute(site: Site) -> None:
    url = site.url.replace("http:", "https:")
    site.configure(core={"default_scheduler_url": url, "rpc-retry-attempts": 1, "rpc-retry-wait": 1})
    code, out = site.luigi("Billing", "--n", "1")
    assert code != 0
    said = f"ERROR: The scheduler at {url} cannot be reached (plain http is spoken there): write http:// in"
    assert out.count(said) == 1, out
    assert out.index(said) < out.index("Failed connecting to remote scheduler")
    assert site.stripe.posts() == []


def test_a_server_that_never_answers_tls_is_suspected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("luigi_spendguard.cli.api_client.CONNECT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"https://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(
            OperatorError, match=r"\(TLS was not answered\): if plain http is spoken there, write"
        ):
            Operator(url, NO_TOKEN).get("/runs")


def test_a_folder_of_certificates_is_told_from_a_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in CERTIFICATE_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert pool_arguments() == {}
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
    assert pool_arguments() == {"ca_certs": str(CERTIFICATE)}
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path))
    assert pool_arguments() == {"ca_cert_dir": os.fspath(tmp_path)}
