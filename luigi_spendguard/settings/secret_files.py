"""A secret or token in a file of its own: `secret_file`, `admin_token_file`, `worker_token_file`.

One line, in a file that nobody but its owner (and root) may read, as systemd's LoadCredential and mounted
secrets are.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Callable

from luigi_spendguard.settings.files import ConfigError, Raw

#: The most that is read of a file, in bytes.
_LONGEST = 64 << 10
#: acl(5) as Linux keeps it in an extended attribute: a version, then (tag, permissions, id) each.
_ACL, _ACL_VERSION, _ACL_ENTRY = "system.posix_acl_access", 2, struct.Struct("<HHI")
_ACL_OWNER, _ACL_USER, _ACL_MASK = 0x01, 0x02, 0x10


class NotReadable(ConfigError):
    """The file is there, but this user may not read it: the setting counts as not set here."""


def in_file(read: Callable[[Raw, str], str]) -> Callable[[Raw, str], str]:
    """Return a reader of a path whose file's one line is then read by `read`."""

    def read_file(raw: Raw, path: str) -> str:
        return read(raw, _line(raw, path))

    return read_file


def _line(raw: Raw, path: str) -> str:
    """Return the one line of a private file. Raises NotReadable, ConfigError; neither shows what is in it."""
    if not os.path.isabs(path):
        raise raw.error("must be an absolute path")
    try:
        # A FIFO that nobody writes to must not stop the start.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    except FileNotFoundError:
        raise raw.error(
            f"there is no file {path}: make it, or remove this line (a path with a ${{VARIABLE}} that is "
            "not set counts as not set)"
        ) from None
    except PermissionError:
        raise NotReadable(
            str(raw.error(f"{path} may not be read by this user: it counts as not set"))
        ) from None
    except (OSError, ValueError) as error:
        raise raw.error(f"{path} cannot be read: {getattr(error, 'strerror', error)}") from None
    try:
        _check_private(raw, path, descriptor)
        content = os.read(descriptor, _LONGEST + 1)
    except OSError as error:
        raise raw.error(f"{path} cannot be read: {error.strerror}") from None
    finally:
        os.close(descriptor)
    line = content.removesuffix(b"\n").removesuffix(b"\r")
    if not line or len(line) > _LONGEST or b"\n" in line or b"\r" in line:
        raise raw.error(f"{path} must hold one line, the secret and nothing else")
    return line.decode("ascii", "replace")


def _check_private(raw: Raw, path: str, descriptor: int) -> None:
    """Refuse a file that others may read or write. Raises ConfigError."""
    file = os.fstat(descriptor)
    if not stat.S_ISREG(file.st_mode):
        raise raw.error(f"{path} is no file")
    if not hasattr(os, "geteuid"):
        return  # Windows has neither.
    if file.st_uid not in (0, os.geteuid()):
        raise raw.error(f"{path} must belong to the user of this process, or to root")
    mode = stat.S_IMODE(file.st_mode)
    if mode & 0o077 and not (mode & 0o007 == 0 and _only_acl(descriptor, os.geteuid())):
        raise raw.error(
            f"{path} may be read or written by others (its mode is {mode:04o}): chmod 600 {path}, and "
            "replace the secret if others could read it"
        )


def _only_acl(descriptor: int, user: int) -> bool:
    """Return whether the group's bits in the mode are no group's, but an ACL's for `user` alone.

    So systemd gives a credential to a service: root's file, and an ACL for the service's user.
    """
    try:
        acl = os.getxattr(descriptor, _ACL)
    except (OSError, AttributeError):
        return False
    if len(acl) % _ACL_ENTRY.size != 4 or acl[:4] != struct.pack("<I", _ACL_VERSION):
        return False
    return all(
        not allowed or tag in (_ACL_OWNER, _ACL_MASK) or (tag == _ACL_USER and who in (0, user))
        for tag, allowed, who in _ACL_ENTRY.iter_unpack(acl[4:])
    )
