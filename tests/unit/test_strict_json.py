"""JSON is read by one strict reader, for vendors' requests and for our own routes."""

from __future__ import annotations

import ast

import pytest

from luigi_spendguard.strict_json import NotStrict, read
from tests.support.processes import REPOSITORY

PACKAGES = [REPOSITORY / name for name in ("luigi_spendguard", "scheduler_patch")]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"to": 1, "to": 2}', "'to' is given twice"),
        ('{"to": 1, "t\\u006f": 2}', "'to' is given twice"),
        ('[{"a": {"to": 1, "to": 2}}]', "given twice"),
        ('{"a": NaN}', "NaN is no"),
        ("-Infinity", "no JSON"),
        ('{"a": 1e400}', "every reader"),
        ("9007199254740992", "every reader"),
        ("9" * 5000, "every reader"),
        ('"\\ud800"', "surrogate"),
        ('{"\\udc00": 1}', "surrogate"),
        ('{"a\\u0000": 1}', "NUL"),
    ],
)
def test_what_parsers_read_differently_is_refused_and_said(text: str, why: str) -> None:
    for any_case in (False, True):
        with pytest.raises(NotStrict, match=why):
            read(text.encode(), any_case=any_case)


@pytest.mark.parametrize(
    "data", [b"", b"{", b"\xff", b"\xef\xbb\xbf{}", "{}".encode("utf-16"), b"[" * 100_000]
)
def test_what_is_no_json_in_utf_8_is_an_error(data: bytes) -> None:
    with pytest.raises((ValueError, RecursionError)):
        read(data)


def test_names_that_differ_in_case_are_two_for_us_and_one_for_a_vendor() -> None:
    text = b'{"size": "1", "Size": "2"}'
    assert read(text) == {"size": "1", "Size": "2"}
    with pytest.raises(NotStrict, match="given twice"):
        read(text, any_case=True)


def test_no_other_module_has_a_reader_with_rules_of_its_own() -> None:
    others = [
        path.name
        for package in PACKAGES
        for path in sorted(package.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.keyword) and node.arg in ("object_pairs_hook", "parse_constant")
    ]
    assert set(others) == {"strict_json.py"}
