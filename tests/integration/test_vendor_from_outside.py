"""A vendor of somebody else's: one installed package and one section of luigi.cfg, and all of it works."""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support import llm as support
from tests.support.llm import SECRET, FakeLlm, LlmSite
from tests.support.site import Site

PIPELINE = "tests.support.llm_pipeline"


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return support.install(tmp_path_factory.mktemp("llm"))


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeLlm]:
    started = FakeLlm(tmp_path_factory.mktemp("fake-llm"))
    yield started
    started.process.end()


def made(kind: str, folder: Path, packages: Path, llm: FakeLlm, shared: Site) -> LlmSite:
    return LlmSite(folder, packages, llm, shared.stripe, gateway=kind == "gateway")


@pytest.fixture(scope="module", params=["worker", "gateway"])
def everywhere(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    packages: Path,
    llm: FakeLlm,
    shared_site: Site,
) -> Iterator[LlmSite]:
    with made(request.param, tmp_path_factory.mktemp("site"), packages, llm, shared_site) as site:
        yield site


@pytest.fixture
def site(everywhere: LlmSite, llm: FakeLlm) -> LlmSite:
    llm.forget()
    return everywhere


@pytest.fixture(scope="module")
def served(
    tmp_path_factory: pytest.TempPathFactory, packages: Path, llm: FakeLlm, shared_site: Site
) -> Iterator[LlmSite]:
    with made("gateway", tmp_path_factory.mktemp("served"), packages, llm, shared_site) as site:
        yield site


@pytest.fixture
def gateway(served: LlmSite, llm: FakeLlm) -> LlmSite:
    llm.forget()
    return served


def spent(site: Site, run_id: str) -> Decimal:
    """Return micro-dollars."""
    found = site.run(run_id)
    assert Decimal(found["reserved_usd"]) == 0
    return Decimal(found["spent_usd"]) * 10**6


# A guarded worker.


@pytest.mark.parametrize("stream", [(), ("--stream",)])
def test_a_pipeline_pays_by_the_token(site: LlmSite, llm: FakeLlm, stream: tuple[str, ...]) -> None:
    run_id = f"tokens{len(stream)}"
    texts = "one,two words,and three words"
    code, out = site.luigi("Summaries", "--texts", texts, "--run-id", run_id, *stream, module=PIPELINE)
    assert code == 0, out
    books = llm.books()
    assert (books["input"], books["output"], books["micros"]) == (1 + 2 + 3, 21, 6 * 2 + 21 * 8)
    assert spent(site, run_id) == books["micros"]
    assert {request["authorization"] for request in books["requests"]} == {f"Bearer {SECRET}"}
    assert SECRET not in out
    assert [call["operation"] for call in site.calls(run_id)] == ["chat.completions.create"] * 3


def test_a_task_that_died_after_it_had_paid_gets_the_first_answer(site: LlmSite, llm: FakeLlm) -> None:
    out_dir = site.folder / "out"
    (out_dir / "die").touch()
    site.luigi("Summaries", "--texts", "dies", "--run-id", "died", module=PIPELINE)
    (out_dir / "die").unlink()
    code, out = site.luigi("Summaries", "--texts", "dies", "--run-id", "died", module=PIPELINE)
    assert code == 0, out
    assert len(llm.books()["requests"]) == 1
    assert spent(site, "died") == llm.books()["micros"] == 2 + 7 * 8
    [answer] = [path for path in out_dir.iterdir() if "Summarise" in path.name and "dies" in path.name]
    assert "word word" in answer.read_text()


def test_what_may_not_fit_is_blocked_before_a_token_is_made(site: LlmSite, llm: FakeLlm) -> None:
    """50 tokens out are $0.0004; the body has more than 50 bytes."""
    code, out = site.luigi(
        "Summaries", "--texts", "too dear", "--run-id", "cap", "--budget-usd", "0.0005", module=PIPELINE
    )
    assert code == 0, out
    assert "1 task blocked" in out
    assert "failed" not in out.split("===== Luigi Execution Summary =====")[1]
    assert llm.books()["requests"] == []
    [call] = site.calls("cap")
    assert call["verdict"] == "denied:cap"


