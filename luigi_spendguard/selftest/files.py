"""Writes a luigi.cfg or luigi.toml of its own for the self-test, in the format of the user's."""

from __future__ import annotations

import configparser
import io
import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

#: section -> key -> value, as a file has them.
Content = dict[str, dict[str, Any]]


def written(kind: str, content: Content) -> str:
    """Return the text of a file of a kind (`ini` or `toml`)."""
    return _toml(content) if kind == "toml" else _ini(content)


def _ini(content: Content) -> str:
    parser = configparser.RawConfigParser(default_section="")
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # families keep their case
    parser.read_dict(content)
    text = io.StringIO()
    parser.write(text)
    return text.getvalue()


def _toml(content: Content) -> str:
    lines = []
    for section, values in content.items():
        lines.append(f"[{_text(section)}]")
        lines += [f"{_text(key)} = {_value(value)}" for key, value in values.items()]
    return "\n".join([*lines, ""])


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_text(key)} = {_value(one)}" for key, one in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_value(one) for one in value) + "]"
    return _text(str(value))


def _text(text: str) -> str:
    # JSON's escapes are TOML's, but for the one character that JSON lets stand.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
