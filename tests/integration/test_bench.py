"""The benchmark runs and counts what it did; its times are for people, not for tests."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

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
