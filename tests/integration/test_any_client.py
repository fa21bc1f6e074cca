"""httpx and requests inside vendor tasks: guarded like an SDK, and the secret is nowhere to be seen."""

from __future__ import annotations

import asyncio
import io
import json
import os
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import httpx2
import pytest
import requests

from luigi_spendguard import BudgetExceeded
from luigi_spendguard.errors import PluginError
from luigi_spendguard.proxy import attempts
from luigi_spendguard.proxy.httpx import AsyncSpendTransport, SpendTransport
from luigi_spendguard.proxy.requests import SpendAdapter
from luigi_spendguard.worker.process import blocking
from tests.integration.test_tracebacks import seen_from
from tests.support.attempts import Pretender
from tests.support.clients import (
    ASYNCHRONOUS,
    CLIENTS,
    HTTP_ERROR,
    NO_REPLY,
    NOT_CONNECTED,
    Send,
    by_httpx,
    by_requests,
    dead_proxies,
)
from tests.support.fake_gateway import FakeGateway
from tests.support.processes import free_port
from tests.support.site import SECRET, FakeStripe, Site
from tests.support.vendors import cancelled

URL = "https://api.stripe.com/v1/payment_intents"
CHARGE = {
    "amount": "100",
    "currency": "usd",
    "customer": "cus_1",
    "payment_method": "pm_card_visa",
    "confirm": "true",
}


class Place:
    """A site, and whose worker or gateway guards; each task of it has a run of its own."""

    def __init__(self, site: Site) -> None:
        site.stripe.forget()
        self.site, self.stripe = site, site.stripe

    def task(self, **more: Any) -> Pretender:
        unique = uuid.uuid4().hex[:10]
        return Pretender(self.site, f"run-{unique}", f"Charge_{unique}", **more)


@pytest.fixture(params=["worker", "gateway"])
def place(request: pytest.FixtureRequest) -> Place:
    name = "shared_site" if request.param == "worker" else "gateway_site"
    return Place(request.getfixturevalue(name))


@pytest.fixture
def worker(shared_site: Site) -> Place:
    return Place(shared_site)


every_client = pytest.mark.parametrize("send", CLIENTS)


@every_client
def test_a_call_is_charged_once_and_on_record(place: Place, send: Send) -> None:
    task = place.task()
    answers = []
    for _ in range(2):  # The task is tried again: another attempt makes the same call.
        with task.attempt() as attempt, dead_proxies():
            said = send("POST", URL, data=CHARGE, headers={"Authorization": f"Bearer {attempt.key}"})
        assert said.status_code == 200
        answers.append(said.json()["id"])
    assert answers[0] == answers[1]
    assert place.stripe.moved() == 100
    assert [post["authorization"] for post in place.stripe.posts()] == [f"Bearer {SECRET}"]
    run = place.site.run(task.run_id)
    assert (run["spent_usd"], run["reserved_usd"]) == ("1.00", "0.00")
    assert [call["verdict"] for call in place.site.calls(task.run_id)] == ["replayed", "allowed"]


@every_client
def test_a_response_shows_what_the_task_sent_and_never_the_secret(place: Place, send: Send) -> None:
    with place.task().attempt():
        said = send("POST", URL, data=CHARGE)
        own = send("GET", URL, headers={"X-Mine": "1"})
    for response in (said, own):
        assert "authorization" not in response.request.headers
        assert SECRET not in str(vars(response)) + str(dict(response.request.headers))
        assert str(response.url).startswith(URL)
    assert own.request.headers["x-mine"] == "1"
    assert said.elapsed.total_seconds() > 0
    assert (said.reason if send is by_requests else said.reason_phrase) == "OK"


@every_client
def test_the_cap_is_an_answer_that_blocks_the_task(place: Place, send: Send) -> None:
    task = place.task(budget_usd="1.50")
    with task.attempt():
        assert send("POST", URL, data=CHARGE).status_code == 200
        said = send("POST", URL, data={**CHARGE, "customer": "cus_2"})
    assert said.status_code == 429
    assert said.headers["X-Spendguard-Cap-Hit"] == "true"
    assert said.headers["X-Should-Retry"] == "false"
    assert said.json()["error"]["code"] == "budget_exhausted"
    assert json.loads(said.headers["X-Spendguard-Denial"])["facts"]["asked_usd"] == "1.00"
    assert place.stripe.moved() == 100
    with pytest.raises(HTTP_ERROR) as error:
        said.raise_for_status()
    assert isinstance(blocking(error.value), BudgetExceeded)
    wrapped = RuntimeError("my own")
    wrapped.__cause__ = error.value
    assert isinstance(blocking(wrapped), BudgetExceeded)
    elsewhere = RuntimeError("a fallback of the task's failed")
    elsewhere.__context__ = error.value
    assert blocking(elsewhere) is None


