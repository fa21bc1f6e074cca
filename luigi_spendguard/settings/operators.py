"""The operators that luigi.cfg names: whose token is whose, and what each may do.

`[spendguard_operators] NAME = token` (or `NAME_file`, a file with it) and `[spendguard_roles] NAME = role`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from luigi_spendguard.redaction import Secret
from luigi_spendguard.settings import values
from luigi_spendguard.settings.files import ConfigError, Raw, Sections, in_file

OPERATORS, ROLES_SECTION = "spendguard_operators", "spendguard_roles"
#: Where an operator's token may be, of who has no luigi.cfg with it.
VARIABLE = "SPENDGUARD_TOKEN"
#: What an operator may do; each role may do what those before it may.
ROLES = ("read", "operate", "admin")
#: Of who has no line in `[spendguard_roles]`.
DEFAULT_ROLE = "operate"
#: Each name is shown as `NAME at ADDRESS`: with a blank in it, one could be taken for another.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
#: What a process looks for in all its texts is bounded, and a vendor's secret is not to be crowded out.
_MOST = 40


@dataclass(frozen=True)
class NamedOperator:
    """A person who may change something.

    Attributes:
        role: one of `ROLES`.
        token: None where this process has none: its environment variable is not set here.

    """

    name: str
    role: str = DEFAULT_ROLE
    token: Secret | None = field(default=None, repr=False)


def may(role: str, needed: str) -> bool:
    """Return whether a role, or "" for none, is enough for what needs another."""
    return role in ROLES and ROLES.index(role) >= ROLES.index(needed)


def name_of(key: str) -> str:
    """Return whose token a key of `[spendguard_operators]` is."""
    return key.removesuffix("_file")


def token(raw: Raw, text: str) -> Secret:
    """Return an operator's token, which may be the path of a file. Raises ConfigError."""
    if len(text) < values.TOKEN_LENGTH <= len(name_of(raw.key)):  # They may have changed places.
        what = "a line has a name where its token belongs: write NAME = token"
        raise ConfigError(f"{raw.file}: [{raw.section}]: {what}")
    read = in_file(values.token) if raw.key.endswith("_file") else values.token
    return Secret(read(raw, text))


def role(raw: Raw, text: str) -> str:
    """Return a role. Raises ConfigError."""
    return values.one_of(*ROLES)(raw, text)


def check_names(sections: Sections) -> None:
    """Refuse names that cannot be shown, told apart, or are nobody's; before anything else is said of them.

    Raises ConfigError.
    """
    owners: dict[str, str] = {}
    content = sections.get(OPERATORS, {})
    for raw in (*content.values(), *sections.get(ROLES_SECTION, {}).values()):
        if _NAME.fullmatch(name_of(raw.key)) is None:
            # Not the name: what cannot be one may be a token.
            raise ConfigError(
                f"{raw.file}: [{raw.section}]: a name there cannot be shown: it has at most 64 letters, "
                "digits and . _ @ -, and begins with a letter or digit"
            )
    for key, raw in content.items():
        name = name_of(key)
        if owners.setdefault(name.lower(), name) != name:
            raise raw.error(f"differs from {owners[name.lower()]} in capitals alone: take another name")
    if len(owners) > _MOST:
        raise next(reversed(content.values())).error(
            f"is one more than the {_MOST} operators that there may be"
        )
    for key, raw in sections.get(ROLES_SECTION, {}).items():
        if key not in owners.values():
            there = ", ".join(owners.values()) or "nobody"
            raise raw.error(f"there is no such name in [{OPERATORS}], which has {there}")


def operators_of(
    sections: Sections,
    tokens: Mapping[str, Secret],
    roles: Mapping[str, str],
    others: Mapping[str, str],
) -> dict[str, NamedOperator]:
    """Return the operators by name; `others` are tokens that are no operator's, by what they are called.

    Raises ConfigError for a token that stands for two: nobody could tell who has shown it.
    """
    found: dict[str, NamedOperator] = {}
    for key, raw in sections.get(OPERATORS, {}).items():
        name = name_of(key)
        own = tokens.get(name)
        whose = {other: what for what, other in others.items()}
        whose |= {one.token: f"{one.name}'s" for one in found.values() if one.token is not None}
        if own is not None and own in whose and name not in found:
            raise raw.error(f"is the same token as {whose[own]}: nobody could tell who has shown it")
        found[name] = NamedOperator(name, roles.get(name, DEFAULT_ROLE), own)
    return found


def who_may(
    operators: Mapping[str, NamedOperator], needed: str, *, with_token: bool = False
) -> Iterator[str]:
    """Yield the names of the operators whose role is enough; `with_token`: and whose token is known here."""
    for one in operators.values():
        if may(one.role, needed) and not (with_token and one.token is None):
            yield one.name
