"""Look-alikes of vendors that run elsewhere than in Python, started on free loopback ports.

`make test` installs what package.json names into `.npm/`. Where that is missing the tests are skipped,
but fail in continuous integration.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.demo.servers import LOCALSTRIPE
from tests.support.processes import REPOSITORY, Process, environment, free_port, listening
from tests.support.programs import lacking

MODULES = REPOSITORY / ".npm" / "node_modules"

_STATEFUL = """
const app = require('stripe-stateful-mock').createExpressApp();
app.listen(Number(process.argv[1]), '127.0.0.1');
"""


def node(package: str) -> str:
    """Return the node program once `package` is installed; else skip, or fail in CI."""
    program = shutil.which("node")
    if program is not None and (MODULES / package).is_dir():
        return program
    lacking(f"{package} is not installed: `make test` does it where npm is")


class Server:
    """One look-alike and its address."""

    def __init__(self, name: str, folder: Path, args: list[str], **more: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        program = {"program": more["program"]} if "program" in more else {}
        self.process = Process(
            [arg.replace("{port}", str(self.port)) for arg in args],
            folder / f"{name}.log",
            folder,
            environment(NODE_PATH=str(MODULES)),
            lambda: listening(self.port),
            **program,
        )


def localstripe(folder: Path) -> Server:
    """Start localstripe: stateful, without idempotency. A program of its own, never imported by ours."""
    return Server("localstripe", folder, ["-c", LOCALSTRIPE, "{port}"])


def stateful_mock(folder: Path) -> Server:
    """Start stripe-stateful-mock: idempotency, declines and server errors."""
    program = node("stripe-stateful-mock")
    return Server("stateful-mock", folder, ["-e", _STATEFUL, "{port}"], program=program)


def prism(folder: Path, specification: Path) -> Server:
    """Start prism: it answers by a specification's own examples, and checks what it is asked."""
    program = node("@stoplight/prism-cli")
    script = str(MODULES / "@stoplight" / "prism-cli" / "dist" / "index.js")
    return Server(
        "prism",
        folder,
        [script, "mock", "-h", "127.0.0.1", "-p", "{port}", str(specification)],
        program=program,
    )
