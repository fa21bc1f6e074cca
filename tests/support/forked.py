"""Programs that begin as forks of a process which has loaded other people's libraries.

Half of what `python -m luigi`, luigid and the look-alikes of vendors take to start is loading these. What is
loaded beforehand reads no luigi.cfg and no secret: Luigi itself, the vendors' SDKs, what is put into them and
what is ours is loaded by the fork, but for tables and words (`OURS`), which are found loaded, and read, once
it imports this package. It has the environment, folder, session and standard files that it would have been
executed with, finds modules where it would have, and is waited for, signalled and read as any other process.
Tests alone have that (`is_on`): what the benchmark measures is executed.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import importlib.abc
import importlib.machinery
import json
import os
import runpy
import select
import selectors
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

LIBRARIES = (
    *("anyio", "argparse", "asyncio", "certifi", "click", "concurrent.futures.thread", "configparser"),
    *("cryptography.hazmat.primitives.asymmetric.ed25519", "cryptography.hazmat.primitives.serialization"),
    *("ctypes.util", "dateutil.parser", "difflib", "email.parser", "fractions", "getpass", "gzip", "h11"),
    *("http.cookiejar", "http.server", "httpcore", "logging.config", "multiprocessing.connection"),
    *("multiprocessing.pool", "multiprocessing.queues", "multiprocessing.synchronize", "netrc", "peewee"),
    *("pkgutil", "psycopg", "pygments.lexers", "requests", "rich.markup", "rich.progress", "rich.syntax"),
    *("rich.table", "secrets", "sortedcontainers", "sqlite3", "tenacity", "toml", "tornado.httpclient"),
    *("tornado.httpserver", "tornado.netutil", "tornado.web", "urllib3", "uuid", "xml.etree.ElementTree"),
    "zoneinfo",
)
_PACKAGE = "luigi_spendguard"
#: What every program that imports the package loads anyway, and what that loads of ours.
OURS = tuple(
    f"{_PACKAGE}.{name}"
    for name in (
        *("vendors.misspelt", "vendors.resend", "vendors.stripe", "vendors.twilio"),
        *("protocol.commands", "protocol.rpcs"),
    )
)
#: An environment in which these differ is another interpreter's.
_INTERPRETERS = ("PYTHON", "LANG", "LC_", "LD_", "OPENSSL_", "SSL_", "TZ")
_MOST = 1 << 17
is_on = False
_lock = threading.Lock()
#: The process that forks, of the test process that has started it, and what it was started with.
_template: tuple[int, dict[str, str], socket.socket] | None = None


def started(args: Sequence[str], env: Mapping[str, str], usual: Mapping[str, str], **more: Any) -> Any:
    """Start `python ARGS`, in a session of its own; `usual`: an environment that a fork can have."""
    before = _before(env, usual)
    if is_on and args[0] == "-m" and before is not None:
        return _Forked(args, before, env=env, start_new_session=True, **more)
    return subprocess.Popen([sys.executable, *args], env=env, start_new_session=True, **more)


def _of_interpreter(env: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in env.items() if name.startswith(_INTERPRETERS)}


def _before(env: Mapping[str, str], usual: Mapping[str, str]) -> list[str] | None:
    """Return the folders before the usual ones on Python's path; None where more of Python's differs."""
    path, end = env.get("PYTHONPATH", ""), usual.get("PYTHONPATH", "")
    if _of_interpreter({**env, "PYTHONPATH": end}) != _of_interpreter({**usual, "PYTHONPATH": end}):
        return None
    if path == end:
        return []
    return path.removesuffix(f":{end}").split(":") if end and path.endswith(f":{end}") else None


class _Forked(subprocess.Popen[Any]):
    """A fork; `subprocess` calls these to start and to wait (Python 3.10 to 3.13)."""

    def __init__(self, args: Sequence[str], before: list[str], **more: Any) -> None:
        self._before = before
        super().__init__(args, **more)

    def _execute_child(self, args: Any, *rest: Any) -> None:
        cwd, env, files = rest[4], rest[5], rest[9:15]  # Theirs, ours; ours, theirs; ours, theirs.
        request = json.dumps(
            {"args": args, "env": dict(env), "cwd": str(cwd), "before": self._before}
        ).encode()
        usual = env.get("PYTHONPATH", "").removeprefix("".join(f"{folder}:" for folder in self._before))
        with _lock:
            template = _template_of(_of_interpreter({**env, "PYTHONPATH": usual}))
            theirs = (files[0], files[3], files[5])
            given = [own if one == -1 else one for own, one in enumerate(theirs)]
            socket.send_fds(template, [request], given)
            said, found, _, _ = socket.recv_fds(template, 32, 1)
        self.pid, self._end = int(said), found[0]
        self._child_created = True
        self._close_pipe_fds(*files)

    def _try_wait(self, wait_flags: int) -> tuple[int, int]:
        poll = select.poll()
        poll.register(self._end, select.POLLIN)
        if not poll.poll(0 if wait_flags & os.WNOHANG else None):
            return 0, 0
        said = os.read(self._end, 16)
        os.close(self._end)
        return self.pid, int(said)

    def _internal_poll(self, *_: Any, **__: Any) -> int | None:
        if self.returncode is None and self._waitpid_lock.acquire(False):
            try:
                if self.returncode is None and (ended := self._try_wait(os.WNOHANG))[0]:
                    self._handle_exitstatus(ended[1])
            finally:
                self._waitpid_lock.release()
        return self.returncode


def _template_of(env: dict[str, str]) -> socket.socket:
    global _template
    if _template is None or _template[:2] != (os.getpid(), env):
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [sys.executable, "-c", "from tests.support import forked; forked.serve()"]
            more = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
            process = subprocess.Popen(command, env=more | env, cwd="/", stdin=theirs, start_new_session=True)
        _template = os.getpid(), env, ours
        atexit.register(_end, process, ours)
    return _template[2]


def _end(process: subprocess.Popen[bytes], ours: socket.socket) -> None:
    ours.close()
    process.wait()


class Loaded(importlib.abc.MetaPathFinder):
    """Gives what of ours is loaded already to who imports the package, whose own code is executed then."""

    def __init__(self) -> None:
        # In its place: nothing waits for a pipeline, or puts itself into one, before the package is imported.
        package = sys.modules[_PACKAGE] = ModuleType(_PACKAGE)
        package.__path__ = [os.path.join(path, _PACKAGE) for path in sys.path]
        for name in OURS:
            importlib.import_module(name)
        for name in ("resend", "stripe", "twilio"):
            sys.modules[f"{_PACKAGE}.vendors.{name}.operations"].LISTED.read()
        del sys.modules[_PACKAGE]
        self.modules = {
            name: sys.modules.pop(name) for name in list(sys.modules) if name.startswith(_PACKAGE)
        }

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != _PACKAGE:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module
            spec.loader.exec_module = lambda package: self._executed(execute, package)  # type: ignore[method-assign]
        return spec

    def _executed(self, execute: Callable[[ModuleType], None], package: ModuleType) -> None:
        sys.meta_path.remove(self)
        sys.modules.update(self.modules)
        for name, module in self.modules.items():
            parent, _, last = name.rpartition(".")
            if parent == _PACKAGE:
                setattr(package, last, module)
        execute(package)


def serve() -> None:
    """Fork what is asked for, and tell how each has ended; return in a fork once it has done its work."""
    for name in LIBRARIES:
        importlib.import_module(name)
    sys.meta_path.insert(0, Loaded())
    asked = socket.socket(fileno=os.dup(0))
    ends: dict[int, tuple[int, int]] = {}
    selector = selectors.DefaultSelector()
    selector.register(asked, selectors.EVENT_READ)
    gc.collect()
    gc.freeze()
    while True:
        for key, _ in selector.select():
            if key.fileobj is not asked:
                selector.unregister(key.fd)
                pid, end = ends.pop(key.fd)
                os.write(end, b"%d" % os.waitpid(pid, 0)[1])
                os.close(key.fd)
                os.close(end)
                continue
            request, files, _, _ = socket.recv_fds(asked, _MOST, 3)
            if not request:
                return
            told, end = os.pipe()
            pid = os.fork()
            if not pid:
                selector.close()
                asked.close()
                for one in (told, end, *ends, *(pipe for _, pipe in ends.values())):
                    os.close(one)
                _become(files, **json.loads(request))
                return
            socket.send_fds(asked, [b"%d" % pid], [told])
            ends[watched := os.pidfd_open(pid)] = pid, end
            selector.register(watched, selectors.EVENT_READ)
            for one in (told, *files):
                os.close(one)


def _become(files: list[int], args: list[str], env: dict[str, str], cwd: str, before: list[str]) -> None:
    os.setsid()
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    for standard, file in enumerate(files):
        os.dup2(file, standard)
        os.close(file)
    for file, (name, mode, buffering) in enumerate(
        (("stdin", "r", -1), ("stdout", "w", -1), ("stderr", "w", 1))
    ):
        old = getattr(sys, name)  # It knows what was there before: a file, where there is a pipe now.
        new = os.fdopen(file, mode, buffering, old.encoding, old.errors, closefd=False)
        setattr(sys, name, new)
        setattr(sys, f"__{name}__", new)
    vars(sys.modules["__main__"]).pop("forked")
    sys.path[0], sys.orig_argv = cwd, [sys.executable, *args]
    sys.path[1:1] = before
    if any(os.path.exists(f"{folder}/sitecustomize.py") for folder in before):
        sys.modules.pop("sitecustomize", None)
        importlib.import_module("sitecustomize")  # As Python does when it starts.
    sys.argv = ["-m", *args[2:]]
    runpy._run_module_as_main(args[1])
