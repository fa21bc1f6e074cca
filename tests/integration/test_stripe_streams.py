"""The SDK's streaming calls return the guarded reply, to be read or iterated over; files pass as bytes."""

from __future__ import annotations

import asyncio
import hashlib
import io
from dataclasses import replace
from typing import Any

import pytest
import stripe

from luigi_spendguard import SpendDenied
from luigi_spendguard.proxy import stripe as stripe_client
from luigi_spendguard.vendors import Quote, Request
from luigi_spendguard.vendors.stripe import API_BASE, Stripe
from tests.support.attempts import Pretender
from tests.support.fake_stripe import PDF
from tests.support.site import FakeStripe

made = stripe_client._request


@pytest.fixture(autouse=True)
def files_at_the_api(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stripe, "upload_api_base", "https://api.stripe.com")


def test_a_stream_is_read_to_the_byte(pretender: Pretender, vendor: FakeStripe) -> None:
    with pretender.attempt():
        answer = stripe.Quote.pdf("qt_1")
        assert answer.code == 200
        assert answer.headers["Content-Type"] == "application/pdf"
        assert answer.io.read(9) == PDF[:9]
        assert answer.io.read() == PDF[9:]
    [call] = pretender.site.calls(pretender.run_id)
    assert (call["verdict"], call["state"], call["spent_usd"]) == ("allowed", "settled", "0.00")


def test_an_asynchronous_stream_is_iterated_over_or_read(pretender: Pretender, vendor: FakeStripe) -> None:
    async def program() -> tuple[bytes, list[bytes]]:
        read = await (await stripe.Quote.pdf_async("qt_1")).read_async()
        pieces = [piece async for piece in (await stripe.Quote.pdf_async("qt_1")).stream()]
        return read, pieces

    with pretender.attempt():
        read, pieces = asyncio.run(program())
    assert read == b"".join(pieces) == PDF
    assert len(pieces) > 1


@pytest.mark.parametrize("asynchronous", [False, True])
def test_an_error_of_a_stream_is_the_sdks_error(
    pretender: Pretender, vendor: FakeStripe, asynchronous: bool
) -> None:
    vendor.fault("status", status=404, match="GET /v1/quotes")
    calls = [lambda: stripe.Quote.pdf("qt_1"), lambda: asyncio.run(stripe.Quote.pdf_async("qt_1"))]
    with pretender.attempt(), pytest.raises(stripe.InvalidRequestError) as error:
        calls[asynchronous]()
    assert error.value.http_status == 404


def test_a_stream_from_elsewhere_is_denied(
    pretender: Pretender, vendor: FakeStripe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stripe, "upload_api_base", "https://files.example.com")
    with pretender.attempt(), pytest.raises(SpendDenied) as denied:
        stripe.Quote.pdf("qt_1")
    assert denied.value.reason == "endpoint"
    assert vendor.books()["requests"] == []


def test_a_reply_beyond_the_limit_is_not_read(
    pretender: Pretender, vendor: FakeStripe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("luigi_spendguard.http.transport.MAX_REPLY", 1000)
    with pretender.attempt(), pytest.raises(stripe.APIConnectionError):
        stripe.StripeClient(stripe.api_key, base_addresses={"files": "https://api.stripe.com"}).v1.quotes.pdf(
            "qt_1"
        )


class WithFiles(Stripe):
    """Stripe with a price for uploads, on the host that the SDK sends them to."""

    HOST = "https://files.stripe.com"

    def quote(self, request: Request, *args: Any) -> Quote:
        if request.url != f"{self.HOST}/v1/files":
            return super().quote(request, *args)
        return Quote(
            "files.create",
            "stripe:test",
            "/v1/files",
            key=request.headers["idempotency-key"],
            fingerprint="upload",
            free=True,
            keep_body=False,
        )

    def wire(self, request: Request, *args: Any) -> Request:
        return super().wire(replace(request, url=request.url.replace(self.HOST, API_BASE)), *args)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_an_uploaded_file_arrives_to_the_byte(
    pretender: Pretender, vendor: FakeStripe, monkeypatch: pytest.MonkeyPatch, asynchronous: bool
) -> None:
    monkeypatch.setattr(stripe, "upload_api_base", WithFiles.HOST)
    monkeypatch.setattr(stripe_client, "VENDOR", WithFiles())
    content = bytes(range(256)) * 40
    sent: list[Request] = []
    monkeypatch.setattr(stripe_client, "_request", lambda *args: sent.append(made(*args)) or sent[-1])
    with pretender.attempt():
        if asynchronous:
            file = asyncio.run(stripe.File.create_async(file=io.BytesIO(content), purpose="dispute_evidence"))
        else:
            file = stripe.File.create(file=io.BytesIO(content), purpose="dispute_evidence")
    assert content in sent[0].body
    assert file.sha256 == hashlib.sha256(sent[0].body).hexdigest()
    assert sent[0].headers["content-type"].startswith("multipart/form-data; boundary=")
    [call] = pretender.site.calls(pretender.run_id)
    assert (call["operation"], call["state"], call["spent_usd"]) == ("files.create", "settled", "0.00")