def test_an_error_of_the_vendors_own_blocks_nothing(worker: Place) -> None:
    worker.stripe.fault("status", status=429)
    with worker.task().attempt():
        said = by_httpx("POST", URL, data=CHARGE)
    with pytest.raises(httpx.HTTPStatusError) as error:
        said.raise_for_status()
    assert blocking(error.value) is None


# Redirects.


@every_client
@pytest.mark.parametrize(("method", "status"), [("POST", 307), ("POST", 303), ("GET", 302)])
def test_a_redirect_to_another_host_takes_no_credential_along(
    place: Place, send: Send, method: str, status: int
) -> None:
    with FakeGateway() as elsewhere, place.task().attempt() as attempt:
        elsewhere.script = [(200, {"Content-Type": "application/json"}, b"{}")]
        place.stripe.fault("redirect", to=f"{elsewhere.url}/x", status=status, match=f"{method} /v1")
        body = {"data": CHARGE} if method == "POST" else {}
        said = send(method, URL, follow=True, headers={"Authorization": f"Bearer {attempt.key}"}, **body)
    assert (said.status_code, len(said.history)) == (200, 1)
    [seen] = elsewhere.seen
    assert SECRET not in str(seen)
    assert attempt.key not in str(seen)
    assert not any(SECRET in str(dict(one.request.headers)) for one in (said, *said.history))


@every_client
@pytest.mark.parametrize("to", ["http://api.stripe.com/v1/x", "https://api.stripe.com:444/v1/x"])
def test_another_scheme_or_port_of_the_vendors_host_is_denied(place: Place, send: Send, to: str) -> None:
    task = place.task()
    with task.attempt():
        place.stripe.fault("redirect", to=to, status=302, match="GET /v1")
        said = send("GET", URL, follow=True)
    assert (said.status_code, len(said.history)) == (403, 1)
    assert json.loads(said.headers["X-Spendguard-Denial"])["reason"] == "endpoint", said.text
    assert len(place.stripe.books()["requests"]) == 1
    assert place.site.calls(task.run_id)[0]["verdict"] == "denied:endpoint"


@every_client
def test_a_redirect_at_the_vendor_is_a_call_of_its_own(place: Place, send: Send) -> None:
    task = place.task()
    with task.attempt():
        place.stripe.fault("redirect", to="https://api.stripe.com/v1/customers", status=302, match="GET /v1")
        said = send("GET", URL, follow=True)
    assert said.json()["url"] == "/v1/customers"
    paths = [call["path"] for call in place.site.calls(task.run_id)]
    assert paths == ["/v1/customers", "/v1/payment_intents"]


@pytest.mark.parametrize(
    "url",
    [
        "https://API.Stripe.com/v1/payment_intents",
        "https://api.stripe.com:443/v1/payment_intents",
        "https://api.stripe.com./v1/payment_intents",
        "https://x:y@api.stripe.com/v1/payment_intents",
    ],
)
@every_client
def test_the_vendors_host_is_known_however_it_is_written(worker: Place, send: Send, url: str) -> None:
    with worker.task().attempt():
        said = send("POST", url, data=CHARGE)
    if "@" in url:  # A credential that is nobody's here.
        assert json.loads(said.headers["X-Spendguard-Denial"])["reason"] == "scope"
    else:
        assert (said.status_code, worker.stripe.moved()) == (200, 100)


@every_client
def test_another_accounts_key_is_denied(place: Place, send: Send) -> None:
    task = place.task()
    with task.attempt():
        said = send("POST", URL, data=CHARGE, headers={"Authorization": "Bearer sk_test_another"})
    assert (said.status_code, place.stripe.moved()) == (403, 0)
    assert json.loads(said.headers["X-Spendguard-Denial"])["reason"] == "scope"
    assert [call["verdict"] for call in place.site.calls(task.run_id)] == ["denied:scope"]


@every_client
def test_any_other_host_is_called_as_ever(worker: Place, send: Send) -> None:
    with FakeGateway() as elsewhere, worker.task().attempt():
        elsewhere.script = [(200, {}, b"hello")]
        said = send("POST", f"{elsewhere.url}/x", data={"a": "b"})
    assert said.content == b"hello"
    [seen] = elsewhere.seen
    assert (seen.body, "authorization" in seen.headers) == (b"a=b", False)


