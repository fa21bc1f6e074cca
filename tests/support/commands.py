"""`spendguard` in this process, as one of its own would be: environment, folder, luigi.cfg, streams."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from unittest.mock import patch

from luigi.configuration.cfg_parser import LuigiConfigParser

from luigi_spendguard.__main__ import main


@contextmanager
def process_of(folder: Path, environment: Mapping[str, str]) -> Iterator[None]:
    """Have what a process started in `folder` has of Luigi's configuration."""
    before = os.getcwd()
    paths = [*LuigiConfigParser._config_paths]
    with ExitStack() as stack:
        stack.enter_context(patch.dict(os.environ, environment, clear=True))
        stack.enter_context(patch.object(LuigiConfigParser, "_instance", None))
        stack.enter_context(patch.object(LuigiConfigParser, "_config_paths", paths))
        stack.callback(os.chdir, before)
        os.chdir(folder)
        if name := environment.get("LUIGI_CONFIG_PATH"):
            LuigiConfigParser.add_config_path(name)
        yield


def run_here(folder: Path, environment: Mapping[str, str], *args: str) -> tuple[int, str, str]:
    """Run `spendguard ARGS`; return its exit code, stdout and stderr."""
    out = io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True)
    err = io.StringIO()
    code = 0
    with (
        process_of(folder, environment),
        patch.object(sys, "argv", ["spendguard", *args]),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    return code, out.buffer.getvalue().decode(), err.getvalue()
