"""The Bruno collection asks what the API has, in the words of the API."""

import json
from urllib.parse import parse_qsl, urlsplit

import pytest

from tests.api.truth import Truth
from tests.support.bruno import COLLECTION, Request, blocks, filled, pairs, requests
from tests.support.documents import ROOT

REQUESTS = requests()
VARIABLES = {
    **pairs(blocks((COLLECTION / "environments" / "development.bru").read_text())["vars"]),
    **{name: "1" for request in REQUESTS for name in request.remembers},
    "run": "r",
}


@pytest.fixture(scope="module")
def document() -> Truth:
    return Truth(json.loads((ROOT / "docs" / "openapi.json").read_text("utf-8")))


def test_requests_are_numbered_as_their_files_are() -> None:
    names = sorted(file.stem for file in COLLECTION.glob("[0-9]*.bru"))
    assert names == [f"{request.seq:02} {request.name}" for request in REQUESTS]


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda request: request.name)
def test_request_is_one_of_the_api(request_: Request, document: Truth) -> None:
    address = urlsplit(filled(request_.url, VARIABLES))
    operation = document.operation(request_.method, address.path)
    assert operation is not None
    known = {one["name"]: one["in"] for one in operation.get("parameters", [])}
    assert {name for name, _ in parse_qsl(address.query)} <= {name for name, where in known.items() if where == "query"}
    assert request_.headers.keys() <= {name for name, where in known.items() if where == "header"}
    assert str(request_.expected["status"]) in operation["responses"]
    if request_.body is not None:
        schema = operation["requestBody"]["content"]["application/json"]["schema"]
        document.validator(schema).validate(json.loads(filled(request_.body, VARIABLES)))


def test_every_call_that_moves_money_carries_a_key_of_its_own() -> None:
    keys = [request.headers["Idempotency-Key"] for request in REQUESTS if request.method == "POST"]
    assert len(set(keys)) == len(keys) > 5
