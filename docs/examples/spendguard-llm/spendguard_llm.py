"""Chat completions of OpenAI, or of who speaks as it does, as a vendor of luigi_spendguard.

A call reserves the most that it can cost: `max_completion_tokens` for each of its `n` choices at the model's
output price, and one input token for each byte of its body. It is settled by the `usage` of a reply that came
whole; a broken one is in doubt, and is nobody's answer when the call is made again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal
from typing import Any
from urllib.parse import urlsplit

from luigi_spendguard.vendors import (
    Outcome,
    Quote,
    Reply,
    Request,
    Setting,
    Vendor,
    VendorSettings,
    denial,
    values,
)
from luigi_spendguard.vendors.bodies import (
    check_body,
    digest,
    json_body,
    reply_object,
    unbelieved,
    unsuccessful,
)

#: What costs nothing beyond the tokens of the body and of the answer. What is not here is denied: images and
#: files are more tokens than bytes, and searches, priorities and predictions have prices of their own.
KNOWN = {
    "model",
    "messages",
    "max_tokens",
    "max_completion_tokens",
    "n",
    "stream",
    "stream_options",
    "stop",
    "temperature",
    "top_p",
    "seed",
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
    "logprobs",
    "top_logprobs",
    "user",
    "response_format",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "reasoning_effort",
}
#: The highest number of tokens or choices that is taken for meant.
MOST = 10_000_000


@dataclass(frozen=True)
class Price:
    """USD for a million tokens, which is micro-dollars for one."""

    input: Decimal
    output: Decimal

    def micros(self, input_tokens: int, output_tokens: int) -> int:
        """Return what so many tokens cost, in micro-dollars, rounded up."""
        cost = self.input * input_tokens + self.output * output_tokens
        return int(cost.to_integral_value(ROUND_CEILING))


@dataclass(frozen=True)
class Completion(Quote):
    """A quote that knows by which price its reply is settled, and whether the vendor bills its own errors."""

    price: Price = Price(Decimal(0), Decimal(0))
    bills_errors: bool = True


def prices(raw: Any, text: str) -> dict[str, Price]:
    """Read `model: input/output, …`. Raises ConfigError, which names file, section and key."""
    found: dict[str, Price] = {}
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\S+)\s*:\s*(\d{1,6}(?:\.\d{1,6})?)\s*/\s*(\d{1,6}(?:\.\d{1,6})?)\s*", part)
        if match is None:
            raise raw.error(f"{part.strip()[:60]!r} is not like `gpt-4o-mini: 0.15/0.60`")
        model, into, out = match.groups()
        if model in found:
            raise raw.error(f"{model} is given two prices")
        found[model] = Price(Decimal(into), Decimal(out))
    return found


class Llm(Vendor):
    """The adapter: what each request may cost, and what its reply says it did cost."""

    name = "llm"
    home = "https://api.openai.com"
    secret_variables = ("OPENAI_API_KEY",)
    asks = ("openai-", "x-stainless-", "x-client-request-id")
    settings = (
        Setting(
            "",
            "prices_per_million",
            prices,
            "none: every model is denied",
            "USD for a million tokens, input/output, of each model: `gpt-4o-mini: 0.15/0.60, …`",
        ),
        Setting(
            "",
            "bills_errors",
            values.boolean,
            "true",
            "false where a request that the vendor answers with an error of its own (5xx) costs nothing; "
            "else such a call is in doubt until an operator resolves it.",
        ),
    )

    def check(self, settings: VendorSettings) -> str:
        """Return what is missing in luigi.cfg, "" when nothing is."""
        if settings.own.get("prices_per_million"):
            return ""
        return "[spendguard_llm] prices_per_million is not set: every completion is denied"

    def price_list(self, settings: VendorSettings) -> Iterator[tuple[str, str]]:
        """Yield each model with its price."""
        for model, price in sorted(settings.own.get("prices_per_million", {}).items()):
            yield model, f"${price.input} in, ${price.output} out for a million tokens (prices_per_million)"

    def quote(
        self, request: Request, settings: VendorSettings, secret: str, fx: Mapping[str, Decimal]
    ) -> Quote:
        """Recognise and price a request. Raises SpendDenied."""
        parts = urlsplit(self.own_rest(request.url, settings))
        if not re.fullmatch(r"(/[\w.~:@-]+)+", parts.path, re.ASCII) or "/." in parts.path:
            raise denial("endpoint", "the path has characters that no path of this API has")
        check_body(request)
        line = f"{request.method} {parts.path}"
        if request.method == "GET":
            self.check_allowed(line, line, settings, hands_out_credentials="/organization" in parts.path)
            return Quote(line, self.name, parts.path, read=True)
        if line != "POST /v1/chat/completions" or parts.query:
            raise denial("unpriced", f"{line} has no price in spendguard_llm and is not free")
        self.check_allowed(line, "chat.completions.create", settings)
        key, callers = self.key_of(request)
        body = json_body(request)
        model, output_tokens, price = _read_request(body, settings.own.get("prices_per_million", {}))
        # The whole body says which call this is: the same prompt again is answered by the first answer.
        about = digest(body)
        return Completion(
            "chat.completions.create",
            self.name,
            parts.path,
            target=f"{model}#{about[:16]}",
            fingerprint=about,
            total_micros=price.micros(len(request.body), output_tokens),
            key=key,
            key_is_callers=callers,
            keep_body=False,
            price=price,
            bills_errors=settings.own.get("bills_errors", True),
        )

    def outcome(self, quote: Quote, reply: Reply, *, resent: bool, fx: Mapping[str, Decimal]) -> Outcome:
        """Settle by the tokens that a whole reply names, else at what was reserved."""
        if ended := unsuccessful(quote, reply):
            unbilled = isinstance(quote, Completion) and not quote.bills_errors
            if unbilled and reply.status >= 500 and isinstance(reply_object(reply).get("error"), dict):
                return Outcome("void", note=ended.note)
            return ended
        assert isinstance(quote, Completion)
        events = _read_reply(reply)
        if isinstance(events, str):
            return unbelieved(events)
        used = _usage(events)
        if used is None:
            return Outcome("settle", total_micros=quote.total_micros, note="the reply names no usage")
        return Outcome("settle", total_micros=quote.price.micros(*used), note=f"{used[0]} + {used[1]} tokens")


def _read_request(body: Any, priced: Mapping[str, Price]) -> tuple[str, int, Price]:
    """Return the model, the most output tokens and the price. Raises SpendDenied (`unpriced`)."""
    if not isinstance(body, dict) or not isinstance(body.get("model"), str):
        raise denial("unpriced", "a completion without a `model` cannot be priced")
    price = priced.get(body["model"])
    if price is None:
        raise denial("unpriced", f"[spendguard_llm] prices_per_million has none for {body['model'][:60]!r}")
    if unknown := sorted(set(body) - KNOWN):
        raise denial("unpriced", f"what {unknown[0][:60]!r} costs is not known: leave it out")
    limits = [body[name] for name in ("max_completion_tokens", "max_tokens") if body.get(name) is not None]
    if not limits:
        raise denial("unpriced", "a completion without `max_completion_tokens` has no bound: give it one")
    choices = 1 if body.get("n") is None else body["n"]
    if not all(type(number) is int and 0 < number <= MOST for number in (*limits, choices)):
        raise denial("unpriced", f"`max_completion_tokens`, `max_tokens` and `n` go from 1 to {MOST}")
    if not _is_text(body.get("messages")):
        raise denial("unpriced", "images, sound and files are more tokens than bytes: only text has a price")
    tools = body.get("tools") or []
    if not isinstance(tools, list) or not all(_is(tool, "function") for tool in tools):
        raise denial("unpriced", "a tool that the vendor runs itself has a price of its own")
    options = body.get("stream_options")
    if body.get("stream") and not (isinstance(options, dict) and options.get("include_usage") is True):
        raise denial("unpriced", 'a stream must say its cost: pass stream_options={"include_usage": true}')
    return body["model"], max(limits) * choices, price


def _is(part: Any, kind: str) -> bool:
    return isinstance(part, dict) and part.get("type") == kind


def _is_text(messages: Any) -> bool:
    """Return whether messages are of text alone."""
    if not isinstance(messages, list):
        return False
    for message in messages:
        if not isinstance(message, dict) or "audio" in message:
            return False
        content = message.get("content")
        if isinstance(content, list) and all(_is(part, "text") for part in content):
            continue
        if content is not None and not isinstance(content, str):
            return False
    return True


def _read_reply(reply: Reply) -> list[dict[str, Any]] | str:
    """Return the objects of a whole reply, one, or one for each event of a stream; else what is wrong."""
    if "text/event-stream" not in reply.headers.get("content-type", ""):
        objects = [reply_object(reply)]
        if not objects[0]:
            return "the reply is not JSON"
    else:
        events = _events(reply.body.decode("utf-8", "replace"))
        if events[-1:] != ["[DONE]"]:
            return "the stream broke off: its end is missing"
        try:
            objects = [json.loads(event) for event in events[:-1]]
        except (ValueError, RecursionError):
            return "an event of the stream is not JSON"
        if not all(isinstance(event, dict) for event in objects):
            return "an event of the stream is no object"
    return "the reply names an error" if any(one.get("error") for one in objects) else objects


def _events(text: str) -> list[str]:
    """Return the data of a stream's events; of one that is called an error, that it is one."""
    events = []
    # Not `splitlines`: a model may write what that takes for the end of a line.
    for event in text.replace("\r\n", "\n").replace("\r", "\n").split("\n\n"):
        lines = event.split("\n")
        data = [line[5:].removeprefix(" ") for line in lines if line.startswith("data:")]
        if any(line.replace(" ", "") == "event:error" for line in lines):
            events.append('{"error": true}')
        elif data:
            events.append("\n".join(data))
    return events


def _usage(objects: list[dict[str, Any]]) -> tuple[int, int] | None:
    """Return the input and output tokens that a reply names, the most that an event of a stream does.

    None where it names none, or none for its text: there is no prompt and no text of no tokens.
    """
    named = [used for one in objects if (used := _tokens(one)) is not None]
    if not named:
        return None
    into, out = (max(numbers) for numbers in zip(*named, strict=True))
    return (into, out) if into > 0 and (out > 0 or not any(map(_has_text, objects))) else None


def _has_text(one: dict[str, Any]) -> bool:
    """Return whether a choice of a reply, or of an event, has something in it that the model has made."""
    choices = one.get("choices")
    if not isinstance(choices, list):
        return False
    made = [one.get("message") or one.get("delta") for one in choices if isinstance(one, dict)]
    return any(
        value for part in made if isinstance(part, dict) for name, value in part.items() if name != "role"
    )


def _tokens(body: dict[str, Any]) -> tuple[int, int] | None:
    usage = body.get("usage")
    if not isinstance(usage, dict):
        return None
    used = usage.get("prompt_tokens"), usage.get("completion_tokens")
    if all(type(number) is int and number >= 0 for number in used):
        return used  # type: ignore[return-value]  # as has just been seen
    return None
