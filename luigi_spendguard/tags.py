"""Spend tags: what a run is counted under in reports, as its root or luigi.cfg says."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from luigi_spendguard.redaction import hide


class BadTags(ValueError):
    """What is said are no tags; the message goes behind what says so."""


#: Tags of a run at the most, and characters of a name and of a value.
MAX_TAGS, MAX_TAG_NAME, MAX_TAG_VALUE = 20, 40, 255
_NAME = re.compile(rf"[a-z0-9_]{{1,{MAX_TAG_NAME}}}")
#: What a tag's name is, for people.
TAG_NAMES = f"1 to {MAX_TAG_NAME} characters of a-z, 0-9 and _"


def is_tag_name(text: str) -> bool:
    """Return whether a text may be a tag's name."""
    return bool(_NAME.fullmatch(text))


def tags_in(said: Any) -> dict[str, str]:
    """Return tags by name, their values as texts and without secrets. Raises BadTags, which says why."""
    if not isinstance(said, Mapping):
        raise BadTags(f"must map names to texts, not be a {type(said).__name__}")
    if len(said) > MAX_TAGS:
        raise BadTags(f"has {len(said)} tags and not {MAX_TAGS} at the most")
    return {name: _value(name, value) for name, value in sorted(said.items(), key=lambda one: str(one[0]))}


def _value(name: Any, value: Any) -> str:
    if not isinstance(name, str) or not is_tag_name(name):
        raise BadTags(f"has a tag named {hide(str(name))[:60]!r}: a name is {TAG_NAMES}")
    if not isinstance(value, (str, int)) or isinstance(value, bool):
        raise BadTags(f"has no text for {name}, but a {type(value).__name__}")
    text = str(value).strip()
    if not 0 < len(text) <= MAX_TAG_VALUE or not text.isprintable():
        raise BadTags(f"must give {name} 1 to {MAX_TAG_VALUE} printable characters")
    return hide(text)
