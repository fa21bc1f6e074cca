"""The OpenAPI description is that of the routes there are, and is well-formed."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openapi_spec_validator import validate

from scheduler_patch.api import ROUTES, openapi
from scheduler_patch.api.handler import MAX_ANYBODYS, MAX_REQUEST
from tests.support import asking


@pytest.fixture(scope="module")
def served() -> dict[str, set[str]]:
    return {path: set(operations) for path, operations in ROUTES}


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return openapi.document(dict(ROUTES))


def test_it_is_valid_and_json(document: dict[str, Any]) -> None:
    validate(json.loads(json.dumps(document)))


def test_it_names_every_route_with_its_methods(document: dict[str, Any], served: dict[str, set[str]]) -> None:
    described = {path: {method.upper() for method in said} for path, said in document["paths"].items()}
    relayed = {path for path in described if path.endswith("/{path}")}
    assert {path: said for path, said in described.items() if path not in relayed} == served


def test_every_body_says_how_long_it_may_be(document: dict[str, Any]) -> None:
    for path, most in (("/api/task_costs", MAX_ANYBODYS), ("/api/spend_claim", MAX_REQUEST)):
        said = document["paths"][path]["post"]["requestBody"]["description"]
        assert str(most) in said.split()


@pytest.mark.parametrize("route", [name for name, said in asking.ROUTES.items() if said[3] is not None])
def test_a_good_body_is_one_that_is_described(document: dict[str, Any], route: str) -> None:
    method, path, _, body = asking.ROUTES[route]
    path = path.replace("{run}", "{run_id}").replace("{doubt}", "{id}")
    said = document["paths"][path][method.lower()]["requestBody"]["content"]["application/json"]["schema"]
    fields = [set(one["properties"]) for one in said.get("oneOf", [said])]
    assert any(set(body) <= names for names in fields), (body, fields)
