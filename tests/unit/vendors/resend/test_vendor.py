"""What Resend's operations are quoted at, what became of them, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from luigi_spendguard.errors import DENIAL_STATUS, SpendDenied, denial
from luigi_spendguard.vendors import Outcome, Quote, Reply, Request, VendorSettings
from luigi_spendguard.vendors.resend import VENDOR
from tests.support.made_up import MADE_UP

HOME = "https://api.resend.com"
MAIL = {"from": "shop@example.com", "to": "a@example.com", "subject": "Paid", "text": "Thanks"}
SECRET = "re_canary"


def settings(**more: Any) -> VendorSettings:
    return VendorSettings("resend", SECRET, own={"email_price": 10, **more.pop("own", {})}, **more)


def asked(path: str, said: Any = None, method: str = "POST", **headers: str) -> Request:
    given = {"authorization": f"Bearer {SECRET}", "content-type": "application/json", **headers}
    body = said if isinstance(said, bytes) else b"" if said is None else json.dumps(said).encode()
    return Request(method, path if "://" in path else HOME + path, given, body)


def quote(request: Request, **more: Any) -> Quote:
    return VENDOR.quote(request, settings(**more), SECRET, {})


def reason(request: Request, **more: Any) -> str:
    with pytest.raises(SpendDenied) as denied:
        quote(request, **more)
    return denied.value.reason


def mail(**more: Any) -> dict[str, Any]:
    return {**MAIL, **more}


def outcome(quoted: Quote, status: int, body: Any) -> Outcome:
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    return VENDOR.outcome(quoted, Reply(status, {}, text), resent=False, fx={})


class TestMails:
    @pytest.mark.parametrize(
        ("said", "people"),
        [
            ({}, 1),
            ({"to": ["a@x.y", "b@x.y"]}, 2),
            ({"to": "Ann <a@x.y>"}, 1),
            ({"to": '"Doe, Ann" <a@x.y>'}, 1),
            ({"to": "Doe, Ann <a@x.y>"}, 1),
            ({"to": "a@x.y, b@x.y"}, 2),
            ({"to": ["a@x.y; b@x.y"]}, 2),
            ({"cc": "c@x.y", "bcc": ["d@x.y", "e@x.y"]}, 4),
            ({"to": ["Jr, Ann <a@x.y>", "b@x.y"], "cc": "Jr, Bo <c@x.y>"}, 3),
            ({"to": ["nobody"]}, 1),
            ({"to": []}, 1),
            ({"to": None}, 1),
            ({"to": "", "bcc": ["b@x.y"]}, 1),
            ({"to": ["a@x.y", "a@x.y"]}, 2),
            ({"cc": None, "bcc": []}, 1),
        ],
    )
    def test_every_recipient_is_paid_for(self, said: dict[str, Any], people: int) -> None:
        quoted = quote(asked("/emails", mail(**said)))
        assert (quoted.operation, quoted.total_micros) == ("emails.send", people * 10)

    @pytest.mark.parametrize("to", ["a\x00@x.y", "a\x7f@x.y"])
    def test_whom_it_goes_to_can_be_put_on_record(self, to: str) -> None:
        quoted = quote(asked("/emails", mail(to=to)))
        assert (quoted.total_micros, quoted.target, quoted.customers) == (10, "a@x.y", ("a@x.y",))

    def test_the_default_price(self) -> None:
        plain = VendorSettings("resend", SECRET)
        assert VENDOR.quote(asked("/emails", MAIL), plain, SECRET, {}).total_micros == 900

    @pytest.mark.parametrize(
        "request_",
        [
            asked("/emails", mail(audience="all")),
            asked("/emails", mail(to=[["a@x.y"]])),
            asked("/emails", mail(headers={"Bcc": "x@x.y"})),
            asked("/emails", mail(headers={" TO ": "x@x.y"})),
            asked("/emails", [MAIL]),
            asked("/emails", b"{"),
            asked("/emails?to=b@x.y", MAIL),
            asked("/emails", b'{"to": "a@x.y", "to": ["a@x.y", "b@x.y"]}'),
            asked("/emails", b"NaN"),
            asked("/emails", MAIL, **{"content-type": "application/x-www-form-urlencoded"}),
            asked("/emails", MAIL, **{"content-encoding": "gzip"}),
        ],
    )
    def test_what_may_go_to_more_people_is_unpriced(self, request_: Request) -> None:
        assert reason(request_) == "unpriced"

    def test_another_price_of_luigi_cfgs_makes_no_other_mail(self) -> None:
        before, after = (quote(asked("/emails", MAIL), own={"email_price": price}) for price in (10, 11))
        assert before.fingerprint == after.fingerprint
        assert before.fingerprint_before != after.fingerprint_before
        two = quote(asked("/emails", mail(to=["a@example.com", "a@example.com"])))
        assert two.fingerprint != before.fingerprint

    def test_what_the_recipients_do_not_see_makes_no_other_mail(self) -> None:
        same = quote(asked("/emails", MAIL)).fingerprint
        assert quote(asked("/emails", mail(tags=[{"name": "a", "value": "b"}]))).fingerprint == same
        assert quote(asked("/emails", mail(text="Bye"))).fingerprint != same

    def test_its_outcome(self) -> None:
        quoted = quote(asked("/emails", mail(scheduled_at="in 1 hour")))
        sent = outcome(quoted, 200, {"id": "m1"})
        assert (sent.kind, sent.total_micros, sent.object_id) == ("settle", 10, "m1")
        assert outcome(quoted, 200, {}).error
        assert outcome(quoted, 200, b"<html>").error
        kinds = [outcome(quoted, status, {}).kind for status in (400, 401, 403, 422, 429, 409, 500)]
        assert kinds == ["void"] * 5 + ["doubt"] * 2

    def test_cancelling_gives_back_and_moving_does_not(self) -> None:
        cancel = quote(asked("/emails/m1/cancel", {}))
        assert (cancel.object_id, cancel.only_less, cancel.total_micros) == ("m1", True, 0)
        done = outcome(cancel, 200, {"object": "email", "id": "m1"})
        assert (done.kind, done.total_micros, done.only_less) == ("settle", 0, True)
        assert done.object_id == "m1"
        for body in ({"id": "m2"}, {"id": None}, {}, [], b"<html>"):
            doubted = outcome(cancel, 200, body)
            assert (doubted.kind, bool(doubted.error)) == ("doubt", True)
        assert outcome(cancel, 422, {"name": "validation_error"}).kind == "void"
        assert quote(asked("/emails/m1", {"scheduled_at": "in 2 hours"}, "PATCH")).free


class TestBatches:
    def test_the_recipients_of_all_its_mails(self) -> None:
        quoted = quote(asked("/emails/batch", [mail(), mail(cc="c@x.y")]))
        assert (quoted.operation, quoted.total_micros, quoted.parts) == ("batch.send", 30, (10, 20))
        assert quote(asked("/emails/batch", [MAIL] * 100)).total_micros == 1000
        for mails in ([], [MAIL] * 101, MAIL, ["a@x.y"]):
            assert reason(asked("/emails/batch", mails)) == "unpriced"

    def test_what_resend_ignores_in_a_batch_is_refused(self) -> None:
        assert reason(asked("/emails/batch", [mail(attachments=[{"path": "x"}])])) == "unpriced"
        assert quote(asked("/emails/batch", [mail(scheduled_at="in 1 hour")])).total_micros == 10

    def test_what_was_accepted_is_paid_for(self) -> None:
        quoted = quote(asked("/emails/batch", [mail(), mail(cc="c@x.y"), mail()]))
        some = {"data": [{"id": "1"}, {"id": "3"}], "errors": [{"index": 1, "message": "no"}]}
        assert outcome(quoted, 200, some).total_micros == 20
        assert outcome(quoted, 200, some).opened == {"1": 10, "3": 10}
        whole = outcome(quoted, 200, {"data": [{"id": "1"}, {"id": "2"}, {"id": "3"}]})
        assert (whole.total_micros, whole.opened) == (40, {"1": 10, "2": 20, "3": 10})
        for ids in (["1"] * 3, ["1", "2", " "], ["1", "2", None], ["1", "2"]):
            unclear = outcome(quoted, 200, {"data": [{"id": one} for one in ids]})
            assert (unclear.total_micros, unclear.opened) == (40, {})
        # What does not add up is paid for as asked.
        assert outcome(quoted, 200, {"data": [], "errors": [{"index": 1}]}).total_micros == 40
        assert outcome(quoted, 200, b"<html>").total_micros == 40

    def test_it_is_sent_again_as_permissive_as_it_was(self) -> None:
        asked_ = asked("/emails/batch", [MAIL], **{"x-batch-validation": "permissive"})
        assert "x-batch-validation" in VENDOR.kept
        assert VENDOR.wire(asked_, settings(), SECRET, "k").headers["x-batch-validation"] == "permissive"


class TestKeys:
    @pytest.mark.parametrize(
        ("key", "callers"),
        [("order-1", True), pytest.param(MADE_UP["stripe-node"](), False, id="made up"), (None, False)],
    )
    def test_whose_key_it_is(self, key: str | None, callers: bool) -> None:
        quoted = quote(asked("/emails", MAIL, **({"idempotency-key": key} if key else {})))
        assert (quoted.key, quoted.key_is_callers, quoted.repeatable) == (key, callers, True)

    def test_a_key_goes_where_resend_reads_one(self) -> None:
        def sent(path: str, said: Any, method: str = "POST") -> str | None:
            wire = VENDOR.wire(asked(path, said, method), settings(), SECRET, "k1")
            return wire.headers.get("idempotency-key")

        assert (sent("/emails", MAIL), sent("/emails/batch", [MAIL])) == ("k1", "k1")
        for path in ("/emails/m1/cancel", "/broadcasts", "/events/send"):
            assert sent(path, {}) is None
        for method in ("GET", "PATCH", "DELETE"):
            assert sent("/emails/m1", {}, method) is None
        assert quote(asked("/emails", MAIL, **{"idempotency-key": "k" * 256})).key == "k" * 256
        assert reason(asked("/emails", MAIL, **{"idempotency-key": "k\n"})) == "unpriced"
        assert reason(asked("/emails", MAIL, **{"idempotency-key": "k" * 257})) == "unpriced"


@pytest.mark.parametrize(
    ("path", "method"),
    [
        ("/broadcasts/b1/send", "POST"),
        ("/events/send", "POST"),
        ("/contacts", "POST"),
        ("/inboxes", "POST"),
        ("/inboxes/i/drafts", "POST"),
        ("/audiences/a1/contacts", "POST"),
        ("/automations", "POST"),
    ],
)
def test_what_nothing_bounds_needs_the_operators_price(path: str, method: str) -> None:
    request = asked(path, {}, method)
    assert reason(request) == "unpriced"
    with pytest.raises(SpendDenied, match=r"emails\.send, which is priced by what it asks for"):
        quote(asked("/emails", mail()), prices={"emails.send": 5})
    with pytest.raises(SpendDenied, match="prices gives it a fixed price") as denied:
        quote(request)
    assert reason(asked(f"{path}?a=1", {}, method)) == "unpriced"
    operation = denied.value.message.split(" ", 1)[0]
    priced = quote(request, prices={operation: 5})
    assert (priced.total_micros, priced.fixed, priced.repeatable) == (5, True, False)


@pytest.mark.parametrize(
    ("path", "less", "more"),
    [
        (
            "/contacts/c1",
            {"unsubscribed": True},
            [
                {"unsubscribed": False},
                {"unsubscribed": None},
                {"unsubscribed": "no"},
                {"properties": {"a": "b"}},
            ],
        ),
        (
            "/contacts/c1/topics",
            {"topics": [{"id": "t", "subscription": "opt_out"}]},
            [{"topics": [{"id": "t", "subscription": "opt_out"}, {"id": "u", "subscription": "opt_in"}]}],
        ),
    ],
)
def test_what_may_add_to_a_broadcast_is_not_free(path: str, less: Any, more: list[Any]) -> None:
    assert quote(asked(path, less, "PATCH")).free
    for said in more:
        assert reason(asked(path, said, "PATCH")) == "unpriced"


def test_an_operation_that_is_not_known_has_no_price_either() -> None:
    for path, operation in (("/nothing", "nothing.create"), ("/Contacts", "contacts.create")):
        assert reason(asked(path, {}), prices={operation: 5}) == "unpriced"
    assert reason(asked("/nothing/n1", None, "DELETE")) == "unpriced"


def test_a_broadcast_is_free_as_long_as_it_is_a_draft() -> None:
    assert quote(asked("/broadcasts", {"segment_id": "s", "send": False})).free
    assert quote(asked("/broadcasts", {"segment_id": "s"})).free
    for said in ({"send": True}, {"send": "true"}, {"send": 1}, []):
        assert reason(asked("/broadcasts", said)) == "unpriced"


@pytest.mark.parametrize(
    ("path", "method"),
    [
        ("/api-keys", "POST"),
        ("/API-KEYS", "POST"),
        ("/webhooks", "POST"),
        ("/webhooks/w1", "GET"),
        ("/logs/l1", "GET"),
        ("/Logs/l1", "GET"),
        ("/WEBHOOKS/w1", "GET"),
        ("/OAuth/Grants", "GET"),
        ("/api-keys/k1", "DELETE"),
        ("/Api-Keys/k1", "PATCH"),
        ("/webhooks/w1/signing-secret/rotate", "POST"),
        ("/oauth/grants/g1", "DELETE"),
        ("/oauth/grants", "GET"),
        ("/emails/m1/share", "POST"),
        ("/api-keys/", "POST"),
    ],
)
def test_credentials_are_denied_unless_named_exactly(path: str, method: str) -> None:
    request = asked(path, None if method == "GET" else {}, method)
    assert reason(request) == "endpoint"
    assert reason(request, allowed_endpoints=(f"{method} /*",)) == "endpoint"
    if (
        method != "GET" and path != path.lower()
    ):  # Resend has no such operation, whatever else it takes it for.
        assert reason(request, allowed_endpoints=(f"{method} {path}",)) == "unpriced"
    elif not path.endswith("/"):
        assert quote(request, allowed_endpoints=(f"{method} {path}",)).total_micros == 0


def test_the_sdks_empty_object_is_not_sent_with_a_read() -> None:
    request = asked("/emails/m1", {}, "GET")
    assert quote(request).read
    assert VENDOR.wire(request, settings(), SECRET, "").body == b""
    assert reason(asked("/emails/m1", {"a": 1}, "GET")) == "unpriced"
    assert VENDOR.wire(asked("/contacts/c1", {}, "DELETE"), settings(), SECRET, "").body == b""
    assert quote(asked("/contacts/c1", {}, "DELETE")).free
    assert VENDOR.wire(asked("/emails/m1/cancel", {}), settings(), SECRET, "").body == b"{}"


@pytest.mark.parametrize(
    "url",
    [
        "https://api.resend.com@evil.example/emails",
        "https://api.resend.com.evil.example/emails",
        "http://api.resend.com/emails",
        f"{HOME}//emails",
        f"{HOME}/emails/../api-keys",
        f"{HOME}/emails%2Fbatch",
        f"{HOME}/emails%2fbatch",
        f"{HOME}/..",
        f"{HOME}/./emails",
        HOME,
        f"{HOME}:444/emails",
    ],
)
def test_no_other_place_is_sent_to(url: str) -> None:
    assert reason(asked(url, MAIL)) == "endpoint"


def test_the_secret_goes_with_it_and_nothing_of_the_clients() -> None:
    sent = VENDOR.wire(asked("/emails", MAIL, cookie="a=b"), settings(), SECRET, "k")
    assert sent.headers["authorization"] == f"Bearer {SECRET}"
    assert "cookie" not in sent.headers
    assert VENDOR.wire(asked("/emails", MAIL), settings(base_url="http://127.0.0.1:9"), SECRET, "").url == (
        "http://127.0.0.1:9/emails"
    )


def test_what_an_operator_has_named_is_fetched() -> None:
    assert (
        VENDOR.fetch(quote(asked("/emails", MAIL)), "m/1", asked("/emails", MAIL)).url
        == f"{HOME}/emails/m%2F1"
    )
    batch = asked("/emails/batch", [MAIL])
    with pytest.raises(SpendDenied):
        VENDOR.fetch(quote(batch), "m1", batch)


@pytest.mark.parametrize("reason_", sorted(DENIAL_STATUS))
def test_a_denial_has_resends_shape(reason_: str) -> None:
    shaped = VENDOR.shape(denial(reason_, "no"))
    body = json.loads(shaped.body)
    assert (shaped.status, body["statusCode"], body["message"]) == (*[DENIAL_STATUS[reason_]] * 2, "no")
    assert "application/json" in shaped.headers["content-type"]
    assert ("x-spendguard-cap-hit" in shaped.headers) is (reason_ == "cap")
