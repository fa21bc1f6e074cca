"""What the installed Twilio SDK can send: every POST, PUT, PATCH and DELETE, and its parameters' names.

They are read from the SDK's source, of which nothing is executed: its classes keep an address in `_uri`, and
their helpers fill `data` and `params` with the parameters' names on the wire. A body in JSON is a class with
a `to_dict`, whose fields may be such classes again.

    python -m tests.support.twilio_sdk

says what `vendors/twilio/parameters.txt` does not have.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import twilio.rest

from luigi_spendguard.vendors.twilio.operations import LISTED
from tests.support import marking

_ROOT = Path(twilio.rest.__file__).parent
_WRITES = ("POST", "PUT", "PATCH", "DELETE")


@dataclass(frozen=True)
class Operation:
    """An operation's address (`POST api /2010-04-01/Accounts/{id}/Messages`) and its parameters' terms."""

    address: str
    terms: tuple[str, ...]
    json: bool = False
    headers: tuple[str, ...] = ()


@cache
def operations() -> list[Operation]:
    """Return every operation that writes, by its address."""
    found: dict[str, Operation] = {}
    for module in sorted(_ROOT.glob("*/*/**/*.py")):
        product, version = module.relative_to(_ROOT).parts[:2]
        place = f"{_product(product)} /{_version(_ROOT / product / version)}"
        for operation in _of_module(ast.parse(module.read_text("utf-8")), place):
            known = found.get(operation.address, operation)
            terms = tuple(sorted({*known.terms, *operation.terms}))
            found[operation.address] = replace(known, terms=terms)
    return [found[address] for address in sorted(found)]


def _product(folder: str) -> str:
    """Return the first part of a product's host."""
    base = next((_ROOT / folder).glob("*Base.py")).read_text("utf-8")
    host = re.search(r'"https://([a-z0-9-]+)\.twilio\.com"', base)
    assert host, folder
    return host[1]


def _version(folder: Path) -> str:
    said = re.search(r'super\(\)\.__init__\(domain, "([^"]+)"\)', (folder / "__init__.py").read_text("utf-8"))
    assert said, folder
    return said[1]


def _of_module(module: ast.Module, place: str) -> Iterator[Operation]:
    classes = {node.name: node for node in ast.walk(module) if isinstance(node, ast.ClassDef)}
    for node in (one for one in module.body if isinstance(one, ast.ClassDef)):
        methods = {part.name: part for part in node.body if isinstance(part, ast.FunctionDef)}
        made = ast.walk(methods["__init__"]) if "__init__" in methods else ()
        uri = next((_text(one.value) for one in made if _assigns(one, "_uri")), None)
        if uri is None:
            continue
        for method in (one for name, one in methods.items() if re.match("_[a-z]", name)):
            verb = next((word for call in _calls(method) if (word := _verb(call))), "")
            if verb in _WRITES:
                yield _operation(f"{verb} {place}{_plain(uri)}", method, classes)


def _plain(uri: str) -> str:
    """Return a path with `{id}` for every id, and without its format."""
    return re.sub(r"\{\w+\}", "{id}", uri).removesuffix(".json").rstrip("/")


def _operation(address: str, method: ast.FunctionDef, classes: dict[str, ast.ClassDef]) -> Operation:
    terms: list[str] = []
    headers: list[str] = []
    json = False
    for node in ast.walk(method):
        for name, into in (("data", terms), ("params", terms), ("headers", headers)):
            if _assigns(node, name):
                into.extend(_keys(node.value))
        if _assigns(node, "data") and (body := _body(node.value, method, classes)):
            json = True
            terms += _fields(body, classes, ())
    own = {name for name in headers if name not in ("Content-Type", "Accept")}
    return Operation(address, tuple(sorted(set(terms))), json, tuple(sorted(own)))


def _assigns(node: ast.AST, name: str) -> bool:
    """Return whether a statement assigns to a variable or an attribute of that name."""
    targets = node.targets if isinstance(node, ast.Assign) else []
    return any(getattr(target, "id", getattr(target, "attr", None)) == name for target in targets)


def _calls(node: ast.AST) -> Iterator[ast.Call]:
    return (one for one in ast.walk(node) if isinstance(one, ast.Call))


def _verb(call: ast.Call) -> str:
    return next((_text(one.value) or "" for one in call.keywords if one.arg == "method"), "")