def test_a_model_without_a_price_is_denied(site: LlmSite, llm: FakeLlm) -> None:
    _, out = site.luigi(
        "Summaries", "--texts", "x", "--run-id", "model", "--model", "m-large", module=PIPELINE
    )
    assert "403 Forbidden" in out
    assert llm.books()["requests"] == []
    assert site.calls("model")[0]["verdict"] == "denied:unpriced"
    assert "prices_per_million has none for 'm-large'" in site.calls("model")[0]["message"]


# Any client, by the gateway.


def key(site: Site, run_id: str, cap: str = "1") -> str:
    asked = {"vendor": "llm", "agent_run_label": f"luigi/{run_id}", "run_usd_cap": cap}
    status, said = site.call("POST", "/vault/keys", asked, token=None)
    assert status == 201, said
    return str(said["vault_key"])


def ask(
    site: Site,
    vault_key: str,
    text: str = "hello there",
    path: str = "/v1/chat/completions",
    method: str = "POST",
    idempotency: str = "",
    **more: Any,
) -> httpx.Response:
    body = {"model": "m-small", "messages": [{"role": "user", "content": text}], "max_completion_tokens": 50}
    headers = {"Authorization": f"Bearer {vault_key}", "Idempotency-Key": idempotency}
    headers = {name: value for name, value in headers.items() if value}
    sent = {"json": body | more} if method == "POST" else {}
    with httpx.Client(base_url=f"{site.url}/llm", headers=headers) as client:
        return client.request(method, path, **sent)


def test_a_stock_client_calls_the_gateway(gateway: LlmSite, llm: FakeLlm) -> None:
    vault_key = key(gateway, "stock")
    first = ask(gateway, vault_key, idempotency="k1")
    again = ask(gateway, vault_key, idempotency="k1")
    assert first.status_code == again.status_code == 200, first.text
    assert first.json() == again.json()
    assert "x-spendguard-replayed" in again.headers
    assert first.json()["usage"] == {"prompt_tokens": 2, "completion_tokens": 7}
    [request] = llm.books()["requests"]
    assert (request["authorization"], request["key"]) == (f"Bearer {SECRET}", None)
    assert ask(gateway, vault_key, method="GET", path="/v1/models").json()["object"] == "list"
    assert spent(gateway, "stock") == llm.books()["micros"] == 60


def test_choices_multiply_and_the_cap_holds(gateway: LlmSite, llm: FakeLlm) -> None:
    vault_key = key(gateway, "choices", cap="0.005")
    assert ask(gateway, vault_key, n=10).status_code == 200  # At most 500 tokens, $0.004.
    assert spent(gateway, "choices") == llm.books()["micros"] == 4 + 70 * 8
    denied = ask(gateway, vault_key, n=11)
    assert (denied.status_code, denied.headers["x-should-retry"]) == (429, "false")
    assert denied.json()["error"]["code"] == "budget_exhausted"
    assert len(llm.books()["requests"]) == 1


def test_another_endpoint_is_denied(gateway: LlmSite, llm: FakeLlm) -> None:
    vault_key = key(gateway, "endpoints")
    for path in ("/v1/embeddings", "/v1/images/generations", "/v1/chat/completions/x", "/v1/../v1/files"):
        said = ask(gateway, vault_key, path=path)
        assert said.status_code == 403, path
        assert said.json()["error"]["type"] in ("unpriced", "endpoint_not_allowed")
    assert llm.books()["requests"] == []


def test_an_answer_without_usage_costs_what_was_reserved(gateway: LlmSite, llm: FakeLlm) -> None:
    llm.control(fault="no_usage")
    reply = ask(gateway, key(gateway, "usage"))
    assert reply.status_code == 200
    assert spent(gateway, "usage") == 2 * len(reply.request.content) + 50 * 8


