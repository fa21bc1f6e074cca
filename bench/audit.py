"""What the sealed audit costs: to seal a long history, and to write it out in each format."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from luigi_spendguard.ledger import Ledger
from luigi_spendguard.ledger.audit.sealing import Sealer
from luigi_spendguard.ledger.audit.signing import KeyFiles
from tests.support.history import write_history
from tests.support.processes import environment

#: Of each call: that it was reserved, that it was settled, and itself.
_ROWS_OF_A_CALL = 3


def measure_audit(folder: Path, runs: int, rows: int) -> dict[str, Any]:
    """Return rows a second and MB, of so many sealed rows: sealing, and each format of an export."""
    place = folder / "spendguard.db"
    write_history(place, runs, rows // _ROWS_OF_A_CALL)
    ledger = Ledger(place)
    sealer = Sealer(ledger, KeyFiles(folder / "audit-key"))
    begun = time.perf_counter()
    while sealer.seal(600):
        pass
    seconds = time.perf_counter() - begun
    sealed = ledger.read(lambda tx: int(tx.value("SELECT count(*) FROM audit_row"))).result()
    ledger.close()
    found: dict[str, Any] = {"rows": sealed, "file_mb": round(place.stat().st_size / 1e6, 1)}
    found["seal"] = {"s": round(seconds, 2), "rows_s": round(sealed / seconds)}
    config = folder / "luigi.cfg"
    config.write_text(f"[spendguard]\nledger_url = sqlite:///{place}\naudit_key_file = {folder}/audit-key\n")
    for form in ("jsonl", "csv", "parquet"):
        out = folder / f"out.{form}"
        found[f"export {form}"] = _run(config, sealed, "audit", "export", "--format", form, "--out", str(out))
        found[f"export {form}"]["file_mb"] = round(out.stat().st_size / 1e6, 1)
        out.unlink()
    return found


def _run(config: Path, rows: int, *args: str) -> dict[str, Any]:
    """Return seconds, processor seconds and the most memory of a command, and its rows a second."""
    code = (
        "import re, sys\n"
        "from luigi_spendguard.cli import cli\n"
        "cli.main(sys.argv[1:], standalone_mode=False)\n"
        # What its parent has had before it was this program is in `ru_maxrss`, too.
        "print(re.search('VmHWM:\\\\s+([0-9]+)', open('/proc/self/status').read())[1])\n"
    )
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code, *args],
        env=environment(LUIGI_CONFIG_PATH=str(config)),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        check=True,
        text=True,
    )
    seconds, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    own = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {
        "s": round(seconds, 2),
        "cpu_s": round(own, 2),
        "rows_s": round(rows / seconds),
        "mb": round(int(done.stdout.split()[-1]) / 1024, 1),
    }
