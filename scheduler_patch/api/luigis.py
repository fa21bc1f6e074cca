"""Luigi's own RPCs, answered by Luigi: found first, and without reading `[cors]` where it is not used."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import luigi.configuration
import luigi.server
from luigi.scheduler import RPC_METHODS
from tornado.web import RequestHandler

from luigi_spendguard.protocol.messages import BadMessage

#: What Luigi's handler looks at first: nothing else of `[cors]` matters then.
_NO_CORS = SimpleNamespace(enabled=False)


class LuigiRpc(luigi.server.RPCHandler):
    """Luigi's handler, for which what luigi.cfg says of CORS took a tenth of each request."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # Luigi's own reads the nine settings of `[cors]`, and does nothing else (3.8, `RPCHandler`).
        RequestHandler.__init__(self, *args, **kwargs)
        is_set = luigi.configuration.get_config().has_option("cors", "enabled")
        self._cors_config = luigi.server.cors() if is_set else _NO_CORS

    def get(self, method: str) -> None:
        """Answer as Luigi does; what we cannot take of a vendor task is refused as in our own routes."""
        try:
            super().get(method)
        except BadMessage as error:
            self.set_status(400)
            self.write({"error": "bad_request", "message": str(error)})

    post = get


def luigi_routes(scheduler: Any) -> list[tuple[str, type[LuigiRpc], dict[str, Any]]]:
    """Return the routes of Luigi's own RPCs, to go ahead of all others: they are asked most."""
    names = "|".join(map(re.escape, sorted(RPC_METHODS)))
    return [(f"/api/({names})", LuigiRpc, {"scheduler": scheduler})]
