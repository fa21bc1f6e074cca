"""Every parameter that an SDK or a vendor's description can send is marked, and no other passes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest

from luigi_spendguard.errors import SpendDenied
from luigi_spendguard.vendors import Request, VendorSettings, parameters, resend, twilio
from luigi_spendguard.vendors.bodies import DEEPEST
from luigi_spendguard.vendors.parameters import Parameters, takes, tree_of, values_in
from luigi_spendguard.vendors.resend.operations import LISTED as RESEND_LISTED
from luigi_spendguard.vendors.twilio.operations import LISTED, RULED, kind_of
from tests.support import marking, resend_sdk, twilio_sdk
from tests.support.tables import each

SID = "AC" + "1" * 32
FORM, JSON = {"content-type": "application/x-www-form-urlencoded"}, {"content-type": "application/json"}


def listed(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Parameters:
    (tmp_path / "acme").mkdir()
    (tmp_path / "acme" / "parameters.txt").write_text(text, "utf-8")
    monkeypatch.setattr(parameters, "__file__", str(tmp_path / "parameters.py"))
    return Parameters("acme")


class TestLists:
    def test_each_parameter_is_marked(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        text = """# A remark.
Dob = day month

POST /v1/{id}/pay
POST /v1/pay
+ amount items[]{price
    quantity}
. metadata[*] dob{@Dob} logo?[]
= tell[] : ann bob : they pay
- hook : it pays

DELETE /v1/{id}
"""
        acme = listed(text, tmp_path, monkeypatch)
        for address in ("POST /v1/pay", "POST /v1/{id}/pay"):
            known = [
                ("amount",),
                ("items", "0", "price"),
                ("items", "", "quantity"),
                ("metadata", "x"),
                ("dob", "day"),
                ("logo",),
                ("logo", "3"),
            ]
            acme.check(address, "pay", {key: {"1"} for key in known}, fixed=False)
            for name in [
                ("tip",),
                ("items",),
                ("items", "x", "price"),
                ("amount", "0"),
                ("dob", "year"),
                ("metadata",),
                ("metadata", "x", "y"),
                ("Amount",),
                (),
                ("logo", "x"),
            ]:
                with pytest.raises(SpendDenied, match="knows no such parameter"):
                    acme.check(address, "pay", {name: {"1"}}, fixed=True)
            with pytest.raises(SpendDenied, match="pay with 'hook' has no price, since it pays"):
                acme.check(address, "pay", {("hook",): {"1"}}, fixed=False)
            acme.check(address, "pay", {("hook",): {"1"}}, fixed=True)
            acme.check(address, "pay", {("tell", ""): {"ann", "bob"}}, fixed=False)
            for values in ({"ann", "eve"}, {""}, {"Ann"}):
                with pytest.raises(
                    SpendDenied, match=r"'tell\[\]' other than ann and bob .*, since they pay"
                ):
                    acme.check(address, "pay", {("tell", ""): values}, fixed=False)
                acme.check(address, "pay", {("tell", ""): values}, fixed=True)
        acme.check("DELETE /v1/{id}", "delete", {}, fixed=False)
        assert acme.address_of("POST", "/v1/pay") == "POST /v1/pay"
        assert acme.address_of("POST", "/v1/x/pay") == "POST /v1/{id}/pay"
        assert acme.address_of("DELETE", "/v1/x") == "DELETE /v1/{id}"
        for method, path in (
            ("POST", "/v1/Pay"),
            ("PUT", "/v1/pay"),
            ("POST", "/v1"),
            ("POST", "/v1/a/b/pay"),
        ):
            assert acme.address_of(method, path) is None

    @pytest.mark.parametrize(
        "text",
        [
            "POST /a\n+ b{c",
            "POST /a\n+ b}",
            "POST /a\n+ {b}",
            "POST /a\n+ b[x]",
            "POST /a\n* b",
            "POST /a\n\nPOST /a\n",
            "POST /a\n+ b c]",
        ],
    )
    def test_a_list_that_cannot_be_read_is_an_error(
        self, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with pytest.raises(ValueError, match=r"cannot be read|behind no name|listed twice"):
            _ = listed(text, tmp_path, monkeypatch).marks

    def test_names_in_json(self) -> None:
        said = {"a": [1, 2, {"b": 3}, {"b": None}], "c": {}, "d": [], "e": {"f": [[1]]}, "g": None}
        names = {
            ("a", ""),
            ("a", "", "b"),
            ("a", "", "b", None),
            ("c", None),
            ("d", None),
            ("e", "f", "", ""),
            ("g", None),
        }
        assert values_in(said).keys() == names
        assert values_in(said)["a", ""] == {"1", "2"}
        assert values_in({"a": [True, "x", None]})["a", ""] == {"true", "x", "null"}
        assert values_in({}) == values_in([]) == values_in(None) == {}
        assert takes(tree_of("c{x}"), ("c", None))
        assert not takes(tree_of("c{x}"), ("d", None))

    def test_what_is_too_deep_is_not_known(self) -> None:
        deep: object = 1
        for _ in range(100_000):
            deep = [deep]
        [name] = values_in(deep)
        assert len(name) == DEEPEST + 1


class TestEverythingIsMarked:
    """Of the newest SDKs in range, which are installed here, and of the vendors' own descriptions."""

    def test_at_twilio(self) -> None:
        assert len(twilio_sdk.operations()) > 790
        assert len(twilio_sdk.described()) > 10
        assert twilio_sdk.unmarked() == []

    def test_at_resend(self) -> None:
        assert len(resend_sdk.operations()) > 80
        assert len(marking.described("resend.openapi.json")) > 55
        assert resend_sdk.unmarked() == []

    def test_what_is_new_would_be_said(self) -> None:
        new = {
            "POST /emails": ["to", "copies", "tags[]{weight}"],
            "POST /telegrams": ["to"],
            "PATCH /topics/{id}": [],
        }
        assert marking.unmarked(RESEND_LISTED, new) == [
            "POST /emails\n? copies tags[]{weight}",
            "POST /telegrams\n? to",
        ]

    def test_what_an_sdk_sends_is_read_as_it_is_sent(self) -> None:
        sent = {one.address: one.terms for one in twilio_sdk.operations()}
        assert {"To", "MediaUrl[]", "FallbackFrom"} < set(sent["POST api /2010-04-01/Accounts/{id}/Messages"])
        assert "variables[*]" in sent["POST content /v1/Content"]
        assert any(
            term.startswith("types{twilio/call-to-action{") for term in sent["PUT content /v1/Content/{id}"]
        )
        assert sent["DELETE accounts /v1/SafeList/Numbers"] == ("PhoneNumber",)
        mail = resend_sdk.operations()["POST /emails"]
        assert {"to", "to[]", "from", "headers[*]", "tags[]{name value}"} < set(mail)


