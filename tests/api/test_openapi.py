"""The document tells the truth: examples fit their schemas, and made-up requests get declared answers."""

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from payment_service.payments.lifecycle import State
from tests.api.conftest import GoodProxy
from tests.api.truth import Truth


def schemas_of(node: Any, at: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every schema of the document, with where it stands."""
    if isinstance(node, list):
        for number, child in enumerate(node):
            yield from schemas_of(child, f"{at}/{number}")
    elif isinstance(node, dict):
        if {"type", "anyOf", "$ref", "allOf"} & set(node) and not at.endswith(("/properties", "/securitySchemes")):
            yield at, node
        for name, child in node.items():
            if name not in {"example", "examples", "default"}:
                yield from schemas_of(child, f"{at}/{name}")


def test_examples_and_defaults_fit_their_schemas(app: FastAPI) -> None:
    truth = Truth.of(app)
    checked = 0
    for where, schema in schemas_of(truth.document):
        if "securitySchemes" in where:
            continue
        given_values = [*schema.get("examples", []), *([schema["default"]] if "default" in schema else [])]
        bare = {name: value for name, value in schema.items() if name not in {"examples", "default"}}
        for value in given_values:
            assert truth.validator(bare).is_valid(value), (where, value)
            checked += 1
    assert checked > 20


def test_every_reference_leads_somewhere(app: FastAPI) -> None:
    document = Truth.of(app).document
    references = {schema["$ref"] for _, schema in schemas_of(document) if "$ref" in schema}
    assert references
    for reference in references:
        target: Any = document
        for part in reference.removeprefix("#/").split("/"):
            target = target[part]


def test_every_operation_is_explained(app: FastAPI) -> None:
    ids = []
    for path, methods in Truth.of(app).document["paths"].items():
        for method, operation in methods.items():
            assert operation["summary"], (method, path)
            assert path in {"/metrics"} or operation["description"].endswith("."), (method, path)
            ids.append(operation["operationId"])
            for status, answer in operation["responses"].items():
                assert answer["description"], (method, path, status)
                if int(status) >= 400 and path != "/health/ready":
                    assert list(answer["content"]) == ["application/problem+json"], (method, path, status)
    assert len(set(ids)) == len(ids)


def test_states_are_those_of_the_life_of_a_payment(app: FastAPI) -> None:
    assert Truth.of(app).document["components"]["schemas"]["State"]["enum"] == list(State)


def test_document_is_the_same_when_it_is_asked_for_twice(app: FastAPI) -> None:
    assert app.openapi() == app.openapi()


EXAMPLES_PER_OPERATION = 15


async def test_made_up_requests_get_declared_answers(
    app: FastAPI, client: httpx.AsyncClient, shops: dict[int, str], proxy: GoodProxy
) -> None:
    loop = asyncio.get_running_loop()
    document = schemathesis.openapi.from_dict(app.openapi())
    document.config.update(base_url="http://service")
    failed: list[str] = []

    def try_operation(operation: Any) -> None:
        @given(data=st.data())
        @settings(
            max_examples=EXAMPLES_PER_OPERATION,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        )
        def made_up(data: st.DataObject) -> None:
            mode = data.draw(st.sampled_from(list(schemathesis.GenerationMode)))
            case = data.draw(operation.as_strategy(generation_mode=mode))
            sent = case.as_transport_kwargs(base_url="http://service")
            sent.pop("cookies", None)
            answer = asyncio.run_coroutine_threadsafe(ask(client, sent), loop).result(30)
            answer.elapsed = None
            case.validate_response(answer)

        try:
            made_up()
        except Exception as error:  # noqa: BLE001 - all operations are tried before any is told of
            failed.append(f"{operation.label}: {error!r}"[:3000])

    for found in document.get_all_operations():
        await asyncio.to_thread(try_operation, found.ok())
    assert not failed, "\n\n".join(failed)


async def ask(client: httpx.AsyncClient, sent: dict[str, Any]) -> httpx.Response:
    return await client.request(**sent)
