"""The example of docs/adding-a-vendor.md: what it prices, and what it denies."""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import replace
from decimal import Decimal
from types import ModuleType
from typing import Any

import pytest

from luigi_spendguard import SpendDenied
from luigi_spendguard.vendors import Reply, Request, VendorSettings
from tests.support.llm import PACKAGE

TEXT = [{"role": "user", "content": "hello"}]
ASKED = {"model": "m", "messages": TEXT, "max_completion_tokens": 100}
URL = "https://api.openai.com/v1/chat/completions"


@pytest.fixture(scope="module")
def module() -> ModuleType:
    name = "spendguard_llm_of_the_docs"
    spec = importlib.util.spec_from_file_location(name, PACKAGE / "spendguard_llm.py")
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    sys.modules[name] = found  # Its dataclasses look themselves up.
    spec.loader.exec_module(found)
    return found


def quoted(module: ModuleType, asked: Any, **more: Any) -> Any:
    own = {"prices_per_million": {"m": module.Price(Decimal("0.15"), Decimal("0.60"))}}
    body = asked if isinstance(asked, bytes) else json.dumps(asked).encode()
    headers = more.pop("headers", {"content-type": "application/json"})
    request = Request(more.pop("method", "POST"), more.pop("url", URL), headers, body)
    return module.Llm().quote(request, VendorSettings("llm", own=own, **more), "sk-x", {})


def test_the_most_that_it_can_cost_is_quoted(module: ModuleType) -> None:
    """$0.15 and $0.60 for a million tokens are 0.15 and 0.6 micro-dollars for one, rounded up at the end."""
    size = len(json.dumps(ASKED).encode())
    assert quoted(module, ASKED).total_micros == -(-(size * 15 + 100 * 60) // 100)
    assert quoted(module, {**ASKED, "max_tokens": 900, "n": 3}).total_micros > 900 * 3 * 0.6


def test_the_body_says_which_call_it_is(module: ModuleType) -> None:
    one, other = quoted(module, ASKED), quoted(module, {**ASKED, "messages": [*TEXT, *TEXT]})
    assert one.target != other.target
    assert one == quoted(module, dict(reversed(ASKED.items())))
    assert (one.repeatable, one.keep_body) == (False, False)


@pytest.mark.parametrize(
    "asked",
    [
        {},
        [],
        {**ASKED, "model": "other"},
        {**ASKED, "model": ["m"]},
        {"model": "m", "messages": TEXT},
        {**ASKED, "max_completion_tokens": 0},
        {**ASKED, "max_completion_tokens": True},
        {**ASKED, "max_completion_tokens": "100"},
        {**ASKED, "max_tokens": 1e3},
        {**ASKED, "n": -1},
        {**ASKED, "n": 10**12},
        {**ASKED, "service_tier": "priority"},
        {**ASKED, "web_search_options": {}},
        {**ASKED, "messages": "hello"},
        {**ASKED, "messages": [{"content": [{"type": "image_url", "image_url": {"url": "https://x/y"}}]}]},
        {**ASKED, "messages": [{"content": {"type": "text"}}]},
        {**ASKED, "messages": [{"role": "assistant", "audio": {"id": "a"}}]},
        {**ASKED, "tools": [{"type": "web_search"}]},
        {**ASKED, "tools": 7},
        {**ASKED, "stream": True},
        {**ASKED, "stream": 1, "stream_options": {"include_usage": False}},
        b'{"model": "m", "max_tokens": 1, "max_tokens": 100000, "messages": []}',
        b"not json",
        b"",
    ],
)
def test_what_cannot_be_priced_is_denied(module: ModuleType, asked: Any) -> None:
    with pytest.raises(SpendDenied) as denied:
        quoted(module, asked)
    assert denied.value.reason == "unpriced"


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"url": "https://api.openai.com/v1/embeddings"}, "unpriced"),
        ({"url": URL + "?x=y"}, "unpriced"),
        ({"url": "https://api.openai.com/v1/../v1/chat/completions"}, "endpoint"),
        ({"url": "https://api.openai.com.example.com/v1/chat/completions"}, "endpoint"),
        ({"url": "http://api.openai.com/v1/chat/completions"}, "endpoint"),
        ({"method": "DELETE"}, "unpriced"),
        ({"method": "GET"}, "unpriced"),  # With a body.
        ({"headers": {"content-type": "text/plain"}}, "unpriced"),
        ({"headers": {"content-type": "application/json", "content-encoding": "gzip"}}, "unpriced"),
        ({"allowed_endpoints": ("GET /v1/models",)}, "endpoint"),
    ],
)
def test_another_request_is_denied(module: ModuleType, more: dict[str, Any], reason: str) -> None:
    with pytest.raises(SpendDenied) as denied:
        quoted(module, ASKED, **more)
    assert denied.value.reason == reason


