"""luigid's access log has routes and ids of what is there: nothing that a client has put into its address."""

from __future__ import annotations

import http.client
import re
import time
from urllib.parse import quote

import pytest

from tests.acceptance.test_money_log import said
from tests.support.processes import wait_until
from tests.support.site import Site

STRIPE_KEY, LONG = "sk_live_51HabcdefghijklmnopqrstuvwxyzABCDEF", 8 << 20
#: Vendors' keys that this luigid has never heard of, and what no vendor would call one.
KEYS = (
    STRIPE_KEY,
    "re_AbCdEfGh_1234567890abcdefghij",
    "SK0123456789abcdef0123456789abcdef",
    "hunter2-hunter2",
)
#: Where somebody may paste one.
PLACES = (
    *("GET /nowhere/{}", "GET /{}", "GET /?key={}", "GET /nowhere?{}", "POST /strip/v1/charges/{}?k={}"),
    *("GET /runs/{}", "GET /runs/{}/calls", "GET /runs/a/{}", "DELETE /vault/keys/{}", "GET /vault/keys/{}"),
    *("GET /calls?customer={}", "GET /calls?run={}", "GET /calls?{}=1", "GET /runs?search={}", "GET /day?{}"),
    *("GET /openapi.json?k={}", "POST /calls/{}/resolve", "POST /stripe/v1/{}", "POST /stripe/{}?k={}"),
    *("GET /api/{}", "GET /api/task_list?data=%7B%7D&k={}", "POST /api/spend_reserve?k={}", "GET /static/{}"),
    *(
        "GET /static/..%2f{}",
        "GET /history/by_name/{}",
        "GET /tasklist/{}",
        "GET /spendguard/{}",
        "GET /metrics?{}",
        "BREW /runs/{}",
    ),
)


def asked(site: Site, method: str, path: str, body: bytes | None = None) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=30)
    try:
        connection.request(method, path, body)
        reply = connection.getresponse()
        return reply.status, f"{reply.read().decode()} {reply.getheaders()}"
    finally:
        connection.close()


@pytest.fixture(params=[False, True], ids=["worker", "gateway"])
def served(request: pytest.FixtureRequest, shared_site: Site, gateway_site: Site) -> Site:
    return gateway_site if request.param else shared_site


@pytest.mark.parametrize("place", PLACES)
def test_no_key_in_an_address_gets_into_the_log_or_a_reply(served: Site, place: str) -> None:
    method, _, path = place.partition(" ")
    before = len(said(served))
    for key in (*KEYS, served.token() if served.ledger.exists() else STRIPE_KEY):
        for written in (key, quote(key.replace("_", "\0")).replace("%00", "%5F")):
            status, text = asked(served, method, path.format(written, written))
            assert status
            if key != "hunter2-hunter2":  # What looks like no key is named to who has asked for it.
                assert key not in text, (status, text)
    asked(served, "GET", f"/day?limit={before}")
    wait_until(
        lambda: " /day?" in said(served)[before:] or "GET /day" in said(served)[before:], what="the log"
    )
    logged = said(served)[before:]
    assert "write_error" not in logged
    assert not [key for key in (*KEYS, "hunter2", "%5F") if key in logged], logged


def test_what_is_there_is_in_the_log(site: Site) -> None:
    for path in ("/openapi.json", "/status"):  # As a load balancer does each second.
        assert asked(site, "GET", path)[0] == 200
    site.luigi("Billing", "--n", "1", "--run-id", "night/ly 1")
    site.cli("calls", "--run", "night/ly 1", "--state", "settled", "--since", "4h", "--limit", "7")
    site.call("GET", "/runs/night%2Fly%201/spending?by=family")
    site.call("POST", "/runs/night%2Fly%201/top_up", {"usd": "1"})
    wait_until(lambda: "/top_up (127.0.0.1) " in said(site), what="the log's last line")
    log = said(site)
    assert re.search(r" 200 GET /calls\?state=settled&since=[0-9TZ:.-]+&run=…&limit=8 \(127", log), log
    assert " 200 GET /runs/night%2Fly%201/spending?by=family (127.0.0.1) " in log
    assert " 200 POST /runs/night%2Fly%201/top_up (127.0.0.1) " in log
    assert " 200 POST /api/get_work (127.0.0.1) " in log
    assert site.url not in log
    assert not re.search(" 200 GET /(openapi|status)", log)


@pytest.mark.parametrize(
    ("path", "said_of_it"),
    [("/nowhere", "<title>404: Not Found"), ("/paypal/v1/charges", "the gateway's vendors are below")],
)
def test_a_long_body_that_nobody_takes_is_refused_before_it_is_read(
    shared_site: Site, path: str, said_of_it: str
) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", shared_site.port, timeout=30)
    try:
        connection.putrequest("POST", path)
        connection.putheader("Content-Length", str(LONG))
        connection.endheaders(b"x")
        begun = time.monotonic()
        reply = connection.getresponse()
        assert (reply.status, said_of_it in reply.read().decode()) == (404, True)
        assert time.monotonic() - begun < 10  # Nothing more of the body has come.
        connection.sock.sendall(b"x" * (LONG - 1))  # And what comes is dropped: the connection stays.
        connection._HTTPConnection__state = "Idle"
        connection.request("GET", "/status")
        assert connection.getresponse().status == 200
    finally:
        connection.close()
