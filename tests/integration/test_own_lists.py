"""Twilio's and Resend's own lists are read to their ends, whatever happens to them meanwhile."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import pytest
import resend
import urllib3

from luigi_spendguard.http.blocking import BlockingTransport
from luigi_spendguard.reconcile import BooksUnread
from luigi_spendguard.reconcile.reading import TRIES, BooksReader
from luigi_spendguard.reconcile.work_file import Work, WorkFile
from luigi_spendguard.settings import VendorSettings
from luigi_spendguard.vendors import Reply, Request
from luigi_spendguard.vendors.own_books import Entry, PageRequest, Period, Reading
from luigi_spendguard.vendors.registry import VENDORS
from luigi_spendguard.vendors.resend.own_books import ResendBooks
from luigi_spendguard.vendors.twilio.own_books import TwilioBooks
from tests.support.marking import DATA
from tests.support.vendors import FakeResend, FakeTwilio

ACCOUNT = "AC" + "1" * 32
SECRETS = {"twilio": "twilio_canary_5f1b7c9d3e", "resend": "re_canary_5f1b7c9d3e"}
HOUR = 3_600_000
_http = urllib3.PoolManager(timeout=30, retries=False)


@pytest.fixture(scope="module")
def fakes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    made = {"twilio": FakeTwilio, "resend": FakeResend}
    vendors = {name: kind(tmp_path_factory.mktemp(name)) for name, kind in made.items()}
    yield vendors
    for vendor in vendors.values():
        vendor.process.end()


class Desk:
    """Reads one vendor's lists, in pages of `size`."""

    def __init__(self, fake: Any, folder: Path, size: int) -> None:
        fake.forget()
        self.fake, self.name, self.size = fake, fake.name, size
        now = int(time.time() * 1000)
        self.period = Period(now - 24 * HOUR, now + HOUR)
        self.account = f"twilio:{ACCOUNT}" if self.name == "twilio" else "resend"
        own = {"account_sid": ACCOUNT} if self.name == "twilio" else {}
        settings = VendorSettings(self.name, SECRETS[self.name], base_url=fake.url, timeout_s=5.0, own=own)
        self.reading = Reading(self.account, self.period.wider(), settings)
        self.work = WorkFile(folder / "work.db", Work(self.name, self.account, self.period))
        self.waits: list[float] = []
        self.transport = BlockingTransport()

    def send(self, request: Request, deadline: float, timeout_s: float, connect_s: float = 2.0) -> Reply:
        """Ask for smaller pages than the books do."""
        parts = urlsplit(request.url)
        name = "PageSize" if self.name == "twilio" else "limit"
        query = {one: str(self.size) if one == name else value for one, value in parse_qsl(parts.query)}
        url = parts._replace(query=urlencode(query)).geturl()
        return self.transport.send(
            Request(request.method, url, request.headers), deadline, timeout_s, connect_s
        )

    def read(self) -> list[str]:
        """Read all lists; return the ids of what they have."""
        vendor = VENDORS[self.name]
        assert vendor.books is not None
        BooksReader(vendor, vendor.books, self.reading, SECRETS[self.name], self, self.waits.append).read_all(
            self.work
        )
        return sorted(str(row[0]) for row in self.work.db.execute("SELECT id FROM entry"))

    def made(self, count: int) -> list[str]:
        """Let somebody send so many; return their ids."""
        return sorted(self.one(number) for number in range(count))

    def one(self, number: int) -> str:
        if self.name == "resend":
            mail = {"from": "a@example.com", "to": [f"c{number}@example.com"], "subject": "Hello"}
            headers = {"authorization": f"Bearer {SECRETS['resend']}", "content-type": "application/json"}
            reply = _http.request("POST", f"{self.fake.url}/emails", json.dumps(mail), headers=headers)
            return str(json.loads(reply.data)["id"])
        form = {"To": f"+1415555{number:04d}", "From": "+14155550199", "Body": "Hello"}
        user = base64.b64encode(f"{ACCOUNT}:{SECRETS['twilio']}".encode()).decode()
        headers = {"authorization": f"Basic {user}", "content-type": "application/x-www-form-urlencoded"}
        path = f"/api.twilio.com/2010-04-01/Accounts/{ACCOUNT}/Messages.json"
        reply = _http.request("POST", self.fake.url + path, urlencode(form), headers=headers)
        return str(json.loads(reply.data)["sid"])

    def asked(self) -> int:
        """Return how many pages the vendor was asked for."""
        return sum(one["method"] == "GET" for one in self.fake.books()["requests"])


