"""A vendor's tables: of which kind an operation is, which parameters it takes, and what they may cost.

The parameters are a list beside the vendor's code, a file of lines, in blocks that a blank line ends:

    Name = terms         a group that occurs more than once
    POST /v1/… : rule    the operations to which the lines below apply, by method and address; at Stripe with
                         the rule that prices them
    + terms              read by the operation's own rule: it feeds the price
    . terms              raises nothing of what the call may cost
    = terms : v w : why  raises nothing at these values; refused at any other, as `-` is
    - terms : why        refused, unless the operation has a fixed price

A term is a name and what stands behind it: `a[]` a list, `a[*]` keys of the caller's own, `a{b c}` a group,
`a{@Name}` a group from above, `a?[]` a list that may be empty; an indented line goes on, and `#` begins a
remark. A parameter that is in no line is refused: who knows what it costs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from luigi_spendguard.errors import denial
from luigi_spendguard.process_state import made_once
from luigi_spendguard.vendors.bodies import DEEPEST

#: What may stand behind a name, by its next part: "" is a value, "[]" any item of a list, "[*]" any key.
Tree = dict[str, Any]

#: A parameter's name in its parts: `items[0][price]` is ("items", "0", "price"); in JSON any item is "", and
#: None stands where nothing is: in an empty group or list, or for a null.
Name = tuple[str | None, ...]

_TOKEN = re.compile(
    r"(?P<name>[\w/.-]+)|(?P<list>\[\])|(?P<keys>\[\*\])|(?P<may>\?)|\{@(?P<shared>\w+)\}"
    r"|(?P<open>\{)|(?P<close>\})|(?P<gap> )"
)
_ADDRESS = re.compile(r"(?:GET|POST|PUT|PATCH|DELETE) \S.*")


class Kinds:
    """Rules of a kind and what a request's line has to match as a whole; the first that matches decides.

    Restrictive rules match in any letter case, so that none can be written around; free ones only as they
    stand.
    """

    def __init__(self, rules: Sequence[tuple[str, str]]) -> None:
        self._rules = [
            (kind, re.compile(text, 0 if kind == "free" else re.IGNORECASE)) for kind, text in rules
        ]

    def of(self, line: str) -> str:
        """Return the kind of `line`, "unpriced" for what is in no rule."""
        return next((kind for kind, pattern in self._rules if pattern.fullmatch(line)), "unpriced")


@dataclass(frozen=True)
class Marked:
    """One line of a list: `mark` is `+`, `.`, `=` or `-`; `why` says why it is refused.

    `values`: at which of them a `=` is not.
    """

    mark: str
    why: str
    tree: Tree
    values: tuple[str, ...] = ()


class Parameters:
    """The lists of one vendor, read when they are first needed."""

    def __init__(self, vendor: str) -> None:
        self._vendor = vendor
        self._file = Path(__file__).parent / vendor / "parameters.txt"

    def read(self) -> None:
        """Read the lists now: a process that is forked later has them."""
        assert self._by_length is not None

    def check(
        self,
        address: str,
        operation: str,
        values: Mapping[Name, AbstractSet[str]],
        *,
        fixed: bool,
        priceable: bool = False,
    ) -> None:
        """Raise SpendDenied (`unpriced`) for a parameter that is not known, or is refused.

        At a `fixed` price all that are known pass. `address` is one of the lists'; `values` are those of each
        parameter; `priceable`: the operation may be given such a price.
        """
        for name, its_values in values.items():
            line, what = self.line_of(address, name), f"{operation} with {_written(name)[:100]!r}"
            if line is None:
                raise denial(
                    "unpriced",
                    f"{what}: this version of luigi_spendguard knows no such parameter of it, nor what it "
                    "may cost: leave it out",
                )
            refused = line.mark == "-" or (line.mark == "=" and not its_values <= {*line.values})
            if refused and not fixed:
                other = f" other than {' and '.join(line.values)}" if line.values else ""
                price = f", or give it a fixed price in [spendguard_{self._vendor}] prices, such as"
                raise denial(
                    "unpriced",
                    f"{what}{other} has no price, since {line.why or 'the operation has none'}: leave it out"
                    + (f"{price} `{operation}: 5`" if priceable else ""),
                )

    def line_of(self, address: str, name: Name) -> Marked | None:
        """Return the line that lists a parameter of an operation, None where none does."""
        return next((line for line in self.marks.get(address, ()) if takes(line.tree, name)), None)

    def address_of(self, method: str, path: str) -> str | None:
        """Return the listed address that a path belongs to, None for none; fewer ids go first."""
        parts = path.split("/")
        for address in self._by_length.get((method, len(parts)), ()):
            listed = address.partition(" ")[2].split("/")
            if all(want in ("{id}", got) for want, got in zip(listed, parts, strict=True)):
                return address
        return None

    def trees(self, address: str) -> Iterator[tuple[str, Tree]]:
        """Yield the first part of the names of an operation's parameters, and what may stand behind it."""
        for line in self.marks[address]:
            yield from line.tree.items()

    def rules(self) -> Iterator[tuple[str, list[str]]]:
        """Yield the addresses that have a rule, with its words; the parameters' lines are not read."""
        for line in filter(_ADDRESS.match, self._text.splitlines()):
            address, _, rule = line.partition(" : ")
            if rule:
                yield address, rule.split(" ")

    @made_once
    def marks(self) -> Mapping[str, tuple[Marked, ...]]:
        """Return the lines by the operation's address. Raises ValueError for a list that cannot be read."""
        shared: dict[str, Tree] = {}
        marks: dict[str, tuple[Marked, ...]] = {}
        text = re.sub(r"\n    +", " ", re.sub(r"(?m)^#.*$", "", self._text))
        for block in re.split(r"\n\n+", text):
            addresses: list[str] = []
            marked: list[Marked] = []
            for line in block.strip().splitlines():
                if _ADDRESS.fullmatch(line):
                    addresses.append(line.partition(" : ")[0])
                elif line[:2] in ("+ ", ". ", "= ", "- "):
                    terms, _, why = line[2:].partition(" : ")
                    values, _, why = why.partition(" : ") if line[0] == "=" else ("", "", why)
                    marked.append(Marked(line[0], why, tree_of(terms, shared), tuple(values.split())))
                else:
                    name, equals, terms = line.partition(" = ")
                    if not equals:
                        raise ValueError(f"{self._file.name}: {line[:60]!r} cannot be read")
                    shared[name] = tree_of(terms, shared)
            for one in addresses:
                if one in marks:
                    raise ValueError(f"{self._file.name}: {one} is listed twice")
                marks[one] = tuple(marked)
        return marks

    @made_once
    def _by_length(self) -> Mapping[tuple[str, int], list[str]]:
        by_length: dict[tuple[str, int], list[str]] = {}
        for address in sorted(self.marks, key=lambda one: one.count("{id}")):
            method, _, path = address.partition(" ")
            by_length.setdefault((method, path.count("/") + 1), []).append(address)
        return by_length

    @property
    def _text(self) -> str:
        return self._file.read_text("utf-8")


