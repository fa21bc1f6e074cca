"""Every operation of Twilio's SDK (twilio-python 9.13.0) is of the kind that its table says."""

from __future__ import annotations

import re

import pytest

from luigi_spendguard.vendors import Request
from luigi_spendguard.vendors.twilio import VENDOR
from luigi_spendguard.vendors.twilio.operations import kind_of, operation_of
from tests.support.tables import each
from tests.unit import DATA

LINES = (DATA / "twilio-operations.txt").read_text("utf-8").splitlines()
ID = "XX" + "1" * 32
#: What is taken more strictly than the table has it, or has a rule of its own.
JUDGED = {
    "GET accounts.twilio.com /v1/Credentials/AWS": "credential",
    "GET accounts.twilio.com /v1/Credentials/AWS/{Sid}": "credential",
    "GET accounts.twilio.com /v1/Credentials/PublicKeys": "credential",
    "GET accounts.twilio.com /v1/Credentials/PublicKeys/{Sid}": "credential",
    "POST api.twilio.com /2010-04-01/Accounts/{AccountSid}/Calls/{Sid}.json": "call_update",
    "POST api.twilio.com /2010-04-01/Accounts/{AccountSid}/Messages/{Sid}.json": "message_update",
    "POST verify.twilio.com /v2/Services/{ServiceSid}/Verifications": "verification",
    "POST verify.twilio.com /v2/Services/{ServiceSid}/VerificationCheck": "verification_check",
    "POST verify.twilio.com /v2/Services/{ServiceSid}/Verifications/{Sid}": "unpriced",
    "GET lookups.twilio.com /v1/PhoneNumbers/{PhoneNumber}": "unpriced",
    "POST lookups.twilio.com /v2/batch/query": "unpriced",
}


def parsed(line: str) -> tuple[str, str, str, str]:
    """Return class, method, host and path of a line, with an id in every place for one."""
    expected, method, host, path = line.split(" ", 3)
    return expected, method, host, re.sub(r"\{\w+\}", ID, path)


def is_hook(line: str) -> bool:
    """Return whether a line is one of Conversations' webhooks, which may be made to start a Studio flow."""
    return line.startswith("free POST conversations.twilio.com ") and "/Webhooks" in line


def test_the_list_is_whole() -> None:
    assert sorted(LINES) == LINES
    assert len(set(LINES)) == len(LINES) == 1588
    assert set(JUDGED) < {line.split(" ", 1)[1] for line in LINES}


@each(LINES)
def test_an_operation_is_of_its_kind(line: str) -> None:
    expected, method, host, path = parsed(line)
    expected = JUDGED.get(line.split(" ", 1)[1], "unpriced" if is_hook(line) else expected)
    assert kind_of(method, host, path) == expected


@each(line for line in LINES if not line.startswith(("read ", "free ")))
def test_what_is_restricted_is_so_however_it_is_written(line: str) -> None:
    _, method, host, path = parsed(line)
    bare = path.removesuffix(".json")
    kind = kind_of(method, host, path)
    assert kind not in ("free", "read")
    for one in (bare, bare.lower(), bare.upper(), bare.swapcase()):
        for ending in ("", ".json", ".JSON", ".xml", ".csv", ".json.json", "/", ".json/"):
            assert kind_of(method, host, one + ending) == kind


@each(line for line in LINES if line.startswith(("credential GET ", "lookup GET ", "unpriced GET ")))
def test_a_get_that_is_restricted_is_so_without_its_body(line: str) -> None:
    _, _, host, path = parsed(line)
    assert kind_of("HEAD", host, path) not in ("free", "read")


def test_edges_and_regions_change_nothing() -> None:
    for host in ("api.dublin.ie1.twilio.com", "api.ie1.twilio.com"):
        assert kind_of("POST", host, "/2010-04-01/Accounts/AC1/Messages.json") == "message"
        assert kind_of("GET", host, "/2010-04-01/Accounts/AC1.json") == "credential"


