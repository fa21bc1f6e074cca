"""`spend_proxy`: real curl and node under a task's key; nobody else gets in, and nothing of it is left."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import luigi
import pytest
import requests
from luigi.contrib.external_program import ExternalProgramRunError, ExternalProgramTask

from luigi_spendguard import BudgetExceeded, SpendDenied, spend_proxy
from luigi_spendguard.errors import PluginError
from luigi_spendguard.http.relay import MAX_FORM, MAX_UPLOAD
from luigi_spendguard.proxy import interrupt
from luigi_spendguard.proxy.listener import Listener
from tests.integration.test_any_client import Place
from tests.support import npm
from tests.support.clients import dead_proxies
from tests.support.made_up import MADE_UP
from tests.support.processes import wait_until
from tests.support.programs import program
from tests.support.site import SECRET, Site

FORM = "amount=100&currency=usd&customer=cus_1&payment_method=pm_card_visa&confirm=true"

NODE = """
const form = new URLSearchParams(process.argv[2]);
const headers = { Authorization: `Bearer ${process.env.STRIPE_SECRET_KEY}` };
for (let turn = 0; turn < 3; turn++) {
  form.set("customer", `cus_${turn}`);
  const reply = await fetch(process.argv[1] + "/v1/payment_intents", { method: "POST", headers, body: form });
  console.log(reply.status, reply.headers.get("x-spendguard-cap-hit"), (await reply.json()).status);
}
"""

#: The official SDK, as a task's program would use it.
STRIPE_NODE = """
const Stripe = require("stripe");
const { hostname: host, port } = new URL(process.argv[1]);
const stripe = new Stripe(process.env.STRIPE_SECRET_KEY, { host, port, protocol: "http" });
const charge = { amount: 100, currency: "usd", customer: "cus_1", payment_method: "pm_card_visa" };
stripe.paymentIntents.create({ ...charge, confirm: true }).then((intent) => console.log(intent.id));
"""


@pytest.fixture(params=["worker", "gateway"])
def place(request: pytest.FixtureRequest) -> Place:
    name = "shared_site" if request.param == "worker" else "gateway_site"
    return Place(request.getfixturevalue(name))


@pytest.fixture
def worker(shared_site: Site) -> Place:
    return Place(shared_site)


def curl(*args: str) -> Any:
    """Run curl as a shell script of a task would, under the key of the environment; return its JSON."""
    key = os.environ["STRIPE_SECRET_KEY"]
    done = subprocess.run(
        [program("curl"), "-sS", "-u", f"{key}:", *args], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def post(
    url: str,
    path: str = "/stripe/v1/payment_intents",
    body: Any = FORM,
    key: str | None = None,
    **headers: str,
) -> tuple[int, dict[str, Any]]:
    """Send exactly what is given; without a key, the environment's."""
    key = os.environ["STRIPE_SECRET_KEY"] if key is None else key
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
    try:
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        connection.request("POST", path, body, {"Authorization": f"Bearer {key}", **form, **headers})
        reply = connection.getresponse()
        return reply.status, json.loads(reply.read())
    finally:
        connection.close()


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if "spendguard-listener" in thread.name]


# Programs.


def test_curl_is_charged_once_over_two_attempts(place: Place) -> None:
    task = place.task()
    answers = []
    for _ in range(2):
        with task.attempt(), dead_proxies(), spend_proxy() as url:
            answers.append(curl(f"{url}/stripe/v1/payment_intents", "-d", FORM)["id"])
        with task.attempt(), dead_proxies(), spend_proxy("stripe") as url:
            answers.append(curl(f"{url}/v1/payment_intents", "-d", FORM)["id"])
    assert len(set(answers)) == 1
    assert place.stripe.moved() == 100
    assert [request["authorization"] for request in place.stripe.posts()] == [f"Bearer {SECRET}"]
    assert place.site.run(task.run_id)["spent_usd"] == "1.00"


