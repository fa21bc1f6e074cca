"""What the access log says of a request: the route and the run, and nothing that a client may have made up.

A client's address may hold anything, a vendor's key that was pasted into the wrong place, too. So what is
written is what is known: names of routes, words of vendors' own paths, ids of things that are there.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from functools import lru_cache

import luigi.scheduler
from tornado.httputil import HTTPServerRequest
from tornado.web import Application, RequestHandler, StaticFileHandler

from luigi_spendguard.protocol import ACTIONS, CALL_STATES, RUN_STATUSES, VERDICTS
from luigi_spendguard.vendors.registry import VENDORS
from scheduler_patch.api.handler import ApiHandler, Lost
from scheduler_patch.gateway.handler import Relay

logger = logging.getLogger(__name__)
_log = logging.getLogger("tornado.access")

#: Stands for what is not written.
HIDDEN = "…"
_METHODS = frozenset(RequestHandler.SUPPORTED_METHODS)
#: Luigi's own pages; what comes behind these is anybody's.
_PAGES = frozenset({"/", "/tasklist", "/history", "/metrics"})
_FOLDERS = frozenset({"api", "history", "spendguard", "static", "tasklist"})
#: What a load balancer asks for each second.
_HEALTH = frozenset({"/openapi.json", "/status"})
#: Names of query parameters, and values of theirs that are no one's but ours.
_NAMES = frozenset(
    (
        *("before", "by", "customer", "day", "family", "kind", "limit", "offset", "prefix", "run", "search"),
        *("since", "sort", "state", "status", "task", "tasks", "total", "until", "usd", "vendor", "verdict"),
    )
)
_WORDS = frozenset(
    [*ACTIONS, *CALL_STATES, *RUN_STATUSES, *VERDICTS, *VENDORS, "all", "family", "false", "true", "vendor"]
)
#: A number, an amount, a length of time or a moment.
_PLAIN = re.compile(r"[0-9]{1,15}([.][0-9]{1,6}|[smhd])?|[0-9]{4}-[0-9]{2}-[0-9]{2}(T[0-9:.]{5,15}Z?)?")


def install(application: Application) -> None:
    """Let an application write its access log so, and what tornado says of a request that fails."""
    application.settings["log_function"] = write
    for name in ("tornado.general", "tornado.application"):
        logger = logging.getLogger(name)
        if _WithoutAddress not in map(type, logger.filters):
            logger.addFilter(_WithoutAddress())


class _WithoutAddress(logging.Filter):
    """Takes addresses out of tornado's own messages (tornado 6, `RequestHandler.log_exception`)."""

    def filter(self, record: logging.LogRecord) -> bool:
        args = record.args if isinstance(record.args, tuple) else ()
        for request in args:
            if isinstance(request, HTTPServerRequest):
                method = request.method if request.method in _METHODS else HIDDEN
                record.msg, record.args = "Uncaught exception: %s %s", (method, _shortened(request.path))
        if str(record.msg).startswith("%d %s: ") and args:
            record.msg, record.args = "%s: the request was refused", args[:1]
        return True


def write(handler: RequestHandler) -> None:
    """Write one line, as tornado does."""
    status = handler.get_status()
    level = logging.INFO if status < 400 else logging.WARNING if status < 500 else logging.ERROR
    if status == 404 and isinstance(handler, ApiHandler) and not isinstance(handler, Lost):
        level = logging.INFO  # Of a name, such as the beginning of a run's id: who asked has heard it.
    request = handler.request
    if level == logging.INFO and request.path in _HEALTH:
        level = logging.DEBUG
    took_ms = 1000.0 * request.request_time()
    try:
        line = line_of(handler)
    except Exception:  # What cannot be named is answered all the same.
        logger.exception("A request's line in the access log cannot be written")
        line = HIDDEN
    _log.log(level, "%d %s (%s) %.2fms", status, line, request.remote_ip, took_ms)


def line_of(handler: RequestHandler) -> str:
    """Return what is written of a request: its method and address."""
    request, method = handler.request, handler.request.method
    query = HIDDEN if request.query else ""
    if isinstance(handler, ApiHandler):
        path = handler.shown_path(HIDDEN)
        if request.method == "GET" and handler.get_status() < 400 and request.query:
            query = "&".join(_arguments(request.query_arguments))
    elif isinstance(handler, Relay):
        path = _relayed(request.path, handler.vendor.name)
    else:
        path = _luigis(handler)
    return f"{method if method in _METHODS else HIDDEN} {path}" + (f"?{query}" if query else "")


def _arguments(found: dict[str, list[bytes]]) -> Iterator[str]:
    for name, values in found.items():
        if name not in _NAMES:
            yield HIDDEN
            continue
        text = values[0].decode("utf-8", "replace")
        shown = text if text.lstrip("-") in _WORDS or _PLAIN.fullmatch(text) else HIDDEN
        yield f"{name}={shown}"


def _luigis(handler: RequestHandler) -> str:
    """Return the path of one of Luigi's own routes, or of none."""
    path = handler.request.path
    if path in _PAGES or (isinstance(handler, StaticFileHandler) and handler.get_status() < 400):
        return path  # That of a file which is there.
    first, _, rest = path.lstrip("/").partition("/")
    return path if first == "api" and rest in luigi.scheduler.RPC_METHODS else _shortened(path)


def _shortened(path: str) -> str:
    first = path.lstrip("/").partition("/")[0]
    return (
        f"/{first}/{HIDDEN}" if f"/{first}" in (*_PAGES, "/api", "/static", "/spendguard") else f"/{HIDDEN}"
    )


def _relayed(path: str, vendor: str) -> str:
    """Return a vendor's path with its own words alone."""
    words = _words_of(vendor)
    return "/".join(each if each in words else HIDDEN for each in path.split("/"))


@lru_cache
def _words_of(vendor: str) -> frozenset[str]:
    known = VENDORS[vendor].known()
    lines = [line for those in known.operations.values() for line in those] if known is not None else []
    words = {each for line in lines for each in line.partition(" ")[2].split("/") if "{" not in each}
    return frozenset({vendor, "", *words})