@pytest.fixture(params=["twilio", "resend"])
def desk(request: pytest.FixtureRequest, fakes: dict[str, Any], tmp_path: Path) -> Iterator[Desk]:
    made = Desk(fakes[request.param], tmp_path, 3)
    if made.name == "twilio":
        made.fake.control(options={"send_delay": 0, "price_delay": 0})
    yield made
    made.work.close()


#: The first page of either vendor's list.
LIST = {"twilio": "GET /api.twilio.com/*/Messages.json", "resend": "GET /emails"}


def test_all_pages_are_read(desk: Desk) -> None:
    made = desk.made(7)
    assert desk.read() == made
    assert desk.asked() == (4 if desk.name == "twilio" else 3)


def test_a_list_in_another_order_is_read_to_its_end(desk: Desk) -> None:
    made = desk.made(7)
    desk.fake.control(options={"list": ["other"]})
    assert desk.read() == made


def test_what_a_page_lists_again_is_one(desk: Desk) -> None:
    made = desk.made(7)
    desk.fake.control(options={"list": ["again"]})
    assert desk.read() == made


def test_what_comes_while_it_is_read_pushes_nothing_out(desk: Desk) -> None:
    made = desk.made(7)
    desk.fake.control(options={"arriving": 2})
    assert set(made) <= set(desk.read())


def test_a_rate_limit_is_waited_for_as_long_as_it_says(desk: Desk) -> None:
    made = desk.made(4)
    desk.fake.fault("status", status=429, headers={"Retry-After": "7"}, match=LIST[desk.name], times=2)
    assert desk.read() == made
    assert desk.waits.count(7.0) == 2


@pytest.mark.parametrize("fault", ["truncate", "not_json", "drop_before", "status"])
def test_a_list_that_breaks_off_is_gone_on_with_where_it_did(desk: Desk, fault: str) -> None:
    made = desk.made(7)
    desk.fake.fault("none", match=LIST[desk.name])
    desk.fake.fault(fault, status=500 if fault == "status" else 200, match=LIST[desk.name], times=TRIES + 1)
    with pytest.raises(BooksUnread):
        desk.read()
    assert sum(pages for pages, _ in desk.work.counts().values()) == 1
    asked = desk.asked()
    found: list[str] = []
    while not found:
        with suppress(BooksUnread):
            found = desk.read()
    assert found == made
    failed = TRIES + 2 - asked
    assert desk.asked() - asked == failed + (3 if desk.name == "twilio" else 2), (
        "the first page is not read again"
    )


def test_a_cut_off_list_is_no_end(desk: Desk) -> None:
    desk.made(7)
    cut = {"next_page_uri": "/2010-04-01/Accounts.json?Page=1&PageToken=PA1"}
    if desk.name == "resend":
        cut = {"data": []}
    desk.fake.fault("change", change=cut, match=LIST[desk.name])
    with pytest.raises(BooksUnread, match=r"another list|nothing and says that there is more"):
        desk.read()


# Twilio.

TWILIO, RESEND = TwilioBooks(), ResendBooks()
OWN = VendorSettings("twilio", own={"account_sid": ACCOUNT, "failed_price": 1_000})
READING = Reading(f"twilio:{ACCOUNT}", Period(0, 2**45), OWN)


def page_of(listed: str, *lines: Any, after: Any = None) -> Reply:
    return Reply(200, {}, json.dumps({listed: lines, "next_page_uri": after}).encode())