def test_node_is_held_within_the_cap(place: Place) -> None:
    task = place.task(budget_usd="2")
    with task.attempt(), dead_proxies(), spend_proxy("stripe") as url:
        done = subprocess.run(
            [program("node"), "--input-type=module", "-e", NODE, url, FORM],
            capture_output=True,
            text=True,
            timeout=60,
        )
    lines = done.stdout.splitlines()
    assert lines == ["200 null succeeded", "200 null succeeded", "429 true undefined"], done
    assert place.stripe.moved() == 200
    assert SECRET not in done.stdout + done.stderr


def test_a_task_of_the_node_sdk_that_died_and_runs_again_pays_once(place: Place) -> None:
    node = npm.node("stripe")
    task, answers = place.task(), []
    for _ in range(2):
        with task.attempt(), dead_proxies(), spend_proxy("stripe") as url:
            done = subprocess.run(
                [node, "-e", STRIPE_NODE, url],
                capture_output=True,
                text=True,
                timeout=60,
                env={**os.environ, "NODE_PATH": str(npm.MODULES)},
            )
        assert done.returncode == 0, done
        answers.append(done.stdout)
    assert place.stripe.moved() == 100
    assert len(set(answers)) == 1


@pytest.mark.parametrize("sdk", MADE_UP)
def test_a_task_of_any_sdk_that_died_and_runs_again_pays_once(worker: Place, sdk: str) -> None:
    task, make_up = worker.task(), MADE_UP[sdk]
    for _ in range(2):
        with task.attempt(), dead_proxies(), spend_proxy() as url:
            assert post(url, **{"Idempotency-Key": make_up()})[0] == 200
    assert worker.stripe.moved() == 100


def test_a_key_that_a_caller_chose_stays_its_own(worker: Place) -> None:
    """One that only looks made up, too: whoever sends it again gets the same answer, in any order."""
    task, orders = worker.task(), [str(uuid.uuid5(uuid.NAMESPACE_URL, order)) for order in ("a", "b")]
    answers = []
    for keys in (orders, orders[::-1], ["order-17", "order-18"]):
        with task.attempt(), dead_proxies(), spend_proxy() as url:
            answers.append({key: post(url, **{"Idempotency-Key": key})[1]["id"] for key in keys})
    assert answers[0] == answers[1]
    assert worker.stripe.moved() == 400


def test_a_program_that_ends_with_an_error_after_a_denial_blocks_its_task(place: Place) -> None:
    task = place.task(budget_usd="0.50")
    with task.attempt(), pytest.raises(BudgetExceeded) as denied, spend_proxy("stripe") as url:
        subprocess.run(
            [
                program("curl"),
                "-sf",
                "-u",
                f"{os.environ['STRIPE_SECRET_KEY']}:",
                f"{url}/v1/payment_intents",
                "-d",
                FORM,
            ],
            check=True,
        )
    assert denied.value.facts["asked_usd"] == "1.00"
    assert isinstance(denied.value.__cause__, subprocess.CalledProcessError)


class Curl(ExternalProgramTask):
    url = luigi.Parameter()

    def program_args(self) -> list[str]:
        key = os.environ["STRIPE_SECRET_KEY"]
        return [program("curl"), "-sf", "-u", f"{key}:", f"{self.url}/v1/payment_intents", "-d", FORM]


def test_so_does_luigis_task_for_programs_whose_error_is_its_own(place: Place) -> None:
    task = place.task(budget_usd="0.50")
    with task.attempt(), pytest.raises(BudgetExceeded) as denied, spend_proxy("stripe") as url:
        Curl(url).run()
    assert isinstance(denied.value.__cause__, ExternalProgramRunError)
    assert place.stripe.moved() == 0


def test_another_error_of_a_program_stays_one(worker: Place) -> None:
    def calls() -> None:
        with spend_proxy("stripe") as url:
            assert post(url, "/v1/payment_intents", FORM.replace("100", "200"))[0] == 429
            assert post(url, "/v1/payment_intents")[0] == 200
            subprocess.run([program("sh"), "-c", "exit 3"], check=True)

    with worker.task(budget_usd="1").attempt(), pytest.raises(subprocess.CalledProcessError):
        calls()