def test_what_reads_is_free_but_not_what_shows_keys(module: ModuleType) -> None:
    models = "https://api.openai.com/v1/models"
    assert quoted(module, b"", method="GET", url=models).read
    keys = "https://api.openai.com/v1/organization/admin_api_keys"
    with pytest.raises(SpendDenied, match="hands out credentials"):
        quoted(module, b"", method="GET", url=keys)


def test_it_is_settled_by_usage_whatever_the_stream_says_besides(module: ModuleType) -> None:
    quote = quoted(module, ASKED)

    def outcome(status: int, body: str, kind: str = "application/json") -> Any:
        reply = Reply(status, {"content-type": kind}, body.encode())
        return module.Llm().outcome(quote, reply, resent=False, fx={})

    usage = '{"usage": {"prompt_tokens": 100, "completion_tokens": 10}}'
    assert outcome(200, usage).total_micros == 15 + 6
    said = '{"usage": null}', usage.replace("{", '{"choices": ["one\u2028two"], ', 1), "[DONE]"
    stream = "".join(f"data: {event}\n\n" for event in said)
    # Python takes a character of this event for the end of a line.
    assert outcome(200, stream, "text/event-stream; charset=utf-8").total_micros == 21
    for odd in (
        '{"usage": {}}',
        '{"usage": {"prompt_tokens": true, "completion_tokens": -1}}',
        '{"id": "x"}',
    ):
        assert outcome(200, odd).total_micros == quote.total_micros
    assert outcome(200, "<html>").kind == "doubt"
    for broken in (
        stream.replace("data: [DONE]\n\n", ""),
        stream[:-40],
        stream.replace("[DONE]", "[DONE"),
        usage,
        "",
        stream.replace('{"usage": null}', '{"error": {"message": "x"}}'),
        "data: [DONE]\n\n" + stream + "data: {}",
        "event: error\ndata: {}\n\n" + stream,
        stream.replace('{"usage": null}', '{"usage": nul'),
    ):
        said = outcome(200, broken, "text/event-stream")
        assert (said.kind, bool(said.error)) == ("doubt", True), broken
    assert outcome(200, '{"error": {"message": "x"}}').kind == "doubt"
    assert outcome(200, stream.replace("\n", "\r\n"), "text/event-stream").total_micros == 21
    assert outcome(200, f"data: {usage}\n\n{stream}", "text/event-stream").total_micros == 21
    told = '{"choices": [{"message": {"role": "assistant", "content": "x"}}], "usage": {"prompt_tokens": %d, '
    for used in ((0, 1), (1, 0), (0, 0)):
        zero = told % used[0] + f'"completion_tokens": {used[1]}}}}}'
        assert outcome(200, zero).total_micros == quote.total_micros
    silent = zero.replace('"x"', '""').replace('"prompt_tokens": 0', '"prompt_tokens": 100')
    assert outcome(200, silent).total_micros == 15
    assert [outcome(status, "{}").kind for status in (400, 401, 429, 409, 500, 503)] == [
        "void",
        "void",
        "void",
        "doubt",
        "doubt",
        "doubt",
    ]


def test_an_error_that_is_not_billed_needs_no_operator(module: ModuleType) -> None:
    own = '{"error": {"message": "overloaded"}}'
    for bills, status, body, kind in (
        (True, 500, own, "doubt"),
        (False, 500, own, "void"),
        (False, 503, own, "void"),
        (False, 502, "<html>a proxy's</html>", "doubt"),
        (False, 504, "{}", "doubt"),
        (False, 409, own, "doubt"),
    ):
        quote = replace(quoted(module, ASKED), bills_errors=bills)
        reply = Reply(status, {"content-type": "application/json"}, body.encode())
        assert module.Llm().outcome(quote, reply, resent=False, fx={}).kind == kind
