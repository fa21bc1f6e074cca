"""TLS on the way to luigid: the certificates that the environment names are trusted."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from luigi_spendguard.cli.api_client import Operator
from luigi_spendguard.errors import LedgerUnavailable
from luigi_spendguard.http.addresses import CERTIFICATE_VARIABLES, pool_arguments
from luigi_spendguard.http.ledger_client import HttpLedgerClient
from luigi_spendguard.protocol.rpcs import CorrectReply, CorrectRequest
from tests.support.fake_gateway import CERTIFICATE, FakeGateway


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGateway]:
    for name in CERTIFICATE_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("luigi_spendguard.http.ledger_client.GIVE_UP_S", 0.5)
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
    gateway.script = [(200, {}, b"[]")]
    assert Operator(gateway.url, None).get("/runs") == []


def test_an_unknown_certificate_gets_no_token(gateway: FakeGateway) -> None:
    with pytest.raises(LedgerUnavailable, match="SSLError"):
        HttpLedgerClient(gateway.url, "t" * 20).correct(CorrectRequest("call", final=True))
    assert gateway.seen == []


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