def test_chunks_continuation_and_uploads_pass(worker: Place, tmp_path: Path) -> None:
    upload = tmp_path / "a.bin"
    upload.write_bytes(os.urandom(12 << 20))
    with worker.task().attempt(), dead_proxies(), spend_proxy("stripe") as url:
        chunked = curl(f"{url}/v1/payment_intents", "-d", FORM, "-H", "Transfer-Encoding: chunked")
        assert chunked["status"] == "succeeded"
        waited = curl(
            f"{url}/v1/payment_intents", "-d", FORM.replace("cus_1", "cus_2"), "-H", "Expect: 100-continue"
        )
        assert waited["status"] == "succeeded"
        assert curl(f"{url}/v1/files", "-F", f"file=@{upload}")["object"] == "file"
        # Several calls by one connection.
        both = curl(
            f"{url}/v1/payment_intents/{chunked['id']}",
            "-o",
            os.devnull,
            f"{url}/v1/payment_intents/{waited['id']}",
        )
        assert both["customer"] == "cus_2"
    assert worker.stripe.moved() == 200


@pytest.mark.parametrize(
    ("kind", "size"),
    [
        ("application/x-www-form-urlencoded", MAX_FORM + 1),
        ("multipart/form-data; boundary=x", MAX_UPLOAD + 1),
    ],
)
def test_too_large_a_body_is_refused(worker: Place, kind: str, size: int) -> None:
    task = worker.task()
    with task.attempt(), spend_proxy() as url:
        status, said = post(url, body=b"x" * size, **{"Content-Type": kind})
    assert (status, said["error"]["code"]) == (413, "scope")
    assert worker.stripe.posts() == []
    assert [call["reason"] for call in worker.site.calls(task.run_id)] == ["endpoint"]


# Who gets in.


def test_only_a_running_tasks_key_gets_in(worker: Place) -> None:
    task = worker.task()
    with task.attempt() as ended:
        pass
    with task.attempt() as attempt, spend_proxy() as url:
        for key in ("", SECRET, "vault_key_" + "x" * 43, ended.key, attempt.key + "x", "\u00fc"):
            status, said = post(url, key=key.encode("utf-8").decode("latin-1"))
            assert (status, said["error"]["code"]) == (401, "unknown_key"), key
        assert post(url)[0] == 200
    assert worker.stripe.moved() == 100


def test_no_page_of_a_browser_gets_in(worker: Place) -> None:
    with worker.task().attempt(), spend_proxy() as url:
        port = urlsplit(url).port
        assert post(url, Origin="https://example.com")[0] == 403
        status, said = post(url, Host=f"rebound.example.com:{port}")
        assert (status, "no name of this machine" in said["error"]["message"]) == (403, True)
        assert post(url, Host=f"localhost:{port}")[0] == 200
    assert len(worker.stripe.posts()) == 1


def test_the_body_of_a_stranger_is_not_kept(worker: Place) -> None:
    with (
        worker.task().attempt(),
        spend_proxy() as url,
        socket.create_connection(("127.0.0.1", urlsplit(url).port or 0)) as stranger,
    ):
        head = "POST /stripe/v1/files HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data\r\n"
        stranger.sendall(f"{head}Content-Length: 9000000\r\n\r\n".encode())
        stranger.settimeout(5)
        assert stranger.recv(100).startswith(b"HTTP/1.1 401 ")


def test_what_says_who_the_client_is_goes_no_further(worker: Place) -> None:
    with worker.task().attempt(), spend_proxy() as url:
        more = {"Cookie": "a=b", "X-Forwarded-For": "1.2.3.4", "X-Spendguard-Unanswered": "k"}
        assert post(url, **more, **{"Stripe-Account": "acct_1"})[0] == 200
    [seen] = worker.stripe.posts()
    assert seen["account"] == "acct_1"


def test_another_path_is_not_found(worker: Place) -> None:
    with worker.task().attempt(), spend_proxy() as url:
        status, said = post(url, "/elsewhere/v1/x")
        assert (status, said["error"], "/stripe/" in said["message"]) == (404, "not_found", True)
        assert post(url, "/stripe?x=y")[0] == 403