def free_at_twilio() -> Iterator[tuple[str, str]]:
    """Yield the operations that cost nothing, with a path of each."""
    for address in LISTED.marks:
        method, product, path = address.split(" ")
        own = path.replace("Accounts/{id}", f"Accounts/{SID}").replace("{id}", "XX" + "1" * 32)
        if kind_of(method, f"{product}.twilio.com", own) in ("free", "message_update", "call_update"):
            yield method, f"https://{product}.twilio.com{own}"


def asked(method: str, url: str, said: str) -> Request:
    if method == "DELETE":
        return Request(method, f"{url}?{said}" if said else url, {})
    return Request(method, url, FORM, said.encode())


def at_twilio(request: Request) -> str:
    """Return why it is denied, "" when it is not."""
    settings = VendorSettings("twilio", own={"account_sid": SID, "call_legs": 1})
    try:
        twilio.VENDOR.quote(request, settings, "secret", {})
    except SpendDenied as denied:
        return f"{denied.reason}: {denied.message}"
    return ""


@each(free_at_twilio())
def test_a_free_operation_admits_what_is_known(method: str, url: str) -> None:
    assert at_twilio(asked(method, url, "Unheard=1")).startswith("unpriced: ")
    if not url.endswith(("Messages/XX" + "1" * 32, "Calls/XX" + "1" * 32)) or method == "DELETE":
        assert at_twilio(asked(method, url, "")) == ""
    hooked = asked(method, url, "")
    hooked = Request(method, url, {**hooked.headers, "x-twilio-webhook-enabled": "true"}, hooked.body)
    assert at_twilio(hooked).startswith("unpriced: ")


