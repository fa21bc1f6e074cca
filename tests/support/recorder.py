"""What a worker says to luigid: a forwarder before it that writes down each RPC, Luigi's own too.

    python -m tests.support.recorder CODE > tests/integration/data/messages-of-format-N.json

writes down what a worker of other code (a folder with a checkout) says in a pipeline of one charge, and
which fields its luigid takes.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
import threading
from collections.abc import Collection
from getpass import getuser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socket import gethostname
from typing import Any
from urllib.parse import parse_qs

import urllib3

from tests.support.site import Site

_HOP = ("connection", "content-length", "host", "transfer-encoding", "keep-alive", "accept-encoding")


class Recorder:
    """Passes on to luigid at `target` what it gets; `with` ends it.

    `hidden`: fields of answers that an older luigid does not give.

    Attributes:
        said: each RPC with its body, in turn; pings left out.

    """

    def __init__(self, target: str, hidden: Collection[str] = ()) -> None:
        self.said: list[tuple[str, dict[str, Any]]] = []
        said, pool = self.said, urllib3.PoolManager(timeout=30, retries=False)

        class Handler(BaseHTTPRequestHandler):
            wbufsize = -1
            disable_nagle_algorithm = True

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                name = self.path.rpartition("/")[2]
                if name.startswith("spend_"):
                    said.append((name, json.loads(body)))
                elif self.command == "POST" and name != "ping":
                    said.append((name, json.loads(parse_qs(body.decode())["data"][0])))
                kept = {key: value for key, value in self.headers.items() if key.lower() not in _HOP}
                reply = pool.request(self.command, target + self.path, body=body or None, headers=kept)
                data = reply.data
                if name.startswith("spend_") and reply.status == 200:
                    answer = json.loads(data)["response"]
                    data = json.dumps(
                        {"response": {key: answer[key] for key in answer if key not in hidden}}
                    ).encode()
                self.send_response(reply.status)
                for key, value in reply.headers.items():
                    if key.lower() not in (*_HOP, "content-encoding"):
                        self.send_header(key, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = answer

            def log_message(self, *args: object) -> None:
                pass

        self._pool = pool
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *args: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self._pool.clear()


def said_in_a_pipeline(
    site: Site, *args: str, hidden: Collection[str] = (), **env: str
) -> list[tuple[str, dict[str, Any]]]:
    """Return what a worker says of two charges, of which one dies and one is refused."""
    with Recorder(site.url, hidden) as recorder:
        site.configure(core={"default_scheduler_url": recorder.url})
        (site.folder / "out" / "die").touch()
        site.luigi("Billing", "--n", "1", *args, **env)
        (site.folder / "out" / "die").unlink()
        site.wait_for_retries()
        site.luigi("Billing", "--n", "2", *args, **env)
        site.configure(core={"default_scheduler_url": site.url})
        return recorder.said


def taken_by(site: Site) -> dict[str, list[str]]:
    """Return the fields that each RPC of ours takes."""
    paths = site.call("GET", "/openapi.json", token=None)[1]["paths"]
    return {
        path.rpartition("/")[2]: sorted(
            said["post"]["requestBody"]["content"]["application/json"]["schema"]["properties"]
        )
        for path, said in paths.items()
        if path.startswith("/api/spend_")
    }


if __name__ == "__main__":
    code = {"PYTHONPATH": f"{sys.argv[1]}/tests/support/absent:{sys.argv[1]}"}
    with tempfile.TemporaryDirectory() as folder, Site(Path(folder), start=False) as site:
        site.configure(spendguard={"default_cap_usd": 1, "suspect_duplicates": None})  # Not known then.
        site.start(**code)
        found = json.dumps({"said": said_in_a_pipeline(site, **code), "taken": taken_by(site)}, indent=1)
        found = re.sub(r"host=[^,]*, username=[^,]*,", "host=worker, username=luigi,", found)
        found = re.sub(r'"expl": "[^"].*"', '"expl": "it died"', found)
        print(found.replace(f'"{gethostname()}"', '"worker"').replace(f'"{getuser()}"', '"luigi"'))
