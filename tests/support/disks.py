"""A small disk that can be full: a tmpfs of its own, which takes root (or sudo without a password)."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path


class SmallDisk:
    """A disk of so many MB at a folder; `with` unmounts it, with all that it has. Raises OSError."""

    def __init__(self, folder: Path, size_mb: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self._filler = folder, folder / "filler"
        said = f"size={size_mb}m,mode=700,uid={os.geteuid()},gid={os.getegid()}"
        _as_root("mount", "-t", "tmpfs", "-o", said, "tmpfs", str(folder))

    def fill(self) -> None:
        """Leave not one byte."""
        descriptor = os.open(self._filler, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            for size in (1 << 20, 1 << 12):
                with contextlib.suppress(OSError):
                    while True:
                        os.posix_fallocate(descriptor, os.fstat(descriptor).st_size, size)
        finally:
            os.close(descriptor)

    def free(self) -> None:
        """Make room again."""
        self._filler.unlink(missing_ok=True)

    @contextlib.contextmanager
    def full(self) -> Iterator[None]:
        """Let it be full in the block."""
        self.fill()
        try:
            yield
        finally:
            self.free()

    def __enter__(self) -> SmallDisk:
        return self

    def __exit__(self, *args: object) -> None:
        _as_root("umount", "--lazy", str(self.folder))
        with contextlib.suppress(OSError):
            self.folder.rmdir()


def _as_root(*command: str) -> None:
    own = () if os.geteuid() == 0 else ("sudo", "-n")
    done = subprocess.run([*own, *command], capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")


@cache
def why_none() -> str:
    """Return why there are no small disks here, "" where there are."""
    try:
        with tempfile.TemporaryDirectory() as folder, SmallDisk(Path(folder) / "disk", 1):
            return ""
    except OSError as error:
        return f"no small disk can be mounted here: {error}"
