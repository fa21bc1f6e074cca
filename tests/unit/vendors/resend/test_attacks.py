"""How a call of Resend's could cost more than its quote, pass for free, or take the secret elsewhere."""

from __future__ import annotations

import json
from email.utils import getaddresses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luigi_spendguard.errors import SpendDenied
from luigi_spendguard.vendors.resend import VENDOR
from luigi_spendguard.vendors.resend import operations as resend_operations
from luigi_spendguard.vendors.resend.operations import kind_of
from tests.support.vendor_table import operations
from tests.unit.vendors.resend.test_vendor import (
    HOME,
    MAIL,
    SECRET,
    asked,
    mail,
    outcome,
    quote,
    reason,
    settings,
)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/events/%73end"),
        ("POST", "/events/send;x"),
        ("GET", "/webhook%73/w1"),
        ("GET", "/log%73/l1"),
        ("DELETE", "/%61pi-keys/k1"),
        ("POST", "/emails%2Fbatch"),
        ("GET", "/contacts/..%2Fwebhooks%2Fw1"),
        ("GET", "/emails/%2e%2e/logs/l1"),
        ("GET", "/logs;x/l1"),
        ("GET", "/emails//m1"),
        ("GET", "/emails/"),
        ("GET", "/webhooks%2540/w1"),
        ("GET", "/emails\\m1"),
    ],
)
def test_an_operation_in_disguise_is_refused(method: str, path: str) -> None:
    request = asked(path, None if method == "GET" else {}, method)
    assert reason(request) == "endpoint"


def test_an_address_may_be_escaped_in_a_path() -> None:
    assert quote(asked("/contacts/ann%2Bx%40example.com", None, "GET")).read
    assert quote(asked("/contacts/ann%40example.com", {}, "PATCH")).free


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/Emails"),
        ("POST", "/EMAILS/BATCH"),
        ("POST", "/emails/Batch"),
        ("post", "/events"),
        ("POST", "/events/e1"),
        ("POST", "/segments/s1"),
        ("POST", "/Broadcasts/b1/Send"),
        ("PUT", "/emails"),
        ("POST", "/templates/t1/send"),
        ("POST", "/suppressions/s1"),
    ],
)
def test_what_is_in_no_rule_is_unpriced(method: str, path: str) -> None:
    for body in (MAIL, [MAIL]):
        assert reason(asked(path, body, method)) == "unpriced"


@pytest.mark.parametrize("path", ["/webhooks/w1/signing-secret", "/Webhooks/w1", "/webhooks/w1/x/y"])
def test_what_stands_below_a_webhook_may_be_its_secret(path: str) -> None:
    assert reason(asked(path, None, "GET")) == "endpoint"


def test_no_operation_that_may_cost_is_free() -> None:
    for decided, method, _, path in operations("resend"):
        if decided not in ("free", "read", "emails", "batch", "cancel"):
            assert kind_of(method, path) not in ("free", "read", "move"), (method, path)


def test_a_mail_may_only_be_moved() -> None:
    assert quote(asked("/emails/m1", {"id": "m1", "scheduled_at": "in 1 hour"}, "PATCH")).free
    for said in ({"to": ["b@x.y", "c@x.y"]}, {"scheduled_at": "in 1 hour", "bcc": "b@x.y"}, [], "x"):
        assert reason(asked("/emails/m1", said, "PATCH")) == "unpriced"
    assert reason(asked("/emails/m1?to=b@x.y", {"scheduled_at": "in 1 hour"}, "PATCH")) == "unpriced"


@pytest.mark.parametrize(
    "said", [{"scheduled_at": "in 1 min"}, {"send": None}, {"send": 0}, {"send": "false"}]
)
def test_a_draft_says_nothing_of_sending(said: dict[str, Any]) -> None:
    assert reason(asked("/broadcasts", {"segment_id": "s", **said})) == "unpriced"


@pytest.mark.parametrize("kind", ["utf-7", "utf-16", "iso-8859-1", "utf-8; x=y"])
def test_json_in_another_character_set_is_not_counted(kind: str) -> None:
    hidden = mail(to=["a@x.y+ACIALAAi-b+AEA-x.y"])
    named = {"content-type": f"application/json; charset={kind}"}
    assert reason(asked("/emails", hidden, **named)) == "unpriced"
    assert quote(asked("/emails", MAIL, **{"content-type": 'application/json; charset="UTF-8"'})).total_micros


@pytest.mark.parametrize(
    "said",
    [
        {"headers": {"X-A": "1\r\nBcc: b@x.y"}},
        {"headers": {"X-A: 1\nBcc": "b@x.y"}},
        {"headers": {"Bcc:": "b@x.y"}},
        {"headers": {"b\u200bcc": "b@x.y"}},
        {"headers": {"Resent-To": "b@x.y"}},
        {"headers": {"Apparently-To": "b@x.y"}},
        {"headers": {"X-A": ["1", "2\nCc: b@x.y"]}},
        {"subject": "Hi\nBcc: b@x.y"},
        {"from": "a@x.y\r\nBcc: b@x.y"},
        {"reply_to": ["a@x.y\nBcc: b@x.y"]},
        {"to": ["a@x.y\nBcc: b"]},
        {"headers": [{"name": "Bcc", "value": "b@x.y"}]},
    ],
)
def test_no_line_of_a_mails_head_names_others(said: dict[str, Any]) -> None:
    assert reason(asked("/emails", mail(**said))) == "unpriced"
    assert reason(asked("/emails/batch", [MAIL, mail(**said)])) == "unpriced"