@pytest.mark.parametrize("fault", ["cut", "error"])
def test_a_broken_stream_is_nobodys_answer(gateway: LlmSite, llm: FakeLlm, fault: str) -> None:
    run_id, options = f"stream-{fault}", {"include_usage": True}
    vault_key = key(gateway, run_id)
    llm.control(fault=fault)
    first, again = (
        ask(gateway, vault_key, stream=True, stream_options=options, idempotency="b") for _ in range(2)
    )
    assert (first.status_code, again.status_code) == (502, 409)
    run = gateway.run(run_id)
    assert (Decimal(run["spent_usd"]) + Decimal(run["reserved_usd"])) * 10**6 >= llm.books()["micros"] == 60


def test_text_for_no_tokens_costs_what_was_reserved(gateway: LlmSite, llm: FakeLlm) -> None:
    llm.control(fault="zero")
    reply = ask(gateway, key(gateway, "zero"))
    assert spent(gateway, "zero") == 2 * len(reply.request.content) + 50 * 8 > llm.books()["micros"]


def test_a_stream_is_settled_by_its_last_event(gateway: LlmSite, llm: FakeLlm) -> None:
    vault_key, options = key(gateway, "stream"), {"include_usage": True}
    first, again = (
        ask(gateway, vault_key, stream=True, stream_options=options, idempotency="s") for _ in range(2)
    )
    assert first.headers["content-type"] == again.headers["content-type"] == "text/event-stream"
    assert first.text.count('"word "') == 7
    assert (first.text, len(llm.books()["requests"])) == (again.text, 1)
    assert spent(gateway, "stream") == llm.books()["micros"] == 60


@pytest.mark.parametrize("fault", ["drop", 500])
def test_an_unknown_outcome_is_never_sent_twice(gateway: LlmSite, llm: FakeLlm, fault: Any) -> None:
    run_id = f"doubt-{fault}"
    vault_key = key(gateway, run_id)
    llm.control(fault=fault)
    first = ask(gateway, vault_key, idempotency="k")
    again = ask(gateway, vault_key, idempotency="k")
    assert (first.status_code, again.status_code) == (502 if fault == "drop" else 500, 409)
    assert again.headers["x-should-retry"] == "false"
    assert len(llm.books()["requests"]) == 1
    assert Decimal(gateway.run(run_id)["reserved_usd"]) > 0
    call = next(call for call in gateway.calls(run_id) if call["state"] == "in_doubt")
    assert gateway.call("POST", f"/calls/{call['id']}/resolve", {"not_sent": True})[0] == 200
    assert ask(gateway, vault_key, idempotency="k").status_code == 200
    assert spent(gateway, run_id) == 60


@pytest.mark.parametrize(
    ("prices", "said"),
    [
        (None, "MISSING llm: [spendguard_llm] prices_per_million is not set"),
        (
            "m-small: 2",
            "[spendguard_llm] prices_per_million: 'm-small: 2' is not like `gpt-4o-mini",
        ),
    ],
)
def test_its_section_is_checked_like_any_other(gateway: LlmSite, prices: str | None, said: str) -> None:
    before = gateway.settings["spendguard_llm"]["prices_per_million"]
    gateway.configure(spendguard_llm={"prices_per_million": prices})
    try:
        code, out, err = gateway.cli("check")
    finally:
        gateway.configure(spendguard_llm={"prices_per_million": before})
    assert code != 0
    assert said in " ".join((out + err).split())


def test_no_call_is_without_its_books(gateway: LlmSite, llm: FakeLlm) -> None:
    """The ledger's figures are those of the vendor's books, whatever was asked in what order."""
    vault_key = key(gateway, "books")
    for number in range(1, 6):
        llm.control(words=number)
        said = ask(
            gateway,
            vault_key,
            "word " * number,
            n=number,
            stream=number % 2 == 0,
            stream_options={"include_usage": True},
        )
        assert said.status_code == 200, said.text
    books = llm.books()
    assert books["output"] == sum(number**2 for number in range(1, 6))
    assert spent(gateway, "books") == books["micros"]
    assert json.dumps(books).count(SECRET) == 5
