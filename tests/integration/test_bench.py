"""The benchmark runs and counts what it did; its times are for people, not for tests."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from bench import peers
from tests.support.postgres import need_servers

ROOT = Path(__file__).parents[2]


def test_the_benchmark_measures_its_parts_and_writes_a_page(tmp_path: Path) -> None:
    """Each part compares the vendor's count with the ledger's; the peers that are installed here are ours."""
    (folder := tmp_path / "sites").mkdir()
    parts = "start,dispatch,call,messages,ledger,gateway,history,plain,page,reconcile"
    line = [
        sys.executable,
        "-m",
        "bench",
        "--tiny",
        "--folder",
        str(folder),
        "--build",
        str(tmp_path / "build"),
    ]
    done = subprocess.run([*line, "--parts", parts], cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    assert list(folder.iterdir()) == []
    found = json.loads((tmp_path / "build" / "quick.json").read_text())
    assert sorted(found) == sorted(parts.split(","))
    for p in ("p50", "p99"):
        added = found["call"]["figures"][f"added_{p}_ms"]
        assert added["min"] <= added["median"] <= added["max"]
    messages = found["messages"]["figures"]["worker"]["messages"]
    assert messages["/api/spend_claim"] == messages["/api/spend_reserve"] == 1
    gateway = found["gateway"]["figures"]
    assert gateway["2"]["gateway"]["per_s"]["min"] > 0
    assert 0 < gateway["calls"]["through_gateways"] < gateway["calls"]["made"]
    page = (tmp_path / "build" / "performance.md").read_text()
    assert page == done.stdout[: len(page)]
    plots = re.findall(r"\]\((performance-[a-z]+\.svg)\)", page)
    assert plots == ["performance-plain.svg", "performance-dispatch.svg", "performance-gateway.svg"]
    for plot in plots:
        assert ElementTree.parse(tmp_path / "build" / plot).getroot().tag.endswith("svg")


def test_a_run_is_measured_beside_another_at_a_server(tmp_path: Path) -> None:
    need_servers()
    line = [sys.executable, "-m", "bench", "--tiny", "--parts", "server", "--build", str(tmp_path)]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((tmp_path / "quick.json").read_text())["server"]["figures"]
    assert found["pairs"]["1 process"]["min"] > 0
    assert list(found["other run"]) == ["alone", "elsewhere", "beside"]
    assert found["other run"]["beside"]["p99_to_alone"]["min"] > 0
    assert "beside a hot run" in done.stdout


def test_a_cap_holds_among_16_callers_and_who_cannot_be_installed_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "ENVIRONMENTS", tmp_path / "environments")
    nobody = peers.Peer("nobody", "none.py", ("no-such==0",), peers._alone)
    monkeypatch.setattr(peers.subprocess, "run", refusing(peers.subprocess.run))
    found = peers.measure_peers(tmp_path, 16, 1, (*peers.PEERS[:2], nobody))
    assert found["no budget"]["spent_usd"]["median"] == peers.CALLERS * 2 * peers.CAP_USD
    assert found["spendguard gateway"]["spent_usd"]["median"] == peers.CAP_USD
    assert found["nobody"] == {"absent": "pip could not install no-such==0 (CalledProcessError)"}


def refusing(run: Any) -> Any:
    """Return `subprocess.run`, but for pip: it finds nothing, without a network."""

    def refused(line: list[str], **more: Any) -> Any:
        if "venv" in line or "pip" in line:
            raise subprocess.CalledProcessError(1, line)
        return run(line, **more)

    return refused


def measured_pipelines(tmp_path: Path, *args: str) -> dict[str, Any]:
    """Run `bench.pipeline`, which compares the vendor's books with the ledger's, and return its figures."""
    (folder := tmp_path / "sites").mkdir()
    line = [sys.executable, "-m", "bench.pipeline", "--folder", str(folder), "--json", str(tmp_path / "json")]
    done = subprocess.run([*line, *args], cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    assert list(folder.iterdir()) == []
    found: dict[str, Any] = json.loads((tmp_path / "json").read_text())
    assert [name for name in found if isinstance(found[name], dict) and name not in done.stdout] == []
    return found


def test_pipelines_charge_alike_with_and_without_a_guard(tmp_path: Path) -> None:
    args = ("--tasks", "6", "--workers", "2", "--repeats", "1", "--latency-ms", "1", "--old", str(ROOT))
    found = measured_pipelines(tmp_path, *args)
    assert found["tasks"] == 6
    for name in ("stock", "worker", "gateway", "old_worker", "old_gateway"):
        assert found[name]["wall_s"]["median"] > 0
        assert found[name]["worker_cpu_s"]["median"] > 0
    assert found["stock"]["wall_ratio"]["median"] == 1


def test_a_plain_pipeline_runs_under_both_luigids(tmp_path: Path) -> None:
    found = measured_pipelines(tmp_path, "--plain", "--tasks", "6", "--repeats", "1")
    assert [name for name in found if isinstance(found[name], dict)] == ["stock", "guarded"]


def test_the_loops_lag_is_measured_beside_blocked_tasks(tmp_path: Path) -> None:
    found = measured_pipelines(tmp_path, "--lag", "--blocked", "4", "--seconds", "1")
    for situation in ("alone", "still", "beside_another_run"):
        assert found["worker"][situation]["ticks"] > 10
        assert found["worker"][situation]["max_ms"] > 0
    assert found["worker"]["charged_meanwhile"] > 0