def message(**more: Any) -> dict[str, Any]:
    return {
        "sid": "SM" + "a" * 32,
        "account_sid": ACCOUNT,
        "status": "delivered",
        "direction": "outbound-api",
        "date_created": "Fri, 24 May 2019 17:44:46 +0000",
        "to": "+14155550100",
        "from": "+14155550199",
        "body": "Hello",
        "price": "-0.00750",
        "price_unit": "USD",
        **more,
    }


def read_one(listed: str = "messages", **more: Any) -> Entry:
    [entry] = TWILIO.read(PageRequest(listed, ""), page_of(listed, message(**more)), READING).entries
    return entry


def test_twilio_is_asked_by_date_and_for_the_whole_last_day() -> None:
    since = int(datetime(2026, 11, 29, 23, 59, 59, tzinfo=timezone.utc).timestamp() * 1000) + 999
    until = int(datetime(2026, 11, 30, 12, tzinfo=timezone.utc).timestamp() * 1000)
    reading = Reading(f"twilio:{ACCOUNT}", Period(since, until), OWN)
    first = TWILIO.first("messages", reading)
    assert first.path == f"/api.twilio.com/2010-04-01/Accounts/{ACCOUNT}/Messages.json"
    assert dict(first.query) == {
        "DateSent>": "2026-11-29T23:59:59Z",
        "DateSent<": "2026-12-01",
        "PageSize": "300",
    }
    assert dict(TWILIO.first("calls", reading).query)["StartTime>"] == "2026-11-29T23:59:59Z"
    assert TWILIO.paths.fullmatch(first.path)


@pytest.mark.parametrize(
    ("said", "micros", "final", "whole"),
    [
        ({}, 7_500, True, False),
        ({"price": None}, None, False, False),
        ({"status": "failed", "price": None}, 1_000, True, True),
        ({"status": "undelivered"}, 7_500, True, False),
        ({"status": "canceled", "price": None}, 0, True, False),
        ({"price_unit": "EUR"}, None, False, False),
        ({"to": "whatsapp:+14155550100"}, 7_500, True, False),
    ],
)
def test_a_line_of_twilios_says_what_it_costs_as_a_late_price_does(
    said: dict[str, Any], micros: int | None, *, final: bool, whole: bool
) -> None:
    entry = read_one(**said)
    assert (entry.micros, entry.final, entry.whole) == (micros, final, whole)
    assert entry.estimated is ("whatsapp" in str(said))
    assert (entry.objects, entry.at_ms) == (("SM" + "a" * 32,), 1_558_719_886_000)
    assert entry.currency == ("" if said.get("price", "") is None else said.get("price_unit", "USD").lower())


def test_a_message_is_of_when_it_was_sent_and_of_when_it_was_made_before_that() -> None:
    sent = read_one(date_sent="Fri, 24 May 2019 17:44:50 +0000")
    assert (sent.at_ms, sent.ordered_ms) == (1_558_719_890_000, 1_558_719_886_000)
    call = read_one("calls", sid="CA" + "a" * 32, start_time="Fri, 24 May 2019 17:44:51 +0000")
    assert call.at_ms == 1_558_719_891_000
    assert read_one(date_sent=None).at_ms == 1_558_719_886_000
    with pytest.raises((ValueError, TypeError)):
        read_one(date_sent="tomorrow")


def test_twilios_own_examples_are_read() -> None:
    paths = json.loads((DATA / "twilio-trimmed.openapi.json").read_text("utf-8"))["paths"]
    seen = 0
    for listed, name in (("messages", "Messages"), ("calls", "Calls")):
        got = paths[f"/2010-04-01/Accounts/{{AccountSid}}/{name}.json"]["get"]["responses"]["200"]
        for example in got["content"]["application/json"]["examples"].values():
            account = f"twilio:AC{'a' * 32}"
            first = TWILIO.first(listed, Reading(account, Period(0, 2**40), OWN))
            body = json.dumps(example["value"]).encode()
            page = TWILIO.read(first, Reply(200, {}, body), Reading(account, Period(0, 2**40), OWN))
            seen += len(page.entries)
            if page.next is not None:
                assert dict(page.next.query) == dict(first.query) | dict(
                    one for one in page.next.query if one[0] in ("Page", "PageToken")
                )
    assert seen