def test_two_tasks_of_a_process_spend_by_their_own_keys(worker: Place) -> None:
    one, other = worker.task(), worker.task()
    with one.attempt() as first, spend_proxy() as url, other.attempt() as second:
        assert post(url, key=first.key)[0] == 200
        assert post(url, key=second.key, body=FORM.replace("cus_1", "cus_2"))[0] == 200
        with spend_proxy() as inner:
            assert inner != url
            assert post(inner, key=second.key, body=FORM.replace("cus_1", "cus_3"))[0] == 200
    spent = [worker.site.run(task.run_id)["spent_usd"] for task in (one, other)]
    assert spent == ["1.00", "2.00"]


def test_outside_a_vendor_task_it_is_a_clear_denial() -> None:
    with pytest.raises(SpendDenied, match="inside its run") as denied, spend_proxy():
        pass
    assert denied.value.reason == "scope"


def test_an_unknown_vendor_is_named(worker: Place) -> None:
    with worker.task().attempt(), pytest.raises(PluginError, match="no vendor 'strpe'"), spend_proxy("strpe"):
        pass


# Its end.


def test_nothing_is_left_when_the_block_ends(worker: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "intern.example.com")
    monkeypatch.delenv("no_proxy", raising=False)
    with worker.task().attempt():
        with spend_proxy() as url, spend_proxy():
            assert os.environ["NO_PROXY"] == "intern.example.com,127.0.0.1,localhost"
            assert os.environ["no_proxy"] == os.environ["NO_PROXY"]
            with requests.Session() as session:  # Its connection stays open.
                session.trust_env = False
                assert session.get(
                    f"{url}/stripe/v1/customers", auth=(os.environ["STRIPE_SECRET_KEY"], "")
                ).ok
                assert len(threads()) > 2
        assert threads() == []
        assert os.environ["NO_PROXY"] == "intern.example.com"
        assert "no_proxy" not in os.environ
        with pytest.raises(ConnectionRefusedError):
            post(url)


def test_a_call_under_way_ends_before_the_block_does(worker: Place) -> None:
    worker.stripe.control(options={"latency": 1.0})
    said: list[Any] = []
    task = worker.task()
    with task.attempt():
        with spend_proxy() as url:
            caller = threading.Thread(target=lambda: said.append(post(url)))
            caller.start()
            wait_until(lambda: bool(interrupt.in_flight()))
        assert interrupt.in_flight() == 0
        caller.join(5)
    worker.stripe.control(options={"latency": 0.0})
    assert [status for status, _ in said] == [200]
    assert (worker.stripe.moved(), worker.site.run(task.run_id)["spent_usd"]) == (100, "1.00")


