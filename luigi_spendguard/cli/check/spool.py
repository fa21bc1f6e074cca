"""What waits on this host to be told to a ledger."""

from __future__ import annotations

import os
import time
from pathlib import Path

from luigi_spendguard.cli.check.finding import Finding, Grade
from luigi_spendguard.counted import counted
from luigi_spendguard.http.spool import backlog, spool_folder

_LOST = "what cannot be told to luigid is lost with its worker"
_NEXT = "the next worker here, or `spendguard deliver`, to say"
#: Of a ledger that is no luigid's address.
_OWN = "luigid, its gateway or the next worker here with --local-scheduler to book"


def waiting() -> Finding:
    """Return the line about it: this user's, as each user's workers have a folder of their own."""
    folder = spool_folder()
    if folder is None:
        return Finding("spool", f"this user has no home: {_LOST}; set XDG_STATE_HOME", Grade.LOOK)
    try:
        found = backlog(folder)
        nearest = next(place for place in (folder, *folder.parents) if place.exists())
        if not os.access(nearest, os.W_OK):
            raise PermissionError(f"this user may not write {nearest}")
    except OSError as error:
        return Finding("spool", f"{folder} cannot be used ({error}): {_LOST}", Grade.LOOK)
    said = [_line(folder, to, *those) for to, those in sorted(found.waiting.items())]
    if found.refused:
        said.append(f"{counted(found.refused, 'message')} refused for good: look into {found.refused_in}")
    if not said:
        return Finding("spool", f"nothing waits in {folder}")
    return Finding("spool", "; ".join(said), Grade.LOOK)


def _line(folder: Path, to: str, count: int, since_ms: int) -> str:
    since = time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(since_ms / 1000))
    verb, who = "waits" if count == 1 else "wait", _NEXT if to.startswith("http") else _OWN
    return f"{counted(count, 'message')} for {to} {verb} since {since} in {folder}, for {who}"
