"""What the sealed audit costs: to seal a long history, and to write it out in each format."""

from __future__ import annotations

import resource
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import stripe

from bench.calls import charge
from bench.figures import ratios, spread
from bench.pairs import Pairs
from bench.processes import cpu_s
from luigi_spendguard import proxy
from luigi_spendguard.ledger.audit.sealing import Sealer
from luigi_spendguard.ledger.audit.signing import KeyFiles
from luigi_spendguard.ledger.database.engines import opened
from scheduler_patch.service.sealing import EVERY_S, LOOK_S
from tests.support.attempts import Pretender
from tests.support.history import write_history
from tests.support.processes import environment
from tests.support.site import FakeStripe, Site

#: Of each call: that it was reserved, that it was settled, and itself.
_ROWS_OF_A_CALL = 3


def measure_audit(folder: Path, runs: int, rows: int, rounds: int, calls: int) -> dict[str, Any]:
    """Return rows a second and MB, of so many sealed rows: sealing, verifying, each format of an export.

    And what sealing costs calls that are made meanwhile.
    """
    place = folder / "spendguard.db"
    write_history(place, runs, rows // _ROWS_OF_A_CALL)
    config = folder / "luigi.cfg"
    config.write_text(f"[spendguard]\nledger_url = sqlite:///{place}\naudit_key_file = {folder}/audit-key\n")
    sealing = _measured(config, _SEAL, str(place), str(folder / "audit-key"))
    with opened(place, read_only=True) as books, books.reading() as tx:
        sealed = int(tx.value("SELECT count(*) FROM audit_row"))
    found: dict[str, Any] = {"rows": sealed, "file_mb": round(place.stat().st_size / 1e6, 1)}
    found["seal"] = {**sealing, "rows_s": round(sealed / sealing["s"])}
    found["verify"] = _run(config, sealed, "audit", "verify")
    for form in ("jsonl", "csv", "parquet"):
        out = folder / f"out.{form}"
        found[f"export {form}"] = _run(config, sealed, "audit", "export", "--format", form, "--out", str(out))
        found[f"export {form}"]["file_mb"] = round(out.stat().st_size / 1e6, 1)
        out.unlink()
    found["calls"] = _calls(folder / "calls", rounds)
    found["whole calls"] = _whole_calls(folder / "whole", calls, rounds)
    return found


def _whole_calls(folder: Path, calls: int, rounds: int) -> dict[str, Any]:
    """Return milliseconds of a whole guarded call, and luigid's processor milliseconds of one: of a luigid
    that seals and of one that does not, in turns, with the same vendor; and the ratios of each.
    """
    vendor = FakeStripe(folder / "vendor")
    took: dict[str, list[float]] = {"unsealed": [], "sealed": []}
    used: dict[str, list[float]] = {"unsealed": [], "sealed": []}
    kept = stripe.api_base, stripe.api_key
    stripe.api_base, stripe.api_key = vendor.url, None
    proxy.bind()
    try:
        with ExitStack() as stack:
            sites = {
                side: stack.enter_context(
                    Site(folder / side, stripe=vendor, start=False, spendguard={"default_cap_usd": 100_000})
                )
                for side in took
            }
            sites["sealed"].start()
            sites["unsealed"].start("bench.luigid_unsealed")
            pretenders = {side: Pretender(site, "bench") for side, site in sites.items()}
            for number in range(-1, rounds):
                for side in list(sites)[:: -1 if number % 2 else 1]:
                    luigid = sites[side].luigid
                    assert luigid is not None
                    cpu, begun = cpu_s(luigid.popen.pid), time.perf_counter()
                    with pretenders[side].attempt() as attempt, attempt.client.gathering():
                        for one in range(calls):
                            charge(f"cus_{side}_{number}_{one}")
                    seconds = time.perf_counter() - begun
                    time.sleep(EVERY_S + 1)  # Until the last of them are sealed.
                    if number >= 0:  # The first of each is to warm up.
                        took[side].append(seconds / calls * 1000)
                        used[side].append((cpu_s(luigid.popen.pid) - cpu) / calls * 1000)
            assert vendor.moved() == 2 * calls * (rounds + 1), "the vendor counted other calls than were made"
            for side, site in sites.items():
                with opened(site.ledger, read_only=True) as books, books.reading() as tx:
                    blocks = tx.value("SELECT count(*) FROM audit_block")
                assert bool(blocks) == (side == "sealed"), (side, blocks)
    finally:
        stripe.api_base, stripe.api_key = kept
        vendor.process.end()
    return {
        name: {
            **{side: spread(seen) for side, seen in each.items()},
            "ratio": ratios(each["sealed"], each["unsealed"]),
        }
        for name, each in (("call, ms", took), ("luigid's processor, ms", used))
    }


def _calls(folder: Path, rounds: int) -> dict[str, Any]:
    """Return calls a second of one caller and of 16, unsealed and sealed in turns, and their ratios."""
    found: dict[str, Any] = {}
    for callers, count in ((1, 2000), (16, 200)):
        seen: dict[str, list[float]] = {"unsealed": [], "sealed": []}
        for number in range(rounds):
            for side in list(seen)[:: -1 if number % 2 else 1]:
                place = folder / f"{callers}-{number}-{side}"
                place.mkdir(parents=True)
                seen[side].append(_rate(place, callers, count, sealed=side == "sealed"))
        found[f"{callers} at once"] = {name: spread(values) for name, values in seen.items()}
        found[f"{callers} at once"]["ratio"] = ratios(seen["sealed"], seen["unsealed"])
    return found


def _rate(folder: Path, callers: int, count: int, *, sealed: bool) -> float:
    """Return calls a second that are reserved and settled by threads, and sealed as luigid does."""
    pairs = Pairs(folder / "spendguard.db")
    sealer, over = Sealer(pairs.books.ledger, KeyFiles(folder / "key")), threading.Event()

    def seal() -> None:
        more = False
        while more or not over.wait(EVERY_S):
            more = sealer.seal(LOOK_S)

    keys = [pairs.books.claim(f"task-{number}") for number in range(callers)]
    sealer.seal(LOOK_S)
    thread = threading.Thread(target=seal)
    if sealed:
        thread.start()
    begun = time.perf_counter()
    pairs.in_threads(keys, count)
    seconds = time.perf_counter() - begun
    over.set()
    if sealed:
        thread.join()
    pairs.books.ledger.close()
    return callers * count / seconds


#: Seals a ledger, all of it.
_SEAL = """
import sys
from pathlib import Path
from luigi_spendguard.ledger import Ledger
from luigi_spendguard.ledger.audit.sealing import Sealer
from luigi_spendguard.ledger.audit.signing import KeyFiles
ledger = Ledger(Path(sys.argv[1]))
sealer = Sealer(ledger, KeyFiles(Path(sys.argv[2])))
while sealer.seal(600):
    pass
assert not sealer.stopped, sealer.stopped
ledger.close()
"""


def _run(config: Path, rows: int, *args: str) -> dict[str, Any]:
    """Return seconds, processor seconds and the most memory of a command, and its rows a second."""
    code = "import sys\nfrom luigi_spendguard.cli import cli\ncli.main(sys.argv[1:], standalone_mode=False)\n"
    found = _measured(config, code, *args)
    return {**found, "rows_s": round(rows / found["s"])}


def _measured(config: Path, code: str, *args: str) -> dict[str, Any]:
    """Return seconds, processor seconds and the most memory of a program."""
    # What its parent has had before it was this program is in `ru_maxrss`, too.
    code += "\nimport re\nprint(re.search('VmHWM:\\\\s+([0-9]+)', open('/proc/self/status').read())[1])\n"
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
        "mb": round(int(done.stdout.split()[-1]) / 1024, 1),
    }
