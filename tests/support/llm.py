"""The example vendor of docs/, installed as a user would, and a site that calls its look-alike."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import urllib3

from tests.support.processes import REPOSITORY, Process, environment
from tests.support.site import FakeStripe, Site

PACKAGE = REPOSITORY / "docs" / "examples" / "spendguard-llm"
SECRET = "sk-llm-canary-0123456789abcdef"
_http = urllib3.PoolManager(timeout=30, retries=False)


def install(folder: Path) -> Path:
    """Install the package into a folder of its own, without a network, and return that."""
    shutil.copytree(PACKAGE, folder / "source")  # What building leaves behind stays there.
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--no-build-isolation",
            "--no-index",
            "--disable-pip-version-check",
            "--target",
            str(folder / "packages"),
            str(folder / "source"),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        env=environment(),
    )
    assert done.returncode == 0, done.stderr
    return folder / "packages"


class FakeLlm:
    """The look-alike's process and its books."""

    def __init__(self, folder: Path) -> None:
        port_file = folder / "llm.port"
        self.process = Process(
            ["-m", "tests.support.fake_llm", "--port-file", str(port_file)],
            folder / "llm.log",
            folder,
            environment(),
            port_file.exists,
        )
        self.url = f"http://127.0.0.1:{port_file.read_text()}"

    def books(self) -> dict[str, Any]:
        """Return requests, tokens and micro-dollars."""
        found: dict[str, Any] = json.loads(_http.request("GET", f"{self.url}/_control").data)
        return found

    def control(self, **said: Any) -> None:
        """Say how it answers, or break its next answer."""
        _http.request("POST", f"{self.url}/_control", body=json.dumps(said))

    def forget(self) -> None:
        """Begin with empty books."""
        _http.request("DELETE", f"{self.url}/_control")


class LlmSite(Site):
    """A site whose Python has the package; one section of luigi.cfg is all that there is besides."""

    def __init__(self, folder: Path, packages: Path, llm: FakeLlm, stripe: FakeStripe, **more: Any) -> None:
        self.llm, self._packages = llm, packages
        self._luigids: dict[str, str] = {}
        section = {
            "secret": "${OPENAI_API_KEY}",
            "base_url": llm.url,
            "prices_per_million": "m-small: 2/8, m-free: 0/0",
        }
        super().__init__(folder, stripe=stripe, spendguard_llm=section, **more)

    def start(self, module: str = "scheduler_patch") -> None:
        """Start luigid; the secret is there, or with the workers."""
        self._luigids = {"OPENAI_API_KEY": SECRET} if self.gateway else {}
        super().start(module)
        self._luigids = {}

    def environment(self, **more: str) -> dict[str, str]:
        """Return a worker's environment."""
        return super().environment(**({} if self.gateway else {"OPENAI_API_KEY": SECRET}), **more)

    def _environment(self, **more: str) -> dict[str, str]:
        path = os.pathsep.join([str(self._packages), str(REPOSITORY)])
        return super()._environment(**({"PYTHONPATH": path} | self._luigids | more))
