"""luigid's port, or a gateway's, over TLS where luigi.cfg says so."""

from __future__ import annotations

import ssl
from typing import Any

import luigi.server
import tornado.httpserver
import tornado.netutil

from luigi_spendguard.config import ConfigError, Settings


def context_of(settings: Settings) -> ssl.SSLContext | None:
    """Return what `tls_cert` and `tls_key` say, None without them. Raises ConfigError."""
    if settings.tls_cert is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(settings.tls_cert, settings.tls_key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"[spendguard] tls_cert and tls_key cannot be used ({error.strerror or type(error).__name__}): "
            "they must be a PEM certificate and its PEM key, readable by this user"
        ) from None
    return context


def serve_luigid(context: ssl.SSLContext) -> None:
    """Let luigid's whole port speak TLS; `luigi.server.run` looks up what binds it (Luigi 3.8, server.py)."""

    def init_api(
        scheduler: Any,
        api_port: int | None = None,
        address: str | None = None,
        unix_socket: str | None = None,
    ) -> list[Any]:
        if unix_socket is not None:
            sockets = [tornado.netutil.bind_unix_socket(unix_socket)]
        else:
            sockets = tornado.netutil.bind_sockets(api_port or 0, address=address)
        server = tornado.httpserver.HTTPServer(
            luigi.server.app(scheduler), ssl_options=None if unix_socket is not None else context
        )
        server.add_sockets(sockets)
        return [one.getsockname() for one in sockets]

    luigi.server._init_api = init_api
