"""Writes down which functions of ours a program enters, in their order: CONTRIBUTING's walks are held to it.

    python -m tests.support.tracing FILE MODULE ARGS…

runs a module as `python -m` does. Each entry is a line of FILE: monotonic nanoseconds (one clock for all
processes of a machine), process id, file and line. Forked children write, too; those that are spawned do not.
"""

from __future__ import annotations

import ast
import os
import runpy
import sys
import threading
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from tests.support.processes import REPOSITORY

_OURS = tuple(f"{REPOSITORY / package}{os.sep}" for package in ("luigi_spendguard", "scheduler_patch"))


@dataclass(frozen=True)
class Entry:
    """A function was entered: `path` is relative to the repository, `name` as in `Class.method`."""

    at_ns: int
    pid: int
    path: str
    name: str


@cache
def functions(path: str) -> dict[int, str]:
    """Return the qualified name of each function of a file of the repository, by its first line."""
    found: dict[int, str] = {}

    def walk(node: ast.AST, names: tuple[str, ...]) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                inner = (*names, child.name)
                if not isinstance(child, ast.ClassDef):
                    first = min([child.lineno, *(one.lineno for one in child.decorator_list)])
                    found[first] = ".".join(inner)
                walk(child, inner)
            else:
                walk(child, names)

    walk(ast.parse((REPOSITORY / path).read_text("utf-8")), ())
    return found


def entries(file: Path) -> list[Entry]:
    """Return what was written, in the order of time; lambdas and comprehensions are left out."""
    found = []
    for line in file.read_text("utf-8").splitlines():
        at, pid, path, first = line.split("\t")
        name = functions(path).get(int(first))
        if name is not None:
            found.append(Entry(int(at), int(pid), path, name))
    return sorted(found, key=lambda entry: entry.at_ns)


def _trace(file: str) -> None:
    out = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    ours: dict[CodeType, str] = {}

    def entered(frame: FrameType, event: str, _: Any) -> None:
        if event != "call":
            return
        code = frame.f_code
        place = ours.get(code)
        if place is None:
            name = code.co_filename
            place = (
                f"{os.path.relpath(name, REPOSITORY)}\t{code.co_firstlineno}"
                if name.startswith(_OURS)
                else ""
            )
            ours[code] = place
        if place:
            os.write(out, f"{time.monotonic_ns()}\t{os.getpid()}\t{place}\n".encode())

    threading.setprofile(entered)
    sys.setprofile(entered)


if __name__ == "__main__":
    _, _file, _module, *_args = sys.argv
    sys.argv = [_module, *_args]
    _trace(_file)
    runpy.run_module(_module, run_name="__main__", alter_sys=True)