def _text(node: ast.expr) -> str | None:
    """Return a text, or the text that is formatted."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        node = node.func.value
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def _keys(node: ast.expr) -> list[str]:
    """Return the names in `values.of({...})`; of what is sent once for each of several, `name[]`."""
    found = []
    for one in ast.walk(node):
        if isinstance(one, ast.Dict):
            for key, value in zip(one.keys, one.values, strict=True):
                many = isinstance(value, ast.Call) and getattr(value.func, "attr", "") == "map"
                if isinstance(key, ast.Constant):
                    found.append(f"{key.value}[]" if many else str(key.value))
        if isinstance(one, ast.Call) and getattr(one.func, "attr", "") == "prefixed_collapsible_map":
            found.append(f"{_text(one.args[1])}[*]")
    return found


def _body(node: ast.expr, method: ast.FunctionDef, classes: dict[str, ast.ClassDef]) -> ast.ClassDef | None:
    """Return the class of a body in JSON: the annotation of the argument whose `to_dict()` is sent."""
    if not (isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "to_dict"):
        return None
    name = getattr(getattr(node.func, "value", None), "id", "")
    every = [*method.args.args, *method.args.kwonlyargs]
    said = next(ast.unparse(arg.annotation) for arg in every if arg.arg == name and arg.annotation)
    found = [classes[word] for word in re.findall(r"\w+", said) if _is_body(classes.get(word))]
    return found[-1] if found else None  # "object": whatever it is, the SDK does not name it.


def _is_body(node: ast.ClassDef | None) -> bool:
    return node is not None and any(getattr(part, "name", "") == "to_dict" for part in node.body)


def _fields(body: ast.ClassDef, classes: dict[str, ast.ClassDef], above: tuple[str, ...]) -> list[str]:
    """Return the terms of a class: a group `name{…}`, a list `name[]`, keys of the caller's `name[*]`."""
    kinds: dict[str, str] = {}
    for node in ast.walk(body):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Attribute):
            kinds[node.target.attr] = ast.unparse(node.annotation)
    found = []
    for name, attribute in _sent(body):
        kind = kinds.get(attribute, "")
        inner = next((word for word in re.findall(r"\w+", kind) if _is_body(classes.get(word))), "")
        many = "[]" if "List[" in kind else "[*]" if re.search(r"\bDict\[|\bobject\b", kind) else ""
        if inner and inner not in above:
            terms = " ".join(sorted(set(_fields(classes[inner], classes, (*above, inner)))))
            found.append(f"{name}{many}{{{terms}}}" if terms else f"{name}{many}")
        else:
            found.append(f"{name}{many}")
    return found


def _sent(body: ast.ClassDef) -> Iterator[tuple[str, str]]:
    """Yield the names that `to_dict` sends, and the attribute that each comes from."""
    made = next(part for part in body.body if getattr(part, "name", "") == "to_dict")
    for node in ast.walk(made):
        if isinstance(node, ast.Return) and isinstance(node.value, ast.Dict):
            for key, value in zip(node.value.keys, node.value.values, strict=True):
                own = [
                    one.attr
                    for one in ast.walk(value)
                    if isinstance(one, ast.Attribute) and getattr(one.value, "id", "") == "self"
                ]
                if isinstance(key, ast.Constant):
                    yield str(key.value), own[0] if own else ""


def described() -> dict[str, list[str]]:
    """Return what Twilio's own description (trimmed) has, by the lists' addresses."""
    hosts = json.loads((marking.DATA / "twilio-trimmed.openapi.json").read_text("utf-8"))["paths"]
    products = {
        re.sub(r"\{\w+\}", "{id}", path).removesuffix(".json"): said["x-twilio-host"].split(".")[0][8:]
        for path, said in hosts.items()
    }
    found = marking.described("twilio-trimmed.openapi.json")
    return {
        f"{method} {products[path]} {path}": terms
        for (method, path), terms in ((address.split(" "), terms) for address, terms in found.items())
    }


def unmarked() -> list[str]:
    """Return what the lists do not have."""
    own = {one.address: one.terms for one in operations()}
    # Its description, which names no list, has `MediaUrl` where the SDK sends `MediaUrl` several times.
    lists = {
        f"{address} {term[:-2]}" for address, terms in own.items() for term in terms if term[-2:] == "[]"
    }
    more = {
        address: [f"{term}[]" if f"{address} {term}" in lists else term for term in terms]
        for address, terms in described().items()
    }
    return marking.unmarked(LISTED, own) + marking.unmarked(LISTED, more)


if __name__ == "__main__":
    print("\n\n".join(unmarked()) or "Everything is marked.")
