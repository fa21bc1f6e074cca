"""Our errors as the Twilio SDK's own: each is caught by both names.

A denial is a `TwilioRestException` with the status, code and details that a gateway's denial would have; a
broken exchange is what the SDK's own client raises: an error of `requests`, of aiohttp when asynchronous
(twilio-python 9.13, `http/http_client.py`, `http/async_http_client.py`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import aiohttp
import requests
from twilio.base.exceptions import TwilioRestException

from luigi_spendguard.effects import NotSent
from luigi_spendguard.errors import GatewayUnreachable, OutcomeUnknown, SpendDenied, SpendguardError, bare
from luigi_spendguard.proxy.natural import also, not_answered, not_sent
from luigi_spendguard.vendors.twilio import VENDOR


def as_twilio_error(
    error: SpendDenied | OutcomeUnknown, method: str, url: str, *, asynchronous: bool = False
) -> Exception:
    """Return a denial, or an unknown outcome, as an exception that is also a `TwilioRestException`."""
    if isinstance(error, TwilioRestException):
        return error
    shaped = VENDOR.shape(error)
    body = json.loads(shaped.body)
    natural: type[TwilioRestException] = _Plain
    if isinstance(error, GatewayUnreachable):
        natural = _LostAsync if asynchronous else _Lost
    ours: TwilioRestException = also(error, natural, "Twilio")
    TwilioRestException.__init__(
        ours,
        status=shaped.status,
        uri=urlsplit(url).path,
        msg=body["message"],
        code=body["code"],
        method=method.upper(),
        details=body.get("details"),
    )
    return ours


class _Plain(TwilioRestException):
    """Says what it has to say on a terminal, too: the SDK's own adds a link to Twilio's list of errors."""

    def __str__(self) -> str:
        return str(self.msg)


class _Lost(_Plain, requests.ConnectionError):
    """A gateway that cannot be reached; the same of an asynchronous client."""


class _LostAsync(_Plain, aiohttp.ClientConnectionError):
    """As `_Lost`."""


def _synchronous(text: str, error: Exception) -> Exception:
    timed_out = isinstance(error, TimeoutError)
    return requests.ReadTimeout(text) if timed_out else requests.ConnectionError(text)


def _asynchronous(text: str, error: Exception) -> Exception:
    if isinstance(error, TimeoutError):
        return aiohttp.ServerTimeoutError(text)
    return aiohttp.ClientConnectionError(text)


def without_frames(error: Exception) -> Exception:
    """Return what a call has raised; what is known to be raised without its frames: they hold the token."""
    known = isinstance(error, (SpendguardError, requests.RequestException, aiohttp.ClientError))
    return bare(error) if known else error


@contextmanager
def as_the_sdks_errors(method: str, url: str, *, asynchronous: bool) -> Iterator[None]:
    """Turn what a call raises in the block into what the SDK's user understands."""
    natural = _asynchronous if asynchronous else _synchronous
    try:
        yield
    except (SpendDenied, OutcomeUnknown) as error:
        raise as_twilio_error(error, method, url, asynchronous=asynchronous) from None
    except NotSent as error:
        raise natural(not_sent("Twilio", error), error) from error
    except OSError as error:
        raise natural(not_answered("Twilio", error), error) from error
