"""Luigi's own RPCs, answered by Luigi: found first, and without reading luigi.cfg for each."""

from __future__ import annotations

import re
from typing import Any

import luigi.server
from luigi.scheduler import RPC_METHODS
from tornado.web import RequestHandler


class LuigiRpc(luigi.server.RPCHandler):
    """Luigi's handler; what luigi.cfg says of CORS took it a tenth of a request (3.8, `RPCHandler`)."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # Luigi's own does nothing but to read `[cors]`.
        RequestHandler.__init__(self, *args, **kwargs)

    def initialize(self, scheduler: Any, cors: Any) -> None:
        super().initialize(scheduler)
        self._cors_config = cors


def luigi_routes(scheduler: Any) -> list[tuple[str, type[LuigiRpc], dict[str, Any]]]:
    """Return the routes of Luigi's own RPCs, to go ahead of all others: they are asked most."""
    names = "|".join(map(re.escape, sorted(RPC_METHODS)))
    return [(f"/api/({names})", LuigiRpc, {"scheduler": scheduler, "cors": luigi.server.cors()})]