@pytest.mark.parametrize(
    "said",
    [
        {"sid": None},
        {"sid": "SM" + "a" * 400},
        {"status": None},
        {"date_created": "yesterday"},
        {"account_sid": "AC" + "2" * 32},
    ],
    ids=str,
)
def test_what_is_no_line_of_twilios_is_not_taken_for_one(said: dict[str, Any]) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        read_one(**said)


@pytest.mark.parametrize(
    "link",
    [
        "https://evil.example/2010-04-01/Accounts/AC/Messages.json?PageToken=PA1",
        f"/2010-04-01/Accounts/{ACCOUNT}/Calls.json?PageToken=PA1",
        f"/2010-04-01/Accounts/{ACCOUNT}/Messages.json?Page=1",
        7,
    ],
)
def test_no_link_of_twilios_leads_elsewhere(link: Any) -> None:
    first = TWILIO.first("messages", READING)
    with pytest.raises((ValueError, TypeError)):
        TWILIO.read(first, page_of("messages", message(), after=link), READING)


def test_what_nobody_has_ordered_is_of_another_kind() -> None:
    kinds = [read_one(direction=said).kind for said in ("outbound-api", "inbound", "outbound-reply")]
    assert kinds == ["message", "message that came in", "message by TwiML"]
    leg = read_one("calls", sid="CA" + "b" * 32, direction="outbound-dial", parent_call_sid="CA" + "a" * 32)
    assert (leg.kind, leg.objects) == ("call dialled by TwiML", ("CA" + "a" * 32, "CA" + "b" * 32))


@pytest.mark.parametrize(
    ("form", "matches"),
    [
        ({}, True),
        ({"Body": " Hello\n"}, True),
        ({"Body": "Hallo"}, False),
        ({"To": "+14155550101"}, False),
        ({"From": "+14155550198"}, False),
        ({"MediaUrl": "https://example.com/a.png"}, False),
        ({"MessagingServiceSid": "MG" + "1" * 32}, False),
    ],
    ids=str,
)
def test_a_message_is_known_by_what_its_request_says(form: dict[str, str], *, matches: bool) -> None:
    body = urlencode({"To": "+14155550100", "From": "+14155550199", "Body": "Hello", **form})
    marks = TWILIO.marks_of("messages.create", body)
    assert (bool(marks) and set(marks) <= set(read_one().marks)) is matches
    assert read_one(direction="inbound").marks == ()
    assert TWILIO.marks_of("calls.create", body) == TWILIO.marks_of("messages.create", "%%%") == ()


def test_of_what_a_call_has_opened_twilio_is_asked_by_its_sid() -> None:
    asked = TWILIO.named("CA" + "a" * 32, READING)
    assert asked is not None
    assert TWILIO.paths.fullmatch(asked.path)
    assert asked.path.endswith(f"/Calls/CA{'a' * 32}.json")
    assert TWILIO.named("../Accounts", READING) is None
    [entry] = TWILIO.read(asked, Reply(200, {}, json.dumps(message()).encode()), READING).entries
    assert entry.micros == 7_500


# Resend.

MAILS = Reading("resend", Period(1_680_000_000_000, 2**45), VendorSettings("resend"))


def mail(**more: Any) -> dict[str, Any]:
    return {
        "id": "4ef9a417-02e9-4d39-ad75-9611e0fcc33c",
        "to": ["delivered@resend.dev"],
        "from": "Acme <onboarding@resend.dev>",
        "created_at": "2023-04-03T22:13:42.674981+00:00",
        "subject": "Hello World",
        "bcc": None,
        "cc": None,
        "reply_to": None,
        "last_event": "delivered",
        "scheduled_at": None,
        **more,
    }


def read_mails(*mails: dict[str, Any], more: Any = False) -> Any:
    body = json.dumps({"object": "list", "has_more": more, "data": mails}).encode()
    return RESEND.read(RESEND.first("emails", MAILS), Reply(200, {}, body), MAILS)


