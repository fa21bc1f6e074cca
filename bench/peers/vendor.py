"""`vendor.py PORT`: a vendor that charges a dollar a call and keeps count.

It answers as Stripe does (`/v1/payment_intents`) or as an LLM's vendor (`/v1/chat/completions`), after its
latency. `GET /_count` says how many calls there were; with `?latency=SECONDS` it begins anew.
"""

from __future__ import annotations

import asyncio
import json
import sys

import tornado.httpserver
import tornado.web

BOOKS = {"count": 0, "latency": 0.0}
INTENT = {
    "object": "payment_intent",
    "status": "succeeded",
    "amount": 100,
    "amount_received": 100,
    "currency": "usd",
}
COMPLETION = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "dollar",
    "choices": [
        {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "charged"}}
    ],
    "usage": {"prompt_tokens": 1, "completion_tokens": 0, "total_tokens": 1},
}


class Charge(tornado.web.RequestHandler):
    """Counts, waits, and answers."""

    async def post(self) -> None:
        """Charge."""
        BOOKS["count"] += 1
        number = BOOKS["count"]
        await asyncio.sleep(BOOKS["latency"])
        is_chat = self.request.path.endswith("/chat/completions")
        self.set_header("Content-Type", "application/json")
        self.finish(json.dumps(COMPLETION if is_chat else {"id": f"pi_{number:08}", **INTENT}))


class Count(tornado.web.RequestHandler):
    """Says how many there were."""

    def get(self) -> None:
        """Answer, and begin anew with another latency where one is named."""
        self.finish(str(BOOKS["count"]))
        if latency := self.get_argument("latency", ""):
            BOOKS.update(count=0, latency=float(latency))


async def main() -> None:
    """Serve until the process is ended."""
    routes = [(r"/_count", Count), (r"/v1/.*", Charge)]
    app = tornado.web.Application(routes, log_function=lambda _: None)
    app.listen(int(sys.argv[1]), "127.0.0.1")
    await asyncio.Event().wait()


asyncio.run(main())
