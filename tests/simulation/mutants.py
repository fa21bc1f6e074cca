"""Promises broken on purpose, by the small patches of `mutants.txt`: the simulator has to find each."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
#: Seeds within which each must be found: as many as `make chaos` lives.
WITHIN = 100_000


class Mutant(NamedTuple):
    """`edits`: of which file what is replaced by what, each found there once.

    `words`: what has to stand in the plan of a history that can find it: others are left out.
    """

    promise: str
    name: str
    edits: list[tuple[str, str, str]]
    words: tuple[str, ...] = ()


def _read(block: str) -> Mutant:
    head, *lines = block.strip("\n").split("\n")
    promise, name, words = re.fullmatch(r"(\w+) ([^\[]+?)(?: \[(.*)\])?", head).groups("")
    edits: list[tuple[str, list[str], list[str]]] = []
    for line in lines:
        if line.startswith("@"):
            edits.append((line[2:], [], []))
        else:
            edits[-1][1 if line.startswith("-") else 2].append(line[1:])
    texts = [(file, "\n".join(old), "\n".join(new)) for file, old, new in edits]
    return Mutant(promise, name, texts, tuple(words.split("; ")) if words else ())


MUTANTS = [_read(block) for block in (ROOT / "tests/simulation/mutants.txt").read_text().split("\n\n")[1:]]


def edited(mutant: Mutant) -> dict[str, str]:
    """Return what files a mutant changes, and to what. Raises LookupError where the product has changed."""
    texts: dict[str, str] = {}
    for file, before, after in mutant.edits:
        text = texts.get(file) or (ROOT / file).read_text("utf-8")
        if text.count(before) != 1:
            raise LookupError(f"{mutant.name}: {before!r} stands {text.count(before)} times in {file}")
        texts[file] = text.replace(before, after)
    return texts


def found(mutant: Mutant, within: int = WITHIN) -> str:
    """Return what the simulator says of a mutant, in one process, "" where it finds nothing."""
    with tempfile.TemporaryDirectory(prefix="simulation-") as name:
        folder = Path(name)
        for each in ("luigi_spendguard", "scheduler_patch", "tests/simulation"):
            shutil.copytree(ROOT / each, folder / each, ignore=shutil.ignore_patterns("__pycache__"))
        (folder / "tests/__init__.py").touch()
        for file, text in edited(mutant).items():
            (folder / file).write_text(text, "utf-8")
        command = [sys.executable, "-m", "tests.simulation", "--many", str(within), "--quiet", "--jobs", "1"]
        command += ["--with", *mutant.words]
        environment = {**os.environ, "PYTHONPATH": str(folder)}
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        if done.returncode not in (0, 1) or "histories in" not in done.stdout:
            raise RuntimeError(f"{mutant.name}: {done.stdout}{done.stderr}")
        return done.stdout.strip() if done.returncode else ""


def look_for(names: list[str]) -> int:
    """Look for these mutants, all where none is named, and say after how many histories each was found.

    Return how many were not.
    """
    wanted = [one for one in MUTANTS if not names or one.name in names]
    if said := found(Mutant("", "nothing is broken", []), within=200):
        raise RuntimeError(said)
    missed = 0
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for mutant, said in zip(wanted, pool.map(found, wanted), strict=True):
            missed += not said
            text = " ".join(said.split())[:150] or "NOT FOUND"
            print(f"{mutant.promise:6}{mutant.name}: {text}", flush=True)
    print(f"{len(wanted) - missed} of {len(wanted)} mutants were found")
    return missed