@pytest.mark.parametrize(
    ("said", "micros", "final"),
    [
        ({}, 900, True),
        ({"cc": ["a@example.com"], "bcc": ["b@example.com", "c@example.com"]}, 3_600, True),
        ({"last_event": "canceled"}, 0, True),
        ({"last_event": "scheduled"}, 900, False),
        ({"last_event": "bounced", "to": "one@example.com"}, 900, True),
    ],
)
def test_a_mail_costs_the_operators_price_for_each_recipient(
    said: dict[str, Any], micros: int, *, final: bool
) -> None:
    [entry] = read_mails(mail(**said)).entries
    assert (entry.micros, entry.final, entry.state) == (micros, final, said.get("last_event", "delivered"))


@pytest.mark.parametrize(
    "text",
    [
        "2023-04-03T22:13:42.674981+00:00",
        "2023-04-03 22:13:42.674981+00",
        "2023-04-03T22:13:42.674Z",
        "2023-04-04 00:13:42.674+02",
        "2023-04-03 18:43:42.674-0330",
    ],
)
def test_each_way_in_which_resend_writes_a_time_is_read(text: str) -> None:
    assert read_mails(mail(created_at=text)).entries[0].at_ms == 1_680_560_022_674


@pytest.mark.parametrize(
    "said",
    [{"id": None}, {"id": "a/b"}, {"created_at": "now"}, {"to": None}, {"to": [7]}, {"created_at": None}],
    ids=str,
)
def test_what_is_no_mail_is_not_taken_for_one(said: dict[str, Any]) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        read_mails(mail(**said))


@pytest.mark.parametrize("more", [None, "yes", 1])
def test_a_list_that_does_not_say_whether_there_is_more_is_no_list(more: Any) -> None:
    with pytest.raises(TypeError):
        read_mails(mail(), more=more)


def test_resends_list_is_read_until_it_is_older_than_the_period() -> None:
    old, older, new = (mail(created_at=f"20{year}-01-01T00:00:00Z") for year in (22, 21, 24))
    assert read_mails(new, old, more=True).next is None
    for mails in ([old, new], [old], [old, old], [old, new, older]):  # In no order, or in none that is seen.
        assert read_mails(*mails, more=True).next is not None


def test_a_mail_is_known_by_whom_it_goes_to_and_what_it_is_about() -> None:
    def marks(**more: Any) -> tuple[str, ...]:
        body = {"from": "onboarding@resend.dev", "to": "Delivered@resend.dev", "subject": "Hello World"}
        return RESEND.marks_of("emails.send", json.dumps(body | more))

    [entry] = read_mails(mail()).entries
    assert marks() == entry.marks
    for other in ({"subject": "Bye"}, {"cc": "a@example.com"}, {"from": "b@resend.dev"}, {"subject": None}):
        assert marks(**other) != entry.marks
    assert marks(template={"id": "t"}) == RESEND.marks_of("emails.send", "{") == ()
    two = [{"from": "a@example.com", "to": f"{name}@example.com", "subject": "Hello"} for name in "ab"]
    assert len(set(RESEND.marks_of("batch.send", json.dumps(two)))) == 2


def test_the_sdk_reads_the_same_list(fakes: dict[str, Any], tmp_path: Path, monkeypatch: Any) -> None:
    """What the look-alike answers is of the SDK's shape."""
    desk = Desk(fakes["resend"], tmp_path, 2)
    made = desk.made(3)
    monkeypatch.setattr(resend, "api_url", desk.fake.url)
    monkeypatch.setattr(resend, "api_key", SECRETS["resend"])
    page = resend.Emails.list({"limit": 2})
    rest = resend.Emails.list({"limit": 2, "after": page["data"][-1]["id"]})
    assert (page["has_more"], rest["has_more"]) == (True, False)
    assert sorted(one["id"] for one in [*page["data"], *rest["data"]]) == made == desk.read()
    desk.work.close()