# Bodies.

FORM = b"amount=100&currency=usd&customer=cus_1&payment_method=pm_card_visa&confirm=true"
AS_FORM = {"Content-Type": "application/x-www-form-urlencoded"}


def parts() -> Iterator[bytes]:
    yield FORM[:20]
    yield FORM[20:]


async def async_parts() -> AsyncIterator[bytes]:
    for part in parts():
        yield part


@pytest.mark.parametrize("kind", ["bytes", "text", "iterator", "file"])
@every_client
def test_a_body_of_any_kind_is_read_once(worker: Place, send: Send, kind: str) -> None:
    if send in ASYNCHRONOUS and kind in ("iterator", "file"):
        content: Any = async_parts()
    else:
        content = {"bytes": FORM, "text": FORM.decode(), "iterator": parts(), "file": io.BytesIO(FORM)}[kind]
    with worker.task().attempt():
        said = send("POST", URL, headers=AS_FORM, **{"data" if send is by_requests else "content": content})
    assert said.status_code == 200, said.text
    assert said_in(worker.stripe.posts()[0]) == FORM.decode()


def said_in(post: dict[str, Any]) -> str:
    """Return what a client has said in a body, without the call's tag behind it."""
    body, _, tag = post["body"].partition("&metadata[spendguard_call]=")
    assert len(tag) == 32
    return str(body)


@every_client
def test_a_body_that_was_read_follows_a_redirect(worker: Place, send: Send) -> None:
    content: Any = async_parts() if send in ASYNCHRONOUS else parts()
    worker.stripe.fault("redirect", to=URL, status=307)
    with worker.task().attempt():
        body = {"data" if send is by_requests else "content": content}
        said = send("POST", URL, headers=AS_FORM, follow=True, **body)
    assert said_in(worker.stripe.posts()[-1]) == FORM.decode()
    assert (said.status_code, len(said.history)) == (200, 1)


@every_client
def test_an_upload_goes_as_it_is(place: Place, send: Send) -> None:
    content = bytes(range(256)) * 10
    with place.task().attempt():
        said = send(
            "POST",
            "https://files.stripe.com/v1/files",
            data={"purpose": "dispute_evidence"},
            files={"file": ("a.bin", io.BytesIO(content))},
        )
    assert said.json()["object"] == "file"


# Replies.


def test_streaming_works(place: Place) -> None:
    url = "https://files.stripe.com/v1/quotes/qt_1/pdf"
    with place.task().attempt():
        whole = by_httpx("GET", url).content
        with httpx.Client(transport=SpendTransport()) as client, client.stream("GET", url) as said:
            assert b"".join(said.iter_bytes(1000)) == whole
        assert said.elapsed.total_seconds() > 0
        with requests.Session() as session:
            session.mount("https://", SpendAdapter())
            with session.get(url, stream=True) as streamed:
                assert b"".join(streamed.iter_content(1000)) == whole
        with httpx.Client(transport=SpendTransport()) as client, client.stream("GET", URL) as said:
            assert "".join(said.iter_lines()).startswith('{"object": "list"')

        async def program() -> bytes:
            client = httpx.AsyncClient(transport=AsyncSpendTransport())
            async with client, client.stream("GET", url) as said:
                return b"".join([part async for part in said.aiter_bytes(1000)])

        assert asyncio.run(program()) == whole
    assert whole.startswith(b"%PDF-1.7\n\xff\xfe")


@every_client
def test_a_coded_reply_is_read_and_sets_no_cookie(place: Place, send: Send) -> None:
    place.stripe.fault("gzip")
    with place.task().attempt():
        said = send("POST", URL, data=CHARGE)
    assert said.json()["amount_received"] == 100
    assert "content-encoding" not in said.headers
    assert int(said.headers["content-length"]) == len(said.content)
    assert dict(said.cookies) == {}


# What breaks.


@pytest.fixture
def nowhere(worker: Place) -> Iterator[Place]:
    """A worker whose vendor does not listen."""
    before = worker.stripe.url
    worker.site.configure(spendguard_stripe={"base_url": f"http://127.0.0.1:{free_port()}"})
    yield worker
    worker.site.configure(spendguard_stripe={"base_url": before})


@every_client
def test_a_vendor_that_is_away_is_the_clients_connection_error(nowhere: Place, send: Send) -> None:
    task = nowhere.task()
    with task.attempt(), pytest.raises(NOT_CONNECTED) as error:
        send("POST", URL, data=CHARGE)
    shown: Any = error.value
    assert str(shown.request.url) == URL
    assert SECRET not in seen_from(error.value)
    assert [call["state"] for call in nowhere.site.calls(task.run_id)] == ["voided"]