def values_in(value: Any) -> dict[Name, set[str]]:
    """Return the names of all values in decoded JSON, with the values: a text as it is, others as in JSON.

    An item of a list is "", whatever its number.
    """
    values: dict[Name, set[str]] = {}
    unread: list[tuple[Name, Any]] = [((), value)]
    while unread:
        name, one = unread.pop()
        if len(name) > DEEPEST:
            values[name] = set()  # No list goes so deep.
        elif isinstance(one, dict) and one:
            unread += [((*name, key), inner) for key, inner in one.items()]
        elif isinstance(one, list) and one:
            inner = (*name, "")
            unread += [(inner, item) for item in one if isinstance(item, (dict, list))]
            for item in one:
                if not isinstance(item, (dict, list)):
                    values.setdefault(inner, set()).add(_text(item))
        elif one is not None and not isinstance(one, (dict, list)):
            values.setdefault(name, set()).add(_text(one))
        elif name:
            values[(*name, None)] = {""}
    return values


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def takes(tree: Tree, name: Name) -> bool:
    """Return whether a value may stand under a name."""
    if not name:
        return "" in tree
    first, rest = name[0], name[1:]
    if first is None:
        return True
    keys = [first] if first else []
    if not first or (first.isascii() and first.isdigit()):
        keys.append("[]")
    return any(takes(tree[key], rest) for key in [*keys, "[*]"] if key in tree)


def _written(name: Name) -> str:
    return f"{name[0]}" + "".join(f"[{part or ''}]" for part in name[1:]) if name else "a value"


def tree_of(terms: str, shared: Mapping[str, Tree] = MappingProxyType({})) -> Tree:
    """Read terms such as `a b[] c?{d e{@Shared}}`. Raises ValueError."""
    root: Tree = {}
    groups = [root]  # The innermost open one is the last.
    at: Tree | None = None  # Behind the name that is being read.
    bare = False  # Nothing stands behind it yet.
    end = 0
    for token in _TOKEN.finditer(terms + " "):
        kind, text = str(token.lastgroup), token.group(str(token.lastgroup))
        if token.start() != end:
            break
        end = token.end()
        if at is not None and bare and kind in ("gap", "close", "may"):
            at[""] = {}
        if kind == "name":
            at, bare = groups[-1].setdefault(text, {}), True
        elif kind == "gap":
            at = None
        elif kind == "close" and len(groups) > 1:
            groups.pop()
            at = None
        elif at is None or kind == "close":
            raise ValueError(f"{text!r} stands behind no name in {terms[:40]!r}")
        elif kind in ("list", "keys"):
            at, bare = at.setdefault(text, {}), True
        elif kind == "shared":
            at.update(shared[text])
            at = None
        elif kind == "open":
            groups.append(at)
            at = None
    if end != len(terms) + 1 or len(groups) != 1:
        raise ValueError(f"{terms[end - 1 :][:40] or terms[:40]!r} cannot be read")
    return root
