"""What is wrong with a request is told in plain words, whatever is wrong and wherever."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, get_args

import httpx
import pytest
from fastapi import FastAPI
from pydantic import BeforeValidator, StringConstraints, TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError, core_schema

from payment_service import api
from payment_service.validation_messages import one_for_each_value, sentence_of
from tests.api.conftest import create_body, problem_of
from tests.api.test_http import NOWHERE
from tests.api.test_matrix import ROWS
from tests.support.replies import GoodProxy

INTERNALS = re.compile(
    r"(?i)\binput\b|dictionary|instance|\bdict\b|\bstr\b|\bint\b|\bfloat\b|\bbool\b|\bNone\b|tuple|python|decimal\.|"
    r"pydantic|\bclass\b|constrained|function-|\bsys\.|codec|recursion|\[key\]|Field required|<|\^|\bValue error"
)
WRONG: tuple[Any, ...] = (
    None, True, 1.5, -1, 0, 10**30, "", "x" * 600, "?", "\x00", "12", [], [1], {}, {"a": 1}, {"": "x"}, {"x" * 41: "y"},
)  # fmt: skip
SHARP: tuple[Any, ...] = (None, 1.5, "\x00", [1], {"x" * 41: "y"})
TEXTS = ("", "x", "-1", "9" * 40, "x" * 300, "\x00", "1.5")
SHARP_TEXTS = ("x", "9" * 40)
WITH_BODY = sorted(operation for operation, row in ROWS.items() if row.body)


class Anything(dict[str, Any]):
    """A context that has whatever a message wants."""

    def __missing__(self, name: str) -> int:
        return 7


@pytest.mark.parametrize("kind", sorted({*get_args(core_schema.ErrorType)} - {"extra_forbidden"}))
def test_every_kind_of_error_is_told_in_plain_words(kind: str) -> None:
    said = sentence_of({"type": kind, "msg": "Input should be a valid dictionary", "ctx": Anything()})
    assert said
    assert not INTERNALS.search(said)


def test_message_of_our_own_is_told_as_it_is() -> None:
    def refuse(_value: object) -> None:
        raise PydanticCustomError("of_ours", "is {what}", {"what": "wrong"})

    with pytest.raises(ValidationError) as refused:
        TypeAdapter(Annotated[str, BeforeValidator(refuse)]).validate_python("x")
    assert sentence_of(dict(refused.value.errors()[0])) == "is wrong"


def wrong_bodies(good: dict[str, Any], fields: set[str], values: tuple[Any, ...]) -> Iterator[Any]:
    yield from ([], "text", 1, True, None, [good]) if values is WRONG else ([],)
    for value in values:
        yield dict.fromkeys(fields, value)
    yield {**good, "not_a_field": 1}


def fields_of(app: FastAPI, operation: tuple[str, str]) -> set[str]:
    document = app.openapi()
    body = document["paths"][operation[1]][operation[0].lower()]["requestBody"]["content"]["application/json"]["schema"]
    name = body["$ref"].rpartition("/")[2]
    return set(document["components"]["schemas"][name]["properties"])


@pytest.mark.parametrize("values", [SHARP, pytest.param(WRONG, marks=pytest.mark.thorough)], ids=["some", "all"])
@pytest.mark.parametrize("operation", WITH_BODY, ids=" ".join)
async def test_no_wrong_body_is_answered_in_words_of_python(
    operation: tuple[str, str], values: tuple[Any, ...], app: FastAPI, client: httpx.AsyncClient, proxy: GoodProxy
) -> None:
    row = ROWS[operation]
    assert row.body
    method, path = operation[0], row.path(NOWHERE)
    for body in wrong_bodies(row.body(NOWHERE), fields_of(app, operation), values):
        answer = await client.request(method, path, json=body)
        assert answer.status_code < 500, answer.text
        if answer.status_code == 422:
            told = answer.json()
            assert not INTERNALS.search(told["detail"]), told["detail"]
            for one in told["errors"]:
                assert not INTERNALS.search(f"{one['field']}: {one['message']}"), one


@pytest.mark.parametrize(
    "content",
    [
        b"{", b"\xff\xfe{", b'{"a": "\xff"}', b"1" * 5000, b"[" * 30_000, b'{"amount": 1e99999999999999999999}',
        b'{"a": 1, "a": 2}', b"\xef\xbb\xbf{", b'{"a": NaN}', b"{'a': 1}", b'{"a": 1,}',
    ],
    ids=lambda content: repr(content[:30]),
)  # fmt: skip
async def test_body_that_is_no_json_is_told_so_in_plain_words(content: bytes, client: httpx.AsyncClient) -> None:
    headers = {"Content-Type": "application/json"}
    answer = await client.post("/payments/kaspi/create", content=content, headers=headers)
    told = problem_of(answer, 422, "validation_failed")["detail"]
    assert told.startswith("body: ")
    assert not INTERNALS.search(told), told


PATTERNS = {
    r"^[!-~]{8,128}$": "must be 8 to 128 visible ASCII characters",
    r"^[!-~]{1,64}$": "must be 1 to 64 visible ASCII characters",
    r"^[A-Za-z0-9_-]{1,50}$": "must be 1 to 50 Latin letters, digits, _ and -",
    r"^[a-z0-9_-]{1,20}$": "must be 1 to 20 small Latin letters, digits, _ and -",
    r"^[A-Za-z0-9]{1,8}$": "must be 1 to 8 Latin letters and digits",
    r"^[0-9]{4}$": "must be 4 digits",
}


@pytest.mark.parametrize("pattern", PATTERNS)
def test_pattern_is_told_in_words(pattern: str) -> None:
    with pytest.raises(ValidationError) as refused:
        TypeAdapter(Annotated[str, StringConstraints(pattern=pattern)]).validate_python("ё")
    assert sentence_of(dict(refused.value.errors()[0])) == PATTERNS[pattern]


def test_every_pattern_is_tried() -> None:
    code = "".join(file.read_text("utf-8") for file in Path(api.__file__).parent.glob("*.py"))
    assert set(re.findall(r'(?:pattern=|_PATTERN = )r"([^"]+)"', code)) == PATTERNS.keys()


async def test_idempotency_key_of_another_form_is_told_what_it_may_be(client: httpx.AsyncClient) -> None:
    answer = await client.post("/payments/kaspi/create", json=create_body(), headers={"Idempotency-Key": "short"})
    told = problem_of(answer, 422, "validation_failed")["detail"]
    assert told == "Idempotency-Key: must be 8 to 128 visible ASCII characters."


@pytest.mark.parametrize("values", [SHARP_TEXTS, pytest.param(TEXTS, marks=pytest.mark.thorough)], ids=["some", "all"])
@pytest.mark.parametrize("path", sorted({path for method, path in ROWS if method == "GET"}))
async def test_no_wrong_query_is_answered_in_words_of_python(
    path: str, values: tuple[str, ...], app: FastAPI, client: httpx.AsyncClient, proxy: GoodProxy
) -> None:
    address = ROWS["GET", path].path(NOWHERE).partition("?")[0]
    for parameter in app.openapi()["paths"][path]["get"].get("parameters", []):
        for value in values:
            where = {"query": "params", "header": "headers"}.get(parameter["in"])
            if where == "params":
                answer = await client.get(address, params={parameter["name"]: value})
            elif where == "headers":
                answer = await client.get(address, headers={parameter["name"]: value.strip("\x00")})
            else:
                if "/" in value or not value:
                    continue
                answer = await client.get(re.sub(r"\{" + parameter["name"] + r"\}", value.replace("\x00", "%00"), path))
            if answer.status_code == 422:
                for one in answer.json()["errors"]:
                    assert not INTERNALS.search(f"{one['field']}: {one['message']}"), one


def test_value_of_none_of_several_kinds_is_told_once() -> None:
    with pytest.raises(ValidationError) as refused:
        TypeAdapter(dict[str, int | float | str]).validate_python({"sent": [], "size": 1})
    [told] = one_for_each_value([dict(one) for one in refused.value.errors()])
    assert (told["loc"], told["msg"]) == (("sent",), "must be a whole number or a number or a text")


def test_entries_that_are_named_like_kinds_stay_apart() -> None:
    with pytest.raises(ValidationError) as refused:
        TypeAdapter(dict[str, str]).validate_python({"int": 1, "str": 2})
    told = one_for_each_value([dict(one) for one in refused.value.errors()])
    assert [one["loc"] for one in told] == [("int",), ("str",)]


async def test_name_of_an_entry_is_told_apart_from_its_value(client: httpx.AsyncClient) -> None:
    body = {"shop_id": 8, "amount": 1, "metadata": {"k" * 41: "a", "long": "x" * 501}}
    answer = await client.post("/payments/kaspi/create-link", json=body)
    assert {one["field"]: one["message"] for one in answer.json()["errors"]} == {
        f"metadata.{'k' * 41}": "the name must have at most 40 characters",
        "metadata.long": "must have at most 500 characters",
    }
