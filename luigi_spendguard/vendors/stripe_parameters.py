"""Stripe: which parameters an operation takes, and what each means for what the call may cost.

`stripe_parameters.txt` beside this file has the lists; its head says how they are written.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from luigi_spendguard.errors import denial

_FILE = Path(__file__).with_name("stripe_parameters.txt")

#: What may stand behind a name, by its next part; "" is a value, "[]" any item of a list, "[*]" any key.
Tree = dict[str, Any]

#: A parameter's name in its parts: `items[0][price]` is ("items", "0", "price").
Name = tuple[str, ...]

_TOKEN = re.compile(
    r"(?P<name>\w+)|(?P<list>\[\])|(?P<keys>\[\*\])|(?P<may>\?)|\{@(?P<shared>\w+)\}"
    r"|(?P<in>\{)|(?P<out>\})|(?P<gap> )"
)


@dataclass(frozen=True)
class Marked:
    """One line of the lists: `mark` is `+`, `.` or `-`; `why` says why a `-` is refused."""

    mark: str
    why: str
    tree: Tree


def check(
    address: str, operation: str, names: Iterable[str], *, fixed: bool, priceable: bool = False
) -> None:
    """Raise SpendDenied (`unpriced`) for a parameter that is not known, or is refused.

    At a `fixed` price all that are known pass. `address` is the operation's own, such as
    `POST /v1/refunds/{id}`; `priceable`: it may be given such a price.
    """
    for name in names:
        line = line_of(address, name)
        said = f"{operation} with {name[:100]!r}"
        if line is None:
            raise denial(
                "unpriced",
                f"{said}: this version of luigi_spendguard knows no such parameter of it, nor what it may "
                "cost: leave it out",
            )
        if line.mark == "-" and not fixed:
            price = f", or give it a fixed price in [spendguard_stripe] prices, such as `{operation}: 5`"
            raise denial(
                "unpriced",
                f"{said} has no price, since {line.why}: leave it out{price if priceable else ''}",
            )


def line_of(address: str, name: str) -> Marked | None:
    """Return the line that lists a parameter of an operation, None where none does."""
    parts = _parts(name)
    return next((line for line in marks().get(address, ()) if _takes(line.tree, parts)), None)


def address_of(method: str, path: str) -> str | None:
    """Return the listed address that a path belongs to, None for none; fewer ids go first."""
    parts = path.split("/")
    for line in _by_length().get((method, len(parts)), ()):
        if all(want in ("{id}", got) for want, got in zip(line.split(" ")[1].split("/"), parts, strict=True)):
            return line
    return None


def _parts(name: str) -> Name:
    return tuple(part.rstrip("]") for part in name.split("["))


def _takes(tree: Tree, name: Name) -> bool:
    """Return whether a value may stand under a name."""
    if not name:
        return "" in tree
    first, rest = name[0], name[1:]
    keys = [first] if first else []
    if not first or (first.isascii() and first.isdigit()):
        keys.append("[]")
    return any(_takes(tree[key], rest) for key in [*keys, "[*]"] if key in tree)


def _written(name: Name) -> str:
    return name[0] + "".join(f"[{part}]" for part in name[1:]) if name else ""


@cache
def marks() -> Mapping[str, tuple[Marked, ...]]:
    """Return the lists, by the operation's address. Raises ValueError for a list that cannot be read."""
    shared: dict[str, Tree] = {}
    found: dict[str, tuple[Marked, ...]] = {}
    text = re.sub(r"\n    +", " ", re.sub(r"(?m)^#.*$", "", _FILE.read_text("utf-8")))
    for block in re.split(r"\n\n+", text):
        lines = block.strip().splitlines()
        for line in (one for one in lines if " = " in one):
            name, _, terms = line.partition(" = ")
            shared[name] = _tree(terms, shared)
        marked = [one for one in lines if one[:2] in ("+ ", ". ", "- ")]
        listed = tuple(Marked(one[0], one.partition(" : ")[2], _tree(one[2:].partition(" : ")[0], shared))
                       for one in marked)  # fmt: skip
        for address in (one for one in lines if one.startswith(("POST /", "DELETE /"))):
            if address in found:
                raise ValueError(f"{address} is listed twice")
            found[address] = listed
    return found


@cache
def _by_length() -> Mapping[tuple[str, int], list[str]]:
    found: dict[tuple[str, int], list[str]] = {}
    for line in sorted(marks(), key=lambda one: one.count("{")):
        method, path = line.split(" ")
        found.setdefault((method, path.count("/") + 1), []).append(line)
    return found


def _tree(terms: str, shared: Mapping[str, Tree]) -> Tree:
    """Read terms such as `a b[] c?{d e{@Shared}}`. Raises ValueError."""
    root: Tree = {}
    groups = [root]  # The innermost open one is the last.
    at: Tree | None = None  # Behind the name that is being read.
    end = 0
    for token in _TOKEN.finditer(terms + " "):
        kind, text = str(token.lastgroup), token.group(str(token.lastgroup))
        if token.start() != end:
            raise ValueError(f"{terms[end:][:40]!r} cannot be read")
        end = token.end()
        if kind == "name":
            at = groups[-1].setdefault(text, {})
        elif at is None:
            if kind == "out":
                groups.pop()
            elif kind != "gap":
                raise ValueError(f"{text!r} stands behind no name in {terms[:40]!r}")
        elif kind in ("list", "keys"):
            at = at.setdefault(text, {})
        elif kind == "may":
            at[""] = {}
        elif kind == "shared":
            at.update(shared[text])
            at = None
        elif kind == "in":
            groups.append(at)
            at = None
        else:  # A value stands here, unless there was something behind the name.
            at[""] = {}
            at = None
            if kind == "out":
                groups.pop()
    if len(groups) != 1:
        raise ValueError(f"a brace is open in {terms[:40]!r}")
    return root