def test_other_lines_may_stand_in_it() -> None:
    lines = {"X-To-Do": "1", "List-Unsubscribe": "<https://a.example>"}
    assert quote(asked("/emails", mail(headers=lines, text="a\nb", html="a\r\nb"))).total_micros == 10


@pytest.mark.parametrize(
    ("to", "people"),
    [
        ("a\uff20x.y\uff0c b\ufe6bx.y", 2),
        ("Team: a@x.y, b@x.y;", 2),
        ("<a@x.y> <b@x.y>", 2),
        ("a@x.y b@x.y", 2),
        ("(a@x.y) b@x.y", 2),
        ("A@X.Y,a@x.y", 2),
        ('"a@x.y, b@x.y" <c@x.y>', 3),
        ("", 1),
    ],
)
def test_people_are_counted_however_they_are_written(to: str, people: int) -> None:
    assert quote(asked("/emails", mail(to=[to]))).total_micros == people * 10


@given(st.lists(st.text(alphabet='ab@,;<>":() .\\', max_size=30), min_size=1, max_size=5))
def test_never_fewer_than_there_are_signs_for(to: list[str]) -> None:
    counted = quote(asked("/emails", mail(to=to))).total_micros or 0
    assert counted >= 10 * max(len(to), sum(one.count("@") for one in to))


@given(st.text(alphabet="api.resndcom/\\@:?#%2f \n\t;0-", max_size=40))
def test_whatever_an_address_says_the_secret_stays_at_resend(text: str) -> None:
    for url in (f"https://{text}", f"{HOME}{text}", f"{HOME}/{text}"):
        try:
            sent = VENDOR.wire(asked(url, None, "GET"), settings(), SECRET, "").url
        except SpendDenied:
            continue
        assert sent.split("/")[2] == "api.resend.com"


@pytest.mark.parametrize(
    "errors", [[{"index": []}], [{"index": {}}], [{"index": None}], [None], {"index": 1}, 5, [{"index": "1"}]]
)
def test_an_odd_list_of_errors_gives_nothing_back(errors: Any) -> None:
    quoted = quote(asked("/emails/batch", [MAIL, MAIL]))
    found = outcome(quoted, 200, {"data": [{"id": "1"}], "errors": errors})
    assert (found.kind, found.total_micros) == ("settle", 20)


def test_a_key_in_use_is_no_refusal() -> None:
    quoted = quote(asked("/emails", MAIL))
    for name in ("concurrent_idempotent_requests", "invalid_idempotent_request"):
        assert outcome(quoted, 409, {"name": name, "statusCode": 409}).kind == "doubt"


def test_a_list_is_a_batch_only_where_batches_go() -> None:
    long = [json.loads(json.dumps(MAIL))] * 2
    assert reason(asked("/emails", long)) == "unpriced"
    assert reason(asked("/emails/batch", mail(to=["a@x.y", "b@x.y"]))) == "unpriced"


def test_a_thousand_addresses_in_one_text_are_refused_at_once() -> None:
    """To count them would take a gateway minutes."""
    assert reason(asked("/emails", mail(to=" ".join(["someone@example.com"] * 20_000)))) == "unpriced"
    assert reason(asked("/emails", mail(cc=["x@y.z", "a" * 1001]))) == "unpriced"
    assert quote(asked("/emails", mail(to="a" * 980 + "@example.com"))).total_micros is not None


@pytest.mark.parametrize("status", [100, 101, 301, 500, 599, 600, 999])
def test_a_status_that_says_nothing_of_success_frees_nothing(status: int) -> None:
    assert outcome(quote(asked("/emails", MAIL)), status, {"id": "m1"}).kind == "doubt"


@pytest.mark.parametrize("address", ["\ufdfa" * 900 + "@b.example", "@" * 999, "\uff20" * 999, "a@b," * 249])
@pytest.mark.parametrize("field", ["to", "cc", "bcc"])
def test_a_list_of_long_addresses_is_not_read_to_its_end(
    monkeypatch: pytest.MonkeyPatch, field: str, address: str
) -> None:
    """What is read of a mail is bounded by what its addresses come to, whatever they look like."""
    read: list[int] = []

    def counted(texts: list[str]) -> Any:
        read.extend(map(len, texts))
        return getaddresses(texts)

    monkeypatch.setattr(resend_operations, "getaddresses", counted)
    mail = {"from": "a@a.example", "to": "a@a.example", "subject": "s", "text": "t", field: [address] * 300}
    assert reason(asked("/emails", mail)) == "unpriced"
    assert sum(read) <= 5000
