"""What a proxy has passed on, and answers itself: a vendor's call, or what luigid is asked."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from luigi_spendguard import SpendDenied
from luigi_spendguard.errors import PluginError
from luigi_spendguard.http.rpc_connections import Exchange, HttpAnswer, RpcConnections
from tests.integration.test_lost_answers import World, made, make
from tests.support.attempts import Pretender
from tests.support.pipelines import charge
from tests.support.processes import wait_until
from tests.support.raw import Losing
from tests.support.site import Site

#: What proxies say in place of luigid.
_PAGE, _JSON = b"<html>no</html>", b'{"status": 403, "error": "Forbidden", "message": "no"}'
#: Names that luigid has for its errors, too.
_NAMES = {400: "bad_request", 403: "forbidden", 404: "not_found", 409: "conflict", 413: "too_large"}


@pytest.fixture(scope="module")
def relayed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with made(tmp_path_factory.mktemp("relayed"), True) as site:
        yield site.world


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with Site(tmp_path_factory.mktemp("site"), spendguard_stripe={"timeout_s": 1}) as made_here:
        yield made_here


@pytest.mark.parametrize("kind", ["mail", "text", "charge"])
@pytest.mark.parametrize("status", [403, 404])
def test_a_call_whose_answer_a_proxy_keeps_back_is_known_again(
    relayed: World, kind: str, status: int
) -> None:
    """It answers as if it had passed nothing on; one that looks at answers says 403 instead of them."""
    instead = b"HTTP/1.1 %d X\r\nConnection: close\r\nContent-Length: 4\r\n\r\nkept" % status

    def times() -> int:
        return relayed.site.stripe.moved() // 100 if kind == "charge" else len(relayed.sent(kind))

    before = times()
    with Losing(relayed.site.port, instead) as network:
        relayed.site.configure(spendguard={"gateway_url": network.url})
        try:
            with relayed.attempt():
                if kind == "charge":
                    with pytest.raises(SpendDenied, match="is no gateway"):
                        charge("cus_kept")
                else:
                    assert make(kind, 1) == 503
                network.loses = False
                assert charge("cus_kept") if kind == "charge" else make(kind, 1) in (200, 201)
        finally:
            relayed.site.configure(spendguard={"gateway_url": None})
    assert times() - before == 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 413])
def test_a_grant_that_a_proxy_keeps_back_is_given_back(
    site: Site, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would stay open beside the call that is made then, and the next attempt would send it."""
    post, kept = RpcConnections.post, [status]

    def keeping(self: Any, asked: Exchange, connect_s: float) -> HttpAnswer:
        reply = post(self, asked, connect_s)
        return (
            HttpAnswer(kept.pop(), b"kept", False) if kept and asked.path == "/api/spend_reserve" else reply
        )

    before, customer = site.stripe.moved(), f"cus_{status}"
    pretender = Pretender(site, f"run-{status}", f"Charge_{status}")
    with pretender.attempt():
        monkeypatch.setattr(RpcConnections, "post", keeping)
        with pytest.raises((SpendDenied, PluginError)):
            charge(customer)
        charge(customer)
    with pretender.attempt():
        charge(customer)
    assert (site.stripe.moved() - before, kept) == (100, [])
    assert site.run(pretender.run_id)["reserved_usd"] == "0.00"


@pytest.mark.parametrize(
    ("status", "body"),
    [
        *((400, _PAGE), (403, _JSON), (404, _PAGE), (409, _JSON)),
        *((status, b'{"error": "%b"}' % name.encode()) for status, name in _NAMES.items()),
    ],
)
def test_an_end_that_a_proxy_answers_itself_is_said_again(
    site: Site, status: int, body: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was taken for luigid's word that it never takes it: what was paid stayed in doubt for ever."""
    post, kept = RpcConnections.post, [status] * 2
    said = ("/api/spend_settle", "/api/spend_attempt", "/api/spend_finish")

    def keeping(self: Any, asked: Exchange, connect_s: float) -> HttpAnswer:
        instead = kept and asked.path in said
        return HttpAnswer(kept.pop(), body, False) if instead else post(self, asked, connect_s)

    run_id = f"end-{status}-{len(body)}"
    pretender = Pretender(site, run_id, run_id)
    with pretender.attempt():
        monkeypatch.setattr(RpcConnections, "post", keeping)
        charge(f"cus_{run_id}")
    wait_until(lambda: site.run(run_id)["spent_usd"] == "1.00", 20, "that its end is booked")
    assert (site.run(run_id)["reserved_usd"], kept) == ("0.00", [])
    assert pretender.client.flush()