def give_up(url: str, until: Callable[[], bool], **headers: str) -> None:
    """Make a call as a program does that runs out of patience, `until` then."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
    shown = {"Authorization": f"Bearer {os.environ['STRIPE_SECRET_KEY']}", **headers}
    kind = {"Content-Type": "application/x-www-form-urlencoded"}
    connection.request("POST", "/stripe/v1/payment_intents", FORM, {**shown, **kind})
    wait_until(until, what="the moment to give up")
    connection.close()


def test_a_call_that_a_program_has_given_up_and_makes_again_is_sent_once(place: Place) -> None:
    """It says which one: its SDK has made up another key."""
    task, keys = place.task(), [str(uuid.uuid4()) for _ in range(2)]
    place.stripe.control(options={"latency": 1.0})
    try:
        with task.attempt(), spend_proxy() as url:
            give_up(url, lambda: bool(place.stripe.posts()), **{"Idempotency-Key": keys[0]})
            again = {"Idempotency-Key": keys[1], "X-Spendguard-Unanswered": keys[0]}
            status, said = post(url, **again)
    finally:
        place.stripe.control(options={"latency": 0.0})
    assert (status, said["status"], place.stripe.moved()) == (200, "succeeded", 100)
    assert [call["verdict"] for call in place.site.calls(task.run_id)] == ["replayed", "allowed"]


def test_a_call_of_a_programs_that_comes_late_is_sent_no_more(place: Place) -> None:
    """It is numbered by its program, whose listener may be told of the later one first."""
    task, keys = place.task(), [str(uuid.uuid4()) for _ in range(2)]
    own = [{"Idempotency-Key": key, "X-Spendguard-Process": "0123abcd"} for key in keys]
    with task.attempt(), spend_proxy() as url:
        again = own[1] | {"X-Spendguard-Try": "2", "X-Spendguard-Unanswered": keys[0]}
        assert post(url, **again)[0] == 200
        assert post(url, **own[0], **{"X-Spendguard-Try": "1"})[0] == 503
        assert place.stripe.moved() == 100
        assert post(url, **own[0], **{"X-Spendguard-Try": "3"})[0] == 200, "its program goes on with it"
    assert place.stripe.moved() == 200


@pytest.mark.parametrize("named", ["*", "k" * 7001])
def test_more_such_calls_than_can_be_named_are_refused_on_record(place: Place, named: str) -> None:
    task = place.task()
    with task.attempt(), spend_proxy() as url:
        assert post(url, **{"X-Spendguard-Unanswered": named})[0] == 409
    assert place.stripe.posts() == []
    assert [call["verdict"] for call in place.site.calls(task.run_id)] == ["denied:in_doubt"]


def test_a_call_whose_program_has_gone_while_it_waited_is_not_sent(
    worker: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, reply = [], Listener.reply

    def begin(self: Listener, call: Any, *args: Any) -> Any:
        begun.append(call)
        return reply(self, call, *args)

    monkeypatch.setattr("luigi_spendguard.proxy.listener.THREADS", 1)
    monkeypatch.setattr(Listener, "reply", begin)
    with worker.task().attempt():
        with spend_proxy() as url:
            with worker.stripe.holding():
                first = threading.Thread(target=lambda: post(url))
                first.start()
                wait_until(lambda: bool(worker.stripe.posts()), what="the first call")
                give_up(url, lambda: len(begun) == 2)  # Else it may be half-closed before it has begun.
            first.join(10)
        assert len(worker.stripe.posts()) == 1
    assert worker.stripe.moved() == 100


def test_a_call_without_a_reply_is_named_as_on_record(place: Place) -> None:
    task = place.task()
    place.stripe.fault("drop_after")
    with task.attempt(), spend_proxy() as url:
        status, said = post(url)
    (call,) = place.site.calls(task.run_id)
    assert (status, call["state"]) == (502, "in_doubt")
    assert call["id"] in said["error"]["message"]


def refused(url: str) -> bool:
    try:
        post(url)
    except ConnectionRefusedError:
        return True
    except ConnectionResetError:
        return False
    raise AssertionError("somebody serves")


def test_a_forked_child_neither_serves_nor_holds_the_port(worker: Place) -> None:
    with worker.task().attempt():
        with spend_proxy() as url:
            begun, begins = os.pipe()
            pid = os.fork()
            if pid == 0:
                try:
                    os.write(begins, b"1")
                    time.sleep(60)  # It is killed meanwhile.
                finally:
                    os._exit(0)
            os.close(begins)
            with open(begun, "rb") as told:
                assert told.read(1) == b"1"  # It has let go of what it was forked with.
            assert post(url)[0] == 200
        try:
            with pytest.raises(ConnectionRefusedError):
                post(url)
        finally:
            os.kill(pid, 9)
            os.waitpid(pid, 0)


def test_a_child_may_leave_the_block(worker: Place) -> None:
    with worker.task().attempt():
        pid = os.getpid()
        try:
            with spend_proxy() as url:
                child = os.fork()
        finally:
            if os.getpid() != pid:
                os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert url.startswith("http://127.0.0.1:")


def test_many_programs_at_once_stay_within_the_cap(place: Place) -> None:
    task = place.task(budget_usd="30")
    said: list[int] = []

    def call(number: int) -> None:
        said.append(post(url, body=FORM.replace("cus_1", f"cus_{number}"))[0])

    with task.attempt(), spend_proxy() as url:
        callers = [threading.Thread(target=call, args=(number,)) for number in range(50)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
    assert (said.count(200), said.count(429)) == (30, 20)
    assert place.stripe.moved() == 3000
