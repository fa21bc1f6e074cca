"""Messages between guard and ledger: what is said is what is heard, and nothing else is accepted."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luigi_spendguard.errors import DENIAL_STATUS
from luigi_spendguard.money import MAX_MICROS
from luigi_spendguard.protocol import (
    ENDS,
    MAX_BODY,
    EndRequest,
    ReserveReply,
    ReserveRequest,
    command,
)
from luigi_spendguard.protocol.messages import MAX_TEXT, BadMessage, Message
from luigi_spendguard.protocol.rpcs import (
    OUTCOMES,
    AttemptReply,
    AttemptRequest,
    BlockedReply,
    BlockedRequest,
    BlockedTasks,
    ClaimReply,
    ClaimRequest,
    CloseRunRequest,
    CorrectRequest,
    DuePrice,
    DuePricesReply,
    EndedCall,
    FinishRequest,
    OpenRunReply,
    OpenRunRequest,
)

texts = st.text(max_size=60)
some = st.none() | texts
ids = st.text(min_size=1, max_size=40)
micros = st.integers(0, MAX_MICROS)
names = st.lists(texts, max_size=3).map(tuple)
headers = st.dictionaries(texts, texts, max_size=3)
parts = st.dictionaries(ids, micros.map(str).filter(lambda text: len(text) < 16), max_size=3)

asks = st.builds(
    ReserveRequest,
    call_id=ids,
    vendor=texts,
    account=texts,
    operation=texts,
    method=texts,
    path=texts,
    ask=st.integers(1, 9),
    target=some,
    key=some,
    key_is_callers=st.booleans(),
    unsure=st.booleans(),
    read=st.booleans(),
    total_micros=st.none() | micros,
    object_id=some,
    body=texts,
    headers=headers,
    acts_on=names,
    unanswered=names,
    denied=st.none() | st.sampled_from(sorted(DENIAL_STATUS)),
)
answers = st.builds(
    ReserveReply,
    verdict=texts,
    call_id=ids,
    resend=st.booleans(),
    headers=headers,
    status=st.integers(0, 599),
    facts=headers,
)
ends = st.builds(
    EndRequest,
    kind=st.sampled_from(ENDS),
    call_id=ids,
    definite=st.booleans(),
    total_micros=st.none() | micros,
    only_less=st.booleans(),
    covers=names,
    worth_micros=micros,
    object_id=some,
    answer_headers=headers,
    answer_body=texts,
    opened=parts,
)
several = st.lists(ends, max_size=3).map(tuple)
attempts = st.builds(AttemptRequest, ends=several, ask=asks)
finishes = st.builds(FinishRequest, claim_id=ids, outcome=st.sampled_from(OUTCOMES), ends=several)
replies = st.builds(
    AttemptReply,
    ends=st.lists(st.builds(EndedCall, call_id=texts, state=texts, refused=texts), max_size=3).map(tuple),
    answer=st.none() | answers,
)
LEAST: dict[str, Any] = {
    "call_id": "c",
    "vendor": "v",
    "account": "a",
    "operation": "o",
    "method": "POST",
    "path": "/",
}


@given(asks | answers | ends | attempts | finishes | replies)
def test_a_message_survives_json(message: Any) -> None:
    assert type(message).from_json(json.loads(json.dumps(message.to_json()))) == message


def test_an_attempt_says_something() -> None:
    with pytest.raises(BadMessage, match="one of 'ends' and 'ask' must be given"):
        AttemptRequest.from_json({"ends": []})
    with pytest.raises(BadMessage, match="'kind' must be one of settle, void, doubt"):
        AttemptRequest.from_json({"ends": [{"kind": "give", "call_id": "c"}]})


def test_names_are_one_text_in_json_as_every_version_has_them() -> None:
    ask = ReserveRequest(**LEAST, acts_on=("in_1", "il_1"), covers=("ii_1 ii_2", ""))
    said = ask.to_json()
    assert (said["acts_on"], said["covers"]) == ("in_1 il_1", "ii_1 ii_2")
    heard = ReserveRequest.from_json(said)
    assert (heard.acts_on, heard.covers) == (("in_1", "il_1"), ("ii_1", "ii_2"))


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("amount", 1, "unknown field 'amount'"),
        ("call_id", 7, "'call_id' must be of type str"),
        ("call_id", None, "'call_id' must be of type str"),
        ("ask", "1", "'ask' must be of type int"),
        ("ask", True, "'ask' must be of type int"),
        ("ask", 1.0, "'ask' must be of type int"),
        ("ask", 0, "'ask' must be from 1 to"),
        ("timeout_ms", 10**15, "'timeout_ms' must be from 1 to 600000"),
        ("timeout_ms", 0, "'timeout_ms' must be from 1 to 600000"),
        ("call_id", "", "'call_id' must not be empty"),
        ("denied", "whim", "'denied' must be one of cap, "),
        ("read", 1, "'read' must be of type bool"),
        ("total_micros", -1, "'total_micros' must not be negative"),
        ("total_micros", MAX_MICROS + 1, "'total_micros' is out of range"),
        ("total_micros", float("nan"), "'total_micros' must be of type int"),
        ("target", "x" * (MAX_TEXT + 1), "'target' is too long"),
        ("acts_on", "x " * MAX_TEXT, "'acts_on' is too long"),
        ("acts_on", ["in_1"], "'acts_on' must be of type str"),
        ("body", "x" * (MAX_BODY + 1), "'body' is too long"),
        ("headers", {"a": 1}, "'headers' must map texts to texts"),
        ("headers", ["a"], "'headers' must be of type dict"),
    ],
)
def test_a_field_that_cannot_be_is_refused_by_name(field: str, value: Any, says: str) -> None:
    with pytest.raises(BadMessage, match=says):
        ReserveRequest.from_json({**LEAST, field: value})


@pytest.mark.parametrize("missing", sorted(LEAST))
def test_a_required_field_that_is_missing_is_refused(missing: str) -> None:
    with pytest.raises(BadMessage, match="a required field is missing"):
        ReserveRequest.from_json({name: value for name, value in LEAST.items() if name != missing})


@pytest.mark.parametrize("data", [None, [], "text", 1])
def test_what_is_no_object_is_refused(data: Any) -> None:
    with pytest.raises(BadMessage, match="expected a JSON object"):
        EndRequest.from_json(data)


def test_an_unknown_amount_is_not_zero() -> None:
    assert ReserveRequest.from_json({**LEAST, "total_micros": None}).total_micros is None
    assert ReserveRequest.from_json(LEAST).total_micros == 0


def test_a_suggested_command_can_be_pasted_whatever_an_id_holds() -> None:
    assert command("top-up", "nightly-42", "USD") == "`spendguard top-up nightly-42 USD`"
    assert command("run", "a b; rm -rf $HOME'") == """`spendguard run 'a b; rm -rf $HOME'"'"''`"""


@pytest.mark.parametrize("micros", ["-1", "1.5", "", "x", "\u0661", "9" * 16])
def test_what_an_object_counts_for_is_a_number(micros: str) -> None:
    with pytest.raises(BadMessage, match="'opened' must name micro-dollars"):
        EndRequest.from_json({"kind": "settle", "call_id": "c", "opened": {"m": micros}})


CLAIM = {"claim_id": "c", "task_id": "T_1", "family": "T", "worker": "w"}
RUN = OpenRunReply(
    "r~2",
    "R",
    "R_1",
    "",
    "active",
    "5.00",
    "0.00",
    "0.00",
    "0.00",
    "5.00",
    None,
    "0.00",
    0,
    None,
    "5.00",
    "",
    7,
    None,
)


@pytest.mark.parametrize(
    "message",
    [
        OpenRunRequest("r", False, "R", "R_1", "12.50"),
        ClaimRequest("c", "T_1", "T", "w", None, {"a": "b"}, "5"),
        CloseRunRequest("r"),
        BlockedRequest("w", 4, ("T_1", "T_2")),
        CorrectRequest("c", True, None, "late", False, "no rate"),
        RUN,
        ClaimReply("r", "vault_key_x", "c", ("stripe",)),
        BlockedReply(1, 0, 2, (BlockedTasks("r", "cap", "no room", "top up", 1, ("T_1",)),), False, 0, ()),
        DuePricesReply((DuePrice("c", "twilio", "twilio:test", "SM1"),)),
    ],
    ids=lambda message: type(message).__name__,
)
def test_a_workers_message_survives_json(message: Message) -> None:
    assert type(message).from_json(json.loads(json.dumps(message.to_json()))) == message


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("vault_key", "x", "unknown field 'vault_key': this route takes claim_id, task_id, family, worker, "),
        ("claim_id", None, "'claim_id' must be a text of 1 to 64 characters"),
        ("claim_id", "c" * 65, "'claim_id' must be a text of 1 to 64 characters"),
        ("task_id", "", "'task_id' must be a text of 1 to 1000 characters"),
        ("params", {"a": 1}, "'params' must map texts to texts"),
        ("max_cost_usd", 5, "'max_cost_usd' must be a text of 1 to 1000 characters"),
    ],
)
def test_a_workers_field_that_cannot_be_is_refused_by_name(field: str, value: Any, says: str) -> None:
    with pytest.raises(BadMessage, match=says):
        ClaimRequest.from_json({**CLAIM, field: value})


@pytest.mark.parametrize("name", sorted(CLAIM))
def test_a_workers_field_that_is_missing_is_named(name: str) -> None:
    with pytest.raises(BadMessage, match=f"'{name}' must be a text of 1 to "):
        ClaimRequest.from_json({field: value for field, value in CLAIM.items() if field != name})


def test_what_is_null_is_as_what_is_not_said() -> None:
    nulls = {"run_id": None, "params": None, "max_cost_usd": None}
    assert ClaimRequest.from_json({**CLAIM, **nulls}) == ClaimRequest.from_json(CLAIM)


@pytest.mark.parametrize("name", [".", "..", " . ", "  ", "", 5, None])
def test_a_name_that_is_no_runs_is_refused(name: Any) -> None:
    with pytest.raises(BadMessage, match="'name' must"):
        OpenRunRequest.from_json({**OpenRunRequest("r", False, "R", "R_1").to_json(), "name": name})


def test_a_reply_of_another_version_is_understood() -> None:
    assert OpenRunReply.from_json({**RUN.to_json(), "later": 1}) == RUN
    assert ClaimReply.from_json({"run_id": "r", "vault_key": "k"}).gateway == ()
    with pytest.raises(BadMessage, match="unknown field 'later'"):
        ReserveReply.from_json({"verdict": "allowed", "later": 1})


def test_a_reply_says_also_what_is_not_there() -> None:
    """An older worker looks for it."""
    assert RUN.to_json()["forecast_usd"] is None
    assert ClaimReply("r", "k").to_json() == {
        "run_id": "r",
        "vault_key": "k",
        "claim_id": "",
        "gateway": [],
        "together": False,
    }


def test_no_key_shows_itself() -> None:
    assert "vault_key_x" not in repr(ClaimReply("r", "vault_key_x"))