@pytest.mark.parametrize("host", ["twilio.com", "eviltwilio.com", "api.twilio.com.evil.example", ""])
def test_another_host_has_no_operations(host: str) -> None:
    assert kind_of("GET", host, "/2010-04-01/Accounts/AC1/Messages.json") == "unpriced"


@pytest.mark.parametrize("name", ["messages.create", "calls.create"])
def test_the_names_that_money_hangs_on_are_had_once(name: str) -> None:
    named = [line for line in LINES if operation_of(*parsed(line)[1:]) == name]
    assert len(named) == 1


@pytest.mark.parametrize(
    ("method", "host", "path", "name"),
    [
        ("POST", "api.twilio.com", "/2010-04-01/Accounts/AC1/Messages.json", "messages.create"),
        ("POST", "api.dublin.ie1.twilio.com", "/2010-04-01/Accounts/AC1/Messages", "messages.create"),
        ("POST", "api.twilio.com", f"/2010-04-01/Accounts/AC1/Messages/SM{'1' * 32}.json", "messages.update"),
        (
            "POST",
            "api.twilio.com",
            "/2010-04-01/Accounts/AC1/IncomingPhoneNumbers.json",
            "incoming_phone_numbers.create",
        ),
        (
            "POST",
            "verify.twilio.com",
            "/v2/Services/VA1/Verifications",
            "verify.services.verifications.create",
        ),
        ("GET", "lookups.twilio.com", "/v2/PhoneNumbers/+14155550100", "lookups.phone_numbers.fetch"),
    ],
)
def test_operations_have_the_sdks_names(method: str, host: str, path: str, name: str) -> None:
    assert operation_of(method, host, path) == name


def test_each_write_and_each_read_of_a_place_has_its_own_name() -> None:
    for line in LINES:
        _, method, host, path = parsed(line)
        assert re.fullmatch(r"[a-z0-9_]+(\.[a-z0-9_]+)+", operation_of(method, host, path))


@pytest.mark.parametrize(
    ("url", "only_reads"),
    [
        ("https://api.twilio.com/2010-04-01/Accounts/AC1/Messages.json?PageSize=5", True),
        ("https://lookups.twilio.com/v2/PhoneNumbers/%2B14155550100", True),
        ("https://lookups.twilio.com/v2/PhoneNumbers/+14155550100", True),
        ("https://lookups.twilio.com/v2/PhoneNumbers/+14155550100?fields=sim_swap", False),
        ("https://lookups.twilio.com/v2/PhoneNumbers/%2B14155550100?Fields=validation", True),
        ("https://lookups.twilio.com/v2/PhoneNumbers/%2B14155550100?Fields=caller_name", False),
        ("https://lookups.twilio.com/v2/PhoneNumbers/%2B14155550100?fields[]=caller_name", False),
        ("https://lookups.twilio.com/v2/PhoneNumbers/%2B14155550100?a=1;Fields=caller_name", False),
        ("https://lookups.twilio.com/v2/PhoneNumbers;a/%2B14155550100?Fields=caller_name", False),
        ("https://lookups.twilio.com/v2/a/../PhoneNumbers/%2B14155550100?Fields=caller_name", False),
        ("https://lookups.twilio.com/v2//PhoneNumbers/%2B14155550100?Fields=caller_name", False),
        ("https://lookups.twilio.com/v2/Phone%4eumbers/%2B14155550100?Fields=caller_name", False),
        ("https://api.twilio.com/2010-04-01/Accounts/AC1.json", False),
        ("https://api.twilio.com/2010-04-01/Accounts.txt", False),
        ("https://evil.example/v2/PhoneNumbers", False),
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_which_requests_need_no_task(method: str, url: str, only_reads: bool) -> None:
    assert VENDOR.only_reads(Request(method, url, {})) is only_reads
