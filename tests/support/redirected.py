"""Twilio's SDK sent to loopback: it has no setting for that, and its pages' links are absolute."""

from __future__ import annotations

from typing import Any

from twilio.http.http_client import TwilioHttpClient
from twilio.http.response import Response


class Redirect(TwilioHttpClient):
    """Sends the requests to https://<host>/<path> to URL/<host>/<path>; keeps the answers."""

    def __init__(self, url: str, timeout: float = 20) -> None:
        super().__init__(timeout=timeout)
        self.url = url
        self.answers: list[str] = []

    def request(self, method: str, url: str, *args: Any, **more: Any) -> Response:
        assert url.startswith("https://")
        reply = super().request(method, f"{self.url}/{url[8:]}", *args, **more)
        self.answers.append(reply.text)
        return reply

    def __enter__(self) -> Redirect:
        return self

    def __exit__(self, *args: object) -> None:
        self.session.close()
