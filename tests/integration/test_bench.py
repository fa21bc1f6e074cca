"""The benchmark runs and counts what it did; its times are for people, not for tests."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def test_the_benchmark_prints_its_figures(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--quick", "--json", "--folder", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    added = found["guarded_p50_ms"] - found["unguarded_p50_ms"]
    assert abs(found["added_p50_ms"] - added) < 0.02
    assert all(found[name] > 0 for name in found if name.endswith(("_caller", "_callers", "per_s")))
    assert list(tmp_path.iterdir()) == []


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
