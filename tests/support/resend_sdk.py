"""What the installed Resend SDK can send: every POST, PUT, PATCH and DELETE, and its parameters' names.

Its methods name the verb and the path in their source, and their arguments' classes (TypedDicts) the fields.
Resend's own description has some more of both.

    python -m tests.support.resend_sdk

says what `vendors/resend/parameters.txt` does not have.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
import textwrap
import typing
from collections.abc import Iterator
from typing import Any

import resend
from typing_extensions import get_type_hints, is_typeddict

from luigi_spendguard.vendors.resend.operations import LISTED
from tests.support import marking

_WRITES = ("post", "put", "patch", "delete")


def operations() -> dict[str, tuple[str, ...]]:
    """Return the terms of every operation that writes, by its address, as `POST /emails/{id}/cancel`."""
    found: dict[str, set[str]] = {}
    for owner, method in _methods():
        tree = ast.parse(textwrap.dedent(inspect.getsource(method)))
        verbs = {_literal(word.value) for word in _keywords(tree, "verb")} & set(_WRITES)
        for verb in verbs:
            for path in _paths(tree):
                # What is deleted stands in the path: no DELETE has a body.
                terms = () if verb == "delete" else _terms_of(owner, method)
                found.setdefault(f"{verb.upper()} {path}", set()).update(terms)
    return {address: tuple(sorted(terms)) for address, terms in sorted(found.items())}


def _methods() -> Iterator[tuple[type, Any]]:
    seen = set()
    for info in pkgutil.walk_packages(resend.__path__, "resend."):
        module = importlib.import_module(info.name)
        for owner in (one for one in vars(module).values() if inspect.isclass(one)):
            if owner.__module__ == module.__name__ and owner not in seen:
                seen.add(owner)
                for name, one in vars(owner).items():
                    if isinstance(one, classmethod) and not name.endswith("_async"):
                        yield owner, one.__func__


def _keywords(tree: ast.AST, name: str) -> Iterator[ast.keyword]:
    return (one for one in ast.walk(tree) if isinstance(one, ast.keyword) and one.arg == name)


def _literal(node: ast.expr) -> str:
    return str(node.value) if isinstance(node, ast.Constant) else ""


def _paths(tree: ast.AST) -> set[str]:
    """Return the paths that a method may call, `{id}` for each part of them that is computed."""
    said = [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") in ("path", "base_path")
    ]
    said += [word.value for word in _keywords(tree, "path")]
    return {path for path in map(_path, said) if path.startswith("/")}


def _path(node: ast.expr) -> str:
    if isinstance(node, ast.JoinedStr):
        return "".join(map(_path, node.values))
    if isinstance(node, ast.FormattedValue):
        return _path(node.value)
    if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "inbox_path":
        return "/inboxes/{id}"
    return str(node.value) if isinstance(node, ast.Constant) else "{id}"


def _terms_of(owner: type, method: Any) -> Iterator[str]:
    hints = get_type_hints(method, vars(importlib.import_module(owner.__module__)), dict(vars(owner)))
    for name, kind in hints.items():
        if name not in ("return", "options"):
            for _, inner in _shapes(kind):
                if inner is not None:
                    yield from _fields(inner, ())


def _fields(kind: Any, above: tuple[Any, ...]) -> list[str]:
    """Return the terms of a TypedDict: a group `name{…}`, a list `name[]`, keys of the caller's `name[*]`."""
    found = []
    hints = get_type_hints(kind, vars(importlib.import_module(kind.__module__)))
    for name, hint in hints.items():
        shapes = set(_shapes(hint))
        for many, inner in sorted(shapes, key=str):
            deeper = inner is not None and inner not in above
            terms = " ".join(sorted(_fields(inner, (*above, inner)))) if deeper else ""
            found.append(f"{name}{many}{{{terms}}}" if terms else f"{name}{many}")
    return sorted(set(found))


def _shapes(hint: Any) -> Iterator[tuple[str, Any]]:
    """Yield what may stand behind a name: "", `[]` or `[*]`, and a TypedDict's class or None."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if is_typeddict(hint):
        yield "", hint
    elif origin is list:
        yield from ((f"[]{many}", inner) for many, inner in _shapes(args[0]))
    elif origin is dict or hint is dict:
        yield "[*]", None
    elif origin is typing.Union or re.search(r"UnionType", str(type(hint))):
        for one in args:
            if one is not type(None):
                yield from _shapes(one)
    else:
        yield "", None


def unmarked() -> list[str]:
    """Return what the lists do not have of the SDK, and of Resend's own description."""
    described = marking.described("resend.openapi.json")
    return marking.unmarked(LISTED, operations()) + marking.unmarked(LISTED, described)


if __name__ == "__main__":
    print("\n\n".join(unmarked()) or "Everything is marked.")