@pytest.mark.parametrize("kind", sorted(set(RULED) - {"lookup"}))
def test_what_is_refused_says_why(kind: str) -> None:
    _, product, path = RULED[kind].split(" ")
    url = f"https://{product}.twilio.com{path.replace('{id}', SID, 1).replace('{id}', 'XX' + '1' * 32)}"
    refused = [
        (name, line.why) for line in LISTED.marks[RULED[kind]] if line.mark == "-" for name in line.tree
    ]
    for name, why in [*refused, ("Unheard", "knows no such parameter")]:
        assert why in at_twilio(asked("POST", url, urlencode({name: "1"})))


def test_an_operation_that_is_not_known_has_no_price_either() -> None:
    settings = VendorSettings("twilio", own={"account_sid": SID}, prices={"chat.gadgets.create": 5})
    for method, path in (("POST", "/v2/Gadgets"), ("DELETE", "/v2/Gadgets/GD1")):
        with pytest.raises(SpendDenied, match="is no operation that this version") as denied:
            twilio.VENDOR.quote(asked(method, f"https://chat.twilio.com{path}", ""), settings, "secret", {})
        assert denied.value.reason == "unpriced"


def test_a_fixed_price_is_for_what_is_known() -> None:
    url = f"https://api.twilio.com/2010-04-01/Accounts/{SID}/IncomingPhoneNumbers.json"
    settings = VendorSettings("twilio", own={"account_sid": SID}, prices={"incoming_phone_numbers.create": 5})
    priced = twilio.VENDOR.quote(asked("POST", url, "AreaCode=415"), settings, "secret", {})
    assert (priced.total_micros, priced.fixed) == (5, True)
    with pytest.raises(SpendDenied, match="knows no such parameter"):
        twilio.VENDOR.quote(asked("POST", url, "AreaCode=415&Copies=9"), settings, "secret", {})
    at_resend = VendorSettings("resend", prices={"broadcasts.send": 5})
    for said, known in (({"scheduled_at": "in 1 hour"}, True), ({"to": ["everybody"]}, False)):
        request = Request(
            "POST", "https://api.resend.com/broadcasts/b1/send", JSON, json.dumps(said).encode()
        )
        if known:
            assert resend.VENDOR.quote(request, at_resend, "secret", {}).total_micros == 5
        else:
            with pytest.raises(SpendDenied, match="knows no such parameter"):
                resend.VENDOR.quote(request, at_resend, "secret", {})


def test_whom_a_call_at_a_fixed_price_may_reach_is_known() -> None:
    """Notify takes a list: an earlier attempt's is not sent to those in it again (tests of the ledger)."""
    operation = "notify.services.notifications.create"
    settings = VendorSettings("twilio", own={"account_sid": SID}, prices={operation: 5})
    url = f"https://notify.twilio.com/v1/Services/IS{'1' * 32}/Notifications"
    request = asked("POST", url, "Identity=a&Identity=b&ToBinding=c&Tag=all&Body=Hi")
    assert twilio.VENDOR.quote(request, settings, "secret", {}).targets == ("c", "a", "b")


def test_json_stands_in_a_body_alone() -> None:
    url = "https://content.twilio.com/v1/Content"
    body = json.dumps(
        {"friendly_name": "f", "language": "en", "types": {"twilio/text": {"body": "Hi"}}}
    ).encode()
    assert at_twilio(Request("POST", url, JSON, body)) == ""
    assert at_twilio(Request("POST", f"{url}?a=1", JSON, body)).startswith("unpriced: ")
    assert at_twilio(Request("POST", url, {**JSON, "content-encoding": "gzip"}, body)).startswith(
        "unpriced: "
    )
    assert "types" in at_twilio(Request("POST", url, JSON, body.replace(b"twilio/text", b"twilio/fax")))


@each(RESEND_LISTED.marks)
def test_at_resend_nothing_else_passes(address: str) -> None:
    method, path = address.split(" ")
    settings = VendorSettings("resend", allowed_endpoints=(f"{method} {path.replace('{id}', 'x1')}",))
    said: object = {"unheard": 1}
    if path == "/emails/batch":
        said = [said]
    body = b"" if method == "DELETE" else json.dumps(said).encode()
    url = f"https://api.resend.com{path.replace('{id}', 'x1')}{'?unheard=1' if method == 'DELETE' else ''}"
    with pytest.raises(SpendDenied) as denied:
        resend.VENDOR.quote(Request(method, url, JSON, body), settings, "secret", {})
    assert denied.value.reason == "unpriced"
