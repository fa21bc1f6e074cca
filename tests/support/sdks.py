"""A text by the Twilio SDK and a mail by the Resend SDK, synchronous and asynchronous."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import resend
from twilio.http.async_http_client import AsyncTwilioHttpClient
from twilio.rest import Client

TO = "+15551234567"
MAIL: dict[str, Any] = {
    "from": "shop@example.com",
    "to": "ann@example.com",
    "subject": "Paid",
    "text": "Thanks",
}


def text(to: str = TO, **client: Any) -> str:
    """Send a text; return its SID."""
    return str(Client(**client).messages.create(to=to, from_="+15557654321", body="hello").sid)


async def text_soon(to: str = TO, **client: Any) -> str:
    """Send a text within an event loop; return its SID."""
    async with AsyncTwilioHttpClient() as http:
        made = Client(http_client=http, **client)
        return str((await made.messages.create_async(to=to, from_="+15557654321", body="hello")).sid)


def text_async(to: str = TO, **client: Any) -> str:
    """Send a text by an asyncio program; return its SID."""
    return asyncio.run(text_soon(to, **client))


def mail(to: str = "ann@example.com", **options: Any) -> str:
    """Send a mail; return its id."""
    return str(resend.Emails.send({**MAIL, "to": to}, options or None)["id"])


def mail_async(to: str = "ann@example.com", **options: Any) -> str:
    """Send a mail by an asyncio program; return its id."""
    made: Any = asyncio.run(resend.Emails.send_async({**MAIL, "to": to}, options or None))
    return str(made["id"])


TEXTS: Mapping[str, Callable[..., str]] = {"sync": text, "async": text_async}
MAILS: Mapping[str, Callable[..., str]] = {"sync": mail, "async": mail_async}
