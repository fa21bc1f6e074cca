"""An OpenAI-like API with books of its own, in tokens and micro-dollars; a separate process on loopback.

    python -m tests.support.fake_llm --port-file FILE

It counts a token for each word, bills `m-small` at $2 in and $8 out for a million and `m-free` at nothing,
and shares no code with luigi_spendguard. `POST /_control {"fault": …}` breaks the next completion after it
was billed: "drop", "no_usage", "zero" (usage), "cut" (a stream without its end), "error" (in a stream); or
before that: 500. `{"words": 7}` says how long answers are.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
from fractions import Fraction
from typing import Any

import tornado.httpserver
import tornado.netutil
import tornado.web

PRICES = {"m-small": (2, 8), "m-free": (0, 0), "gpt-4o-mini": (Fraction("0.15"), Fraction("0.60"))}
BOOKS: dict[str, Any] = {"requests": [], "input": 0, "output": 0, "micros": Fraction(0)}
OPTIONS: dict[str, Any] = {"words": 7, "fault": None}


class Completions(tornado.web.RequestHandler):
    """/v1/chat/completions"""

    async def post(self) -> None:
        asked = json.loads(self.request.body)
        BOOKS["requests"].append(
            {
                "authorization": self.request.headers.get("Authorization"),
                "body": asked,
                "key": self.request.headers.get("Idempotency-Key"),
            }
        )
        fault, OPTIONS["fault"] = OPTIONS["fault"], None
        if not (self.request.headers.get("Authorization") or "").startswith("Bearer sk-"):
            self.set_status(401)
            self.finish({"error": {"message": "Incorrect API key provided", "type": "invalid_request_error"}})
            return
        if fault == 500:
            self.set_status(500)
            self.finish({"error": {"message": "scripted", "type": "server_error"}})
            return
        said = " ".join(str(message["content"]) for message in asked["messages"])
        count, most = asked.get("n") or 1, asked.get("max_completion_tokens") or asked["max_tokens"]
        usage = {"prompt_tokens": len(said.split()), "completion_tokens": min(OPTIONS["words"], most) * count}
        into, out = PRICES[asked["model"]]
        BOOKS["input"] += usage["prompt_tokens"]
        BOOKS["output"] += usage["completion_tokens"]
        BOOKS["micros"] += into * usage["prompt_tokens"] + out * usage["completion_tokens"]
        if fault == "drop":
            self.detach().close()
            return
        told = {
            "no_usage": None,
            "zero": {"prompt_tokens": 0, "completion_tokens": 0},
            "error": {"prompt_tokens": 1, "completion_tokens": 1},
        }.get(str(fault), usage)
        self._answer(asked, min(OPTIONS["words"], most), told, str(fault))

    def _answer(self, asked: dict[str, Any], words: int, usage: dict[str, int] | None, fault: str) -> None:
        told = {"usage": usage} if usage else {}
        if not asked.get("stream"):
            message = {"role": "assistant", "content": "word " * words}
            self.finish(
                {"id": "chatcmpl-1", "object": "chat.completion", "choices": [{"message": message}], **told}
            )
            return
        self.set_header("Content-Type", "text/event-stream")
        for _ in range(words):
            event = {"choices": [{"delta": {"content": "word "}}], "usage": None}
            self.write(f"data: {json.dumps(event)}\n\n")
        if asked.get("stream_options", {}).get("include_usage"):
            self.write(f"data: {json.dumps({'choices': [], **told})}\n\n")
        if fault == "error":
            self.write('data: {"error": {"message": "scripted"}}\n\n')
        self.finish("" if fault == "cut" else "data: [DONE]\n\n")


class Models(tornado.web.RequestHandler):
    """/v1/models"""

    def get(self) -> None:
        self.finish({"object": "list", "data": [{"id": name} for name in PRICES]})


class Control(tornado.web.RequestHandler):
    """/_control: read the books, script faults, forget everything."""

    def get(self) -> None:
        self.finish(BOOKS | {"micros": float(BOOKS["micros"])})

    def post(self) -> None:
        OPTIONS.update(json.loads(self.request.body))

    def delete(self) -> None:
        BOOKS.update(requests=[], input=0, output=0, micros=Fraction(0))
        OPTIONS.update(words=7, fault=None)


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port-file", required=True)
    args = parser.parse_args()
    routes: list[Any] = [
        ("/v1/chat/completions", Completions),
        ("/v1/models", Models),
        ("/_control", Control),
    ]
    app = tornado.web.Application(routes, log_function=lambda _: None)
    sockets = tornado.netutil.bind_sockets(0, "127.0.0.1")
    tornado.httpserver.HTTPServer(app).add_sockets(sockets)
    with open(args.port_file + ".new", "w", encoding="ascii") as file:
        file.write(str(sockets[0].getsockname()[1]))
    os.rename(args.port_file + ".new", args.port_file)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
