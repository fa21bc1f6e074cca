"""What a vendor's list of parameters does not have of what its SDK, or its own description, can send."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from luigi_spendguard.vendors.parameters import Name, Parameters, Tree, takes, tree_of

DATA = Path(__file__).resolve().parents[1] / "integration" / "data"
_WRITES = ("post", "put", "patch", "delete")


def unmarked(listed: Parameters, said: Mapping[str, Iterable[str]]) -> list[str]:
    """Return, as lines of a list to be marked, what of operations and their terms is not in it."""
    found = []
    for address, terms in said.items():
        every = sorted(set(terms))
        if address not in listed.marks:
            found.append(f"{address}\n? {' '.join(every)}")
            continue
        trees = [line.tree for line in listed.marks[address]]
        known = {
            term: all(any(takes(tree, leaf) for tree in trees) for leaf in _leaves(tree_of(term)))
            for term in every
        }
        new = [term for term in every if not known[term]]
        if new:
            found.append(f"{address}\n? {' '.join(new)}")
    return found


def _leaves(tree: Tree, above: Name = ()) -> Iterator[Name]:
    for name, inner in tree.items():
        if name == "":
            yield above
        else:
            yield from _leaves(inner, (*above, {"[]": "", "[*]": "any_key"}.get(name, name)))


def figures(listed: Parameters) -> str:
    """Return how many parameters have which mark."""
    counts = Counter(
        line.mark for lines in listed.marks.values() for line in lines for _ in _leaves(line.tree)
    )
    return (
        f"{len(listed.marks)} operations have {counts.total():,} parameters: {counts['+']:,} feed a price, "
        f"{counts['.']:,} are harmless, {counts['=']:,} at some of their values, {counts['-']:,} are refused."
    )


def described(file: str) -> dict[str, list[str]]:
    """Return the terms of every operation of a description (OpenAPI) that writes, by method and path."""
    whole = json.loads((DATA / file).read_text("utf-8"))
    found: dict[str, list[str]] = {}
    for path, methods in whole["paths"].items():
        for method, operation in methods.items():
            if method in _WRITES:
                content = operation.get("requestBody", {}).get("content", {}).values()
                terms = {term for kind in content for term in _terms(kind["schema"], whole)}
                plain = re.sub(r"\{\w+\}", "{id}", path).removesuffix(".json")
                found[f"{method.upper()} {plain}"] = sorted(terms)
    return found


def _terms(schema: Any, whole: Any) -> list[str]:
    """Return the terms of an object's fields, or of those of a list's objects."""
    schema = _meant(schema, whole)
    if schema.get("type") == "array":
        return _terms(schema["items"], whole)
    found = []
    for name, field in schema.get("properties", {}).items():
        one = _meant(field, whole)
        many, inner = "", one
        if one.get("type") == "array":
            many, inner = "[]", _meant(one["items"], whole)
        group = " ".join(_terms(inner, whole)) if inner.get("properties") else ""
        keys = "" if group or inner.get("type") != "object" else "[*]"
        found.append(f"{name}{many}{keys}" + (f"{{{group}}}" if group else ""))
    return sorted(set(found))


def _meant(schema: Any, whole: Any) -> Any:
    while "$ref" in schema:
        place = whole
        for part in schema["$ref"].removeprefix("#/").split("/"):
            place = place[part]
        schema = place
    for several in ("allOf", "oneOf", "anyOf"):
        if several in schema:
            parts = [_meant(one, whole) for one in schema[several]]
            fields = {name: field for part in parts for name, field in part.get("properties", {}).items()}
            return {"type": parts[0].get("type"), **schema, "properties": fields} if fields else parts[0]
    return schema
