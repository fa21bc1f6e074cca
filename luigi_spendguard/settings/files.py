"""The raw values of `[spendguard…]` in Luigi's configuration files, ini and TOML alike.

Luigi's own parsers are not asked: they interpolate `%`, merge `[DEFAULT]` into every section, name
values in warnings, and drop what they cannot read.

A secret or token may have a file of its own (`secret_file`, `admin_token_file`, `worker_token_file`): one
line, in a file that nobody but its owner (and root) may read, as systemd's LoadCredential and mounted secrets
are.
"""

from __future__ import annotations

import configparser
import difflib
import os
import re
import stat
import struct
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PREFIX = "spendguard"


class ConfigError(ValueError):
    """A setting cannot be used; the message names file, section and key, never a secret's value."""


@dataclass(frozen=True)
class Raw:
    """A value as it stands in a file: a text in ini; a text, number, boolean or list in TOML."""

    value: Any
    file: str
    section: str
    key: str

    def error(self, what: str) -> ConfigError:
        """Return the error that says `what` is wrong with this setting."""
        return ConfigError(f"{self.file}: [{self.section}] {self.key}: {what}")


#: section -> key -> value, of `[spendguard]` and the sections whose names begin with `spendguard_`.
Sections = dict[str, dict[str, Raw]]


def luigi_files(environ: Mapping[str, str]) -> tuple[str, list[Path], str]:
    """Return the format (`ini` or `toml`), the files that Luigi reads here, later ones winning, a complaint.

    The complaint says that LUIGI_CONFIG_PATH names a file that Luigi ignores; else it is empty.
    """
    # Here, because importing Luigi reads the files: see `readable`.
    from luigi.configuration.core import PARSERS

    asked = environ.get("LUIGI_CONFIG_PARSER", "cfg")
    parser = PARSERS.get(asked, PARSERS["cfg"])
    files = [Path(path) for path in parser._config_paths]
    kind = "toml" if parser is PARSERS["toml"] else "ini"
    extra, complaint = environ.get("LUIGI_CONFIG_PATH"), ""
    if extra:
        ending = os.path.splitext(extra)[1][1:]
        if not os.path.isfile(extra):
            complaint = f"LUIGI_CONFIG_PATH names {extra}, which is no file"
        elif PARSERS.get(ending, parser) is not parser:
            complaint = (
                f"LUIGI_CONFIG_PATH names {extra}, which Luigi ignores: set LUIGI_CONFIG_PARSER={ending}"
            )
        elif Path(extra) not in files:
            files.append(Path(extra))
    return kind, [path for path in files if path.exists()], complaint


def read_sections(kind: str, files: Sequence[Path], *, complete: bool = False) -> Sections:
    """Return our sections of all files; a later file's key replaces an earlier one's.

    Raises ConfigError for a file that cannot be read or is no ini or TOML; when `complete`, also for one
    whose last line has no end: it may be being written.
    """
    merged: Sections = {}
    for path in files:
        try:
            text = path.read_text("utf-8")
        except IsADirectoryError:
            continue  # Luigi reads no file there either, and starts.
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            raise ConfigError(f"{path}: cannot be read: {why}") from None
        if complete and text and not text.endswith("\n"):
            raise ConfigError(
                f"{path}: its last line has no end, so it may be cut off: end it with a newline"
            )
        parsed = _toml(path, text) if kind == "toml" else _ini(path, text)
        for section, content in parsed.items():
            if not section.lower().startswith(PREFIX):
                _check_not_meant(path, section)
                continue
            if not isinstance(content, Mapping):
                raise ConfigError(f"{path}: {section} must be a section: write [{section}]")
            values = merged.setdefault(section, {})
            for key, value in content.items():
                values[key] = Raw(value, str(path), section, key)
    return merged


def _check_not_meant(path: Path, section: str) -> None:
    """Refuse a section of somebody else's whose name is nearly ours: its limits would be ignored."""
    letters = re.sub(r"[^a-z]", "", section.lower())
    near = difflib.SequenceMatcher(None, letters[: len(PREFIX)], PREFIX).ratio()
    if PREFIX in letters or near >= 0.8:
        raise ConfigError(
            f"{path}: [{section}] is no section of luigi_spendguard: our sections begin with {PREFIX}, as "
            f"[{PREFIX}] and [{PREFIX}_caps] do"
        )


def _ini(path: Path, text: str) -> Mapping[str, Any]:
    parser = configparser.RawConfigParser(default_section="")
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # families keep their case
    try:
        parser.read_string(text)
    except configparser.Error as error:
        raise _unreadable_ini(path, error) from None
    return {section: dict(parser.items(section)) for section in parser.sections()}


def _toml(path: Path, text: str) -> Mapping[str, Any]:
    try:
        return tomllib.loads(text, parse_float=Decimal)
    except tomllib.TOMLDecodeError as error:
        raise _unreadable_toml(path, error) from None


def _unreadable_ini(path: object, error: configparser.Error) -> ConfigError:
    # Not the error's own text: it quotes the line, which may hold a secret.
    if isinstance(error, configparser.DuplicateOptionError):
        return ConfigError(f"{path}: [{error.section}] {error.option}: is given twice")
    if isinstance(error, configparser.DuplicateSectionError):
        return ConfigError(f"{path}: the section [{error.section}] is given twice")
    if isinstance(error, configparser.MissingSectionHeaderError):
        return ConfigError(f"{path}: line {error.lineno} stands before any [section]")
    lines = ", ".join(str(number) for number, _ in getattr(error, "errors", ()))
    return ConfigError(f"{path}: line {lines or '?'} is neither a section nor key = value")


def _unreadable_toml(path: object, error: ValueError) -> ConfigError:
    where = re.search(r"line \d+,? column \d+|end of document", str(error))
    place = f" ({where.group()})" if where else ""
    return ConfigError(f"{path}: is no valid TOML{place}: a text needs quotes, a key may stand once")


@contextmanager
def readable() -> Iterator[None]:
    """Turn what Luigi raises when its import meets a file that is no ini or TOML into ConfigError."""
    try:
        yield
    except ImportError as error:
        if "luigi[" not in str(error):
            raise
        # Luigi's own, of a parser whose package is an extra of it.
        raise ConfigError(
            "LUIGI_CONFIG_PARSER=toml needs the package with which Luigi reads TOML: "
            "pip install 'luigi[toml]'"
        ) from None
    except configparser.Error as error:
        raise _unreadable_ini(Path(getattr(error, "source", "luigi.cfg")).absolute(), error) from None
    except ValueError as error:
        if type(error).__name__.lower() != "tomldecodeerror":  # Of `toml`, which Luigi uses, or `tomllib`.
            raise
        file = Path(os.environ.get("LUIGI_CONFIG_PATH", "luigi.toml")).absolute()
        raise _unreadable_toml(file, error) from None


_VARIABLE = re.compile(r"\$\{([^}]*)\}")


def expanded(raw: Raw, text: str, environ: Mapping[str, str], *, optional: bool) -> str | None:
    """Return `text` with every `${VAR}` replaced; None when one is unset and the setting `optional`.

    Raises ConfigError for an unset variable elsewhere.
    """
    unset: list[str] = []

    def value(match: re.Match[str]) -> str:
        text = environ.get(match.group(1).strip(), "")
        if not text:
            unset.append(match.group(1).strip())
        return text

    result = _VARIABLE.sub(value, text)
    if unset and optional:
        return None
    if unset:
        raise raw.error(f"the environment variable {unset[0][:60]!r} is not set")
    return result


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
        return read(raw, _only_line(raw, path))

    return read_file


def _only_line(raw: Raw, path: str) -> str:
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
