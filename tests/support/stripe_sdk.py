"""What the installed stripe SDK can send: every POST and DELETE, with the names of its parameters.

python -m tests.support.stripe_sdk says which of them `vendors/stripe/parameters.txt` does not list, and
what it lists that neither the SDK nor Stripe's specification has.

Names are in their normal form: `items[][price]` is any item's price, `metadata[*]` has keys of the caller's.
They are read from the SDK's source (its services name the address and the class of the parameters), so
nothing of it is executed.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import stripe

from luigi_spendguard.vendors.parameters import Marked, Tree
from luigi_spendguard.vendors.stripe.operations import LISTED
from tests.support import marking

_ROOT = Path(stripe.__file__).parent
_SENDS = {"_request", "_static_request"}

#: A class of parameters: the module that it stands in, and its name.
Kind = tuple[Path, str]


@cache
def _classes(module: Path) -> dict[str, dict[str, ast.expr]]:
    """Return the fields of every TypedDict in a module, however it is declared.

    Names that are Python's own (`from`) stand in a base made by a call.
    """
    found: dict[str, dict[str, ast.expr]] = {}
    for node in ast.parse(module.read_text("utf-8")).body:
        if isinstance(node, ast.ClassDef):
            above = [found[base.id] for base in node.bases if isinstance(base, ast.Name) and base.id in found]
            found[node.name] = {name: field for one in above for name, field in one.items()} | {
                part.target.id: part.annotation
                for part in node.body
                if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name)
            }
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            target, fields = node.targets[0], node.value.args[1:]
            if isinstance(target, ast.Name) and fields and isinstance(fields[0], ast.Dict):
                found[target.id] = {
                    str(key.value): value
                    for key, value in zip(fields[0].keys, fields[0].values, strict=True)
                    if isinstance(key, ast.Constant)
                }
    return found


def _shapes(annotation: ast.expr, known: dict[str, dict[str, ast.expr]]) -> Iterator[tuple[str, str]]:
    """Yield what a field may hold: what stands behind its name, and the class of a group ("" for none)."""
    if isinstance(annotation, ast.Constant):
        if isinstance(annotation.value, str):
            try:
                yield from _shapes(ast.parse(annotation.value, mode="eval").body, known)
            except SyntaxError:
                yield "", ""
    elif isinstance(annotation, ast.BinOp):
        yield from _shapes(annotation.left, known)
        yield from _shapes(annotation.right, known)
    elif isinstance(annotation, ast.Subscript) and isinstance(annotation.value, ast.Name):
        kind, inner = annotation.value.id, annotation.slice
        if kind in ("NotRequired", "Required", "Optional"):
            yield from _shapes(inner, known)
        elif kind in ("List", "list"):
            yield from (("[]" + behind, of) for behind, of in _shapes(inner, known))
        elif kind in ("Dict", "dict"):
            assert isinstance(inner, ast.Tuple)
            yield from (("[*]" + behind, of) for behind, of in _shapes(inner.elts[1], known))
        elif kind == "Union":
            for one in inner.elts if isinstance(inner, ast.Tuple) else [inner]:
                yield from _shapes(one, known)
        elif kind == "Literal":
            yield "", ""
        else:
            yield "[*]", ""  # UntypedStripeObject: keys of the caller's.
    elif isinstance(annotation, ast.Name):
        yield "", annotation.id if annotation.id in known else ""
    else:
        yield "", ""


def _names(kind: Kind, stem: str = "") -> Iterator[str]:
    module, name = kind
    known = _classes(module)
    if stem and not known[name]:
        yield stem  # A group in which nothing stands yet.
    for field, annotation in known[name].items():
        whole = f"{stem}[{field}]" if stem else field
        for behind, group in set(_shapes(annotation, known)):
            if group:
                yield from _names((module, group), whole + behind)
            else:
                yield whole + behind


def _imports(tree: ast.Module) -> dict[str, Kind]:
    return {
        alias.asname or alias.name: (_ROOT.parent / (node.module.replace(".", "/") + ".py"), alias.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("stripe.params")
        for alias in node.names
    }


def _sent(function: ast.FunctionDef) -> Iterator[str]:
    """Yield the addresses to which a method sends, with `{id}` for each id."""
    for call in ast.walk(function):
        if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute)):
            continue
        if call.func.attr not in _SENDS or len(call.args) < 2 or not isinstance(call.args[0], ast.Constant):
            continue
        path = call.args[1]
        while isinstance(path, ast.Call) and isinstance(path.func, ast.Attribute):
            path = path.func.value
        if isinstance(path, ast.Constant) and call.args[0].value in ("post", "delete"):
            yield f"{str(call.args[0].value).upper()} {re.sub('{[^}]*}', '{id}', str(path.value))}"


def parameters() -> dict[str, set[str]]:
    """Return the names of all parameters of every POST and DELETE, by method and address."""
    found: dict[str, set[str]] = {}
    for file in sorted(_ROOT.rglob("*.py")):
        if "params" in file.relative_to(_ROOT).parts:
            continue
        tree = ast.parse(file.read_text("utf-8"))
        kinds = _imports(tree)
        for function in ast.walk(tree):
            if not isinstance(function, ast.FunctionDef):
                continue
            given = [*function.args.args, *function.args.kwonlyargs, function.args.kwarg]
            said = [
                ast.dump(one.annotation) for one in given if one and one.arg == "params" and one.annotation
            ]
            for line in _sent(function):
                names = found.setdefault(line, set())
                for name in re.findall(r"'(\w+)'", " ".join(said)) + re.findall(r"\"(\w+)\"", " ".join(said)):
                    if name in kinds and kinds[name][1].endswith("Params"):
                        names.update(_names(kinds[name]))
    return found


def listed(address: str) -> dict[str, Marked]:
    """Return what our lists say of an operation, by the normal form of each parameter's name."""
    return {name: line for line in LISTED.marks[address] for name in names_in(line.tree)}


def names_in(tree: Tree, stem: str = "") -> Iterator[str]:
    """Yield the normal forms of all names in a part of our lists."""
    for part, behind in tree.items():
        if not part:
            yield stem
        elif part in ("[]", "[*]"):
            yield from names_in(behind, stem + part)
        else:
            yield from names_in(behind, f"{stem}[{part}]" if stem else part)


def differences() -> tuple[list[str], list[str]]:
    """Return what the SDK can send and our lists have not; and what they have beyond it."""
    sdk = parameters()
    missing, beyond = [], []
    for address in sorted({*sdk, *LISTED.marks}):
        known = set(listed(address)) if address in LISTED.marks else set()
        if address not in LISTED.marks:
            missing.append(address)
        missing += [f"{address} {name}" for name in sorted(sdk.get(address, set()) - known)]
        if address in sdk:
            beyond += [f"{address} {name}" for name in sorted(known - sdk[address])]
        else:
            beyond.append(address)
    return missing, beyond


if __name__ == "__main__":
    for said, lines in zip(("missing", "not in this SDK"), differences(), strict=True):
        print(f"{said}: {len(lines)}", *lines, sep="\n  ")
    print(marking.figures(LISTED))