@every_client
def test_a_lost_reply_is_in_doubt_until_the_call_is_made_again(worker: Place, send: Send) -> None:
    worker.stripe.fault("drop_after")
    task = worker.task()
    with task.attempt(), pytest.raises(NO_REPLY) as error:
        send("POST", URL, data=CHARGE)
    shown: Any = error.value
    assert "authorization" not in shown.request.headers
    assert SECRET not in seen_from(error.value)
    assert [call["state"] for call in worker.site.calls(task.run_id)] == ["in_doubt"]
    with task.attempt():
        assert send("POST", URL, data=CHARGE).status_code == 200
    assert worker.stripe.moved() == 100
    assert worker.site.run(task.run_id)["spent_usd"] == "1.00"


@every_client
def test_a_reply_that_cannot_be_believed_is_answered_in_the_vendors_format(place: Place, send: Send) -> None:
    place.stripe.fault("change", change={"amount": 1})
    with place.task().attempt():
        said = send("POST", URL, data=CHARGE)
    assert said.status_code == 502
    assert said.json()["error"]["code"] == "outcome_unknown"
    assert said.headers["x-should-retry"] == "false"


# Outside vendor tasks.


@every_client
def test_outside_a_vendor_task_a_call_that_could_spend_is_denied(vendor: FakeStripe, send: Send) -> None:
    with attempts.worker_running():
        said = send("POST", URL, data=CHARGE, headers={"Authorization": f"Bearer {SECRET}"})
    assert said.status_code == 403
    assert "outside any vendor task" in said.json()["error"]["message"]
    assert vendor.books()["requests"] == []


def test_where_no_worker_runs_a_call_is_the_clients_own() -> None:
    class Own(httpx.BaseTransport):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            return httpx.Response(200, text=request.headers["authorization"])

    class OwnAdapter(requests.adapters.BaseAdapter):
        def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
            response = requests.Response()
            response.status_code, response.request = 201, request
            return response

        def close(self) -> None:
            pass

    with httpx.Client(transport=SpendTransport(Own())) as client:
        assert client.post(URL, headers={"Authorization": "Bearer mine"}).text == "Bearer mine"
    with requests.Session() as session:
        session.mount("https://", SpendAdapter(OwnAdapter()))
        assert session.post(URL).status_code == 201


# Asynchronous programs.


def test_fifty_at_once_stay_within_the_cap_to_the_cent(place: Place) -> None:
    async def program() -> list[int]:
        async with httpx.AsyncClient(transport=AsyncSpendTransport()) as client:
            calls = (client.post(URL, data={**CHARGE, "customer": f"cus_{n}"}) for n in range(50))
            return [said.status_code for said in await asyncio.gather(*calls)]

    task = place.task(budget_usd="30")
    with task.attempt():
        said = asyncio.run(program())
    assert (said.count(200), said.count(429)) == (30, 20)
    assert place.stripe.moved() == 3000
    assert place.site.run(task.run_id)["spent_usd"] == "30.00"


def test_a_cancelled_call_is_accounted_for_before_the_attempt_ends(worker: Place) -> None:
    async def program() -> None:
        async with httpx.AsyncClient(transport=AsyncSpendTransport()) as client:
            await cancelled(client.post(URL, data=CHARGE), worker.stripe)

    task = worker.task()
    with task.attempt(), worker.stripe.holding():
        asyncio.run(program())
    assert worker.stripe.moved() == 100
    assert worker.site.run(task.run_id)["spent_usd"] == "1.00"


@pytest.mark.parametrize("package", ["httpx", "httpx2"])
def test_without_its_package_a_binding_says_what_to_install(package: str) -> None:
    code = f"import sys; sys.modules[{package!r}] = None; import luigi_spendguard.proxy.{package}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ))
    assert f"PluginError: luigi_spendguard.proxy.{package} needs {package}" in done.stderr
    assert f"pip install 'luigi-spendguard[{package}]'" in done.stderr


def test_the_other_packages_client_is_told_before_anything_is_sent(worker: Place) -> None:
    """It would take the transport, pay, and not be able to read the response."""
    transport: Any = SpendTransport()
    raises = pytest.raises(PluginError, match="for clients of httpx, and nothing was sent")
    with worker.task().attempt(), httpx2.Client(transport=transport) as client, raises:
        client.post(URL, data=CHARGE)
    assert worker.stripe.books()["requests"] == []
