"""Why no connection was made, read out of what was raised."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
import urllib3

from luigi_spendguard.http.addresses import CERTIFICATE_VARIABLES, NoAddress
from luigi_spendguard.http.unreached import Unreached


@pytest.fixture(autouse=True)
def _no_bundle(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in CERTIFICATE_VARIABLES:
        monkeypatch.delenv(name, raising=False)


def unverified(code: int, message: str) -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_code, error.verify_message = code, message
    return error


def in_clear(reason: str) -> ssl.SSLError:
    error = ssl.SSLError(1, "no TLS")
    error.reason = reason
    return error


@pytest.mark.parametrize(
    ("code", "message", "why", "remedy"),
    [
        (18, "self-signed certificate", "is not trusted: self-signed", "in REQUESTS_CA_BUNDLE (a stripe SDK"),
        (20, "unable to get local issuer certificate", "is not trusted: unable", "stripe.ca_bundle_path"),
        (62, "Hostname mismatch.", "is another host's: Hostname mismatch", "subjectAltName"),
        (64, "IP address mismatch.", "is another host's: IP address mismatch", "subjectAltName"),
        (10, "certificate has expired", ": certificate has expired", "renew it"),
    ],
)
def test_a_certificate(code: int, message: str, why: str, remedy: str) -> None:
    found = Unreached.of(urllib3.exceptions.SSLError(unverified(code, message)))
    assert why in found.why
    assert remedy in found.remedy
    assert found.lasts


@pytest.mark.parametrize("reason", ["WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG"])
def test_an_answer_in_clear(reason: str) -> None:
    pool = urllib3.HTTPConnectionPool("localhost")
    error = urllib3.exceptions.MaxRetryError(pool, "/", urllib3.exceptions.SSLError(in_clear(reason)))
    assert Unreached.of(error) == Unreached(
        "plain http is spoken there", "write http:// in its address", lasts=True
    )


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (ConnectionRefusedError(111, "secret-looking text"), "ConnectionRefusedError"),
        (FileNotFoundError(2, "no such socket"), "FileNotFoundError"),
        (in_clear("TLSV1_ALERT_PROTOCOL_VERSION"), "SSLError"),
        (NoAddress("the proxy's address cannot be read"), "the proxy's address cannot be read"),
    ],
)
def test_what_may_be_otherwise_in_a_second(error: Exception, why: str) -> None:
    assert Unreached.of(error) == Unreached(why)
    assert Unreached.of(error).said("luigid", "start it") == f"luigid cannot be reached ({why}): start it"


def test_a_bundle_that_is_there_is_not_blamed_for_a_socket_that_is_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CURL_CA_BUNDLE", str(tmp_path))
    assert Unreached.of(FileNotFoundError()) == Unreached("FileNotFoundError")
    monkeypatch.setenv("CURL_CA_BUNDLE", str(tmp_path / "gone.pem"))
    assert f"CURL_CA_BUNDLE names {tmp_path / 'gone.pem'}" in Unreached.of(FileNotFoundError()).why


def test_errors_that_are_made_of_each_other_are_read_once() -> None:
    one, other = OSError(), OSError()
    one.__cause__, other.__cause__ = other, one
    assert Unreached.of(one).why == "OSError"
